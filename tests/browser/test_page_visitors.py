"""The page of a live study in a real browser: nothing goes out before a human has clicked."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import wait_for
from pages import Visit, chromium, patience, served, visit
from playwright.sync_api import expect

from nightlab import tasks
from nightlab.live.clock import CLOCK, clock
from nightlab.live.store import open_store
from nightlab.place import Place, find, first_commit

sys.path.insert(0, str(Path(__file__).parents[1] / "live"))
from streets import Street

pytestmark = pytest.mark.slow


@pytest.fixture
def landing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A live study that waits for a human, with people in front of its page."""
    monkeypatch.setenv(CLOCK, f"{time.time()}:60000")
    folder = tmp_path / "landing"
    tasks.write("landing", folder)
    first_commit(folder)
    place = find(folder)
    command = [sys.executable, "-m", "nightlab", "-C", str(folder), "run", "--approve", "--workers", "2"]
    street = Street(place.home / "live.sqlite", clock=clock())
    with street, subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        yield place
        process.terminate()


def test_nothing_goes_out_before_a_human_has_clicked(landing: Place, visit: Visit) -> None:
    wait_for((landing.home / "live.sqlite").exists)
    with closing(open_store(landing.home / "live.sqlite", layer="main")) as store, served(landing.root) as server:
        wait_for(lambda: sum(arm.status == "waiting" for arm in store.arms()) == 2)
        first, second = [arm.number for arm in store.arms() if arm.status == "waiting"]
        page = visit(server.at("live"))
        page.get_by_role("heading", name="Waits for approval").wait_for()
        assert store.split().weights == {0: 1.0}  # type: ignore[union-attr]

        page.locator(f"#approve-{first}").click()
        wait_for(lambda: store.split().is_live(first))  # type: ignore[union-attr]
        page.locator(f"#refuse-{second}").click()
        wait_for(lambda: store.arm(second).status == "ended")

        assert not store.split().is_live(second)  # type: ignore[union-attr]
        page.goto(server.at("live"))
        expect(page.locator(f"#waits-{first}")).to_have_count(0)
        expect(page.get_by_role("heading", name="What may be claimed")).to_be_visible()
