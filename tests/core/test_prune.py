"""The prune's numbers: designs, the ridge, what goes and what is accepted."""

from __future__ import annotations

import numpy as np
import pytest

from nightlab import prune


def test_each_keep_is_off_in_a_quarter_of_the_runs() -> None:
    matrix = prune.design(7, 52, np.random.default_rng(0))

    assert matrix.shape == (52, 7)
    assert (~matrix).sum(axis=0).tolist() == [13] * 7
    assert len({tuple(column) for column in matrix.T.tolist()}) == 7


def test_the_same_seed_gives_the_same_design() -> None:
    first, again, other = (prune.design(5, 10, np.random.default_rng(seed)) for seed in (1, 1, 2))

    assert (first == again).all()
    assert (first != other).any()


def test_a_prune_takes_about_two_runs_for_each_keep_and_none_for_none() -> None:
    assert [prune.runs_needed(keeps) for keeps in (0, 1, 26)] == [0, 8, 52]


@pytest.mark.parametrize(("direction", "sign"), [("lower", -1), ("higher", 1)])
def test_the_gains_come_back_whichever_way_the_metric_points(direction: str, sign: int) -> None:
    gains = np.array([0.03, -0.01, 0.0])
    matrix = prune.design(3, 400, np.random.default_rng(3))
    noise = np.random.default_rng(4).normal(0, 0.01, 400)
    values = (0.9 + sign * (matrix @ gains) + noise).tolist()

    means, stderrs = prune.estimate(matrix, values, 0.01, direction)  # type: ignore[arg-type]

    assert means == pytest.approx(gains, abs=0.003)
    assert stderrs == pytest.approx([0.01 / np.sqrt(400 * 0.1875)] * 3, rel=0.1)


def test_a_keep_that_was_never_off_is_believed_as_before() -> None:
    means, stderrs = prune.estimate(np.ones((4, 1), bool), [0.5, 0.6, 0.4, 0.5], 0.1, "lower")

    assert means == pytest.approx([0.1])
    assert stderrs == pytest.approx([0.15])


def test_the_standard_errors_are_as_wide_as_they_say() -> None:
    dice, misses = np.random.default_rng(5), []
    for _ in range(200):
        gains, matrix = dice.normal(2.0, 3.0, 10), prune.design(10, 24, dice)
        means, stderrs = prune.estimate(matrix, (matrix @ gains + dice.normal(0, 2.0, 24)).tolist(), 2.0, "higher")
        misses += ((gains - means) / stderrs).tolist()

    assert np.mean(misses) == pytest.approx(0, abs=0.08)
    assert np.std(misses) == pytest.approx(1, abs=0.06)


def test_what_is_worth_less_than_a_fifth_of_a_sigma_goes() -> None:
    assert prune.to_drop([0.3, 0.19, -2.0, 0.2], 1.0) == [1, 2]


def test_the_pruned_whole_may_lose_less_than_half_a_sigma() -> None:
    full = [1.0, 1.0, 1.0]

    assert prune.is_accepted([1.04] * 3, full, 0.1, "lower")
    assert not prune.is_accepted([1.06] * 3, full, 0.1, "lower")
    assert prune.is_accepted([1.06] * 3, full, 0.1, "higher")
