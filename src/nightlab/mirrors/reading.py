"""What a mirror shows: one row for each experiment, in the order of their numbers, and a summary of the study."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from nightlab.ledger import Ledger
from nightlab.report import headline, report
from nightlab.values import Experiment, Status, improvement

_WERE_KEPT = (Status.KEPT, Status.PRUNED, Status.REVERTED)


@dataclass(frozen=True, slots=True)
class Row:
    """One experiment: its step, when it was decided, what can be drawn, what can be read."""

    step: int
    at: float
    numbers: dict[str, float]
    words: dict[str, str]


@dataclass(frozen=True, slots=True)
class Subject:
    """The study that is mirrored: its name, an identity no other study has, and what it was started with."""

    name: str
    identity: str
    facts: dict[str, str]


def subject(ledger: Ledger, name: str) -> Subject:
    """Who is mirrored. Two studies of one name, in two repositories, are two."""
    event = next(ledger.read(kind="study"), None)
    body = dict(event.body) if event else {}
    identity = blake2b(f"{event.at if event else 0!r} {body}".encode(), digest_size=6).hexdigest()
    known = ("metric", "direction", "level", "policy", "seed", "base")
    return Subject(name, identity, {key: str(body[key]) for key in known if key in body})


class Reader:
    """Reads a ledger on from where it was.

    An experiment that is still open holds back those after it: then steps only rise, as W&B wants it, and one number
    says all of what was sent.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._direction = (ledger.study() or {}).get("direction", "lower")
        self._seen = 0
        self._decided: dict[int, float] = {}
        self._money: dict[int, float] = {}

    def rows(self, since: int) -> Iterator[Row]:
        """What has become of the experiments from this number on."""
        self._catch_up()
        best = self._best_before(since)
        for number in range(since, self._ledger.next_number()):
            one = self._ledger.experiment(number)
            if one.status.is_open:
                return
            if one.status in _WERE_KEPT:
                best = self._better(best, one.value)
            yield self._row(one, best)

    def _catch_up(self) -> None:
        for event in self._ledger.read(self._seen):
            self._seen, number = event.seq, event.experiment
            if number is not None and event.kind in ("decided", "rejected"):
                self._decided[number] = event.at
            if number is not None and event.kind in ("proposed", "rejected"):
                self._money[number] = event.body.get("money") or 0.0

    def _best_before(self, number: int) -> float | None:
        best = None
        for status in _WERE_KEPT if number else ():
            for one in self._ledger.experiments(status=status):
                best = self._better(best, one.value) if one.id < number else best
        return best

    def _better(self, best: float | None, value: float | None) -> float | None:
        if best is None or value is None:
            return value if best is None else best
        return value if improvement(self._direction, value, best) > 0 else best

    def _row(self, one: Experiment, best: float | None) -> Row:
        known: dict[str, float | None] = {
            "value": one.value,
            "gain": one.gain,
            "stderr": one.stderr,
            "best": best,
            "kept": float(one.status in _WERE_KEPT),
            "grade": None if one.grade is None else float(one.grade[1]),
            "runs": float(one.runs),
            "seconds": one.seconds,
            "cost": self._money.get(one.id, 0.0),
        }
        words = {"status": str(one.status), "hypothesis": one.hypothesis, "proposer": one.proposer}
        numbers = {name: value for name, value in known.items() if value is not None}
        return Row(one.id, self._decided.get(one.id, 0.0), numbers, words | {"reason": one.reason})


def summary(ledger: Ledger, name: str) -> tuple[dict[str, float], dict[str, str]]:
    """What came of the study so far, the audited gain first: what can be drawn, what can be read."""
    told = report(ledger, name=name, is_running=False)
    parts: list[tuple[str, dict[str, Any]]] = [("audited_", told["audited"] or {}), ("claimed_", told["claim"] or {})]
    numbers = {
        prefix + key: float(found[key])
        for prefix, found in parts
        for key in ("gain", "low", "high", "percent")
        if found.get(key) is not None
    }
    numbers |= {name: float(told["cost"][name]) for name in ("seconds", "money", "tokens")}
    numbers["stands"] = float(len(told["stands"]))
    return numbers, {"result": headline(told), "stopped": str(told["stopped"] or "")}
