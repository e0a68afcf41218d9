"""The tasks that ship: templates to copy and start from."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from nightlab.errors import BadTask, NotFound

NAMES = ("tinylm", "compress", "speed")


def folder(name: str) -> Traversable:
    """The folder of a template. Raises NotFound, naming those there are."""
    if name not in NAMES:
        raise NotFound(f"there is no template {name!r}; there are {', '.join(NAMES)}")
    return files(__name__) / name


def write(name: str, where: Path) -> list[str]:
    """Copy a template into a folder and say which files came. Raises BadTask rather than overwrite one."""
    contents = dict(sorted(_contents(folder(name))))
    if taken := [path for path in contents if (where / path).exists()]:
        raise BadTask(f"{where} has its own {', '.join(taken)}; start {name} in an empty folder")
    for path, content in contents.items():
        (where / path).parent.mkdir(parents=True, exist_ok=True)
        (where / path).write_bytes(content)
    return list(contents)


def _contents(place: Traversable, inside: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in place.iterdir():
        if entry.is_file():
            yield inside + entry.name, entry.read_bytes()
        elif entry.name != "__pycache__":
            yield from _contents(entry, f"{inside}{entry.name}/")
