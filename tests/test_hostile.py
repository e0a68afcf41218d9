"""Proposals that misbehave, through the real lab: each costs one experiment and nothing else."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from conftest import LEVELS, TASK, git, make_repository, need_level

from nightlab.loop import Stop
from nightlab.place import find, held
from nightlab.proposer import Scripted
from nightlab.study import Study
from nightlab.values import Proposal, Status

RULES = """\
bounds = [0.0, 100.0]
[budget]
kind = "wall"
amount = 1.5
[limits]
log_mb = 8
"""
START = "import frozen\nprint('score: 5')\n"
DAEMON = """\
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        sys.stdout.close()
        time.sleep(600)
    os._exit(0)
print('score: 1')
"""
HOSTILE = [
    ("crashes", "raise ValueError('no good')", Status.CRASHED, "ValueError: no good"),
    ("hangs", "import time; time.sleep(600)", Status.TIMEOUT, "ran longer than"),
    ("prints no metric", "print('hello')", Status.INVALID, "printed no line 'score: number'"),
    ("prints two", "print('score: 1'); print('score: 2')", Status.INVALID, "printed score 2 times"),
    ("prints nan", "print('score: nan')", Status.INVALID, "not a finite number"),
    ("prints a monster", "print('score: -1e308')", Status.INVALID, "too large to be compared"),
    ("prints the impossible", "print('score: -7')", Status.INVALID, "outside the task's bounds"),
    ("floods its log", "while True: print('x' * 10000)", Status.CRASHED, "printed more than 8 MB"),
    ("does not parse", "def (", Status.CRASHED, "SyntaxError"),
    ("rewrites a frozen file", "open('frozen.py','w').write('x'); print('score: 1')", Status.INVALID, "frozen.py"),
    ("deletes its tree", "import shutil; shutil.rmtree('.', True); print('score: 1')", Status.INVALID, "frozen files"),
    ("forks daemons", DAEMON, Status.KEPT, ""),
]


@pytest.mark.parametrize("jail", LEVELS)
def test_a_misbehaving_proposal_costs_one_experiment_and_the_study_goes_on(tmp_path: Path, jail: str) -> None:
    need_level(jail)
    files = {"train.py": START, "frozen.py": "x = 1\n", "nightlab.toml": TASK + RULES}
    folder = make_repository(tmp_path / "study", files)
    proposals = [Proposal(what, {"train.py": f"# {n}\n{text}\n"}) for n, (what, text, *_) in enumerate(HOSTILE)]
    proposals.append(Proposal("behaves", {"train.py": "import frozen\nprint('score: 0.5')\n"}))

    place = find(folder)
    with held(place), closing(Study(place, jail=jail)) as study:
        study.loop([Scripted(proposals)]).run(Stop(experiments=len(proposals)))
        experiments = study.ledger.experiments()[1:]

    for (what, _, status, words), experiment in zip(HOSTILE, experiments, strict=False):
        assert experiment.status is status, f"{what}: {experiment.status}, {experiment.reason}"
        assert words in experiment.reason, what
        assert (experiment.value is None) == (status is not Status.KEPT), what
    assert experiments[-1].status is Status.KEPT
    assert git(folder, "status", "--porcelain") == ""
    assert _ours(folder) == []


def _ours(folder: Path, patience: float = 2.0) -> list[psutil.Process]:
    """Processes whose environment or working folder points into the study."""
    deadline = time.monotonic() + patience
    while found := [one for one in psutil.process_iter() if _points_into(one, folder)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return found


def _points_into(process: psutil.Process, folder: Path) -> bool:
    try:
        return str(folder) in process.environ().get("NIGHTLAB_OUT", "") or process.cwd().startswith(str(folder))
    except psutil.Error:
        return False
