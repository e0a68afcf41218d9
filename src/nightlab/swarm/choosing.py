"""Choosing: which of the others' wins is raced here next, and how its patch becomes a proposal of ours.

First the best line of work, where others have confirmed it and it is ahead of one's own: put together with it where
the two go together, else raced in its place. Then duty: a win's hash draws the labs that run it again, on the very tree
that its author had. Then what was confirmed and may go onto one's own. In three epochs of ten a lab takes nothing over,
so that not all stand on one idea.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from nightlab.decide import Evidence
from nightlab.ledger import Ledger
from nightlab.lineage import Lineage, changes
from nightlab.swarm.board import Board, Standing
from nightlab.swarm.record import patch_key
from nightlab.task import Task
from nightlab.values import Decision, Side
from nightlab.words import one_line
from nightlab.workspace import is_plain, merged, patched, touched

EXPLORING = 0.3
"""The share of a lab's epochs in which it takes over nothing."""
_EPOCH = 20
_MOST_OF_ALL = 1 / 3
_LATEST = 12
_LEAST = 3
_BEYOND = 1.64

Blob = Callable[[str, str], str | None]
"""A patch by its name, asked of an author where it is not here yet."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A win to be raced here: on its author's own tree (duty), or to be taken over."""

    win: str
    is_duty: bool
    is_ahead: bool = True
    """Whether its whole tree is better than ours, so that it may take its place."""


class Chooser:
    """One lab's choice among what others won."""

    def __init__(self, task: Task, ledger: Ledger, lineage: Lineage, *, author: str, blob: Blob) -> None:
        self.task, self.ledger, self.lineage, self.author = task, ledger, lineage, author
        self._blob = blob
        self._passed: set[tuple[str, bool]] = set()
        """What turned out to be of no use here: outside the task's scope, in conflict, or held already."""

    def wish(self, board: Board, mine: float | None, sigma: float) -> str | None:
        """The next win to be raced here, as a wish that the loop takes in; None where there is none now.

        `mine` is what the incumbent gained over the start, `sigma` one run's scatter, both as shares of the start.
        """
        if self._is_busy():
            return None
        done = self._done()
        for choice in self._choices(board, mine, sigma):
            if (choice.win, choice.is_duty) in self._passed or choice.win in done.get(choice.is_duty, ()):
                continue
            self._passed.add((choice.win, choice.is_duty))
            if (said := self.said(board.wins[choice.win], choice)) is not None:
                return json.dumps(said)
        return None

    def _is_busy(self) -> bool:
        """Whether one is raced or waits already, or the latest experiments were others' wins for more than a third."""
        if self.ledger.unheard("try") or any("peer" in one.facts for one in self.ledger.open_experiments()):
            return True
        latest = self.ledger.experiments(limit=_LATEST, newest=True)
        return len(latest) == _LATEST and sum("peer" in one.facts for one in latest) > _MOST_OF_ALL * _LATEST

    def _done(self) -> dict[bool, set[str]]:
        """What was raced here before: as a duty, and to be taken over."""
        found: dict[bool, set[str]] = {True: set(), False: set()}
        for _, argument in self._handed_in():
            found[argument.get("ground") is not None].add(str(argument["id"]))
        return found

    def _handed_in(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for argument, *_ in self.ledger.asked("try"):
            said = json.loads(argument)
            if said.get("as") == "peer":
                yield "try", said

    def _choices(self, board: Board, mine: float | None, sigma: float) -> Iterator[Choice]:
        others = [(name, win) for name, win in board.wins.items() if win.record.author != self.author]
        trusted = [(name, win) for name, win in others if board.reputation(win.record.author, mine=self.author) != 0.0]
        best_first = sorted(trusted, key=lambda one: -(one[1].result.total or 0.0))
        confirmed = (
            [] if self._explores() else [one for one in best_first if one[1].state(board.drawn(one[0])) == "confirmed"]
        )
        yield from (Choice(name, False) for name, win in confirmed[:1] if _total(win) > (mine or 0.0) + sigma)
        best = board.best()
        for name, win in best_first:  # what nobody would build on any more is not run again
            if self.author in board.drawn(name) and _total(win) > best:
                yield Choice(name, is_duty=True)
        yield from (Choice(name, False, is_ahead=False) for name, _ in confirmed)

    def _explores(self) -> bool:
        epoch = self.ledger.next_number() // _EPOCH
        return int.from_bytes(sha256(f"{self.author}{epoch}".encode()).digest()[:4]) < EXPLORING * 2**32

    # From a patch to a proposal

    def said(self, win: Standing, choice: Choice) -> dict[str, Any] | None:
        """The wish: nothing that a peer sends is applied anywhere but to texts of files that may be changed here."""
        start = self.lineage.start.texts
        ground = self._texts(win, win.result.parent, start)
        theirs = None if ground is None else self._texts(win, win.result.change, ground)
        if ground is None or theirs is None or not self._is_as_claimed(win):
            return None
        said = {
            "id": win.record.id,
            "as": "peer",
            "hypothesis": one_line(win.result.hypothesis),
            "proposer": f"peer {one_line(win.result.label, 40)}",
        }
        if choice.is_duty:
            return said | {"ground": changes(start, ground), "files": changes(ground, theirs)}
        best = self.ledger.incumbent()
        if best is None or best.commit is None:
            return None
        mine = self.lineage.standing(best.id).texts
        files = taken_over(ground, mine, theirs, is_ahead=choice.is_ahead)
        return said | {"parent": best.id, "files": files} if files else None

    def _is_as_claimed(self, win: Standing) -> bool:
        """Whether the patch is the one that the record names: nobody sells one change as another."""
        return patch_key(win.result.task, self._blob(win.result.change, win.record.author) or "") == win.result.patch

    def _texts(self, win: Standing, blob: str, before: dict[str, str]) -> dict[str, str] | None:
        """These texts as a peer's patch leaves them; None where it is not there, does not apply, or goes too far."""
        diff = self._blob(blob, win.record.author)
        if diff is None:
            return None
        if not diff:
            return before
        if any(not is_plain(path) or not self.task.is_editable(path) for path in touched(diff)):
            return None
        after = patched(before, diff)
        if after is None:
            return None
        return {path: text for path, text in {**before, **after}.items() if text is not None}


def doubted(decision: Decision, evidence: Evidence) -> Decision:
    """A win from elsewhere is kept only after three runs of either side, and beyond the noise: the best of many lucky
    reports comes in by the same door. (With the policy's own rule 3 to 7 % of what is taken over is worth nothing, in
    `nightlab bench swarm`; with this 1 %.)"""
    if decision.verdict != "keep" or evidence.sigma == 0 or decision.gain is None:
        return decision
    if min(len(evidence.candidate), len(evidence.incumbent)) < _LEAST:
        side: Side = "candidate" if len(evidence.candidate) < _LEAST else "incumbent"
        words = f"it comes from another lab: {_LEAST} runs of either side"
        return replace(decision, verdict="more", side=side, reason=words)
    if decision.z is not None and decision.z > _BEYOND:
        return decision
    words = f"it comes from another lab, and has to be beyond the noise: {decision.reason}"
    return replace(decision, verdict="discard", side=None, reason=words)


def _total(win: Standing) -> float:
    return win.result.total or 0.0


def taken_over(
    ground: dict[str, str], mine: dict[str, str], theirs: dict[str, str], *, is_ahead: bool
) -> dict[str, str | None]:
    """Both lines of work together where they go together; else theirs in place of ours, where it is ahead."""
    both = merged(ground, mine, theirs)
    if both is not None:
        return changes(mine, {path: text for path, text in both.items() if text is not None})
    return changes(mine, theirs) if is_ahead else {}
