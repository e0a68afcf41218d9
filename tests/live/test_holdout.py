import numpy as np
import pytest

from nightlab.live.holdout import ratio
from nightlab.live.store import Side


@pytest.mark.parametrize(("old", "new", "held"), [(0.093, 0.24, 3000), (0.03, 0.035, 20_000), (0.1, 0.1, 2000)])
def test_the_interval_covers_the_truth_as_often_as_it_says(old, new, held):
    rng, served = np.random.default_rng(7), 19 * held
    covered = 0
    for one, two in zip(rng.binomial(held, old, 2000), rng.binomial(served, new, 2000), strict=True):
        low, high = ratio(Side(served, int(two)), Side(held, int(one))).interval
        covered += low <= new / old - 1 <= high

    assert 0.93 <= covered / 2000 <= 0.97


def test_without_a_conversion_on_either_side_nothing_is_said():
    assert ratio(Side(100, 0), Side(100, 5)) is None
    assert ratio(Side(), Side()) is None
