"""The server itself: real HTTP on 127.0.0.1, in a thread of its own, for as long as its `with` block lasts."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from threading import Event, Thread
from types import ModuleType, TracebackType
from typing import Any
from urllib.parse import unquote

from nightlab.proposer import walled
from nightlab.testing.modelserver import chat, gemini, messages, responses
from nightlab.testing.modelserver.values import (
    Answer,
    Asked,
    Broken,
    Hang,
    Refusal,
    Reply,
    Said,
    Script,
    Tally,
    Usage,
    Wire,
)

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
WIRES: Mapping[Wire, ModuleType] = {"messages": messages, "chat": chat, "responses": responses, "gemini": gemini}

SILENCE = 60
"""Above every level of logging: connections that are cut on purpose are no news."""


class _Cut(ConnectionError):
    """Breaks the connection: an answer that the server leaves unfinished is one."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request of any kind, and the status it got."""

    method: str
    path: str
    status: int


class ModelServer:
    """A scripted model over real HTTP, in four wire formats; what it was asked and what it counted can be read.

    The script is called for each request that wants an answer, one after another and never twice at a time; time
    passes by `delay`, of the server or of a reply, not inside the script.
    """

    def __init__(self, script: Script, *, delay: float = 0.0, models: tuple[str, ...] = ("scripted",)) -> None:
        self.asked: list[Asked] = []
        """What wanted an answer, in order."""
        self.seen: list[Seen] = []
        """Everything that came, also what was not understood."""
        self.usage = Tally()
        self.url = ""
        self._script = script
        self._delay = delay
        self._models = models
        self._trouble: list[str] = []
        self._numbers = count(1)

    def __enter__(self) -> ModelServer:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else the kernel holds events back for 40 ms
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._loop, self._end, is_up = asyncio.new_event_loop(), asyncio.Event(), Event()
        self._thread = Thread(target=self._serve, args=(listener, is_up), name="modelserver", daemon=True)
        self._thread.start()
        is_up.wait(10)
        return self

    def _serve(self, listener: socket.socket, is_up: Event) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._until_the_end(listener, is_up))

    async def _until_the_end(self, listener: socket.socket, is_up: Event) -> None:
        """Serve by uvicorn's protocol without its `Server`, which takes a tenth of a second to look up and to stop."""
        import uvicorn
        from uvicorn.protocols.http.h11_impl import H11Protocol
        from uvicorn.server import ServerState

        config = uvicorn.Config(
            self._answer, interface="asgi3", lifespan="off", ws="none", log_config=None, log_level=SILENCE
        )
        config.load()
        state = ServerState()
        protocol = partial(H11Protocol, config=config, server_state=state, app_state={})
        async with await self._loop.create_server(protocol, sock=listener) as server:
            is_up.set()
            await self._end.wait()
            server.close()
            for connection in list(state.connections):
                connection.transport.abort()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        if self._trouble and kind is None:
            raise RuntimeError(f"the script itself failed: {self._trouble[0]}")

    async def _answer(self, scope: Mapping[str, Any], receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        method, path = scope["method"], unquote(scope["path"])
        query = scope.get("query_string", b"").decode()
        raw = await _body(receive)
        respond = partial(self._respond, send, Seen(method, path + (f"?{query}" if query else ""), 200))
        if method in ("GET", "HEAD"):
            return await respond(*self._looked_up(path))
        read = _body_and_route(path, raw)
        if isinstance(read, str):
            return await respond(404, {"error": {"message": read, "code": 404}})
        wire, action, body = read
        if action == "count":
            number = _length(body)
            return await respond(200, {"input_tokens": number, "totalTokens": number})
        asked = _asked(wire, path, query, body, scope["headers"])
        self.asked.append(asked)
        number = next(self._numbers)
        answer, trouble = walled(lambda: self._scripted(asked, number))
        if answer is None:
            self._trouble.append(trouble or "it returned None; return a Reply, Refusal, Hang or Broken")
            answer = Refusal(500, f"the script itself failed: {self._trouble[-1]}")
        return await self._play(asked, answer, number, send, respond)

    def _scripted(self, asked: Asked, number: int) -> Answer:
        if callable(self._script):
            return self._script(asked)
        return self._script[min(number, len(self._script)) - 1]

    def _looked_up(self, path: str) -> tuple[int, dict[str, Any]]:
        if not path.rstrip("/"):
            return 200, {"ok": True}
        if path.endswith("/models"):
            listed = [
                {"id": model, "object": "model", "name": f"models/{model}", "display_name": model}
                for model in self._models
            ]
            return 200, {"object": "list", "data": listed, "models": listed, "has_more": False}
        name = path.rpartition("/models/")[2]
        if name in self._models:
            return 200, {"id": name, "object": "model", "name": f"models/{name}", "inputTokenLimit": 1_000_000}
        return 404, {"error": {"message": f"nothing is at {path}", "code": 404}}

    async def _play(self, asked: Asked, answer: Answer, number: int, send: Send, respond: Respond) -> None:
        wire = WIRES[asked.wire]
        match answer:
            case Refusal(status, message, retry_after):
                headers = {} if retry_after is None else {"retry-after": f"{retry_after:g}"}
                return await respond(status, wire.refusal(status, message), headers)
            case Hang(seconds):
                await asyncio.sleep(seconds)
                raise _Cut
            case Broken(reply, after):
                cut: int | None = after
            case _:
                reply, cut = answer, None
        await asyncio.sleep(self._delay + reply.delay)
        said = Said(asked, reply, reply.usage or counted(asked, reply), number)
        self.usage[asked.model] = self.usage.get(asked.model, Usage()) + said.usage
        if asked.is_streamed:
            self.seen.append(Seen("POST", asked.path, 200))
            return await _stream(send, wire.stream(said), cut)
        return await respond(200, wire.whole(said), {}, cut)

    async def _respond(
        self,
        send: Send,
        seen: Seen,
        status: int,
        body: Mapping[str, Any],
        headers: Mapping[str, str] = {},
        cut: int | None = None,
    ) -> None:
        self.seen.append(Seen(seen.method, seen.path, status))
        whole = json.dumps(body).encode()
        sent = {"content-type": "application/json", "content-length": str(len(whole)), **headers}
        await send({"type": "http.response.start", "status": status, "headers": _encoded(sent)})
        await send({"type": "http.response.body", "body": whole[:cut], "more_body": cut is not None})
        if cut is not None:
            raise _Cut


Respond = Callable[..., Awaitable[None]]


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


async def _body(receive: Callable[[], Awaitable[Any]]) -> bytes:
    whole = bytearray()
    while True:
        message = await receive()
        whole += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(whole)


async def _stream(send: Send, events: Iterator[str], cut: int | None) -> None:
    headers = {"content-type": "text/event-stream", "cache-control": "no-cache"}
    await send({"type": "http.response.start", "status": 200, "headers": _encoded(headers)})
    for place, event in enumerate(events):
        if place == cut:
            raise _Cut
        await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _body_and_route(path: str, raw: bytes) -> tuple[Wire, str, dict[str, Any]] | str:
    """Which wire, answer or count, and the body; or why it is nothing of ours."""
    try:
        body = json.loads(raw or b"{}")
    except ValueError:
        return f"the body sent to {path} is no JSON"
    if path.endswith("/messages/count_tokens"):
        return "messages", "count", body
    for tail, wire in ENDS.items():
        if path.endswith(tail):
            return wire, "answer", body
    if "/models/" in path and ":" in path:
        match path.rpartition(":")[2]:
            case "generateContent" | "streamGenerateContent":
                return "gemini", "answer", body
            case "countTokens":
                return "gemini", "count", body
    return f"nothing is at {path}"


ENDS: Mapping[str, Wire] = {"/messages": "messages", "/chat/completions": "chat", "/responses": "responses"}


def _asked(wire: Wire, path: str, query: str, body: dict[str, Any], headers: list[tuple[bytes, bytes]]) -> Asked:
    speaks = WIRES[wire]
    is_gemini = wire == "gemini"
    return Asked(
        wire=wire,
        model=path.rpartition("/models/")[2].rpartition(":")[0] if is_gemini else str(body.get("model", "")),
        system=speaks.system(body),
        turns=speaks.turns(body),
        tools=speaks.tools(body),
        is_streamed=path.endswith(":streamGenerateContent") if is_gemini else bool(body.get("stream")),
        body=body,
        headers={name.decode("latin-1"): value.decode("latin-1") for name, value in headers},
        path=path + (f"?{query}" if query else ""),
    )


def _length(thing: Any) -> int:
    return max(1, len(json.dumps(thing)) // 4)


def counted(asked: Asked, reply: Reply) -> Usage:
    """A count by length, four characters a token: the same for the same script."""
    said = [reply.text, reply.thinking, *(f"{call.name}{json.dumps(call.arguments)}" for call in reply.calls)]
    return Usage(_length(asked.body), max(1, sum(map(len, said)) // 4))
