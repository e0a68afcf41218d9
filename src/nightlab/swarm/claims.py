"""Who tries what: claims and results by the change that they are about, whatever it stands on."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

from nightlab.swarm.record import Claim, Record, Result
from nightlab.values import Clock
from nightlab.words import one_line

_PRESENT = 5
"""So many leases a claim holds while its author is there to be seen; one lease where it is not."""
_LONGEST = 6 * 3600.0
"""Seconds that a lease may last, whatever its author says."""
_AT_ONCE = 10.0
"""Seconds within which two claims count as made at once: a push takes milliseconds, anti-entropy a few seconds."""

Lab = tuple[str, str]
"""An author and which of its labs."""


class Claims:
    """What is under way and what was tried, as one lab sees it; any thread may ask.

    A lease runs from when its claim came here, by this machine's clock: no two clocks have to agree.
    """

    def __init__(self, mine: Lab, *, clock: Clock, present: Callable[[], Collection[str]]) -> None:
        self._mine, self._clock, self._present = mine, clock, present
        self._claims: dict[str, list[tuple[Record, Claim, float]]] = defaultdict(list)
        self._tried: dict[str, tuple[Record, Result]] = {}
        self._ours: dict[str, int] = {}
        self._lost: dict[int, str] = {}
        self._lock = threading.Lock()

    def see(self, records: Iterable[Record]) -> None:
        """Take in what became known."""
        with self._lock:
            for record in records:
                match record.body:
                    case Claim() as body:
                        self._claims[body.patch].append((record, body, self._clock()))
                        self._yield(body.patch)
                    case Result() as body if record.author != self._mine[0]:
                        self._tried.setdefault(body.patch, (record, body))
                        self._ours.pop(body.patch, None)

    def _yield(self, patch: str) -> None:
        """Of two who claim one change at once the lower record has it, wherever they are looked at. Who comes later
        ends nobody's run: a record can be made lower than one that is known."""
        if patch not in self._ours or (other := self._holder(patch)) is None:
            return
        mine = [(one.id, at) for one, body, at in self._claims[patch] if (one.author, body.lab) == self._mine]
        is_at_once = bool(mine) and self._clock() - mine[-1][1] <= _AT_ONCE
        if is_at_once and other[0].id < mine[-1][0]:
            self._lost[self._ours.pop(patch)] = f"yielded: {one_line(other[1].label, 60)} claimed it as well, and first"

    def take(self, patch: str, number: int) -> None:
        """Note that experiment `number` of ours holds a change now."""
        with self._lock:
            self._ours[patch] = number
            self._yield(patch)

    def lost(self) -> list[tuple[int, str]]:
        """Experiments of ours that turned out to be another's; each once."""
        with self._lock:
            found, self._lost = list(self._lost.items()), {}
            return found

    def why_not(self, patch: str) -> str | None:
        """Why a change is not to be tried here; None where it is free."""
        with self._lock:
            if patch in self._tried:
                record, result = self._tried[patch]
                return f"{one_line(result.label, 60)} tried it: {result.status} (record {record.id[:12]})"
            holder = self._holder(patch)
            return holder and f"{one_line(holder[1].label, 60)} has it under way (record {holder[0].id[:12]})"

    def _holder(self, patch: str) -> tuple[Record, Claim] | None:
        """The first of the others whose claim on a change still holds."""
        now, present = self._clock(), self._present()
        live = [
            (record, body)
            for record, body, since in self._claims.get(patch, ())
            if (record.author, body.lab) != self._mine
            and now - since < min(body.lease, _LONGEST) * (_PRESENT if record.author in present else 1)
        ]
        return min(live, key=lambda one: one[0].id, default=None)
