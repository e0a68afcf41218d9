"""PostgreSQL under the live store: several servers share the load."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from nightlab.errors import BadLedger, BadPlugin, StudyStuck

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")


class Postgres:
    """A database on a server. A connection that broke is made anew for the next statement, never within a transaction.

    Statements are written for SQLite, with ? for a value; none holds a literal % or ?.
    """

    blob = "BYTEA"
    serial = "BIGSERIAL PRIMARY KEY"

    def __init__(self, url: str) -> None:
        if find_spec("psycopg") is None:
            raise BadPlugin(
                'a live store on PostgreSQL needs psycopg, not installed here: pip install "nightlab[live]"'
            )
        self.name = url.partition("?")[0].rpartition("@")[2].removeprefix("postgresql://") or "this machine"
        self._url = url
        self._lock = threading.RLock()
        self._within = False
        try:
            self._db = self._connected()
        except StudyStuck as error:
            raise BadLedger(str(error)) from error

    def _connected(self) -> psycopg.Connection[Any]:
        import psycopg

        try:
            db = psycopg.connect(self._url, autocommit=True, connect_timeout=5)
            db.execute("SET synchronous_commit = on")
            db.execute("SET client_min_messages = warning")
            return db
        except psycopg.OperationalError as error:
            raise StudyStuck(f"PostgreSQL at {self.name} cannot be reached ({error}); is it running?") from error

    def _try(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        import psycopg

        with self._lock:
            if self._db.closed and not self._within:
                self._db = self._connected()
            try:
                return work(self._db)
            except psycopg.OperationalError as error:
                if not self._within:
                    self._db.close()
                raise StudyStuck(f"PostgreSQL at {self.name} did not answer ({error})") from error

    @contextmanager
    def writing(self, layer: str) -> Iterator[None]:
        """A transaction that other writers of the layer wait for; durable when the block has ended without an error."""
        import psycopg

        with self._lock:
            if self._db.closed:
                self._db = self._connected()
            self._within = True
            try:
                with self._db.transaction():
                    self._db.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", ("nightlab:" + layer,))
                    yield
            except psycopg.OperationalError as error:
                self._db.close()
                raise StudyStuck(f"PostgreSQL at {self.name} did not answer ({error})") from error
            except StudyStuck:
                self._db.close()
                raise
            finally:
                self._within = False

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """What a statement finds."""
        return self._try(lambda db: db.execute(_dialect(statement), values).fetchall())

    def among(self, statement: str, keys: Sequence[Any], *values: Any) -> list[Any]:
        """What a statement finds whose `AMONG` stands for a column being one of the keys, after the other values."""
        if not keys:
            return []
        return self.rows(statement.replace("AMONG", "= ANY(?)"), *values, list(keys))

    def do(self, statement: str, *values: Any) -> None:
        """Carry a statement out."""
        self._try(lambda db: db.execute(_dialect(statement), values))

    def each(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Carry a statement out for each row, without waiting for the answers one by one."""
        if rows:
            self._try(lambda db: db.cursor().executemany(_dialect(statement), rows))

    def close(self) -> None:
        """Let go of the connection."""
        self._db.close()


def _dialect(statement: str) -> Any:
    return statement.replace("?", "%s")
