"""The label test: whose conversion is it? Exact at every look, and blind to how the traffic and the base rate move.

A unit's first conversion within its window carries a label, the arm that the unit was shown. If candidate and champion
convert alike, that label is the candidate's with the probability of the split under which the unit was exposed,
whatever the hour, the season, the campaign: all that moves the rate moves it for both. If the candidate's rate is
1 + `effect` times the champion's, that probability is s(1 + effect) / (1 + s effect), s being the candidate's share of
the two. The e-value is the product of the likelihood ratios of the labels (Lindon & Malek, arXiv 2011.03567; Wald
1945): a martingale under no effect and a supermartingale under harm, so that it reaches 1/alpha at *any* look with
probability alpha at most (Ville 1939).

The product depends only on how many labels of each side fell under each share: counts are enough, in any order. Hence
late events do no harm: a conversion that is told of late is counted under the share of its unit's exposure, and the
e-value of the counts is the one that its timely arrival would have led to. Which conversions have been told of may
depend on anything but their label.

What this does *not* cover: units that come in faster in one arm (a split that is not kept; see `guards`), an outcome
that reaches us more often from one arm, and an effect that hastens conversions without adding any, which looks like a
gain while windows are open.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, exp, inf, isfinite, log, log1p, sqrt
from statistics import NormalDist
from typing import Literal, NamedTuple

Verdict = Literal["better", "worse", "futile", "undecided", "more"]
ALPHA, BETA = 0.05, 0.2
MIXTURE = (0.5, 1.0, 2.0, 4.0)
CLAIM_HORIZON = 3
"""A claim needs far more evidence than serving: what is served is compared on, for up to three horizons."""
_HORIZON = 2
_MOST = 700.0


class Tally(NamedTuple):
    """First conversions of units exposed under one split; `share` is the candidate's share of the two at exposure."""

    share: float
    candidate: int
    champion: int


class Lift(NamedTuple):
    """How many times the champion's rate the candidate's is, less one; `stderr` is that of log(1 + lift)."""

    lift: float
    stderr: float

    @property
    def interval(self) -> tuple[float, float]:
        """The fixed-sample 95 % interval: descriptive, since one looked often."""
        middle, half = log1p(self.lift) if self.lift > -1 else -inf, 1.959964 * self.stderr
        return exp(middle - half) - 1, exp(min(middle + half, _MOST)) - 1


@dataclass(frozen=True, slots=True)
class LabelTest:
    """What the labels say, each number valid at every look.

    `better` speaks against "it does not help", `worse` against "it does no harm", `futile` against "it brings the
    effect of interest".
    """

    better: float
    worse: float
    futile: float
    conversions: int
    lift: Lift | None


def log_ratio(tallies: Iterable[Tally], effect: float) -> float:
    """The log likelihood ratio of the labels, of a relative effect against none."""
    return sum(
        tally.candidate * log1p(effect) - (tally.candidate + tally.champion) * log1p(tally.share * effect)
        for tally in tallies
    )


def label_test(tallies: Sequence[Tally], effect: float, *, mixture: bool = False) -> LabelTest:
    """Test the smallest effect of interest; or, where it may be far larger, the mean over {1/2, 1, 2, 4} times it.

    Harm is the mirror image: a candidate whose rate is 1 / (1 + effect) times the champion's. Futility is the
    reciprocal of the ratio at the effect itself, an e-value against "at least the effect of interest".
    """
    effects = [effect * times for times in MIXTURE] if mixture else [effect]
    return LabelTest(
        better=_mean(log_ratio(tallies, one) for one in effects),
        worse=_mean(log_ratio(tallies, 1 / (1 + one) - 1) for one in effects),
        futile=_mean([-log_ratio(tallies, effect)]),
        conversions=sum(tally.candidate + tally.champion for tally in tallies),
        lift=lift(tallies),
    )


def _mean(logs: Iterable[float]) -> float:
    """The mean of what these are the logarithms of; what is beyond all floats is only very large."""
    ratios = [exp(min(one, _MOST)) for one in logs]
    return sum(ratios) / len(ratios)


def verdict(test: LabelTest, seen: float, horizon: float, *, alpha: float = ALPHA, beta: float = BETA) -> Verdict:
    """What to do now, when so many units have been exposed: a sequential test with an end (Wald's, truncated)."""
    if test.better >= 1 / alpha:
        return "better"
    if test.worse >= 1 / alpha:
        return "worse"
    if test.futile >= 1 / beta:
        return "futile"
    return "undecided" if seen >= horizon else "more"


def lift(tallies: Sequence[Tally]) -> Lift | None:
    """The likeliest lift given the labels; None while either side has none.

    Unlike a difference of pooled rates it compares within each split, so that a ramp does not feign a gain.
    """
    wins = sum(tally.candidate for tally in tallies)
    if not wins or not sum(tally.champion for tally in tallies):
        return None
    at = 0.0
    for _ in range(100):
        odds = exp(at)
        chances = [tally.share * odds / (1 - tally.share + tally.share * odds) for tally in tallies]
        sizes = [tally.candidate + tally.champion for tally in tallies]
        expected = sum(size * chance for size, chance in zip(sizes, chances, strict=True))
        weight = sum(size * chance * (1 - chance) for size, chance in zip(sizes, chances, strict=True))
        step = min(max((wins - expected) / weight, -1.0), 1.0)
        at += step
        if abs(step) < 1e-12:
            break
    return Lift(exp(at) - 1, 1 / sqrt(weight))


def lift_of_rates(won: int, of: int, base_won: int, base_of: int) -> Lift | None:
    """A lift from conversions and units of either side, such as everybody against the permanent holdout.

    Only where the split was the same throughout, as a holdout's is; else a ramp feigns a gain, and it has to be `lift`.
    """
    if not won or not base_won:
        return None
    variance = 1 / won - 1 / of + 1 / base_won - 1 / base_of
    return Lift(won / of / (base_won / base_of) - 1, sqrt(max(variance, 0.0)))


def differs(segment: Sequence[Tally], others: Sequence[Tally], effect: float) -> float:
    """An e-value against "the lift in this segment is that in the others", whatever that common lift is.

    Universal inference (Wasserman, Ramdas & Balakrishnan 2020): the mean likelihood over lifts of their own for either
    side, divided by the likelihood at the best common lift, which is at least that at the true one. 0 until both arms
    have conversions.
    """
    common = lift([*segment, *others])
    if common is None:
        return 0.0
    apart = _log_mean_ratio(segment, effect) + _log_mean_ratio(others, effect)
    return exp(min(apart - log_ratio([*segment, *others], common.lift), _MOST))


def _log_mean_ratio(tallies: Sequence[Tally], effect: float) -> float:
    """The logarithm of the mean ratio over lifts that are spread around none by twice the effect of interest."""
    places = [step / 8 for step in range(-24, 25)]
    total = sum(exp(-0.5 * place**2) for place in places)
    spread = 2 * log1p(effect)
    logs = [log_ratio(tallies, exp(place * spread) - 1) - 0.5 * place**2 - log(total) for place in places]
    most = max(logs)
    return most + log(sum(exp(one - most) for one in logs))


def fixed_sample(
    rate: float, effect: float, share: float = 0.5, *, alpha: float = ALPHA, power: float = 1 - BETA
) -> float:
    """Units of both arms that a one-sided z-test of fixed size needs to see an effect on a rate."""
    better = rate * (1 + effect)
    if not (0 < share < 1 and 0 < rate < 1 and better < 1 and effect > 0 and isfinite(effect)):
        raise ValueError(f"a rate of {rate:g} that grows by {effect:g} with a share of {share:g} cannot be planned")
    variance = better * (1 - better) / share + rate * (1 - rate) / (1 - share)
    normal = NormalDist()
    return variance * ((normal.inv_cdf(1 - alpha) + normal.inv_cdf(power)) / (better - rate)) ** 2


def horizon(rate: float, effect: float, share: float = 0.5) -> int:
    """When to stop undecided: twice the fixed sample, in units of both arms."""
    return ceil(_HORIZON * fixed_sample(rate, effect, share))


def claim_horizon(rate: float, effect: float, share: float = 0.5) -> int:
    """When to stop comparing what is served with what it replaced, in units of both arms."""
    return CLAIM_HORIZON * horizon(rate, effect, share)
