"""A parcel: folders by the hash of what is in them, so that a machine is sent only what it has not seen."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from nightlab.workspace import remove

Entry = tuple[str, int, str]
"""What lies at a path: "file" with its mode and hash, "link" with where it leads, "folder"."""
Listing = dict[str, Entry]
"""Path in a folder -> what lies there; a folder stands before what is in it."""
Objects = Mapping[str, bytes]
"""Hash -> content."""


def digest(content: bytes) -> str:
    """The name of a content."""
    return blake2b(content, digest_size=20).hexdigest()


@dataclass
class Reader:
    """Lists folders, and reads again only files that have changed since.

    Not seen: a change within the clock's tick that leaves size, inode and both times as they were.
    """

    _known: dict[Path, tuple[tuple[int, ...], str]] = field(default_factory=dict)

    def listing(self, folder: Path, *, keep: Callable[[str, bytes], None] | None = None) -> Listing:
        """What lies in a folder; `keep` is told the content of whatever had to be read. Pipes and sockets are left
        out, and no link is followed."""
        found: Listing = {}
        for path, entry in _walk(folder, ""):
            if entry.is_symlink():
                found[path] = "link", 0, os.readlink(entry.path)
            elif entry.is_dir(follow_symlinks=False):
                found[path] = "folder", 0o755, ""
            elif entry.is_file(follow_symlinks=False):
                found[path] = self._file(Path(entry.path), entry.stat(follow_symlinks=False), keep)
        return found

    def _file(self, path: Path, now: os.stat_result, keep: Callable[[str, bytes], None] | None) -> Entry:
        mark = (now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
        before, name = self._known.get(path, ((), ""))
        if before != mark:
            content = read(path)
            name = digest(content)
            self._known[path] = mark, name
            if keep is not None:
                keep(name, content)
        return "file", stat.S_IMODE(now.st_mode) & 0o777, name


def _walk(folder: Path, inside: str) -> Iterable[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder / inside) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = f"{inside}/{entry.name}" if inside else entry.name
            yield path, entry
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder, path)


def read(path: Path) -> bytes:
    """A file's content, and never through a link."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        return file.read()


def lay(folder: Path, listing: Listing, objects: Callable[[str], bytes]) -> None:
    """Make a folder hold just this."""
    remove(folder)
    folder.mkdir(parents=True)
    _write(folder, listing, objects)


def change(folder: Path, before: Listing, after: Listing, objects: Callable[[str], bytes]) -> None:
    """Do to a folder what was done to its twin between two listings; nothing else in it is touched."""
    for path in before.keys() - after.keys():
        remove(folder / path)
    moved = {path: entry for path, entry in after.items() if before.get(path) != entry}
    for path, entry in moved.items():
        if path in before and not (entry[0] == before[path][0] == "folder"):
            remove(folder / path)
    _write(folder, moved, objects)


def _write(folder: Path, listing: Listing, objects: Callable[[str], bytes]) -> None:
    for path, (kind, mode, name) in listing.items():
        place = folder / path
        if ".." in Path(path).parts or place.parent.resolve() != folder.resolve() / Path(path).parent:
            raise ValueError(f"{path} leads out of {folder}")
        if kind == "folder":
            place.mkdir(exist_ok=True)
        elif kind == "link":
            place.symlink_to(name)
        else:
            file = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(file, "wb") as out:
                out.write(objects(name))
                os.fchmod(out.fileno(), mode)


class Store:
    """Contents on a machine's disk, by their hash: sent once, laid out as often as they are needed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def missing(self, names: Iterable[str]) -> list[str]:
        """Which of these are not here."""
        return [name for name in sorted(set(names)) if not (self._folder / name).exists()]

    def add(self, objects: Objects) -> None:
        """Put contents in; one that is not what its name says is refused."""
        for name, content in objects.items():
            if digest(content) != name:
                raise ValueError(f"what was sent as {name} is {digest(content)}")
            temporary = self._folder / f"{name}.{os.getpid()}"
            temporary.write_bytes(content)
            temporary.rename(self._folder / name)

    def content(self, name: str) -> bytes:
        """What has this hash."""
        return (self._folder / name).read_bytes()
