"""Exports and imports: your data is yours. Files are written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nightlab.errors import BadTask
from nightlab.ledger import Event, Ledger
from nightlab.readings import row
from nightlab.values import Experiment, Status

COLUMNS = ("commit", "val_bpb", "memory_gb", "status", "description")
_WORDS = {Status.KEPT: "keep", Status.CRASHED: "crash", Status.TIMEOUT: "crash", Status.INVALID: "crash"}
FORMATS = ("tsv", "csv", "jsonl")


def write_whole(path: Path, text: str) -> None:
    """Write a file so that readers see the old one or the new one, also after a power cut."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def text(ledger: Ledger, form: str) -> str:
    """The whole ledger as tsv (Karpathy's five columns), csv or jsonl (one object per experiment)."""
    if form not in FORMATS:
        raise BadTask(f"there is no export format {form!r}; write one of: {', '.join(FORMATS)}")
    experiments = ledger.experiments()
    if form == "jsonl":
        return "".join(json.dumps(row(one)) + "\n" for one in experiments)
    out = io.StringIO(newline="")
    if form == "csv":
        writer = csv.DictWriter(out, list(row(experiments[0])) if experiments else ["id"])
        writer.writeheader()
        writer.writerows(row(one) for one in experiments)
        return out.getvalue()
    return _karpathy(experiments, ledger.peaks(), str((ledger.study() or {}).get("metric", "val_bpb")))


def _karpathy(experiments: list[Experiment], peaks: Mapping[int, float], metric: str) -> str:
    """Tab-separated, no quoting; a failure is written as 0.000000, as that format has it."""
    lines = ["\t".join(("commit", metric, *COLUMNS[2:]))]
    for one in experiments:
        if one.status is Status.REJECTED or one.status.is_open:
            continue
        commit = (one.commit or one.tree)[:7] if one.id else "baseline"
        word, value = _WORDS.get(one.status, "discard"), f"{one.value or 0.0:.6f}"
        words = " ".join(one.hypothesis.split())
        lines.append("\t".join((commit, value, f"{peaks.get(one.id, 0.0) / 1024:.1f}", word, words)))
    return "\n".join(lines) + "\n"


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
