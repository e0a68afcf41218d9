"""What is read from the streams of the agents, as their real versions print them (shortened)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nightlab.agents import stream, template

WORDS = "I lowered it.\n\nHYPOTHESIS: a lower knob gives a lower score"
STREAMS: dict[str, list[dict[str, Any]]] = {
    "claude": [
        {"type": "system", "subtype": "init", "session_id": "s1"},
        {"type": "assistant", "message": {"content": [{"type": "tool_use"}]}, "session_id": "s1"},
        {"type": "result", "subtype": "success", "result": WORDS, "session_id": "s1"},
    ],
    "codex": [
        {"type": "thread.started", "thread_id": "s1"},
        {"type": "item.completed", "item": {"type": "command_execution", "aggregated_output": "x"}},
        {"type": "item.completed", "item": {"type": "agent_message", "text": WORDS}},
        {"type": "turn.completed", "usage": {"input_tokens": 1}},
    ],
    "opencode": [
        {"type": "step_start", "sessionID": "s1", "part": {"type": "step-start"}},
        {"type": "text", "sessionID": "s1", "part": {"type": "text", "text": WORDS}},
    ],
    "pi": [
        {"type": "session", "id": "s1"},
        {"type": "message_end", "message": {"role": "user", "content": [{"type": "text", "text": "prompt"}]}},
        {"type": "message_end", "message": {"role": "assistant", "content": [{"type": "toolCall"}]}},
        {"type": "message_end", "message": {"role": "assistant", "content": [{"type": "text", "text": WORDS}]}},
    ],
    "gemini": [
        {"type": "init", "session_id": "s1"},
        {"type": "message", "role": "user", "content": "HYPOTHESIS: <one sentence>"},
        {"type": "message", "role": "assistant", "content": WORDS[:30], "delta": True},
        {"type": "message", "role": "assistant", "content": WORDS[30:], "delta": True},
    ],
    "qwen": [
        {"type": "assistant", "session_id": "s1", "message": {}},
        {"type": "result", "subtype": "success", "session_id": "s1", "result": WORDS},
    ],
    "acp": [
        {"event": "session", "id": "s1"},
        {"event": "text", "text": WORDS[:30]},
        {"event": "text", "text": WORDS[30:]},
        {"event": "end", "reason": "end_turn"},
    ],
}


@pytest.mark.parametrize("name", STREAMS)
def test_an_agents_last_words_and_session_are_found(name: str) -> None:
    lines = ["a warning", *map(json.dumps, STREAMS[name]), "{broken", '"text"']

    said = stream.read("\n".join(lines), template.load(name).prints)

    assert said.text == WORDS
    assert said.session == "s1"
    assert stream.hypothesis(said) == "a lower knob gives a lower score"


def test_every_template_has_a_stream_or_speaks_plainly() -> None:
    for name in template.names():
        assert name in STREAMS or template.load(name).prints.form == "plain"


def test_plain_words_are_read_past_colours_and_banners() -> None:
    log = "\x1b[1mAider v0.86\x1b[0m\nAdded it\n\x1b[32m**HYPOTHESIS:** lower is _better_**\x1b[0m\nTokens: 2.0k sent"

    assert stream.hypothesis(stream.read(log, template.load("aider").prints)) == "lower is _better"
    assert stream.hypothesis(stream.read("Aider v0.86\nTokens: 2k.", template.load("aider").prints)) == ""


def test_without_the_line_asked_for_the_first_sentence_is_the_hypothesis() -> None:
    assert stream.hypothesis(stream.Said("I lowered the knob. It was too high.")) == "I lowered the knob."
    assert stream.hypothesis(stream.Said("HYPOTHESIS: <one sentence>\nI lowered it, so.")).startswith("HYPOTHESIS")


def test_what_is_quoted_is_bounded_and_on_one_line() -> None:
    assert stream.quoted("a\nb") == "“a b”"
    assert len(stream.quoted("x" * 10**6)) < 310


def test_half_a_letter_is_no_letter() -> None:
    log = json.dumps({"type": "result", "subtype": "success", "result": "half \ud800 a pair"})

    said = stream.read(log, template.load("claude").prints)

    assert said.text.encode() == b"half ? a pair"
