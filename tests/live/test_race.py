"""The race: who gets how many visitors, who falls behind, who wins; and how often it is the right one."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest

from nightlab.live import labels, race
from nightlab.live.labels import Tally
from nightlab.live.simulate import run_race


def test_the_champion_gets_the_square_root_of_the_challengers() -> None:
    split = race.split(0, [3, 5, 8, 9])

    assert split[0] == pytest.approx(2 * split[3], abs=1e-4)
    assert sum(split.values()) == pytest.approx(1)
    assert race.share_of_two(split, 3, 0) == pytest.approx(1 / 3, abs=1e-4)
    assert race.split(0, [1]) == {0: 0.5, 1: 0.5}


def test_a_race_of_one_ends_where_the_label_test_does() -> None:
    assert race.horizon(1, 0.03, 0.2) == pytest.approx(labels.horizon(0.03, 0.2), abs=1)
    assert race.horizon(10, 0.03, 0.2) < 10 * labels.horizon(0.03, 0.2)


def test_who_falls_behind_the_leader_hands_on_its_visitors_and_stays_out() -> None:
    tallies = {1: [Tally(0.4, 215, 250)], 2: [Tally(0.4, 170, 250)], 3: [Tally(0.4, 180, 250)]}

    stands = race.standing(tallies, [1, 2, 3], 0.2)

    assert stands.left == (1,)
    assert not stands.is_over
    assert race.standing({**tallies, 1: [Tally(0.4, 900, 250)]}, [3], 0.2).winner is None


def test_more_challengers_raise_the_bar() -> None:
    strong, idle = [Tally(0.5, 300, 215)], [Tally(0.5, 0, 0)]

    assert race.standing({1: strong}, [1], 0.2).winner == 1
    assert race.standing({1: strong, **dict.fromkeys(range(2, 30), idle)}, [1], 0.2).winner is None


def test_a_race_that_nobody_wins_is_over_at_its_horizon() -> None:
    idle = [Tally(0.5, 100, 100)]

    assert race.standing({1: idle}, [1], 0.2, is_at_end=True) == race.Standing(None, (1,), is_over=True)
    assert race.standing({1: idle}, [], 0.2).is_over


@pytest.mark.slow
def test_the_right_one_of_ten_wins() -> None:
    rng = np.random.default_rng(0)
    ran = [run_race([0.2, *[0.0] * 9], rng, step=500) for _ in range(400)]

    assert fmean(winner == 1 for winner, _ in ran) >= 0.83
    assert fmean(visitors for _, visitors in ran) <= 77_000


def test_ten_equal_ones_seldom_have_a_winner() -> None:
    rng = np.random.default_rng(0)

    assert fmean(run_race([0.0] * 10, rng, step=4000)[0] is not None for _ in range(300)) <= 0.06
