"""The evaluator: what a run was worth, said by the lab and not by the run.

level        what the lab believes                                     what it cannot see
printed      one metric line of the run's own log                      a run that prints what it likes
predictions  a score the judge computes from predictions on inputs     a run that gets at the judge's data; the jail
             whose answers the run never had                           keeps them out of reach where there is one
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from nightlab.errors import BadTask, Invalid
from nightlab.values import Cost, Job, Measurement, Outcome, Run
from nightlab.workspace import remove

Part = Literal["data", "sealed"]
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
        found = printed_values(run.log(), self.metric)
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
    """The value itself. Raises Invalid when it is not finite or outside the task's bounds."""
    if not isfinite(value):
        raise Invalid(f"{metric} is {value}, not a finite number")
    if bounds and not bounds[0] <= value <= bounds[1]:
        raise Invalid(f"{metric} is {value:g}, outside the task's bounds {bounds[0]:g} to {bounds[1]:g}")
    return value


@dataclass(frozen=True, slots=True)
class Predictions:
    """Level `predictions`: the candidate's code gets inputs only, in a second jail; the judge scores its answers.

    The judge is the task author's own program, kept in `home` outside every folder a run can read. It is called as
    `give OUT` (what a run may train on), `ask OUT` (inputs, drawn after the code is frozen) and `score PREDICTIONS`
    (prints one JSON line: value, per_example, secondary; says "invalid: why" and exits 1 to refuse).
    The scorer imports none of the candidate's code.

    Where `ask` also leaves a folder `again`, the code answers what is in there too, in a jail that knows nothing of the
    other, and `score` finds those answers in PREDICTIONS/again: what is answered otherwise among others was learned
    from the questions. Not covered at level "process": there one of the two can leave the other a word.
    """

    command: tuple[str, ...]
    predict: tuple[str, ...]
    home: Path
    cache: Path
    metric: str
    parts: Mapping[Part, str]
    launch: Launch
    bounds: tuple[float, float] | None = None
    timeout: float = 600.0

    def prepare(self, job: Job, *, seed: int, budget: float | None) -> Job:
        """The job with the judge's gift to this seed in NIGHTLAB_GIVEN."""
        given = _fresh(job.folder / "given")
        self._judge("give", given, seed=seed, budget=budget, part="data")
        return replace(job, readable=(*job.readable, given), env={**job.env, "NIGHTLAB_GIVEN": str(given)})

    def evaluate(self, run: Run, job: Job, *, seed: int, part: Part = "data") -> Measurement:
        """What the judge says of the predictions this run's code makes."""
        inputs, again, answers = (run.folder / f"{name}-{part}" for name in ("inputs", "again", "predictions"))
        self._judge("ask", _fresh(inputs), seed=seed, budget=None, part=part)
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
        score = _score(self._judge("score", answers, seed=seed, budget=None, part=part))
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
            keeps_tree=True,
            env={
                **{k: v for k, v in job.env.items() if k != "NIGHTLAB_GIVEN"},
                "NIGHTLAB_OUT": str(run.out),
                "NIGHTLAB_INPUTS": str(inputs),
                "NIGHTLAB_PREDICTIONS": str(answers),
            },
        )
        predicted = self.launch(predicting)
        if predicted.outcome is not Outcome.FINISHED:
            raise Invalid(f"predicting failed: {predicted.reason}; {last_line(predicted.log())}")
        remove(predicted.folder)
        return predicted.cost

    def _judge(self, verb: str, folder: Path, *, seed: int, budget: float | None, part: Part) -> str:
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LANG": "C.UTF-8",
            "NIGHTLAB_SEED": str(seed),
            "NIGHTLAB_DATA": self.parts[part],
            "NIGHTLAB_CACHE": str(self.cache),
        } | ({} if budget is None else {"NIGHTLAB_BUDGET": f"{budget:.17g}"})
        command = [*self.command, verb, str(folder)]
        done = subprocess.run(
            command, cwd=self.home, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode == 0:
            return done.stdout
        said = last_line(done.stderr)
        if verb == "score" and said.startswith("invalid: "):
            raise Invalid(said.removeprefix("invalid: "))
        raise BadTask(f"the judge failed at {shlex.join(command)}: {said or f'exit code {done.returncode}'}")


def _fresh(folder: Path) -> Path:
    remove(folder)  # an attempt that was cut short may have left something
    folder.mkdir(parents=True)
    return folder


def _score(printed: str) -> Measurement:
    try:
        said: Any = json.loads(printed)
        secondary = {str(name): float(value) for name, value in said.get("secondary", {}).items()}
        return Measurement(float(said["value"]), secondary=secondary)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadTask(f"the judge must print one JSON line with a 'value'; it printed {printed[:200]!r}") from error


def last_line(text: str) -> str:
    """The last line that says anything; of a traceback, its message."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""


def command_line(text: str, *, folder: Path) -> tuple[str, ...]:
    """A command as its words, with `python` made the interpreter of the user's project.

    That is the folder's own .venv, else the activated environment, else the interpreter that runs Nightlab.
    """
    words = shlex.split(text)
    if words[0] in ("python", "python3"):
        words[0] = _python(folder)
    return tuple(words)


def _python(folder: Path) -> str:
    active: Sequence[str | None] = (os.environ.get("VIRTUAL_ENV"), os.environ.get("CONDA_PREFIX"))
    for home in (folder / ".venv", *(Path(name) for name in active if name)):
        if (home / "bin" / "python").exists():
            return str(home / "bin" / "python")
    return sys.executable
