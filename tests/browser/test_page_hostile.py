"""The page in a real browser, lied to: whatever an agent writes stays words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from page_nights import HACKS, hostile, night_at
from pages import VIEWS, Server, Visit, chromium, patience, served, visit
from playwright.sync_api import Page

pytestmark = pytest.mark.slow

ALIVE = """() => [...document.querySelectorAll('*')].filter(one =>
    [...one.attributes].some(({name, value}) => /^on/i.test(name) || /hx-on/i.test(name)
        || /^\\s*(javascript|vbscript|data:text)/i.test(value) || /203\\.0\\.113/.test(name + value)
            && /^(src|href|action|hx-|data-hx-|style|srcset|formaction|content)/i.test(name)))
    .map(one => one.outerHTML.slice(0, 120))"""
"""Elements that could act by words of an agent's."""
FOREIGN = """() => [...document.scripts].filter(one => one.type !== 'application/json'
    && (!one.src || new URL(one.src).origin !== location.origin)).map(one => one.outerHTML.slice(0, 120))"""
HIDDEN = re.compile("[\u0000-\u0008\u000e-\u001f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What turns the order of letters around, or is no letter."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with served(folder) as server:
        yield server


def harmless(page: Page) -> str:
    """The words on a page on which nothing has come to life."""
    page.wait_for_timeout(300)
    words = str(page.evaluate("document.documentElement.textContent"))
    assert page.evaluate(ALIVE) == []
    assert page.evaluate(FOREIGN) == [] or page.url.endswith("/report")  # one file, that brings its scripts with it
    assert HIDDEN.findall(words) == []
    return str(page.locator("body").inner_text())


@pytest.mark.parametrize("view", [*VIEWS, *(f"e/{number}" for number in range(2, len(HACKS) + 3))])
def test_hostile_words_stay_words(server: Server, visit: Visit, view: str) -> None:
    page = visit(server.at(view))

    harmless(page)


def test_hostile_words_are_shown_as_they_were_written(server: Server, visit: Visit) -> None:
    said = [harmless(visit(server.at(f"e/{number}"))) for number in (1, 2, 7)]

    for words, hack in zip(said, (HACKS[0], HACKS[1], HACKS[6]), strict=True):
        assert words.count(hack) >= 4  # the hypothesis, the reason, the patch, the log, the note


def test_hostile_words_that_come_while_one_looks_stay_words(folder: Path, server: Server, visit: Visit) -> None:
    page = visit(server.at())
    with closing(night_at(folder)) as night:
        for words in HACKS:
            night.tell(words, proposer=words[:50], reason=words, tail=words)
        last = night.tell("the last of them")

    page.get_by_text("the last of them").first.wait_for(timeout=5000)

    assert HACKS[0] in harmless(page)
    assert last > len(HACKS)


def test_a_hostile_address_is_refused_in_words(server: Server, visit: Visit) -> None:
    expects = "status of 4"
    for tail in ("experiments?q=<script>window.__hacked=1</script>", "insights?q=\"'><img src=x onerror=alert(1)>"):
        harmless(visit(server.at(tail), expects=expects))
    for tail in ("e/99999999999999999999", "e/<script>window.__hacked=1</script>", "no-such-view"):
        page = visit(server.at(tail), expects=expects)
        assert "__hacked=1</script>" not in page.content().replace("&lt;/", "")
