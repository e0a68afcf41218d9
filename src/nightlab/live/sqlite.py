"""SQLite under the live store: one file, one machine, several processes."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nightlab.errors import BadLedger, StudyStuck

_PATIENCE = 30.0
_PAUSE = 0.001


class Sqlite:
    """A database in a file. WAL with synchronous=FULL: what was committed survives a power cut."""

    blob = "BLOB"
    serial = "INTEGER PRIMARY KEY"

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._lock = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA cache_size = -65536")
        except sqlite3.DatabaseError as error:
            raise BadLedger(f"{path} is no live store of Nightlab ({error})") from error

    @contextmanager
    def writing(self, layer: str) -> Iterator[None]:
        """A transaction that others wait for; durable when the block has ended without an error."""
        with self._lock:
            try:
                self._begin(time.monotonic() + _PATIENCE)
                with self._db:
                    yield
            except sqlite3.OperationalError as error:
                raise StudyStuck(f"{self.name} cannot be written ({error}); what was acknowledged is safe") from error

    def _begin(self, deadline: float) -> None:
        """Wait for a turn to write. SQLite's own waiting sleeps longer and longer, while the others take every turn."""
        self._db.execute("PRAGMA busy_timeout = 0")
        try:
            while not self._has_turn(deadline):
                time.sleep(_PAUSE)
        finally:
            self._db.execute(f"PRAGMA busy_timeout = {int(_PATIENCE * 1000)}")

    def _has_turn(self, deadline: float) -> bool:
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            return False
        return True

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """What a statement finds."""
        with self._lock:
            return self._db.execute(statement, values).fetchall()

    def among(self, statement: str, keys: Sequence[Any], *values: Any) -> list[Any]:
        """What a statement finds whose `AMONG` stands for a column being one of the keys, after the other values."""
        found: list[Any] = []
        for begin in range(0, len(keys), 500):
            part = keys[begin : begin + 500]
            marks = ",".join("?" * len(part))
            found += self.rows(statement.replace("AMONG", f"IN ({marks})"), *values, *part)
        return found

    def do(self, statement: str, *values: Any) -> None:
        """Carry a statement out."""
        with self._lock:
            self._db.execute(statement, values)

    def each(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Carry a statement out for each row."""
        if rows:
            with self._lock:
                self._db.executemany(statement, rows)

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()
