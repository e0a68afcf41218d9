"""CSV, out and in: versions for an ad platform, and what it says that came of them.

An ad platform shows each version to whom it likes, so a difference between versions may be one between people. What is
imported is therefore kept apart as notes, `observational` in every reading, and is never part of a count, a test or a
claim.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, TextIO

from nightlab.errors import BadTask
from nightlab.live.store import Store

KIND = "observational"
OUT = ("version", "status", "shown", "converted")
IN = ("version", "exposed", "converted")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write(told: dict[str, Any], store: Store, file: TextIO) -> int:
    """A row per version: how it stands, what was counted here, and its copy, a column per slot."""
    arms = {arm.number: arm for arm in store.arms()}
    slots = sorted({slot for arm in arms.values() for slot in arm.content})
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow([*OUT, *slots])
    for one in told["arms"]:
        content = arms[one["number"]].content
        texts = [_still(content.get(slot, "")) for slot in slots]
        rows.writerow([one["number"], one["status"], one["exposed"], one["converted"], *texts])
    return len(told["arms"])


def _still(text: str) -> str:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def read(path: Path, source: str, store: Store) -> int:
    """Keep what a platform says of each version, labelled. The same file again changes nothing. Raises BadTask."""
    content = path.read_bytes()
    name = blake2b(source.encode() + b"\0" + content, digest_size=12).hexdigest()
    if any(note.body["file"] == name for note in store.notes(KIND)):
        return 0
    known = {arm.number for arm in store.arms()}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if missing := set(IN) - set(rows.fieldnames or ()):
            raise BadTask(f"{path.name} has no column {', '.join(sorted(missing))}; it needs {', '.join(IN)}")
        found = [_row(row, known, f"{path.name} line {rows.line_num}") for row in rows]
    store.note(KIND, {"file": name, "source": source, "rows": found})
    return len(found)


def _row(row: dict[str, str], known: set[int], where: str) -> dict[str, int]:
    try:
        version, exposed, converted = (int(row[key]) for key in IN)
    except (TypeError, ValueError) as error:
        raise BadTask(f"{where}: {', '.join(IN)} are whole numbers") from error
    if version not in known:
        raise BadTask(f"{where}: there is no version {version}")
    if not 0 <= converted <= exposed:
        raise BadTask(f"{where}: {converted} of {exposed} cannot be")
    return {"version": version, "exposed": exposed, "converted": converted}


def observed(store: Store) -> list[dict[str, Any]]:
    """What was imported, by source and version."""
    sums: dict[tuple[str, int], list[int]] = {}
    for note in store.notes(KIND):
        for row in note.body["rows"]:
            so_far = sums.setdefault((note.body["source"], row["version"]), [0, 0])
            so_far[0] += row["exposed"]
            so_far[1] += row["converted"]
    return [
        {"source": source, "version": version, "exposed": exposed, "converted": converted, "evidence": KIND}
        for (source, version), (exposed, converted) in sorted(sums.items())
    ]


def lines(found: Sequence[dict[str, Any]]) -> list[str]:
    """The same for people."""
    return [
        f"observational, no claim: {one['source']}, version {one['version']}: {one['converted']} of {one['exposed']}"
        for one in found
    ]
