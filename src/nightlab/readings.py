"""Readings: what people and programs are shown of a ledger; the keys are stable, more may be added."""

from __future__ import annotations

from statistics import median
from typing import Any

from nightlab.ledger import Ledger
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
        "baseline": _standing(start, "value", "commit"),
        "incumbent": _standing(best, "value", "commit", "grade", "id"),
        "audited": dict(audited.body) if audited else None,
        "exposure": ledger.exposure(),
        "cost": ledger.spent(),
    }


def _standing(experiment: Experiment | None, *names: str) -> dict[str, Any]:
    return {name: getattr(experiment, name, None) for name in names}


def row(experiment: Experiment) -> dict[str, Any]:
    """One experiment as `log --json` shows it."""
    names = ("id", "parent", "status", "grade", "hypothesis", "value", "stderr", "gain", "z", "runs", "seconds")
    return {name: getattr(experiment, name) for name in (*names, "proposer", "reason", "commit", "tree")}


def seconds_per_experiment(experiments: list[Experiment]) -> float | None:
    """The median time of the last experiments; None before there was one."""
    times = [experiment.seconds for experiment in experiments[-20:] if experiment.runs]
    return median(times) if times else None
