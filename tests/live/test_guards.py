"""Guards, confidence sequences and capacity: what stops an experiment, and what is never begun."""

from __future__ import annotations

import numpy as np
import pytest

from nightlab.errors import BadTask
from nightlab.live.capacity import capacity, require_power, smallest_effect, table, visitors_a_day
from nightlab.live.guards import FREEZE, guardrail, must_freeze, must_roll_back, sample_ratio
from nightlab.live.labels import Tally, horizon, label_test
from nightlab.live.sequence import Sums, difference, sums


def test_a_split_that_is_kept_is_not_frozen_at_any_look() -> None:
    rng, frozen = np.random.default_rng(1), 0
    for _ in range(100):
        seen, worst = np.zeros(2, int), 0.0
        for _ in range(100):
            seen += rng.multinomial(200, [0.7, 0.3])
            worst = max(worst, sample_ratio([({0: 0.7, 1: 0.3}, {0: int(seen[0]), 1: int(seen[1])})]))
        frozen += worst >= 20

    assert frozen <= 8


def test_a_split_that_loses_one_visitor_in_ten_is_frozen() -> None:
    assert must_freeze(sample_ratio([({0: 0.5, 1: 0.5}, {0: 5000, 1: 4500})]))
    assert not must_freeze(sample_ratio([({0: 0.5, 1: 0.5}, {0: 5000, 1: 4950})]))


def test_splits_are_judged_each_by_itself() -> None:
    kept = [({0: 0.9, 1: 0.1}, {0: 9000, 1: 1000}), ({0: 0.5, 1: 0.5}, {0: 5000, 1: 5000})]

    assert sample_ratio(kept) < 1
    assert sample_ratio([({0: 0.5, 1: 0.5}, {0: 14_000, 1: 6000})]) >= FREEZE
    assert sample_ratio([]) == sample_ratio([({0: 0.5, 1: 0.5}, {})]) == pytest.approx(1)


def test_the_first_visitor_says_nothing_of_the_split() -> None:
    assert sample_ratio([({0: 0.7, 1: 0.3}, {0: 1})]) == pytest.approx(1)
    assert sample_ratio([({0: 0.7, 1: 0.3}, {1: 1})]) == pytest.approx(1)


def test_an_arm_that_gets_nobody_is_noticed() -> None:
    assert must_freeze(sample_ratio([({0: 0.5, 1: 0.5}, {0: 60})]))


def test_plain_harm_and_complaints_take_a_candidate_down() -> None:
    fine, harm = label_test([Tally(0.5, 100, 100)], 0.2), label_test([Tally(0.5, 150, 300)], 0.2)

    assert must_roll_back(harm)
    assert not must_roll_back(fine)
    assert must_roll_back(fine, [guardrail([Tally(0.5, 90, 30)], 0.2)])
    assert not must_roll_back(fine, [guardrail([Tally(0.5, 12, 10)], 0.2)])


@pytest.mark.slow
def test_a_confidence_sequence_holds_the_truth_at_every_look() -> None:
    rng, missed = np.random.default_rng(2), 0
    for _ in range(100):
        arms = [rng.exponential(20, 4000) * (rng.random(4000) < 0.3) for _ in range(2)]
        looks = [
            difference(sums(arms[0][:n], 100), sums(arms[1][:n], 100), planned=8000) for n in range(400, 4001, 400)
        ]
        missed += any(one is not None and not one.low <= 0 <= one.high for one in looks)

    assert missed / 100 <= 0.05


def test_a_confidence_sequence_sees_what_is_there_and_calls_itself_asymptotic() -> None:
    rng = np.random.default_rng(3)
    found = difference(sums(rng.exponential(13, 4000), 60), sums(rng.exponential(10, 4000), 60), planned=8000)

    assert found
    assert found.low > 0
    assert found.is_asymptotic
    assert difference(Sums(10, 5, 5), Sums(10, 5, 5), planned=100) is None


def test_one_large_order_is_cut_off() -> None:
    assert sums([1.0, 2.0, 1e9], cap=50) == Sums(3, 53.0, 2505.0)


@pytest.mark.parametrize(("effect", "known"), [(0.2, 60_000), (0.1, 231_000), (0.05, 901_000)])
def test_a_hundred_experiments_a_day_need_this_many_visitors(effect: float, known: int) -> None:
    assert visitors_a_day(0.03, effect) == pytest.approx(known, rel=0.005)


def test_what_a_year_of_traffic_buys() -> None:
    found = capacity(0.03, 0.2, 60_267 / 0.95, layers=20)

    assert found.days == 1.0
    assert found.a_year == 20 * 365
    assert [one.a_year for one in table(0.03, 5000)] == sorted((one.a_year for one in table(0.03, 5000)), reverse=True)


def test_an_underpowered_plan_is_refused_with_what_could_be_told() -> None:
    with pytest.raises(BadTask, match=r"176 days of this traffic; 90 days can tell 14% or more.*--explore"):
        require_power(0.03, 0.1, 1000)
    require_power(0.03, 0.1, 1000, explore=True)
    require_power(0.03, 0.2, 1000)


def test_the_smallest_effect_just_fits() -> None:
    effect = smallest_effect(0.03, 1000)

    assert horizon(0.03, effect) == pytest.approx(90 * 1000 * 0.95, abs=2)
