"""The sealed set, looked at before a study begins: it is there, it holds something, and nothing of it decides.

Rows are compared whole and exactly. Not covered: a near copy, a row written in another way, lines of plain text under
32 characters (they repeat by chance), arrays of one number a row, and data the judge makes itself under a bare name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from nightlab.errors import BadTask
from nightlab.task import Judge, Task

_LINES = (".jsonl", ".ndjson", ".csv", ".tsv", ".txt")
_ARRAYS = (".npy", ".npz")
_TELLING = 32
_MOST_BYTES = 256 << 20
_SHOWN = 5
_APART = "sealed: no row or file of it is in the validation set"


def examine(task: Task, root: Path) -> str:
    """What can be said of the sealed set, in words. Raises BadTask: missing, empty, or overlapping with validation."""
    judge = task.judge
    if judge is None or task.metric.level == "printed":
        return "not sealed: at level printed there is no data of the lab's own"
    data = _there("data", judge.data, judge, root)
    sealed = _there("sealed", judge.sealed, judge, root) if judge.sealed else None
    if not judge.sealed:
        return "not sealed: the audit has fresh seeds, and no data that were never decided with"
    if data is None or sealed is None:
        names = f"{judge.data!r} and {judge.sealed!r}"
        return f"sealed, by the judge's word: {names} are names and no files here, so that nobody can compare them"
    if data.resolve() == sealed.resolve():
        raise BadTask(f"[judge] data and sealed are both {judge.data!r}; hold back data that no decision is made with")
    if sum(_bytes(data)) + sum(_bytes(sealed)) > _MOST_BYTES:
        return f"sealed; the two sets hold more than {_MOST_BYTES >> 20} MB and were not compared"
    if found := overlap(data, sealed, (judge.data, judge.sealed)):
        shown = "; ".join(found[:_SHOWN]) + ("; ..." if len(found) > _SHOWN else "")
        raise BadTask(
            f"the sealed set {judge.sealed!r} overlaps with validation {judge.data!r} in {len(found)} "
            f"{'place' if len(found) == 1 else 'places'}: {shown}; take them out of one of the two"
        )
    return _APART


def located(name: str, root: Path) -> Path | None:
    """The file or folder that a name of [judge] stands for; None where it is a name that only the judge knows."""
    path = root / Path(name).expanduser()
    return path if name and path.exists() else None


def _there(key: str, name: str, judge: Judge, root: Path) -> Path | None:
    """Where this part is. Raises BadTask where it should be a file and is not, or holds nothing."""
    path = located(name, root)
    ending = Path(name).suffix[1:]
    is_path = "/" in name or (ending and not ending.isdigit()) or name in judge.files
    if path is None and (is_path or located(judge.data, root) or located(judge.sealed, root)):
        mend = "make it" if key == "data" else "make it, or take the line out: the report then says 'not sealed'"
        raise BadTask(f"[judge] {key} names {name!r}, and {root / name} does not exist; {mend}")
    if path is not None and not _holds_something(path):
        raise BadTask(f"[judge] {key} names {name!r}, and {path} is empty: it holds no row; put data into it")
    return path


def overlap(data: Path, sealed: Path, names: tuple[str, str]) -> list[str]:
    """Where the sealed set repeats the validation set, in words: equal rows, and files of equal content."""
    known: dict[bytes, tuple[str, int]] = {}
    for name, path in _files(data, names[0]).items():
        for number, row in _rows(path):
            known.setdefault(row, (name, number))
    found = []
    for name, path in _files(sealed, names[1]).items():
        for number, row in _rows(path):
            twin, where = known.get(row, ("", 0))
            is_header = number == where == 1 and path.suffix in (".csv", ".tsv")
            if twin and not is_header:
                found.append(f"row {number} of {name} is row {where} of {twin}" if number else f"{name} is {twin}")
    return found


def _rows(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each row's number, from 1, and its digest; a file without rows is one row, number 0."""
    if path.suffix in _LINES:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                text = line.strip()
                if text and (path.suffix != ".txt" or len(text) >= _TELLING):
                    yield number, _short(text)
    elif path.suffix in _ARRAYS and (columns := _columns(path)):
        for number, row in enumerate(zip(*columns, strict=True), start=1):
            yield number, _short(b"\0".join(np.ascontiguousarray(part).tobytes() for part in row))
    else:
        yield 0, _digest(path)


def _arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        loaded = np.load(path, allow_pickle=False)
        return dict(loaded) if path.suffix == ".npz" else {"": loaded}
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise BadTask(f"{path} cannot be read as plain arrays: {error}") from error


def _columns(path: Path) -> list[np.ndarray[Any, Any]]:
    """The arrays whose first sides run over the rows; none where a row is but one number."""
    arrays = [array for _, array in sorted(_arrays(path).items())]
    wide = [len(array) for array in arrays if array.ndim > 1]
    return [array for array in arrays if wide and array.ndim and len(array) == wide[0]]


def _holds_something(path: Path) -> bool:
    if path.is_dir():
        return any(_holds_something(file) for file in _files(path).values())
    if path.stat().st_size and path.suffix in _LINES:
        header = path.suffix in (".csv", ".tsv")
        with open(path, "rb") as file:
            return sum(1 for _ in islice((line for line in file if line.strip()), 2)) > header
    if path.stat().st_size and path.suffix in _ARRAYS:
        return any(array.size for array in _arrays(path).values())
    return path.stat().st_size > 0


def _files(folder: Path, name: str = "") -> Mapping[str, Path]:
    """The plain files of a folder by their names below it; of a file, itself."""
    if folder.is_file():
        return {name: folder}
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {f"{name.rstrip('/')}/{path.relative_to(folder)}": path for path in found}


def _bytes(path: Path) -> Iterable[int]:
    return (file.stat().st_size for file in _files(path).values())


def _digest(path: Path) -> bytes:
    found = blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
    return found.digest()


def _short(row: bytes) -> bytes:
    return blake2b(row, digest_size=16).digest()
