import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightlab import tasks
from nightlab.errors import BadTask, Invalid
from nightlab.live.rendering import copy_of, rendered, slots, unfit

PAGE = (tasks.folder("landing") / "page.html").read_text()
COPY = copy_of((tasks.folder("landing") / "copy.toml").read_text())


def test_the_template_page_and_its_copy_fit():
    assert unfit(PAGE, COPY) is None
    assert COPY["headline"] in rendered(PAGE, COPY)


@given(st.text(max_size=80))
def test_a_text_brings_no_markup_in(text):
    page = rendered("<p title='{{a}}'>{{a}}</p>", {"a": text})

    assert page.count("<") == 2
    assert page.count("'") == 2


def test_a_text_with_braces_is_not_filled_again():
    assert rendered("<p>{{a}}</p>", {"a": "{{b}}", "b": "secret"}) == "<p>{{b}}</p>"


@pytest.mark.parametrize(
    "page",
    [
        "<script>var a = '{{a}}'</script>",
        "<style>p { color: {{a}} }</style>",
        "<!-- {{a}} -->",
        '<a href="{{a}}">go</a>',
        '<p onclick="{{a}}">go</p>',
        '<p style="{{a}}">go</p>',
        "<p title={{a}}>go</p>",
    ],
)
def test_a_slot_where_escaping_does_not_help_is_refused(page):
    with pytest.raises(BadTask, match="slot"):
        slots(page)


@pytest.mark.parametrize(("text", "why"), [("a = 1", "no text"), ("a = [", "not valid"), ("[a]\nb = 'c'", "no text")])
def test_copy_that_is_no_flat_list_of_texts_is_refused(text, why):
    with pytest.raises(Invalid, match=why):
        copy_of(text)


def test_missing_and_unknown_slots_are_named():
    assert unfit("<p>{{a}}</p>", {}) == "the copy has no text for a"
    assert unfit("<p>{{a}}</p>", {"a": "", "b": ""}) == "the page has no slot b"
