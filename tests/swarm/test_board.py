from __future__ import annotations

import json
from math import sqrt
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sets import SWARM, TASK, Author, authors, named, result

from nightlab.swarm.board import Board
from nightlab.swarm.log import Log
from nightlab.swarm.record import Record, read
from nightlab.values import Status


def board(*records: Record) -> Board:
    log = Log()
    for record in records:
        log.add(record)
    return Board(log, TASK)


def of(*people: Author) -> Board:
    return board(*[record for one in people for record in one.said])


def state(found: Board, win: Record) -> str:
    return next(one["state"] for one in found.told("swarm")["wins"] if one["id"] == win.id)


def crew(count: int) -> tuple[Author, list[Author]]:
    """Ada, and so many others who have all said something."""
    others = authors(f"lab {number}" for number in range(count))
    for one in others:
        one.claims("something of its own")
    return Author("ada"), others


def drawn(found: Board, win: Record, others: list[Author]) -> list[Author]:
    return [one for one in others if one.id in found.drawn(win.id)]


def test_a_win_is_claimed_until_somebody_else_ran_it() -> None:
    ada, others = crew(5)
    win = ada.wins(5.0)

    assert state(of(ada, *others), win) == "claimed"


def test_a_win_that_labs_ran_who_were_not_drawn_is_replicated() -> None:
    ada, others = crew(5)
    win = ada.wins(5.0)
    mine = drawn(of(ada, *others), win, others)
    for one in others:
        if one not in mine:
            one.runs(win, 5.0)

    assert state(of(ada, *others), win) == "replicated"


def test_a_win_that_a_drawn_lab_ran_and_saw_is_confirmed() -> None:
    ada, others = crew(5)
    win = ada.wins(5.0)
    drawn(of(ada, *others), win, others)[0].runs(win, 4.0)

    found = of(ada, *others)

    assert state(found, win) == "confirmed"
    told = found.told("swarm")["wins"][0]
    assert told["relative"] == pytest.approx(0.04)
    assert told["low"] == pytest.approx(0.04 - 1.96 * 0.01)
    assert found.reputation(ada.id) is None  # of one's word alone nobody is judged


def test_a_win_that_most_of_the_drawn_labs_do_not_find_is_disputed() -> None:
    ada, others = crew(5)
    win = ada.wins(9.0)
    for one in drawn(of(ada, *others), win, others)[:2]:
        one.runs(win, 0.0)

    assert state(of(ada, *others), win) == "disputed"


@pytest.mark.parametrize("sure", [1.0, 0.0, 1e-300])
@pytest.mark.parametrize("said", [-5.0, -1e6, -1e99])
def test_a_minority_of_the_drawn_labs_disputes_nothing_and_hides_nothing(said: float, sure: float) -> None:
    ada, others = crew(6)
    win = ada.wins(5.0)
    first, second, third = drawn(of(ada, *others), win, others)
    first.runs(win, said, stderr=sure)

    assert state(of(ada, *others), win) != "disputed"
    second.runs(win, 5.0)
    third.runs(win, 5.0)
    assert state(of(ada, *others), win) == "confirmed"
    assert of(ada, *others).reputation(ada.id) == 1.0


def test_labs_that_drew_themselves_decide_nothing() -> None:
    ada, others = crew(20)
    win = ada.wins(5.0)
    mine = drawn(of(ada, *others), win, others)
    for one in mine[:2]:
        one.runs(win, 5.0)
    for one in others:
        if one not in mine:
            one.runs(win, -50.0, stderr=0.0)

    found = of(ada, *others)

    assert state(found, win) == "confirmed"
    assert found.reputation(ada.id) == 1.0


def test_labs_that_drew_themselves_confirm_no_lie() -> None:
    ada, others = crew(20)
    win = ada.wins(50.0)
    mine = drawn(of(ada, *others), win, others)
    for one in others:
        one.runs(win, 0.0) if one in mine else one.runs(win, 50.0, stderr=0.0)

    assert state(of(ada, *others), win) == "disputed"


def test_an_authors_own_runs_of_its_win_count_for_nothing() -> None:
    ada, others = crew(3)
    win = ada.wins(5.0)
    ada.runs(win, 5.0, adopted=True)

    found = of(ada, *others)

    assert state(found, win) == "claimed"
    assert found.told("swarm")["totals"]["verifications"] == 0
    assert found.told("swarm")["wins"][0]["adopted_by"] == []


def test_a_run_on_another_tree_is_an_answer_to_another_question() -> None:
    ada, others = crew(3)
    win = ada.wins(9.0)
    for one in others:
        one.runs(win, 0.0, has_same_parent=False)

    assert state(of(ada, *others), win) == "claimed"


def test_who_repeats_a_win_found_nothing_whatever_its_clock_says() -> None:
    (ada, others), eve = crew(5), Author("eve")
    eve.claims("something")
    win = ada.wins(5.0)
    drawn(of(ada, eve, *others), win, others)[0].runs(win, 5.0)
    body = {"patch": win.body.patch, "change": win.body.change}
    stolen = eve.wins(50.0, **body, at=0.0)
    disguised = eve.wins(50.0, **body | {"patch": named("a name of her own")}, at=0.0)
    eve.say(result("eve", 9, **body, parent=named("another tree")))

    found = of(ada, eve, *others)

    assert win.id in found.wins
    assert {stolen.id, disguised.id}.isdisjoint(found.wins)
    assert len(found.wins) == 2  # on another tree it is another finding


def test_a_win_told_again_later_is_no_win_of_its_own() -> None:
    ada, eve = authors(["ada", "eve"])
    win = ada.wins(5.0)
    eve.wins(50.0, patch=win.body.patch)

    assert list(of(ada, eve).wins) == [win.id]


def test_what_is_taken_back_is_no_win_any_more_but_by_its_author_alone() -> None:
    ada, eve = authors(["ada", "eve"])
    first, second = ada.wins(5.0), ada.wins(4.0)
    ada.retracts(first)
    eve.retracts(second)

    assert list(of(ada, eve).wins) == [second.id]


def lies(liar: Author, others: list[Author], count: int, **changes: Any) -> list[Record]:
    found = [liar.wins(20.0, **changes) for _ in range(count)]
    for win in found:
        for one in drawn(of(liar, *others), win, others):
            one.runs(win, Random(win.id).gauss(0, 1))
    return found


def test_three_false_reports_bring_a_reputation_to_nothing() -> None:
    ada, others = crew(6)

    seen = []
    for _ in range(3):
        lies(ada, others, 1)
        seen.append(of(ada, *others).reputation(ada.id))

    assert seen == [pytest.approx(2 / 3), pytest.approx(1 / 3), 0.0]


def test_labs_known_to_lie_judge_nobody() -> None:
    ada, others = crew(8)
    win = ada.wins(5.0)
    liars = drawn(of(ada, *others), win, others)[:2]
    for one in liars:
        one.runs(win, -50.0)
    assert state(of(ada, *others), win) == "disputed"

    for one in liars:
        for lie in [one.wins(20.0) for _ in range(3)]:
            for judge in [ada, *others]:
                if judge is not one:
                    judge.runs(lie, 0.0)
    for one in others:
        if one not in liars:
            one.runs(win, 5.0)

    found = of(ada, *others)

    assert all(found.reputation(one.id) == 0.0 for one in liars)
    assert state(found, win) == "confirmed"
    assert found.reputation(ada.id) == 1.0


def test_strikes_are_not_undone_by_taking_back_what_was_found_out() -> None:
    ada, others = crew(6)
    for win in lies(ada, others, 3):
        ada.retracts(win)

    found = of(ada, *others)

    assert found.wins == {}
    assert found.reputation(ada.id) == 0.0


@pytest.mark.parametrize("doubt", [0.0, 1.0, 19.0, 1e7, None])
def test_no_doubt_that_a_liar_tells_saves_it(doubt: float | None) -> None:
    ada, others = crew(6)

    lies(ada, others, 3, stderr=doubt)

    assert of(ada, *others).reputation(ada.id) == 0.0


def test_a_win_without_a_gain_or_what_it_was_raced_against_is_none() -> None:
    ada, others = crew(3)
    ada.wins(5.0, against=[])
    ada.say(result("ada", 7, gain=None))
    ada.wins(5.0, against=[1e-320])

    assert of(ada, *others).wins == {}


def test_ones_own_eyes_go_before_what_others_say() -> None:
    ada, others = crew(6)
    win = ada.wins(20.0)
    for one in others:
        one.runs(win, 20.0)
    me = others[0]
    me.runs(win, 0.0)

    found = of(ada, *others)

    assert found.reputation(ada.id) == 1.0
    assert found.reputation(ada.id, mine=me.id) == pytest.approx(2 / 3)


def honest(seed: int, *, wins: int = 12) -> float:
    """The lowest reputation of four labs that tell only what looked good, most of it noise, and run each other's."""
    dice, labs = Random(seed), authors(f"{seed} {number}" for number in range(4))
    for one in labs:
        one.claims("something")
    told: list[tuple[Record, Author, float]] = []
    for one in labs:
        while sum(author is one for _, author, _ in told) < wins:
            true = max(0.0, dice.gauss(0, 1)) if dice.random() < 0.3 else 0.0
            error = sqrt(1 + 1 / 3)  # one run against three of the incumbent
            if (seen := dice.gauss(true, error)) > 2 * error:
                told.append((one.wins(seen, stderr=error), one, true))
    found = of(*labs)
    for win, _, true in told:
        for one in drawn(found, win, labs):
            one.runs(win, dice.gauss(true, sqrt(2 / 3)), stderr=sqrt(2 / 3))
    found = of(*labs)
    return min(found.reputation(one.id) or 0.0 for one in labs)


def test_who_honestly_tells_what_only_looked_good_keeps_its_name() -> None:
    lowest = [honest(seed) for seed in range(8)]

    print(f"the lowest reputation of 32 honest labs with 12 selected reports each is {min(lowest):.2f}")
    assert min(lowest) > 0.6


NUMBERS = st.sampled_from([None, 0.0, 5e-324, 1e-300, -1e-9, 1.0, -1e99, 1e99])


@settings(deadline=None)
@given(NUMBERS, NUMBERS, st.lists(NUMBERS.filter(lambda one: one is not None), max_size=3), NUMBERS, NUMBERS)
def test_no_number_stops_the_board(
    gain: float | None, doubt: float | None, against: list[float], seen: float | None, sure: float | None
) -> None:
    ada, others = crew(3)
    spread = {"stderr": None if doubt is None else abs(doubt)}
    win = ada.say(result("ada", 1, gain=gain, against=against, values=against, milestones=["idea"], **spread))
    for one in others:
        one.runs(win, seen, stderr=None if sure is None else abs(sure), against=against, values=against, adopted=True)

    told = of(ada, *others).told("swarm")

    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_a_milestone_is_whose_win_was_seen_elsewhere_and_no_earlier_than_its_chain() -> None:
    ada, others = crew(6)
    eve = Author("eve")
    ada.claims("something")
    win = ada.wins(5.0, milestones=["idea"])
    eve.wins(99.0, milestones=["idea"], at=0.0)
    people = [ada, eve, *others]
    for one in drawn(of(*people), win, others):
        one.runs(win, 5.0, adopted=True, at=0.0)

    (milestone,) = of(*people).told("swarm")["milestones"]

    assert milestone["first"] == win.id
    assert all(one["at"] >= win.body.at for one in milestone["spread"] if one["author"] != eve.id)


def test_the_board_counts_what_came_of_all() -> None:
    ada, bob, eve = authors(["ada", "bob", "eve"])
    ada.claims("under way")
    win = ada.wins(5.0)
    ada.say(result("ada", "x", status=Status.CRASHED, gain=None, patch=named("same")))
    bob.say(result("bob", "x", status=Status.DISCARDED, gain=-1.0, patch=named("same")))
    bob.runs(win, 5.0, adopted=True)
    eve.claims(1)
    eve.forked(0).claims(2)
    twin = eve.forked(0)
    twin.claims("another")

    told = of(ada, bob, eve, twin).told("swarm")

    totals = {"experiments": 3, "kept": 1, "discarded": 1, "crashed": 1, "duplicates": 1, "adoptions": 1}
    assert {name: told["totals"][name] for name in totals} == totals
    assert [one["hypothesis"] for one in told["claims"]] == ["try under way"]
    assert [one["author"] for one in told["authors"] if one["muted"]] == [eve.id]


def test_words_from_peers_cannot_drive_a_terminal() -> None:
    ada = Author("ada")
    ada.say(
        result("ada", 1, label="a\x1b[2J\nb", hypothesis="one\r\ntwo\x07", hardware="\x00", milestones=["\x1b]0;x"])
    )

    told = of(ada).told("swarm")

    assert all(letter.isprintable() for letter in json.loads(json.dumps(str(told))))


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(12)))
def test_the_same_records_make_the_same_board_in_any_order(order: list[int]) -> None:
    ada, others = crew(4)
    wins = [ada.wins(5.0), ada.wins(1.0)]
    for one in others[:3]:
        one.runs(wins[0], 4.0)
        one.runs(wins[1], -9.0)
    said = [record for one in (ada, *others) for record in one.said]

    assert len(said) == len(order)
    assert board(*[read(said[place].data, swarm=SWARM) for place in order]).told("swarm") == board(*said).told("swarm")
