"""Exports and imports: your data is yours. Files are written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

from nightlab.errors import BadTask, NotFound
from nightlab.ledger import Event, Ledger
from nightlab.readings import row
from nightlab.values import Experiment, Status

COLUMNS = ("commit", "val_bpb", "memory_gb", "status", "description")
_WORDS = {Status.KEPT: "keep", Status.CRASHED: "crash", Status.TIMEOUT: "crash", Status.INVALID: "crash"}
FORMATS = ("tsv", "csv", "jsonl", "parquet")
_EXPERIMENT = {
    "id": int,
    "parent": int,
    "status": str,
    "grade": str,
    "hypothesis": str,
    "value": float,
    "stderr": float,
    "gain": float,
    "z": float,
    "runs": int,
    "seconds": float,
    "proposer": str,
    "reason": str,
    "commit": str,
    "tree": str,
    "complexity": float,
}
_RUN = {
    "id": str,
    "experiment": int,
    "purpose": str,
    "seed": int,
    "asked_by": int,
    "again": int,
    "outcome": str,
    "value": float,
    "reason": str,
    "seconds": float,
    "cpu_seconds": float,
    "peak_mb": float,
}
"""The columns of both tables, in order, and what they hold; None wherever something was not measured."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
"""How a text begins that a spreadsheet would run as a formula, and the mark that keeps it from that."""
_AT_A_TIME = 1_000  # rows of Parquet
_PIECE = 1 << 16  # letters of CSV


def write_whole(path: Path, text: str) -> None:
    """Write a file so that readers see the old one or the new one, also after a power cut."""
    with _appearing(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        file.write(text)


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A file beside the one that is meant, which takes its place when all of it is on the disk; else it goes."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        _settle(beside)
        beside.rename(path)
        _settle(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _settle(path: Path) -> None:
    """See that a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(ledger: Ledger, form: str, path: Path, *, runs: bool = False) -> None:
    """Export into a file, whole or not at all: experiments, or every single run. Raises BadTask, OSError."""
    if form == "parquet":
        with _appearing(path) as beside:
            _write_parquet(_table(ledger, runs=runs), beside, _RUN if runs else _EXPERIMENT)
        return
    pieces = lines(ledger, form, runs=runs)
    with _appearing(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        file.writelines(pieces)


def text(ledger: Ledger, form: str) -> str:
    """The whole ledger as one text, in a format that is one."""
    return "".join(lines(ledger, form))


def lines(ledger: Ledger, form: str, *, runs: bool = False) -> Iterator[str]:
    """An export piece by piece: tsv (Karpathy's five columns), csv or jsonl, experiments or every single run."""
    if form not in FORMATS:
        raise BadTask(f"there is no export format {form!r}; write one of: {', '.join(FORMATS)}")
    if form == "parquet":
        raise BadTask("parquet is not text; name a file for it: nightlab export parquet -o night.parquet")
    if form == "tsv" and runs:
        raise BadTask("tsv has one line for each experiment (Karpathy's columns); for runs: nightlab export csv --runs")
    if form == "tsv":
        return _karpathy(ledger)
    table = _table(ledger, runs=runs)
    if form == "jsonl":
        return (json.dumps(cells) + "\n" for cells in table)
    return _csv(table, list(_RUN if runs else _EXPERIMENT))


def _each(ledger: Ledger) -> Iterator[Experiment]:
    """Every experiment, one at a time: 10,000 patches need not be in memory at once."""
    for number in range(ledger.next_number()):
        with suppress(NotFound):
            yield ledger.experiment(number)


def _table(ledger: Ledger, *, runs: bool) -> Iterator[dict[str, Any]]:
    if runs:
        return chain.from_iterable(ledger.runs(one) for one in range(ledger.next_number()))
    return map(row, _each(ledger))


def _csv(table: Iterator[dict[str, Any]], names: list[str]) -> Iterator[str]:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(names)
    for cells in table:
        writer.writerow([_still(cells[name]) for name in names])
        if out.tell() > _PIECE:
            yield out.getvalue()
            out.seek(0)
            out.truncate()
    yield out.getvalue()


def _still(cell: object) -> object:
    """A text that a spreadsheet will not run as a formula; numbers stay as they are.

    A hypothesis is an agent's, and people open CSV in spreadsheets. The apostrophe is put before an apostrophe too, so
    that taking one off the front gives back the very text.
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _write_parquet(table: Iterator[dict[str, Any]], path: Path, columns: Mapping[str, type]) -> None:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise BadTask('parquet needs pyarrow: pip install "nightlab[parquet]"') from error
    types = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for some in iter(lambda: list(islice(table, _AT_A_TIME)), []):
            writer.write_table(pa.Table.from_pylist(some, schema=schema))


def _karpathy(ledger: Ledger) -> Iterator[str]:
    """Tab-separated, no quoting; a failure is written as 0.000000, as that format has it."""
    peaks, metric = ledger.peaks(), str((ledger.study() or {}).get("metric", "val_bpb"))
    yield "\t".join(("commit", metric, *COLUMNS[2:])) + "\n"
    for one in _each(ledger):
        if one.status is Status.REJECTED or one.status.is_open:
            continue
        commit = (one.commit or one.tree)[:7] if one.id else "baseline"
        word, value = _WORDS.get(one.status, "discard"), f"{one.value or 0.0:.6f}"
        words = " ".join(one.hypothesis.split())
        yield "\t".join((commit, value, f"{peaks.get(one.id, 0.0) / 1024:.1f}", word, words)) + "\n"


def read_karpathy(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a results.tsv. Raises BadTask with the line that is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadTask(f"cannot read {path}: {error}") from error
    header = lines[0].split("\t") if lines else []
    if len(header) != len(COLUMNS) or header[0] != "commit" or header[3:] != list(COLUMNS[3:]):
        raise BadTask(f"{path} line 1: expected the columns {', '.join(COLUMNS)}, separated by tabs; found {header}")
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if not line.strip():
            continue
        if len(cells) != len(COLUMNS) or cells[3] not in ("keep", "discard", "crash") or not _is_number(cells[1]):
            raise BadTask(
                f"{path} line {number}: expected commit, number, number, keep|discard|crash, words; found {line!r}"
            )
        yield {**dict(zip(COLUMNS, cells, strict=True)), "metric": header[1]}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def take_karpathy(ledger: Ledger, rows: Sequence[Mapping[str, str]], *, name: str) -> int:
    """Put the rows of a results.tsv into an empty ledger and return how many. A crash there becomes a crash here."""
    if not rows:
        raise BadTask(f"{name} has no rows")
    if ledger.study() is not None:
        raise BadTask(f"{ledger.path} already holds a study; import into another with --study NAME")
    facts = {"seed": 0, "policy": "greedy", "metric": rows[0]["metric"], "direction": "lower", "level": "printed"}
    events, best = [Event("study", "0", facts | {"imported": name})], (0, 0.0)
    for number, cells in enumerate(rows):
        kept, value = cells["status"] == "keep", _value(cells)
        gain = best[1] - value if number and value is not None else None
        events += _row_events(number, cells, best[0] if number else None, value, gain)
        best = (number, value) if kept and value is not None else best
    ledger.append(*events)
    return len(rows)


def _value(cells: Mapping[str, str]) -> float | None:
    """The number of a row; a crash has none, whatever is written there."""
    return None if cells["status"] == "crash" else float(cells["val_bpb"])


def _row_events(
    number: int, cells: Mapping[str, str], parent: int | None, value: float | None, gain: float | None
) -> list[Event]:
    status = {"keep": Status.KEPT, "discard": Status.DISCARDED, "crash": Status.CRASHED}[cells["status"]]
    key = str(number)
    proposed = {"parent": parent, "hypothesis": cells["description"], "proposer": "imported", "tree": cells["commit"]}
    decided = {"status": status, "value": value, "gain": gain, "grade": None if value is None else "E1"}
    decided |= {"reason": f"imported: {cells['status']}", "peak_mb": 1024 * float(cells["memory_gb"] or 0)}
    return [
        Event("proposed", key, proposed, number),
        Event("decided", key, decided, number),
        *([Event("committed", key, {"commit": cells["commit"]}, number)] if status is Status.KEPT else []),
    ]
