"""The bandit: which proposer to ask next, by what it has brought in lately for what it cost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import fmean

from nightlab.values import Experiment, Status, derived_seed

_WINDOW = 40


@dataclass(slots=True)
class Purse:
    """What one proposer has brought in lately: per experiment its kept gain (0 where not kept) and what it cost.

    Cost is counted in runs, not seconds: the same seed has to give the same study on any machine, however busy.
    Only where a proposer takes its time, that time counts, in runs as well. Money does not: a slot has no price here.
    """

    gains: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    costs: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def draw(self, dice: Random, typical_gain: float) -> float:
        """A plausible gain per cost: Thompson sampling over how often it wins, times what a win brings and costs."""
        wins = [gain for gain in self.gains if gain > 0]
        rate = dice.betavariate(1 + len(wins), 2 + len(self.gains) - len(wins))
        gain = (sum(wins) + typical_gain) / (len(wins) + 1)
        return rate * gain / ((sum(self.costs) + 1) / (len(self.costs) + 1))


class Bandit:
    """Shares slots between proposers by confirmed gain per cost; new ones are each tried first.

    Deterministic: what it draws depends on the study's seed, the proposal's number, and what it has learned.
    """

    def __init__(self, names: Sequence[str], lean: Callable[[str], float] = lambda _: 1.0) -> None:
        """`lean`: how much more than by what it brings in a name is to be asked."""
        self._purses = {name: Purse() for name in names}
        self._lean = lean

    def learn(self, experiment: Experiment) -> None:
        """Take note of what a finished experiment gained and cost."""
        purse, thinking = self._purses.get(experiment.proposer), float(experiment.facts.get("thinking", 0.0))
        if purse is not None and (thinking or experiment.status is not Status.REJECTED):
            kept = experiment.status is Status.KEPT
            purse.gains.append(max(experiment.gain or 0.0, 0.0) if kept else 0.0)
            purse.costs.append(experiment.runs + thinking)

    def order(self, *, seed: int, number: int) -> list[str]:
        """All names, the one to ask first in front."""
        dice = Random(derived_seed(seed, "search", number))
        wins = [gain for purse in self._purses.values() for gain in purse.gains if gain > 0]
        typical = fmean(wins) if wins else 1.0
        drawn = {name: purse.draw(dice, typical) * self._lean(name) for name, purse in self._purses.items()}
        return sorted(drawn, key=lambda name: (bool(self._purses[name].gains), -drawn[name]))
