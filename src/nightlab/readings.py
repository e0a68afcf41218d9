"""Readings: what people and programs are shown of a ledger; the keys are stable, more may be added."""

from __future__ import annotations

from math import inf
from statistics import fmean, median
from typing import Any

from nightlab.ledger import Ledger
from nightlab.simplicity import dominating
from nightlab.stats import good_for
from nightlab.values import Experiment, Status

_LOST = (Status.DISCARDED, Status.SHELVED, Status.PRUNED, Status.REVERTED)
_FAILED = (Status.CRASHED, Status.TIMEOUT, Status.INVALID)


def status(ledger: Ledger, *, name: str, is_running: bool) -> dict[str, Any]:
    """One study at a glance. The baseline counts as an experiment that was kept, as in results.tsv."""
    counts, study = ledger.counts(), ledger.study() or {}
    best, start, audited = ledger.incumbent(), ledger.first(), ledger.last("audited")
    return {
        "study": name,
        "experiments": sum(counts.values()) - counts.get(Status.REJECTED, 0),
        "kept": counts.get(Status.KEPT, 0),
        "discarded": sum(counts.get(one, 0) for one in _LOST),
        "crashed": sum(counts.get(one, 0) for one in _FAILED),
        "rejected": counts.get(Status.REJECTED, 0),
        "running": len(ledger.unfinished()) if is_running else 0,
        "metric": study.get("metric"),
        "direction": study.get("direction"),
        "level": study.get("level"),
        "policy": study.get("policy"),
        "jail": study.get("jail"),
        "baseline": _standing(start, "value", "commit", "grade"),
        "incumbent": _standing(best, "value", "commit", "grade", "id") | {"estimate": estimate(ledger, best)},
        "noise": noise(ledger),
        "audited": dict(audited.body) if audited else None,
        "exposure": ledger.exposure(),
        "cost": ledger.spent(),
    }


def estimate(ledger: Ledger, experiment: Experiment | None) -> float | None:
    """What a kept tree comes to by its unselected runs; by all its runs where no other was made."""
    if experiment is None:
        return None
    values = [value for *_, value in ledger.pool(experiment.id)]
    return fmean(values) if values else experiment.value


def noise(ledger: Ledger) -> dict[str, Any] | None:
    """What the start of the study said of the task: what one run varies by, the gain that can be seen, and how many
    decisions the validation set is good for. None before it was measured."""
    measured = ledger.last("measured")
    if measured is None:
        return None
    found, between = dict(measured.body), ledger.between()
    if found["good_for"] is None and between and found["examples"] and found["visible_gain"]:
        found["good_for"] = good_for(found["visible_gain"], median(between), found["examples"])
    return found | {"drifted": ledger.count("drifted")}


def frontier(ledger: Ledger) -> list[dict[str, Any]]:
    """The Pareto front of what was measured: metric, simplicity, memory and time of a run, the best of each.

    By one's own number, grade beside it: a front picks lucky runs, so all but audited ones are claims.
    """
    # Runs that a look back made are in its own time: how long one took is not known of them.
    sign = 1.0 if (ledger.study() or {}).get("direction") == "lower" else -1.0
    seen = [one for one in ledger.experiments() if one.value is not None and one.runs]
    points = {
        one.id: (sign * (one.value or 0.0), one.complexity, one.peak_mb or 0.0, one.seconds / one.runs or inf)
        for one in seen
    }
    front = set(dominating(points))
    return [row(one) | {"peak_mb": one.peak_mb, "seconds": one.seconds / one.runs} for one in seen if one.id in front]


def _standing(experiment: Experiment | None, *names: str) -> dict[str, Any]:
    return {name: getattr(experiment, name, None) for name in names}


def row(experiment: Experiment) -> dict[str, Any]:
    """One experiment as `log --json` shows it."""
    names = ("id", "parent", "status", "grade", "hypothesis", "value", "stderr", "gain", "z", "runs", "seconds")
    more = ("proposer", "reason", "commit", "tree", "complexity")
    return {name: getattr(experiment, name) for name in (*names, *more)}


def seconds_per_experiment(experiments: list[Experiment]) -> float | None:
    """The median time of the last experiments; None before there was one."""
    times = [experiment.seconds for experiment in experiments[-20:] if experiment.runs]
    return median(times) if times else None
