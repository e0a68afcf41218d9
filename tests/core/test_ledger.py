from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nightlab.errors import BadLedger, StudyStuck
from nightlab.ledger import SCHEMA_VERSION, Event, Ledger, _why
from nightlab.values import Status


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite", clock=lambda: 1000.0)


def proposed(number: int, *, parent: int | None = 0, tree: str = "") -> Event:
    body = {
        "parent": parent,
        "hypothesis": f"idea {number}",
        "proposer": "p",
        "tree": tree or f"tree{number}",
        "diff": "d",
    }
    return Event("proposed", str(number), body, number)


def ran(number: int, value: float | None, run: str = "", purpose: str = "candidate") -> list[Event]:
    run = run or f"{number}-1"
    started = {"run": run, "purpose": purpose, "seed": 1, "asked_by": number, "again": 0}
    ended = {"run": run, "outcome": "finished", "value": value, "seconds": 2.0}
    return [Event("started", run, started, number), Event("ran", run, ended, number)]


def decided(number: int, status: Status, **more: object) -> Event:
    return Event("decided", str(number), {"status": status, "reason": "because", **more}, number)


def fill(ledger: Ledger) -> None:
    ledger.append(Event("study", "0", {"seed": 7, "metric": "loss"}))
    ledger.append(
        proposed(0, parent=None), *ran(0, 1.0, purpose="incumbent"), decided(0, Status.KEPT, value=1.0, pool=[])
    )
    ledger.append(proposed(1), *ran(1, 0.9), decided(1, Status.KEPT, value=0.9, gain=0.1, pool=["1-1"]))
    ledger.append(proposed(2), *ran(2, 1.1), decided(2, Status.DISCARDED, value=1.1, gain=-0.2))
    ledger.append(proposed(3))


def test_state_is_a_reading_of_the_events(ledger: Ledger) -> None:
    fill(ledger)

    incumbent = ledger.incumbent()
    assert incumbent is not None
    assert (incumbent.id, incumbent.value, incumbent.runs) == (1, 0.9, 1)
    assert ledger.counts() == {"kept": 2, "discarded": 1, "proposed": 1}
    assert [one.id for one in ledger.open_experiments()] == [3]
    assert [one.id for one in ledger.lineage(2)] == [0, 2]
    assert ledger.recent_gains(20) == [0.1, 0.0]
    assert ledger.pool(0) == [("0-1", 1, 1.0)]
    assert ledger.pool(1) == [("1-1", 1, 0.9)]
    assert ledger.was_tried("tree2") == 2
    assert ledger.was_tried("another") is None
    assert ledger.next_number() == 4
    assert ledger.exposure() == {"decisions": 2, "seal_opened": 0}


def test_replaying_the_events_gives_the_same_tables(ledger: Ledger) -> None:
    fill(ledger)
    before = ledger.experiments(), ledger.runs(1), ledger.runs(2)

    ledger.rebuild()

    assert (ledger.experiments(), ledger.runs(1), ledger.runs(2)) == before


def test_a_fact_told_twice_is_written_once(ledger: Ledger) -> None:
    fill(ledger)
    fill(ledger)

    assert ledger.experiment(1).runs == 1
    assert ledger.count("ran") == 3


def test_events_are_written_all_or_none(ledger: Ledger) -> None:
    fill(ledger)
    bad = Event("ran", "x", {"run": "x", "value": float("nan")}, 3)

    with pytest.raises(ValueError, match="JSON"):
        ledger.append(decided(3, Status.DISCARDED), bad)

    assert ledger.experiment(3).status is Status.PROPOSED


def test_a_run_of_which_no_end_is_known_is_unfinished(ledger: Ledger) -> None:
    fill(ledger)
    ledger.append(ran(3, None)[0])

    assert [run["run"] for run in ledger.unfinished()] == ["3-1"]


def test_wishes_are_taken_once(ledger: Ledger) -> None:
    ledger.ask("stop", "now")

    assert ledger.wishes() == [("stop", "now")]
    assert ledger.wishes() == []


def test_a_ledger_from_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")

    with pytest.raises(BadLedger, match="newer Nightlab"):
        Ledger(path)


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("a shopping list, long enough to be read as a header of some kind\n" * 20)

    with pytest.raises(BadLedger, match="not a database"):
        Ledger(tmp_path / "ledger.sqlite")


def test_a_full_disk_is_a_pause_with_a_word_and_nothing_acknowledged_is_lost(ledger: Ledger) -> None:
    fill(ledger)
    ledger._db.execute("PRAGMA max_page_count = 12")  # SQLite's own way to run out of room

    with pytest.raises(StudyStuck, match="full"):
        ledger.append(*(proposed(number) for number in range(4, 400)))

    assert ledger.experiment(2).value == 1.1


def test_every_commit_is_flushed_to_the_disk(ledger: Ledger) -> None:
    assert ledger._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_ledger_of_an_older_version_is_read_from_its_events(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "old.sqlite")) as ledger:
        fill(ledger)
        before = ledger.experiments()
        ledger._db.execute("ALTER TABLE experiments DROP COLUMN complexity")
        ledger._db.execute("PRAGMA user_version = 1")

    with closing(Ledger(tmp_path / "old.sqlite")) as ledger:
        assert ledger.experiments() == before
        assert ledger.incumbent() is not None


def test_a_disk_without_any_room_is_told_from_a_broken_ledger(tmp_path: Path) -> None:
    error = sqlite3.OperationalError("disk I/O error")

    assert "is full; free some space" in _why(Path("/proc/ledger.sqlite"), error)  # where no room ever is
    assert "restore a copy" in _why(tmp_path / "ledger.sqlite", error)


def test_a_wish_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        ledger._db.execute("PRAGMA query_only = ON")

        with pytest.raises(StudyStuck, match="make the folder writable"):
            ledger.ask("steer", "left")
