"""Benchmarks of the lab itself; every figure is measured in the run that prints it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from itertools import count, pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from nightlab import task
from nightlab.decide import Race
from nightlab.ledger import Event, Ledger
from nightlab.loop import Loop, Stop
from nightlab.place import Place, find, first_commit, held
from nightlab.proposer import Context, Proposer
from nightlab.runner import Attempt, Slots
from nightlab.study import Study
from nightlab.testing.fakes import InstantSlots, TimedSlots, noise
from nightlab.values import Experiment, Files, Proposal
from nightlab.workspace import Repository

_TASK = '[task]\nrun = "sh run.sh"\neditable = ["knob.txt"]\n[metric]\nname = "score"\ndirection = "lower"\n'


class _Counting:
    """An instant proposer whose every tree is new."""

    name = "counting"

    def propose(self, context: Context) -> Proposal:
        """Write the next number into the knob."""
        return Proposal(f"knob {context.number}", {"knob.txt": f"{context.number}\n"})

    def learn(self, experiment: Experiment) -> None:
        """Nothing."""


def overhead(experiments: int, *, jail: str | None = None) -> dict[str, Any]:
    """The lab's own milliseconds per experiment, everything durable: the time from one decision to the next, less what
    the bare script takes in the same place."""
    with tempfile.TemporaryDirectory(prefix="nightlab-bench-", dir=Path.cwd()) as name:
        folder = Path(name) / "study"
        _repository(folder)
        bare = _bare_ms(folder)
        commit = _commit_ms(folder)
        place = find(folder)
        with held(place), closing(Study(place, jail=jail)) as study:
            study.loop([_Counting()]).run(Stop(experiments=experiments))
            times = [event.at for event in study.ledger.read() if event.kind == "decided"][1:]
            level = study.executor.level
    own = [1000 * (after - before) - bare for before, after in pairwise(times)]
    quarter = max(1, len(own) // 4)
    return {
        "own_ms_median": median(own),
        "own_ms_p95": quantiles(own, n=20)[-1],
        "experiments": experiments,
        "peak_mb": peak_mb(),
        "jail": level,
        "growth": median(own[-quarter:]) / median(own[:quarter]),
        "script_ms": bare,
        "commit_ms": commit,
        "fork_ms": _median_ms(_fork),
        "spawn_ms": _median_ms(_spawn),
    }


def _repository(folder: Path) -> None:
    folder.mkdir()
    (folder / task.TASK_FILE).write_text(_TASK)
    (folder / "run.sh").write_text("echo score: 1\n")
    (folder / "knob.txt").write_text("start\n")
    first_commit(folder)


def _median_ms(act: Callable[[], object]) -> float:
    times = []
    for _ in range(30):
        begin = time.perf_counter()
        act()
        times.append(1000 * (time.perf_counter() - begin))
    return median(times)


def _fork() -> None:
    """What the kernel takes to copy a process of our size: most of what a shim costs."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _spawn() -> None:
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)


def _bare_ms(folder: Path) -> float:
    """The script alone, started and waited for."""
    return _median_ms(lambda: subprocess.run(["sh", "run.sh"], cwd=folder, stdout=subprocess.DEVNULL, check=True))


def _commit_ms(folder: Path) -> float:
    """One synchronous commit of one small row on this disk."""
    with closing(Ledger(folder / "commits.sqlite")) as ledger:
        numbers = count()
        return _median_ms(lambda: ledger.append(Event("note", str(next(numbers)), {"text": "x"})))


def peak_mb() -> float:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _searched(folder: Path, slots: Slots, proposer: Proposer, experiments: int) -> Place:
    """A study of so many experiments in slots that are no processes."""
    _repository(folder)
    place = find(folder)
    with held(place), closing(Ledger(place.ledger)) as ledger, closing(Repository(folder)) as repository:
        base = repository.head()
        ledger.append(Event("study", "0", {"seed": 0, "base": base, "metric": "score", "direction": "lower"}))
        Loop(
            task=task.load(folder),
            ledger=ledger,
            repository=repository,
            slots=slots,
            proposers=[proposer],
            policy=Race(),
            branch=place.branch,
        ).run(Stop(experiments=experiments))
    return place


def scale(experiments: int, *, slots: int = 1) -> dict[str, Any]:
    """The loop, judge and ledger over many experiments, without processes; then the readings people wait for."""
    with tempfile.TemporaryDirectory(prefix="nightlab-bench-", dir=Path.cwd()) as name:
        folder = Path(name) / "study"
        before = time.process_time()
        place = _searched(folder, InstantSlots(lambda attempt, texts: 1.0, slots=slots), _Counting(), experiments)
        cpu, held_mb = time.process_time() - before, peak_mb()
        with closing(place.read()) as ledger:
            marks = {e.experiment or 0: e.at for e in ledger.read() if e.kind in ("decided", "proposed")}
        tenth = experiments // 10
        first = 1000 * (marks[tenth] - marks[1]) / (tenth - 1)
        last = 1000 * (marks[experiments] - marks[experiments - tenth]) / tenth
        return {
            "experiments": experiments,
            "slots": slots,
            "cpu_ms": 1000 * cpu / experiments,
            "ms_first": first,
            "ms_last": last,
            "growth": last / first,
            "status_cpu_s": _command(folder, "status")[0],
            "log_s": _command(folder, "log", "--limit", "50")[1],
            "ledger_mb": place.ledger.stat().st_size / 2**20,
            "peak_mb": held_mb,
        }


def _command(folder: Path, *words: str) -> tuple[float, float]:
    """CPU and wall seconds of a command of ours, the median of three."""
    found = []
    for _ in range(3):
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-m", "nightlab", "-C", str(folder), *words]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=dict(os.environ))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found.append((cpu, time.perf_counter() - begin))
    return median(cpu for cpu, _ in found), median(wall for _, wall in found)


_SLEEPING = "import time\ntime.sleep({seconds})\nprint('score:', open('knob.txt').read())\n"


class _Thinking(_Counting):
    """Takes its time for every idea, as a model would; each is worse than the start, so that nothing is kept."""

    name = "thinking"

    def __init__(self, seconds: float, drafts: int) -> None:
        self.drafts, self._seconds, self._numbers = drafts, seconds, count(2)

    def propose(self, context: Context) -> Proposal:
        """Think, then write the next number into the knob."""
        time.sleep(self._seconds)
        number = next(self._numbers)
        return Proposal(f"knob {number}", {"knob.txt": f"{number}\n"})


def pipeline(experiments: int, *, run: float, call: float, drafts: int) -> dict[str, Any]:
    """The share of their time for which slots are busy while whoever proposes takes `call` runs' time for an idea:
    from the start of the first candidate to the end of the last, one slot, in the jail."""
    with tempfile.TemporaryDirectory(prefix="nightlab-bench-", dir=Path.cwd()) as name:
        folder = Path(name) / "study"
        folder.mkdir()
        (folder / task.TASK_FILE).write_text(_TASK.replace("sh run.sh", "python run.py"))
        (folder / "run.py").write_text(_SLEEPING.format(seconds=run))
        (folder / "knob.txt").write_text("1\n")
        first_commit(folder)
        place = find(folder)
        with held(place), closing(Study(place)) as study:
            study.loop([_Thinking(call * run, drafts)]).run(Stop(experiments=experiments))
            events = list(study.ledger.read())
    started = [event.at for event in events if event.kind == "started" and event.experiment]
    ended = [event for event in events if event.kind == "ran" and event.experiment]
    waited = started[0] - next(event.at for event in events if event.kind == "asked")
    busy, span = sum(event.body["seconds"] for event in ended), ended[-1].at - started[0]
    return {
        "experiments": experiments,
        "run_s": run,
        "call_s": call * run,
        "drafts": drafts,
        "busy": busy / span,
        "one_after_the_other": 1 / (1 + call),
        "first_wait_s": waited,
    }


def many(experiments: int, *, slots: int, run: float, call: float, drafts: int) -> dict[str, Any]:
    """The share of their time for which many slots are busy, asleep in place of runs, while thinking takes `call` runs'
    time: from the start of the first candidate to the last idea, when a study would go on."""
    with tempfile.TemporaryDirectory(prefix="nightlab-bench-", dir=Path.cwd()) as name:
        timed = TimedSlots(_worse, slots=slots, seconds=run)
        place = _searched(Path(name) / "study", timed, _Thinking(call * run, drafts), experiments)
        with closing(place.read()) as ledger:
            events = list(ledger.read())
    first = next(event.at for event in events if event.kind == "started" and event.experiment) + run
    last = [event.at for event in events if event.kind == "proposed"][-1]
    begun = {event.key.rpartition(".")[0]: event.at for event in events if event.kind == "started"}
    ended = {event.key: event for event in events if event.kind == "ran"}
    spans = [(begun[one], ended[one].at) for one in ended]
    busy = sum(max(0.0, min(end, last) - max(begin, first)) for begin, end in spans)
    used = sum(event.body["outcome"] == "finished" for event in ended.values())
    return {
        "experiments": experiments,
        "slots": slots,
        "run_s": run,
        "call_s": call * run,
        "drafts": drafts,
        "busy": busy / (slots * (last - first)),
        "runs": len(ended),
        "not_needed": len(ended) - used,
    }


def _worse(attempt: Attempt, texts: Files) -> float:
    """The start is best, by a little: some races are long, and nothing that is kept is worth anything."""
    return noise(attempt, texts) + (0.0 if attempt.purpose == "incumbent" else 0.003)
