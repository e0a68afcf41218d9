"""A whole night over slots that end at once: checkpoints, the end, and what is left alone."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from random import Random

import pytest

from nightlab.errors import BadTask
from nightlab.loop import Loop, Stop
from nightlab.place import find, held
from nightlab.proposer import Unchanged
from nightlab.replay import replay
from nightlab.runner import Attempt
from nightlab.study import Study
from nightlab.testing.fakes import InstantSlots
from nightlab.values import Files, Status

Nightlab = Callable[..., subprocess.CompletedProcess[str]]


class Slots(InstantSlots):
    """Slots that a study can close."""

    def close(self) -> None:
        """Nothing is open."""


def noise(attempt: Attempt, texts: Files) -> float:
    return 1.0 + Random(attempt.run).gauss(0, 0.01)


def night(folder: Path, stop: Stop, watch: Callable[[Loop], object] | None = None) -> list[str]:
    """What a study of unchanged code said while it ran."""
    said: list[str] = []
    place = find(folder)
    with held(place), closing(Study(place, seed=1)) as study:
        study.__dict__["runner"] = Slots(noise)
        study.night(lambda: [Unchanged()], stop, watch or (lambda _: nullcontext()), said.append)  # type: ignore[arg-type]
    return said


@pytest.mark.slow
def test_a_long_night_looks_back_every_300_runs_and_at_the_end(folder: Path) -> None:
    said = night(folder, Stop(experiments=400))

    with closing(find(folder).read()) as ledger:
        experiments = ledger.experiments()
        pruned = [event for event in ledger.read() if event.kind == "pruned"]
    assert said.count("looking back:") >= 1
    assert said[-1].startswith(("Auditing", "Transfer")) or "stopped: 400 experiments" in said
    assert len([one for one in experiments if one.proposer == "unchanged"]) == 400
    assert pruned[0].body["after"] // 300 == 1
    assert len([one for one in experiments if one.status is Status.PRUNED]) > 10


def test_a_night_without_keeps_looks_back_no_more_often(folder: Path) -> None:
    place = find(folder)
    with held(place), closing(Study(place, seed=1)) as study:
        study.__dict__["runner"] = Slots(lambda attempt, texts: 1.0 + (attempt.purpose == "candidate"))
        study.night(lambda: [Unchanged()], Stop(experiments=640), lambda _: nullcontext(), lambda _: None)

        assert study.ledger.count("looked_back") == 3


def test_an_audit_ends_when_somebody_asks_the_study_to_stop(folder: Path) -> None:
    night(folder, Stop(experiments=30))
    place = find(folder)
    with held(place), closing(Study(place)) as study:
        slots = Slots(noise)
        study.__dict__["runner"] = slots
        killed: list[bool] = []
        slots.kill = lambda: killed.append(True)  # type: ignore[method-assign]
        study.ledger.ask("stop", "now")

        study.auditor(lambda _: None).audit()

    assert killed


def test_whoever_asks_to_stop_is_not_kept_waiting_by_an_audit(folder: Path) -> None:
    def watch(loop: Loop) -> object:
        loop.stop()
        return nullcontext()

    said = night(folder, Stop(experiments=400), watch)

    assert said == ["stopped: asked to stop"]


def test_an_own_ledger_is_judged_once_more_by_its_noise(folder: Path) -> None:
    night(folder, Stop(experiments=60))

    told = replay(find(folder).ledger)

    assert 0.005 < told["noise"] < 0.02
    assert told["doubtful"] >= 0.5 * (len(told["keeps"]) - 1) > 0
    json.dumps(told)


def test_a_database_that_is_no_ledger_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE mine (id)")
        other.commit()
    before = path.read_bytes()

    with pytest.raises(BadTask, match="no ledger"):
        replay(path)

    assert path.read_bytes() == before
