"""Exports: what leaves the house is whole, exact, and nothing in it runs."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from nightlab import exports
from nightlab.errors import BadTask
from nightlab.ledger import Event, Ledger
from nightlab.place import Place
from nightlab.readings import row

HOSTILE = ("=HYPERLINK(1)", "+1", "-lower the rate", "@home", "'quoted", "\tx", 'say "no",\nand go', "plain = words")


def filled(path: Path, hypotheses: tuple[str, ...] = HOSTILE) -> Ledger:
    """A ledger of a baseline, one experiment for each hypothesis, and one that crashed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ledger, events = Ledger(path), [Event("study", "0", {"metric": "loss", "direction": "lower", "seed": 0})]
    for number, words in enumerate(("baseline", *hypotheses, "a crash")):
        is_crash = words == "a crash"
        body = {"parent": None if number == 0 else 0, "hypothesis": words, "proposer": "tuner", "tree": f"t{number}"}
        run = {"run": f"r{number}", "purpose": "candidate", "seed": 2**40, "asked_by": number, "again": 0}
        ran = {"run": f"r{number}", "outcome": "crashed" if is_crash else "finished", "seconds": 0.5, "reason": ""}
        value = None if is_crash else 0.1 + number / 3
        gain = None if value is None else -value
        told = {"status": "crashed" if is_crash else "discarded", "value": value, "gain": gain, "reason": "-because"}
        key = str(number)
        events += [Event("proposed", key, body, number), Event("started", f"r{number}", run, number)]
        events += [Event("ran", f"r{number}", ran | {"value": value}, number), Event("decided", key, told, number)]
    ledger.append(*events)
    return ledger


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_no_cell_of_a_csv_begins_like_a_formula_unless_it_is_a_number(tmp_path: Path) -> None:
    with closing(filled(tmp_path / "ledger.sqlite")) as ledger:
        rows = read_csv(exports.text(ledger, "csv"))

    for cells in rows:
        for cell in cells.values():
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")) or float(cell) < 0
    assert rows[1]["hypothesis"] == "'=HYPERLINK(1)"
    assert rows[1]["reason"] == "'-because"


def test_every_value_of_a_csv_can_be_had_back_exactly(tmp_path: Path) -> None:
    with closing(filled(tmp_path / "ledger.sqlite")) as ledger:
        rows = read_csv(exports.text(ledger, "csv"))
        known = [row(one) for one in ledger.experiments()]

    assert [cells["hypothesis"].removeprefix("'") for cells in rows] == [cells["hypothesis"] for cells in known]
    assert [cells["value"] and float(cells["value"]) for cells in rows[:-1]] == [cells["value"] for cells in known[:-1]]
    assert rows[-1]["value"] == ""


def test_jsonl_says_null_where_nothing_was_measured(tmp_path: Path) -> None:
    with closing(filled(tmp_path / "ledger.sqlite")) as ledger:
        rows = [json.loads(line) for line in exports.lines(ledger, "jsonl")]

    assert rows[-1]["value"] is None
    assert [cells["hypothesis"] for cells in rows[1:-1]] == list(HOSTILE)


def test_runs_are_exported_one_by_one(tmp_path: Path) -> None:
    with closing(filled(tmp_path / "ledger.sqlite")) as ledger:
        rows = read_csv("".join(exports.lines(ledger, "csv", runs=True)))

    assert [cells["id"] for cells in rows] == [f"r{number}" for number in range(len(HOSTILE) + 2)]
    assert rows[0]["seed"] == str(2**40)


def test_a_long_night_is_exported_without_being_held(tmp_path: Path) -> None:
    with closing(filled(tmp_path / "ledger.sqlite", ("x" * 1000,) * 3_000)) as ledger:
        tracemalloc.start()
        exports.write(ledger, "csv", tmp_path / "all.csv")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert (tmp_path / "all.csv").stat().st_size > 3_000_000
    assert most < 1_000_000


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "all.tsv").write_text("old")

    with closing(filled(tmp_path / "ledger.sqlite")) as ledger, pytest.raises(BadTask, match="jsonl"):
        exports.write(ledger, "xlsx", tmp_path / "all.tsv")

    assert (tmp_path / "all.tsv").read_text() == "old"
    assert not list(tmp_path.glob(".all*"))


def test_parquet_is_not_poured_into_a_terminal(nightlab: Callable[..., CompletedProcess[str]], folder: Path) -> None:
    filled(Place(folder).ledger).close()

    done = nightlab("export", "parquet", check=False)

    assert done.returncode == 2
    assert "nightlab export parquet -o" in done.stderr
    assert done.stdout == ""
