"""Decide: evidence in, a decision out. Policies are pure: the same input gives the same output.

The default, `Race`, was found by simulation on streams fitted to a public night of 126 experiments: an adaptive race
against *unselected* runs of the incumbent gains most per run spent. `Greedy` is the rule that made the field famous
(one run, any improvement is kept); the number it reports is 1.4 to 3 sigma too good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import fmean, stdev
from typing import Literal, Protocol

from nightlab.errors import BadPlugin
from nightlab.simplicity import PRICE
from nightlab.values import Contrast, Decision, Direction, Side, improvement


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about one candidate and the incumbent it grew from.

    `candidate` and `incumbent` hold one value per run; `sigma` is the standard deviation of one run of the *same* tree
    (never of different candidates); `recent_gains` the estimated gains of the last proposals, 0 where not kept;
    `proposals` how many came before, `refreshed` whether the incumbent's due re-run has been made for this one.
    `paired` holds (candidate, incumbent) values over shared seeds; hand them over only where pairing pays on the task.
    They count from two pairs on, and from the first where `paired_sigma`, the standard deviation of one paired
    difference, is known to the study.
    `prune_follows` says whether what is kept will be pruned; a keep is then provisional.
    `complexity` is how much more there is to read, in lines; `loss_left` what simplifications may still lose in this
    study, in metric units (None: the whole allowance).
    `contrast` is what the candidate's run itself says of the difference, where it carried both sides.
    """

    candidate: Sequence[float]
    incumbent: Sequence[float]
    sigma: float
    recent_gains: Sequence[float] = ()
    lower_is_better: bool = True
    proposals: int = 0
    refreshed: bool = False
    paired: Sequence[tuple[float, float]] = ()
    per_example_stderr: float | None = None
    paired_sigma: float | None = None
    prune_follows: bool = False
    complexity: float = 0.0
    loss_left: float | None = None
    contrast: Contrast | None = None

    @property
    def pairs(self) -> int:
        """How many shared seeds speak; 0 where the two sides are compared by their means."""
        enough = 2 if self.paired_sigma is None else 1
        return len(self.paired) if len(self.paired) >= enough else 0

    @property
    def repeats(self) -> int:
        """How often the candidate has been measured: pairs where pairs speak, its runs elsewhere."""
        return self.pairs or len(self.candidate)

    @property
    def direction(self) -> Direction:
        """Which way the metric points."""
        return "lower" if self.lower_is_better else "higher"

    def gain(self) -> float:
        """The candidate's mean gain over the incumbent, over shared seeds where they speak."""
        if self.pairs:
            return fmean(improvement(self.direction, c, i) for c, i in self.paired)
        return improvement(self.direction, fmean(self.candidate), fmean(self.incumbent))

    def stderr(self) -> float:
        """The gain's standard error; more seeds do not shrink the per-example part."""
        if self.pairs:
            known = self.paired_sigma
            seeds = (stdev(c - i for c, i in self.paired) if known is None else known) ** 2 / self.pairs
        else:
            seeds = self.sigma**2 * (1 / len(self.candidate) + 1 / len(self.incumbent))
        return sqrt(seeds + (self.per_example_stderr or 0.0) ** 2)


class Policy(Protocol):
    """A rule that turns evidence into a decision."""

    name: str
    baseline_runs: int

    def decide(self, evidence: Evidence) -> Decision:
        """Keep, discard, or which side to run again, with the reason in words."""
        ...

    def successor(self, candidate_runs: Sequence[float]) -> list[float]:
        """The unselected runs that the new incumbent starts with."""
        ...


@dataclass(frozen=True, slots=True)
class _Profile:
    """The numbers of a race, in standard errors; runs and proposals are counts."""

    baseline_runs: int
    refresh_every: int
    refresh_up_to: int
    rich_bar: float
    screen: float
    keep_once: float
    keep_twice: float
    final_bar: float
    rich_above: float
    """In sigma, where a prune follows and the memory is full; 0.1 elsewhere."""


_PROFILES = {
    "race": _Profile(3, 6, 20, 0.0, 0.25, 2.5, 1.5, 0.5, 0.04),
    "lean": _Profile(4, 8, 12, 0.5, 0.5, 3.0, 2.0, 1.0, 0.1),
}
_FINAL_RUNS = 4
_MEMORY = 20
_RICH_AT_FIRST, _RICH_ABOVE = 0.2, 0.1
_MOST_LOSS, _BOUND = 0.5, 0.84


class Race:
    """Race a candidate against unselected runs of the incumbent, for as long as the answer is open.

    While ideas are plentiful (recent gains above 0.1 sigma) one run decides; when they grow scarce each win has to hold
    up to repeats. Where a prune follows, `race` stays lax down to 0.04 sigma and leaves the harmless to it: of pure
    noise it then keeps one proposal in ten. `lean` keeps fewer changes and is surer of each. `nightlab bench judge`
    measures both.
    """

    def __init__(self, profile: Literal["race", "lean"] | str = "race") -> None:
        if profile not in _PROFILES:
            raise BadPlugin(f"there is no race profile {profile!r}; write one of: {', '.join(_PROFILES)}")
        self.name = profile
        self._profile = _PROFILES[profile]
        self.baseline_runs = self._profile.baseline_runs

    def decide(self, evidence: Evidence) -> Decision:
        """Keep, discard, or which side to run again, with the reason in words."""
        if len(evidence.candidate) == 0 or len(evidence.incumbent) == 0:
            return self._first(evidence)
        gain, stderr = evidence.gain(), evidence.stderr()
        if stderr == 0:
            return _exact(gain, evidence.complexity)
        z = gain / stderr
        verdict, reason = self._judge(evidence, z)
        side = _thinner(evidence) if verdict == "more" else None
        decision = Decision(verdict, side, gain, stderr, z, reason)  # type: ignore[arg-type]
        if verdict == "keep" and evidence.complexity > 0:
            return _priced(decision, evidence, is_rich=self.is_rich(evidence))
        return _simplified(decision, evidence) if verdict == "discard" and evidence.complexity < 0 else decision

    def successor(self, candidate_runs: Sequence[float]) -> list[float]:
        """All runs but the first, which was selected for being good; that one too when there is no other."""
        return list(candidate_runs[1:] if len(candidate_runs) > 1 else candidate_runs)

    def is_rich(self, evidence: Evidence) -> bool:
        """Whether good ideas are still plentiful, as the gains of the last twenty proposals tell."""
        gains = list(evidence.recent_gains)[-_MEMORY:]
        is_lax = evidence.prune_follows and len(gains) == _MEMORY
        above = self._profile.rich_above if is_lax else _RICH_ABOVE
        gains += [_RICH_AT_FIRST * evidence.sigma] * (_MEMORY - len(gains))
        return fmean(gains) > above * evidence.sigma

    def _first(self, evidence: Evidence) -> Decision:
        p = self._profile
        due = evidence.proposals > 0 and evidence.proposals % p.refresh_every == 0
        wanted = due and not evidence.refreshed and evidence.sigma > 0 and len(evidence.incumbent) < p.refresh_up_to
        if len(evidence.incumbent) == 0:
            return _more("incumbent", "the incumbent has not been measured yet")
        if wanted:
            return _more("incumbent", f"every {p.refresh_every}th proposal re-runs the incumbent first")
        return _more("candidate", "the candidate has not been run yet")

    def _judge(self, evidence: Evidence, z: float) -> tuple[str, str]:
        p, runs = self._profile, evidence.repeats
        if self.is_rich(evidence):
            if z > p.rich_bar:
                return "keep", f"z {z:.2f} > {p.rich_bar:g} while ideas are plentiful"
            return "discard", f"z {z:.2f} <= {p.rich_bar:g} while ideas are plentiful"
        if z < p.screen:
            return "discard", f"z {z:.2f} < {p.screen:g}: not worth another run"
        bar = p.keep_once if runs == 1 else p.keep_twice
        if z > bar:
            return "keep", f"z {z:.2f} > {bar:g} after {_count(runs)}"
        is_last = runs >= _FINAL_RUNS and (evidence.pairs or len(evidence.incumbent)) >= _FINAL_RUNS
        if is_last or evidence.sigma == 0:  # where runs repeat exactly, the examples are all there is to ask
            kept = z > p.final_bar
            return "keep" if kept else "discard", f"z {z:.2f} {'>' if kept else '<='} {p.final_bar:g} at the last look"
        return "more", f"z {z:.2f} is open after {_count(runs)}: run the {_thinner(evidence)} again"


class Greedy:
    """Karpathy's rule: one run, any improvement over the incumbent's record is kept. For compatibility only."""

    name = "greedy"
    baseline_runs = 1

    def decide(self, evidence: Evidence) -> Decision:
        """Keep iff the candidate's first run beats the incumbent's record."""
        if len(evidence.incumbent) == 0:
            return _more("incumbent", "the incumbent has not been measured yet")
        if len(evidence.candidate) == 0:
            return _more("candidate", "the candidate has not been run yet")
        gain = improvement(evidence.direction, evidence.candidate[0], evidence.incumbent[0])
        stderr = evidence.sigma * sqrt(2) or None
        words = "better than the record" if gain > 0 else "not better than the record"
        verdict: Literal["keep", "discard"] = "keep" if gain > 0 else "discard"
        return Decision(verdict, None, gain, stderr, gain / stderr if stderr else None, f"greedy: one run, {words}")

    def successor(self, candidate_runs: Sequence[float]) -> list[float]:
        """The lucky record itself: this is what makes greedy's claims too good."""
        return list(candidate_runs[:1])


def race() -> Race:
    """The default policy."""
    return Race("race")


def lean() -> Race:
    """For people who want few, well-founded keeps."""
    return Race("lean")


def _more(side: Side, reason: str) -> Decision:
    return Decision("more", side, None, None, None, reason)


def _exact(gain: float, complexity: float) -> Decision:
    verdict: Literal["keep", "discard"] = "keep" if gain > 0 or (gain == 0 and complexity < 0) else "discard"
    words = "runs repeat exactly: one run decides"
    return Decision(verdict, None, gain, 0.0, None, words if gain else f"{words}; {_size(complexity)}")


def _priced(won: Decision, evidence: Evidence, *, is_rich: bool) -> Decision:
    """A win has to be worth what it adds to read, 0.1 sigma a line. Its gain is shrunken for having been picked, but
    not while ideas are plentiful: there a keep is provisional, and the prune has the last word on it."""
    gain, z = won.gain or 0.0, won.z or 0.0
    worth = gain if is_rich else gain * (1 - 1 / max(z * z, 1.0))
    price = PRICE * evidence.sigma * evidence.complexity
    if worth > price:
        return won
    words = f"{won.reason}, but a gain of {worth:.3g} does not pay for {_size(evidence.complexity)} ({price:.3g})"
    return replace(won, verdict="discard", reason=words)


def _simplified(lost: Decision, evidence: Evidence) -> Decision:
    """What is simpler is kept though it does not win, where its loss is at most 0.1 sigma a line (80 % bound)."""
    gain, stderr, sigma = lost.gain or 0.0, lost.stderr or 0.0, evidence.sigma
    left = sigma if evidence.loss_left is None else evidence.loss_left
    most = min(PRICE * sigma * -evidence.complexity, _MOST_LOSS * sigma, left)
    worst, best = -gain + _BOUND * stderr, -gain - _BOUND * stderr
    if worst <= most:
        words = f"{_size(evidence.complexity)}, and loses at most {worst:.3g} where {most:.3g} may be lost"
        return replace(lost, verdict="keep", reason=words)
    if best <= most and min(len(evidence.candidate), len(evidence.incumbent)) < _FINAL_RUNS:
        words = f"{_size(evidence.complexity)}; whether that costs more than {most:.3g} is open"
        return replace(lost, verdict="more", side=_thinner(evidence), reason=words)
    return lost


def _size(complexity: float) -> str:
    return f"{abs(complexity):.2g} lines {'more' if complexity > 0 else 'less'} to read"


def _thinner(evidence: Evidence) -> Side:
    """The side with fewer runs, the candidate when level; where pairs count, the one that completes a pair."""
    candidate, incumbent = len(evidence.candidate), len(evidence.incumbent)
    if evidence.pairs:
        return "incumbent" if candidate > evidence.pairs and incumbent <= evidence.pairs else "candidate"
    return "candidate" if candidate <= incumbent else "incumbent"


def _count(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"
