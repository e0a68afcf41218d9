"""kill -9 of the lab at random instants: nothing is lost, nothing doubled, nobody survives."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from conftest import git

from nightlab.ledger import Ledger

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("NIGHTLAB_KILLS", "200"))
KILLS_PER_STUDY = 20


def nightlab(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "nightlab", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def new_study(folder: Path) -> Path:
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    nightlab(folder, "init", "compress")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "start")
    return folder


def told(folder: Path) -> list[dict[str, object]]:
    """The log without what depends on the clock."""
    rows = [json.loads(line) for line in nightlab(folder, "log", "--json").splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "commit")} for row in rows]


def ours(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in " ".join([*process.cmdline(), process.cwd(), process.environ().get("NIGHTLAB_OUT", "")]):
                found.append(process)
        except psutil.Error:
            continue
    return found


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two questions
        return False


def kill_once(folder: Path, dice: random.Random, *words: str) -> float:
    """Start, kill at a random instant, and return how long anything of ours lived on."""
    quiet = subprocess.DEVNULL
    command = [sys.executable, "-m", "nightlab", "run", *words]
    lab = subprocess.Popen(command, cwd=folder, stdout=quiet, stderr=quiet)
    time.sleep(dice.uniform(0.2, 2.2))
    before = ours(folder)
    lab.send_signal(signal.SIGKILL)
    lab.wait()
    begin = time.monotonic()
    while any(is_alive(process) for process in before if process.pid != lab.pid):
        assert time.monotonic() - begin < 2.0, f"still alive after 2 s: {before}"
        time.sleep(0.01)
    while left := ours(folder):
        assert time.monotonic() - begin < 2.0, f"still alive after 2 s: {left}"
        time.sleep(0.01)
    return time.monotonic() - begin


def check_branch(folder: Path) -> None:
    """The branch holds exactly the kept experiments of the ledger, in order."""
    rows = [json.loads(line) for line in nightlab(folder, "log", "--json").splitlines()]
    kept = [(str(row["id"]), row["commit"]) for row in rows if row["status"] == "kept"]
    form = "--format=%H %(trailers:key=Experiment-Id,valueonly,separator=%x2C)"
    lines = [line.split() for line in git(folder, "log", "--reverse", form, "nightlab/main").splitlines()]
    assert [(line[1] if line[1:] else "0", line[0]) for line in lines] == kept


def test_nothing_is_lost_or_doubled_whenever_the_lab_is_killed(tmp_path: Path) -> None:
    reference, longest, seen = new_study(tmp_path / "reference"), 0.0, 0
    dice = random.Random(20)
    for number in range(-(-KILLS // KILLS_PER_STUDY)):
        folder = new_study(tmp_path / f"study {number}")
        for _ in range(min(KILLS_PER_STUDY, KILLS)):
            longest = max(longest, kill_once(folder, dice))
        nightlab(folder, "run", "--experiments", "1")
        check_branch(folder)
        rows = told(folder)
        if len(rows) > seen:
            nightlab(reference, "run", "--experiments", str(len(rows) - seen))
            seen = len(told(reference))
        assert rows == told(reference)[: len(rows)]
        assert [row["id"] for row in rows] == list(range(len(rows)))
    print(f"{KILLS} kills; the last process of ours ended {longest:.2f} s after the lab at the latest")


MIND = '''
import time
from random import Random
from nightlab.proposer import Context
from nightlab.values import Proposal


class Mind:
    """Thinks for a moment, and proposes an order that depends on nothing but the number of the call."""

    name, drafts = "mind", 2

    def propose(self, context):
        time.sleep(0.1)
        old = next(line for line in context.files["model.py"].splitlines() if line.startswith("PRIOR = "))
        text = context.files["model.py"].replace(old, f"PRIOR = {1 - context.draft / 10_000}  # {context.draft}")
        return Proposal(f"prior of call {context.draft}", {"model.py": text})

    def learn(self, experiment):
        pass
'''


def test_no_idea_is_lost_or_tried_twice_whenever_the_lab_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_study(tmp_path / "study")
    (tmp_path / "mind.py").write_text(MIND)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    dice = random.Random(21)
    for _ in range(max(5, KILLS // 10)):
        kill_once(folder, dice, "--agent", "mind:Mind")
    nightlab(folder, "run", "--agent", "mind:Mind", "--experiments", "3", "--no-audit")
    check_branch(folder)

    with closing(Ledger(folder / ".nightlab" / "ledger.sqlite")) as ledger:
        asked = [int(event.key) for event in ledger.read(kind="asked")]
        answered = {int(event.key) for event in ledger.read(kind="drafted")}
        tried = [
            e.body["draft"]
            for e in ledger.read()
            if e.kind in ("proposed", "rejected") and e.body.get("draft") is not None
        ]
    print(f"{len(asked)} calls, {len(answered)} answered, {len(tried)} tried")
    assert asked == list(range(len(asked)))
    assert len(tried) == len(set(tried)) > 5
    assert set(tried) <= answered
    assert len(answered - set(tried)) <= 3
