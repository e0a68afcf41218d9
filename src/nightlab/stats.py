"""Statistics: estimates and intervals, as pure functions on numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import atan, cos, pi, sin, sqrt
from statistics import fmean, stdev
from typing import NamedTuple


class Interval(NamedTuple):
    """An estimate and the ends of its interval."""

    estimate: float
    low: float
    high: float


class Spread:
    """The standard deviation of one run, pooled over repeated runs of several trees; each tree has its own mean.

    Welford's running sums, so that a night of any length costs the same per run.
    """

    def __init__(self) -> None:
        self._trees: dict[int, tuple[int, float]] = {}
        self._freedom, self._squares = 0, 0.0

    def add(self, tree: int, value: float) -> None:
        """Take in one more run of a tree."""
        count, mean = self._trees.get(tree, (0, 0.0))
        moved = mean + (value - mean) / (count + 1)
        self._squares += (value - mean) * (value - moved)
        self._freedom += count > 0
        self._trees[tree] = count + 1, moved

    @property
    def sigma(self) -> float | None:
        """The estimate; None before any tree has run twice."""
        return sqrt(max(self._squares, 0.0) / self._freedom) if self._freedom else None


def spread(runs: Sequence[float]) -> float | None:
    """The standard deviation of one run, from repeated runs of the same tree; None below two runs."""
    return stdev(runs) if len(runs) > 1 else None


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
