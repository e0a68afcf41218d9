"""The doctor: what this machine has, what is missing, and the exact line that mends it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from nightlab import sandbox
from nightlab.workspace import free_bytes


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: is it well, what was seen, and what mends it."""

    name: str
    is_well: bool
    seen: str
    mend: str = ""


def examine(folder: Path) -> list[Finding]:
    """Everything worth knowing before a night, each found by trying it."""
    return [_python(), _git(), _jail(), _sqlite(), _cores(), _disk(folder), _plots()]


def _python() -> Finding:
    return Finding("python", sys.version_info >= (3, 11), sys.version.split()[0], "install Python 3.11 or newer")


def _git() -> Finding:
    path = shutil.which("git")
    if path is None:
        return Finding("git", False, "not found", "sudo apt-get install git")
    return Finding(
        "git", True, subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    )


def _jail() -> Finding:
    """Well is only the first rung of the ladder; every one above the rung reached says why it does not work."""
    refusals: list[tuple[str, str]] = []
    for level in sandbox.JAILS:
        trouble = sandbox.why_not(level)
        if trouble is None:
            reached = jail_in_words(level)
            break
        refusals.append((level, trouble))
    else:
        reached = "none, so nothing runs without --unsafe"
    seen = "; ".join([reached, *(f"{level}: {trouble}" for level, trouble in refusals)])
    return Finding("jail", not refusals, seen, sandbox.mend(refusals[0][1]) if refusals else "")


def _sqlite() -> Finding:
    version = sqlite3.sqlite_version_info
    return Finding("sqlite", version >= (3, 35), sqlite3.sqlite_version, "use a Python built with SQLite 3.35 or newer")


def _cores() -> Finding:
    return Finding("cores", True, f"{len(os.sched_getaffinity(0))} usable")


def _disk(folder: Path) -> Finding:
    free = free_bytes(folder) / 2**30
    return Finding("disk", free > 1, f"{free:.1f} GB free under {folder}", "free at least 1 GB")


def _plots() -> Finding:
    is_there = find_spec("matplotlib") is not None
    return Finding("plots", is_there, "matplotlib" if is_there else "not installed", 'pip install "nightlab[plots]"')


def jail_in_words(level: str) -> str:
    """A level of the jail, and what it means."""
    return f"{level} ({_JAILS[level]})"


_JAILS = {
    "bubblewrap": "namespaces of its own: no network, private home, sees only what it needs",
    "landlock": "namespaces of its own without bubblewrap: no network, private home, sees only what it needs",
    "landlock-only": "reads and writes only what it needs, and makes no sockets; sees that other files exist",
    "live": "nothing is executed: what changes is copy, which is data",
    "process": "limits and a clean end only: a run can read your files and use the network",
}
