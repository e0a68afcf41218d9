"""The noise: what one run varies by, and what shared seeds and shared examples tell of a difference, as a study learns.

It is made anew from the ledger whenever a study is taken up, and then says what it would have said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightlab.decide import Evidence
from nightlab.ledger import Ledger
from nightlab.lineage import BASELINE, Sample
from nightlab.stats import Pairing, Spread, good_for, has_drifted, visible_gain
from nightlab.values import Direction, improvement

Examples = Callable[[str], NDArray[np.float64] | None]
"""The value of each example in a run, where they are known."""
_WINDOW = 4


class Noise:
    """What a study knows of its noise."""

    def __init__(self, ledger: Ledger, direction: Direction, examples: Examples, *, by_hardware: bool = False) -> None:
        """`by_hardware`: what a run comes to depends on where it ran, so that only runs of one class are compared."""
        self._direction, self._examples = direction, examples
        self._spread, self._across, self._pairing = Spread(), Spread(), Pairing()
        self._has_one_set = False
        self.hardware: dict[str, str] = ledger.hardware() if by_hardware else {}
        """Run -> the class of hardware it ran on, where that matters."""
        for number, run, value in ledger.repeats():
            self.add(number, run, value)
        for number, gain in ledger.shared_gains():
            self._pairing.add(number, gain)
        self.learn_start(ledger)

    def learn_start(self, ledger: Ledger) -> None:
        """What the baseline's runs say: the one that repeats a seed, and whether all were asked the same examples."""
        samples = ledger.samples(BASELINE, "incumbent")
        again = {seed: value for _, seed, value in ledger.samples(BASELINE, "repeat")}
        for _, seed, value in samples:
            if seed in again:
                self._pairing.repeat(value, again[seed])
        asked = {(ledger.find("ran", run) or {}).get("examples") for run, _, _ in samples}
        self._has_one_set = len(samples) > 1 and len(asked) == 1 and not asked & {None, ""}

    @property
    def sigma(self) -> float | None:
        """The standard deviation of one run, from the repeats of incumbents; None before two of one tree.

        Between classes of hardware only until two runs of one tree have met in one class.
        """
        return self._across.sigma if self._spread.sigma is None else self._spread.sigma

    @property
    def shares_seeds(self) -> bool:
        """Whether both sides of a race should run under the same seeds."""
        return self.shared is not None

    @property
    def shared(self) -> float | None:
        """What one run still varies by once its seed is accounted for; None where sharing seeds does not pay."""
        pair = self._pairing.sigma(self.sigma or 0.0)
        return None if pair is None else pair / sqrt(2)

    @property
    def scale(self) -> float:
        """What one run varies by in a race."""
        return (self.sigma or 0.0) if self.shared is None else self.shared

    def add(self, number: int, run: str, value: float) -> None:
        """Take in one more run of an incumbent."""
        self._spread.add((number, self.hardware.get(run)), value)
        self._across.add(number, value)

    def close(self, number: int, pairs: Sequence[tuple[Sample, Sample]]) -> list[float]:
        """Take in the pairs that decided an experiment, and return their gains."""
        gains = [improvement(self._direction, mine.value, other.value) for mine, other in pairs]
        for gain in gains:
            self._pairing.add(number, gain)
        return gains

    def evidence(
        self, mine: Sequence[Sample], pool: Sequence[Sample], pairs: Sequence[tuple[Sample, Sample]], **more: Any
    ) -> Evidence:
        """What a policy is told: in pairs where that is sharper, the incumbent's last runs alone where they drift."""
        here = self.where(mine)
        mine, pool = self._on(here, mine), self._on(here, pool)
        pairs = [(one, other) for one, other in pairs if one in mine and other in pool]
        known = self.window(pool)
        pair, sigma = self._pairing.sigma(self.sigma or 0.0), self.sigma or 0.0
        plain = sigma * sqrt(1 / max(len(mine), 1) + 1 / max(len(known), 1))
        is_sharper = bool(pairs) and pair is not None and pair / sqrt(len(pairs)) < plain
        return Evidence(
            candidate=[sample.value for sample in mine],
            incumbent=[sample.value for sample in known],
            sigma=sigma,
            lower_is_better=self._direction == "lower",
            paired=[(mine.value, other.value) for mine, other in pairs] if is_sharper else (),
            paired_sigma=pair if is_sharper else None,
            per_example_stderr=self._example_stderr(mine, known),
            **more,
        )

    def where(self, mine: Sequence[Sample]) -> str | None:
        """The class of hardware that most of these ran on; None where that does not matter."""
        classes = [self.hardware[sample.run] for sample in mine if sample.run in self.hardware]
        return max(classes, key=classes.count, default=None)

    def _on(self, hardware: str | None, samples: Sequence[Sample]) -> Sequence[Sample]:
        return [one for one in samples if hardware is None or self.hardware.get(one.run) == hardware]

    def window(self, pool: Sequence[Sample]) -> Sequence[Sample]:
        """The runs of an incumbent to compare with: all, or the last four where they drift in time."""
        return pool[-_WINDOW:] if has_drifted([sample.value for sample in pool], last=_WINDOW) else pool

    def _example_stderr(self, mine: Sequence[Sample], pool: Sequence[Sample]) -> float | None:
        """What the gain varies by from one finite set of examples to another. Where each run is asked new ones, that is
        part of sigma already."""
        if not self._has_one_set or not mine or not pool:
            return None
        one, other = self._examples(mine[-1].run), self._examples(pool[-1].run)
        if one is None or other is None or one.shape != other.shape:
            return None
        return float((one - other).std(ddof=1) / sqrt(len(one)))

    def between(self, pairs: Sequence[tuple[Sample, Sample]]) -> float | None:
        """What one example varies by between two sides that were asked the same; None where that is not known."""
        for mine, other in reversed(pairs):
            one, two = self._examples(mine.run), self._examples(other.run)
            if one is not None and two is not None and one.shape == two.shape:
                return float((one - two).std())
        return None

    def power(self, ledger: Ledger) -> dict[str, Any]:
        """What the start of a study promises: the gain that can be seen, and what the validation set is good for."""
        sigma = self.sigma or 0.0
        gain = visible_gain(self.scale)
        found = [self._examples(run) for run, _, _ in ledger.samples(BASELINE, "incumbent")]
        each = [examples for examples in found if examples is not None]
        is_one = self._has_one_set and len(each) > 1 and each[0].shape == each[1].shape
        pair = float((each[0] - each[1]).std()) if is_one else None
        count = len(each[0]) if is_one else sum(map(len, each))
        return {
            "sigma": sigma,
            "correlation": self._pairing.correlation(sigma),
            "visible_gain": gain,
            "examples": count,
            "good_for": None if pair is None or not gain else good_for(gain, pair, count),
        }
