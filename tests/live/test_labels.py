"""The label test: what counts say, whatever the order, the look, the ramp; and what is called different by segment."""

from __future__ import annotations

from math import exp, inf, log, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightlab.live.labels import (
    ALPHA,
    BETA,
    LabelTest,
    Tally,
    claim_horizon,
    differs,
    fixed_sample,
    horizon,
    label_test,
    lift,
    lift_of_rates,
    log_ratio,
    verdict,
)
from nightlab.live.simulate import LOOKS, RAMP, ends, naive_z, paths

SHARES = st.floats(0.01, 0.99)
TALLIES = st.lists(st.builds(Tally, SHARES, st.integers(0, 300), st.integers(0, 300)), max_size=5)
EFFECTS = st.floats(0.01, 2)
FALLING = np.linspace(0.04, 0.02, LOOKS)


def test_the_ratio_is_the_product_over_labels_one_by_one() -> None:
    chance = 0.3 * 1.2 / (1 + 0.3 * 0.2)
    labels = [chance / 0.3] * 7 + [(1 - chance) / 0.7] * 12

    assert exp(log_ratio([Tally(0.3, 7, 12)], 0.2)) == pytest.approx(prod(labels))


@settings(deadline=None)
@given(SHARES, EFFECTS)
def test_one_label_more_leaves_the_expected_e_value_at_one(share: float, effect: float) -> None:
    tests = [label_test([Tally(share, won, 1 - won)], effect, mixture=True) for won in (1, 0)]

    for name in ("better", "worse"):
        won, lost = (getattr(test, name) for test in tests)
        assert share * won + (1 - share) * lost == pytest.approx(1)


@settings(deadline=None)
@given(SHARES, EFFECTS, st.floats(-0.9, 0))
def test_harm_never_helps_the_evidence_for_a_gain(share: float, effect: float, harm: float) -> None:
    chance = share * (1 + harm) / (1 + share * harm)
    won, lost = (label_test([Tally(share, one, 1 - one)], effect).better for one in (1, 0))

    assert chance * won + (1 - chance) * lost <= 1 + 1e-9


@settings(deadline=None)
@given(TALLIES, TALLIES, EFFECTS)
def test_counts_may_come_late_and_in_any_order(first: list[Tally], second: list[Tally], effect: float) -> None:
    late = label_test([*second, *first], effect, mixture=True)
    timely = label_test([*first, *second], effect, mixture=True)

    assert late.better == pytest.approx(timely.better)
    assert late.worse == pytest.approx(timely.worse)
    assert late.conversions == timely.conversions


@settings(deadline=None)
@given(TALLIES, EFFECTS)
def test_swapping_the_arms_swaps_gain_and_harm(tallies: list[Tally], effect: float) -> None:
    swapped = [Tally(1 - one.share, one.champion, one.candidate) for one in tallies]
    here, there = label_test(tallies, effect), label_test(swapped, effect)

    assert here.better == pytest.approx(there.worse, rel=1e-6)
    if here.lift and there.lift:
        assert (1 + here.lift.lift) * (1 + there.lift.lift) == pytest.approx(1)


@settings(deadline=None)
@given(TALLIES, EFFECTS)
def test_no_count_breaks_the_test(tallies: list[Tally], effect: float) -> None:
    test = label_test([*tallies, Tally(0.5, 10**7, 10)], effect, mixture=True)

    assert 0 <= test.worse < test.better < inf
    assert 0 <= test.futile < inf


def test_no_conversion_says_nothing() -> None:
    assert label_test([], 0.2) == LabelTest(1.0, 1.0, 1.0, 0, None)
    assert verdict(label_test([], 0.2), 10, 100) == "more"
    assert verdict(label_test([], 0.2), 100, 100) == "undecided"


def test_each_verdict_has_its_evidence() -> None:
    told = {name: verdict(label_test([Tally(0.5, *of)], 0.2), 10, 100) for name, of in OUTCOMES.items()}

    assert told == {name: name for name in OUTCOMES}


OUTCOMES = {"better": (600, 480), "worse": (200, 420), "futile": (500, 500), "more": (110, 100)}


def test_the_lift_is_that_of_rates_within_each_split_and_no_ramp_feigns_one() -> None:
    one = lift([Tally(0.25, 120, 300)])
    ramp = lift([Tally(0.1, 40, 360), Tally(0.5, 50, 50), Tally(0.9, 45, 5)])

    assert one
    assert one.lift == pytest.approx(120 / 0.25 / (300 / 0.75) - 1)
    assert one.interval[0] < one.lift < one.interval[1]
    assert ramp
    assert ramp.lift == pytest.approx(0)
    assert lift([Tally(0.5, 10, 0)]) is None


def test_the_lift_of_the_holdout_covers_its_truth() -> None:
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(2000):
        found = lift_of_rates(int(rng.binomial(9500, 0.13)), 9500, int(rng.binomial(500, 0.1)), 500)
        assert found
        covered.append(found.interval[0] <= 0.3 <= found.interval[1])

    assert 0.93 <= np.mean(covered) <= 0.97


def test_the_fixed_sample_is_that_of_the_textbook() -> None:
    assert fixed_sample(0.03, 0.2) == pytest.approx(21_915, rel=1e-3)
    assert horizon(0.03, 0.2) == pytest.approx(2 * fixed_sample(0.03, 0.2), abs=1)
    assert claim_horizon(0.03, 0.2) == 3 * horizon(0.03, 0.2)
    with pytest.raises(ValueError, match="cannot be planned"):
        fixed_sample(0.9, 0.2)


@pytest.mark.parametrize("mixture", [False, True], ids=["sprt", "mixture"])
@pytest.mark.parametrize("scene", [{}, {"share": RAMP, "rate": FALLING}], ids=["constant", "ramp"])
def test_an_equal_arm_is_seldom_called_better_at_any_of_250_looks(scene: dict[str, object], mixture: bool) -> None:
    found = paths(np.zeros(1500), np.random.default_rng(1), visitors=43_838, mixture=mixture, **scene)  # type: ignore[arg-type]

    assert (found.better.max(axis=1) >= log(1 / ALPHA)).mean() <= ALPHA + 0.008
    assert (found.worse.max(axis=1) >= log(1 / ALPHA)).mean() <= ALPHA + 0.008
    assert naive_z(found) >= (0.9 if scene else 0.35)


def test_simulated_experiments_end_as_the_verdict_says() -> None:
    found = paths(np.array([0.2, 0.0, -0.2] * 5), np.random.default_rng(2), visitors=43_838, share=RAMP)
    stopped = ends(found)

    for at in range(15):
        tallies, told = list[Tally](), "more"
        for look in range(LOOKS):
            tallies.append(Tally(float(RAMP[look]), *(int(one[at, look]) for one in found.converted)))
            told = verdict(label_test(tallies, 0.2), look + 1, LOOKS)
            if told != "more":
                break
        assert (look, told == "better") == (stopped.look[at], stopped.is_win[at])


def test_segments_that_agree_are_not_called_different() -> None:
    rng, called = np.random.default_rng(5), 0
    for _ in range(400):
        one, other = (Tally(0.5, int(rng.poisson(300 * 1.3)), int(rng.poisson(300))) for _ in range(2))
        called += differs([one], [other], 0.2) >= 1 / ALPHA

    assert called / 400 <= ALPHA


def test_segments_that_differ_are_called_different() -> None:
    assert differs([Tally(0.5, 900, 500)], [Tally(0.5, 1000, 1000)], 0.2) > 1000
    assert differs([Tally(0.5, 900, 500)], [], 0.2) < 1
    assert differs([], [], 0.2) == 0.0
    assert 1 / BETA == 5
