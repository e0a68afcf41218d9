"""The scripted model speaks four wires, as real programs hear them."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from asking import SCHEMA, WIRES, events, find, request

from nightlab.testing.modelserver import (
    Asked,
    Broken,
    Call,
    Hang,
    ModelServer,
    Refusal,
    Reply,
    Usage,
    edit,
    malformed,
    write,
)

PLAIN = httpx.Client(verify=False)
"""One client for all: each would read the certificates anew."""


@pytest.mark.parametrize("wire", WIRES)
def test_every_wire_is_read_into_the_same_conversation(wire: str) -> None:
    with ModelServer([Reply("done")]) as server:
        path, body = request(wire)

        answer = PLAIN.post(server.url + path, json=body)

    assert answer.status_code == 200
    (asked,) = server.asked
    assert (asked.wire, asked.model, asked.system.strip()) == (wire, "m", "be brief")
    assert [turn.role for turn in asked.turns] == ["user", "assistant", "user"]
    assert asked.turns[0].text == "go"
    assert asked.turns[1].calls[0].name == "write"
    assert "written" in asked.results
    assert asked.has_result
    assert asked.prompt == "go"
    assert dict(asked.tools) == {"write": SCHEMA}


@pytest.mark.parametrize("wire", WIRES)
def test_a_reply_streams_and_does_not_with_the_same_words_calls_and_count(wire: str) -> None:
    reply = Reply("a" * 90, (Call("write", {"path": "a", "content": "b" * 60}),), usage=Usage(100, 20, 30))
    with ModelServer([reply]) as server:
        plain = PLAIN.post(server.url + request(wire)[0], json=request(wire)[1])
        streamed = PLAIN.post(
            server.url + request(wire, stream=True)[0], json=request(wire, stream=True)[1], headers={"x": "y"}
        )

    assert plain.json()
    texts = ["".join(find(thing, "text", "content", "delta")) for thing in (plain.json(), events(streamed.text))]
    assert all("a" * 90 in text for text in texts)
    assert "b" * 60 in "".join(find(plain.json(), "arguments", "content"))
    assert server.usage.total == Usage(200, 40, 60)
    assert events(streamed.text)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("status", [429, 500, 529])
def test_a_refusal_comes_in_the_wires_own_words(wire: str, status: int) -> None:
    with ModelServer([Refusal(status, "not now", retry_after=2), Reply("now")]) as server:
        path, body = request(wire)

        first, second = (PLAIN.post(server.url + path, json=body) for _ in range(2))

    assert first.status_code == status
    assert first.headers["retry-after"] == "2"
    assert first.json()["error"]["message"] == "not now"
    assert second.status_code == 200


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("stream", [False, True])
def test_a_broken_answer_ends_in_the_middle(wire: str, stream: bool) -> None:
    with ModelServer([Broken(Reply("a" * 200), after=2)]) as server:
        path, body = request(wire, stream=stream)

        with pytest.raises(httpx.RemoteProtocolError):
            PLAIN.post(server.url + path, json=body)


def test_a_hang_says_nothing() -> None:
    with ModelServer([Hang(30)]) as server:
        path, body = request("chat")
        begun = time.monotonic()

        with pytest.raises(httpx.ReadTimeout):
            PLAIN.post(server.url + path, json=body, timeout=0.2)

    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("wire", WIRES)
def test_a_malformed_call_goes_out_as_it_is(wire: str) -> None:
    with ModelServer([malformed("write", '{"path": "tr')]) as server:
        path, body = request(wire, stream=True)

        answer = PLAIN.post(server.url + path, json=body)

    assert '{\\"path\\": \\"tr' in answer.text


def test_models_counts_and_unknown_paths_are_answered() -> None:
    with ModelServer([Reply()], models=("m1",)) as server:
        listed = PLAIN.get(f"{server.url}/v1/models").json()
        found = [
            PLAIN.post(f"{server.url}/v1/messages/count_tokens", json={"messages": []}),
            PLAIN.post(f"{server.url}/v1beta/models/m:countTokens", json={"contents": []}),
        ]
        head = PLAIN.head(server.url)
        unknown = PLAIN.post(f"{server.url}/v1/embeddings", json={})

    assert listed["data"][0]["id"] == "m1"
    assert found[0].json()["input_tokens"] > 0
    assert found[1].json()["totalTokens"] > 0
    assert (head.status_code, unknown.status_code) == (200, 404)
    assert server.seen[-1].path == "/v1/embeddings"
    assert not server.asked


def test_a_script_that_fails_says_so_in_the_test() -> None:
    def broken(asked: Asked) -> Reply:
        raise KeyError("gone")

    def ask() -> None:
        with ModelServer(broken) as server:
            path, body = request("chat")
            assert PLAIN.post(server.url + path, json=body).status_code == 500

    with pytest.raises(RuntimeError, match="gone"):
        ask()


def test_what_the_page_shows_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "modelserver.md").read_text()
    room: dict[str, object] = {}

    for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(block, room)

    assert "storm" in room


def test_the_page_names_everything_there_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "modelserver.md").read_text()

    assert [name for name in ANSWERS if name not in page] == []


ANSWERS = ["Reply", "Refusal", "Hang", "Broken", "malformed", "edit", "write", "shell", "Asked", "Call", "ModelServer"]


def asked(tools: Mapping[str, Mapping[str, Any]]) -> Asked:
    return Asked("chat", "m", "", (), tools, False, {}, {}, "/")


def with_arguments(*names: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}}


@pytest.mark.parametrize(
    ("tools", "name", "part"),
    [
        ({"Edit": with_arguments("file_path", "old_string", "new_string")}, "Edit", "old_string"),
        ({"edit": with_arguments("filePath", "oldString", "newString")}, "edit", "filePath"),
        ({"edit": with_arguments("file_path", "old_string", "new_string")}, "edit", "file_path"),
        ({"edit": with_arguments("path", "edits")}, "edit", "edits"),
        ({"edit": with_arguments("path", "oldText", "newText")}, "edit", "oldText"),
        ({"replace": with_arguments("file_path", "old_string", "new_string")}, "replace", "file_path"),
        ({"apply_patch": {"type": "string"}}, "apply_patch", "*** Update File: a.py"),
        ({"shell": with_arguments("command")}, "shell", "command"),
    ],
)
def test_an_edit_is_made_by_the_tool_that_the_agent_offers(tools: dict[str, Any], name: str, part: str) -> None:
    reply = edit(asked(tools), "a.py", "x = 1", "x = 2")

    (call,) = reply.calls
    assert call.name == name
    assert part in call.arguments


def test_an_agent_without_tools_is_told_in_prose() -> None:
    reply = edit(asked({}), "a.py", "x = 1", "x = 2")

    assert reply.text == "a.py\n```\n<<<<<<< SEARCH\nx = 1\n=======\nx = 2\n>>>>>>> REPLACE\n```\n"


def test_a_file_is_written_by_the_shell_where_there_is_nothing_else() -> None:
    reply = write(asked({"Bash": with_arguments("command", "description")}), "a b.py", "it's\n")

    assert reply.calls[0].name == "Bash"
    assert "> 'a b.py'" in reply.calls[0].arguments["command"]
