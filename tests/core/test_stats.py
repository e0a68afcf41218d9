from __future__ import annotations

import math
from random import Random
from statistics import stdev

import pytest

from nightlab.stats import Spread, difference, spread, t_cdf, t_quantile

TABLE = {1: 12.7062047, 2: 4.30265273, 3: 3.18244631, 4: 2.77644511, 9: 2.26215716, 30: 2.04227246}
"""Student's t at 0.975, from printed tables."""


@pytest.mark.parametrize(("freedom", "value"), TABLE.items())
def test_students_t_is_as_in_the_tables(freedom: int, value: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(value, abs=1e-7)
    assert t_cdf(value, freedom) == pytest.approx(0.975, abs=1e-8)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    dice = Random(3)
    hits = 0
    for _ in range(4000):
        pairs = [(dice.gauss(1.0, 1.0), dice.gauss(0.5, 1.0)) for _ in range(3)]
        found = difference([a for a, _ in pairs], [b for _, b in pairs])
        hits += found.low <= 0.5 <= found.high

    assert hits / 4000 == pytest.approx(0.95, abs=0.012)


def test_one_pair_has_no_interval() -> None:
    found = difference([2.0], [1.0])

    assert (found.estimate, found.low, found.high) == (1.0, -math.inf, math.inf)


def test_a_single_run_has_no_spread() -> None:
    assert spread([1.0]) is None
    assert spread([1.0, 3.0]) == pytest.approx(2**0.5)


def test_the_pooled_spread_gives_each_tree_its_own_mean() -> None:
    pooled = Spread()
    for tree, values in enumerate(([1.0, 1.2, 0.8], [50.0, 50.2, 49.8], [7.0])):
        for value in values:
            pooled.add(tree, value)

    assert pooled.sigma == pytest.approx(stdev([1.0, 1.2, 0.8]))
    assert Spread().sigma is None


def test_a_start_that_varies_ten_times_as_much_does_not_hide_what_comes_after() -> None:
    found, alike = Spread(), Spread()
    for value in (0.0, 1.0, 2.0, 3.0):
        found.add(0, value)
        alike.add(0, value / 10)
    assert found.sigma == pytest.approx(1.29, abs=0.01)
    for value in (0.0, 0.1, 0.2, 0.3, 0.2):
        found.add(1, value)
        alike.add(1, value)

    assert found.sigma == pytest.approx(0.114, abs=0.001)
    assert alike.sigma == pytest.approx(((0.05 + 0.052) / 7) ** 0.5)
