"""The tasks that ship: templates to copy and start from."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from nightlab.errors import BadTask, NotFound
from nightlab.facts import machine

NAMES = ("tinylm", "compress", "speed", "gpt", "prompt", "landing")
BORROWED = {"gpt": {"judge.py": "tinylm", "predict.py": "tinylm"}}
"""Files that a template takes from another: two that ask the same have one judge, and each folder stands alone."""


def folder(name: str) -> Traversable:
    """The folder of a template. Raises NotFound, naming those there are."""
    if name not in NAMES:
        raise NotFound(f"there is no template {name!r}; there are {', '.join(NAMES)}")
    return files(__name__) / name


def write(name: str, where: Path, *, has_gpu: bool | None = None) -> list[str]:
    """Copy a template into a folder and say which files came. Raises BadTask rather than overwrite one.

    A template with a nightlab.gpu.toml begins with that where there is an NVIDIA GPU, and keeps the other beside it.
    """
    contents = dict(_contents(folder(name)))
    contents |= {path: (folder(other) / path).read_bytes() for path, other in BORROWED.get(name, {}).items()}
    on_gpu = bool(machine()["gpus"]) if has_gpu is None else has_gpu
    if on_gpu and (task := contents.pop("nightlab.gpu.toml", None)):
        contents["nightlab.cpu.toml"], contents["nightlab.toml"] = contents["nightlab.toml"], task
    contents = dict(sorted(contents.items()))
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
