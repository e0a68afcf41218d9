"""The smoke test: what crashes on a hundredth of its budget costs no run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import make_repository

from nightlab import smoke
from nightlab.loop import Stop
from nightlab.place import find, held
from nightlab.proposer import Context
from nightlab.study import Study
from nightlab.values import Experiment, Proposal

SCRIPT = """import os
amount = float(os.environ["NIGHTLAB_BUDGET"])
{first}
if amount > 1:
    import time
    time.sleep(0.5)
print("score:", {score})
"""
TASK = '[task]\nrun = "python train.py"\neditable = ["train.py"]\n[metric]\nname = "score"\ndirection = "lower"\n'
BUDGET = '[budget]\nkind = "{kind}"\namount = 100\n'


class Thinker:
    """Has one idea, which crashes at once, and is asked to mend it."""

    name, drafts = "thinker", 1

    def __init__(self) -> None:
        self.to_mend: Context | None = None

    def propose(self, context: Context) -> Proposal | None:
        if context.mends:
            self.to_mend = context
            return Proposal("mended", {"train.py": SCRIPT.format(first="", score=1)})
        if context.draft:
            return None
        return Proposal("crash", {"train.py": SCRIPT.format(first="[][amount]", score=1)})

    def learn(self, experiment: Experiment) -> None:
        """Nothing."""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Study]:
    kind, first = request.param
    monkeypatch.setattr(smoke, "_LONG_RUN", 0.1)
    monkeypatch.setattr(smoke, "_MOST", 0.9)
    files = {"train.py": SCRIPT.format(first=first, score=2), "nightlab.toml": TASK + BUDGET.format(kind=kind)}
    place = find(make_repository(tmp_path / "study", files))
    with held(place), closing(Study(place)) as opened:
        yield opened


@pytest.mark.parametrize("study", [("work", "")], indirect=True)
def test_what_crashes_on_its_first_steps_is_refused_before_it_takes_a_slot(study: Study) -> None:
    thinker = Thinker()
    study.loop([thinker]).run(Stop(experiments=2))

    one = study.ledger.experiment(1)
    assert one.reason == (
        "smoke: TypeError: list indices must be integers or slices, not float (on a hundredth of the budget)"
    )
    assert one.runs == 0
    assert "[][amount]" in one.diff
    assert thinker.to_mend is not None
    assert "[][amount]" in thinker.to_mend.files["train.py"]
    assert not list((study.place.home / "runs").glob("smoke-*"))
    assert not list((study.place.home / "worktrees").glob("smoke-*"))


@pytest.mark.slow
@pytest.mark.parametrize("study", [("work", "1 / (amount > 1)"), ("wall", "")], indirect=True)
def test_where_the_incumbent_itself_cannot_be_tried_so_nothing_is_refused(study: Study) -> None:
    study.loop([Thinker()]).run(Stop(experiments=1))

    assert study.ledger.experiment(1).status == "crashed"
