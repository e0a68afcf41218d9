"""The stream of what is new: nothing lost, nothing doubled, on time, and one look for all who listen."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from serving import Reader, Served, begun, night, served, told

from nightlab.dashboard.page import events
from nightlab.ledger import Event, Ledger
from nightlab.place import Place, held


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return night(tmp_path, 30)


@pytest.fixture
def ledger(place: Place) -> Iterator[Ledger]:
    with closing(place.read()) as ledger:
        yield ledger


@pytest.fixture
def page(place: Place) -> Iterator[Served]:
    with served(place.root) as page:
        yield page


def listening(page: Served, ledger: Ledger, count: int) -> list[Reader]:
    """So many readers, each of which knows how things stand."""
    readers = [Reader(page.url, since=ledger.last_seq()) for _ in range(count)]
    for reader in readers:
        reader.wait("summary")
    return readers


def heard(readers: list[Reader], count: int) -> None:
    """Wait until each has been told of so many experiments, and let it go."""
    for reader in readers:
        reader.wait("experiment", count)
        reader.close()


def test_what_happens_is_told_within_a_second(page: Served, ledger: Ledger) -> None:
    reader = Reader(page.url, since=ledger.last_seq())
    reader.wait("summary")
    took = []

    for number in range(30, 34):
        began = time.monotonic()
        ledger.append(*told(number))
        reader.wait("experiment", number - 29)
        took.append(time.monotonic() - began)
    reader.close()

    assert max(took) < 1.0
    assert reader.numbers() == [30, 31, 32, 33]
    assert "idea 33" in reader.of("experiment")[-1].data["html"]


def test_the_summary_follows_within_a_second(page: Served, ledger: Ledger) -> None:
    reader = Reader(page.url, since=ledger.last_seq())
    reader.wait("summary")
    time.sleep(0.5)

    ledger.append(*told(30))
    began = time.monotonic()
    said = reader.wait("summary", 2)[-1]
    reader.close()

    assert time.monotonic() - began < 1.0
    assert said.data["counts"]["experiments"] == 31
    assert "31 experiments" in said.data["said"]


def test_one_who_comes_is_told_only_what_is_new(page: Served, ledger: Ledger) -> None:
    seq = ledger.last_seq()
    ledger.append(*told(30), *told(31))

    reader = Reader(page.url, since=seq)
    reader.wait("experiment", 2)
    time.sleep(0.5)
    reader.close()

    assert reader.numbers() == [30, 31]
    assert [int(one.id) for one in reader.of("experiment")] == [seq + 4, seq + 8]


def test_the_last_message_had_counts_before_the_address(page: Served, ledger: Ledger) -> None:
    early = ledger.last_seq()
    ledger.append(*told(30))
    late = ledger.last_seq()
    ledger.append(*told(31))

    reader = Reader(page.url, since=early, last=str(late))
    reader.wait("experiment")
    time.sleep(0.4)
    reader.close()

    assert reader.numbers() == [31]


@pytest.mark.parametrize("gap", [0, 3])
def test_no_row_is_lost_or_doubled_when_the_server_is_started_anew(place: Place, ledger: Ledger, gap: int) -> None:
    with served(place.root) as page:
        reader = Reader(page.url, since=ledger.last_seq())
        ledger.append(*told(30))
        reader.wait("experiment")
        boot = reader.wait("summary")[0].data["boot"]
    assert reader.is_over.wait(5)
    for number in range(31, 31 + gap):
        ledger.append(*told(number))

    with served(place.root, port=page.port) as page:
        again = Reader(page.url, since=0, last=reader.last)
        again.wait("summary")
        ledger.append(*told(31 + gap))
        again.wait("experiment", gap + 1)
        time.sleep(0.4)
        again.close()

    assert reader.numbers() + again.numbers() == list(range(30, 32 + gap))
    assert again.of("summary")[0].data["boot"] != boot


def test_rows_told_one_by_one_are_all_told_in_order(page: Served, ledger: Ledger) -> None:
    readers = listening(page, ledger, 5)

    for number in range(30, 150):
        ledger.append(*told(number))
        time.sleep(0.005)
    heard(readers, 120)

    assert all(reader.numbers() == list(range(30, 150)) for reader in readers)


def test_an_experiment_that_goes_on_is_told_again(page: Served, ledger: Ledger) -> None:
    reader = Reader(page.url, since=ledger.last_seq())
    reader.wait("summary")

    proposed, *rest = told(30)
    ledger.append(proposed)
    reader.wait("experiment", 1)
    ledger.append(*rest)
    reader.wait("experiment", 2)
    reader.close()

    assert [one.data["status"] for one in reader.of("experiment")] == ["proposed", "discarded"]


def test_one_who_missed_too_much_is_told_to_load_anew(page: Served, ledger: Ledger) -> None:
    seq = ledger.last_seq()
    ledger.append(*(event for number in range(30, 31 + events.MOST) for event in told(number)))

    reader = Reader(page.url, since=seq)
    reader.wait("reload")
    ledger.append(*told(999))
    reader.wait("experiment")
    reader.close()

    assert reader.numbers() == [999]


def test_a_study_that_was_begun_anew_is_loaded_anew(page: Served, place: Place) -> None:
    with closing(place.read()) as old:
        seq = old.last_seq()
    reader = Reader(page.url, since=seq)
    reader.wait("summary")

    for path in place.home.glob("ledger.sqlite*"):
        path.unlink()
    begun(place).close()
    reader.wait("reload")
    reader.close()


def test_a_page_opened_before_its_study_hears_of_it(tmp_path: Path) -> None:
    with served(tmp_path) as page:
        early = page.get("/s/main/")
        reader = Reader(page.url, since=-1)
        first = reader.wait("summary")[0]

        begun(Place(tmp_path)).close()
        reader.wait("experiment")
        later = reader.wait("summary", 2)[-1]
        reader.close()

    assert (early.status_code, first.data["state"]) == (200, "unbegun")
    assert "not begun yet" in early.text
    assert reader.numbers() == [0]
    assert later.data["state"] == "idle"


def test_a_lab_that_comes_and_goes_is_seen(page: Served, place: Place, ledger: Ledger) -> None:
    reader = Reader(page.url, since=ledger.last_seq())
    states = [reader.wait("summary")[0].data["state"]]

    with held(place):
        states.append(reader.wait("summary", 2)[-1].data["state"])
        ledger.append(Event("began", "1", {"slots": 2, "jail": "bubblewrap"}))
        ledger.ask("pause")
        ledger.wishes("pause")
        deadline = time.monotonic() + 3
        while reader.of("summary")[-1].data["state"] != "paused" and time.monotonic() < deadline:
            time.sleep(0.05)
        states.append(reader.of("summary")[-1].data["state"])
        shown = len(reader.of("summary"))
    states.append(reader.wait("summary", shown + 1)[-1].data["state"])
    reader.close()

    assert states == ["idle", "running", "paused", "idle"]


def test_twenty_pages_cost_one_look(page: Served, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    real = events.rows
    monkeypatch.setattr(events, "rows", lambda path, since: (looks.append(since), real(path, since))[1])
    readers = listening(page, ledger, 20)
    looks.clear()

    for number in range(30, 35):
        ledger.append(*told(number))
        time.sleep(0.25)
    heard(readers, 5)

    assert 3 <= len(looks) <= 15


@pytest.mark.parametrize("since", ["", "x", "1e9", "-1", "٣", "9" * 30, "<script>", "999999999"])
def test_an_odd_place_to_begin_at_is_answered(page: Served, since: str) -> None:
    reader = Reader(page.url, last=since)
    reader.wait("summary")
    reader.close()

    assert reader.status == 200
    assert reader.headers["content-type"].startswith("text/event-stream")
    assert "content-encoding" not in reader.headers


def test_a_page_that_comes_after_a_while_of_nobody_waits_for_news_and_does_not_spin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_IDLE", 0.3)
    watch = events.Watch(tmp_path / "no-ledger", lambda since: events.News(0, (), {"summary": "{}"}))

    async def look(seconds: float) -> None:
        page = watch.follow(None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                async for _ in page:
                    pass
        await page.aclose()

    async def twice() -> float:
        await look(0.3)
        await asyncio.sleep(1.0)
        began = time.thread_time()
        await look(0.6)
        return time.thread_time() - began

    assert asyncio.run(twice()) < 0.3
