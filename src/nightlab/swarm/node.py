"""The node: one lab's part in a swarm. It claims what is tried here, tells what came of it, and has others' wins raced.

It stands beside the loop in threads of its own and speaks to it through the ledger, as people do: what it wants raced
is a wish, what it tells is read from events. Where no peer can be reached everything goes on, and is told later.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from statistics import fmean, median
from typing import Self

from nightlab.errors import BadChange, NotFound
from nightlab.exports import write_whole
from nightlab.place import Place
from nightlab.proposer import Peers
from nightlab.swarm.board import Board
from nightlab.swarm.choosing import Choice, Chooser
from nightlab.swarm.claims import Claims
from nightlab.swarm.gossip import Gossip
from nightlab.swarm.identity import Identity
from nightlab.swarm.membership import Membership
from nightlab.swarm.record import Claim, Record, patch_key
from nightlab.swarm.store import Store
from nightlab.swarm.telling import Teller
from nightlab.swarm.wire import Alone, Wire, wire
from nightlab.task import Task
from nightlab.values import Clock
from nightlab.words import one_line

SWARM_FILE = "swarm.json"
_TICK = 0.3
_SYNC = (2.0, 5.0)
_LOOK = 2.0
_PATIENCE = 5.0
_VISIT = 3.0
_LEASE = 3.0
"""How many budgets a claim holds."""
_SHORTEST_LEASE = 30.0
_FAST, _LEAN = 2.0, 2.0
_TOLD = 8


@dataclass(frozen=True, slots=True)
class Seat:
    """Where one sits in a swarm: what one has joined, and who one is there."""

    joined: Membership
    identity: Identity


class Node(Peers):
    """One study in a swarm; use as a context around its search."""

    def __init__(self, place: Place, task: Task, base: str, seat: Seat, *, clock: Clock = time.time) -> None:
        self.place, self.joined, self.identity = place, seat.joined, seat.identity
        self.store = Store(seat.joined.records, seat.joined.id)
        where = Place(place.root, place.name)  # a repository of its own: git's pipes are no two threads' at once
        self.teller = Teller(
            where, task, base=base, store=self.store, identity=self.identity, label=seat.joined.label, clock=clock
        )
        self.gossip = Gossip(self.store, clock=time.monotonic)
        self.claims = Claims((self.identity.author, self.teller.lab), clock=time.monotonic, present=self._present)
        self.chooser = Chooser(
            task, self.teller.ledger, self.teller.lineage, author=self.identity.author, blob=self._blob
        )
        self._wire: Wire = Alone()
        self._news: Sequence[str] = ()
        self._pace, self._lease = 1.0, _SHORTEST_LEASE
        self._there: frozenset[str] = frozenset()
        self._dice = Random(self.identity.author + self.teller.lab)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="swarm", daemon=True)
        self._next_sync = self._next_look = 0.0
        self._board_of = ""

    # What the loop asks

    def claim(self, number: int, diff: str) -> str | None:
        """Take a change for an experiment of ours, durably and told to all; why not, where it is another's."""
        key = patch_key(self.teller.name, diff)
        hypothesis = one_line(
            next((line[1:] for line in diff.splitlines() if line[:1] == "+" and line[:3] != "+++"), "")
        )
        body = Claim(
            **self.teller.said(), patch=key, lab=self.teller.lab, hypothesis=hypothesis[:200], lease=self._lease
        )
        said = self.store.write(body, self.identity, lambda _: self.claims.why_not(key))
        if isinstance(said, str):
            return said
        self.claims.take(key, number)
        self._push([said])
        return None

    def knows(self, diff: str) -> bool:
        """Whether another lab has this change under way, or tried it."""
        return self.claims.why_not(patch_key(self.teller.name, diff)) is not None

    def lost(self) -> Sequence[tuple[int, str]]:
        """Experiments of ours that another lab claimed first."""
        return self.claims.lost()

    def news(self) -> Sequence[str]:
        """The others' best wins, and what they say that their experiments say."""
        return self._news

    def lean(self, proposer: str) -> float:
        """Twice the weight to constants where this lab is faster than most; to all else where it is slower."""
        is_brute = proposer == "tuner.constants"
        if self._pace >= _FAST:
            return _LEAN if is_brute else 1.0
        return _LEAN if self._pace <= 1 / _FAST and not is_brute else 1.0

    # Its life

    def __enter__(self) -> Self:
        self.store.listen = self.claims.see
        self.claims.see(self.store.log)
        facts = {"name": self.joined.name, "swarm": self.store.swarm, "store": str(self.store.path)}
        write_whole(self.place.home / SWARM_FILE, json.dumps(facts | {"task": self.teller.name}))
        self._wire = wire(self.joined, self.identity.author, heard=self.gossip.heard, asked=self.gossip.answer)
        self._sync()  # what one said before, and lost, others may still know
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(timeout=60)
        self._push(self.teller.tell())
        self._sync()
        self._wire.close()
        self.teller.close()
        self.store.close()

    def _live(self) -> None:
        while not self._is_over.wait(_TICK):
            self.store.refresh()
            self._push(self.teller.tell())
            now = time.monotonic()
            if now >= self._next_sync:
                self._next_sync = now + self._dice.uniform(*_SYNC)
                self._sync()
            if now >= self._next_look:
                self._next_look = now + _LOOK
                self._look()

    # The network

    def _present(self) -> frozenset[str]:
        return self._there

    def _push(self, records: list[Record]) -> None:
        if records:
            self._wire.broadcast(self.gossip.push(records))

    def _sync(self) -> None:
        """Compare with one of those who are there; whoever is asked is drawn by lot."""
        self._there = frozenset(self._wire.peers())
        others = sorted(self._there - {self.identity.author})
        if others:
            self.gossip.sync(self._asking(self._dice.choice(others)))

    def _asking(self, peer: str) -> Callable[[bytes], bytes | None]:
        return partial(_ask, self._wire, peer)

    def _blob(self, name: str, author: str) -> str | None:
        """A patch: from here, from whoever wrote it, or from three others who may have it."""
        found = self.store.blob(name)
        if found is not None:
            return found
        others = sorted(self._there - {author, self.identity.author})
        for peer in [author] * (author in self._there) + self._dice.sample(others, min(3, len(others))):
            if (text := self.gossip.fetch_blob(self._asking(peer), name)) is not None:
                return text
        return None

    # Looking at the board

    def _look(self) -> None:
        """Read the board anew where there is something new on it: news, pace, and a win to race."""
        board = Board(self.store.log, self.teller.name)
        self._read(board)
        best, measured = self.teller.ledger.incumbent(), self.teller.ledger.last("measured")
        if best is None or measured is None:
            return
        self._lease = max(_SHORTEST_LEASE, _LEASE * self.teller.seconds_per_run())
        start = abs(fmean(value for *_, value in self.teller.ledger.pool(0))) or 1.0
        mine = self.teller.total([value for *_, value in self.teller.ledger.pool(best.id)])
        wish = self.chooser.wish(board, mine, (measured.body["sigma"] or 0.0) / start)
        if wish is not None:
            self.teller.ledger.ask("try", wish)

    def _read(self, board: Board) -> None:
        if self._board_of == (digest := self.store.log.digest()):
            return
        self._board_of = digest
        told, me = board.told(self.joined.name), self.identity.author
        wins = [one for one in told["wins"] if one["author"] != me and one["state"] != "disputed"][:_TOLD]
        said = [one for one in told["insights"] if one["author"] != me][-2:]
        self._news = [_in_words(one) for one in wins] + [f"{one['label']} says: {one['text']}" for one in said]
        paces = {one["author"]: one["per_hour"] for one in told["authors"] if one["per_hour"]}
        if me in paces:
            self._pace = paces[me] / median(paces.values())


def _in_words(win: dict[str, object]) -> str:
    gain = f", {win['relative']:+.2%}" if win["relative"] is not None else ""
    return f"{win['label']} on {win['hardware']}: {win['hypothesis']} ({win['state']} by {win['replicated']}{gain})"


def _ask(there: Wire, peer: str, message: bytes) -> bytes | None:
    return there.ask(peer, message, timeout=_PATIENCE)


def visit(seat: Seat) -> list[str]:
    """Who is there now; what they know is known here after it."""
    store = Store(seat.joined.records, seat.joined.id)
    gossip = Gossip(store, clock=time.monotonic)
    there = wire(seat.joined, seat.identity.author, heard=gossip.heard, asked=gossip.answer)
    try:
        deadline = time.monotonic() + _VISIT
        while not (found := there.peers()) and time.monotonic() < deadline:
            time.sleep(_TICK)
        for peer in found[:3]:
            gossip.sync(partial(_ask, there, peer))
    finally:
        there.close()
        store.close()
    return found


def ask_for(place: Place, seat: Seat, prefix: str, task: Task, base: str) -> str:
    """Ask the lab of a study to run a win again on its author's own tree; which. Raises NotFound, BadChange."""
    with Node(place, task, base, seat) as node:
        board = Board(node.store.log, node.teller.name)
        found = [name for name in board.wins if name.startswith(prefix)]
        if len(found) != 1:
            words = f"{len(found)} wins begin with" if found else "no win begins with"
            raise NotFound(
                f"{words} {prefix!r} for this task; nightlab swarm board {seat.joined.name} --json lists them"
            )
        said = node.chooser.said(board.wins[found[0]], Choice(found[0], is_duty=True))
        if said is None:
            raise BadChange(f"the patch of {found[0][:12]} is not to be had, or goes beyond what may be changed here")
        node.teller.ledger.ask("try", json.dumps(said))
    return found[0]
