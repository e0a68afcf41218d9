"""The evaluator: what a run was worth, said by the lab and not by the run.

level        what the lab believes                                     what it cannot see
printed      one metric line of the run's own log                      a run that prints what it likes
artifact     the judge's score of a file the run left, on data the     a run that learned those data elsewhere; how the
             run never had; the file can hold no code                  file came about
predictions  a score the judge computes from predictions on inputs     a run that gets at the judge's data; the jail
             whose answers the run never had                           keeps them out of reach where there is one
"""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, runtime_checkable

from nightlab.artifact import LARGEST, taken
from nightlab.errors import Invalid
from nightlab.judge import Judge, Part, fingerprint, last_line, named
from nightlab.values import Cost, Job, Measurement, Outcome, Run
from nightlab.workspace import remove

AGAIN = "again"
Launch = Callable[[Job], Run]
"""Runs a job in the jail and waits for it."""


@runtime_checkable
class Evaluator(Protocol):
    """Gives a run what it works on, and scores what it left."""

    def prepare(self, job: Job, *, seed: int, budget: float | None) -> Job:
        """The job with whatever this run is given laid out for it."""
        ...

    def evaluate(self, run: Run, job: Job, *, seed: int, part: Part = "data") -> Measurement:
        """The measurement of a finished run. Raises Invalid, with the reason, when it may not be believed."""
        ...


@dataclass(frozen=True, slots=True)
class Printed:
    """Level `printed`: exactly one line `name: number`, `METRIC name=number`, or one JSON line with the name."""

    metric: str
    bounds: tuple[float, float] | None = None

    def prepare(self, job: Job, *, seed: int, budget: float | None) -> Job:
        """Nothing to give: the script brings its own data."""
        return job

    def evaluate(self, run: Run, job: Job, *, seed: int, part: Part = "data") -> Measurement:
        """The number the run printed; nobody checked it."""
        log = run.log()
        found = printed_values(log, self.metric)
        if not log.strip():
            raise Invalid("printed nothing at all")
        if not found:
            raise Invalid(f"printed no line '{self.metric}: number'")
        if len(found) > 1:
            raise Invalid(
                f"printed {self.metric} {len(found)} times ({found[0]:g}, {found[1]:g}, ...); once is a result"
            )
        return Measurement(plausible(found[0], self.metric, self.bounds))


def printed_values(log: str, metric: str) -> list[float]:
    """Every value of a metric in a log, in order; carriage returns end lines too."""
    name = re.escape(metric)
    number = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)"
    plain = re.compile(rf"(?:{name}\s*:|METRIC\s+{name}\s*=)\s*({number})\s*", re.IGNORECASE)
    values = []
    for line in re.split(r"[\r\n]+", log):
        text = line.strip()
        if found := plain.fullmatch(text):
            values.append(float(found[1]))
        elif text.startswith("{") and metric in text:
            values += _json_value(text, metric)
    return values


def _json_value(text: str, metric: str) -> list[float]:
    try:
        value = json.loads(text).get(metric)
    except (ValueError, RecursionError):
        return []
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def plausible(value: float, metric: str, bounds: tuple[float, float] | None) -> float:
    """The value itself. Raises Invalid when it is not finite, too large to be squared, or outside the task's bounds."""
    if not isfinite(value):
        raise Invalid(f"{metric} is {value}, not a finite number")
    if abs(value) > LARGEST:
        raise Invalid(f"{metric} is {value:g}, too large to be compared with others")
    if bounds and not bounds[0] <= value <= bounds[1]:
        raise Invalid(f"{metric} is {value:g}, outside the task's bounds {bounds[0]:g} to {bounds[1]:g}")
    return value


@dataclass(frozen=True, slots=True)
class Artifact:
    """Level `artifact`: the run leaves one file of a kind that holds no code; the judge scores a copy of it.

    Not seen: a run that learned the judge's data from elsewhere; every decision shows the agent a little of them.
    """

    judge: Judge
    name: str
    metric: str
    bounds: tuple[float, float] | None = None
    gives: bool = False
    most: int = 1 << 30

    def prepare(self, job: Job, *, seed: int, budget: float | None) -> Job:
        """The job, which may not read what is the judge's; with the judge's gift where it gives."""
        return given(self.judge, job, seed=seed, budget=budget, gives=self.gives)

    def evaluate(self, run: Run, job: Job, *, seed: int, part: Part = "data") -> Measurement:
        """What the judge says of the artifact. Raises Invalid where there is none that may be opened."""
        run.folder.mkdir(parents=True, exist_ok=True)  # outside a jail a run can take its own folder away
        with TemporaryDirectory(dir=run.folder, prefix="judged-") as folder:
            left = taken(run.out, self.name, Path(folder), most=self.most)
            score = self.judge.score(left, seed=seed, part=part)
        found = named(score, part)
        return replace(found, value=plausible(found.value, self.metric, self.bounds))


@dataclass(frozen=True, slots=True)
class Predictions:
    """Level `predictions`: the candidate's code gets inputs only, in a second jail; the judge scores its answers.

    The judge lays out the inputs once the code is frozen, and imports none of it.

    Where `ask` also leaves a folder `again`, the code answers what is in there too, in a jail that knows nothing of the
    other, and `score` finds those answers in PREDICTIONS/again: what is answered otherwise among others was learned
    from the questions. Not covered at level "process": there one of the two can leave the other a word.
    """

    judge: Judge
    predict: tuple[str, ...]
    metric: str
    launch: Launch
    bounds: tuple[float, float] | None = None
    gives: bool = True
    timeout: float = 600.0

    def prepare(self, job: Job, *, seed: int, budget: float | None) -> Job:
        """The job, which may not read what is the judge's; with the judge's gift where it gives."""
        return given(self.judge, job, seed=seed, budget=budget, gives=self.gives)

    def evaluate(self, run: Run, job: Job, *, seed: int, part: Part = "data") -> Measurement:
        """What the judge says of the predictions this run's code makes."""
        inputs, again, answers = (run.folder / f"{name}-{part}" for name in ("inputs", "again", "predictions"))
        self.judge.ask(_fresh(inputs), seed=seed, part=part)
        fingerprinted = fingerprint(inputs)
        parts = [(inputs, answers)]
        if (inputs / AGAIN).is_dir():
            (inputs / AGAIN).rename(again)
            parts.append((again, run.folder / f"predictions-again-{part}"))
        cost = Cost()
        for asked, said in parts:
            cost += self._predict(run, job, asked, _fresh(said), used=run.cost + cost)
        for _, said in parts[1:]:
            remove(answers / AGAIN)  # the code that answered first could have left anything there
            said.rename(answers / AGAIN)
        _refuse_links(answers)
        score = named(self.judge.score(answers, seed=seed, part=part), fingerprinted)
        for folder in (inputs, again, answers):  # often larger than the model; made anew if asked again
            remove(folder)
        return replace(score, value=plausible(score.value, self.metric, self.bounds), cost=cost)

    def _predict(self, run: Run, job: Job, inputs: Path, answers: Path, *, used: Cost) -> Cost:
        """Have the run's code answer; what that took. It may use what the run has left, and leave nothing behind."""
        most = job.limits
        predicting = replace(
            job,
            id=f"{job.id}-{answers.name}",
            argv=self.predict,
            folder=run.folder / f"{answers.name}-run",
            limits=replace(
                most,
                wall=min([self.timeout] if most.wall is None else [self.timeout, max(most.wall - used.seconds, 0.1)]),
                cpu=None if most.cpu is None else max(most.cpu - used.cpu_seconds, 0.1),
            ),
            readable=(inputs, run.out),
            writable=(answers,),
            hidden=(*job.hidden, *self.judge.secrets),
            keeps_tree=True,
            env={
                **{k: v for k, v in job.env.items() if k != "NIGHTLAB_GIVEN"},
                "NIGHTLAB_OUT": str(run.out),
                "NIGHTLAB_INPUTS": str(inputs),
                "NIGHTLAB_PREDICTIONS": str(answers),
            },
        )
        predicted = self.launch(predicting)
        _need_answers(predicted, run, answers)
        remove(predicted.folder)
        return predicted.cost


def given(judge: Judge, job: Job, *, seed: int, budget: float | None, gives: bool) -> Job:
    """A job that may not read the judge's secrets, with its gift to this seed in NIGHTLAB_GIVEN where it gives."""
    job = replace(job, hidden=(*job.hidden, *judge.secrets))
    if not gives:
        return job
    gift = _fresh(job.folder / "given")
    judge.give(gift, seed=seed, budget=budget)
    return replace(job, readable=(*job.readable, gift), env={**job.env, "NIGHTLAB_GIVEN": str(gift)})


def _need_answers(predicted: Run, run: Run, answers: Path) -> None:
    """Raise Invalid where nothing was predicted, saying so when the run before it left nothing to predict with."""
    idle = "; the run itself left nothing in NIGHTLAB_OUT" if _is_empty(run.out) else ""
    if predicted.outcome is not Outcome.FINISHED:
        raise Invalid(f"predicting failed: {predicted.reason}; {last_line(predicted.log())}{idle}")
    if _is_empty(answers):
        raise Invalid(f"left no predictions in NIGHTLAB_PREDICTIONS{idle}")


def _is_empty(folder: Path) -> bool:
    """Whether nothing is there; outside a jail a run can even take the folder away."""
    try:
        return not os.listdir(folder)
    except OSError:
        return True


def _refuse_links(answers: Path) -> None:
    """The judge opens what lies here, and a link would have it open its own answers, or wait on a pipe for ever."""
    for folder, folders, files in os.walk(answers):
        for path in (Path(folder, name) for name in (*folders, *files)):
            if not stat.S_ISREG(mode := path.lstat().st_mode) and not stat.S_ISDIR(mode):
                raise Invalid(f"the predictions hold something that is no plain file: {path.relative_to(answers)}")


def _fresh(folder: Path) -> Path:
    remove(folder)  # an attempt that was cut short may have left something
    folder.mkdir(parents=True)
    return folder


def command_line(text: str, *, folder: Path) -> tuple[str, ...]:
    """A command as its words, with `python` made the interpreter of the user's project.

    That is the folder's own .venv, else the activated environment, else the interpreter that runs Nightlab. A
    module of ours, `nightlab.foreign`, is run by the interpreter that runs Nightlab.
    """
    words = shlex.split(text)
    if words[0].startswith("nightlab."):
        return (sys.executable, "-m", *words)
    if words[0] in ("python", "python3"):
        words[0] = _python(folder)
    return tuple(words)


def _python(folder: Path) -> str:
    active: Sequence[str | None] = (os.environ.get("VIRTUAL_ENV"), os.environ.get("CONDA_PREFIX"))
    for home in (folder / ".venv", *(Path(name) for name in active if name)):
        if (home / "bin" / "python").exists():
            return str(home / "bin" / "python")
    return sys.executable
