"""How an agent asks, in each of the four wires, and through a relay."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from nightlab.agents.prices import Price
from nightlab.agents.relay import Line, Prices, Relay, Upstream
from nightlab.testing.modelserver import ModelServer

KEY = "sk-real-0123456789"
DOLLARS = Prices({"m": Price(3.0, 15.0, 0.3, 3.75)})
WIRES = ["messages", "chat", "responses", "gemini"]
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}, "content": {"type": "string"}}}


def request(wire: str, *, stream: bool = False, tool: str = "write") -> tuple[str, dict[str, Any]]:
    """Path and body of one question with one tool, after a tool has answered."""
    function = {"name": tool, "description": "", "parameters": SCHEMA}
    match wire:
        case "messages":
            used = {"type": "tool_use", "id": "t1", "name": tool, "input": {"path": "a"}}
            brought = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "written"}]}
            turns = [("user", "go"), ("assistant", [used]), ("user", [brought])]
            messages = [{"role": role, "content": content} for role, content in turns]
            offered = [{"name": tool, "input_schema": SCHEMA}]
            rest = {"system": [{"type": "text", "text": "be brief"}], "tools": offered, "max_tokens": 8000}
            return "/v1/messages?beta=true", {"model": "m", "messages": messages, "stream": stream, **rest}
        case "chat":
            called = [{"id": "t1", "type": "function", "function": {"name": tool, "arguments": '{"path": "a"}'}}]
            messages = [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "go"},
                {"role": "assistant", "content": None, "tool_calls": called},
                {"role": "tool", "tool_call_id": "t1", "content": "written"},
            ]
            rest = {"stream_options": {"include_usage": True}} if stream else {}
            offered = [{"type": "function", "function": function}]
            body = {"model": "m", "messages": messages, "tools": offered, "stream": stream, **rest}
            return "/v1/chat/completions", body
        case "responses":
            items = [
                {"role": "user", "content": [{"type": "input_text", "text": "go"}]},
                {"type": "function_call", "call_id": "t1", "name": tool, "arguments": '{"path": "a"}'},
                {"type": "function_call_output", "call_id": "t1", "output": "written"},
            ]
            offered = [{"type": "function", **function}, {"type": "web_search"}]
            rest = {"instructions": "be brief", "tools": offered}
            return "/v1/responses", {"model": "m", "input": items, "stream": stream, **rest}
        case _:
            contents = [
                {"role": "user", "parts": [{"text": "go"}]},
                {"role": "model", "parts": [{"functionCall": {"id": "t1", "name": tool, "args": {"path": "a"}}}]},
                {"role": "user", "parts": [{"functionResponse": {"id": "t1", "name": tool, "response": "written"}}]},
            ]
            verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
            rest = {"systemInstruction": {"parts": [{"text": "be brief"}]}}
            offered = [{"functionDeclarations": [function]}]
            return f"/v1beta/models/m:{verb}", {"contents": contents, "tools": offered, **rest}


def events(text: str) -> list[Mapping[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def upstream(server: ModelServer | str, wire: str, *, key: str = KEY) -> Upstream:
    """The server as a provider's programs are told of it."""
    url = server if isinstance(server, str) else server.url
    return Upstream(wire, url + ("/v1" if wire in ("chat", "responses") else ""), "m", key)  # type: ignore[arg-type]


@contextmanager
def calling(
    relay: Relay, to: Upstream, folder: Path, *, also: tuple[str, ...] | None = None
) -> Iterator[tuple[Line, httpx.Client]]:
    """A line, and an agent's end of it."""
    with relay.line(to, folder, also=also) as line, caller(line) as client:
        yield line, client


def caller(line: Line) -> httpx.Client:
    headers = {"authorization": "Bearer dummy", "x-api-key": "dummy", "x-goog-api-key": "dummy"}
    transport = httpx.HTTPTransport(uds=str(line.socket), verify=False)
    return httpx.Client(transport=transport, base_url="http://relay", headers=headers, timeout=20)


def ask(client: httpx.Client, wire: str, *, stream: bool = False, words: str = "go", **more: Any) -> httpx.Response:
    path, body = request(wire, stream=stream)
    written = json.dumps(body | more).replace('"go"', json.dumps(words))
    return client.post(path, content=written, headers={"content-type": "application/json"})


def find(thing: Any, *names: str) -> list[str]:
    """All strings under these keys, depth first."""
    if isinstance(thing, list):
        return [text for one in thing for text in find(one, *names)]
    if isinstance(thing, dict):
        here = [value for name, value in thing.items() if name in names and isinstance(value, str)]
        return here + [text for value in thing.values() for text in find(value, *names)]
    return []
