"""What any proposer must hold to. Subclass, override the fixture, and pytest does the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from nightlab.proposer import Context, Proposer
from nightlab.values import Experiment, Proposal, Status
from nightlab.workspace import is_plain

SOURCE = """\
RATE = 0.1
WIDTH = 64


def score(rate=0.5):
    return (RATE - 0.3) ** 2 + (rate - 0.2) ** 2 + WIDTH / 1000


print("score:", score())
"""


class ProposerContract:
    """Tests that any proposer passes. Override `proposer` to return a fresh one each time."""

    @pytest.fixture
    def proposer(self) -> Proposer:
        """A new proposer."""
        raise NotImplementedError("override the fixture `proposer`")

    @pytest.fixture
    def files(self) -> Mapping[str, str]:
        """The editable files it is shown."""
        return {"train.py": SOURCE}

    def context(self, files: Mapping[str, str], number: int = 0) -> Context:
        """What it is told at the start of a study."""
        return Context(files=files, metric="score", direction="lower", number=number, seed=1, value=1.0, sigma=0.01)

    def ask(self, proposer: Proposer, files: Mapping[str, str], number: int = 0) -> Proposal | None:
        """One idea."""
        return proposer.propose(self.context(files, number))

    def test_it_is_a_proposer_with_a_name(self, proposer: Proposer) -> None:
        """The loop knows proposers by their names."""
        assert isinstance(proposer, Proposer)
        assert proposer.name

    def test_an_idea_says_why_and_stays_inside_the_tree(self, proposer: Proposer, files: Mapping[str, str]) -> None:
        """A hypothesis in words, plain paths, facts that JSON can hold."""
        for number in range(10):
            if (idea := self.ask(proposer, files, number)) is not None:
                assert idea.hypothesis.strip()
                assert all(is_plain(path) for path in idea.files)
                json.dumps(dict(idea.facts), allow_nan=False)

    def test_it_does_not_change_what_it_was_shown(self, proposer: Proposer, files: Mapping[str, str]) -> None:
        """The context is the lab's."""
        before = dict(files)
        self.ask(proposer, files)
        assert dict(files) == before

    def test_every_kind_of_ending_teaches_without_an_error(self, proposer: Proposer, files: Mapping[str, str]) -> None:
        """Failures have no value, and none may be assumed."""
        for number, status in enumerate(Status, start=1):
            value = 1.0 if status in (Status.KEPT, Status.DISCARDED, Status.SHELVED) else None
            gain = None if value is None else 0.0
            proposer.learn(Experiment(number, 0, status, "an idea", "somebody", value=value, gain=gain, runs=1))
        self.ask(proposer, files, 20)

    def test_it_does_not_repeat_what_was_tried(self, proposer: Proposer, files: Mapping[str, str]) -> None:
        """When everything was tried it has no idea, or makes no change (an A/A run)."""
        idea = proposer.propose(replace(self.context(files), was_tried=lambda _: True))
        assert idea is None or not idea.files
