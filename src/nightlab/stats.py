"""Statistics: estimates and intervals, as pure functions on numbers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from decimal import Decimal
from itertools import pairwise
from math import atan, cos, exp, log, pi, sin, sqrt
from statistics import fmean, stdev
from typing import ClassVar, NamedTuple


class Interval(NamedTuple):
    """An estimate and the ends of its interval."""

    estimate: float
    low: float
    high: float


class Spread:
    """The standard deviation of one run, pooled over repeated runs of several trees; each tree has its own mean.

    Where the newest trees plainly vary less than those before, they speak alone: a start that hardly learns may vary
    ten times as much as what is made of it, and would hide every later gain. Welford's running sums, so that a night of
    any length costs the same per run.
    """

    _PLAINLY: ClassVar = {2: 100.0, 3: 30.0, 4: 15.0}
    """Degrees of freedom of the newest -> how many times less variance: the 99 % points of F against a few others."""

    def __init__(self) -> None:
        self._trees: dict[Hashable, tuple[int, float, float]] = {}
        self._freedom, self._squares = 0, 0.0

    def add(self, tree: Hashable, value: float) -> None:
        """Take in one more run of a tree."""
        count, mean, squares = self._trees.get(tree, (0, 0.0, 0.0))
        moved = mean + (value - mean) / (count + 1)
        more = (value - mean) * (value - moved)
        self._squares += more
        self._freedom += count > 0
        self._trees[tree] = count + 1, moved, squares + more

    @property
    def sigma(self) -> float | None:
        """The estimate; None before any tree has run twice."""
        newest, freedom = 0.0, 0
        for count, _, squares in reversed(self._trees.values()):
            newest, freedom = newest + squares, freedom + count - 1
            rest = self._freedom - freedom
            if rest < 2:
                break
            if freedom >= 2 and 0 < newest / freedom * self._PLAINLY[min(freedom, 4)] < (self._squares - newest) / rest:
                return sqrt(newest / freedom)
            if freedom >= 4:
                break
        return sqrt(max(self._squares, 0.0) / self._freedom) if self._freedom else None

    @property
    def freedom(self) -> int:
        """Its degrees of freedom."""
        return self._freedom


class Pairing:
    """What sharing seeds is worth on a task: the noise of a difference between two trees that ran under one seed.

    It is shared at all only where a tree that runs twice under one seed comes to nearly the same number. What the
    difference of two *different* trees varies by then starts as a guess (architecture edits: 2.6 times less variance
    than without) that counts like four measured differences, and is measured from there on.
    """

    _REPEATS, _BELIEVED, _GUESS, _WEIGHT = 0.05, 0.3, 2.6, 4

    def __init__(self) -> None:
        self._again: float | None = None
        self._gains = Spread()

    def repeat(self, first: float, again: float) -> None:
        """Take in what one tree came to in two runs under one seed."""
        self._again = again - first

    def add(self, experiment: int, gain: float) -> None:
        """Take in a difference under one shared seed; only how those of one experiment vary tells anything."""
        self._gains.add(experiment, gain)

    def correlation(self, sigma: float) -> float:
        """Of two trees under one seed; 0 where it is not known to be more."""
        if not sigma or self._again is None or self._again**2 > self._REPEATS * 2 * sigma**2:
            return 0.0
        guess, measured, freedom = 2 * sigma**2 / self._GUESS, self._gains.sigma or 0.0, self._gains.freedom
        variance = (self._WEIGHT * guess + freedom * measured**2) / (self._WEIGHT + freedom)
        return 1 - variance / (2 * sigma**2)

    def sigma(self, sigma: float) -> float | None:
        """The standard deviation of one paired difference; None where pairing does not pay (correlation up to 0.3)."""
        correlation = self.correlation(sigma)
        return sigma * sqrt(2 * (1 - correlation)) if correlation > self._BELIEVED else None


def spread(runs: Sequence[float]) -> float | None:
    """The standard deviation of one run, from repeated runs of the same tree; None below two runs."""
    return stdev(runs) if len(runs) > 1 else None


def has_drifted(values: Sequence[float], *, last: int = 4) -> bool:
    """Whether the last runs of one tree, in the order they ended, lie apart from the ones before by 3 standard errors.

    The noise is taken from neighbours in time, which a slow drift does not inflate (von Neumann 1941).
    """
    before, after = values[:-last], values[-last:]
    if len(before) < 2:
        return False
    steps = [(b - a) ** 2 / 2 for a, b in pairwise(values)]
    stderr = sqrt(fmean(steps) * (1 / len(before) + 1 / len(after)))
    return abs(fmean(after) - fmean(before)) > 3 * stderr > 0


def repeats_exactly(values: Sequence[float], sigma: float) -> bool:
    """Whether runs that should vary by sigma all came to one number, which is told too finely to be met by chance."""
    step = 10.0 ** int(Decimal(repr(values[0])).as_tuple().exponent) if values else 0.0
    return len(values) > 1 and len(set(values)) == 1 and sigma > 100 * step


def visible_gain(noise: float) -> float:
    """The true gain that is kept 8 times in 10, from the noise of one run: eight runs, four on either side, have to
    show 1.5 standard errors."""
    return (1.5 + 0.84) * noise * sqrt(1 / 4 + 1 / 4)


def good_for(gain: float, noise: float, examples: int) -> int:
    """How many decisions a validation set serves before the luckiest of them may look like a real gain.

    The best of T comparisons over n examples looks about s sqrt(2 ln T / n) too good, `noise` s being what one example
    varies by between two trees; T is where that reaches `gain`. It meets the 2 / sqrt(n) in error rate that was
    measured after 500 greedy proposals. A million stands for more, too.
    """
    exponent = (gain**2 * examples) / (2 * noise**2) if noise else float("inf")
    return int(exp(min(exponent, log(1_000_000))))


def difference(better: Sequence[float], worse: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Mean of paired differences with Student's t interval.

    `better` and `worse` hold the same seeds in the same order. One pair has no interval: its ends are infinite,
    unless there is nothing to estimate because two pairs or more agree exactly.
    """
    gains = [a - b for a, b in zip(better, worse, strict=True)]
    centre = fmean(gains)
    if len(gains) < 2:
        return Interval(centre, float("-inf"), float("inf"))
    half = t_quantile((1 + confidence) / 2, len(gains) - 1) * stdev(gains) / sqrt(len(gains))
    return Interval(centre, centre - half, centre + half)


def t_cdf(t: float, freedom: int) -> float:
    """Student's t distribution function for whole degrees of freedom (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    theta = atan(t / sqrt(freedom))
    cosine = cos(theta)
    term = sin(theta) if freedom % 2 == 0 else sin(theta) * cosine
    total = 0.0
    for k in range(2 if freedom % 2 == 0 else 3, freedom + 1, 2):
        total += term
        term *= cosine * cosine * (k - 1) / k
    if freedom % 2 == 0:
        return (1 + total) / 2
    return 0.5 + (theta + total) / pi


def t_quantile(probability: float, freedom: int) -> float:
    """Where Student's t reaches a probability above one half, by bisection to 1e-12."""
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < probability:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < probability else (low, middle)
    return high
