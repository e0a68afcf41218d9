import numpy as np
import pytest

from nightlab.decide import Evidence
from nightlab.live.comparison import Snapshot, differs
from nightlab.live.labels import Tally
from nightlab.live.policy import Serve, decided
from nightlab.live.store import Side, Split, Total
from nightlab.values import Contrast


def drawn(rng, lifts, conversions=600, share=0.5):
    """The labels of some conversions in each segment, under its true lift."""
    found = {}
    for name, lift in lifts.items():
        chance = share * (1 + lift) / (1 + share * lift)
        mine = int(rng.binomial(conversions, chance))
        found[name] = [Tally(share, mine, conversions - mine)]
    return found


def test_segments_that_agree_are_seldom_told_apart():
    rng = np.random.default_rng(1)
    values = [differs(drawn(rng, {"a": lift, "b": lift, "c": lift})) for lift in (0.0, 0.3) for _ in range(400)]

    assert np.mean(np.array(values) >= 20) <= 0.05
    assert np.mean(values) < 1.2


def test_segments_that_differ_are_told_apart():
    rng = np.random.default_rng(2)
    values = [differs(drawn(rng, {"a": 0.5, "b": -0.3, "c": 0.0})) for _ in range(50)]

    assert np.mean(np.array(values) >= 1000) > 0.9


def test_one_segment_alone_differs_from_nothing():
    assert differs({"a": [Tally(0.5, 10, 5)]}) == 1.0
    assert differs({}) == 1.0


def snapshot():
    splits = [Split(1, {0: 0.5, 1: 0.5}, 0), Split(2, {0: 0.75, 2: 0.25}, 0)]
    totals = [
        Total(1, 0, False, "x", Side(100, 10)),
        Total(1, 1, False, "x", Side(90, 20)),
        Total(1, 1, False, "y", Side(10, 1)),
        Total(2, 0, False, "x", Side(75, 5)),
        Total(2, 0, True, "x", Side(5, 5)),
    ]
    return Snapshot(splits, {"signup": totals}, "signup")


def test_arms_are_compared_only_under_splits_that_had_both():
    found = snapshot().comparison(1, 0, 0.2)

    assert found.tallies == (Tally(0.5, 21, 10),)
    assert (found.candidate, found.champion) == (Side(100, 21), Side(100, 10))


def test_those_held_out_are_in_no_comparison():
    assert snapshot().side(0) == Side(175, 15)
    assert snapshot().by_segment(1, 0)["x"] == [Tally(0.5, 20, 10)]


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (Contrast(0.02, 0.01, better=25, worse=0.1), "keep"),
        (Contrast(0.02, 0.01, better=19, worse=0.1), "discard"),
        (Contrast(0.02, 0.01, better=25, worse=30), "discard"),
        (Contrast(0.02, 0.01, better=2, worse=0.1, loss=0.001), "keep"),
        (Contrast(0.001, 0.01, better=25, worse=0.1, loss=0.002), "discard"),
    ],
)
def test_serving_goes_by_evidence_and_later_by_value(seen, verdict):
    assert decided(seen).verdict == verdict


def test_a_candidate_without_visitors_is_shown_first():
    evidence = Evidence([], [0.1], 0.0, lower_is_better=False)

    assert Serve().decide(evidence).side == "candidate"
