"""The swarm on the page: what strangers say is shown as words, and a broken store ends nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from serving import HOSTILE, Served, night, served
from swarms import a_swarm, join, labs

from nightlab.dashboard.board import shown
from nightlab.place import Place
from nightlab.swarm.reading import Boards
from nightlab.swarm.store import Store

LONG = "W" * 200
HIDDEN = re.compile("[\u0000-\u0008\u000e-\u001f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return night(tmp_path_factory.mktemp("night"), 3)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A swarm of which every word was chosen by somebody who means harm."""
    names = (HOSTILE[:60], "\u202egnp.exe", "\x1b[31mred", LONG[:60])
    words = ("fan-in initialisation", HOSTILE[:200], LONG)
    with closing(a_swarm(tmp_path_factory.mktemp("swarm"), words=words, names=names)) as store:
        yield store


@pytest.fixture(scope="module")
def server(place: Place, store: Store) -> Iterator[Served]:
    with closing(Boards(rest=0.0, clock=lambda: 0.0)) as boards, served(place.root, swarm=boards) as server:
        yield server


@pytest.fixture
def joined(place: Place, store: Store) -> Iterator[Place]:
    join(place, store)
    yield place
    place.swarm.unlink()


def test_what_strangers_say_is_words_on_the_page(server: Served, joined: Place) -> None:
    page = server.get("/s/main/swarm")

    assert page.status_code == 200
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
    assert HIDDEN.findall(page.text) == []
    assert LONG[:39] in page.text


def test_the_page_shows_wins_adoptions_milestones_hardware_and_labs(server: Served, joined: Place) -> None:
    text = " ".join(re.sub(r"<[^>]*>", " ", server.get("/s/main/swarm").text).split())

    for words in ("▲ confirmed 2 ×", "✕ disputed", "● adopted it", "fan-in initialisation first by", "NVIDIA H200"):
        assert words in text
    assert "then" in text[text.index("first by") :]
    assert "after 5 min" in text


def test_a_page_that_shows_the_latest_is_sent_nothing(server: Served, joined: Place) -> None:
    page = server.get("/s/main/swarm")
    again = re.search(r'data-poll="([^"]*)"', page.text)

    assert again is not None
    assert server.get(again[1]).status_code == 204


def test_new_records_are_on_the_page_at_the_next_look(
    server: Served, joined: Place, store: Store, tmp_path: Path
) -> None:
    before = server.get("/s/main/swarm.json").json()

    labs(store, tmp_path, ["late"])[0].find(77, "a late idea")

    after = server.get("/s/main/swarm.json").json()
    assert after["records"] == before["records"] + 1
    assert "a late idea" in server.get("/s/main/swarm").text


def test_a_study_without_a_swarm_has_no_way_there_and_says_how_to_join(server: Served) -> None:
    assert "/s/main/swarm" not in server.get("/s/main/").text
    assert "joined no swarm" in server.get("/s/main/swarm").text
    assert server.get("/s/main/swarm.json").status_code == 404


def test_a_study_with_a_swarm_leads_there(server: Served, joined: Place) -> None:
    assert 'href="/s/main/swarm"' in server.get("/s/main/").text


@pytest.mark.parametrize("broken", ["{", "[]", '{"store": 3}', "store gone", "store broken", "[" * 50_000])
def test_a_broken_swarm_is_said_in_words(
    server: Served, joined: Place, store: Store, tmp_path: Path, broken: str
) -> None:
    file = tmp_path / "records.sqlite"
    if broken.startswith("store"):
        file.write_text("no database" * 1000)
        said = joined.swarm.read_text().replace(str(store.path), str(file))
        joined.swarm.write_text(said.replace("sqlite", "gone") if "gone" in broken else said)
    else:
        joined.swarm.write_text(broken)

    page = server.get("/s/main/swarm")

    assert page.status_code == 200
    assert "cannot be read" in page.text
    assert server.get("/s/main/report").status_code == 200
    assert server.get("/s/main/swarm.json").status_code == 503
    assert not (tmp_path / "records.gone").exists()


def test_the_report_tells_of_the_swarm(server: Served, joined: Place) -> None:
    text = server.get("/s/main/report").text

    assert ">The swarm</h2>" in text
    assert "by 5 labs" in text or "by 4 labs" in text
    assert "<script>alert" not in text


def test_a_large_board_is_shown_in_part_and_says_so(store: Store, joined: Place) -> None:
    with closing(Boards()) as boards:
        told = boards(joined)
    assert told is not None
    many = told | {"wins": told["wins"][:1] * 500, "authors": told["authors"] * 100, "claims": told["claims"] * 90}

    found = shown(many)

    assert found["left"] == {"wins": 450, "authors": len(many["authors"]) - 60, "claims": 60, "insights": 0}
    assert (len(found["map"]["wins"]), found["map"]["wins_left"]) == (30, 470)
    assert len(found["map"]["rows"]) <= 40


def test_a_board_is_not_reckoned_anew_while_nothing_happens(joined: Place, store: Store) -> None:
    now = 0.0
    with closing(Boards(rest=2.0, clock=lambda: now)) as boards:
        first, now = boards(joined), 10.0

        assert boards(joined) is first
