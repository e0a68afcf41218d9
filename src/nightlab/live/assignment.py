"""Assignment: who is shown what, by GrowthBook's public hash; the same visitor and split always give the same arm.

Fixed by the conformance vectors of GrowthBook's SDK specification (sections hash, getBucketRange, chooseVariation,
inNamespace, getEqualWeights), so that a site that already uses one of its SDKs comes to the same arms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import floor

Range = tuple[float, float]
_BUCKETS = 10_000
_HELD_OUT = "holdout:"


def fnv1a(text: str) -> int:
    """The 32-bit FNV-1a hash of a text, character by character."""
    found = 0x811C9DC5
    for character in text:
        found = ((found ^ ord(character)) * 0x01000193) & 0xFFFFFFFF
    return found


def bucket(seed: str, unit: str, version: int = 2) -> float | None:
    """Where a unit falls between 0 and 1 under a seed; None: there is no such version of the hash.

    Version 2 hashes twice and knows 10,000 buckets; version 1 knows 1,000, and its seeds are not independent.
    """
    if version == 2:
        return fnv1a(str(fnv1a(seed + unit))) % _BUCKETS / _BUCKETS
    return fnv1a(unit + seed) % 1000 / 1000 if version == 1 else None


def equal_weights(arms: int) -> list[float]:
    """The same weight for each arm."""
    return [1 / arms] * arms if arms > 0 else []


def bucket_ranges(arms: int, coverage: float = 1.0, weights: Sequence[float] | None = None) -> list[Range]:
    """The part of [0, 1) that belongs to each arm; weights that do not fit count as equal ones.

    With a coverage below 1 each arm keeps where it begins, so that widening it moves nobody from one arm to another.
    """
    coverage = min(max(coverage, 0.0), 1.0)
    if weights is None or len(weights) != arms or not 0.99 <= sum(weights) <= 1.01:
        weights = equal_weights(arms)
    begins = accumulate(weights, initial=0.0)
    return [(begin, begin + coverage * weight) for begin, weight in zip(begins, weights, strict=False)]


def choose(place: float, ranges: Sequence[Range]) -> int:
    """The first arm whose range holds a place; -1: none does."""
    return next((arm for arm, (begin, end) in enumerate(ranges) if begin <= place < end), -1)


def in_namespace(unit: str, namespace: tuple[str, float, float]) -> bool:
    """Whether a unit is in its part of a namespace: of experiments in disjoint parts it can be in one only."""
    name, begin, end = namespace
    place = fnv1a(f"{unit}__{name}") % 1000 / 1000
    return begin <= place < end


def shares(weights: Mapping[int, float]) -> dict[int, float]:
    """The share of units that each arm really gets: weights rounded to whole buckets, of which there are 10,000.

    These belong into the split and into every tally. The test of labels takes them as true, and a share that is off by
    half a bucket would add up over a million conversions.
    """
    total = sum(weights.values())
    exact = {arm: weight / total * _BUCKETS for arm, weight in sorted(weights.items())}
    whole = {arm: floor(buckets) for arm, buckets in exact.items()}
    left = sorted(exact, key=lambda arm: (whole[arm] - exact[arm], arm))
    for arm in left[: _BUCKETS - sum(whole.values())]:
        whole[arm] += 1
    return {arm: buckets / _BUCKETS for arm, buckets in whole.items()}


def assign(seed: str, unit: str, weights: Mapping[int, float]) -> int:
    """The arm of a unit under a split, by its arms' numbers in order."""
    place = fnv1a(str(fnv1a(seed + unit))) % _BUCKETS
    end = 0
    for arm, share in shares(weights).items():
        end += round(share * _BUCKETS)
        if place < end:
            return arm
    raise ValueError(f"a split needs an arm with a weight above 0, not {dict(weights)!r}")


def is_held_out(seed: str, unit: str, share: float) -> bool:
    """Whether a unit belongs to the permanent holdout; its seed is independent of every race's."""
    return fnv1a(str(fnv1a(_HELD_OUT + seed + unit))) % _BUCKETS < round(share * _BUCKETS)
