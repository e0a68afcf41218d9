"""The waves arm: several near misses at once, by a factorial design, so that each run tells something of all of them.

Seven changes that touch different lines make a wave of seven experiments, each with four of them on; the eighth row of
the design is the incumbent itself. What one change is worth is then known from all eight rows, with half the variance
of a run of its own (Plackett & Burman, Biometrika 33, 1946), and small gains that one run cannot see add up to one that
it can. What comes out positive is tried together at the end. The rows run side by side on as many slots as there are.

Not seen: two changes that only pay, or only hurt, together; the pairs arm looks for the former.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nightlab.proposer import Context
from nightlab.tuner.edit import changed, constant_facts
from nightlab.tuner.memory import Memory
from nightlab.tuner.pairs import REMEMBERED, near_misses, touches
from nightlab.values import Experiment, Files, Proposal, Status
from nightlab.workspace import patched

MOST, FEWEST = 7, 4
"""Changes in a wave; three or fewer are pairs."""
_PRIOR = 0.5
"""How much of a row the belief weighs that a change is worth nothing."""

DESIGN: Sequence[frozenset[int]] = tuple(
    frozenset(column - 1 for column in range(1, 8) if (row & column).bit_count() % 2) for row in range(1, 8)
)
"""Rows 1 to 7 of Sylvester's Hadamard matrix of order 8: the columns that are on. Row 0, all off, is the incumbent."""


@dataclass(frozen=True, slots=True)
class Wave:
    """Near misses that stand beside each other, and the experiments made of them so far."""

    members: tuple[Experiment, ...]
    tried: tuple[Experiment, ...] = ()

    def rows(self) -> Iterator[frozenset[int]]:
        """The sets of members to be tried, by the design; once there are as many answers as members, then those that
        seem to pay. A row that was tried already, here or as a pair, is for the caller to pass over."""
        members = range(len(self.members))
        yield from dict.fromkeys(row for on in DESIGN if len(row := on.intersection(members)) > 1)
        if sum(one.gain is not None for one in self.tried) >= len(self.members):
            yield self.paying()

    def paying(self) -> frozenset[int]:
        """The members that are worth more than nothing, by ridge regression over all rows that gave a number."""
        told = [one for one in self.tried if one.gain is not None]
        on = np.array([[n in one.facts["wave"]["on"] for n in range(len(self.members))] for one in told], dtype=float)
        gains = np.array([one.gain for one in told])
        worth = np.linalg.solve(on.T @ on + _PRIOR * np.eye(len(self.members)), on.T @ gains)
        return frozenset(int(n) for n in np.flatnonzero(worth > 0))


class Waves:
    """Puts several near misses on one tree at a time, so that each of a few runs tells something of every one."""

    name = "tuner.waves"

    def __init__(self) -> None:
        self._memory = Memory()

    def learn(self, experiment: Experiment) -> None:
        """Remember what lost with a patch, and every row of a wave whatever became of it."""
        lost = experiment.status in (Status.DISCARDED, Status.SHELVED)
        if "wave" in experiment.facts or (experiment.diff and lost):
            self._memory.learn(experiment)

    def propose(self, context: Context) -> Proposal | None:
        """The next row of the wave under way, or the first of a new one."""
        for wave in waves(self._memory.latest(REMEMBERED), context):
            for row in wave.rows():
                on = [wave.members[n] for n in sorted(row)]
                files = changed(context.files, together(context.files, on))
                if files and not context.was_tried(files):
                    said = {"of": [one.id for one in wave.members], "on": sorted(row)}
                    facts = {"wave": said, **constant_facts(context.files, files)}
                    return Proposal("together: " + "; ".join(one.hypothesis for one in on), files, facts)
        return None


def waves(told: Sequence[Experiment], context: Context) -> Iterator[Wave]:
    """The wave that is not over, if there is one, then what a new one would be made of. A keep ends a wave: its members
    are judged anew, alone or in the next."""
    known, rows = {one.id: one for one in told}, [one for one in told if "wave" in one.facts]
    spent: set[int] = set()
    for of in dict.fromkeys(tuple(one.facts["wave"]["of"]) for one in rows):
        mine = tuple(one for one in rows if tuple(one.facts["wave"]["of"]) == of)
        is_over = any(one.status is Status.KEPT for one in mine) or not known.keys() >= set(of)
        if not is_over:
            yield Wave(tuple(known[number] for number in of), mine)
        spent |= set(of)
    near = [one for one in near_misses(told, context.sigma) if "wave" not in one.facts and one.id not in spent]
    if len(members := beside(context.files, near)) >= FEWEST:
        yield Wave(tuple(members))


def beside(files: Files, near: Sequence[Experiment]) -> list[Experiment]:
    """The first of these that can all stand on one tree: no two turn the same thing or touch the same lines."""
    chosen: list[Experiment] = []
    apart: list[Experiment] = []
    for one in near:
        if all(not touches(one) & touches(other) for other in apart):
            apart.append(one)
    for one in apart if len(apart) >= FEWEST else ():
        more = together(files, [one])
        if more is not None and len(chosen) < MOST:
            chosen, files = [*chosen, one], {**files, **more}
    return chosen


def together(files: Files, on: Sequence[Experiment]) -> Files | None:
    """These texts with several patches on; None where one of them does not apply."""
    texts = {path: text for path, text in files.items() if text is not None}
    found: dict[str, str | None] = {}
    for one in on:
        more = patched(texts, one.diff)
        if not more:
            return None
        found |= more
        texts = {path: text for path, text in {**texts, **more}.items() if text is not None}
    return found
