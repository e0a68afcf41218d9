"""The facts: what really ran, found out by the lab and not told by whoever proposed it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

from nightlab.values import Run
from nightlab.workspace import Checkout, Entry, Tree, blob_id

_MACHINE = "machine.json"
_MOST_SAID = 32
_LARGEST = 16 * 1024 * 1024
_MOST_CURVES = 8
_POINTS = 12
_PAIR = re.compile(r"([A-Za-z_][\w./%-]{0,39})\s*[:=]\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])")
_LINE = re.compile(r"([A-Za-z_][\w ./%-]{0,39}?)\s*:\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")


@lru_cache(maxsize=1)
def machine() -> Mapping[str, Any]:
    """This machine: its processor, the cores we may use, its NVIDIA GPUs (others are not looked for)."""
    cpu = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    names = [found[1].strip() for card in cards if (found := re.search(r"^Model:\s*(.+)$", _text(card), re.MULTILINE))]
    return {"cpu": cpu[1].strip() if cpu else "unknown", "cores": len(os.sched_getaffinity(0)), "gpus": names}


def note_machine(folder: Path, found: Mapping[str, Any]) -> None:
    """Leave word in a run's folder of the machine, or the part of one, that it was given."""
    (folder / _MACHINE).write_text(json.dumps(dict(found)), encoding="utf-8")


def machine_of(folder: Path) -> Mapping[str, Any]:
    """What a run was given: this machine, less where its executor has left word of another or of a part."""
    try:
        return {**machine(), **json.loads((folder / _MACHINE).read_bytes())}
    except (OSError, ValueError, TypeError):  # none, or without a jail the run put something else there
        return machine()


def hardware_class(found: Mapping[str, Any]) -> str:
    """What two runs must share before their times may be compared: the same cards, or as many cores of one kind."""
    cards = " + ".join(sorted(found["gpus"]))
    return cards or f"{found['cpu']}, {found['cores']} cores"


def load() -> float:
    """How busy the machine is with everything: the last minute's load on each core; 1 is fully busy."""
    return round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)


def facts(run: Run, tree: Tree, checkout: Checkout, *, busy: float) -> dict[str, Any]:
    """What really ran: the tree as it began and as it ended ("same" where the run changed none of its files),
    the last numbers its log reports by name, the machine, and its load at the start.

    The numbers are the run's own words. Not seen at exit: files that it added.
    """
    log, given = run.log(), machine_of(run.folder)
    return {
        "tree": tree.id,
        "tree_after": _after(tree, checkout),
        "said": said(log[-16384:]),
        "curves": curves(log[-262144:]),
        "machine": given,
        "hardware": hardware_class(given),
        "load": busy,
    }


def said(log: str) -> dict[str, float]:
    """The last numbers that a log reports in lines `name: number`, by name as printed; at most 32 names."""
    found: dict[str, float] = {}
    for line in reversed(re.split(r"[\r\n]+", log)):
        if (match := _LINE.fullmatch(line.strip())) and isfinite(number := float(match[2])):
            found.setdefault(match[1], number)
        if len(found) == _MOST_SAID:
            break
    return dict(reversed(found.items()))


def curves(log: str) -> dict[str, list[float]]:
    """What a log reports again and again under one name, in order: a dozen values at most, the first and last among
    them; the eight names that it reports most often, none that only counts or never changes."""
    found: dict[str, list[float]] = {}
    for name, number in _PAIR.findall(log):
        if isfinite(value := float(number)):
            found.setdefault(name, []).append(value)
    told = {name: values for name, values in found.items() if len(values) >= 3 and not _is_counter(values)}
    often = sorted(told, key=lambda name: -len(told[name]))[:_MOST_CURVES]
    return {name: _thinned(told[name]) for name in often}


def _is_counter(values: list[float]) -> bool:
    steps = {round(after - before, 9) for before, after in pairwise(values)}
    return len(steps) == 1


def _thinned(values: list[float]) -> list[float]:
    if len(values) <= _POINTS:
        return values
    return [values[round(n * (len(values) - 1) / (_POINTS - 1))] for n in range(_POINTS)]


def _after(tree: Tree, checkout: Checkout) -> str:
    touched = checkout.touched()
    if not touched:
        return "same"
    entries, algorithm = dict(tree.entries), "sha256" if len(tree.id) == 64 else "sha1"
    for path in touched:
        content = _content(checkout.folder / path)
        if content is None:
            del entries[path]
        else:
            entries[path] = Entry(entries[path].mode, blob_id(content, algorithm))
    after = Tree(entries, algorithm).id
    return "same" if after == tree.id else after


def _content(path: Path) -> bytes | None:
    """What a run left in place of a file; None where it is no plain file any more, or too large to hash."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with open(file, "rb") as stream:
        try:
            content = stream.read(_LARGEST + 1)
        except OSError:
            return None
    return content if len(content) <= _LARGEST else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
