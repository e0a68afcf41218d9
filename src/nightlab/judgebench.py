"""The judge on trial: policies play simulated nights whose true gains are known, and greedy plays beside them.

A stream says what ideas are worth and how noisy a run is; a night spends its runs as the loop does (baseline,
refreshes, races), then on the prune and the audit, all from one purse. Values are lower-is-better, in 1e-4 of the
metric. A *barnacle* is a kept change whose true effect is at most 0.1 sigma; where no idea is any good, every keep is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, log, sqrt
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightlab import prune
from nightlab.decide import Evidence, Greedy, Policy, Race
from nightlab.stats import Interval, Spread, difference
from nightlab.values import Decision

RUNS = (126, 700)
BARNACLE = 0.1
PRUNE_FROM = 300
_LONG = 200
_MEMORY = 20
_PRUNE_TRIAL = 26, 64


@dataclass(frozen=True, slots=True)
class Stream:
    """What good ideas are worth, and the standard deviation of one run; without ideas nothing has any effect at all."""

    sigma: float
    ideas: int = 0
    median: float = 5.0
    log_sd: float = 1.08
    share: float = 0.35


STREAMS = {
    "rich": Stream(5, ideas=60),
    "late": Stream(5, ideas=20, median=3, log_sd=0.8, share=0.05),
    "noisy": Stream(20, ideas=60),
    "null": Stream(5),
}
_NULL_SD, _HARM_MEDIAN, _HARM_LOG_SD, _COMES_BACK = 0.8, 11.0, 0.98, 0.5


class Ideas:
    """The stream at work: each draw is the true effect of one proposal, positive is better."""

    def __init__(self, stream: Stream, rng: np.random.Generator) -> None:
        self._stream, self._rng = stream, rng
        self._good = [float(one) for one in rng.lognormal(log(stream.median), stream.log_sd, stream.ideas)]

    def draw(self) -> tuple[float, bool]:
        """An effect, and whether it is one of the good ideas."""
        if not self._stream.ideas:
            return 0.0, False
        left = len(self._good) / self._stream.ideas
        if self._rng.random() < self._stream.share * left:
            return self._good.pop(int(self._rng.integers(len(self._good)))), True
        if self._rng.random() < 0.5:
            return float(self._rng.normal(0, _NULL_SD)), False
        return -float(self._rng.lognormal(log(_HARM_MEDIAN), _HARM_LOG_SD)), False

    def reject(self, effect: float, is_good: bool) -> None:
        """A good idea that was turned down comes back half of the time."""
        if is_good and self._rng.random() < _COMES_BACK:
            self._good.append(effect)


@dataclass(slots=True)
class Night:
    """One study under way: its purse of runs, what it kept (true effects), what it believes."""

    stream: Stream
    runs: int
    rng: np.random.Generator
    is_checked: bool
    spent: int = 0
    proposals: int = 0
    kept: list[float] = field(default_factory=list)
    pool: list[float] = field(default_factory=list)
    gains: deque[float] = field(default_factory=lambda: deque(maxlen=_MEMORY))
    spread: Spread = field(default_factory=Spread)
    seen: list[tuple[int, float]] = field(default_factory=list)
    """Unselected runs of the incumbents: how many keeps were on, and what came out."""

    def run(self, effect: float) -> float:
        """One run of a tree whose true gain over the start is `effect`."""
        self.spent += 1
        return -effect + self.stream.sigma * float(self.rng.standard_normal())

    def rerun(self) -> None:
        """One more run of the incumbent."""
        value = self.run(sum(self.kept))
        self.pool.append(value)
        self.spread.add(len(self.kept), value)
        self.seen.append((len(self.kept), value))

    @property
    def audit_seeds(self) -> int:
        """Fresh seeds on either side."""
        return 5 if self.runs >= _LONG else 3

    def has_left(self) -> bool:
        """Whether a run can be spent, with prune and audit (also of one keep more) still affordable."""
        owed = 2 * self.audit_seeds if self.is_checked else 0
        if self.is_checked and self.runs >= PRUNE_FROM:
            owed += prune.runs_needed(len(self.kept) + 1) + 2 * prune.CONFIRM_RUNS
        return self.spent + owed < self.runs


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one night; gains in sigma. `overclaim` is the search's own claim less what it truly gained;
    `audited` is None where nothing was kept, or nobody asked."""

    gain: float
    overclaim: float
    keeps: int
    barnacles: int
    proposals: int
    spent: int
    audited: Interval | None


def play(policy: Policy, stream: Stream, runs: int, seed: int) -> Outcome:
    """One night from baseline to audit. Greedy spends every run on the search: nothing of it is checked."""
    rng = np.random.default_rng(seed)
    night = Night(stream, runs, rng, is_checked=policy.name != "greedy")
    overclaim = search(night, policy, Ideas(stream, rng)) - sum(night.kept)
    if night.is_checked and runs >= PRUNE_FROM:
        shorten(night)
    audited = audit(night) if night.is_checked and night.kept else None
    barnacles = count_barnacles(night.kept, stream.sigma)
    gain = sum(night.kept) / stream.sigma
    return Outcome(gain, overclaim / stream.sigma, len(night.kept), barnacles, night.proposals, night.spent, audited)


def search(night: Night, policy: Policy, ideas: Ideas, *, most_keeps: int | None = None) -> float:
    """Propose, race, keep or discard while runs are left; returns the gain that the search itself claims."""
    for _ in range(policy.baseline_runs):
        night.rerun()
    start = fmean(night.pool)
    while night.has_left() and len(night.kept) != most_keeps:
        effect, is_good = ideas.draw()
        decision, values = race(night, policy, effect)
        night.proposals += 1
        is_kept = decision is not None and decision.verdict == "keep"
        night.gains.append((decision.gain or 0.0) if decision and is_kept else 0.0)
        if is_kept:
            night.kept.append(effect)
            night.pool = policy.successor(values)
            night.seen += [(len(night.kept), value) for value in night.pool if len(values) > 1]
        else:
            ideas.reject(effect, is_good)
    return start - fmean(night.pool)


def race(night: Night, policy: Policy, effect: float) -> tuple[Decision | None, list[float]]:
    """One proposal against the incumbent, as the loop does it; no decision where the purse is empty first."""
    values: list[float] = []
    is_refreshed = False
    while True:
        decision = policy.decide(
            Evidence(
                candidate=values,
                incumbent=night.pool,
                sigma=night.spread.sigma or 0.0,
                recent_gains=tuple(night.gains),
                proposals=night.proposals,
                refreshed=is_refreshed,
                prune_follows=night.is_checked and night.runs >= PRUNE_FROM,
            )
        )
        if decision.verdict != "more":
            return decision, values
        if not night.has_left():
            return None, values
        if decision.side == "candidate":
            values.append(night.run(sum(night.kept) + effect))
        else:
            is_refreshed = True
            night.rerun()


def shorten(night: Night, design_runs: int | None = None) -> None:
    """The prune: keeps that no longer pay are taken out again, unless the whole plainly suffers."""
    if not night.kept:
        return
    sigma, keeps = night.spread.sigma or night.stream.sigma, len(night.kept)
    steps = prune.staircase(keeps, [on for on, _ in night.seen])
    matrix = np.vstack([steps, prune.design(keeps, design_runs or prune.runs_needed(keeps), night.rng)])
    values = [value for _, value in night.seen]
    values += [night.run(float(row @ night.kept)) for row in matrix[len(steps) :]]
    is_on = _worthy(matrix, values, sigma)
    if is_on.all():
        return
    pruned, full = (
        [night.run(float(on @ night.kept)) for _ in range(prune.CONFIRM_RUNS)] for on in (is_on, np.ones(keeps))
    )
    if prune.is_accepted(pruned, full, sigma, "lower"):
        matrix = np.vstack([matrix, *[is_on] * len(pruned), *[np.ones(keeps, bool)] * len(full)])
        night.kept = [float(one) for one in np.array(night.kept)[_worthy(matrix, [*values, *pruned, *full], sigma)]]


def _worthy(matrix: NDArray[np.bool_], values: Sequence[float], sigma: float) -> NDArray[np.bool_]:
    """Which keeps stay, true or false for each."""
    is_on = np.ones(matrix.shape[1], bool)
    is_on[prune.to_drop(prune.estimate(matrix, values, sigma, "lower")[0], sigma)] = False
    return is_on


def audit(night: Night) -> Interval:
    """Fresh seeds of the start and of what stands, in sigma; the interval the real audit would report."""
    start, end = ([night.run(gain) for _ in range(night.audit_seeds)] for gain in (0.0, sum(night.kept)))
    return Interval(*(one / night.stream.sigma for one in difference(start, end)))


def count_barnacles(kept: Sequence[float], sigma: float) -> int:
    """How many kept changes bring at most a tenth of a sigma."""
    return sum(effect <= BARNACLE * sigma for effect in kept)


# What comes out of many nights


def judge(name: str, runs: int, reps: int, *, seed: int = 0) -> dict[str, Any]:
    """All policies on one stream, the same seeds for each, and what must hold of them."""
    stream, policies = STREAMS[name], (Greedy(), Race("race"), Race("lean"))
    nights = {one.name: [play(one, stream, runs, seed + rep) for rep in range(reps)] for one in policies}
    greedy = np.array([one.gain for one in nights["greedy"]])
    found: dict[str, Any] = {who: _figures(outcomes) for who, outcomes in nights.items()}
    for who, outcomes in nights.items():
        gains = np.array([one.gain for one in outcomes])
        found[who] |= _multiple(gains, greedy) if stream.ideas else {"multiple": None, "multiple_stderr": None}
    told: dict[str, Any] = {"stream": name, "runs": runs, "reps": reps, "policies": found}
    if name == "rich":
        told["prune"] = try_prune(reps, seed=seed)
    return told | {"bars": _bars(told)}


def _figures(nights: Sequence[Outcome]) -> dict[str, Any]:
    keeps, barnacles = sum(one.keeps for one in nights), sum(one.barnacles for one in nights)
    audits = [(one.audited, one.gain) for one in nights if one.audited]
    return {
        "gain": fmean(one.gain for one in nights),
        "overclaim": fmean(one.overclaim for one in nights),
        "keeps": keeps / len(nights),
        "barnacles": barnacles / keeps if keeps else None,
        "false_keeps": 100 * barnacles / sum(one.proposals for one in nights),
        "audited": sum(found.estimate for found, _ in audits) / len(nights) if audits else None,
        "audited_bias": fmean(found.estimate - gain for found, gain in audits) if audits else None,
        "coverage": 100 * fmean(found.low <= gain <= found.high for found, gain in audits) if audits else None,
        "proposals": fmean(one.proposals for one in nights),
        "spent": fmean(one.spent for one in nights),
    }


def _multiple(gains: NDArray[np.float64], greedy: NDArray[np.float64]) -> dict[str, float]:
    """True gain as a multiple of greedy's, a ratio of means, with its standard error over the nights."""
    ratio = gains.mean() / greedy.mean()
    stderr = (gains - ratio * greedy).std() / sqrt(len(gains)) / abs(greedy.mean())
    return {"multiple": float(ratio), "multiple_stderr": float(stderr)}


def try_prune(reps: int, *, seed: int = 0) -> dict[str, float]:
    """The prune by itself: 26 keeps of a rich night, 64 runs and those that confirm; the gain is in 1e-4."""
    stream, (keeps, runs) = STREAMS["rich"], _PRUNE_TRIAL
    before = after = gained = 0.0
    for rep in range(reps):
        rng = np.random.default_rng(seed + rep)
        night = Night(stream, 100 * runs, rng, is_checked=False)
        search(night, Race(), Ideas(stream, rng), most_keeps=keeps)
        before, gained = before + count_barnacles(night.kept, stream.sigma), gained - sum(night.kept)
        shorten(night, runs)
        after, gained = after + count_barnacles(night.kept, stream.sigma), gained + sum(night.kept)
    return {"removed": 100 * (1 - after / before) if before else 0.0, "gain": gained / reps}


BARS: dict[tuple[str, int], list[tuple[str, str, float, float]]] = {
    ("rich", 126): [("race", "multiple", 0.88, inf)],
    ("rich", 700): [
        ("race", "multiple", 1.04, inf),
        ("race", "barnacles", 0, 0.3),
        ("race", "audited_bias", -0.1, 0.1),
    ],
    ("late", 700): [("race", "multiple", 2.0, inf)],
    ("noisy", 700): [("race", "multiple", 1.55, inf)],
    ("null", 700): [
        ("race", "audited", -0.1, 0.1),
        ("race", "false_keeps", 0, 3.3),
        ("lean", "false_keeps", 0, 1.3),
    ],
}
"""What must hold: whose figure, and between what."""


def _bars(told: dict[str, Any]) -> list[dict[str, Any]]:
    asked = [*BARS.get((told["stream"], told["runs"]), []), ("race", "coverage", 92.0, 98.0)]
    rows = [(f"{who} {figure}", told["policies"][who][figure], low, high) for who, figure, low, high in asked]
    if "prune" in told:
        rows += [
            ("prune removed", told["prune"]["removed"], 60.0, inf),
            ("prune gain", told["prune"]["gain"], -1.0, inf),
        ]
    return [_bar(*row) for row in rows]


def _bar(figure: str, value: float | None, low: float, high: float) -> dict[str, Any]:
    holds = value is not None and low <= value <= high
    return {"figure": figure, "value": value, "low": low, "high": None if high == inf else high, "holds": holds}


def lines(told: dict[str, Any]) -> list[str]:
    """The same for people: a row for each policy, then what must hold."""
    rows = [f"{told['stream']}, {told['runs']} runs, {told['reps']} nights of each policy; gains in sigma of one run"]
    for who, one in told["policies"].items():
        many = "" if one["multiple"] is None else f" = {one['multiple']:.2f} +- {one['multiple_stderr']:.2f} x greedy"
        rows.append(
            f"  {who:9} gain {one['gain']:.2f}{many}; {one['keeps']:.1f} keeps, {one['barnacles'] or 0:.0%} barnacles "
            f"({one['false_keeps']:.2f} per 100 proposals); the search claims {one['overclaim']:+.2f} too much"
            + (
                ""
                if one["coverage"] is None
                else f", the audit {one['audited_bias']:+.2f}, covers {one['coverage']:.1f} %"
            )
        )
    for bar in told["bars"]:
        ends = f">= {bar['low']:g}" if bar["high"] is None else f"{bar['low']:g} to {bar['high']:g}"
        rows.append(f"  {'holds' if bar['holds'] else 'FAILS'} {bar['figure']}: {bar['value']:.3g} ({ends})")
    return rows
