"""The page in a real browser, used: by hand and by keyboard, on a study that really runs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import TASK, asked, make_repository, wait_for
from page_nights import written
from pages import GONE, Server, Visit, chromium, patience, served, visit
from playwright.sync_api import Page

from nightlab.ledger import Ledger
from nightlab.place import Place, find, held

pytestmark = pytest.mark.slow

SLEEPY = """\
import os, random, time
KNOB = 5.0
random.seed(int(os.environ["NIGHTLAB_SEED"]))
if KNOB != 5.0:
    time.sleep(50)
print("score:", KNOB + random.gauss(0, 0.01))
"""
FOCUS = """() => {
    const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect()
    const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1
    return {tag: one.tagName, words: (one.innerText || one.value || one.getAttribute('aria-label') || '').trim(),
        name: one.name || '', href: one.getAttribute('href') || '', isSeen: box.width > 0 && box.height > 0
        && (ring || style.boxShadow !== 'none')}}"""


@pytest.fixture
def study(tmp_path: Path) -> Iterator[tuple[Place, subprocess.Popen[str]]]:
    """A real study, whose every candidate takes most of a minute unless it is ended."""
    folder = make_repository(tmp_path / "task", {"train.py": SLEEPY, "nightlab.toml": TASK, "program.md": "Lower it."})
    command = [sys.executable, "-m", "nightlab", "-C", str(folder), "run", "--unsafe", "--no-audit"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        yield find(folder), process
        process.terminate()


def runs(ledger: Ledger) -> list[int]:
    """Whose runs are under way, the baseline's left out."""
    return [int(run["experiment"]) for run in ledger.unfinished() if run["experiment"]]


def say(page: Page, name: str, text: str, button: str) -> None:
    """Write into a field and send it."""
    page.get_by_role("textbox", name=name).fill(text)
    page.get_by_role("button", name=button).click()


@pytest.mark.slow
def test_a_study_that_runs_obeys_the_page(study: tuple[Place, subprocess.Popen[str]], visit: Visit) -> None:
    place, process = study
    wait_for(place.ledger.exists)
    with served(place.root) as server, closing(Ledger(place.ledger)) as ledger:
        wait_for(lambda: runs(ledger) == [1])
        page = visit(server.at("control"), expects=GONE)

        say(page, "Steer", "look at the knob", "Steer")
        wait_for(lambda: bool(ledger.asked("steer")) and ledger.asked("steer")[0][2] is not None, 5)
        page.get_by_role("button", name="Pause").click()
        wait_for(lambda: bool(ledger.asked("pause")) and ledger.asked("pause")[0][2] is not None, 5)
        page.get_by_text("paused").first.wait_for(timeout=2000)

        page.goto(server.at("e/1"))
        begin = time.monotonic()
        press(page, "Veto")
        wait_for(lambda: not runs(ledger), 5)
        ended = time.monotonic() - begin
        time.sleep(0.7)
        assert runs(ledger) == []  # paused: nothing else begins
        assert ledger.experiment(1).status.is_open is False

        page.goto(server.at("control"))
        page.get_by_role("button", name="Resume").click()
        wait_for(lambda: runs(ledger) == [2], 10)
        begin = time.monotonic()
        press(page, "Stop now")
        process.wait(10)
        stopped = time.monotonic() - begin
        page.get_by_text("not running").first.wait_for(timeout=3000)

    assert ended <= 2.0
    assert stopped <= 2.0


def press(page: Page, name: str) -> None:
    """Press a button, and say yes where one is asked whether one means it."""
    page.get_by_role("button", name=name, exact=True).first.click()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A study that somebody holds, as a lab would; what is wished of it stays in the ledger."""
    place = find(written(tmp_path, 60))
    with held(place):
        yield place


@pytest.fixture
def server(place: Place) -> Iterator[Server]:
    with served(place.root) as server:
        yield server


def reach(page: Page, wanted: str, *, most: int = 120) -> dict[str, Any]:
    """Go on by the tab key until something that holds these words has the focus; every stop has to be seen."""
    for _ in range(most):
        page.keyboard.press("Tab")
        here: dict[str, Any] = page.evaluate(FOCUS)
        if here["tag"] != "BODY":
            assert here["isSeen"], f"the focus cannot be seen on {here}"
        if wanted in (here["words"], here["name"], here["href"]):
            return here
    pytest.fail(f"{wanted!r} cannot be reached by keyboard")


def test_pause_and_steer_work_by_keyboard_alone(place: Place, server: Server, visit: Visit) -> None:
    page = visit(server.at("control"))

    reach(page, "Pause")
    page.keyboard.press("Enter")
    wait_for(lambda: asked(place, "pause") == [""], 5)
    reach(page, "text")
    page.keyboard.type("the optimiser, please")
    reach(page, "Steer")
    page.keyboard.press("Enter")

    wait_for(lambda: asked(place, "steer")[-1:] == ["the optimiser, please"], 5)


def test_filtering_and_opening_an_experiment_work_by_keyboard_alone(server: Server, visit: Visit) -> None:
    page = visit(server.at("experiments"))

    reach(page, "q")
    page.keyboard.type("bigrams")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=bigrams**")
    page.wait_for_function("() => !document.querySelector('main').innerText.includes('cosine')")
    href = page.locator("main a[href*='/e/']").first.get_attribute("href") or ""
    reach(page, href)
    page.keyboard.press("Enter")
    page.wait_for_url("**/e/*")

    assert "hashed bigrams" in page.locator("h1").inner_text()


def test_the_first_stop_of_the_tab_key_leads_to_the_content(server: Server, visit: Visit) -> None:
    page = visit(server.at())

    page.keyboard.press("Tab")
    first = page.evaluate(FOCUS)
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")

    assert first["href"].startswith("#")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")


def test_the_filter_survives_a_reload_and_going_back(server: Server, visit: Visit) -> None:
    page = visit(server.at("experiments?status=kept"))
    before = page.locator("main").inner_text()

    page.reload()
    again = page.locator("main").inner_text()
    page.locator("main a[href*='/e/']").first.click()
    page.wait_for_url("**/e/*")
    page.go_back()
    page.wait_for_url("**status=kept**")

    assert again == before == page.locator("main").inner_text()
    assert "crashed" not in page.locator("main table, main ol, main ul").first.inner_text()


def test_a_refusal_is_said_in_words_on_the_page(place: Place, server: Server, visit: Visit) -> None:
    page = visit(server.at("control"), expects="status of 4")

    page.get_by_role("textbox", name="Steer").fill(" ")
    page.get_by_role("button", name="Steer").click()

    page.get_by_text("no words").first.wait_for(timeout=3000)
    assert asked(place, "steer")[-1:] != [" "]
