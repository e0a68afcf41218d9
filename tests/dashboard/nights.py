"""Nights as a ledger tells them, without a lab: what was tried, what came of it, what the audit said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nightlab.ledger import Event, Ledger

STUDY = {
    "seed": 0,
    "base": "abc",
    "metric": "val_bpb",
    "direction": "lower",
    "policy": "race",
    "level": "predictions",
    "jail": "bubblewrap",
}
AUDITED = {
    "experiment": 2,
    "gain": 1.0,
    "low": 0.8,
    "high": 1.2,
    "percent": 25.0,
    "validation": {"gain": 0.9, "low": 0.7, "high": 1.1, "percent": 22.5, "start": 4.0},
    "sealed": {"gain": 1.0, "low": 0.8, "high": 1.2, "percent": 25.0, "start": 4.0},
    "data": "sealed",
    "seeds": [1, 2, 3],
    "runs": 6,
    "seconds": 60.0,
}
MEASURED = {"sigma": 0.1, "correlation": 0.0, "visible_gain": 0.2, "good_for": 500, "examples": 1000}


def tried(number: int, status: str, value: float | None, **more: Any) -> list[Event]:
    """One experiment from proposal to decision."""
    parent = more.pop("parent", max(0, number - 1) if number else None)
    proposed = {
        "parent": parent,
        "hypothesis": f"idea {number}",
        "proposer": "tuner.constants",
        "tree": f"tree{number}",
        "diff": f"--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-X = {number - 1}\n+X = {number}\n",
        "complexity": 0.5 * number,
    }
    decided = {"status": status, "value": value, "gain": 0.5, "stderr": 0.1, "z": 5.0, "reason": "z 5 > 0"}
    words = {name: more.pop(name) for name in list(more) if name in proposed}
    run = f"{number}-1"
    started = {"run": run, "purpose": "candidate", "seed": 1, "asked_by": number, "again": 0}
    ran = {"run": run, "outcome": "finished", "value": value, "seconds": 2.0, "cpu_seconds": 2.0, "peak_mb": 50.0}
    return [
        Event("proposed", str(number), proposed | words, number),
        Event("started", run, started, number),
        Event("ran", run, ran, number),
        Event("decided", str(number), decided | {"grade": "E1" if value is not None else None} | more, number),
    ]


def a_night(
    path: Path, *, audited: Mapping[str, Any] | None = AUDITED, more: Iterable[Event] = (), **study: Any
) -> Ledger:
    """A short night: the start, two keeps, one that changed nothing, one crash."""
    ledger = Ledger(path, clock=lambda: 1_700_000_000.0)
    ledger.append(
        Event("study", "0", STUDY | study),
        Event("began", "0", {"slots": 1, "jail": "bubblewrap"}),
        *tried(0, "kept", 4.0, hypothesis="baseline", proposer="lab", gain=None, stderr=None, diff=""),
        Event("measured", "0", MEASURED),
        *tried(1, "kept", 3.5),
        *tried(2, "kept", 3.0),
        *tried(3, "discarded", 3.05, parent=2, gain=-0.05, z=-0.5, reason="z -0.50 <= 0"),
        *tried(4, "crashed", None, parent=2, gain=None, stderr=None, reason="exit code 1: ValueError at line 12"),
        *(
            [Event("opened", "0", {"seeds": [1, 2, 3], "sealed": True}), Event("audited", "0", audited)]
            if audited
            else []
        ),
        *more,
    )
    return ledger


def a_long_night(path: Path, experiments: int, *, kept_every: int = 20) -> Ledger:
    """Many experiments with long words, the n-th kept now and then, each a little better."""
    ledger = Ledger(path)
    words = "a hypothesis as long as agents write them, with all that they think about it " * 3
    events = [Event("study", "0", STUDY), *tried(0, "kept", 4.0)]
    best, parent = 4.0, 0
    for number in range(1, experiments):
        is_kept = number % kept_every == 0
        best -= 0.001 if is_kept else 0.0
        value = best if is_kept else best + (number * 7919 % 1000) / 1000
        diff = "--- a/train.py\n+++ b/train.py\n" + "".join(f"+line {n} of a patch\n" for n in range(30))
        if number % 50 == 7:
            events += tried(number, "crashed", None, parent=parent, reason=f"exit code {number}")
        else:
            status = "kept" if is_kept else "discarded"
            events += tried(number, status, value, parent=parent, hypothesis=f"{number}: {words}", diff=diff)
        parent = number if is_kept else parent
    ledger.append(*events, Event("audited", "0", AUDITED | {"experiment": parent}))
    return ledger
