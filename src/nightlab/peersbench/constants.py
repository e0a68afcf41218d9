"""Constants: the tuner, Optuna's samplers and random search turn the same numbers in the same scripts, run for run.

Every run is counted: of ours the baseline, repeats and races too, of Optuna's the start where the script stands. What a
method has found after so many runs is then run again under fresh seeds, and that mean is its score.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from nightlab.decide import Race
from nightlab.errors import BadTask
from nightlab.ledger import Event, Ledger
from nightlab.loop import Loop, Stop
from nightlab.place import find, first_commit, held
from nightlab.proposer import Proposer
from nightlab.runner import Attempt
from nightlab.task import TASK_FILE, load
from nightlab.testing.fakes import InstantSlots
from nightlab.tuner import space
from nightlab.tuner.constants import Constants
from nightlab.values import Files, Status
from nightlab.workspace import Repository

SCRIPTS = ("digits", "diabetes", "tinylm")
OPTUNA = ("tpe", "tpe, multivariate", "cma-es", "random")
OURS = "nightlab"
MARKS = (20, 40, 50, 100)
SEEDS = 8
FRESH = 6
"""Seeds that no search has seen."""
_CAP = 4.0
"""A run may take so many times the CPU seconds of the start."""
_TASK = '[task]\nrun = "python {name}"\neditable = ["{name}"]\n[metric]\nname = "loss"\ndirection = "lower"\n'


@dataclass(frozen=True)
class Script:
    """A script whose constants are turned, where it stands."""

    name: str

    @property
    def path(self) -> str:
        """What the file is called."""
        return "train.py" if self.name == "tinylm" else f"{self.name}.py"

    @cached_property
    def source(self) -> str:
        """Its text."""
        home = files("nightlab") / ("tasks/tinylm" if self.name == "tinylm" else "tasks/constants")
        return (home / self.path).read_text(encoding="utf-8")

    @cached_property
    def knobs(self) -> tuple[space.Knob, ...]:
        """What can be turned, as the tuner finds it: Optuna is given the same ranges on the same scales."""
        return tuple(space.knobs({self.path: self.source}))

    def at(self, places: Mapping[str, float]) -> str:
        """The text with its constants at these places."""
        values = {knob.key: knob.at(places[knob.key]) for knob in self.knobs}
        return space.turned({self.path: self.source}, values).get(self.path, self.source)


class Science:
    """The other environment at work: it runs scripts, and holds Optuna's studies."""

    def __init__(self, python: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        home = files("nightlab")
        words = [
            str(python),
            str(home / "peersbench/drivers/science.py"),
            str(folder),
            str(home / "tasks/tinylm/judge.py"),
        ]
        environ = {"PATH": os.environ.get("PATH", ""), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)
        self._caps: dict[str, float] = {}
        self.known: dict[str, float] = {}
        """Scripts that were run under fresh seeds, and their means."""

    def asked(self, **words: Any) -> dict[str, Any]:
        """What it answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise BadTask("the environment for constants ended; what it said last stands above")
        return dict(json.loads(line))

    def score(self, script: Script, source: str, seed: int, *, is_known: bool = False) -> float | str:
        """The loss of a run, or the words of a failure. What is known to end in time is not held to it again: a busy
        machine would fail it now and then."""
        asked = {"verb": "score", "script": script.name}
        if script.name not in self._caps:  # the first run also loads what it needs
            took = [self.asked(**asked, source=script.source, seed=number, cap=60.0)["cpu"] for number in range(4)]
            self._caps[script.name] = max(_CAP * min(took), 0.1)
        cap = 60.0 if is_known else self._caps[script.name]
        found = self.asked(**asked, source=source, seed=seed, cap=cap)
        return str(found["failure"]) if "failure" in found else float(found["value"])

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


@dataclass(frozen=True, slots=True)
class Found:
    """What one search had found after so many runs: the script, what the search believed, the mean of fresh seeds."""

    script: str
    method: str
    seed: int
    runs: int
    source: str
    believed: float
    true: float


def searched(science: Science, script: Script, method: str, seed: int, most: int) -> list[tuple[str, float]]:
    """The incumbent and what was believed of it, after each run."""
    return ours(science, script, seed, most) if method == OURS else optunas(science, script, method, seed, most)


def optunas(science: Science, script: Script, sampler: str, seed: int, most: int) -> list[tuple[str, float]]:
    """One of Optuna's samplers, asked and told; its best is the run with the lowest number, as Optuna has it."""
    study = f"{script.name} {sampler} {seed}"
    ranges = {knob.key: [knob.low, knob.high] for knob in script.knobs}
    start = {knob.key: knob.place for knob in script.knobs}
    best, line = (script.source, float("inf")), []
    for number in range(most):
        asked = {"verb": "ask", "study": study, "sampler": sampler, "seed": seed, "ranges": ranges, "start": start}
        source = script.at(science.asked(**asked)["places"])
        value = science.score(script, source, 1000 * seed + number)
        science.asked(verb="tell", study=study, value=None if isinstance(value, str) else value)
        if not isinstance(value, str) and value < best[1]:
            best = source, value
        line.append(best)
    return line


def ours(
    science: Science, script: Script, seed: int, most: int, proposer: Proposer | None = None
) -> list[tuple[str, float]]:
    """The lab's own loop, judge and tuner, its runs made in the other environment."""

    def score(attempt: Attempt, texts: Files) -> float | str:
        return science.score(
            script, texts.get(script.path) or script.source, attempt.seed, is_known=attempt.purpose != "candidate"
        )

    with tempfile.TemporaryDirectory(prefix="nightlab-bench-") as name:
        folder = Path(name) / "study"
        folder.mkdir()
        (folder / TASK_FILE).write_text(_TASK.format(name=script.path))
        (folder / script.path).write_text(script.source)
        first_commit(folder)
        place = find(folder)
        with held(place), closing(Ledger(place.ledger)) as ledger, closing(Repository(folder)) as repository:
            first = {"seed": seed, "base": repository.head(), "metric": "loss", "direction": "lower"}
            ledger.append(Event("study", "0", first))
            loop = Loop(
                task=load(folder),
                ledger=ledger,
                repository=repository,
                slots=InstantSlots(score, repository=repository),
                proposers=[proposer or Constants()],
                policy=Race(),
                branch=place.branch,
                seed=seed,
            )
            loop.run(Stop(runs=most))
            return list(_incumbents(ledger, repository, script))[:most]


def _incumbents(ledger: Ledger, repository: Repository, script: Script) -> Iterator[tuple[str, float]]:
    """After each run: the incumbent's text, and the mean of its runs so far."""
    kept = {one.id: one for one in ledger.experiments() if one.status is Status.KEPT}
    texts = {0: script.source} | {
        number: repository.text(repository.tree(str(one.commit)), script.path) or ""
        for number, one in kept.items()
        if one.commit
    }
    now, believed = 0, float("nan")
    for event in ledger.read():
        number = event.experiment or 0
        if event.kind == "decided" and number in kept:
            now, believed = number, kept[number].value or believed
        elif event.kind == "ran":
            yield texts[now], believed


def bench(
    science: Science, results: Path, *, scripts: Sequence[str], methods: Sequence[str], seeds: int, most: int
) -> Iterator[Found]:
    """Every search, the short ones first; what stands in `results` already is not done again."""
    done = {(one.script, one.method, one.seed) for one in read(results)}
    for seed in range(seeds):
        for script in map(Script, scripts):
            for method in methods:
                if (script.name, method, seed) not in done:
                    line = searched(science, script, method, seed, most)
                    found = [
                        Found(
                            script.name,
                            method,
                            seed,
                            mark,
                            *line[min(mark, len(line)) - 1],
                            fresh(science, script, line[min(mark, len(line)) - 1][0]),
                        )
                        for mark in MARKS
                        if mark <= most
                    ]
                    with results.open("a") as file:
                        file.writelines(json.dumps(_row(one)) + "\n" for one in found)
                    yield from found


def fresh(science: Science, script: Script, source: str) -> float:
    """The mean loss of a script under seeds that no search has seen; infinite where one of them fails."""
    key = blake2b(f"{script.name} {source}".encode()).hexdigest()
    if key not in science.known:
        values = [science.score(script, source, 10**6 + number, is_known=True) for number in range(FRESH)]
        science.known[key] = fmean(float("inf") if isinstance(value, str) else value for value in values)
    return science.known[key]


def _row(found: Found) -> dict[str, Any]:
    return asdict(found)


def read(results: Path) -> list[Found]:
    """What stands in a file of results."""
    lines = results.read_text().splitlines() if results.exists() else []
    return [Found(**json.loads(line)) for line in lines]


def summary(found: Sequence[Found]) -> list[dict[str, Any]]:
    """For each script and number of runs: every method's mean true loss, its standard error, what it believed too much.

    Only seeds that every method has searched count.
    """
    told = []
    for script, runs in sorted({(one.script, one.runs) for one in found}):
        some = [one for one in found if (one.script, one.runs) == (script, runs)]
        methods = sorted({one.method for one in some})
        seeds = set.intersection(*({one.seed for one in some if one.method == name} for name in methods))
        values = {name: [one.true for one in some if one.method == name and one.seed in seeds] for name in methods}
        means = {name: fmean(each) for name, each in values.items() if each}
        believed = {
            name: fmean(one.true - one.believed for one in some if one.method == name and one.seed in seeds)
            for name in means
        }
        errors = {name: stdev(each) / len(each) ** 0.5 if len(each) > 1 else None for name, each in values.items()}
        told.append(
            {
                "script": script,
                "runs": runs,
                "seeds": len(seeds),
                "means": means,
                "errors": errors,
                "optimism": believed,
            }
        )
    return told
