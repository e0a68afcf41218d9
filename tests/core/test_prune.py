"""The prune's numbers: designs, the ridge, what goes and what is accepted."""

from __future__ import annotations

import numpy as np
import pytest

from nightlab import prune


def test_each_keep_is_off_in_half_of_the_runs() -> None:
    matrix = prune.design(7, 52, np.random.default_rng(0))

    assert matrix.shape == (52, 7)
    assert (~matrix).sum(axis=0).tolist() == [26] * 7
    assert len({tuple(column) for column in matrix.T.tolist()}) == 7


def test_the_same_seed_gives_the_same_design() -> None:
    first, again, other = (prune.design(5, 10, np.random.default_rng(seed)) for seed in (1, 1, 2))

    assert (first == again).all()
    assert (first != other).any()


def test_a_prune_takes_five_runs_for_four_keeps_and_none_for_none() -> None:
    assert [prune.runs_needed(keeps) for keeps in (0, 1, 26)] == [0, 8, 32]


@pytest.mark.parametrize(("direction", "sign"), [("lower", -1), ("higher", 1)])
def test_the_gains_come_back_whichever_way_the_metric_points(direction: str, sign: int) -> None:
    gains = np.array([0.03, -0.01, 0.0])
    matrix = prune.design(3, 400, np.random.default_rng(3))
    noise = np.random.default_rng(4).normal(0, 0.01, 400)
    values = (0.9 + sign * (matrix @ gains) + noise).tolist()

    means, stderrs = prune.estimate(matrix, values, 0.01, direction)  # type: ignore[arg-type]

    assert means == pytest.approx(gains, abs=0.003)
    assert stderrs == pytest.approx([0.01 / np.sqrt(400 * 0.25)] * 3, rel=0.1)


def test_keeps_that_were_never_off_are_believed_as_before() -> None:
    means, stderrs = prune.estimate(np.ones((4, 2), bool), [0.5, 0.6, 0.4, 0.5], 0.1, "lower")

    assert means == pytest.approx([0.05] * 2)
    assert stderrs == pytest.approx([0.1] * 2)


def test_a_night_of_nothing_teaches_the_prune_to_drop_nearly_all() -> None:
    dice, left = np.random.default_rng(8), 0
    for _ in range(40):
        matrix = prune.design(24, prune.runs_needed(24), dice)
        means, _ = prune.estimate(matrix, dice.normal(0, 1, len(matrix)).tolist(), 1.0, "higher")
        left += 24 - len(prune.to_drop(means, 1.0))

    assert left / 40 < 10


def test_runs_of_the_search_count_with_the_first_keeps_on() -> None:
    steps = prune.staircase(3, [0, 2, 3])

    assert steps.tolist() == [[False] * 3, [True, True, False], [True] * 3]
    assert prune.staircase(3, []).shape == (0, 3)


def test_what_the_search_has_seen_makes_the_estimates_surer() -> None:
    dice = np.random.default_rng(9)
    gains, rows = np.array([1.0, 0.0, 2.0]), prune.design(3, 8, dice)
    seen = prune.staircase(3, [0, 1, 2, 3] * 6)
    both = np.vstack([seen, rows])
    values = (both @ gains + dice.normal(0, 1, len(both))).tolist()

    alone, together = (prune.estimate(m, v, 1.0, "higher")[1] for m, v in ((rows, values[24:]), (both, values)))

    assert all(more < less for more, less in zip(together, alone, strict=True))


def test_the_standard_errors_are_as_wide_as_they_say() -> None:
    dice, misses = np.random.default_rng(5), []
    for _ in range(200):
        gains, matrix = dice.normal(2.0, 3.0, 10), prune.design(10, 24, dice)
        means, stderrs = prune.estimate(matrix, (matrix @ gains + dice.normal(0, 2.0, 24)).tolist(), 2.0, "higher")
        misses += ((gains - means) / stderrs).tolist()

    assert np.mean(misses) == pytest.approx(0, abs=0.08)
    assert np.std(misses) == pytest.approx(1, abs=0.1)  # the prior's own doubt is not in them


def test_what_is_worth_less_than_a_tenth_of_a_sigma_goes() -> None:
    assert prune.to_drop([0.3, 0.09, -2.0, 0.1], 1.0) == [1, 2]


def test_a_drop_is_refused_only_where_the_loss_is_plain() -> None:
    full = [1.0, 1.0, 1.0]

    assert prune.is_accepted([1.14] * 3, full, 0.1, "lower")
    assert not prune.is_accepted([1.16] * 3, full, 0.1, "lower")
    assert prune.is_accepted([1.16] * 3, full, 0.1, "higher")
