from __future__ import annotations

from random import Random

import pytest

from nightlab.decide import Evidence, Greedy, Race
from nightlab.errors import BadPlugin

POOR = (0.0,) * 20
"""Twenty proposals that brought nothing: ideas are scarce."""


def evidence(candidate: list[float], incumbent: list[float] | None = None, **more: object) -> Evidence:
    facts: dict[str, object] = {"sigma": 1.0, "recent_gains": POOR} | more
    return Evidence(candidate=candidate, incumbent=incumbent or [10.0] * 3, **facts)  # type: ignore[arg-type]


def test_an_unrun_candidate_is_run_first() -> None:
    decision = Race().decide(evidence([]))

    assert (decision.verdict, decision.side, decision.gain) == ("more", "candidate", None)


def test_every_sixth_proposal_refreshes_the_incumbent_once() -> None:
    due, done = evidence([], proposals=6), evidence([], proposals=6, refreshed=True)

    assert Race().decide(due).side == "incumbent"
    assert Race().decide(done).side == "candidate"
    assert Race().decide(evidence([], proposals=5)).side == "candidate"


def test_an_incumbent_of_twenty_runs_is_refreshed_no_more() -> None:
    assert Race().decide(evidence([], [10.0] * 20, proposals=6)).side == "candidate"
    assert Race("lean").decide(evidence([], [10.0] * 12, proposals=8)).side == "candidate"


def test_while_ideas_are_plentiful_any_gain_is_kept() -> None:
    rich = [5.0] * 20

    assert Race().decide(evidence([9.9], recent_gains=rich)).verdict == "keep"
    assert Race().decide(evidence([10.1], recent_gains=rich)).verdict == "discard"


def test_a_short_memory_is_filled_up_with_two_tenths_of_sigma() -> None:
    assert Race().is_rich(evidence([9.0], recent_gains=()))
    assert not Race().is_rich(evidence([9.0], recent_gains=(0.0,) * 11))


def test_one_keep_in_twenty_is_plenty_where_a_prune_follows() -> None:
    gains = (0.0,) * 19 + (1.0,)  # 0.05 sigma on average

    assert Race().is_rich(evidence([9.0], recent_gains=gains, prune_follows=True))
    assert not Race().is_rich(evidence([9.0], recent_gains=gains))
    assert not Race("lean").is_rich(evidence([9.0], recent_gains=gains, prune_follows=True))
    assert not Race().is_rich(evidence([9.0], recent_gains=(0.0,) * 19 + (0.7,), prune_follows=True))


@pytest.mark.parametrize(
    ("candidate", "verdict", "side"),
    [
        ([9.9], "discard", None),  # z 0.09: not worth another run
        ([7.0], "keep", None),  # z 2.6 after one run
        ([8.5], "more", "candidate"),  # z 1.3 is open
        ([8.5, 8.5], "keep", None),  # z 1.64 after two
        ([9.0, 9.0], "more", "candidate"),  # z 1.1 is open
        ([9.0] * 3, "more", "candidate"),  # level: the candidate first
        ([9.3] * 4, "more", "incumbent"),  # the incumbent has fewer runs
    ],
)
def test_the_race_when_ideas_are_scarce(candidate: list[float], verdict: str, side: str | None) -> None:
    decision = Race().decide(evidence(candidate))

    assert (decision.verdict, decision.side) == (verdict, side)


def test_four_runs_on_both_sides_end_the_race() -> None:
    assert Race().decide(evidence([9.5] * 4, [10.0] * 4)).verdict == "keep"  # z 0.71
    assert Race().decide(evidence([9.7] * 4, [10.0] * 4)).verdict == "discard"  # z 0.42
    assert Race("lean").decide(evidence([9.5] * 4, [10.0] * 4)).verdict == "discard"


def test_higher_is_better_turns_the_sign() -> None:
    decision = Race().decide(evidence([13.0], lower_is_better=False))

    assert decision.verdict == "keep"
    assert decision.gain == 3.0


def test_shared_seeds_are_paired_when_handed_over() -> None:
    pairs = [(9.5, 10.0), (11.4, 12.0), (7.6, 8.0)]
    decision = Race().decide(evidence([9.5, 11.4, 7.6], [10.0, 12.0, 8.0], paired=pairs))

    assert decision.verdict == "keep"
    assert decision.gain == pytest.approx(0.5)
    assert decision.stderr == pytest.approx(0.1 / 3**0.5)


def test_one_pair_speaks_where_the_noise_of_a_pair_is_known() -> None:
    one = evidence([9.5], [10.0, 12.0, 8.0], paired=[(9.5, 10.0)], paired_sigma=0.1)

    assert Race().decide(one).verdict == "keep"  # z 5 after one pair
    assert Race().decide(one).gain == pytest.approx(0.5)
    assert Race().decide(one).stderr == pytest.approx(0.1)
    assert one.stderr() < evidence([9.5], [10.0, 12.0, 8.0], paired=[(9.5, 10.0)]).stderr()


def test_the_known_noise_of_a_pair_goes_before_the_samples_own() -> None:
    pairs = [(9.5, 10.0), (11.4, 12.0)]

    assert evidence([9.5, 11.4], paired=pairs, paired_sigma=0.4).stderr() == pytest.approx(0.4 / 2**0.5)


@pytest.mark.parametrize(
    ("candidate", "incumbent", "side"),
    [
        ([9.9], [10.0, 10.0, 10.0], "candidate"),  # the incumbent's other seeds wait for it
        ([9.9, 9.9, 9.9], [10.0, 10.0], "candidate"),  # one waits still, though the incumbent has fewer runs
        ([9.9, 9.9], [10.0], "incumbent"),  # a seed that only the candidate has run
        ([9.9], [10.0], "candidate"),  # level: the candidate first
    ],
)
def test_with_pairs_the_next_run_makes_a_pair(candidate: list[float], incumbent: list[float], side: str) -> None:
    decision = Race().decide(evidence(candidate, incumbent, paired=[(9.9, 10.0)], paired_sigma=0.1))

    assert (decision.verdict, decision.side) == ("more", side)


def test_four_pairs_end_the_race_however_many_runs_there_are() -> None:
    pairs = [(9.9, 10.0)] * 4

    three = evidence([9.9] * 9, [10.0] * 9, paired=pairs[:3], paired_sigma=0.2)
    four = evidence([9.9] * 4, [10.0] * 4, paired=pairs, paired_sigma=0.2)
    weak = evidence([9.96] * 4, [10.0] * 4, paired=[(9.96, 10.0)] * 4, paired_sigma=0.2)

    assert Race().decide(three).verdict == "more"  # z 0.87
    assert Race().decide(four).verdict == "keep"  # z 1
    assert Race().decide(weak).verdict == "discard"  # z 0.4


def test_more_seeds_do_not_shrink_the_per_example_error() -> None:
    decision = Race().decide(evidence([8.0] * 400, [10.0] * 400, per_example_stderr=3.0))

    assert decision.verdict == "keep"  # the last bar: z 0.66
    assert decision.stderr == pytest.approx(3.0, rel=0.01)


def test_runs_that_repeat_exactly_race_nobody() -> None:
    better, same = evidence([9.99], sigma=0.0), evidence([10.0], sigma=0.0)

    assert Race().decide(better).verdict == "keep"
    assert Race().decide(same).verdict == "discard"
    assert Race().decide(evidence([], sigma=0.0, proposals=6)).side == "candidate"


def test_the_new_incumbent_starts_without_its_selected_run() -> None:
    assert Race().successor([1.0, 2.0, 3.0]) == [2.0, 3.0]
    assert Race().successor([1.0]) == [1.0]


def test_greedy_believes_a_lucky_record() -> None:
    assert Greedy().decide(Evidence([9.99], [10.0], sigma=5.0)).verdict == "keep"
    assert Greedy().successor([9.0, 11.0]) == [9.0]


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadPlugin, match="race, lean"):
        Race("hasty")


@pytest.mark.parametrize(("profile", "most"), [("race", 22), ("lean", 12)])
def test_on_pure_noise_few_of_the_half_that_look_better_are_kept(profile: str, most: float) -> None:
    """Per 100 proposals without any effect; one run against the incumbent's mean would keep 50."""
    dice = Random(1)
    kept = sum(_keeps_noise(Race(profile), dice) for _ in range(3000)) / 30

    assert kept < most


def _keeps_noise(policy: Race, dice: Random) -> bool:
    candidate, incumbent = [dice.gauss(0, 1)], [dice.gauss(0, 1) for _ in range(12)]
    while True:
        decision = policy.decide(evidence(candidate, incumbent))
        if decision.verdict != "more":
            return decision.verdict == "keep"
        (candidate if decision.side == "candidate" else incumbent).append(dice.gauss(0, 1))


def test_a_win_that_does_not_pay_for_what_it_adds_to_read_is_discarded() -> None:
    won = Race().decide(evidence([8.0, 8.0], [10.0, 10.0]))
    wordy = Race().decide(evidence([8.0, 8.0], [10.0, 10.0], complexity=20.0))

    assert won.verdict == "keep"
    assert wordy.verdict == "discard"
    assert "does not pay for 20 lines more to read" in wordy.reason


def test_what_is_simpler_and_loses_nothing_is_kept() -> None:
    runs = [10.0, 10.1, 9.9, 10.0, 10.0, 10.0, 10.0, 10.0]
    decided = Race().decide(evidence(runs, runs, complexity=-5.0))

    assert decided.verdict == "keep"
    assert "5 lines less to read" in decided.reason


def test_what_is_simpler_is_run_again_before_it_is_given_up() -> None:
    first = Race().decide(evidence([10.0], [10.0, 10.0], complexity=-5.0))

    assert (first.verdict, first.side) == ("more", "candidate")


def test_simplifications_may_lose_a_sigma_in_all_and_no_more() -> None:
    runs = [10.0] * 8
    spent = Race().decide(evidence(runs, runs, complexity=-5.0, loss_left=0.0))

    assert spent.verdict == "discard"


def test_where_runs_repeat_exactly_the_examples_decide_at_once() -> None:
    small = Race().decide(evidence([9.9], [10.0], sigma=0.0, per_example_stderr=0.3))
    large = Race().decide(evidence([9.0], [10.0], sigma=0.0, per_example_stderr=0.3))

    assert (small.verdict, large.verdict) == ("discard", "keep")


def test_of_equal_runs_that_repeat_exactly_the_simpler_is_kept() -> None:
    assert Race().decide(evidence([10.0], [10.0], sigma=0.0, complexity=-1.0)).verdict == "keep"
    assert Race().decide(evidence([10.0], [10.0], sigma=0.0, complexity=0.0)).verdict == "discard"
