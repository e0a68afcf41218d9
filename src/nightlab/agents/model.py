"""A model on a line: asked with the turns of a conversation, it answers with text; a call can be ended at any time.

Written on the standard library: an HTTP connection over a unix socket is a dozen lines of it, and its socket is at
hand, so that whoever waits for a model that thinks for minutes can be let go at once.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, Literal

from nightlab.agents.edits import LONGEST_ANSWER, plain
from nightlab.agents.relay import Wire

ATTEMPTS = 6
FIRST_PAUSE = 1.0
"""Seconds until the second attempt; each pause is twice the one before, or what the endpoint asks for."""
SILENCE = 300.0
"""Seconds without a byte after which a connection counts as broken. Some models think that long before the first."""
MOST_WRITTEN = 16_000
"""Tokens of one answer, where the wire needs a number: every model of its provider can write as many."""

_AT_ONCE = 0.05
_LONGEST_LINE = 4_000_000
_LARGEST_STREAM = 64_000_000
_PASSING = {408, 425, 429, 500, 502, 503, 504, 529}
"""Statuses that another attempt may mend."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One side's part of the conversation."""

    role: Literal["user", "assistant"]
    text: str


class Unanswered(Exception):
    """The model gave no answer that could be used; the text says why."""


class _Broken(Exception):
    """An attempt that failed in a way that another may not. `pause`: the seconds the endpoint asks for."""

    def __init__(self, why: str, pause: float | None = None) -> None:
        super().__init__(why)
        self.pause = pause


@dataclass(slots=True, eq=False)
class Model:
    """One call's way to a model: a few questions, all within so many seconds."""

    line: Path
    """The socket it is reached by."""
    wire: Wire
    name: str
    seconds: float
    pause: float = FIRST_PAUSE
    is_refused: Callable[[], bool] = bool
    """Whether the relay has said no for good, so that asking again is of no use."""
    _ended: threading.Event = field(default_factory=threading.Event)
    _open: socket.socket | None = None
    _began: float = field(default_factory=time.monotonic)

    def end(self) -> None:
        """End the call from another thread; who waits for the answer is told at once."""
        self._ended.set()
        if (line := self._open) is not None:
            with suppress(OSError):  # closed in the same moment
                line.shutdown(socket.SHUT_RDWR)

    def answer(self, turns: Sequence[Turn]) -> str:
        """What the model says next; tried again where trouble may pass. Raises Unanswered."""
        why = ""
        for attempt in range(ATTEMPTS):
            try:
                return self._attempt(turns)
            except _Broken as trouble:
                why = str(trouble)
                pause = self.pause * 2**attempt if trouble.pause is None else trouble.pause
            if self.left <= _AT_ONCE:
                raise Unanswered(f"no whole answer came within {self.seconds:.3g} s")
            if self._ended.is_set():
                raise Unanswered("the call was ended")
            if self.is_refused() or attempt == ATTEMPTS - 1:
                break
            if pause >= self.left:
                raise Unanswered(f"{why}; the next attempt would be {pause:.3g} s away, the call has {self.left:.3g} s")
            self._ended.wait(pause)
        raise Unanswered(why)

    @property
    def left(self) -> float:
        """Seconds until the call's time is over."""
        return self._began + self.seconds - time.monotonic()

    def _attempt(self, turns: Sequence[Turn]) -> str:
        if self.left <= 0 or self._ended.is_set():
            raise Unanswered(f"the call's {self.seconds:.3g} s are over")
        watch = threading.Timer(self.left, self.end)
        watch.daemon = True
        connection = _Connection(self.line, timeout=min(self.left, SILENCE))
        try:
            watch.start()
            connection.connect()
            self._open = connection.sock
            if self._ended.is_set():
                raise _Broken("ended before it began")
            path, body = _request(self.wire, self.name, turns)
            connection.request("POST", path, json.dumps(body), _HEADERS)
            return self._read(connection.getresponse())
        except TimeoutError as error:
            raise _Broken(f"the endpoint said nothing for {min(self.seconds, SILENCE):.3g} s") from error
        except (OSError, HTTPException) as error:
            raise _Broken(f"the connection broke: {plain(f'{type(error).__name__}: {error}')[:200]}") from error
        finally:
            watch.cancel()
            self._open = None
            connection.close()

    def _read(self, response: HTTPResponse) -> str:
        if response.status != 200:
            why = f"the endpoint answered {response.status}: {_message(response.read(64_000))}"
            if response.status in _PASSING:
                raise _Broken(why, _seconds(response.getheader("retry-after")))
            raise Unanswered(why)
        events = _events(response)
        said, is_whole = list[str](), False
        length = 0
        for event in events:
            if "error" in event:
                raise _Broken(f"the endpoint broke off: {_message(json.dumps(event).encode())}")
            text, is_last = (_chat if self.wire == "chat" else _messages)(event)
            said.append(text)
            length += len(text)
            is_whole |= is_last
            if length > LONGEST_ANSWER:
                raise Unanswered(f"its answer is longer than {LONGEST_ANSWER} characters")
        if not is_whole:
            raise _Broken("the answer broke off before its end")
        return "".join(said)


class _Connection(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, *, timeout: float) -> None:
        super().__init__("relay", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


_HEADERS = {"content-type": "application/json", "anthropic-version": "2023-06-01"}


def _request(wire: Wire, model: str, turns: Sequence[Turn]) -> tuple[str, Mapping[str, Any]]:
    """Path and body, the same for the same turns: a call that was paid for is found again by them."""
    said = [{"role": turn.role, "content": turn.text} for turn in turns]
    body: dict[str, Any] = {"model": model, "messages": said, "stream": True}
    if wire == "chat":
        return "/v1/chat/completions", body
    return "/v1/messages", body | {"max_tokens": MOST_WRITTEN}


def _events(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    """The events of a stream, or a whole answer as the one event of a server that does not stream."""
    if "event-stream" not in (response.getheader("content-type") or ""):
        yield _json(response.read(_LONGEST_LINE)) | {"is_whole": True}
        return
    read = 0
    while line := response.readline(_LONGEST_LINE):
        read += len(line)
        if read > _LARGEST_STREAM or not line.endswith(b"\n"):
            raise _Broken("the stream holds more than an answer can be" if line.endswith(b"\n") else "a line broke off")
        if line.startswith(b"data:"):
            said = line[5:].strip()
            yield {"is_done": True} if said == b"[DONE]" else _json(said)


def _json(said: bytes) -> dict[str, Any]:
    try:
        found = json.loads(said)
    except (ValueError, RecursionError) as error:
        raise _Broken(f"the endpoint sent what is no JSON: {plain(said[:80].decode('utf-8', 'replace'))}") from error
    if not isinstance(found, dict):
        raise _Broken("the endpoint sent JSON that is no object")
    return found


def _chat(event: Mapping[str, Any]) -> tuple[str, bool]:
    """Text and whether it is the end, of an event of Chat Completions. What it thought is not what it says."""
    choice = next((one for one in _list(event.get("choices")) if isinstance(one, dict)), {})
    said = choice.get("delta") or choice.get("message") or {}
    text = said.get("content") if isinstance(said, dict) else None
    is_last = bool(event.get("is_done") or event.get("is_whole") or choice.get("finish_reason"))
    return (text if isinstance(text, str) else ""), is_last


def _messages(event: Mapping[str, Any]) -> tuple[str, bool]:
    """The same of an event of Messages."""
    parts = [event.get("delta"), *_list(event.get("content"))]
    texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "".join(texts), event.get("type") == "message_stop" or bool(event.get("is_whole"))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _message(body: bytes) -> str:
    """What an error says, in one short line."""
    try:
        said: Any = json.loads(body)
    except (ValueError, RecursionError):
        said = body.decode("utf-8", "replace")
    for name in ("error", "message"):
        said = said.get(name, said) if isinstance(said, dict) else said
    return plain(str(said))[:300] or "(nothing)"


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds; one that names a date counts as none."""
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None
