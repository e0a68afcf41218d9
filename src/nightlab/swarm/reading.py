"""Reading a board: what the swarm that a study has joined knows, for those who only look.

Nothing here speaks to a network, and nothing is written: the store is the one that the labs of this machine share.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightlab.errors import NightlabError
from nightlab.place import Place

if TYPE_CHECKING:  # only a study that has joined a swarm pays for what checks signatures
    from nightlab.swarm.store import Store

_LARGEST = 64 * 1024
_REST = 2.0


@dataclass(frozen=True, slots=True)
class Joined:
    """What a study wrote down when it joined: where the records are, whose, and what they have to be about."""

    store: Path
    swarm: str
    name: str
    task: str


@dataclass(slots=True)
class _Seen:
    """A store that is looked at again and again."""

    joined: Joined
    file: tuple[int, int]
    store: Store
    board: dict[str, Any] = field(default_factory=dict)
    rest: float = 0.0


class Boards:
    """The boards of several studies, each reckoned anew only when records have come, and not more often than this."""

    def __init__(self, *, rest: float = _REST, clock: Callable[[], float] = time.monotonic) -> None:
        self._least, self._clock = rest, clock
        self._seen: dict[Path, _Seen] = {}
        self._lock = threading.Lock()

    def __call__(self, place: Place) -> dict[str, Any] | None:
        """The board of the swarm that a study has joined; None where it has joined none.

        {"error": words} where it cannot be read: those who look want words, not an end.
        """
        if not place.swarm.exists():
            return None
        try:
            with self._lock:
                return self._look(place.home, joined(place.swarm))
        except (NightlabError, OSError, sqlite3.Error, ValueError, ArithmeticError) as error:
            self._forget(place.home)
            return {"error": f"the swarm's records cannot be read: {error}"}
        except ImportError as error:
            return {"error": f"the swarm's records cannot be read ({error}); pip install 'nightlab[swarm]'"}

    def close(self) -> None:
        """Let go of all files."""
        for home in list(self._seen):
            self._forget(home)

    def _look(self, home: Path, where: Joined) -> dict[str, Any]:
        from nightlab.swarm.board import Board

        known = where.store.stat()  # raises where it is gone: it is not for those who look to make it anew
        file, seen = (known.st_dev, known.st_ino), self._seen.get(home)
        if seen is None or (seen.joined, seen.file) != (where, file):
            self._forget(home)
            seen = self._seen[home] = _opened(where, file)
        elif self._clock() < seen.rest:
            return seen.board
        began = self._clock()
        if seen.store.refresh() or not seen.board:
            seen.board = Board(seen.store.log, where.task).told(where.name)
        seen.rest = self._clock() + max(self._least, 4 * (self._clock() - began))  # a large board may cost a fifth
        return seen.board

    def _forget(self, home: Path) -> None:
        if (seen := self._seen.pop(home, None)) is not None:
            seen.store.close()


def _opened(where: Joined, file: tuple[int, int]) -> _Seen:
    from nightlab.swarm.store import Store

    return _Seen(where, file, Store(where.store, where.swarm))


def joined(path: Path) -> Joined:
    """What a study wrote down when it joined a swarm. Raises ValueError where that is broken."""
    with path.open("rb") as file:
        words = file.read(_LARGEST)
    try:
        said = json.loads(words)
        parts = [said[name] for name in ("store", "swarm", "name", "task")]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is broken ({error}); nightlab run --swarm NAME writes it anew") from error
    if not all(isinstance(part, str) for part in parts):
        raise ValueError(f"{path} is broken: its parts are words; nightlab run --swarm NAME writes it anew")
    store, *rest = parts
    return Joined(Path(store), *rest)


def board_of(place: Place) -> dict[str, Any] | None:
    """The board of the swarm that a study has joined, read once; as `Boards` has it."""
    with closing(Boards()) as boards:
        return boards(place)
