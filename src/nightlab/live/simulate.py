"""Simulated visitors with known truth, as counts: what the statistics are measured on.

A visitor is drawn into an arm, and converts or not; what one looks at are the counts. The test that is run on them is
the one that runs on real visitors (`labels.log_ratio`, given arrays of counts instead of counts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapreplace
from math import inf, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightlab.live import race
from nightlab.live.labels import (
    ALPHA,
    BETA,
    CLAIM_HORIZON,
    MIXTURE,
    Lift,
    Tally,
    claim_horizon,
    fixed_sample,
    lift_of_rates,
    log_ratio,
)
from nightlab.live.stream import Budget

Array = NDArray[np.float64]
LOOKS = 250
RAMP = np.linspace(0.02, 0.7, LOOKS)
_BLOCK = 2000
_SERVED_BY = LOOKS // CLAIM_HORIZON


@dataclass(frozen=True, slots=True)
class Paths:
    """Many experiments: visitors and conversions of each arm since the last look, log e-values since the start.

    Every array has a row for each experiment and a column for each look.
    """

    seen: tuple[Array, Array]
    converted: tuple[Array, Array]
    better: Array
    worse: Array
    futile: Array


def paths(
    lifts: Array,
    rng: np.random.Generator,
    *,
    visitors: float,
    rate: Array | float = 0.03,
    share: Array | float = 0.5,
    effect: float = 0.2,
    mixture: bool = False,
    looks: int = LOOKS,
) -> Paths:
    """Experiments of so many visitors; the truth is in `lifts`, rate and share may differ from look to look."""
    shares = np.broadcast_to(share, looks)
    each = np.full((len(lifts), looks), round(visitors / looks))
    rates = np.broadcast_to(rate, each.shape)
    candidates = rng.binomial(each, shares)
    won = rng.binomial(candidates, rates * (1 + lifts[:, None]))
    lost = rng.binomial(each - candidates, rates)

    def ratios(one: float) -> Array:
        """The log e-values of one effect after each look."""
        columns: list[Any] = [won.T, lost.T]
        steps = [log_ratio([Tally(*of)], one) for of in zip(map(float, shares), *columns, strict=True)]
        return np.asarray(np.cumsum(np.column_stack(steps), axis=1))

    def mean(effects: Sequence[float]) -> Array:
        return np.asarray(np.logaddexp.reduce([ratios(one) for one in effects], axis=0) - log(len(effects)))

    effects = [effect * times for times in MIXTURE] if mixture else [effect]
    return Paths(
        seen=(candidates.astype(float), (each - candidates).astype(float)),
        converted=(won.astype(float), lost.astype(float)),
        better=mean(effects),
        worse=mean([1 / (1 + one) - 1 for one in effects]),
        futile=-ratios(effect),
    )


def first(reached: NDArray[np.bool_]) -> NDArray[np.int_]:
    """The first look at which something is reached; the number of looks where it never is."""
    return np.asarray(np.where(reached.any(axis=1), reached.argmax(axis=1), reached.shape[1]))


@dataclass(frozen=True, slots=True)
class Ends:
    """How experiments ended: at which look, counted from 0, and which of them as a win."""

    look: NDArray[np.int_]
    is_win: NDArray[np.bool_]


def ends(of: Paths, *, needed: Array | float = 1 / ALPHA, horizon: int | None = None) -> Ends:
    """Stop each experiment as `labels.verdict` does; `needed`: the e-value of a win.

    Where more is needed than for serving, what has not been served by the look `horizon` ends there, undecided.
    """
    last = of.better.shape[1] - 1
    win = first(of.better >= np.log(np.broadcast_to(needed, len(of.better)))[:, None])
    loss = np.minimum(first(of.futile >= log(1 / BETA)), first(of.worse >= log(1 / ALPHA)))
    if horizon is not None:
        loss = np.where(first(of.better >= log(1 / ALPHA)) > horizon, np.minimum(loss, horizon), loss)
    return Ends(np.minimum(np.minimum(win, loss), last), (win <= loss) & (win <= last))


def naive_z(of: Paths) -> float:
    """How often a two-sided 5 % z-test of pooled rates, looked at every time, finds a difference."""
    (n1, n0), (c1, c0) = ((np.cumsum(one, axis=1) for one in pair) for pair in (of.seen, of.converted))
    pooled = (c1 + c0) / (n1 + n0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (c1 / n1 - c0 / n0) / np.sqrt(pooled * (1 - pooled) * (1 / n1 + 1 / n0))
    return float((np.abs(np.nan_to_num(z)) > 1.96).any(axis=1).mean())


def run_race(
    lifts: Sequence[float], rng: np.random.Generator, *, rate: float = 0.03, effect: float = 0.2, step: int = 1000
) -> tuple[int | None, int]:
    """One race, judged after every `step` visitors: its winner, counted from 1, and the visitors it took."""
    arms = range(1, len(lifts) + 1)
    counts: dict[int, dict[float, tuple[int, int]]] = {arm: {} for arm in arms}
    left, visitors, last = tuple(arms), 0, race.horizon(len(lifts), rate, effect)
    while True:
        split = race.split(0, left)
        chances = [split[0] * rate, *(split[arm] * rate * (1 + lifts[arm - 1]) for arm in left)]
        champion, *conversions = (int(one) for one in rng.multinomial(step, [*chances, 1 - sum(chances)])[:-1])
        visitors += step
        for arm, won in zip(left, conversions, strict=True):
            share = race.share_of_two(split, arm, 0)
            before = counts[arm].get(share, (0, 0))
            counts[arm][share] = before[0] + won, before[1] + champion
        tallies = {arm: [Tally(share, *both) for share, both in of.items()] for arm, of in counts.items()}
        stands = race.standing(tallies, left, effect, is_at_end=visitors >= last)
        if stands.is_over:
            return stands.winner, visitors
        left = stands.left


@dataclass(frozen=True, slots=True)
class Ideas:
    """What ideas are worth: so many bring the effect, so many nothing, the rest does harm by up to the effect."""

    good: float = 0.08
    idle: float = 0.6
    effect: float = 0.2

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """True lifts."""
        kind, harm = rng.random(count), -self.effect * rng.random(count)
        return np.where(kind < self.good, self.effect, np.where(kind < self.good + self.idle, 0.0, harm))


@dataclass(frozen=True, slots=True)
class Claimed:
    """What became of a stream: how many ideas, how many good ones, how many claims, how many of them false."""

    ideas: int
    good: int
    claims: int
    false: int


def run_stream(
    visitors: float, rng: np.random.Generator, *, ideas: Ideas, rate: float = 0.03, lanes: int = 20
) -> dict[str, Claimed]:
    """A long stream in lanes side by side, each idea tested until it is claimed, futile, harmful or at its horizon.

    The same ideas are also tested by a plain one-sided z-test at 5 % of fixed size, one experiment per idea.
    """
    budget, size = Budget(), claim_horizon(rate, ideas.effect)
    free = [0.0] * lanes
    found = {"e-LORD": [0] * 4, "plain": [0] * 4}
    while free[0] < visitors / lanes:
        lifts = ideas.draw(_BLOCK, rng)
        of = paths(lifts, rng, visitors=size, rate=rate, effect=ideas.effect)
        plain = _plain_wins(of, rate, ideas.effect, size)
        for at in range(_BLOCK):
            if (began := free[0]) >= visitors / lanes:
                break
            end = ends(_row(of, at), needed=1 / budget.begin(began), horizon=_SERVED_BY)
            ended, is_win = began + size * float(end.look[0] + 1) / LOOKS, bool(end.is_win[0])
            if is_win:
                budget.claim(ended)
            heapreplace(free, ended)
            for name, win in (("e-LORD", is_win), ("plain", bool(plain[at]))):
                for place, one in enumerate((True, lifts[at] > 0, win, win and lifts[at] <= 0)):
                    found[name][place] += bool(one)
    return {name: Claimed(*counts) for name, counts in found.items()}


def _row(of: Paths, at: int) -> Paths:
    return Paths(of.seen, of.converted, *(one[at : at + 1] for one in (of.better, of.worse, of.futile)))


def _plain_wins(of: Paths, rate: float, effect: float, size: float) -> NDArray[np.bool_]:
    """Whom a plain z-test of fixed size would call a winner."""
    looks = round(LOOKS * fixed_sample(rate, effect) / size)
    (n1, n0), (c1, c0) = ((one[:, :looks].sum(axis=1) for one in pair) for pair in (of.seen, of.converted))
    pooled = (c1 + c0) / (n1 + n0)
    return np.asarray((c1 / n1 - c0 / n0) / np.sqrt(pooled * (1 - pooled) * (1 / n1 + 1 / n0)) > 1.644854)


@dataclass(frozen=True, slots=True)
class Programme:
    """One demo-like stream: its claims, and its lift over the holdout beside the truth."""

    claims: int
    false: int
    served: int
    holdout: Lift | None
    truth: float

    @property
    def is_covered(self) -> bool:
        """Whether the interval of the holdout lift holds the truth."""
        low, high = self.holdout.interval if self.holdout else (-1.0, inf)
        return low <= self.truth <= high


def run_programmes(
    count: int,
    rng: np.random.Generator,
    *,
    ideas: Ideas,
    experiments: int = 40,
    rate: float = 0.1,
    held_out: float = 0.05,
) -> list[Programme]:
    """Many studies at once, each of one experiment after another: propose, test, serve, claim, and in the end report.

    A candidate is served once its e-value reaches 20, and goes on being compared until it can be claimed or has reached
    its horizon. A holdout is shown the start throughout.
    """
    size, budgets = claim_horizon(rate, ideas.effect), [Budget() for _ in range(count)]
    champion, shown, expected = np.ones(count), np.zeros(count), np.zeros(count)
    now, tallies = np.zeros(count), np.zeros((count, 4))
    claims, false, served = np.zeros(count, int), np.zeros(count, int), np.zeros(count, int)
    for _ in range(experiments):
        lifts = np.minimum(ideas.draw(count, rng), 0.9 / (rate * champion) - 1)
        rates = (rate * champion)[:, None]
        of = paths(lifts, rng, visitors=size, rate=rates, effect=ideas.effect)
        levels = np.array([budget.begin(float(at)) for budget, at in zip(budgets, now, strict=True)])
        claim, serve = ends(of, needed=1 / levels, horizon=_SERVED_BY), ends(of, horizon=_SERVED_BY)
        now += 1 + claim.look
        for at in np.flatnonzero(claim.is_win):
            budgets[at].claim(float(now[at]))
        claims, false = claims + claim.is_win, false + (claim.is_win & (lifts <= 0))
        used = np.arange(LOOKS) <= claim.look[:, None]
        units = [(one * used).sum(axis=1) for one in of.seen]
        conversions = sum((one * used).sum(axis=1) for one in of.converted)
        kept = np.rint(sum(units) * held_out / (1 - held_out))
        held = rng.binomial(kept.astype(int), rate)
        tallies += np.column_stack([conversions, sum(units), held, kept])
        expected += units[0] * champion * (1 + lifts) + units[1] * champion
        shown += sum(units)
        served += serve.is_win
        champion = np.where(serve.is_win, champion * (1 + lifts), champion)
    seen = [lift_of_rates(*(int(one) for one in row)) for row in tallies]
    columns = zip(claims, false, served, seen, expected / shown - 1, strict=True)
    return [Programme(int(c), int(f), int(s), found, float(truth)) for c, f, s, found, truth in columns]
