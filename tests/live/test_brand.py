import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightlab import tasks
from nightlab.errors import BadTask
from nightlab.live.brand import TONES, Brand, parse
from nightlab.live.rendering import copy_of

BASELINE = (tasks.folder("landing") / "baseline.md").read_text()
COPY = copy_of((tasks.folder("landing") / "copy.toml").read_text())


def broken(**texts):
    return parse(BASELINE).problems({**COPY, **texts})


def test_the_start_of_the_template_breaks_no_rule():
    assert broken() == []


@pytest.mark.parametrize(
    ("slot", "text", "why"),
    [
        ("price", "9 euros a month", "price must stay"),
        ("headline", "Guaranteed to save you time", "claims 'guaranteed'"),
        ("headline", "It is GUARANTEED to help", "claims 'guaranteed'"),
        ("headline", "It is g\u00fcaranteed to help", "claims 'guaranteed'"),
        ("headline", "It is ｇｕａｒａｎｔｅｅｄ to help", "claims 'guaranteed'"),
        ("subline", "A plan that is  risk-free for your team", "claims 'risk free'"),
        ("subline", "The Number 1 tool for all of your notes", "forbids"),
        ("hint", "Save 40 hours a month", "names the number 40"),
        ("hint", "Save ４０ hours a month", "names the number 40"),
        ("headline", "Short", "5 characters"),
        ("button", "x" * 31, "31 characters"),
        ("button", "Sign up now!", "no exclamation marks"),
        ("button", "SIGN up NOWADAYS", "no capitals"),
        ("button", "Sign up \N{ROCKET}", "no emoji"),
        ("headline", "It is guar\u200banteed to help", "hidden character, U+200B"),
        ("headline", "It is gu\u0430ranteed to help", "mixes cyrillic and latin"),
        ("headline", "Read it \u202ebackwards now", "hidden character, U+202E"),
    ],
)
def test_a_copy_that_breaks_a_rule_is_told_which(slot, text, why):
    assert why in "; ".join(broken(**{slot: text}))


def test_words_that_only_contain_a_forbidden_one_are_allowed():
    assert parse("## Forbidden\n- cure\n").problems({"a": "We are secure, and obscure."}) == []


def test_a_text_that_must_stand_somewhere_is_missed():
    brand = parse('## Never changes\n- "14 days free"\n')

    assert brand.problems({"a": "Nothing of it"}) == ["'14 days free' must stand somewhere"]
    assert brand.problems({"a": "It is 14 days  free"}) == []


@pytest.mark.parametrize(
    "rule", ["## Lengths\n- headline 10", "## Tone\n- be nice", "## Forbidden\n- /(/", "## Never changes\n- price"]
)
def test_a_rule_that_cannot_be_read_is_told_with_its_line(rule):
    with pytest.raises(BadTask, match="line 2"):
        parse(rule)


def test_prose_rules_nothing():
    assert parse("# Brand\nWe are kind.\n\n## Who we are\n- a team\n") == Brand()


@given(st.text(max_size=60))
def test_no_text_brings_the_guard_down(text):
    problems = parse(BASELINE).problems({**COPY, "headline": text})

    assert len(text) >= 10 or problems


def test_every_tone_can_be_broken_and_kept():
    shown = {
        "no exclamation marks": "Now!",
        "no questions": "Why?",
        "no capitals": "LOOK here",
        "no emoji": "\N{ROCKET}",
        "no first person": "I like it",
    }

    assert shown.keys() == TONES.keys()
    assert all(TONES[tone](text) and not TONES[tone]("A calm text.") for tone, text in shown.items())
