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
from statistics import fmean, median
from typing import Self

from nightlab.decide import Evidence
from nightlab.errors import BadChange, NotFound
from nightlab.exports import write_whole
from nightlab.place import Place
from nightlab.proposer import Peers, walled
from nightlab.swarm.board import Board
from nightlab.swarm.choosing import Choice, Chooser, doubted
from nightlab.swarm.claims import Claims
from nightlab.swarm.identity import Identity
from nightlab.swarm.line import Line
from nightlab.swarm.membership import Membership
from nightlab.swarm.record import Claim, patch_key
from nightlab.swarm.store import Store
from nightlab.swarm.telling import Teller
from nightlab.task import Task
from nightlab.values import Clock, Decision
from nightlab.words import one_line

SWARM_FILE = "swarm.json"
_TICK = 0.3
_LOOK = 0.5
_LOOKS_COST = 0.02
"""The share of a core that reading the board may take: of thousands of records it is read more seldom."""
_LEASE = 3.0
"""How many budgets a claim holds."""
_SHORTEST_LEASE = 30.0
_FAST, _LEAN = 2.0, 2.0
_TOLD = 8


Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Seat:
    """Where one sits in a swarm: what one has joined, and who one is there."""

    joined: Membership
    identity: Identity


class Node(Peers):
    """One study in a swarm; use as a context around its search."""

    def __init__(
        self, place: Place, task: Task, base: str, seat: Seat, *, say: Say = print, clock: Clock = time.time
    ) -> None:
        self.place, self.joined, self.identity = place, seat.joined, seat.identity
        self.store = Store(seat.joined.records, seat.joined.id)
        where = Place(place.root, place.name)  # a repository of its own: git's pipes are no two threads' at once
        self.teller = Teller(
            where, task, base=base, store=self.store, identity=self.identity, label=seat.joined.label, clock=clock
        )
        self.line = Line(seat.joined, seat.identity, self.store, lot=self.teller.lab)
        me = (self.identity.author, self.teller.lab)
        self.claims = Claims(me, clock=time.monotonic, present=lambda: self.line.there)
        self.chooser = Chooser(task, self.teller.ledger, self.teller.lineage, author=me[0], blob=self.line.blob)
        self._news: Sequence[str] = ()
        self._pace, self._lease = 1.0, _SHORTEST_LEASE
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="swarm", daemon=True)
        self._next_look, self._looking = 0.0, threading.Lock()
        self._board_of = ""
        self.say = say
        self.trouble: str | None = None
        """What went wrong at the last turn, in words."""

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
        self.line.push([said])
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

    def doubt(self, decision: Decision, evidence: Evidence) -> Decision:
        """What others won has to show more here than what was found here."""
        return doubted(decision, evidence)

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
        self.line.__enter__()
        self.line.meet()  # what one said before, and lost, others may still know
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(timeout=60)
        walled(self._farewell)
        self.line.__exit__()
        self.teller.close()
        self.store.close()

    def _farewell(self) -> None:
        self.line.push(self.teller.tell())
        self.line.meet()

    def _live(self) -> None:
        while not self._is_over.wait(_TICK):
            _, trouble = walled(self._turn)  # what peers send may not end it, and the study goes on without it anyhow
            if trouble and trouble != self.trouble:
                self.say(f"the swarm, for a moment: {trouble}")
            self.trouble = trouble

    def _turn(self) -> None:
        self.store.refresh()
        self.line.push(self.teller.tell())
        self.line.compare()
        if time.monotonic() >= self._next_look:
            began = time.thread_time()
            self.look()
            self._next_look = time.monotonic() + max(_LOOK, (time.thread_time() - began) / _LOOKS_COST)

    # Looking at the board

    def look(self) -> None:
        """Read the board anew where there is something new on it: news, pace, and a win to race. One look at a time."""
        with self._looking:
            self._look()

    def _look(self) -> None:
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


def visit(seat: Seat) -> frozenset[str]:
    """Who is there now; what three of them know is known here after it."""
    store = Store(seat.joined.records, seat.joined.id)
    try:
        with Line(seat.joined, seat.identity, store, lot="visitor") as line:
            return line.meet()
    finally:
        store.close()


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
