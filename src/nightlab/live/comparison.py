"""The comparison: two arms held beside each other, from counts alone; the same counts always say the same.

One look at the store serves all comparisons of that moment, so that what is said of one fits what is said of another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log, log1p

import numpy as np
from numpy.typing import NDArray

from nightlab.live import labels
from nightlab.live.guards import guardrail, sample_ratio
from nightlab.live.labels import LabelTest, Lift, Tally
from nightlab.live.store import Side, Split, Store, Total

_GRID = np.linspace(-1.2, 1.2, 49)
_MOST = 700.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate and the arm it grew from, as far as visitors have told."""

    arm: int
    other: int
    tallies: tuple[Tally, ...]
    candidate: Side
    champion: Side
    test: LabelTest
    ratio: float
    """The evidence that the split was not kept."""
    guards: Mapping[str, float] = field(default_factory=dict)
    """Guardrail -> the evidence that the candidate brings more of it."""

    @property
    def seen(self) -> int:
        """Units that were shown one of the two."""
        return self.candidate.exposed + self.champion.exposed


class Snapshot:
    """Everything that was counted, at one moment."""

    def __init__(self, splits: Sequence[Split], totals: Mapping[str, Sequence[Total]], outcome: str) -> None:
        self.splits, self._outcome = splits, outcome
        self._sides: dict[str, dict[tuple[int, int, str], Side]] = {}
        for name, found in totals.items():
            sides = self._sides.setdefault(name, {})
            for one in found:
                if not one.holdout:
                    key = one.split, one.arm, one.segment
                    sides[key] = sides.get(key, Side()) + one.side

    @classmethod
    def of(cls, store: Store, outcome: str, guardrails: Sequence[str] = ()) -> Snapshot:
        """What the store says now."""
        totals = {name: store.totals(name) for name in (outcome, *guardrails)}
        return cls(store.splits(), totals, outcome)

    @property
    def segments(self) -> list[str]:
        """The segments that visitors came from, but for those of whom nothing is known."""
        return sorted({segment for _, _, segment in self._sides.get(self._outcome, {}) if segment})

    def side(self, arm: int, *, segment: str | None = None) -> Side:
        """An arm by itself, under all splits."""
        return _sum(self._of(self._outcome, arm, segment).values())

    def _of(self, name: str, arm: int, segment: str | None) -> dict[int, Side]:
        found: dict[int, Side] = {}
        for (split, one, where), side in self._sides.get(name, {}).items():
            if one == arm and segment in (None, where):
                found[split] = found.get(split, Side()) + side
        return found

    def pairs(
        self, arm: int, other: int, *, name: str | None = None, segment: str | None = None
    ) -> list[tuple[float, Side, Side]]:
        """Both arms under every split that had both: the candidate's share of the two, and the two sides."""
        mine, theirs = (self._of(name or self._outcome, one, segment) for one in (arm, other))
        both = [split for split in self.splits if split.is_live(arm) and split.is_live(other)]
        return [
            (
                split.weights[arm] / (split.weights[arm] + split.weights[other]),
                mine.get(split.version, Side()),
                theirs.get(split.version, Side()),
            )
            for split in both
        ]

    def tallies(self, arm: int, other: int, *, name: str | None = None, segment: str | None = None) -> list[Tally]:
        """First conversions by share."""
        found = self.pairs(arm, other, name=name, segment=segment)
        return [Tally(share, mine.converted, theirs.converted) for share, mine, theirs in found]

    def comparison(self, arm: int, other: int, effect: float) -> Comparison:
        """The two arms held beside each other."""
        pairs, tallies = self.pairs(arm, other), self.tallies(arm, other)
        counted = [({1: share, 0: 1 - share}, {1: mine.exposed, 0: theirs.exposed}) for share, mine, theirs in pairs]
        guards = {
            name: guardrail(self.tallies(arm, other, name=name), effect)
            for name in self._sides
            if name != self._outcome
        }
        return Comparison(
            arm,
            other,
            tuple(tallies),
            _sum(mine for _, mine, _ in pairs),
            _sum(theirs for _, _, theirs in pairs),
            labels.label_test(tallies, effect),
            sample_ratio(counted),
            guards,
        )

    def by_segment(self, arm: int, other: int) -> dict[str, list[Tally]]:
        """The labels of each segment apart."""
        return {name: self.tallies(arm, other, segment=name) for name in self.segments}


def _sum(sides: Iterable[Side]) -> Side:
    return sum(sides, Side())


def differs(segments: Mapping[str, Sequence[Tally]]) -> float:
    """How strongly the labels speak against "it does the same in every segment"; an e-value, valid at every look.

    The likelihood under lifts of the segments' own, averaged over a prior that was fixed beforehand, divided by that
    under the one common lift that fits best (universal inference: Wasserman, Ramdas & Balakrishnan, PNAS 117, 2020).
    """
    everything = [tally for tallies in segments.values() for tally in tallies]
    common = labels.lift(everything)
    if common is None or len(segments) < 2:
        return 1.0
    prior = np.exp(-0.5 * (_GRID / 0.4) ** 2)
    prior /= prior.sum()
    found = -float(_log_likelihood(everything, np.array([log1p(common.lift)]))[0])
    for tallies in segments.values():
        likely = _log_likelihood(tallies, _GRID)
        top = likely.max()
        found += float(top + np.log(prior @ np.exp(likely - top)))
    return exp(min(float(found), _MOST))


def _log_likelihood(tallies: Sequence[Tally], at: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.zeros_like(at)
    for share, mine, theirs in tallies:
        if mine or theirs:
            total += (
                mine * (log(share) + at) + theirs * log(1 - share) - (mine + theirs) * np.log1p(share * np.expm1(at))
            )
    return total


def lifts(segments: Mapping[str, Sequence[Tally]]) -> dict[str, Lift]:
    """The lift in each segment that both arms had conversions in."""
    found = {name: labels.lift(tallies) for name, tallies in segments.items()}
    return {name: lift for name, lift in found.items() if lift is not None}
