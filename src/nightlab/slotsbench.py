"""Benchmarks of slots: what a second one on this machine gives, and what another executor costs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from nightlab import plugins
from nightlab.executor import Executor, LocalExecutor
from nightlab.loop import Stop
from nightlab.place import find, first_commit, held
from nightlab.proposer import Context
from nightlab.study import Study
from nightlab.task import TASK_FILE
from nightlab.testing import loss_contract as losses
from nightlab.testing.executor_contract import shell_job
from nightlab.values import Experiment, Outcome, Proposal

_TASK = '[task]\nrun = "python run.py"\neditable = ["knob.txt"]\n[metric]\nname = "score"\ndirection = "lower"\n'
_SLEEPING = "import time\ntime.sleep({seconds})\nprint('score: 1')\n"
_BUSY = "import time\nwhile time.process_time() < {seconds}:\n    pass\nprint('score: 1')\n"


class _Counting:
    """An instant proposer whose every tree is new."""

    name = "counting"

    def propose(self, context: Context) -> Proposal:
        return Proposal(f"knob {context.number}", {"knob.txt": f"{context.number}\n"})

    def learn(self, experiment: Experiment) -> None:
        """Nothing."""


def slots(experiments: int, *, seconds: float = 1.0, slots: int = 2) -> dict[str, Any]:
    """How many times the experiments of one slot this many slots do, on runs that sleep and on runs that compute."""
    found: dict[str, Any] = {"slots": slots, "seconds": seconds, "experiments": experiments}
    for kind, script in (("sleeping", _SLEEPING), ("busy", _BUSY)):
        text = script.format(seconds=seconds)
        # One slot on either side of the many: a machine that grows busier meanwhile favours nobody.
        before, many, after = (_per_second(text, experiments, count) for count in (1, slots, 1))
        found[kind] = many / ((before + after) / 2)
        found[f"{kind}_per_hour"] = 3600 * many
        # What the machine itself gives now, with whatever else it does: the script alone, as often, side by side.
        found[f"{kind}_bare"] = _bare(text, experiments, slots) / _bare(text, experiments, 1)
    return found


def _bare(script: str, runs: int, side_by_side: int) -> float:
    """Runs of the bare script in a second."""

    def run(_: int) -> None:
        subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL, check=True)

    begin = time.perf_counter()
    with ThreadPoolExecutor(side_by_side) as pool:
        list(pool.map(run, range(runs)))
    return runs / (time.perf_counter() - begin)


def _per_second(script: str, experiments: int, slots: int) -> float:
    """Experiments decided in a second by a whole study, from the first decision to the last."""
    with tempfile.TemporaryDirectory(prefix="nightlab-bench-", dir=Path.cwd()) as name:
        folder = Path(name) / "study"
        folder.mkdir()
        (folder / TASK_FILE).write_text(_TASK)
        (folder / "run.py").write_text(script)
        (folder / "knob.txt").write_text("start\n")
        first_commit(folder)
        place = find(folder)
        with held(place), closing(Study(place, slots=slots)) as study:
            study.loop([_Counting()]).run(Stop(experiments=experiments))
            times = [event.at for event in study.ledger.read() if event.kind == "decided"]
    # The baseline is the first decision; what is decided last beside others ends with them.
    return (len(times) - 1) / (times[-1] - times[0])


def executor(name: str, runs: int, *, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What an executor adds to an instant run over the local one, in turns; how soon it sees the death of a worker."""
    with tempfile.TemporaryDirectory(prefix="nightlab-bench-", dir=Path.cwd()) as folder:
        other = plugins.executor(name, {"slots": 1}, options or {})
        with closing(other), closing(LocalExecutor(1, other.level)) as local:
            for one in (local, other):
                _ms(one, Path(folder), "warm")
            times = [(_ms(local, Path(folder), f"l{n}"), _ms(other, Path(folder), f"o{n}")) for n in range(runs)]
            noticed = [_noticing(other, Path(folder), n) for n in range(min(runs, 5))]
            level = other.level
    near, far = (median(side) for side in zip(*times, strict=True))
    added = median(there - here for here, there in times)
    return {
        "executor": name,
        "runs": runs,
        "jail": level,
        "local_ms": near,
        "ms": far,
        "added_ms": added,
        "noticed_s": median(noticed),
        "noticed_s_most": max(noticed),
    }


def _ms(executor: Executor, folder: Path, name: str) -> float:
    """An instant run with a small tree, from submission to its result."""
    job = shell_job(folder, "cat train.py > /dev/null; echo score: 1", name=name)
    (job.tree / "train.py").write_text(f"KNOB = '{name}'\n" * 100)
    begin = time.perf_counter()
    run = executor.submit(job).result()
    assert run.outcome is Outcome.FINISHED, run.reason
    return 1000 * (time.perf_counter() - begin)


def _noticing(executor: Executor, folder: Path, n: int) -> float:
    """Seconds from the kill of a worker to the end of its run as the lab sees it."""
    tag, job = losses.stubborn(folder / f"lost-{n}")
    future = executor.submit(job)
    worker = losses.worker_of(losses.wait_for(tag))
    begin = time.perf_counter()
    losses.kill(worker)
    future.result()
    return time.perf_counter() - begin
