"""The page in a real browser, alive: news comes within a second, and nothing is lost when the server ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_nights import Night, night_at, written
from pages import GONE, Server, Visit, chromium, patience, served, started, visit
from playwright.sync_api import Page

pytestmark = pytest.mark.slow

ROWS = "() => [...document.querySelectorAll('#rows > tr')].map(one => Number(one.dataset.id))"


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    """A night of thirty experiments that goes on as the test tells it."""
    written(tmp_path, 30)
    night = night_at(tmp_path)
    yield night
    night.close()


@pytest.fixture
def server(night: Night) -> Iterator[Server]:
    with served(night.place.root) as server:
        yield server


def seconds_until(page: Page, words: str) -> float:
    """How long it takes until the page shows these words."""
    begin = time.perf_counter()
    page.wait_for_function("words => document.body.innerText.includes(words)", arg=words, polling=20)
    return time.perf_counter() - begin


def rows(page: Page) -> list[int]:
    return list(page.evaluate(ROWS))


def test_what_happens_is_on_the_page_within_a_second(night: Night, server: Server, visit: Visit) -> None:
    page = visit(server.at())
    page.wait_for_timeout(1000)
    took = []

    for turn in range(4):
        number = night.propose(f"an idea that comes while one looks on, {turn}")
        took.append(seconds_until(page, f"while one looks on, {turn}"))
        night.start(number)
        night.end(number, value=3.0)
        night.decide(number, status="discarded", value=3.0, reason=f"it was decided just now, {turn}")
        took.append(seconds_until(page, f"decided just now, {turn}"))

    assert max(took) <= 1.0, took
    assert rows(page).count(number) == 1


def test_a_row_that_one_stands_on_is_renewed_and_one_still_stands_on_it(
    night: Night, server: Server, visit: Visit
) -> None:
    page = visit(server.at())
    number = night.propose("an idea that one stands on")
    seconds_until(page, "an idea that one stands on")
    page.locator(f"#e{number} a").first.focus()

    night.start(number)
    night.end(number, value=3.0)
    night.decide(number, status="discarded", value=3.0, reason="decided under ones feet")

    assert seconds_until(page, "decided under ones feet") < 5
    assert page.evaluate("document.activeElement.getAttribute('href')").endswith(f"/e/{number}")


def test_a_page_opened_before_its_study_comes_alive(tmp_path: Path, visit: Visit) -> None:
    (tmp_path / ".git").mkdir()
    with served(tmp_path) as server:
        page = visit(server.at(), expects=f"status of 404|{GONE}")
        early = page.locator("body").inner_text()

        night = night_at(tmp_path)
        night.begin()
        night.tell("the first idea of all")
        night.close()

        assert "the first idea of all" not in early
        assert "Internal" not in early
        assert seconds_until(page, "the first idea of all") < 5


@pytest.mark.parametrize("absence", [0.2, pytest.param(6.0, marks=pytest.mark.slow)])
def test_no_row_is_lost_or_doubled_when_the_server_ends_and_comes_back(
    night: Night, visit: Visit, absence: float
) -> None:
    first = started(night.place.root)
    page = visit(first.at(), expects=GONE)
    open_ = night.propose("decided while nobody served")
    seconds_until(page, "decided while nobody served")

    first.kill()
    night.start(open_)
    night.end(open_, value=3.0)
    night.decide(open_, status="discarded", value=3.0, reason="so it came about in the dark")
    missed = [night.tell(f"missed {turn}") for turn in range(3)]
    time.sleep(absence)
    with served(night.place.root, first.port):
        took = seconds_until(page, "missed 2")
        seconds_until(page, "so it came about in the dark")
        after = night.tell("after the server came back")
        seconds_until(page, "after the server came back")

        shown = rows(page)
    assert took < 10
    assert [shown.count(number) for number in (open_, *missed, after)] == [1] * 5
    assert shown == sorted(shown, reverse=True)
    assert len(shown) == len(set(shown))
