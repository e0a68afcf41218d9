"""The line: what connects one machine to a swarm. It hears, answers, and every few seconds compares with a peer."""

from __future__ import annotations

import threading
import time
from functools import partial
from random import Random
from typing import Self

from nightlab.swarm.gossip import Gossip
from nightlab.swarm.identity import Identity
from nightlab.swarm.membership import Membership
from nightlab.swarm.record import Record
from nightlab.swarm.store import Store
from nightlab.swarm.wire import Alone, Wire, wire

_PATIENCE = 5.0
_LONGEST = 30.0
_SYNC = (2.0, 5.0)
_TICK = 0.3
_MEETING = 3.0


class Line:
    """One's line to a swarm: hears, answers, and every few seconds compares with one of those who are there."""

    def __init__(self, joined: Membership, identity: Identity, store: Store, *, lot: str = "") -> None:
        self.joined, self.identity, self.store = joined, identity, store
        self.gossip = Gossip(store, clock=time.monotonic)
        self.there: frozenset[str] = frozenset()
        """Who was there at the last look, oneself not among them."""
        self._wire: Wire = Alone()
        self._dice = Random(identity.author + lot)
        self._next = 0.0

    def __enter__(self) -> Self:
        self._wire = wire(self.joined, self.identity.author, heard=self.gossip.heard, asked=self.gossip.answer)
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.close()

    def push(self, records: list[Record]) -> None:
        """Tell all what is new."""
        if records:
            self._wire.broadcast(self.gossip.push(records))

    def meet(self) -> frozenset[str]:
        """Wait a moment for somebody to be there, and compare with three of them; who is there."""
        if isinstance(self._wire, Alone):
            return self.there
        deadline = time.monotonic() + _MEETING
        while not self._look() and time.monotonic() < deadline:
            time.sleep(_TICK)
        for peer in self._dice.sample(sorted(self.there), min(3, len(self.there))):
            self.gossip.sync(self.asking(peer))
        return self.there

    def compare(self) -> None:
        """Where it is time, compare with one who is drawn by lot."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._dice.uniform(*_SYNC)
        if there := sorted(self._look()):
            self.gossip.sync(self.asking(self._dice.choice(there)))

    def _look(self) -> frozenset[str]:
        self.there = frozenset(self._wire.peers()) - {self.identity.author}
        return self.there

    def asking(self, peer: str) -> partial[bytes | None]:
        """Puts questions to one peer, for half a minute at most: a slow one may not hold all others up."""
        return partial(_ask, self._wire, peer, time.monotonic() + _LONGEST)

    def blob(self, name: str, author: str) -> str | None:
        """A patch: from here, from whoever wrote it, or from three others who may have it."""
        found = self.store.blob(name)
        if found is not None:
            return found
        others = sorted(self.there - {author})
        for peer in [author] * (author in self.there) + self._dice.sample(others, min(3, len(others))):
            if (text := self.gossip.fetch_blob(self.asking(peer), name)) is not None:
                return text
        return None


def _ask(there: Wire, peer: str, until: float, message: bytes) -> bytes | None:
    left = min(_PATIENCE, until - time.monotonic())
    return there.ask(peer, message, timeout=left) if left > 0 else None


def keep(joined: Membership, identity: Identity, over: threading.Event) -> None:
    """Be there until it is over."""
    store = Store(joined.records, joined.id)
    try:
        with Line(joined, identity, store, lot="keeper") as line:
            while not over.wait(_TICK):
                store.refresh()
                line.compare()
    finally:
        store.close()
