"""The systems: each in its own environment, given the same work, watched through the log that evaluations share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from nightlab.errors import BadTask
from nightlab.ledger import Ledger
from nightlab.peersbench import work
from nightlab.place import find, first_commit
from nightlab.task import TASK_FILE
from nightlab.testing.modelserver import ModelServer
from nightlab.values import Status

PACKAGES = {
    "openevolve": ("openevolve",),
    "shinka": ("shinka-evolve",),
    "gepa": ("gepa",),
    "science": ("scikit-learn", "optuna", "cmaes"),
}
_TASK = """\
[task]
run = "python evaluate.py"
editable = ["program.py"]
[metric]
name = "score"
direction = "higher"
[budget]
timeout = {timeout}
cpu_cap = 20
[limits]
fastest = 0
"""
_LOOK = 0.05


def environment(cache: Path, name: str) -> Path:
    """The interpreter of an environment that holds one system; made by pip from the package index on first use."""
    home = cache / name
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        venv.create(home, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES[name]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BadTask(f"pip could not install {' '.join(PACKAGES[name])}: {done.stderr.strip()[-500:]}")
        (home / "complete").touch()
    return python


def versions(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """What is installed in an environment."""
    words = f"print(json.dumps({{name: version(name) for name in {list(packages)!r}}}))"
    asked = f"import json; from importlib.metadata import version; {words}"
    said = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=True)
    return dict(json.loads(said.stdout))


@dataclass(frozen=True, slots=True)
class Setting:
    """How a system is run: how many evaluations and how many thoughts at a time, as documented or tuned."""

    system: str
    label: str
    slots: int = 2
    thinkers: int = 2
    style: str = "tuned"


@dataclass(frozen=True, slots=True)
class Plan:
    """The work: how many experiments, how long an evaluation and an answer take, how noisy an evaluation is."""

    experiments: int
    seconds: float = 0.0
    latency: float = 0.0
    sigma: float = 0.0
    timeout: int = 10


@dataclass(frozen=True, slots=True)
class Look:
    """One evaluation of one candidate, as the log or the ledger tells: `end` is None where it never ended."""

    key: str
    begin: float
    end: float | None
    is_failure: bool = False


@dataclass(slots=True)
class Search:
    """One search of one system under way or over."""

    setting: Setting
    plan: Plan
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    wall: float = 0.0
    ended: float = field(default=0.0)

    def looks(self) -> list[Look]:
        """Every evaluation so far."""
        return _ledger_looks(self.folder) if self.setting.system == "nightlab" else _log_looks(log(self.folder))

    def evaluations(self) -> int:
        """How many evaluations there were in all: those of the start, and those made again."""
        return _ledger_runs(self.folder) if self.setting.system == "nightlab" else len(self.looks())

    def candidates(self) -> list[Look]:
        """The evaluations of candidates, each candidate once, without the start: what counts as experiments."""
        seen: dict[str, Look] = {}
        looks = self.looks()
        first = looks[0].key if looks else None
        for look in looks:
            if look.key != first and (look.key not in seen or seen[look.key].end is None):
                seen[look.key] = look
        return list(seen.values())

    def best(self) -> dict[str, Any]:
        """What the system holds to be best: its source and the score it claims."""
        if self.setting.system == "nightlab":
            return _ledger_best(self.folder)
        return dict(json.loads((self.folder / "best.json").read_text()))


def lay(folder: Path, setting: Setting, plan: Plan, url: str, switches: int) -> None:
    """Write what a system is given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "program.py").write_text(work.program(switches))
    if setting.system == "nightlab":
        (folder / TASK_FILE).write_text(_TASK.format(timeout=plan.timeout))
        (folder / "evaluate.py").write_text(work.OURS.format(seconds=plan.seconds, sigma=plan.sigma))
        first_commit(folder)
        return
    told = {
        "url": url,
        "log": str(log(folder)),
        "slots": setting.slots,
        "thinkers": setting.thinkers,
        "style": setting.style,
        "experiments": plan.experiments,
        "seconds": plan.seconds,
        "sigma": plan.sigma,
        "timeout": plan.timeout,
    }
    (folder / "plan.json").write_text(json.dumps(told))
    (folder / "evaluate.py").write_text(work.EVALUATE)
    (folder / "documented.py").write_text(work.DOCUMENTED)


def log(folder: Path) -> Path:
    """Where the evaluations of a search are noted: beside its folder, whose disk may be full."""
    return folder.parent / f"{folder.name}.jsonl"


def command(cache: Path, setting: Setting, plan: Plan, folder: Path) -> list[str]:
    """The command line of a search, the same to begin and to go on."""
    if setting.system == "nightlab":
        words = ["-C", str(folder), "run", "--agent", "openai:scripted", "--drafts", str(setting.thinkers), "--json"]
        more = ["--workers", str(setting.slots), "--experiments", str(plan.experiments), "--no-audit"]
        return [sys.executable, "-m", "nightlab", *words, *more]
    driver = files("nightlab") / f"peersbench/drivers/run_{setting.system}.py"
    return [str(environment(cache, setting.system)), str(driver), str(folder)]


def start(search: Search, cache: Path, url: str) -> None:
    """Begin a search, or go on with it, in a process group of its own."""
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    environ |= {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "x", "PYTHONUNBUFFERED": "1"}
    with (search.folder.parent / f"{search.folder.name}.txt").open("ab") as said:
        search.process = subprocess.Popen(
            command(cache, search.setting, search.plan, search.folder),
            stdout=said,
            stderr=said,
            env=environ,
            cwd=search.folder.parent,
            start_new_session=True,
        )


def watch(search: Search, *, limit: float, candidates: int | None = None) -> None:
    """Wait until it ends by itself, until so many candidates are through, or for so long."""
    process, begin = search.process, time.monotonic()
    assert process is not None
    while process.poll() is None and time.monotonic() - begin < limit:
        if candidates is not None and sum(one.end is not None for one in search.candidates()) >= candidates:
            break
        time.sleep(_LOOK if candidates is None else 4 * _LOOK)
    search.wall = time.monotonic() - begin


def end(search: Search, how: int = signal.SIGTERM) -> None:
    """End what is left of a search: the group that the bench started, and nothing else."""
    process = search.process
    if process is None:
        return
    for sign in (how, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
            break
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def searching(
    folder: Path, cache: Path, setting: Setting, plan: Plan, edits: Sequence[work.Edit], *, refuses_every: int = 0
) -> Iterator[tuple[Search, work.Model, str]]:
    """A search laid out and begun against its own scripted model."""
    model = work.Model(setting.system, edits, refuses_every=refuses_every)
    with ModelServer(model, delay=plan.latency) as server:
        url = f"{server.url}/v1"
        lay(folder, setting, plan, url, len(edits))
        search = Search(setting, plan, folder)
        start(search, cache, url)
        try:
            yield search, model, url
        finally:
            end(search)


# --- what was seen ----------------------------------------------------------------------------------------------------


def _log_looks(log: Path) -> list[Look]:
    """The evaluations of a log, in the order they began."""
    events = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    found: list[Look] = []
    for event in events:
        if event["event"] == "begin":
            found.append(Look(event["key"], event["at"], None))
            continue
        at = next(i for i in range(len(found)) if found[i].key == event["key"] and found[i].end is None)
        found[at] = Look(event["key"], found[at].begin, event["at"], "error" in event)
    return found


def _ledger_looks(folder: Path) -> list[Look]:
    """The runs of a ledger: those that decide an experiment end when it is decided."""
    place = find(folder)
    if not place.ledger.exists():
        return []
    ledger = Ledger(place.ledger)
    try:
        events = list(ledger.read())
    finally:
        ledger.close()
    begun: dict[int, float] = {}
    found: list[Look] = []
    for event in events:
        number = event.experiment or 0
        if event.kind == "started":
            begun.setdefault(number, event.at)
        elif event.kind == "decided" and number in begun:
            found.append(Look(str(number), begun[number], event.at, str(event.body["status"]) not in _NUMBERS))
    open_ = [
        Look(str(number), at, None) for number, at in begun.items() if str(number) not in {one.key for one in found}
    ]
    return sorted(found + open_, key=lambda one: one.begin)


def _ledger_runs(folder: Path) -> int:
    place = find(folder)
    if not place.ledger.exists():
        return 0
    ledger = Ledger(place.ledger)
    try:
        return ledger.runs_made()
    finally:
        ledger.close()


_NUMBERS = {str(Status.KEPT), str(Status.DISCARDED), str(Status.SHELVED)}


def _ledger_best(folder: Path) -> dict[str, Any]:
    from nightlab.workspace import Repository

    place = find(folder)
    ledger, repository = Ledger(place.ledger), Repository(folder)
    try:
        best = ledger.incumbent()
        if best is None:
            return {}
        source = repository.text(repository.tree(str(best.commit)), "program.py")
        return {"source": source, "claimed": best.value, "known": len(ledger.experiments()) - 1}
    finally:
        repository.close()
        ledger.close()


def at_once(looks: Sequence[Look]) -> int:
    """The most evaluations that were under way at one moment."""
    marks = sorted([(one.begin, 1) for one in looks] + [(one.end, -1) for one in looks if one.end is not None])
    now = most = 0
    for _, step in marks:
        now += step
        most = max(most, now)
    return most


def rate(candidates: Sequence[Look]) -> float | None:
    """Experiments a minute, from the start of the first candidate to the end of the last."""
    ends = sorted(one.end for one in candidates if one.end is not None)
    if len(ends) < 2:
        return None
    return 60 * len(ends) / (ends[-1] - min(one.begin for one in candidates))


def gap(candidates: Sequence[Look]) -> float | None:
    """The median time from the end of one experiment to the end of the next, in milliseconds."""
    ends = sorted(one.end for one in candidates if one.end is not None)
    return 1000 * median(after - before for before, after in pairwise(ends)) if len(ends) > 2 else None


def told(search: Search) -> Mapping[str, Any]:
    """A search in numbers."""
    looks, candidates = search.looks(), search.candidates()
    return {
        "system": search.setting.system,
        "label": search.setting.label,
        "experiments": sum(one.end is not None for one in candidates),
        "rate": rate(candidates),
        "gap_ms": gap(candidates),
        "at_once": at_once(looks),
        "evaluations": search.evaluations(),
    }
