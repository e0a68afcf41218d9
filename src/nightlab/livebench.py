"""Live on trial: its statistics on simulated visitors whose truth is known, beside what is commonly done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from math import inf, log, prod
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from nightlab.live import assignment, capacity
from nightlab.live.guards import sample_ratio
from nightlab.live.labels import ALPHA, Tally, fixed_sample, log_ratio
from nightlab.live.simulate import LOOKS, RAMP, Ideas, Paths, ends, naive_z, paths, run_programmes, run_race, run_stream
from nightlab.live.stream import Question, answers

_RATE, _EFFECT = 0.03, 0.2
_FALLING = np.linspace(0.04, 0.02, LOOKS)
_FINE = 500
_BLOCK = 1000
_DEMO = Ideas(good=0.2, idle=0.4)
_KNOWN = {60_000: 0.2, 231_000: 0.1, 901_000: 0.05}
"""What the capacity of 100 experiments a day in 20 layers at 3 % is known to be, and at which effect."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measure with its bar; `value` is None where it could not be measured here, `note` says what else was seen."""

    what: str
    value: float | None
    low: float
    high: float
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the bar is met; None: not measured, or there is no bar."""
        return None if self.value is None or self.low == -inf == -self.high else self.low <= self.value <= self.high

    @property
    def told(self) -> dict[str, Any]:
        """The row for JSON."""
        ends = {"low": None if self.low == -inf else self.low, "high": None if self.high == inf else self.high}
        return {"what": self.what, "value": self.value, **ends, "holds": self.holds, "note": self.note}


def rows(reps: int = 4000, *, seed: int = 0, say: Callable[[str], None] = lambda _: None) -> Iterator[Row]:
    """Every measure of the statistics, with so many simulated experiments each, a quarter as many races."""
    rng = np.random.default_rng(seed)
    yield conformance()
    say("identical arms")
    yield from identical(reps, rng)
    say("power")
    yield from power(reps, rng)
    say("races of ten")
    yield from races(max(reps // 4, 20), rng)
    say("long streams")
    yield from streams(*((5, 60) if reps >= 1000 else (1, 6)), rng)
    say("programmes like the demo")
    yield from programmes(max(reps // 4, 20), rng)
    yield from oracles(rng)
    yield from honest_capacity()


def conformance() -> Row:
    """GrowthBook's own cases (packages/sdk-js/test/cases.json, MIT): which share of them we agree with.

    The file is looked for as data/growthbook-cases.json in the folder that NIGHTLAB_SHARED names.
    """
    path = Path(os.environ.get("NIGHTLAB_SHARED", "../shared")) / "data" / "growthbook-cases.json"
    if not path.exists():
        return Row("conformance vectors of GrowthBook", None, 1, 1, f"there is no {path}; set NIGHTLAB_SHARED")
    agreed = list(_agreements(json.loads(path.read_text())))
    return Row(f"conformance vectors of GrowthBook, {len(agreed)}", fmean(agreed), 1, 1, "share that agrees")


def _agreements(cases: dict[str, Any]) -> Iterator[bool]:
    for seed, unit, version, place in cases["hash"]:
        yield assignment.bucket(seed, unit, version) == place
    for _, (arms, coverage, weights), ranges in cases["getBucketRange"]:
        found = assignment.bucket_ranges(arms, 1.0 if coverage is None else coverage, weights)
        yield np.allclose(found, ranges, rtol=0, atol=1e-9)
    for _, place, ranges, arm in cases["chooseVariation"]:
        yield assignment.choose(place, ranges) == arm
    for _, unit, namespace, is_in in cases["inNamespace"]:
        yield assignment.in_namespace(unit, tuple(namespace)) == is_in
    for arms, weights in cases["getEqualWeights"]:
        yield np.allclose(assignment.equal_weights(arms), weights, rtol=0, atol=1e-8)


def _many(lift: float, reps: int, rng: np.random.Generator, **scene: Any) -> Iterator[Paths]:
    """Experiments up to their horizon, a thousand at a time."""
    size = 2 * fixed_sample(_RATE, _EFFECT)
    for start in range(0, reps, _BLOCK):
        yield paths(np.full(min(_BLOCK, reps - start), lift), rng, visitors=size, **scene)


def identical(reps: int, rng: np.random.Generator) -> Iterator[Row]:
    """A/A: how often an arm that is the same is called better at any of 250 looks, and what a z-test says."""
    scenes: dict[str, dict[str, Any]] = {
        "a constant split": {},
        "a constant split, the rate falling": {"rate": _FALLING},
        "a ramped split": {"share": RAMP},
        "a ramped split, the rate falling": {"share": RAMP, "rate": _FALLING},
        "a ramped split, the rate rising": {"share": RAMP, "rate": _FALLING[::-1]},
    }
    for name, scene in scenes.items():
        found = [
            (float((one.better.max(axis=1) >= log(1 / ALPHA)).mean()), naive_z(one))
            for one in _many(0, reps, rng, **scene)
        ]
        ours, naive = (fmean(column) for column in zip(*found, strict=True))
        yield Row(f"A/A, 250 looks, {name}: type I", ours, 0, ALPHA, f"naive z {naive:.2f}")


def power(reps: int, rng: np.random.Generator) -> Iterator[Row]:
    """The test as it is run, up to its horizon: how often it finds the planned effect, and how much it takes."""
    found = {}
    for lift in (_EFFECT, 0.0, -_EFFECT):
        stopped = [ends(one) for one in _many(lift, reps, rng, looks=_FINE)]
        won, look = (np.concatenate(parts) for parts in zip(*((one.is_win, one.look) for one in stopped), strict=True))
        found[lift] = float(won.mean()), 2 * float(look.mean() + 1) / _FINE
    yield Row("power at the planned effect, horizon 2 x", found[_EFFECT][0], 0.78, 0.82)
    beside = f"{found[_EFFECT][1]:.2f} under the effect, {found[-_EFFECT][1]:.2f} where it harms"
    yield Row("visitors under no effect, in fixed samples", found[0.0][1], 0, 0.56, beside)
    yield Row("type I as it is run, with futility", found[0.0][0], 0, ALPHA)


def races(reps: int, rng: np.random.Generator) -> Iterator[Row]:
    """Ten challengers, one of them with the planned effect; and the same one after another."""
    ran = [run_race([_EFFECT, *[0.0] * 9], rng, rate=_RATE, effect=_EFFECT, step=500) for _ in range(reps)]
    none = [run_race([0.0] * 10, rng, rate=_RATE, effect=_EFFECT, step=2000)[0] for _ in range(reps)]
    right, visitors = fmean(winner == 1 for winner, _ in ran), fmean(taken for _, taken in ran)
    alone, needed = _one_after_another(reps, rng)
    yield Row("race of 10, the effect in one: right", right, 0.85, 1, f"one after another {alone:.2f}")
    yield Row("visitors of it at 3 %, 20 %", visitors, 0, 75_000, f"one after another {needed:,.0f}")
    yield Row("race of 10 identical ones: any winner", fmean(one is not None for one in none), 0, ALPHA)


def _one_after_another(reps: int, rng: np.random.Generator) -> tuple[float, float]:
    """The ten in any order, each by itself, until one is called better: how often it is the right one, and visitors."""
    good, idle = (
        [
            (bool(win), int(look))
            for one in _many(lift, size, rng)
            for stop in [ends(one)]
            for win, look in zip(stop.is_win, stop.look, strict=True)
        ]
        for lift, size in ((_EFFECT, reps), (0.0, 9 * reps))
    )
    right, taken, each = 0, 0.0, 2 * fixed_sample(_RATE, _EFFECT) / LOOKS
    for rep in range(reps):
        tried = [(True, *good[rep]), *((False, *one) for one in idle[9 * rep : 9 * rep + 9])]
        for at in rng.permutation(10):
            is_good, is_win, look = tried[at]
            taken += (look + 1) * each
            if is_win:
                right += is_good
                break
    return right / reps, taken / reps


def streams(count: int, millions: int, rng: np.random.Generator) -> Iterator[Row]:
    """Long streams: of what is claimed, which share does not help."""
    found = [run_stream(1e6 * millions, rng, ideas=Ideas(), rate=_RATE) for _ in range(count)]
    ours, plain = ([one[name] for one in found] for name in ("e-LORD", "plain"))
    share, beside = (sum(one.false for one in ones) / max(sum(one.claims for one in ones), 1) for ones in (ours, plain))
    seen = sum(one.claims - one.false for one in ours) / max(sum(one.good for one in ours), 1)
    note = f"plain 5 % test {beside:.2f}; {sum(one.ideas for one in ours)} ideas, {seen:.0%} of the good ones claimed"
    yield Row(f"{count} streams of {millions} million visitors, 8 % good: false claims", share, 0, 0.10, note)


def programmes(count: int, rng: np.random.Generator) -> Iterator[Row]:
    """Streams like the demo's: claims, and whether the holdout's interval holds the truth."""
    found = run_programmes(count, rng, ideas=_DEMO)
    claims, false = sum(one.claims for one in found), sum(one.false for one in found)
    yield Row(f"{count} demo-like streams: false claims", false / max(claims, 1), 0, 0.10, f"{claims} claims")
    covered = fmean(one.is_covered for one in found)
    yield Row(
        "the holdout's interval covers the truth",
        covered,
        0.93,
        0.97,
        f"mean lift {fmean(one.truth for one in found):.0%}",
    )


def oracles(rng: np.random.Generator) -> Iterator[Row]:
    """How far we are from others' code on the same numbers, where it is installed: pip install savvi online-fdr."""
    for name, measure in (
        ("savvi: label and sample-ratio e-values", from_savvi),
        ("online-fdr: claims and levels", from_online_fdr),
    ):
        try:
            yield Row(name, measure(rng), 0, 1e-6, "largest relative difference")
        except ModuleNotFoundError as missing:
            yield Row(name, None, 0, 1e-6, f"not measured: {missing.name} is not installed")


def from_savvi(rng: np.random.Generator) -> float:
    """How far log e-values are apart: of the sample-ratio test, and of our ratio averaged over savvi's mixture."""
    multinomial: Any = import_module("savvi.multinomial").Multinomial
    worst = 0.0
    for share in (0.5, 0.24, 0.8):
        champion, candidate = (int(one) for one in rng.multinomial(900, [1 - share, share]))
        theirs = multinomial(0.05, np.array([1 - share, share]))
        theirs.update(np.array([champion, candidate]))
        ours = sample_ratio([({0: 1 - share, 1: share}, {0: champion, 1: candidate})])
        averaged = _averaged(Tally(share, candidate, champion), *theirs.alpha_0)
        worst = max(worst, abs(log(ours) - log(theirs.odds)), abs(averaged - log(theirs.odds)))
    return worst


def _averaged(tally: Tally, champion: float, candidate: float, steps: int = 4000) -> float:
    """The logarithm of our likelihood ratio, averaged over a Beta distribution of the label's probability."""
    chances = [(step + 0.5) / steps for step in range(steps)]
    effects = [chance * (1 - tally.share) / ((1 - chance) * tally.share) - 1 for chance in chances]
    prior = np.array([(candidate - 1) * log(one) + (champion - 1) * log(1 - one) for one in chances])
    ratios = np.array([log_ratio([tally], effect) for effect in effects])
    return float(np.logaddexp.reduce(prior + ratios) - np.logaddexp.reduce(prior))


def from_online_fdr(rng: np.random.Generator) -> float:
    """How far levels are apart, relatively: one question after another, where ours are e-LOND's with as many claims."""
    elond: Any = import_module("online_fdr.e_values").ELond
    theirs = elond(0.10, gamma_seq=_Charges())
    evidence = np.exp(rng.normal(2, 4, 500))
    questions = [Question(str(at), at, at + 0.5, float(one)) for at, one in enumerate(evidence)]
    worst = 0.0
    for one, said in zip(questions, answers(questions), strict=True):
        if theirs.test_one(one.evidence) != said.is_claimed:
            return inf
        worst = max(worst, abs(theirs.current_level / said.level - 1))
    return worst


class _Charges:
    """What is charged for each question as a share of the whole budget: in the shape of online-fdr's sequences."""

    def calc_gamma(self, index: int, alpha: float = 1.0) -> float:
        return alpha * prod(1 - 0.1 / one for one in range(1, index)) * 0.1 / index


def honest_capacity() -> Iterator[Row]:
    """Visitors a day for 100 experiments a day in 20 layers at 3 %, beside the figures that are known."""
    for known, effect in _KNOWN.items():
        needs = capacity.visitors_a_day(_RATE, effect)
        yield Row(
            f"visitors a day for an effect of {effect:.0%}, known as {known:,}", needs, 0.99 * known, 1.01 * known
        )


def shown(row: Row) -> tuple[str, str, str]:
    """A row in words: whether it holds, what was measured, the bar."""
    holds = {True: "holds", False: "FAILS", None: "-"}[row.holds]
    if row.low == -inf == -row.high:
        bar = "-"
    elif row.high == inf:
        bar = f">= {row.low:g}"
    else:
        bar = f"<= {row.high:g}" if row.low in (0, -inf) else f"{row.low:g} to {row.high:g}"
    return holds, "-" if row.value is None else f"{row.value:.3g}" if row.value < 1000 else f"{row.value:,.0f}", bar
