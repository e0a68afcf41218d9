"""What is new: one watch per study, however many pages look; each page is sent only what it has not had.

A watch polls the ledger a few times a second while anybody looks. It keeps the last rows that changed; a page that was
away for longer is answered from the ledger itself. Nothing is queued for a page, so a slow one costs nothing: it is
sent the newest there is when it is ready for it, and closed where it takes nothing at all.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from nightlab.dashboard.page import readings
from nightlab.errors import BadLedger

POLL = 0.2
"""Seconds between two looks at a ledger: news is on the page well within a second."""
MOST = 200
"""Rows that a page is sent at once; one that has missed more loads anew."""
_KEPT = 500
_IDLE = 5.0
_LOOK_ANYWAY = 0.5  # a lab that was killed leaves no word of it


@dataclass(frozen=True, slots=True)
class Row:
    """An experiment that changed: the event that changed it last, and how it looks now."""

    seq: int
    experiment: int
    words: str


@dataclass(frozen=True, slots=True)
class News:
    """What a look at the ledger found: rows in the order of their events, and the parts of the page that are whole.

    `missed`: there were more rows than are handed on. `parts`: event name -> JSON.
    """

    seq: int
    rows: tuple[Row, ...]
    parts: Mapping[str, str]
    missed: bool = False


Look = Callable[[int | None], News]
"""Reads what happened after a sequence number (None: only how things stand); in a thread, so it may block."""


class Watch:
    """One study, looked at for all pages at once."""

    def __init__(self, path: Path, look: Look) -> None:
        self._path, self._look = path, look
        self._rows: deque[Row] = deque(maxlen=_KEPT)
        self._floor = self.seq = -1  # rows after the floor are all in the deque
        self.parts: Mapping[str, str] = {}
        self._turn, self._lock = asyncio.Event(), asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._readers, self._is_over = 0, False
        self._mark: tuple[object, ...] = ()
        self._looked = 0.0

    async def follow(self, since: int | None) -> AsyncIterator[dict[str, Any]]:
        """The messages for one page: what it missed since a sequence number, then all that comes."""
        self._readers += 1
        try:
            await self._begin()
            shown: dict[str, str] = {}
            since = self.seq if since is None else since
            while not self._is_over:
                turn, upto = self._turn, self.seq
                rows, is_anew = await self._after(since, upto)
                if is_anew:
                    yield {"event": "reload", "id": str(upto), "data": "{}"}
                for row in rows:
                    yield {"event": "experiment", "id": str(row.seq), "data": row.words}
                since = max(upto, *(row.seq for row in rows)) if rows else upto
                for name, words in self.parts.items():
                    if shown.get(name) != words:
                        shown[name] = words
                        yield {"event": name, "id": str(since), "data": words}
                await turn.wait()
        finally:
            self._readers -= 1

    def end(self) -> None:
        """Let all pages go: the server ends."""
        self._is_over = True
        self._turn.set()
        if self._task:
            self._task.cancel()

    async def _begin(self) -> None:
        """See that somebody looks at the ledger, and that there is something to show."""
        async with self._lock:
            if self._task is None or self._task.done():
                self._is_over, self._turn = False, asyncio.Event()  # the old one is set: nobody would ever wait
                await self._poll(is_first=True)
                self._task = asyncio.create_task(self._keep_polling())

    async def _after(self, since: int, upto: int) -> tuple[list[Row], bool]:
        """The rows between two sequence numbers, and whether a page had better load anew."""
        if since > upto:  # another study under the same name: what the page shows is gone
            return [], True
        if since >= self._floor:
            return [row for row in self._rows if since < row.seq <= upto], False
        news = await run_in_threadpool(self._look, since)
        return ([], True) if news.missed else (list(news.rows), False)

    async def _keep_polling(self) -> None:
        idle = 0.0
        try:
            while idle < _IDLE:
                await asyncio.sleep(POLL)
                idle = 0.0 if self._readers else idle + POLL
                await self._poll()
        finally:  # whatever ended it: no page may wait for what nobody looks for
            self._is_over = True
            self._turn.set()

    async def _poll(self, *, is_first: bool = False) -> None:
        mark, now = _mark(self._path), asyncio.get_running_loop().time()
        if not is_first and mark == self._mark and now - self._looked < _LOOK_ANYWAY:
            return
        try:
            news = await run_in_threadpool(self._look, None if is_first else self.seq)
        except BadLedger:
            return  # it is just being made, or was moved away; a page that is asked for says so
        self._mark, self._looked = mark, now
        if is_first or news.missed or news.seq < self.seq:
            self._rows.clear()
            self._floor = news.seq
        elif len(self._rows) + len(news.rows) > _KEPT:
            self._floor = self._rows[len(news.rows) - 1].seq
        is_new = news.seq != self.seq or news.parts != self.parts
        self._rows.extend(news.rows)
        self.seq, self.parts = news.seq, news.parts
        if is_new:
            self._turn.set()
            self._turn = asyncio.Event()


def _mark(path: Path) -> tuple[object, ...]:
    """What changes when anything is written: a look at two files costs less than asking SQLite."""
    found: list[object] = []
    for one in (path, path.with_name(path.name + "-wal")):
        try:
            known = one.stat()
            found += [known.st_ino, known.st_mtime_ns, known.st_size]
        except FileNotFoundError:
            found.append(None)
    return tuple(found)


def told(**words: Any) -> str:
    """The data of one message."""
    return json.dumps(words)


def rows(path: Path, since: int | None) -> tuple[int, list[tuple[int, dict[str, Any]]], bool]:
    """The latest event, what changed after a sequence number, and whether that was more than is handed on."""
    if not path.exists():
        return -1, [], False
    with readings.reading(path) as db:
        db.execute("BEGIN")  # one moment for both
        seq = readings.last_seq(db)
        found = readings.touched(db, since, most=MOST + 1) if since is not None and since < seq else []
    return seq, found[-MOST:], len(found) > MOST
