"""A model on a line: what servers send that are not quite as the page says, byte by byte over a real socket."""

from __future__ import annotations

import json
import socketserver
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nightlab.agents.model import Model, Turn, Unanswered

TURNS = [Turn("user", "What next?")]
STREAM = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
WHOLE = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"


@contextmanager
def line(*answers: str | bytes) -> Iterator[Path]:
    """A socket that gives these bytes, one answer a connection, the last again and again."""
    left = list(answers)

    class Raw(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            length = 0
            while (header := self.rfile.readline()).strip():
                if header.lower().startswith(b"content-length:"):
                    length = int(header.split(b":")[1])
            self.rfile.read(length)
            said = left.pop(0) if len(left) > 1 else left[0]
            self.wfile.write(said.encode() if isinstance(said, str) else said)

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "line.sock"
        with socketserver.ThreadingUnixStreamServer(str(place), Raw) as server:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            try:
                yield place
            finally:  # a server that is only closed goes on looking for its socket
                server.shutdown()


def answer(*answers: str | bytes, wire: Any = "chat") -> str:
    with line(*answers) as place:
        return Model(place, wire, "m", 5.0, pause=0.001).answer(TURNS)


def data(*events: object) -> str:
    return "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events)


def chat(text: object, end: str | None = None) -> dict[str, object]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": end}]}


def test_a_server_that_does_not_stream_is_understood() -> None:
    assert answer(WHOLE + json.dumps({"choices": [{"message": {"content": "Hello"}}]})) == "Hello"
    assert answer(WHOLE + json.dumps({"content": [{"type": "text", "text": "Hi"}]}), wire="messages") == "Hi"


@pytest.mark.parametrize(
    "odd",
    [
        ": a comment\n\n",
        "event: ping\n",
        data({"choices": []}),
        data({"choices": [None], "usage": None}),
        data({"choices": [{"delta": None}]}),
        data({"choices": [{"delta": {"content": None, "reasoning_content": "hm"}}]}),
        data({"choices": [{"delta": {"content": 5}}]}),
    ],
)
def test_odd_events_say_nothing(odd: str) -> None:
    assert answer(STREAM + data(chat("Hel")) + odd + data(chat("lo"), "[DONE]")) == "Hello"


def test_a_finish_without_a_last_word_is_an_end() -> None:
    assert answer(STREAM + data(chat("Hello"), chat("", "stop"))) == "Hello"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (STREAM + data(chat("Hel")), "the answer broke off before its end"),
        (STREAM + "data: {", "a line broke off"),
        (STREAM + data("{"), "what is no JSON"),
        (STREAM + data("[1]"), "JSON that is no object"),
        (STREAM + data({"error": {"message": "overloaded\x1b"}}), "the endpoint broke off: overloaded"),
        (WHOLE + "[" * 100_000, "what is no JSON"),
        ("HTTP/1.1 500 Oops\r\n\r\n<html>oops</html>", "answered 500: <html>oops</html>"),
        ("SSH-2.0-OpenSSH\r\n", "the connection broke: BadStatusLine"),
        ("", "the connection broke"),
    ],
)
def test_what_is_broken_is_tried_again_and_told_in_words(broken: str, words: str) -> None:
    assert answer(broken, STREAM + data(chat("Hello"), "[DONE]")) == "Hello"
    with pytest.raises(Unanswered, match=words):
        answer(broken)


@pytest.mark.parametrize("said", ["Wed, 21 Oct 2099 07:28:00 GMT", "-5", "soon"])
def test_a_wait_that_is_not_in_seconds_is_not_waited_for(said: str) -> None:
    refused = f"HTTP/1.1 429 Slow\r\nretry-after: {said}\r\n\r\n"

    assert answer(refused, STREAM + data(chat("Hello"), "[DONE]")) == "Hello"


@pytest.mark.parametrize("said", ["inf", "nan", "1e300"])
def test_a_wait_without_end_is_not_begun(said: str) -> None:
    began = time.monotonic()

    with pytest.raises(Unanswered, match="429"):
        answer(f"HTTP/1.1 429 Slow\r\nretry-after: {said}\r\n\r\n")
    assert time.monotonic() - began < 2


def test_a_line_that_is_not_there_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(Unanswered, match="the connection broke: FileNotFoundError"):
        Model(tmp_path / "none.sock", "chat", "m", 5.0, pause=0.001).answer(TURNS)


def test_what_drips_for_ever_is_ended_in_time() -> None:
    class Drip(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(STREAM.encode())
            try:
                while True:
                    self.wfile.write(b"x")
                    time.sleep(0.02)
            except OSError:
                pass

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "line.sock"
        with socketserver.ThreadingUnixStreamServer(str(place), Drip) as server:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            began = time.monotonic()
            with pytest.raises(Unanswered, match=r"no whole answer came within 0\.3 s"):
                Model(place, "chat", "m", 0.3, pause=0.001).answer(TURNS)
            assert time.monotonic() - began < 2
            server.shutdown()
