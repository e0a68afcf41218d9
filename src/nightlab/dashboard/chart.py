"""What the charts show, as JSON: bounded however long the night was, read by queries that load no patch."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from math import sqrt
from typing import Any, NamedTuple

from nightlab.ledger import Ledger
from nightlab.readings import noise
from nightlab.stats import spread
from nightlab.values import Direction, Status, improvement

MOST = 1_000
"""Points of a chart: more than this a screen cannot show."""
_MOST_KEPT = 100
_MOST_FAILED = 200
_LONGEST = 141  # letters of a hypothesis, the last of them to tell that there are more
_TWO_SIDED = 1.96  # standard errors to either side of a value: 95 %
_FAILED = (Status.CRASHED, Status.TIMEOUT, Status.INVALID)
_DECIDED = """
SELECT id, status, value, gain FROM experiments WHERE decided IS NOT NULL AND status != 'rejected' ORDER BY decided
"""
_WORDS = """
SELECT e.id, substr(e.hypothesis, 1, ?), e.grade, e.proposer,
       (SELECT count(*) FROM runs r WHERE r.experiment = e.id AND r.purpose = 'candidate' AND r.value IS NOT NULL)
FROM experiments e WHERE e.id IN ({})
"""
_MEASURED = """
SELECT id, substr(hypothesis, 1, ?), grade, status, value, complexity, peak_mb, seconds / runs
FROM experiments WHERE value IS NOT NULL AND runs > 0 ORDER BY id
"""


class _Point(NamedTuple):
    place: int
    id: int
    status: str
    value: float | None
    gain: float | None


def progress(ledger: Ledger, *, most: int = MOST) -> dict[str, Any]:
    """Every experiment in the order decided: the kept with their words, the running best, the failures.

    Of the others at most so many points, the best and the worst of each stretch among them; `left_out` says how many
    are not there. The y range is the span that matters, so that one exploded run does not flatten all others.
    """
    with closing(_connection(ledger)) as db:
        points = [_Point(place, *row) for place, row in enumerate(db.execute(_DECIDED))]
        study, sigma = ledger.study() or {}, _sigma(ledger)
        measured = [one for one in points if one.value is not None]
        kept = [one for one in measured if one.status == Status.KEPT]
        lost = [one for one in measured if one.status != Status.KEPT]
        failed = [one for one in points if one.status in _FAILED]
        shown, marks, named = _thinned(lost, most), failed[:: 1 + len(failed) // _MOST_FAILED], _named(kept)
        steps = _thinned(kept, most)
        return {
            "kind": "progress",
            "metric": study.get("metric"),
            "direction": study.get("direction"),
            "sigma": sigma,
            "decided": len(points),
            "counts": {"kept": len(kept), "lost": len(lost), "failed": len(failed)},
            "points": [[one.place, one.id, one.value, one.status] for one in shown],
            "left_out": len(lost) - len(shown),
            "kept": list(_told(db, named, sigma)),
            "kept_left_out": len(kept) - len(named),
            "best": [[one.place, one.value] for one in steps],
            "failed": [[one.place, one.id, one.status] for one in marks],
            "failed_left_out": len(failed) - len(marks),
            "y": _span([one.value or 0.0 for one in measured], [one.value or 0.0 for one in kept], sigma),
        }


def frontier(ledger: Ledger, *, most: int = MOST) -> dict[str, Any]:
    """The metric against what there is to read: every measured experiment, those marked that nobody beats in both
    metric and simplicity (the start is at 0 lines)."""
    study = ledger.study() or {}
    direction: Direction = study.get("direction", "lower")
    with closing(_connection(ledger)) as db:
        rows = db.execute(_MEASURED, (_LONGEST,)).fetchall()
    names = ("id", "hypothesis", "grade", "status", "value", "complexity", "peak_mb", "seconds")
    seen = [dict(zip(names, row, strict=True)) for row in rows]
    front = _front(seen, direction)
    best = [one | {"hypothesis": _label(one["hypothesis"])} for one in seen if one["id"] in front]
    others = [one for one in seen if one["id"] not in front]
    shown = others[:: 1 + len(others) // most]
    return {
        "kind": "frontier",
        "metric": study.get("metric"),
        "direction": study.get("direction"),
        "points": [[one["complexity"], one["id"], one["value"], one["status"]] for one in shown],
        "left_out": len(others) - len(shown),
        "front": sorted(best, key=lambda one: (one["complexity"], one["id"]))[:_MOST_KEPT],
        "y": _span([one["value"] for one in seen], [one["value"] for one in best], None),
        "x": _span([one["complexity"] for one in seen], [one["complexity"] for one in best], None),
    }


def _front(seen: Sequence[Mapping[str, Any]], direction: Direction) -> set[int]:
    """Who is better than everybody who has as little to read: one sweep from the simplest on."""
    front: set[int] = set()
    best: float | None = None
    for one in sorted(seen, key=lambda one: (one["complexity"], -improvement(direction, one["value"], 0.0), one["id"])):
        if best is None or improvement(direction, one["value"], best) > 0:
            best = one["value"]
            front.add(one["id"])
    return front


def _connection(ledger: Ledger) -> sqlite3.Connection:
    """A second, reading connection: the ledger's own readings bring patches and facts along, which no chart shows."""
    db = sqlite3.connect(ledger.path, timeout=30.0)
    db.execute("PRAGMA query_only = 1")
    return db


def _sigma(ledger: Ledger) -> float | None:
    """What one run varies by: measured at the start, or else told by the repeated runs of the baseline."""
    measured = noise(ledger)
    if measured:
        return float(measured["sigma"])
    first = ledger.first()
    return spread([value for *_, value in ledger.pool(first.id)]) if first else None


def _thinned(points: Sequence[_Point], most: int) -> list[_Point]:
    """At most so many points: of each stretch the lowest and the highest, so that no extreme is lost, and two more
    that nobody picked, so that one sees where most lie."""
    if len(points) <= most:
        return list(points)
    stretches = max(1, most // 4)
    chosen: set[_Point] = set()
    for number in range(stretches):
        stretch = points[number * len(points) // stretches : (number + 1) * len(points) // stretches]
        ranked = sorted(stretch, key=lambda one: one.value or 0.0)
        chosen |= {ranked[0], ranked[-1], stretch[0], stretch[len(stretch) // 2]}
    return sorted(chosen)


def _named(kept: Sequence[_Point]) -> list[_Point]:
    """The kept whose words are shown: the first, the last, and the ones that gained most."""
    ends = {*kept[:1], *kept[-1:]}
    rest = sorted((one for one in kept if one not in ends), key=lambda one: -(one.gain or 0.0))
    return sorted([*ends, *rest[: _MOST_KEPT - len(ends)]])


def _told(db: sqlite3.Connection, kept: Sequence[_Point], sigma: float | None) -> Iterator[dict[str, Any]]:
    marks = ", ".join("?" * len(kept))
    words = {row[0]: row[1:] for row in db.execute(_WORDS.format(marks), (_LONGEST, *(one.id for one in kept)))}
    for place, id_, _, value, gain in kept:
        hypothesis, grade, proposer, runs = words[id_]
        bar = _TWO_SIDED * sigma / sqrt(max(1, runs)) if sigma and value is not None else None
        yield {
            "place": place,
            "id": id_,
            "value": value,
            "low": None if bar is None or value is None else value - bar,
            "high": None if bar is None or value is None else value + bar,
            "gain": gain,
            "hypothesis": _label(hypothesis),
            "grade": grade,
            "proposer": proposer,
        }


def _label(hypothesis: str) -> str:
    line = " ".join(hypothesis.split())
    return line if len(line) < _LONGEST else line[: _LONGEST - 2] + "…"


def _span(values: Sequence[float], best: Sequence[float], sigma: float | None) -> list[float] | None:
    """All the best, as far again to the side where the others lie, and as far as most of them; None without values.

    What is farther off is shown at the edge.
    """
    if not values:
        return None
    ranked, width = sorted(values), max(best, default=0.0) - min(best, default=0.0)
    many, most = len(ranked) * 2 // 5, len(ranked) // 20
    low, high = min(best, default=ranked[0]), max(best, default=ranked[-1])
    low = min(low, max(ranked[most], min(low - 0.6 * width, ranked[many]))) - 2 * (sigma or 0.0)
    high = max(high, min(ranked[-1 - most], max(high + 0.6 * width, ranked[-1 - many]))) + 2 * (sigma or 0.0)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return [low - room, high + room]
