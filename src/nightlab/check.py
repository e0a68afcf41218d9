"""The check before a night: the baseline's noise, the smallest gain that can be seen, what a night buys."""

from __future__ import annotations

import os
import shutil
from math import sqrt
from statistics import median
from typing import Any

from nightlab.loop import Stop
from nightlab.place import Place, held
from nightlab.study import Study

_TRUST = {
    "printed": "Level printed: the number is what the run itself says; a script that prints what it likes is not seen.",
    "predictions": "Level predictions: the judge scores answers to inputs whose truth the run never had.",
}


def check(place: Place, *, runs: int, slots: int, unsafe: bool = False) -> dict[str, Any]:
    """Run the baseline a few times in a study of its own, which is taken away again."""
    beside = Place(place.root, f"check-{os.getpid()}")
    try:
        with held(beside):
            study = Study(beside, slots=slots, unsafe=unsafe)
            try:
                loop = study.loop([])
                loop.policy.baseline_runs = runs
                loop.run(Stop(experiments=0))
                return _what_was_checked(study, loop.sigma or 0.0)
            finally:
                study.close()
    finally:
        shutil.rmtree(beside.home, ignore_errors=True)
        beside.repository.git("update-ref", "-d", f"refs/heads/{beside.branch}")


def _what_was_checked(study: Study, sigma: float) -> dict[str, Any]:
    found = [run for run in study.ledger.runs(0) if run["value"] is not None]
    each = median(run["seconds"] for run in found)
    return {
        "metric": study.task.metric.name,
        "values": [run["value"] for run in found],
        "sigma": sigma,
        "seconds": each,
        "cpu_seconds": median(run["cpu_seconds"] for run in found),
        # Eight runs, four a side, at the keep rule's 1.5 standard errors, seen with a power of 0.8.
        "visible_gain": (1.5 + 0.84) * sigma * sqrt(1 / 4 + 1 / 4),
        "runs_a_night": int(8 * 3600 / each * study.executor.slots),
        "level": study.task.metric.level,
        "trust": _TRUST[study.task.metric.level],
        "jail": study.executor.level,
    }
