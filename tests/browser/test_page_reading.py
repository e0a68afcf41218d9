"""The page in a real browser, read: by everybody, on a phone, in the dark, without JavaScript, at once."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import pytest
from page_nights import written
from pages import PHONE, VIEWS, Server, Visit, chromium, faults, patience, served, visit
from playwright.sync_api import Page

pytestmark = pytest.mark.slow

SEEN = """() => performance.getEntriesByName('first-contentful-paint').map(one => one.startTime)[0]"""
TOO_SMALL = """() => [...document.querySelectorAll('button, input:not([type=hidden]), select, textarea, summary')]
    .map(one => [one.outerHTML.slice(0, 80), one.getBoundingClientRect()])
    .filter(([, box]) => box.width && (box.width < 24 || box.height < 24)).map(([words]) => words)"""
MOVING = """() => [...document.querySelectorAll('*')].filter(one => {
    const style = getComputedStyle(one), longest = words => Math.max(...words.split(',').map(parseFloat))
    return longest(style.transitionDuration) > 0.02 || longest(style.animationDuration) > 0.02
        || style.scrollBehavior === 'smooth'}).map(one => one.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A night of 120 experiments, over and audited."""
    with served(written(tmp_path_factory.mktemp("night"), 120)) as server:
        yield server


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("looks", ["desk in daylight", "phone in the dark"])
def test_everybody_can_read_a_view(server: Server, visit: Visit, view: str, looks: str) -> None:
    at_night = looks == "phone in the dark"
    page = visit(server.at(view), phone=at_night, dark=at_night)

    assert faults(page) == []


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("looks", ["desk in the dark", "phone in daylight"])
def test_words_stand_out_from_their_ground(server: Server, visit: Visit, view: str, looks: str) -> None:
    page = visit(server.at(view), phone="phone" in looks, dark="dark" in looks)

    assert faults(page, "color-contrast") == []


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_fits_a_phone(server: Server, visit: Visit, view: str) -> None:
    page = visit(server.at(view), phone=True)

    assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate("visualViewport.scale") == 1
    assert faults(page, "target-size") == []
    assert page.evaluate(TOO_SMALL) == []


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_moves_where_stillness_is_asked_for(server: Server, visit: Visit, view: str) -> None:
    page = visit(server.at(view), still=True)

    assert page.evaluate(MOVING) == []


def test_the_ground_is_dark_in_the_dark(server: Server, visit: Visit) -> None:
    light, dark = (ground(visit(server.at(), dark=is_dark)) for is_dark in (False, True))

    assert light > 200
    assert dark < 60


def ground(page: Page) -> float:
    """How light the page's ground is, 0 to 255."""
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    if colour == "rgba(0, 0, 0, 0)":
        colour = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    red, green, blue = (float(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3])
    return (red + green + blue) / 3


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_can_be_read_without_script(server: Server, visit: Visit, view: str) -> None:
    page = visit(server.at(view), script=False)

    words = page.locator("main, body").first.inner_text()
    expected = {"": "9.7", "e/1": "rate = 1", "tree": "baseline", "report": "9.7", "control": "Pause"}
    assert expected.get(view, "val_bpb" if view == "frontier" else "") in words
    assert len(words) > 300


def painted(page: Page) -> float:
    """Milliseconds until the first paint, which the browser tells a little after it."""
    return float(page.wait_for_function(SEEN).json_value())


def test_the_first_paint_comes_within_half_a_second(server: Server, visit: Visit) -> None:
    visit(server.at())

    paints = [painted(visit(server.at())) for _ in range(5)]

    assert median(paints) <= 500


def test_the_first_load_weighs_at_most_sixty_kilobytes(server: Server, visit: Visit) -> None:
    weighed: list[int] = []
    page = visit("about:blank")
    line = page.context.new_cdp_session(page)
    line.send("Network.enable")
    line.on("Network.dataReceived", lambda said: weighed.append(said["encodedDataLength"]))
    line.on("Network.responseReceived", lambda said: weighed.append(int(said["response"]["encodedDataLength"])))

    page.goto(server.at(), wait_until="load")
    page.wait_for_timeout(1000)

    assert 5_000 < sum(weighed) <= 60_000, sum(weighed)
