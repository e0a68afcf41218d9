"""One line's exchange: takes the agent's requests, lets pass what may, and books what came back."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from nightlab.agents import requests
from nightlab.agents.answers import Events, Reading, said
from nightlab.agents.bounds import Bounds
from nightlab.agents.cassette import Cassette, Recorded, name_of
from nightlab.agents.prices import Price, Tokens, Unpriced
from nightlab.agents.relay import Line
from nightlab.agents.requests import Refused, Request
from nightlab.agents.till import Exhausted, Hold, Purse, Till
from nightlab.agents.upstream import Upstream
from nightlab.values import Cost

LARGEST_REQUEST = 32 << 20
LARGEST_ANSWER = 64 << 20
LONGEST_ERROR = 1 << 16
AT_ONCE = 32
"""Connections of one agent at a time."""
KEPT_OPEN = 3600
"""Seconds that an idle connection stays: an agent that takes it up again just then should not find it gone."""
SILENCE = 60
"""Above every level of logging: what an agent does to its socket is no news of ours, and may hold anything."""
BACK = {"retry-after", "retry-after-ms", "request-id", "x-request-id", "x-should-retry"}
"""What an agent is told of an answer's headers, beside its type."""

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class _Cut(ConnectionError):
    """Breaks the agent's connection: an answer that is left unfinished is one."""


@dataclass(slots=True)
class _Passage:
    """One request on its way: what is held for it, and what has come back."""

    number: int
    held: Hold | None
    reading: Reading
    status: int = 0
    type: str = ""
    body: bytearray = field(default_factory=bytearray)
    is_whole: bool = False
    was_sent: bool = False
    """Whether the provider can have worked on it."""

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def may_have_cost(self) -> bool:
        return self.held is not None and self.was_sent and (self.is_success or self.status == 0)


class Exchange:
    """Everything that happens on one line. Lives in the relay's event loop."""

    def __init__(
        self,
        line: Line,
        upstream: Upstream,
        also: Collection[str] | None,
        price: Callable[[Upstream, str], Price | None],
        cassette: Cassette,
        till: Till,
        purse: Purse,
        bounds: Bounds,
    ) -> None:
        self._line, self._upstream, self._also, self._price = line, upstream, also, price
        self._cassette, self._till, self._purse, self._bounds = cassette, till, purse, bounds
        self._state = ServerState()
        self._outside: httpx.AsyncClient | None = None

    async def open(self, listener: socket.socket, outside: httpx.AsyncClient | None) -> None:
        """Serve, until closed. Without a client for the outside only the cassette answers."""
        self._outside = outside
        config = uvicorn.Config(
            self._answer,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            log_level=SILENCE,
            limit_concurrency=AT_ONCE,
            timeout_keep_alive=KEPT_OPEN,
            server_header=False,
        )
        config.load()
        protocol = partial(H11Protocol, config=config, server_state=self._state, app_state={})
        self._server = await asyncio.get_running_loop().create_unix_server(protocol, sock=listener)

    async def close(self) -> None:
        """Break off what is under way, and settle it."""
        self._server.close()
        tasks = list(self._state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in list(self._state.connections):
            connection.transport.abort()

    async def _answer(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request; an agent that hangs up ends it."""
        try:
            raw = await _whole(receive)
            work = asyncio.ensure_future(self._served(scope, raw, send))
        except Refused as error:
            work = asyncio.ensure_future(self._refuse(send, error.status, str(error)))
        hung_up = asyncio.ensure_future(_hung_up(receive))
        try:
            await asyncio.wait({work, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hung_up.cancel()
            if not work.done():
                work.cancel()
            await asyncio.gather(work, hung_up, return_exceptions=True)
        if not work.cancelled() and (trouble := work.exception()):
            raise trouble

    async def _served(self, scope: Mapping[str, Any], raw: bytes, send: Send) -> None:
        path, query = scope["path"], scope["query_string"].decode("latin-1")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if path == "/" and scope["method"] in ("GET", "HEAD"):
            return await _reply(send, 200, "text/plain", b"nightlab\n")  # some ask whether anybody is there
        try:
            request = requests.read(self._upstream, scope["method"], path, query, headers, raw, self._also)
            name = name_of(self._upstream.wire, request)
            if recorded := self._cassette.play(name):
                return await _reply(send, recorded.status, recorded.type, recorded.body)
            if self._outside is None:
                raise Refused(400, "this request is on no cassette, and this study only replays what was recorded")
            held = await self._held(request) if request.kind == "answer" else None
        except Refused as error:
            return await self._refuse(send, error.status, str(error))
        except Exhausted as error:
            self._line.refusal = str(error)
            return await self._refuse(send, 400, str(error))
        except Unpriced as error:
            self._line.trouble = str(error)
            return await self._refuse(send, 400, str(error))
        return await self._passed(request, name, held, send)

    async def _held(self, request: Request) -> Hold:
        wire, body = self._upstream.wire, request.body or {}
        price = self._price(self._upstream, request.model)
        most = self._bounds.most(wire, request.model, body, request.images)
        return await self._till.hold(self._purse, price, most, requests.limit(wire, body))

    async def _passed(self, request: Request, name: str, held: Hold | None, send: Send) -> None:
        """Send it on, its answer back, and book what it came to, whatever happens on the way."""
        if held and request.body is not None and self._is_capped(request, held):
            request = replace(request, body=requests.limited(self._upstream, request.body, held.output))
        passage = _Passage(0, held, Reading(self._upstream.wire))
        try:
            passage.number = self._cassette.asked(name, urlsplit(request.url).path, held.cost if held else Cost())
            await self._forwarded(request, passage, send)
        finally:
            self._book(request, passage)
        if passage.is_whole and passage.is_success:
            await send({"type": "http.response.body", "body": b""})

    def _is_capped(self, request: Request, held: Hold) -> bool:
        """Whether the length of the answer is to be written into the request: there is a cap, or it was shortened."""
        stated = requests.limit(self._upstream.wire, request.body or {})
        return self._till.caps.are_any if stated is None else held.output < stated

    async def _forwarded(self, request: Request, passage: _Passage, send: Send) -> None:
        assert self._outside is not None
        content = None if request.body is None else json.dumps(request.body).encode("utf-8", "replace")
        passage.was_sent = True
        sent = {"content-type": "application/json", **request.headers} if content else request.headers
        try:
            async with self._outside.stream(request.method, request.url, headers=sent, content=content) as answer:
                passage.status = answer.status_code
                passage.type = answer.headers.get("content-type", "application/json")
                if not passage.is_success:
                    return await self._troubled(answer, send)
                await self._returned(request, answer, passage, send)
                passage.is_whole = True
                self._line.trouble = None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            passage.was_sent = False
            await self._unreached(f"{_host(self._upstream)} cannot be reached: {error or type(error).__name__}", send)
        except (httpx.TransportError, httpx.DecodingError) as error:
            words = f"the answer of {_host(self._upstream)} broke off: {error or type(error).__name__}"
            self._line.trouble = words
            if passage.status:
                raise _Cut(words) from None
            await self._unreached(words, send)

    async def _unreached(self, words: str, send: Send) -> None:
        self._line.trouble = words
        await self._refuse(send, 502, words)

    async def _troubled(self, answer: httpx.Response, send: Send) -> None:
        """An error passes as it is: agents know when to try again. A way elsewhere is not followed."""
        body = await _bounded(answer, LONGEST_ERROR)
        words = body[:300].decode("utf-8", "replace")
        self._line.trouble = self._hidden(
            f"the model's endpoint answered {answer.status_code}: {words}".encode()
        ).decode()
        if answer.status_code < 400:
            return await self._refuse(send, 502, f"the endpoint points elsewhere (status {answer.status_code})")
        form = answer.headers.get("content-type", "application/json")
        return await _reply(send, answer.status_code, form, self._hidden(body), _back(answer))

    async def _returned(self, request: Request, answer: httpx.Response, passage: _Passage, send: Send) -> None:
        """The answer, event by event where it has events; the last empty piece is left to be sent when it is booked."""
        await _start(send, passage.status, passage.type, _back(answer))
        if not passage.type.startswith("text/event-stream"):
            passage.body += self._hidden(await _bounded(answer, LARGEST_ANSWER))
            passage.reading.see(_parsed(bytes(passage.body)))
            return await _more(send, bytes(passage.body))
        events, size = Events(), 0
        async for piece in answer.aiter_bytes():
            size += len(piece)
            if size > LARGEST_ANSWER:
                raise httpx.DecodingError(f"the answer is larger than {LARGEST_ANSWER >> 20} MB")
            for event in events.feed(piece):
                await self._event(request, event, passage, send)
        if rest := events.rest():
            await self._event(request, rest, passage, send)
        return None

    async def _event(self, request: Request, event: bytes, passage: _Passage, send: Send) -> None:
        message = said(event)
        passage.reading.see(message)
        is_ours = isinstance(message, dict) and message.get("choices") == [] and message.get("usage")
        if not (request.adds_usage and is_ours):
            event = self._hidden(event)
            passage.body += event
            await _more(send, event)

    def _book(self, request: Request, passage: _Passage) -> None:
        """Count what it came to: as it was told, else the most it can have been."""
        told = passage.reading.tokens if passage.is_success else None
        cost, is_estimated = Cost(), False
        if passage.held and passage.may_have_cost:
            is_estimated = told is None
            tokens = told or Tokens(passage.held.input, passage.held.output)
            price = passage.held.price
            money = price.money(tokens) if price and told else passage.held.money
            cost = Cost(money=money, tokens=tokens.total)
            if told and request.body is not None:
                self._bounds.learn(self._upstream.wire, request.model, request.body, told.input)
        if passage.held:
            self._till.settle(passage.held, cost)
        self._line.cost += cost
        self._line.is_estimated |= is_estimated
        if passage.number:
            recorded = Recorded(passage.status, passage.type, bytes(passage.body))
            whole = passage.is_whole and passage.is_success
            self._cassette.answered(passage.number, recorded, cost, whole=whole, estimated=is_estimated)

    async def _refuse(self, send: Send, status: int, words: str) -> None:
        body = requests.refusal(self._upstream.wire, status, words)
        await _reply(send, status, "application/json", body, {"x-should-retry": "false"} if status < 500 else {})

    def _hidden(self, text: bytes) -> bytes:
        """An endpoint that repeats the key in what it says does not tell it to the agent."""
        key = self._upstream.key.encode()
        return text.replace(key, b"[key]") if len(key) >= SHORTEST_KEY else text


SHORTEST_KEY = 8
"""A shorter key is a dummy, and may be a word that the answer needs."""


def _host(upstream: Upstream) -> str:
    return urlsplit(upstream.url).netloc.rpartition("@")[2]


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _back(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name in BACK}


async def _whole(receive: Receive) -> bytes:
    whole = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Cut
        whole += message.get("body", b"")
        if len(whole) > LARGEST_REQUEST:
            raise Refused(413, f"the request is larger than {LARGEST_REQUEST >> 20} MB")
        if not message.get("more_body"):
            return bytes(whole)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _bounded(answer: httpx.Response, most: int) -> bytes:
    body = bytearray()
    async for piece in answer.aiter_bytes():
        body += piece
        if len(body) > most:
            raise httpx.DecodingError(f"the answer is larger than {most} bytes")
    return bytes(body)


async def _start(send: Send, status: int, type: str, headers: Mapping[str, str]) -> None:
    lines = [(name.encode(), value.encode("latin-1")) for name, value in {"content-type": type, **headers}.items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})


async def _more(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _reply(send: Send, status: int, type: str, body: bytes, headers: Mapping[str, str] = {}) -> None:
    await _start(send, status, type, {**headers, "content-length": str(len(body))})
    await send({"type": "http.response.body", "body": body})
