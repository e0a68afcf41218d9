"""The sampler and its surrogate: what is believed of places, and where is looked next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightlab.proposer import Context
from nightlab.tuner import space, surrogate
from nightlab.tuner.sampler import places
from nightlab.tuner.space import Knob, Number
from nightlab.tuner.surrogate import Shape, Surrogate, shaped
from nightlab.values import Experiment, Status

TEXT = "A_RATE = 1.0\nB_RATE = 1.0\nC_RATE = 1.0\n"
KNOBS = space.knobs({"a.py": TEXT})
Height = Callable[[Sequence[float]], float]


def context(**more: object) -> Context:
    told = {"direction": "lower", "value": 3.0, **more}
    return Context({"a.py": TEXT}, "loss", number=0, seed=1, **told)  # type: ignore[arg-type]  # any field by name


def tried(number: int, values: Sequence[Number], value: float | None, *, runs: int = 1) -> Experiment:
    facts = {"constants": {knob.key: one for knob, one in zip(KNOBS, values, strict=True)}}
    status = Status.CRASHED if value is None else Status.DISCARDED
    return Experiment(number, 0, status, "", "tuner", value=value, runs=runs, facts=facts)


def looked(seed: int, height: Height, count: int) -> list[Experiment]:
    """Places drawn evenly, and what they came to."""
    rng = Random(seed)
    at = [[rng.uniform(-3, 3) for _ in KNOBS] for _ in range(count)]
    return [tried(number, [2.0**one for one in row], height(row)) for number, row in enumerate(at, 1)]


def first(here: Context, told: Sequence[Experiment], knobs: Sequence[Knob] = KNOBS, seed: int = 0) -> list[float]:
    return list(next(places(here, knobs, told, seed)).values())


# --- the surrogate ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(3, 12))
def test_the_slope_is_the_slope(seed: int, knobs: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    where, told, runs = rng.random((count, knobs)), rng.normal(size=count), rng.integers(1, 5, count).astype(float)
    at, apart = rng.normal(-1, 0.5, knobs + 1), surrogate._apart(where, where)

    _, slope = surrogate._height(apart, told, runs, at)

    for knob in range(knobs + 1):
        step = np.eye(knobs + 1)[knob] * 1e-5
        up, down = (surrogate._height(apart, told, runs, at + sign * step)[0] for sign in (1, -1))
        assert slope[knob] == pytest.approx((up - down) / 2e-5, rel=1e-3, abs=1e-3)


def test_what_was_measured_often_is_believed_and_what_is_far_from_everything_is_open() -> None:
    where, values = np.array([[0.1], [0.2], [0.3]]), np.array([1.0, 3.0, 2.0])
    believed = Surrogate(where, values, np.array([1000.0] * 3), Shape(np.array([0.03]), 0.05))

    mean, sd = believed.at(np.array([[0.1], [0.2], [0.3], [0.9]]))

    assert mean == pytest.approx([1, 3, 2, 2], abs=0.05)
    assert list(sd[:3] < 0.05) == [True] * 3
    assert sd[3] == pytest.approx(0.8, abs=0.3)


def test_one_run_of_a_noisy_score_is_not_believed() -> None:
    where, values = np.array([[0.5], [0.51], [0.49], [0.5]]), np.array([1.0, 3.0, 2.0, 2.0])

    (mean,), (sd,) = Surrogate(where, values, np.ones(4), Shape(np.array([0.3]), 1.0)).at(np.array([[0.51]]))

    assert mean == pytest.approx(2.0, abs=0.2)
    assert sd < 0.6


def test_a_knob_that_does_nothing_is_found_to_reach_far_and_noise_to_be_noise() -> None:
    rng = np.random.default_rng(5)
    where = rng.random((60, 2))

    steep = shaped(where, np.sin(6 * where[:, 0]), np.ones(60))
    noise = shaped(where, rng.normal(size=60), np.ones(60))

    assert steep.lengths[1] > 3 * steep.lengths[0]
    assert steep.noise < 0.01
    assert noise.noise > 0.3


# --- where to look ----------------------------------------------------------------------------------------------------


def test_until_enough_is_known_places_are_drawn_around_the_present_one() -> None:
    drawn = np.array([list(one.values()) for one in islice(places(context(), KNOBS, [], 0), 200)])

    assert drawn.min() >= -3
    assert drawn.max() <= 3
    assert np.abs(drawn.mean(axis=0)).max() < 0.5


def test_the_best_of_a_bowl_is_looked_for_where_it_is() -> None:
    def bowl(at: Sequence[float]) -> float:
        return (at[0] - 1) ** 2 + (at[1] + 2) ** 2 + 0.1 * at[2] ** 2

    at = first(context(value=bowl([0, 0, 0])), looked(1, bowl, 25))

    assert at[:2] == pytest.approx([1, -2], abs=0.5)


def test_more_is_looked_for_where_more_is_better() -> None:
    def hill(at: Sequence[float]) -> float:
        return -((at[0] - 1) ** 2) - (at[1] + 2) ** 2

    at = first(context(direction="higher", value=-5.0), looked(1, hill, 25))

    assert at[:2] == pytest.approx([1, -2], abs=0.5)


def test_a_knob_that_does_nothing_is_left_alone() -> None:
    asked = first(context(value=4.0), looked(2, lambda at: (at[0] - 2) ** 2, 20))

    assert asked[0] == pytest.approx(2, abs=0.5)
    assert asked[1:] == [0, 0]


def test_where_runs_fail_is_not_looked_again() -> None:
    rng, told = Random(3), []
    for number in range(1, 25):
        at = [rng.uniform(-3, 3) for _ in KNOBS]
        told.append(tried(number, [2.0**one for one in at], None if at[0] > 0.5 else 3 - at[0]))

    asked = [first(context(value=3.0), told, seed=seed)[0] for seed in range(8)]

    assert max(asked) < 1.2
    assert sorted(asked)[4] > -0.5


def test_what_is_being_tried_is_not_asked_for_again() -> None:
    told = looked(4, lambda at: sum((one - 1) ** 2 for one in at), 12)
    here = context(value=3.0)
    alone = first(here, told)
    running = {"constants": {knob.key: knob.at(at) for knob, at in zip(KNOBS, alone, strict=True)}}

    beside = first(context(value=3.0, racing=[running] * 3), told)

    assert np.abs(np.array(beside) - alone).max() > 0.05


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.none(), min_size=1, max_size=12), st.integers(0, 99)
)
def test_whatever_runs_came_to_an_answer_is_inside_the_ranges(values: list[float | None], seed: int) -> None:
    rng = Random(seed)
    told = [tried(n, [2.0 ** rng.choice([-3, 0, 3, 9]) for _ in KNOBS], value) for n, value in enumerate(values, 1)]

    for asked in islice(places(context(), KNOBS, told, seed), 3):
        assert all(knob.low <= asked[knob.key] <= knob.high for knob in KNOBS)


def test_a_long_study_costs_no_more_than_its_best_and_its_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    told, seen = looked(5, lambda at: sum(one**2 for one in at), 300), []

    def seeing(where: surrogate.Floats, values: surrogate.Floats, runs: surrogate.Floats) -> Shape:
        seen.append(len(where))
        return shaped(where, values, runs)

    monkeypatch.setattr("nightlab.tuner.sampler.shaped", seeing)

    at = first(context(value=9.0), told)

    assert seen == [101]
    assert np.abs(at).max() < 1
