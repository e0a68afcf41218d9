"""The swarm in a real browser: by everybody, on a phone, in the dark, lied to, and while it goes on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from page_nights import HACKS, written
from pages import PHONE, Server, Visit, chromium, faults, patience, served, visit
from swarms import a_swarm, join, labs

from nightlab.place import Place
from nightlab.swarm.store import Store

pytestmark = pytest.mark.slow

HIDDEN = re.compile("[\u0000-\u0008\u000e-\u001f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
NAMES = ("ada", "\u202egnp.exe", "W" * 60, HACKS[0])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("swarm")
    with closing(a_swarm(folder, words=[*HACKS, "fan-in initialisation", "W" * 200], names=NAMES)) as store:
        for number, lab in enumerate(labs(store, folder / "more", [f"lab {n}" for n in range(31)])):
            lab.find(1000 + number, f"idea {number}")
        yield store


@pytest.fixture(scope="module")
def server(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = written(tmp_path_factory.mktemp("night"), 12)
    join(Place(folder), store)
    with served(folder) as server:
        yield server


@pytest.mark.parametrize("looks", ["desk in daylight", "desk in the dark", "phone in daylight", "phone in the dark"])
def test_everybody_can_read_the_swarm(server: Server, visit: Visit, looks: str) -> None:
    page = visit(server.at("swarm"), phone="phone" in looks, dark="dark" in looks)

    assert faults(page) == []
    assert faults(page, "color-contrast", "target-size") == []


@pytest.mark.parametrize("view", ["swarm", "report", ""])
def test_the_swarm_fits_a_phone(server: Server, visit: Visit, view: str) -> None:
    page = visit(server.at(view), phone=True)

    assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize("view", ["swarm", "report"])
def test_what_peers_say_stays_words(server: Server, visit: Visit, view: str) -> None:
    page = visit(server.at(view))

    page.wait_for_timeout(300)
    words = str(page.evaluate("document.documentElement.textContent"))
    assert HACKS[0] in words
    assert HIDDEN.findall(words) == []


def test_a_win_appears_while_one_looks_and_the_map_stays_where_it_was_pushed(
    server: Server, visit: Visit, store: Store, tmp_path: Path
) -> None:
    page = visit(server.at("swarm"), phone=True)
    page.get_by_role("region", name="Labs by wins").evaluate("one => { one.scrollLeft = 40 }")

    labs(store, tmp_path, ["late"])[0].find(2000, "found while one looks")

    page.get_by_text("found while one looks").first.wait_for(timeout=30_000)
    assert page.get_by_role("region", name="Labs by wins").evaluate("one => one.scrollLeft") == 40


def test_the_swarm_can_be_read_without_script(server: Server, visit: Visit) -> None:
    page = visit(server.at("swarm"), script=False)

    assert "fan-in initialisation" in page.locator("main").inner_text()
