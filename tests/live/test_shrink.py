"""Empirical Bayes: winners are not as good as they look, serving has its price, segments lean on each other."""

from __future__ import annotations

from math import expm1, log1p

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightlab.live.labels import Lift
from nightlab.live.shrink import is_calibrated, learn, shrink_segments, spread_of_segments


def channel(count: int, seed: int, noise: float = 0.08) -> tuple[list[float], list[Lift]]:
    """True log lifts, an eighth of them 0.2 and the rest near nothing, and what is seen of them."""
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random(count) < 1 / 8, 0.2, rng.normal(-0.02, 0.03, count))
    seen = truth + rng.normal(0, noise, count)
    return [float(one) for one in truth], [Lift(expm1(one), noise) for one in seen]


def test_winners_are_told_too_high_and_shrinking_mends_it() -> None:
    truth, seen = channel(400, 1)
    prior = learn(seen, 0.2)
    winners = [at for at, one in enumerate(seen) if log1p(one.lift) > 2 * one.stderr]
    true = np.mean([expm1(truth[at]) for at in winners])

    assert np.mean([seen[at].lift for at in winners]) - true > 0.03
    assert abs(np.mean([prior.posterior(seen[at]).lift for at in winners]) - true) < 0.02


def test_credible_intervals_hold_the_truth() -> None:
    truth, seen = channel(600, 2)
    prior = learn(seen, 0.2)
    found = [prior.posterior(one) for one in seen]

    held = [low_high.low <= expm1(true) <= low_high.high for true, low_high in zip(truth, found, strict=True)]
    assert 0.92 <= np.mean(held) <= 0.985


def test_serving_by_value_loses_less_than_serving_what_is_significant() -> None:
    truth, seen = channel(600, 3)
    prior = learn(seen, 0.2)

    by_value = sum(expm1(true) for true, one in zip(truth, seen, strict=True) if prior.posterior(one).is_worth_serving)
    by_test = sum(expm1(true) for true, one in zip(truth, seen, strict=True) if log1p(one.lift) > 1.645 * one.stderr)
    assert by_value > by_test


def test_a_channel_without_history_is_sceptical() -> None:
    found = learn([], 0.2).posterior(Lift(0.2, 0.1))

    assert 0 < found.lift < 0.15
    assert found.low <= 0 < found.high
    assert found.is_worth_serving


def test_a_channel_is_judged_by_its_own_history() -> None:
    rich = learn([Lift(0.4 + 0.01 * (at % 5), 0.05) for at in range(40)], 0.2)

    assert rich.experiments == 40
    assert rich.posterior(Lift(0.1, 0.3)).lift == pytest.approx(0.4, abs=0.1)
    assert rich.posterior(Lift(0.1, 0.3)).lift > 3 * learn([], 0.2).posterior(Lift(0.1, 0.3)).lift


@settings(deadline=None, max_examples=30)
@given(st.lists(st.builds(Lift, st.floats(-0.9, 5), st.floats(0.01, 2)), max_size=20), st.floats(-0.99, 50))
def test_beliefs_are_beliefs_whatever_was_seen(lifts: list[Lift], at: float) -> None:
    found = learn(lifts, 0.2).posterior(Lift(at, 0.05))

    assert found.low <= found.lift <= found.high or found.high - found.low < 0.05
    assert 0 <= found.better <= 1
    assert found.missed - found.loss == pytest.approx(found.lift)


def test_serving_by_value_waits_for_fifty_experiments_that_the_prior_foresees() -> None:
    _, seen = channel(60, 4)

    assert not is_calibrated(seen[:49], 0.2)
    assert is_calibrated(seen, 0.2)


def test_a_channel_that_has_changed_fails_the_check() -> None:
    _, before = channel(30, 5)
    after = [Lift(0.5, 0.08)] * 30

    assert not is_calibrated([*before, *after], 0.2)


def test_honest_channels_seldom_fail_the_check() -> None:
    assert sum(is_calibrated(channel(80, seed)[1], 0.2) for seed in range(20)) >= 18


def test_segments_that_only_look_different_are_drawn_together() -> None:
    rng = np.random.default_rng(6)
    alike = [[Lift(expm1(float(rng.normal(0.1, 0.1))), 0.1) for _ in range(3)] for _ in range(60)]
    unlike = [[Lift(expm1(float(rng.normal(mean, 0.1))), 0.1) for mean in (-0.3, 0, 0.3)] for _ in range(60)]

    assert spread_of_segments(alike) < 0.05
    assert spread_of_segments(unlike) == pytest.approx(0.3, abs=0.06)
    assert spread_of_segments([]) == 0.0


def test_a_segment_leans_on_the_others_the_more_the_less_is_known_of_it() -> None:
    segments = {"phone": Lift(0.4, 0.05), "desk": Lift(0.0, 0.05), "other": Lift(0.4, 0.5)}
    found = shrink_segments(segments, learn([], 0.2), 0.2)
    together = shrink_segments(segments, learn([], 0.2), 0.0)

    assert found["phone"].shrunk.lift > 0.3
    assert found["other"].shrunk.lift < 0.3
    assert found["other"].shrunk.stderr < 0.5
    assert len({round(one.shrunk.lift, 9) for one in together.values()}) == 1
    assert 0.05 < together["desk"].shrunk.lift < 0.2
    assert shrink_segments({}, learn([], 0.2), 0.2) == {}
