"""What each patch gained in its first run, held against runs of its parent that nobody picked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from nightlab.insights.effects import GUESS, Gain
from nightlab.ledger import Ledger
from nightlab.lineage import Sample
from nightlab.noise import Noise
from nightlab.readings import estimate
from nightlab.stats import Spread
from nightlab.values import Direction, Experiment, improvement

_AT_FIRST, _WIDEST = 2, 2.0


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The noise of a study: what one run varies by, what is left of it under a shared seed, and how well it is known.

    None: not known at all, as in an imported night; nought: runs repeat exactly.
    """

    sigma: float | None
    shared: float
    freedom: int

    def doubted(self, spread: float) -> float:
        """How much wider to take the noise, as a variance, while few runs tell of it: what gains vary by counts too."""
        if not self.sigma:
            return 1.0
        widest = min(max(spread / self.sigma, 1.0), _WIDEST)
        return (self.freedom + GUESS * widest**2) / (self.freedom + GUESS)


def yardstick(ledger: Ledger, direction: Direction) -> Yardstick:
    """The noise as the study knows it by now."""
    noise, spread, measured = Noise(ledger, direction, lambda _: None), Spread(), ledger.last("measured")
    for number, _, value in ledger.repeats():
        spread.add(number, value)
    sigma = noise.sigma if noise.sigma is not None else measured.body["sigma"] if measured else None
    return Yardstick(sigma, noise.shared or sigma or 0.0, max(spread.freedom, _AT_FIRST))


def first_gains(
    ledger: Ledger, ran: Sequence[Experiment], direction: Direction, noise: Yardstick
) -> Mapping[int, Gain]:
    """Experiment -> what its first run gained; nothing for those that were only ever held against a lucky parent.

    A parent that was kept for one good run looks better than it is until it runs again. Under a seed that both ran
    with, the two are held against each other; without noise, or where no noise is known, any run of a parent will do.
    """
    parents: dict[int, Parent] = {}
    found: dict[int, Gain] = {}
    for one in ran:
        number = one.parent or 0
        if number not in parents:
            parents[number] = _parent(ledger, number)
        first = next((Sample(*row) for row in ledger.samples(one.id, "candidate")[:1]), None)
        if first is None and one.gain is not None and not noise.sigma:  # an older or a foreign loop's own word
            found[one.id] = Gain(one.gain, number, 0.0)
        elif first is not None and (start := _reference(parents[number], first.seed, noise)) is not None:
            value, reference, doubt = start
            found[one.id] = Gain(improvement(direction, first.value, value), (number, reference), doubt)
    return found


@dataclass(frozen=True, slots=True)
class Parent:
    """A tree that others were held against: runs made after it was kept, the seeds it won with, all in one number."""

    unpicked: Sequence[Sample]
    won_with: frozenset[int]
    estimate: float | None


def _parent(ledger: Ledger, number: int) -> Parent:
    unpicked = [Sample(*row) for row in ledger.samples(number, "incumbent")]
    won = frozenset(seed for _, seed, _ in ledger.samples(number, "candidate"))
    return Parent(unpicked, won, estimate(ledger, ledger.experiment(number)))


def _reference(parent: Parent, seed: int, noise: Yardstick) -> tuple[float, int | None, float] | None:
    """What a run under this seed is held against: the value, the seed where it is shared, the variance."""
    if not noise.sigma:
        return None if parent.estimate is None else (parent.estimate, None, 0.0)
    for sample in parent.unpicked:
        if sample.seed == seed:
            return sample.value, seed, noise.shared**2
    if not parent.unpicked or seed in parent.won_with:
        return None
    return fmean(sample.value for sample in parent.unpicked), None, noise.sigma**2 / len(parent.unpicked)
