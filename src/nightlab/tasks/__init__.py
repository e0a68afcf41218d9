"""The tasks that ship: folders to copy and start from."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

from nightlab.errors import NotFound

NAMES = ("tinylm", "compress", "speed")
"""The templates, the demo's own first."""


def folder(name: str) -> Traversable:
    """The folder of a template. Raises NotFound, naming those there are."""
    if name not in NAMES:
        raise NotFound(f"there is no template {name!r}; there are {', '.join(NAMES)}")
    return files(__name__) / name


def texts(name: str) -> dict[str, str]:
    """Every file of a template: path inside it -> its text."""
    return dict(sorted(_walk(folder(name), "")))


def _walk(place: Traversable, prefix: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for entry in place.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            found += _walk(entry, f"{prefix}{entry.name}/")
        elif entry.is_file():
            found.append((f"{prefix}{entry.name}", entry.read_text(encoding="utf-8")))
    return found
