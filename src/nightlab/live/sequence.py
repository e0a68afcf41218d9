"""Confidence sequences for revenue and time: valid at every look, but only asymptotically, and said to be so.

Secondary by intention: what is kept and claimed rests on labels, which are exact. Values have heavy tails, so they are
cut off at a cap that is fixed *before* the experiment (a quantile of the champion's): the
answer is about capped values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import log, sqrt

ALPHA = 0.05
_FEW = 30


@dataclass(frozen=True, slots=True)
class Sums:
    """What is kept of one arm's values, each cut off at the cap: units exposed, sum, sum of squares; most are 0."""

    count: int
    total: float
    squares: float

    @property
    def mean(self) -> float:
        """The mean over all units exposed."""
        return self.total / self.count

    @property
    def variance(self) -> float:
        """The variance of the mean."""
        return max(self.squares / self.count - self.mean**2, 0.0) / self.count


def sums(values: Iterable[float], cap: float) -> Sums:
    """The sums of values, winsorised at the cap on either side."""
    cut = [min(max(value, -cap), cap) for value in values]
    return Sums(len(cut), sum(cut), sum(value * value for value in cut))


@dataclass(frozen=True, slots=True)
class Sequence:
    """A difference in means, candidate less champion, and the ends of its interval at this look."""

    estimate: float
    low: float
    high: float
    is_asymptotic: bool = True


def difference(candidate: Sums, champion: Sums, *, planned: int, alpha: float = ALPHA) -> Sequence | None:
    """An asymptotic confidence sequence (Waudby-Smith et al., arXiv 2103.06476) for the difference in means.

    Robbins's normal mixture in information time, the reciprocal of the estimate's variance; it is narrowest when
    `planned` units have been seen. None while an arm has fewer than 30 units or nothing varies. It takes the split as
    constant: through a ramp, give it one split's sums.
    """
    if min(candidate.count, champion.count) < _FEW or candidate.variance + champion.variance == 0:
        return None
    information = 1 / (candidate.variance + champion.variance)
    at_plan = information * planned / (candidate.count + champion.count)
    tuning = at_plan / (-2 * log(alpha) + log(1 - 2 * log(alpha)))
    odds = (information + tuning) / tuning
    half = sqrt((information + tuning) / information**2 * log(odds / alpha**2))
    estimate = candidate.mean - champion.mean
    return Sequence(estimate, estimate - half, estimate + half)
