"""The check before a night: the baseline's noise, the smallest gain that can be seen, what a night buys."""

from __future__ import annotations

import os
import shutil
from statistics import median
from typing import Any

from nightlab.errors import BadTask
from nightlab.foreign.judging import JUDGE_RUN
from nightlab.loop import Stop
from nightlab.place import Place, held
from nightlab.study import Study
from nightlab.task import Task, load

_TRUST = {
    "printed": "Level printed: the number is what the run itself says; a script that prints what it likes is not seen.",
    "artifact": "Level artifact: the judge scores a file the run left, on data the run never had; how the file came "
    "about, and what the run knew of those data from elsewhere, is not seen.",
    "predictions": "Level predictions: the judge scores answers to inputs whose truth the run never had; a run that "
    "gets past the jail to that truth is not seen.",
}

_SHARES_A_PROCESS = (
    "The evaluator of another system runs the candidate in the evaluator's own process: a candidate that meddles with "
    "it, or looks for its data there, is not seen."
)


def check(place: Place, *, runs: int, slots: int, unsafe: bool = False) -> dict[str, Any]:
    """Run the baseline a few times in a study of its own, which is taken away again."""
    if load(place.root).live is not None:
        raise BadTask("a live task is not checked by runs: nightlab live capacity says what its traffic can tell")
    beside = Place(place.root, f"check-{os.getpid()}")
    try:
        with held(beside):
            study = Study(beside, slots=slots, unsafe=unsafe)
            try:
                loop = study.loop([])
                loop.policy.baseline_runs = runs
                loop.run(Stop(experiments=0))
                return _what_was_checked(study) | loop.noise.power(study.ledger) | _what_holds(study)
            finally:
                study.close()
    finally:
        shutil.rmtree(beside.home, ignore_errors=True)
        beside.repository.git("update-ref", "-d", f"refs/heads/{beside.branch}")


def _what_was_checked(study: Study) -> dict[str, Any]:
    found = [run for run in study.ledger.runs(0) if run["purpose"] == "incumbent" and run["value"] is not None]
    each = median(run["seconds"] for run in found)
    return {
        "metric": study.task.metric.name,
        "values": [run["value"] for run in found],
        "seconds": each,
        "cpu_seconds": median(run["cpu_seconds"] for run in found),
        "runs_a_night": int(8 * 3600 / each * study.executor.slots),
        "level": study.task.metric.level,
        "trust": _trust(study.task),
        "jail": study.executor.level,
    }


def _trust(task: Task) -> str:
    """What this level of believing cannot see."""
    is_foreign = task.judge is not None and task.judge.run == JUDGE_RUN and task.metric.level == "artifact"
    return f"{_TRUST[task.metric.level]} {_SHARES_A_PROCESS}" if is_foreign else _TRUST[task.metric.level]


def _what_holds(study: Study) -> dict[str, Any]:
    """What was found out about the seed, the sealed set and the judge, in words."""
    values = [value for *_, value in study.ledger.samples(0, "incumbent")]
    varies = len(set(values)) > 1
    judged = study.task.judge is not None and study.task.metric.level != "printed"
    walls = "" if study.executor.level != "process" else " There is no jail here: a run can read what this user can."
    return {
        "is_deterministic": not varies,
        "seed": f"The seed is honoured: {len(values)} seeds gave {len(set(values))} numbers."
        if varies
        else f"{len(values)} seeds gave the same number: the task is deterministic, or ignores NIGHTLAB_SEED; one run "
        "decides.",
        "has_sealed": study.task.has_sealed,
        "sealed": f"{study.judged_on[0].upper()}{study.judged_on[1:]}.{walls if judged else ''}",
        "judge": "The judge agrees with itself: it scored the baseline's work twice and said the same."
        if judged
        else "There is no judge.",
    }
