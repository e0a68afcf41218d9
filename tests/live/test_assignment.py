"""Assignment: GrowthBook's own cases, and that everybody gets an arm, the same one each time."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from nightlab.live.assignment import (
    assign,
    bucket,
    bucket_ranges,
    choose,
    equal_weights,
    in_namespace,
    is_held_out,
    shares,
)

SHARED = Path(os.environ.get("NIGHTLAB_SHARED", Path(__file__).parents[3] / "shared"))
FILE = SHARED / "data" / "growthbook-cases.json"
CASES: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else defaultdict(list)
WEIGHTS = st.dictionaries(st.integers(0, 99), st.floats(1e-3, 1e3), min_size=1, max_size=12)


def test_there_are_cases_of_all_five_kinds() -> None:
    shared("growthbook-cases.json")

    assert all(CASES[kind] for kind in ("hash", "getBucketRange", "chooseVariation", "inNamespace", "getEqualWeights"))


@pytest.mark.parametrize(("seed", "unit", "version", "place"), CASES["hash"])
def test_hash(seed: str, unit: str, version: int, place: float | None) -> None:
    assert bucket(seed, unit, version) == place


@pytest.mark.parametrize(("name", "asked", "ranges"), CASES["getBucketRange"])
def test_bucket_ranges(name: str, asked: tuple[int, float, list[float] | None], ranges: list[list[float]]) -> None:
    arms, coverage, weights = asked
    assert [list(one) for one in bucket_ranges(arms, coverage, weights)] == [pytest.approx(one) for one in ranges]


@pytest.mark.parametrize(("name", "place", "ranges", "arm"), CASES["chooseVariation"])
def test_choosing(name: str, place: float, ranges: list[tuple[float, float]], arm: int) -> None:
    assert choose(place, ranges) == arm


@pytest.mark.parametrize(("name", "unit", "namespace", "is_in"), CASES["inNamespace"])
def test_namespaces(name: str, unit: str, namespace: list[object], is_in: bool) -> None:
    assert in_namespace(unit, tuple(namespace)) is is_in  # type: ignore[arg-type]


@pytest.mark.parametrize(("arms", "weights"), CASES["getEqualWeights"])
def test_equal_weights(arms: int, weights: list[float]) -> None:
    assert equal_weights(arms) == pytest.approx(weights, abs=1e-8)


@settings(deadline=None)
@given(WEIGHTS)
def test_shares_are_whole_buckets_and_add_up(weights: dict[int, float]) -> None:
    found = shares(weights)

    assert sum(round(share * 10_000) for share in found.values()) == 10_000
    for arm, share in found.items():
        assert share == round(share * 10_000) / 10_000
        assert abs(share - weights[arm] / sum(weights.values())) <= 1e-4 + 1e-12


@settings(deadline=None)
@given(WEIGHTS, st.text(max_size=20))
def test_shares_of_shares_are_the_same_shares(weights: dict[int, float], unit: str) -> None:
    assert shares(shares(weights)) == shares(weights)
    assert assign("s", unit, shares(weights)) == assign("s", unit, weights)


@settings(deadline=None)
@given(WEIGHTS, st.text(max_size=20), st.text(max_size=20))
def test_assignment_is_the_public_choice_among_the_public_ranges(
    weights: dict[int, float], seed: str, unit: str
) -> None:
    place = round((bucket(seed, unit) or 0.0) * 10_000)
    ends, at = [], 0
    for arm, share in shares(weights).items():
        ends.append((at, at := at + round(share * 10_000), arm))

    assert [arm for begin, end, arm in ends if begin <= place < end] == [assign(seed, unit, weights)]


def test_each_arm_gets_what_was_promised_and_another_seed_shuffles_anew() -> None:
    weights = {0: 3.0, 4: 1.0, 7: 1.0}
    one, other = ([assign(seed, f"unit {at}", weights) for at in range(20_000)] for seed in ("one", "other"))

    assert {arm: count / 20_000 for arm, count in Counter(one).items()} == pytest.approx(
        {0: 0.6, 4: 0.2, 7: 0.2}, abs=0.015
    )
    both = Counter(zip(one, other, strict=True))
    assert both[4, 7] / 20_000 == pytest.approx(0.04, abs=0.006)


def test_the_holdout_is_independent_of_every_race() -> None:
    units = [f"unit {at}" for at in range(20_000)]
    held = [unit for unit in units if is_held_out("s", unit, 0.05)]

    assert len(held) / len(units) == pytest.approx(0.05, abs=0.006)
    assert sum(assign("s", unit, {0: 1, 1: 1}) for unit in held) / len(held) == pytest.approx(0.5, abs=0.06)
    assert not any(is_held_out("s", unit, 0.0) for unit in units)


def test_a_split_without_weights_is_refused() -> None:
    with pytest.raises((ValueError, ZeroDivisionError)):
        assign("s", "unit", {})
