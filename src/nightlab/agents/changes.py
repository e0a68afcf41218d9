"""Changes: what an agent did to its tree, read from the files themselves; never from what it says it did."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import blake2b
from pathlib import Path, PurePosixPath

from nightlab.workspace import is_plain

LARGEST = 1 << 20
"""Bytes of the largest file that is taken as a text."""
MOST = 20_000
"""Entries of a tree that are looked at."""
_TRACES = ("__pycache__", "*.pyc", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".git", ".DS_Store", "*.orig", "*~")
"""What tools leave on their way; nobody meant it as a change."""

Marks = Mapping[str, tuple[object, ...]]
"""Path -> what tells whether a file is still the same."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs from the tree that was laid: whole new texts, or, where it may not be taken, why in words."""

    files: Mapping[str, str | None]
    trouble: str = ""
    left_out: tuple[str, ...] = ()
    """New files that are not editable: they stay behind."""


def look(folder: Path) -> Marks:
    """Every file of a tree as it is before an agent comes."""
    return {path: _mark(folder, path, found) for path, found in _entries(folder, "", [MOST])}


def changes(
    folder: Path, before: Marks, files: Mapping[str, str], *, is_editable: Callable[[str], bool], leaves: Sequence[str]
) -> Changes:
    """What an agent made of a tree, against the files it was told of.

    Links are not followed, pipes not opened, and `.git` is not looked into. Whatever is no plain text of a fair size in
    an editable place, or was frozen and has changed, spoils the whole.
    """
    left: list[str] = []
    found: dict[str, os.stat_result] = {}
    room = [MOST]
    for path, entry in _entries(folder, "", room):
        if path in before or is_editable(path):
            found[path] = entry
        elif not _is_trace(path, leaves):
            left.append(path)
    left_out = tuple(left[:20])
    if not room[0]:
        return Changes({}, f"it left more than {MOST} files in its tree")
    texts: dict[str, str | None] = {}
    for path in sorted({*before, *found}):
        if path in found and _mark(folder, path, found[path]) == before.get(path):
            continue
        if not is_editable(path):
            deed = "changed" if path in found else "deleted"
            return Changes({}, f"scope: it {deed} {path}, which is not editable", left_out)
        if not is_plain(path):
            return Changes({}, f"{path!r} is no name that a change can have", left_out)
        if path not in found:
            texts[path] = None
            continue
        text, trouble = _text(folder / path, found[path])
        if trouble:
            return Changes({}, f"{path} {trouble}", left_out)
        texts[path] = text
    return Changes({path: text for path, text in texts.items() if text != files.get(path)}, "", left_out)


def _entries(folder: Path, inside: str, room: list[int]) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a folder, links as themselves; at most so many as there is room for."""
    place = folder / inside
    try:
        entries = sorted(os.scandir(place), key=lambda entry: entry.name)
    except PermissionError:  # an agent may have locked its own tree
        place.chmod(stat.S_IRWXU)
        entries = sorted(os.scandir(place), key=lambda entry: entry.name)
    for entry in entries:
        path = f"{inside}/{entry.name}" if inside else entry.name
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in (".git", "__pycache__"):
                yield from _entries(folder, path, room)
        elif room[0] <= 0:
            return
        else:
            room[0] -= 1
            yield path, entry.stat(follow_symlinks=False)


def _mark(folder: Path, path: str, found: os.stat_result) -> tuple[object, ...]:
    """What a file is and holds; of a large one only what the file system says, which costs nothing to ask."""
    if stat.S_ISLNK(found.st_mode):
        return "link", os.readlink(folder / path)
    if stat.S_ISREG(found.st_mode) and found.st_size <= LARGEST:
        return "file", blake2b(_bytes(folder / path)).digest()
    return found.st_mode, found.st_ino, found.st_ctime_ns, found.st_size


def _text(path: Path, found: os.stat_result) -> tuple[str, str]:
    """A file's text, or what keeps it from being one."""
    if stat.S_ISLNK(found.st_mode):
        return "", "became a link; a change is to the file itself"
    if not stat.S_ISREG(found.st_mode):
        return "", "is no plain file any more"
    if found.st_size > LARGEST:
        return "", f"has {found.st_size} bytes; the most is {LARGEST}"
    try:
        text = _bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        return "", "is not a text in UTF-8"
    return ("", "holds a NUL, so it is no text") if "\0" in text else (text, "")


def _bytes(path: Path) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except PermissionError:
        path.chmod(0o644)
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(file, "rb") as stream:
        return stream.read(LARGEST + 1)


def _is_trace(path: str, leaves: Sequence[str]) -> bool:
    parts = PurePosixPath(path).parts
    return any(fnmatchcase(part, glob) for part in parts for glob in (*_TRACES, *leaves))
