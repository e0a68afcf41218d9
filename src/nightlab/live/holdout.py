"""The holdout: what all changes together are worth, against visitors who were shown the start all the while.

Three numbers are always said side by side. *Naive*: the lifts as seen when each change was chosen, multiplied;
too good, because what was chosen looked good. *Shrunk*: the same after empirical Bayes. *Holdout*: the champion against
the start, on visitors first shown something after the champion had been chosen, whom no decision was made with.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, prod, sqrt
from typing import Any

from nightlab.live import claims, labels
from nightlab.live.claims import HOUR
from nightlab.live.comparison import Snapshot
from nightlab.live.store import Side, Store
from nightlab.task import Live

_Z = 1.959964


@dataclass(frozen=True, slots=True)
class Three:
    """The lift of the champion over the start, three times; the holdout's with its 95 % interval, None: not known."""

    champion: int
    naive: float
    shrunk: float
    holdout: float | None
    low: float | None
    high: float | None
    served: Side
    held_out: Side

    def words(self) -> str:
        """One line."""
        held = "not known yet"
        if self.holdout is not None and self.low is not None and self.high is not None:
            held = f"{self.holdout:+.1%} (95 % interval {self.low:+.1%} to {self.high:+.1%})"
        return f"lift over the start: naive {self.naive:+.1%}, shrunk {self.shrunk:+.1%}, against the holdout {held}"


def three(store: Store, snapshot: Snapshot, live: Live) -> Three | None:
    """The three numbers of the champion; None before there is one."""
    split = store.split()
    if split is None:
        return None
    known = claims.channel(store, snapshot, live.effect)
    seen = [lift for pair in line(store, split.champion) if (lift := labels.lift(snapshot.tallies(*pair))) is not None]
    served, held = fresh(store, live.outcome, split.champion)
    found = ratio(served, held)
    low, high = (None, None) if found is None else found.interval
    return Three(
        split.champion,
        prod(1 + lift.lift for lift in seen) - 1,
        prod(1 + known.prior.posterior(lift).lift for lift in seen) - 1,
        None if found is None else found.lift,
        low,
        high,
        served,
        held,
    )


def line(store: Store, champion: int) -> list[tuple[int, int]]:
    """What was compared on the way from the start to the champion."""
    parents = {arm.number: arm.parent for arm in store.arms()}
    found, at = list[tuple[int, int]](), champion
    while (parent := parents.get(at)) is not None:
        found.append((at, parent))
        at = parent
    return found[::-1]


def fresh(store: Store, outcome: str, champion: int) -> tuple[Side, Side]:
    """Units shown the champion, and units held out, since the hour after it was chosen."""
    since = next(
        (float(note.body["at"]) for note in reversed(store.notes("champion")) if note.body["arm"] == champion), 0.0
    )
    served, held = Side(), Side()
    for one in store.totals(outcome, since=since + HOUR):
        if one.holdout:
            held += one.side
        elif one.arm == champion:
            served += one.side
    return served, held


def ratio(new: Side, old: Side) -> labels.Lift | None:
    """How many times the old rate the new one is, less one; None while either side has no conversion."""
    if not (new.converted and old.converted):
        return None
    at = log(new.converted / new.exposed) - log(old.converted / old.exposed)
    variance = 1 / new.converted - 1 / new.exposed + 1 / old.converted - 1 / old.exposed
    return labels.Lift(exp(at) - 1, sqrt(max(variance, 0.0)))


def audited(found: Three, direction_gain: float = 1.0) -> dict[str, Any]:
    """As the ledger's `audited` event tells it: in units of the metric."""
    start = found.held_out.converted / found.held_out.exposed if found.held_out.exposed else 0.0
    gain, low, high = (start * (one or 0.0) * direction_gain for one in (found.holdout, found.low, found.high))
    named = {"gain": gain, "low": low, "high": high, "percent": 100 * (found.holdout or 0.0), "start": start}
    return {name: named[name] for name in ("gain", "low", "high", "percent")} | {
        "experiment": found.champion,
        "validation": named,
        "sealed": named,
        "data": "holdout",
        "seeds": [],
        "runs": 0,
        "seconds": 0.0,
        "naive": found.naive,
        "shrunk": found.shrunk,
        "exposed": [found.served.exposed, found.held_out.exposed],
    }
