"""Empirical Bayes: what a lift is worth once one knows how lifts in this channel usually turn out.

A winner was picked because it looked good, so its naive lift is too high (the winner's curse). The prior is learned
from all finished experiments, the losers too: a distribution over a grid of log lifts, by EM (Kiefer & Wolfowitz 1956;
Efron 2010), started from and weighed against a sceptical one that counts like five experiments. So a channel without
history is judged sceptically, and one with history by its own.

Everything is on the scale of log(1 + lift), on which labels are nearly normal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb, exp, expm1, log1p, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from nightlab.live.labels import Lift

Array = NDArray[np.float64]
ENOUGH = 50
_SCEPTIC_WEIGHT, _SCEPTIC_SHARE = 5.0, 0.5
_GRID = np.linspace(-1.5, 1.5, 301)
_ROUNDS = 200
_CENTRAL, _LEAST = 0.8, 0.01


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What one believes of a lift: its mean, a 95 % credible interval, and what serving it would lose.

    `better` is the probability that it helps at all. `loss` is what it is expected to cost where it does harm, and
    `missed` what not serving it costs where it helps, both as shares of the champion's conversions.
    """

    lift: float
    low: float
    high: float
    better: float
    loss: float
    missed: float

    @property
    def is_worth_serving(self) -> bool:
        """Whether serving loses less than not serving, which is whether the mean lift is above 0."""
        return self.loss < self.missed


@dataclass(frozen=True, slots=True)
class Prior:
    """How lifts are spread in a channel: a weight for each place on a grid of log lifts."""

    weights: tuple[float, ...]
    experiments: int

    def posterior(self, seen: Lift) -> Shrunk:
        """What to believe of a lift that was seen with some noise."""
        belief = np.array(self.weights) * _likelihood([seen])[0]
        belief /= belief.sum()
        lifts, ends = np.expm1(_GRID), np.searchsorted(np.cumsum(belief), [0.025, 0.975])
        low, high = lifts[np.minimum(ends, len(lifts) - 1)]
        return Shrunk(
            lift=float(belief @ lifts),
            low=float(low),
            high=float(high),
            better=min(float(belief[_GRID > 0].sum()), 1.0),
            loss=float(belief @ np.maximum(-lifts, 0)),
            missed=float(belief @ np.maximum(lifts, 0)),
        )

    def chance_below(self, seen: Lift) -> float:
        """Where an observed lift stands among those that the prior leads to expect with such noise."""
        normal, at = NormalDist(), log1p(seen.lift)
        return float(sum(w * normal.cdf((at - g) / seen.stderr) for w, g in zip(self.weights, _GRID, strict=True)))


def _likelihood(lifts: Sequence[Lift]) -> Array:
    """How likely each place on the grid makes each lift; rows are scaled so that the best place has 1."""
    at = np.array([log1p(one.lift) for one in lifts])[:, None]
    logs = -0.5 * ((at - _GRID) / np.array([one.stderr for one in lifts])[:, None]) ** 2
    return np.asarray(np.exp(logs - logs.max(axis=1, keepdims=True)))


def _sceptic(effect: float) -> Array:
    """Half of all ideas do nothing; the rest are spread around nothing by the effect of interest."""
    spread = np.exp(-0.5 * (_GRID / log1p(effect)) ** 2)
    none = np.isclose(_GRID, 0)
    return np.asarray(_SCEPTIC_SHARE * none / none.sum() + (1 - _SCEPTIC_SHARE) * spread / spread.sum())


def learn(lifts: Sequence[Lift], effect: float) -> Prior:
    """The prior of a channel from the naive lifts of all its finished experiments, in any order."""
    sceptic = _sceptic(effect)
    weights = sceptic
    if lifts:
        likely = _likelihood(lifts)
        for _ in range(_ROUNDS):
            beliefs = weights * likely
            beliefs /= beliefs.sum(axis=1, keepdims=True)
            weights = (beliefs.sum(axis=0) + _SCEPTIC_WEIGHT * sceptic) / (len(lifts) + _SCEPTIC_WEIGHT)
    return Prior(tuple(float(one) for one in weights), len(lifts))


def is_calibrated(lifts: Sequence[Lift], effect: float) -> bool:
    """Whether serving by expected loss may begin: 50 experiments, in the order in which they ended, as was foreseen.

    From the half on, each block is held against the prior of all before it: of the lifts, 80 % should fall into the
    middle 80 % of what was foreseen. The check fails where a binomial count as far from that, on its side, has less
    than 1 % probability: a channel whose ideas have become worse, or whose noise is understated.
    """
    if len(lifts) < ENOUGH:
        return False
    half, block, inside = len(lifts) // 2, max(len(lifts) // 10, 1), 0
    for start in range(half, len(lifts), block):
        prior = learn(lifts[:start], effect)
        told = [prior.chance_below(one) for one in lifts[start : start + block]]
        inside += sum(abs(chance - 0.5) <= _CENTRAL / 2 for chance in told)
    seen = len(lifts) - half
    return min(_binomial(inside, seen), _binomial(seen - inside, seen, 1 - _CENTRAL)) >= _LEAST


def _binomial(count: int, of: int, chance: float = _CENTRAL) -> float:
    """The probability of at most so many."""
    return sum(comb(of, one) * chance**one * (1 - chance) ** (of - one) for one in range(count + 1))


@dataclass(frozen=True, slots=True)
class Segment:
    """A lift within one segment: as seen, and drawn towards that of all visitors as far as segments usually agree."""

    naive: Lift
    shrunk: Lift


def spread_of_segments(experiments: Sequence[Sequence[Lift]]) -> float:
    """How much segments truly differ within an experiment: a standard deviation of log lifts.

    The method of moments of DerSimonian & Laird (1986), pooled over all experiments of a channel; 0 where noise
    explains it all.
    """
    excess = scale = 0.0
    for segments in experiments:
        if len(segments) > 1:
            weights = np.array([one.stderr**-2 for one in segments])
            at = np.array([log1p(one.lift) for one in segments])
            middle = weights @ at / weights.sum()
            excess += float(weights @ (at - middle) ** 2) - (len(segments) - 1)
            scale += float(weights.sum() - (weights @ weights) / weights.sum())
    return sqrt(max(excess, 0.0) / scale) if scale else 0.0


def shrink_segments(segments: Mapping[str, Lift], prior: Prior, spread: float) -> dict[str, Segment]:
    """Two levels: a segment is drawn towards its experiment, its experiment towards the channel.

    The experiment's lift is the mean of its segments, each weighed by how well it is known and how much they differ.
    """
    if not segments:
        return {}
    total = sum(1 / (one.stderr**2 + spread**2) for one in segments.values())
    pooled = sum(log1p(one.lift) / (one.stderr**2 + spread**2) for one in segments.values()) / total
    center = log1p(prior.posterior(Lift(expm1(pooled), total**-0.5)).lift)
    found = {}
    for name, seen in segments.items():
        trust = spread**2 / (spread**2 + seen.stderr**2)
        at = center + trust * (log1p(seen.lift) - center)
        found[name] = Segment(seen, Lift(exp(at) - 1, sqrt(trust * seen.stderr**2 + (1 - trust) ** 2 / total)))
    return found
