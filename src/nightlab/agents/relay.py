"""The relay: the only way out of an agent's jail, to one model; it holds the key, counts, caps and records."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import ssl
import stat
import tempfile
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, TypeVar

from nightlab.agents.bounds import Bounds
from nightlab.agents.cassette import Cassette
from nightlab.agents.prices import Price, Prices, Unpriced
from nightlab.agents.requests import address, key_header
from nightlab.agents.till import Caps, Purse, Till
from nightlab.agents.upstream import Upstream, Wire
from nightlab.errors import BadTask
from nightlab.values import Cost

if TYPE_CHECKING:
    import httpx

    from nightlab.agents.exchange import Exchange

__all__ = ["Caps", "Line", "Prices", "Relay", "Upstream", "Wire"]

T = TypeVar("T")
_UNHEARD = logging.NullHandler()
LONGEST_SOCKET = 100
"""Bytes of a socket's path; Linux takes 108 with the zero at the end, others less."""
PATIENCE = 15.0
"""Seconds for a connection, or an answer to a cheap question."""
LONGEST_SILENCE = 900.0
"""Seconds that a model may think without a byte."""


@dataclass(slots=True)
class Line:
    """One call's connection: an HTTP server on a socket of its own."""

    socket: Path
    cost: Cost = Cost()  # noqa: RUF009 - frozen
    """What its requests came to so far, those replayed from the cassette counted as they were when first made."""
    refusal: str | None = None
    """Why the relay answered no, where it did: a cap is reached. The call is to be recorded as out of budget."""
    trouble: str | None = None
    """What was wrong with the model's endpoint last; None once it answered again."""
    is_estimated: bool = False
    """Whether its cost holds an upper estimate: an answer that broke before it said what it came to."""


def _unheard(_: str) -> None:
    pass


class Relay:
    """Serves lines to one study's models, all under the same caps.

    It does not look at what is said: a model can be told anything the agent can read, and tell the agent anything.
    """

    def __init__(
        self,
        prices: Prices,
        caps: Caps = Caps(),  # noqa: B008 - frozen
        *,
        spent: Cost = Cost(),  # noqa: B008 - frozen
        warn: Callable[[str], None] = _unheard,
        replay_only: bool = False,
    ) -> None:
        self._prices = prices
        self._caps = caps
        self._till = Till(caps, spent, warn)
        self._bounds = Bounds()
        self._replay_only = replay_only
        self._lines: list[Exchange] = []
        self._opened: set[Path] = set()
        self._lock = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None
        self._client: httpx.AsyncClient | None = None

    @property
    def spent(self) -> Cost:
        """What all lines came to, with what was spent before."""
        return self._till.spent

    @contextmanager
    def line(self, upstream: Upstream, folder: Path, *, also: Collection[str] | None = None) -> Iterator[Line]:
        """A line to a model for one call; socket and cassette lie in the call's folder.

        Whatever model the agent asks for, this one answers; with `also`, only where it asked for one of these. An
        upstream whose model is "" leaves the choice to the agent.
        """
        from nightlab.agents.exchange import Exchange

        if words := self.unpriced(upstream):
            raise BadTask(words)
        cassette = Cassette(folder / "cassette.jsonl")
        with _place(folder) as path:
            line = Line(path, cassette.cost)
            purse = self._till.purse()
            self._call(self._booked(folder, purse, cassette.cost))
            exchange = Exchange(line, upstream, also, self._price, cassette, self._till, purse, self._bounds)
            self._call(exchange.open(_listener(path), None if self._replay_only else self._outside()))
            self._lines.append(exchange)
            try:
                yield line
            finally:
                self._end(exchange)

    def recall(self, home: Path) -> None:
        """Count what every earlier call below a folder paid, by its cassette: also what no ledger was ever told of.

        In place of `spent`, for a study that goes on: a lab that was killed may have had calls under way.
        """
        for path in sorted(home.glob("*/cassette.jsonl")):
            self._call(self._booked(path.parent, self._till.purse(), Cassette(path).cost))

    def unpriced(self, upstream: Upstream) -> str | None:
        """Why this model cannot be used under a cap on money, in words, or None where it can."""
        if not upstream.model or self._replay_only:
            return None
        try:
            self._price(upstream, upstream.model)
        except Unpriced as error:
            return str(error)
        return None

    def preflight(self, upstream: Upstream) -> str | None:
        """Why this model cannot be reached, in words, or None where it seems it can; costs nothing."""
        import httpx

        if words := self.unpriced(upstream):
            return words
        if self._replay_only:
            return None
        where = upstream.shown
        headers = key_header(upstream) | ({"anthropic-version": "2023-06-01"} if upstream.wire == "messages" else {})
        try:
            answer = httpx.get(address(upstream, "/models"), headers=headers, timeout=PATIENCE, verify=_certificates())
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            return f"{where} is no address of a model ({error}); write one like https://api.example.org/v1"
        except httpx.ConnectError as error:
            return f"{where} cannot be reached: {_why(error)}; is the server running, and the address right?"
        except httpx.TransportError as error:
            return f"{where} does not answer: {type(error).__name__} {error}"
        match answer.status_code:
            case 401 | 403:
                held = "the key is refused" if upstream.key else "it wants a key, and none is set"
                return f"{where}: {held} (status {answer.status_code}); look at the key's variable"
            case status if status >= 500:
                return f"{where} is in trouble itself: it answers with status {status}; try again later"
            case _:
                return None  # a 404 is fine: many servers list no models

    def close(self) -> None:
        """End everything that is under way."""
        for exchange in list(self._lines):
            self._end(exchange)
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(_let_go(), loop).result(PATIENCE)
        if self._client is not None:
            asyncio.run_coroutine_threadsafe(self._client.aclose(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(PATIENCE)
        loop.close()

    def _end(self, exchange: Exchange) -> None:
        with self._lock:
            if exchange not in self._lines:
                return
            self._lines.remove(exchange)
        self._call(exchange.close())

    async def _booked(self, folder: Path, purse: Purse, cost: Cost) -> None:
        """Count what an earlier lab paid for this call and nobody has counted since: it ended before it could say."""
        if not self._replay_only:
            is_known = folder in self._opened
            self._opened.add(folder)
            self._till.book(purse, cost, again=is_known)

    def _price(self, upstream: Upstream, model: str) -> Price | None:
        """What a model costs there; Unpriced where nobody knows and a cap on money depends on it."""
        price = self._prices.of(model, upstream.url)
        if price is None and self._caps.need_prices:
            raise Unpriced(self._prices.unknown(model))
        return price

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it in the relay's own thread, which starts with the first line."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                # An agent that is killed in the middle of an answer is no news for the user's terminal.
                logging.getLogger("asyncio").addHandler(_UNHEARD)
                self._thread = Thread(target=self._loop.run_forever, name="relay", daemon=True)
                self._thread.start()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)  # locked: the end comes after it, or before
        return future.result()

    def _outside(self) -> httpx.AsyncClient:
        """The one client that speaks to models: no redirects, no more connections than there are lines."""
        import httpx

        with self._lock:
            if self._client is None:
                timeout = httpx.Timeout(LONGEST_SILENCE, connect=PATIENCE, write=120.0, pool=None)
                limits = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=2.0)
                self._client = httpx.AsyncClient(
                    timeout=timeout, limits=limits, verify=_certificates(), follow_redirects=False
                )
            return self._client


async def _let_go() -> None:
    """End whatever the loop still does, so that nobody waits for it for ever."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@cache
def _certificates() -> ssl.SSLContext:
    """Whom to believe; read once, since it takes longer than opening a line."""
    import httpx

    return httpx.create_ssl_context()


def _why(error: httpx.ConnectError) -> str:
    text = str(error)
    if "CERTIFICATE" in text.upper() or "SSL" in text.upper():
        return f"its certificate or its TLS is not accepted ({text})"
    if "refused" in text.lower() or "all connection attempts failed" in text.lower():
        return "connection refused"
    return text


@contextmanager
def _place(folder: Path) -> Iterator[Path]:
    """Where the socket lies: in the folder, or somewhere short and private where its path would be too long."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "relay.sock"
    short = None
    if len(os.fsencode(path)) > LONGEST_SOCKET:
        short = Path(tempfile.mkdtemp(prefix="nightlab-"))
        path = short / "relay.sock"
    if os.path.lexists(path) and stat.S_ISSOCK(path.lstat().st_mode):
        path.unlink()  # a lab that was killed left it
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        if short:
            shutil.rmtree(short, ignore_errors=True)


def _listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(os.fspath(path))
    path.chmod(0o600)
    listener.listen(64)
    listener.setblocking(False)
    return listener
