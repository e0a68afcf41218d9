"""Reading a board: cheap for who is alone, and never more than a look at the store."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from swarms import TASK, a_swarm, join

from nightlab.place import Place
from nightlab.swarm.board import Board
from nightlab.swarm.reading import Boards, board_of


def test_the_board_that_is_read_is_that_of_the_records(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with closing(a_swarm(tmp_path)) as store:
        join(place, store, "the night")

        assert board_of(place) == Board(store.log, TASK).told("the night")


def test_a_store_that_was_moved_away_and_made_anew_is_opened_anew(tmp_path: Path) -> None:
    place = Place(tmp_path)
    (tmp_path / "anew").mkdir()
    with closing(Boards(rest=0.0, clock=lambda: 0.0)) as boards:
        with closing(a_swarm(tmp_path)) as store:
            join(place, store)
            first = boards(place)
        with closing(a_swarm(tmp_path / "anew", words=["one", "two"])) as store:
            join(place, store)
            second = boards(place)

    assert first is not None
    assert second is not None
    assert first["digest"] != second["digest"]


def test_who_has_joined_nothing_pays_nothing(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from nightlab.place import Place\n"
        "from nightlab.swarm.reading import board_of\n"
        f"assert board_of(Place(Path({str(tmp_path)!r}))) is None\n"
        "print(*({'cryptography', 'rfc8785', 'pydantic'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert (done.returncode, done.stdout.strip()) == (0, "")


def test_a_look_writes_nothing_and_makes_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with closing(a_swarm(tmp_path)) as store:
        join(place, store)
    before = store.path.read_bytes()
    store.path.rename(tmp_path / "away")

    gone = board_of(place)

    assert gone is not None
    assert "cannot be read" in gone["error"]
    assert not store.path.exists()
    assert (tmp_path / "away").read_bytes() == before


def test_a_store_that_breaks_while_one_looks_is_said_in_words(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with closing(Boards(rest=0.0, clock=lambda: 0.0)) as boards, closing(a_swarm(tmp_path)) as store:
        join(place, store)
        boards(place)
        with closing(sqlite3.connect(store.path)) as other:
            other.execute("DROP TABLE records")

        told = boards(place)

    assert told is not None
    assert "cannot be read" in told["error"]
