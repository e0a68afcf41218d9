"""The sampler: where to look next, by a surrogate of the score that is made anew from what the ledger tells."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from nightlab.artifact import LARGEST
from nightlab.proposer import Context
from nightlab.tuner.space import Knob
from nightlab.tuner.surrogate import Floats, Surrogate, shaped
from nightlab.values import Experiment

_BY_CHANCE = 5
"""So many values are known before the surrogate is asked."""
_SPREAD = 0.3
"""Of the range: how far around."""
_MOST = 100
"""The surrogate is made of so many runs, half of them the best and half the latest: its time grows with their cube."""
_LOOKS, _TOPS, _NEAR, _ASKED = 500, 5, 100, 30
_SPARED = 0.9
"""Of the improvement that is expected, so much has to be left by moving fewer knobs."""
_OF_PRESENT = 2.0


@dataclass(frozen=True, slots=True)
class _Ranges:
    """The scales of the knobs, each from 0 to 1."""

    knobs: Sequence[Knob]

    def inside(self, constants: Mapping[str, Any]) -> list[float]:
        """Where these values stand; a knob that they do not have counts as where it stands now."""
        return [(k.place_of(constants.get(k.key, k.value)) - k.low) / ((k.high - k.low) or 1.0) for k in self.knobs]

    def places(self, inside: Floats) -> dict[str, float]:
        """Key -> place on the knob's own scale."""
        return {k.key: k.low + float(at) * (k.high - k.low) for k, at in zip(self.knobs, inside, strict=True)}

    def settled(self, inside: Floats) -> Floats:
        """The places of the values that the knobs would really take, [n, knobs]."""
        rows = (
            {key: k.at(at) for k, (key, at) in zip(self.knobs, self.places(row).items(), strict=True)} for row in inside
        )
        return np.array([self.inside(row) for row in rows])


def places(
    context: Context, knobs: Sequence[Knob], told: Sequence[Experiment], seed: int
) -> Iterator[dict[str, float]]:
    """Key -> place of every knob, without end: the most promising first, then drawn around the present one."""
    rng, ranges = np.random.default_rng(seed), _Ranges(knobs)
    known, values, runs = _known(context, ranges, told)
    has_value, now = np.isfinite(values), np.array(ranges.inside({}))
    if has_value.sum() >= _BY_CHANCE:
        told_as = _flattened(np.where(has_value, values, values[has_value].max()))
        with threadpool_limits(1, "blas"):  # an idea may not take cores from the runs beside it
            surrogate = _surrogate(known, told_as, runs, [ranges.inside(facts) for facts in _open(context)])
            found, best = _promising(surrogate, known, ranges, rng)
        yield from (ranges.places(_spared(surrogate, place, now, best)) for place in found)
    middle = np.full(len(knobs), 0.5) if context.value is None else now
    while True:
        yield ranges.places(_within(rng.normal(middle, _SPREAD)))


def _open(context: Context) -> list[Mapping[str, Any]]:
    """The constants of what is being tried at this moment."""
    return [facts["constants"] for facts in context.racing if "constants" in facts]


def _surrogate(known: Floats, values: Floats, runs: Floats, under_way: Sequence[Sequence[float]]) -> Surrogate:
    """Made of what is known; what is under way counts as what is expected of it, so that no two look in one place."""
    shape = shaped(known, values, runs)
    surrogate = Surrogate(known, values, runs, shape)
    if not under_way:
        return surrogate
    where = np.array(under_way)
    values, runs = np.append(values, surrogate.at(where)[0]), np.append(runs, np.ones(len(where)))
    return Surrogate(np.vstack([known, where]), values, runs, shape)


def _known(context: Context, ranges: _Ranges, told: Sequence[Experiment]) -> tuple[Floats, Floats, Floats]:
    """Where it was tried, what it came to (less is better, infinite where it failed), and of how many runs."""
    sign = 1 if context.direction == "lower" else -1
    rows = [
        (
            ranges.inside(one.facts["constants"]),
            math.inf if one.value is None or one.status.is_failure else sign * one.value,
            float(max(one.runs, 1)),
        )
        for one in told
    ]
    if len(rows) > _MOST:
        latest = rows[-_MOST // 2 :]
        rows = sorted(rows[: -_MOST // 2], key=lambda row: row[1])[: _MOST // 2] + latest
    if context.value is not None:
        rows.append((ranges.inside({}), sign * context.value, _OF_PRESENT))
    where, values, runs = zip(*rows, strict=True) if rows else ((), (), ())
    return np.array(where), np.array(values), np.array(runs)


def _flattened(values: Floats) -> Floats:
    """What is far worse than most counts as hardly worse: how bad it is does not tell where the best is."""
    values = np.clip(values, -LARGEST, LARGEST)
    best = values.min()
    usual = float(np.median(values) - best)
    return np.asarray(np.log1p((values - best) / usual) if usual > 0 else np.sign(values - best))


def _promising(surrogate: Surrogate, known: Floats, ranges: _Ranges, rng: np.random.Generator) -> tuple[Floats, float]:
    """Places where the surrogate expects most, looked for everywhere and around the best known, then closer by; and
    what it expects of the best known."""
    expected = surrogate.at(known)[0]
    best, knobs = float(expected.min()), known.shape[1]
    looks = [rng.random((_LOOKS, knobs))]
    for top in known[np.argsort(expected)[:_TOPS]]:
        moved = top + rng.normal(size=(_NEAR, knobs)) * np.exp(rng.uniform(math.log(0.02), math.log(0.3), (_NEAR, 1)))
        looks.append(np.where(rng.random((_NEAR, knobs)) < np.maximum(rng.random((_NEAR, 1)), 1 / knobs), moved, top))
    found = np.clip(np.vstack(looks), 0, 1)
    for reach in (0.1, 0.03):
        tops = _sorted(surrogate, found, best)[:20]
        found = np.vstack([tops, *(np.clip(tops + rng.normal(0, reach, tops.shape), 0, 1) for _ in range(5))])
    settled = np.unique(ranges.settled(_sorted(surrogate, found, best)[:_ASKED]), axis=0)
    return _sorted(surrogate, settled, best), best


def _spared(surrogate: Surrogate, place: Floats, now: Floats, best: float) -> Floats:
    """The place with every knob left alone that hardly matters, the least moved first."""
    enough = _SPARED * surrogate.improvement(place[None], best)[0]
    for knob in np.argsort(np.abs(place - now)):
        less = np.where(np.arange(len(place)) == knob, now, place)
        if surrogate.improvement(less[None], best)[0] >= enough:
            place = less
    return place


def _sorted(surrogate: Surrogate, found: Floats, best: float) -> Floats:
    return found[np.argsort(-surrogate.improvement(found, best), kind="stable")]


def _within(places: Floats) -> Floats:
    """Thrown back at the ends, 0 and 1."""
    return np.asarray(1 - np.abs(1 - np.abs(places) % 2))
