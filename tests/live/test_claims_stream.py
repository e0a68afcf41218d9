"""The stream of claims: levels are fixed when a question begins, and what is claimed is seldom false."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightlab.live.simulate import Ideas, run_programmes, run_stream
from nightlab.live.stream import ALPHA, Answer, Question, answers, next_level

QUESTIONS = st.lists(
    st.builds(
        lambda began, days, evidence: Question("q", began, None if days is None else began + days, evidence),
        st.floats(0, 100),
        st.none() | st.floats(0, 30),
        st.floats(0, 1e6),
    ),
    max_size=40,
)


def test_the_first_question_needs_a_hundred() -> None:
    assert answers([Question("a", 0, 7, 99.9)]) == [Answer("a", pytest.approx(0.01), False)]
    assert answers([Question("a", 0, 7, 100.1)])[0].is_claimed


def test_each_question_takes_its_part_of_what_is_left() -> None:
    levels = [one.level for one in answers([Question("q", at, None, 0) for at in range(3)])]

    assert levels == pytest.approx([0.1 * 0.1, 0.09 * 0.1 / 2, 0.0855 * 0.1 / 3])


def test_a_claim_raises_the_levels_of_those_that_begin_after_it_only() -> None:
    claimed = Question("first", 0, 7, 1e6)
    during, after = (answers([claimed, Question("next", began, None, 0)])[1].level for began in (6.9, 7.0))

    assert after == pytest.approx(2 * during)


def test_what_is_under_way_is_no_claim_however_strong() -> None:
    assert not answers([Question("a", 0, None, 1e9)])[0].is_claimed


@settings(deadline=None)
@given(QUESTIONS)
def test_the_budget_is_never_overspent(questions: list[Question]) -> None:
    found = answers(questions)
    began = {id(one): at for at, one in enumerate(sorted(questions, key=lambda one: one.began))}
    order = sorted(questions, key=lambda one: began[id(one)])

    charged = 0.0
    for one, said in zip(order, found, strict=True):
        ended = [o.ended for o, a in zip(order, found, strict=True) if a.is_claimed]
        charged += said.level / (1 + sum(end is not None and end <= one.began for end in ended))
    assert charged <= ALPHA + 1e-12
    assert all(0 < one.level < 1 for one in found)


@settings(deadline=None)
@given(QUESTIONS, st.floats(0, 130))
def test_the_past_is_never_rewritten(questions: list[Question], now: float) -> None:
    known = [one for one in questions if one.began <= now]
    seen = [
        Question(o.name, o.began, o.ended if o.ended is not None and o.ended <= now else None, o.evidence)
        for o in known
    ]

    assert [one.level for one in answers(seen)] == [one.level for one in answers(questions)][: len(seen)]
    later = answers([*questions, Question("new", 1000, None, 0)])
    assert [one.level for one in later][:-1] == [one.level for one in answers(questions)]


def test_the_next_level_is_the_one_it_will_get() -> None:
    asked = [Question("a", 0, 7, 1e6), Question("b", 3, None, 0)]

    assert next_level(asked, now=8) == answers([*asked, Question("c", 8, None, 0)])[-1].level


def test_a_long_stream_claims_few_that_are_false_and_most_that_are_good() -> None:
    found = run_stream(20e6, np.random.default_rng(1), ideas=Ideas())

    assert found["e-LORD"].false <= 0.1 * found["e-LORD"].claims
    assert found["e-LORD"].claims >= 0.55 * found["e-LORD"].good
    assert found["plain"].false >= 0.25 * found["plain"].claims


def test_a_stream_without_good_ideas_claims_almost_nothing() -> None:
    claims = [
        run_stream(2e6, np.random.default_rng(at), ideas=Ideas(good=0, idle=1))["e-LORD"].claims for at in range(6)
    ]

    assert sum(bool(one) for one in claims) <= 1


def test_programmes_tell_their_lift_over_the_holdout() -> None:
    found = run_programmes(150, np.random.default_rng(1), ideas=Ideas(good=0.2, idle=0.4), experiments=15)

    assert np.mean([one.is_covered for one in found]) >= 0.9
    assert sum(one.false for one in found) <= 0.1 * sum(one.claims for one in found)
    assert np.mean([one.truth for one in found]) > 0.1
