"""The asked arm: it searches what others asked for, within the bounds they gave, and not for ever."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightlab.proposer import Context, Proposer
from nightlab.tuner import space
from nightlab.tuner.asked import TRIALS, Asked, spaces
from nightlab.values import Experiment, Files, Proposal, Status

TEXT = """\
LEARNING_RATE = 0.001
WIDTH = 64
DROPOUT = 0.0
USE_BIAS = True


def train(steps=100, rate=0.5):
    return steps * rate
"""
RATE = {"path": "a.py", "name": "LEARNING_RATE", "low": 1e-4, "high": 1e-2, "scale": "log"}


def asked_for(*rows: dict[str, Any], why: str = "never searched", who: str = "claude") -> list[dict[str, Any]]:
    return [{"hypothesis": why, "proposer": who, **row} for row in rows]


def context(rows: Sequence[dict[str, Any]], number: int = 0, text: str = TEXT, **more: Any) -> Context:
    return replace(Context({"a.py": text}, "loss", "lower", number, 1, value=1.0, spaces=rows), **more)


def experiment(number: int, proposal: Proposal, value: float | None = 1.0) -> Experiment:
    status = Status.CRASHED if value is None else Status.DISCARDED
    return Experiment(number, 0, status, proposal.hypothesis, Asked.name, value=value, facts=proposal.facts)


def proposals(rows: Sequence[dict[str, Any]], text: str = TEXT) -> list[Proposal]:
    """All it proposes until it has nothing left."""
    arm, found = Asked(), list[Proposal]()

    def was_tried(files: Files) -> bool:
        return any(one.files == files for one in found)

    while (proposal := arm.propose(context(rows, len(found), text, was_tried=was_tried))) is not None:
        arm.learn(experiment(len(found) + 1, proposal))
        found.append(proposal)
        assert len(found) < 100
    return found


def turned(proposal: Proposal, key: str) -> Any:
    return proposal.facts["turned"][key][1]


def test_without_a_space_it_has_no_idea() -> None:
    assert isinstance(Asked(), Proposer)
    assert Asked().propose(context([])) is None


def test_a_space_is_searched_within_its_bounds_and_not_for_ever() -> None:
    found = proposals(asked_for(RATE))

    values = [turned(one, "a.py:LEARNING_RATE") for one in found]
    assert len(found) == TRIALS
    assert all(1e-4 <= value <= 1e-2 for value in values)
    assert len(set(values)) == TRIALS
    assert found[0].hypothesis == f"search space of claude: LEARNING_RATE to {values[0]}"
    assert found[0].files == space.turned({"a.py": TEXT}, {"a.py:LEARNING_RATE": values[0]})
    assert found[0].facts["constants"] == space.constants({"a.py": str(found[0].files["a.py"])})
    json.dumps(dict(found[0].facts), allow_nan=False)


def test_failures_count_as_trials_too() -> None:
    arm = Asked()
    for number in range(TRIALS):
        proposal = arm.propose(context(asked_for(RATE), number))
        assert proposal is not None
        arm.learn(experiment(number + 1, proposal, None))

    assert arm.propose(context(asked_for(RATE), TRIALS)) is None


def test_the_newest_space_comes_first_and_then_the_older_one() -> None:
    older, newer = (
        asked_for(RATE),
        asked_for({**RATE, "name": "WIDTH", "low": 8, "high": 512}, why="wider", who="codex"),
    )

    found = proposals([*older, *newer])

    assert [next(iter(one.facts["turned"])) for one in found] == ["a.py:WIDTH"] * 8 + ["a.py:LEARNING_RATE"] * 8
    assert found[0].hypothesis.startswith("search space of codex: WIDTH to ")


def test_numbers_that_were_asked_for_together_are_turned_together() -> None:
    rows = asked_for(RATE, {"path": "a.py", "name": "WIDTH", "low": 8, "high": 512, "scale": "log"})

    found = proposals(rows)

    assert spaces(rows) == [rows]
    assert sum(len(one.facts["turned"]) == 2 for one in found) >= TRIALS - 2


@pytest.mark.parametrize(
    ("row", "key", "fits"),
    [
        ({"name": "WIDTH", "low": 10, "high": 20}, "a.py:WIDTH", lambda v: isinstance(v, int) and 10 <= v <= 20),
        ({"name": "WIDTH", "low": 0.5, "high": 2}, "a.py:WIDTH", lambda v: isinstance(v, float) and 0.5 <= v <= 2),
        ({"name": "DROPOUT", "low": 0, "high": 0.001}, "a.py:DROPOUT", lambda v: 0 <= v <= 0.001),
        ({"name": "steps", "low": 50, "high": 500, "scale": "log"}, "a.py:train(steps)", lambda v: 50 <= v <= 500),
        ({"name": "rate", "low": 0.1, "high": 0.9}, "a.py:train(rate)", lambda v: 0.1 <= v <= 0.9),
        ({"name": "train(rate)", "low": 0.1, "high": 0.9}, "a.py:train(rate)", lambda v: 0.1 <= v <= 0.9),
    ],
)
def test_numbers_of_every_kind_keep_their_kind(row: dict[str, Any], key: str, fits: Any) -> None:
    found = proposals(asked_for({"path": "a.py", "scale": "linear", **row}))

    values = [turned(one, key) for one in found]
    assert len(set(values)) > 4
    assert all(map(fits, values))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "NOTHING"},
        {"path": "b.py"},
        {"name": "USE_BIAS"},
        {"low": None},
        {"low": "1"},
        {"low": float("nan")},
        {"high": 10**400},
        {"low": 1.0},
        {"path": ["a.py"], "name": {}},
    ],
)
def test_what_cannot_be_searched_is_left_alone(changes: dict[str, Any]) -> None:
    assert proposals(asked_for({**RATE, **changes})) == []
    assert len(proposals(asked_for({**RATE, **changes}, RATE))) == TRIALS


def test_a_number_that_is_no_longer_in_the_files_is_not_searched() -> None:
    assert Asked().propose(context(asked_for(RATE), text="WIDTH = 64\n")) is None


def test_no_tree_is_proposed_that_was_tried() -> None:
    assert Asked().propose(context(asked_for(RATE), was_tried=lambda _: True)) is None


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.floats(0, 2) | st.none(), max_size=6))
def test_the_same_memory_and_number_give_the_same_idea(number: int, values: list[float | None]) -> None:
    first, again = Asked(), Asked()
    for place, value in enumerate(values):
        proposal = first.propose(context(asked_for(RATE), place))
        assert proposal is not None
        first.learn(experiment(place + 1, proposal, value))
    for one in reversed(first._memory.latest(99)):
        again.learn(one)

    assert first.propose(context(asked_for(RATE), number)) == again.propose(context(asked_for(RATE), number))


def test_the_best_place_is_found_better_than_by_chance() -> None:
    def height(value: float) -> float:
        return math.log10(value / 7e-3) ** 2

    left, chance = 0.0, 0.0
    for seed in range(12):
        arm, best = Asked(), height(1e-3)
        for number in range(TRIALS):
            proposal = arm.propose(context(asked_for(RATE), number, seed=seed, value=height(1e-3)))
            assert proposal is not None
            value = height(turned(proposal, "a.py:LEARNING_RATE"))
            arm.learn(experiment(number + 1, proposal, value))
            best = min(best, value)
        left += best
        chance += min(height(10 ** Random(f"{seed} {n}").uniform(-4, -2)) for n in range(TRIALS))

    assert left < 0.8 * chance
