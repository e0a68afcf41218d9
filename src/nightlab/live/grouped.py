"""Group commit: while one batch is on its way to the disk the next one gathers, so that one fsync serves many."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from nightlab.errors import NightlabError

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_MOST = 4_000


class Grouped(Generic[Item, Answer]):
    """A thread that does work in batches; whoever asks waits until the batch with their items is done."""

    def __init__(self, work: Callable[[list[Item]], list[Answer]], *, most: int = _MOST) -> None:
        """`work` gives one answer for each item, in order; what it raises is raised to all who wait for the batch."""
        self._work, self._most = work, most
        self._asked: SimpleQueue[tuple[list[Item], asyncio.Future[list[Answer]]] | None] = SimpleQueue()
        self._waiting = 0
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many items are not done yet."""
        return self._waiting

    async def do(self, items: list[Item]) -> list[Answer]:
        """The answers for some items, when they are done."""
        if not items:
            return []
        future: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        self._waiting += len(items)
        try:
            self._asked.put((items, future))
            return await future
        finally:
            self._waiting -= len(items)

    def end(self) -> None:
        """Finish what was asked for, then end."""
        self._asked.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._asked.get()) is not None:
            batch, size, last = [first], len(first[0]), False
            while size < self._most and not self._asked.empty():
                more = self._asked.get()
                if more is None:
                    last = True
                    break
                batch.append(more)
                size += len(more[0])
            self._answer(batch)
            if last:
                return

    def _answer(self, batch: list[tuple[list[Item], asyncio.Future[list[Answer]]]]) -> None:
        loop = batch[0][1].get_loop()
        try:
            answers = self._work([item for items, _ in batch for item in items])
        except NightlabError as error:
            loop.call_soon_threadsafe(_fail, [future for _, future in batch], error)
            return
        parts, begin = [], 0
        for items, future in batch:
            parts.append((future, answers[begin : begin + len(items)]))
            begin += len(items)
        loop.call_soon_threadsafe(_give, parts)


def _give(parts: list[tuple[asyncio.Future[list[Answer]], list[Answer]]]) -> None:
    for future, answers in parts:
        if not future.done():  # whoever asked may have gone away
            future.set_result(answers)


def _fail(futures: list[asyncio.Future[list[Answer]]], error: NightlabError) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
