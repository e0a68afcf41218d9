"""The relay: one model, the real key, its own paths and the agent's own tools; nothing else leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from asking import KEY, WIRES, ask, caller, calling, events, find, request, upstream

from nightlab.agents.relay import Prices, Relay
from nightlab.testing.modelserver import Broken, Call, Hang, ModelServer, Refusal, Reply, Usage

REPLY = Reply("a" * 90, (Call("write", {"path": "a", "content": "b" * 60}),))


@pytest.fixture
def relay() -> Iterator[Relay]:
    relay = Relay(Prices())
    yield relay
    relay.close()


@pytest.mark.parametrize("wire", WIRES)
def test_every_wire_passes_plain_and_streamed_and_is_counted_to_the_token(
    relay: Relay, wire: str, tmp_path: Path
) -> None:
    with ModelServer([REPLY]) as server, calling(relay, upstream(server, wire), tmp_path) as (line, client):
        plain = ask(client, wire)
        streamed = ask(client, wire, stream=True)

    assert (plain.status_code, streamed.status_code) == (200, 200)
    assert "b" * 60 in "".join(find(plain.json(), "arguments", "content"))
    assert "a" * 90 in "".join(find(events(streamed.text), "text", "content", "delta"))
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert line.cost.tokens == server.usage.total.tokens == relay.spent.tokens
    assert not line.is_estimated
    assert line.trouble is None


@pytest.mark.parametrize("wire", WIRES)
def test_the_models_words_arrive_unchanged(relay: Relay, wire: str, tmp_path: Path) -> None:
    path, body = request(wire, stream=True)
    with ModelServer([REPLY]) as server, calling(relay, upstream(server, wire), tmp_path) as (_, client):
        through = client.post(path, json=body)
        direct = httpx.post(server.url + path, json=body)

    heard = [
        [{**event, "id": 0, "responseId": 0, "usage": 0} for event in events(one.text)] for one in (through, direct)
    ]
    assert len(heard[0]) == len(heard[1])
    assert find(heard[0], "text", "delta", "partial_json") == find(heard[1], "text", "delta", "partial_json")


@pytest.mark.parametrize("wire", WIRES)
def test_the_real_key_is_put_in_and_never_comes_out(
    relay: Relay, wire: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, "uvicorn")
    with (
        ModelServer([REPLY, Refusal(401, f"the key {KEY} is bad"), Reply(f"your key is {KEY}")]) as server,
        calling(relay, upstream(server, wire), tmp_path) as (line, client),
    ):
        answers = [ask(client, wire) for _ in range(3)]

    assert KEY in json.dumps(dict(server.asked[0].headers))
    assert "dummy" not in json.dumps([dict(asked.headers) for asked in server.asked])
    assert [answer.status_code for answer in answers] == [200, 401, 200]
    heard = "".join(answer.text + str(answer.headers) for answer in answers) + caplog.text + "".join(capfd.readouterr())
    assert KEY not in heard + (tmp_path / "cassette.jsonl").read_text() + repr(line) + repr(upstream(server, wire))


def test_a_key_in_the_address_is_dropped(relay: Relay, tmp_path: Path) -> None:
    with ModelServer([REPLY]) as server, calling(relay, upstream(server, "gemini"), tmp_path) as (_, client):
        path, body = request("gemini", stream=True)

        answer = client.post(path + "&key=dummy", json=body)

    assert answer.status_code == 200
    assert server.asked[0].path.endswith("?alt=sse")


@pytest.mark.parametrize("wire", WIRES)
def test_other_paths_never_leave(relay: Relay, wire: str, tmp_path: Path) -> None:
    with ModelServer([REPLY]) as server, calling(relay, upstream(server, wire), tmp_path) as (_, client):
        answers = [client.request(method, httpx.URL("http://relay", raw_path=path)) for method, path in ELSEWHERE]

    assert {answer.status_code for answer in answers} == {403}
    assert all("no part of this model's interface" in answer.json()["error"]["message"] for answer in answers)
    assert not server.seen


ELSEWHERE = [
    ("POST", b"/v1/files"),
    ("POST", b"/v1/messages/batches"),
    ("GET", b"/v1/organizations"),
    ("DELETE", b"/v1/models"),
    ("POST", b"/v1/messages/../files"),
    ("POST", b"/v1/%2e%2e/v1/messages"),
    ("POST", b"//example.org/v1/messages"),
    ("GET", b"/v1/responses/resp_1"),
    ("POST", b"/v1beta/models/m:batchGenerateContent"),
]


@pytest.mark.parametrize("wire", WIRES)
def test_another_wires_requests_never_leave(relay: Relay, wire: str, tmp_path: Path) -> None:
    with ModelServer([REPLY]) as server, calling(relay, upstream(server, wire), tmp_path) as (_, client):
        answers = [ask(client, other) for other in WIRES if other != wire]

    assert {answer.status_code for answer in answers} == {403}
    assert not server.seen


def test_models_and_counts_pass_and_cost_nothing(relay: Relay, tmp_path: Path) -> None:
    with ModelServer([REPLY], models=("m",)) as server:
        with calling(relay, upstream(server, "messages"), tmp_path / "a") as (line, client):
            body = {"model": "m", "messages": [{"role": "user", "content": "go"}]}
            counted = client.post("/v1/messages/count_tokens?beta=true", json=body)
            listed = client.get("/v1/models")
        with calling(relay, upstream(server, "gemini"), tmp_path / "b") as (_, client):
            asked = client.post("/v1beta/models/m:countTokens", json={"contents": []})

    assert counted.json()["input_tokens"] > 0
    assert listed.json()["data"][0]["id"] == "m"
    assert asked.json()["totalTokens"] > 0
    assert line.cost.tokens == 0


def asking_for(model: str, wire: str) -> tuple[str, dict[str, Any]]:
    path, body = request(wire)
    return path.replace("/m:", f"/{model}:"), body | ({} if wire == "gemini" else {"model": model})


@pytest.mark.parametrize("wire", WIRES)
def test_one_model_answers_whoever_is_asked_or_only_where_named(relay: Relay, wire: str, tmp_path: Path) -> None:
    path, body = asking_for("small", wire)
    with ModelServer([REPLY]) as server:
        with calling(relay, upstream(server, wire), tmp_path / "a", also=("tiny",)) as (_, client):
            refused = client.post(path, json=body)
        with calling(relay, upstream(server, wire), tmp_path / "b", also=("small",)) as (_, client):
            named = client.post(path, json=body)
        with calling(relay, upstream(server, wire), tmp_path / "c") as (_, client):
            answered = client.post(path, json=body)

    assert [answer.status_code for answer in (refused, named, answered)] == [400, 200, 200]
    assert "only m answers here, not 'small'" in refused.json()["error"]["message"]
    assert [asked.model for asked in server.asked] == ["m", "m"]


@pytest.mark.parametrize("wire", WIRES)
def test_where_no_model_is_named_the_agent_chooses(relay: Relay, wire: str, tmp_path: Path) -> None:
    with ModelServer([REPLY]) as server:
        anyone = replace(upstream(server, wire), model="")
        with calling(relay, anyone, tmp_path) as (_, client):
            answers = [client.post(*asking_for(model, wire)[:1], json=asking_for(model, wire)[1]) for model in NAMES]

    assert [asked.model for asked in server.asked] == NAMES[:2]
    assert [answer.status_code for answer in answers[:2]] == [200, 200]
    assert {answer.status_code for answer in answers[2:]} <= {400, 403}


NAMES = ["small", "maker/large:free", "maker/large:online", "a b", "a?key=b"]


FUNCTION = {"name": "write", "parameters": {"type": "object", "properties": {}}}
TOOLS: dict[str, tuple[list[Any], list[Any]]] = {
    "messages": (
        [
            {"name": "write", "input_schema": {}},
            {"type": "bash_20250124", "name": "bash"},
            {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
        ],
        [
            {"type": "web_search_20250305", "name": "web_search"},
            {"type": "web_fetch_20250910", "name": "web_fetch"},
            {"type": "code_execution_20250825", "name": "code_execution"},
            {"type": "computer_20250124", "name": "computer"},
            {"type": "mcp_toolset", "mcp_server_name": "x"},
        ],
    ),
    "chat": (
        [{"type": "function", "function": FUNCTION}],
        [{"type": "web_search_preview"}, {"type": "openrouter:web"}],
    ),
    "responses": (
        [
            {"type": "function", **FUNCTION},
            {"type": "custom", "name": "apply_patch"},
            {"type": "local_shell"},
            {"type": "namespace", "name": "n", "tools": [{"type": "function", **FUNCTION}]},
        ],
        [
            {"type": "web_search"},
            {"type": "file_search", "vector_store_ids": ["v"]},
            {"type": "code_interpreter", "container": {"type": "auto"}},
            {"type": "computer_use_preview"},
            {"type": "image_generation"},
            {"type": "mcp", "server_url": "https://example.org"},
            {"type": "shell", "environment": {"type": "container_auto"}},
        ],
    ),
    "gemini": (
        [{"functionDeclarations": [FUNCTION]}],
        [{"googleSearch": {}}, {"urlContext": {}}, {"codeExecution": {}}, {"fileSearch": {}}, {"googleMaps": {}}],
    ),
}


@pytest.mark.parametrize("wire", WIRES)
def test_what_the_provider_would_run_is_stripped_and_what_the_agent_runs_stays(
    relay: Relay, wire: str, tmp_path: Path
) -> None:
    ours, theirs = TOOLS[wire]
    extra = {
        "mcp_servers": [{"url": "https://example.org"}],
        "container": "c",
        "web_search_options": {},
        "plugins": [{"id": "web"}],
        "service_tier": "priority",
        "speed": "fast",
        "n": 5,
        "background": True,
    }
    with ModelServer([REPLY]) as server, calling(relay, upstream(server, wire), tmp_path) as (_, client):
        ask(client, wire, tools=[*theirs, *ours], **extra)
        ask(client, wire, tools=theirs, tool_choice={"type": "auto"})

    both, none = (asked.body for asked in server.asked)
    assert both["tools"] == ours
    assert not both.keys() & extra.keys()
    assert not none.keys() & {"tools", "tool_choice"}
    if wire == "responses":
        assert both["store"] is False


def test_what_would_be_paid_for_unseen_is_left_out(relay: Relay, tmp_path: Path) -> None:
    kept, hour = {"type": "clear_thinking_20251015", "keep": "all"}, {"type": "ephemeral", "ttl": "1h"}
    managed = {"edits": [{"type": "compact_20260112"}, kept]}
    system = [{"type": "text", "text": "be brief", "cache_control": hour}]
    with ModelServer([REPLY]) as server, calling(relay, upstream(server, "messages"), tmp_path) as (_, client):
        ask(client, "messages", context_management=managed, system=system)

    body = server.asked[0].body
    assert body["context_management"] == {"edits": [kept]}
    assert body["system"][0]["cache_control"] == {"type": "ephemeral"}


def test_thoughts_that_the_provider_keeps_are_left_out(relay: Relay, tmp_path: Path) -> None:
    told = [
        {"type": "reasoning", "id": "rs_1", "encrypted_content": "abc", "summary": []},
        {"role": "user", "content": "go"},
    ]
    kept = [{"type": "reasoning", "id": "rs_2", "summary": []}, {"type": "item_reference", "id": "msg_1"}]
    with ModelServer([REPLY]) as server, calling(relay, upstream(server, "responses"), tmp_path) as (_, client):
        ask(
            client,
            "responses",
            input=[*kept, *told],
            include=["reasoning.encrypted_content", "web_search_call.results"],
        )

    assert server.asked[0].body["input"] == told
    assert server.asked[0].body["include"] == ["reasoning.encrypted_content"]


def test_tools_that_come_in_the_conversation_are_held_to_the_same(relay: Relay, tmp_path: Path) -> None:
    ours, theirs = TOOLS["responses"]
    item = {"type": "additional_tools", "tools": [*theirs, *ours]}
    with ModelServer([REPLY]) as server, calling(relay, upstream(server, "responses"), tmp_path) as (_, client):
        ask(client, "responses", input=[item, {"role": "user", "content": "go"}])

    assert server.asked[0].body["input"][0] == {**item, "tools": ours}


@pytest.mark.parametrize(
    ("wire", "more"),
    [
        ("responses", {"previous_response_id": "resp_1"}),
        ("responses", {"conversation": "conv_1"}),
        ("gemini", {"cachedContent": "cachedContents/1"}),
    ],
)
def test_a_conversation_that_the_provider_keeps_is_refused(
    relay: Relay, wire: str, more: dict[str, str], tmp_path: Path
) -> None:
    with ModelServer([REPLY]) as server, calling(relay, upstream(server, wire), tmp_path) as (_, client):
        answer = ask(client, wire, **more)

    assert answer.status_code == 400
    assert "send the whole conversation" in answer.json()["error"]["message"]
    assert not server.asked


LINK = "https://example.org/secret.png"


@pytest.mark.parametrize(
    ("wire", "turns"),
    [
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": LINK}}]}]},
        ),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "url"}}]}]}),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": LINK}}]}]}),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": LINK}]}]}),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": LINK}]}]}),
        ("gemini", {"contents": [{"role": "user", "parts": [{"fileData": {"fileUri": LINK}}]}]}),
    ],
)
def test_what_the_provider_would_fetch_is_refused(relay: Relay, wire: str, turns: Any, tmp_path: Path) -> None:
    with ModelServer([REPLY]) as server, calling(relay, upstream(server, wire), tmp_path) as (_, client):
        answer = ask(client, wire, **turns)

    assert answer.status_code == 400
    assert "no addresses" in answer.json()["error"]["message"]
    assert not server.asked


def test_a_tool_call_may_speak_of_addresses(relay: Relay, tmp_path: Path) -> None:
    used = {"type": "tool_use", "id": "t", "name": "w", "input": {"image_url": LINK, "cache_control": {"ttl": "1h"}}}
    messages = [{"role": "user", "content": "go"}, {"role": "assistant", "content": [used]}]
    with ModelServer([REPLY]) as server, calling(relay, upstream(server, "messages"), tmp_path) as (_, client):
        answer = ask(client, "messages", messages=messages)

    assert answer.status_code == 200
    assert server.asked[0].body["messages"] == messages


@pytest.mark.parametrize("wire", WIRES)
def test_errors_pass_as_they_are_and_cost_nothing(relay: Relay, wire: str, tmp_path: Path) -> None:
    statuses = [429, 500, 529]
    storm = [Refusal(status, "not now", retry_after=2) for status in statuses]
    with ModelServer(storm) as server, calling(relay, upstream(server, wire), tmp_path) as (line, client):
        answers = [ask(client, wire) for _ in storm]

    assert [answer.status_code for answer in answers] == statuses
    assert {answer.headers["retry-after"] for answer in answers} == {"2"}
    assert {answer.json()["error"]["message"] for answer in answers} == {"not now"}
    assert line.cost.tokens == 0
    assert "answered 529" in (line.trouble or "")


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_breaks_is_counted_as_the_most_it_can_have_been(
    relay: Relay, wire: str, stream: bool, tmp_path: Path
) -> None:
    with (
        ModelServer([Broken(REPLY, after=2), REPLY]) as server,
        calling(relay, upstream(server, wire), tmp_path) as (line, client),
    ):
        with pytest.raises(httpx.RemoteProtocolError):
            ask(client, wire, stream=stream)
        broken, words = line.cost, line.trouble
        after = ask(client, wire)

    assert after.status_code == 200
    assert line.is_estimated
    assert broken.tokens >= next(iter(server.usage.values())).tokens // 2
    assert line.cost.tokens >= server.usage.total.tokens
    assert "broke off" in (words or "")
    assert line.trouble is None


def test_an_agent_that_hangs_up_is_settled_and_the_line_goes_on(relay: Relay, tmp_path: Path) -> None:
    slow = Reply("x" * 4000, delay=30)
    with (
        ModelServer([slow, REPLY]) as server,
        calling(relay, upstream(server, "chat"), tmp_path) as (line, client),
    ):
        with pytest.raises(httpx.ReadTimeout), caller(line) as hasty:
            hasty.post(*request("chat")[:1], json=request("chat", stream=True)[1], timeout=0.2)
        until(lambda: line.is_estimated)
        after = ask(client, "chat")

    assert after.status_code == 200
    assert line.cost.tokens > 16_384


def until(condition: Any, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


def test_the_end_of_a_line_ends_what_hangs_on_it(relay: Relay, tmp_path: Path) -> None:
    def wait(client: httpx.Client) -> None:
        with contextlib.suppress(httpx.TransportError):
            ask(client, "messages")

    with ModelServer([Hang(60)]) as server:
        with relay.line(upstream(server, "messages"), tmp_path) as line:
            agent = threading.Thread(target=wait, args=(caller(line),))
            agent.start()
            until(lambda: server.asked)
            begun = time.monotonic()
        agent.join(5)

    assert time.monotonic() - begun < 2
    assert not agent.is_alive()
    assert line.is_estimated
    assert line.cost.tokens > 0
    assert not line.socket.exists()


def test_whoever_waits_for_a_relay_that_closes_is_let_go(tmp_path: Path) -> None:
    relay = Relay(Prices())

    def wait() -> None:
        with contextlib.suppress(CancelledError):
            relay._call(asyncio.sleep(60))

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    until(lambda: relay._thread is not None)
    relay.close()
    waiting.join(5)

    assert not waiting.is_alive()


def test_a_dead_endpoint_is_told_in_words(relay: Relay, tmp_path: Path) -> None:
    with calling(relay, upstream(dead(), "chat"), tmp_path) as (line, client):
        answer = ask(client, "chat")

    assert answer.status_code == 502
    assert "cannot be reached" in answer.json()["error"]["message"]
    assert "cannot be reached" in (line.trouble or "")
    assert line.cost.tokens == 0


def dead() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


class Elsewhere(BaseHTTPRequestHandler):
    """An endpoint that points to another, refuses a key, or is not there."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(307)
        self.send_header("location", self.server.target)  # type: ignore[attr-defined]
        self.send_header("content-length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_way_elsewhere_is_not_followed(relay: Relay, elsewhere: HTTPServer, tmp_path: Path) -> None:
    with ModelServer([REPLY]) as server:
        elsewhere.target = f"{server.url}/v1/messages"  # type: ignore[attr-defined]
        url = f"http://127.0.0.1:{elsewhere.server_port}"
        with calling(relay, upstream(url, "messages"), tmp_path) as (_, client):
            answer = ask(client, "messages")

    assert answer.status_code == 502
    assert "points elsewhere" in answer.json()["error"]["message"]
    assert not server.seen


@pytest.mark.parametrize(("status", "words"), [(401, "key is refused"), (403, "key is refused"), (503, "in trouble")])
def test_preflight_tells_apart_what_is_wrong(relay: Relay, elsewhere: HTTPServer, status: int, words: str) -> None:
    url = f"http://127.0.0.1:{elsewhere.server_port}"

    assert words in (relay.preflight(upstream(f"{url}/{status}", "chat")) or "")
    assert "connection refused" in (relay.preflight(upstream(dead(), "chat")) or "")
    assert "TLS" in (relay.preflight(upstream(url.replace("http:", "https:"), "chat")) or "")
    assert "wants a key" in (relay.preflight(upstream(f"{url}/401", "chat", key="")) or "")
    assert relay.preflight(upstream(f"{url}/404", "chat")) is None


def test_preflight_is_content_with_a_model_that_answers(relay: Relay) -> None:
    with ModelServer([REPLY]) as server:
        found = [relay.preflight(upstream(server, wire)) for wire in WIRES]

    assert found == [None] * 4
    assert not server.asked


def test_a_socket_whose_path_would_be_too_long_lies_elsewhere_in_private(relay: Relay, tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    with ModelServer([REPLY]) as server, calling(relay, upstream(server, "chat"), folder) as (line, client):
        answer = ask(client, "chat")
        mode = line.socket.parent.stat().st_mode & 0o777

    assert answer.status_code == 200
    assert len(os.fsencode(line.socket)) <= 100
    assert mode == 0o700
    assert not line.socket.parent.exists()


def test_a_socket_left_by_a_lab_that_was_killed_is_replaced(relay: Relay, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "relay.sock"))
    with ModelServer([REPLY]) as server, calling(relay, upstream(server, "chat"), tmp_path) as (line, client):
        assert ask(client, "chat").status_code == 200
        assert line.socket == tmp_path / "relay.sock"


def test_a_request_that_is_too_large_does_not_leave(relay: Relay, tmp_path: Path) -> None:
    with ModelServer([REPLY]) as server, calling(relay, upstream(server, "chat"), tmp_path) as (_, client):
        answer = client.post("/v1/chat/completions", content=b"x" * (33 << 20))

    assert answer.status_code == 413
    assert not server.seen


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_request_is_refused_in_words(relay: Relay, body: bytes, tmp_path: Path) -> None:
    with ModelServer([REPLY]) as server, calling(relay, upstream(server, "chat"), tmp_path) as (_, client):
        answer = client.post("/v1/chat/completions", content=body)

    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]["message"]
    assert not server.seen


def test_usage_that_the_agent_did_not_ask_for_is_not_shown_to_it(relay: Relay, tmp_path: Path) -> None:
    path, body = request("chat", stream=True)
    with ModelServer([REPLY]) as server, calling(relay, upstream(server, "chat"), tmp_path) as (line, client):
        shown = client.post(path, json=body)
        hidden = client.post(path, json={name: value for name, value in body.items() if name != "stream_options"})

    assert [bool(events(answer.text)[-1].get("usage")) for answer in (shown, hidden)] == [True, False]
    assert hidden.text.endswith("data: [DONE]\n\n")
    assert line.cost.tokens == server.usage.total.tokens


def test_cached_tokens_are_counted_in_every_wire(relay: Relay, tmp_path: Path) -> None:
    used = Usage(100, 20, 30, 40)
    with ModelServer([Reply("x", usage=used)]) as server:
        for wire in WIRES:
            with calling(relay, upstream(server, wire), tmp_path / wire) as (line, client):
                ask(client, wire)
            assert line.cost.tokens == 120


def test_a_line_opens_at_once(relay: Relay, tmp_path: Path) -> None:
    with ModelServer([REPLY]) as server, relay.line(upstream(server, "chat"), tmp_path / "first"):
        pass
    spent = []
    for number in range(9):
        begun = time.perf_counter()
        with relay.line(upstream(server, "chat"), tmp_path / str(number)):
            spent.append(time.perf_counter() - begun)

    assert statistics.median(spent) < 0.03
