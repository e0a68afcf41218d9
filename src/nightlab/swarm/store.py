"""The store: the log of one swarm on disk, with the patches it names. Labs on one machine share it, without a server.

A record of one's own is durable before anybody hears of it: one forgotten after a power cut would be written again
under the same number, and two records under one number mute their author.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nightlab.errors import BadLedger
from nightlab.swarm.identity import Identity
from nightlab.swarm.log import MOST, Log
from nightlab.swarm.record import BadRecord, Body, Record, blob_hash, read, write
from nightlab.values import Clock

LARGEST_BLOB = 256 * 1024
_MOST_BLOBS = 512 * 1024 * 1024
_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, data BLOB NOT NULL,
    received REAL NOT NULL);
CREATE TABLE IF NOT EXISTS blobs (hash TEXT PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS told (what TEXT PRIMARY KEY);
"""

Refuse = Callable[[Log], str | None]
"""Looks at all that is known, inside the transaction: why a record may not be written now, or None."""


class Store:
    """One swarm's records at a path, for one or several processes; any thread may use it."""

    def __init__(self, path: Path, swarm: str, *, clock: Clock = time.time) -> None:
        """Open it, making it where there is none. Raises BadLedger where the file is something else."""
        self.path, self.swarm, self.log = path, swarm, Log()
        self.received: dict[str, float] = {}
        """When each record came here, by this machine's clock: leases run from then."""
        self.listen: Callable[[list[Record]], None] = lambda _: None
        """Told of whatever becomes known, from wherever it came."""
        self._clock, self._lock, self._last = clock, threading.RLock(), 0
        self._taken: set[str] = set()
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30.0, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")  # what peers said comes back from peers
            self._db.executescript(_SCHEMA)
            self.refresh()
        except (sqlite3.Error, BadRecord) as error:
            raise BadLedger(f"cannot use {path} ({error}); move it away: what it held comes back from peers") from error

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

    def refresh(self) -> list[Record]:
        """Take in what other labs on this machine wrote since the last look."""
        with self._lock:
            rows = self._db.execute(
                "SELECT number, id, data, received FROM records WHERE number > ? ORDER BY number", (self._last,)
            ).fetchall()
            found: list[Record] = []
            for self._last, name, data, received in rows:
                self.received[name] = received
                if name in self._taken:
                    self._taken.discard(name)
                else:
                    found += self.log.add(read(data, swarm=self.swarm, is_checked=True))
            self._insert([one for one in found if one.id not in self.received])  # had waited here for what came
            if found:
                self.listen(found)
            return found

    def write(
        self, body: Body, identity: Identity, refuse: Refuse = lambda _: None, *, once: str | None = None
    ) -> Record | str:
        """Say something: the record, durable; or why `refuse` was against it, looking at what is known right then.

        What is said under a name (`once`) is said once, however often it is tried.
        """
        with self._transaction(is_own=True):
            self.refresh()
            if words := refuse(self.log):
                return words
            if once and not self._db.execute("INSERT OR IGNORE INTO told VALUES (?)", (once,)).rowcount:
                return "this was said before"
            seq, prev = self.log.known(identity.author)
            if seq < 0:
                return "this key is muted: two different records were signed with it; make a new one"
            if seq >= MOST:
                return f"this key has said {MOST} records, and no lab hears more of one; make a new one"
            record = write(body, identity, swarm=self.swarm, seq=seq, prev=prev)
            self._insert([record])
        return record

    def add(self, records: Iterable[Record]) -> list[Record]:
        """Take in checked records of peers; what became known by it."""
        with self._transaction():
            found = self.refresh()
            new = [one for record in records for one in self.log.add(record)]
            self._insert(new)
            self._taken.update(one.id for one in new)
        if new:  # it is durable
            self.listen(new)
        return found + new

    def _insert(self, records: Iterable[Record]) -> None:
        now = self._clock()
        rows = [(one.id, one.data, now) for one in records]
        self._db.executemany("INSERT OR IGNORE INTO records (id, data, received) VALUES (?, ?, ?)", rows)
        self.received.update((name, now) for name, *_ in rows)

    @contextmanager
    def _transaction(self, *, is_own: bool = False) -> Iterator[None]:
        with self._lock:
            self._db.execute(f"PRAGMA synchronous={'FULL' if is_own else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
            self.refresh()

    # Patches

    def keep(self, text: str) -> str:
        """Keep a patch of one's own; its name."""
        name = blob_hash(text)
        with self._lock:
            self._db.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?)", (name, text))
        return name

    def take(self, name: str, text: str) -> bool:
        """Keep a patch from a peer, if it is the one asked for and there is room."""
        if not fits(name, text) or self._is_full():
            return False
        self.keep(text)
        return True

    def _is_full(self) -> bool:
        with self._lock:
            held = self._db.execute("SELECT coalesce(sum(length(text)), 0) FROM blobs").fetchone()[0]
        return int(held) > _MOST_BLOBS

    def blob(self, name: str) -> str | None:
        """A patch by its name; None where it is not here yet."""
        if not name:
            return ""
        with self._lock:
            row = self._db.execute("SELECT text FROM blobs WHERE hash = ?", (name,)).fetchone()
        return None if row is None else str(row[0])


class Memory:
    """One swarm's records without a file: for simulations, and for who only passes on what others say."""

    def __init__(self, swarm: str) -> None:
        self.swarm, self.log = swarm, Log()
        self._blobs: dict[str, str] = {}

    def add(self, records: Iterable[Record]) -> list[Record]:
        """Take in checked records; what became known by it."""
        return [one for record in records for one in self.log.add(record)]

    def take(self, name: str, text: str) -> bool:
        """Keep a patch from a peer, if it is the one asked for."""
        if not fits(name, text):
            return False
        self._blobs[name] = text
        return True

    def blob(self, name: str) -> str | None:
        """A patch by its name; None where it is not here yet."""
        return self._blobs.get(name) if name else ""


def fits(name: str, text: str) -> bool:
    """Whether a text from a peer is the patch of that name, and small enough to be kept."""
    try:
        return len(text.encode()) <= LARGEST_BLOB and blob_hash(text) == name
    except UnicodeEncodeError:  # half a letter, which JSON can say
        return False
