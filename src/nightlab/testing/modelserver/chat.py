"""OpenAI Chat Completions, as its servers speak it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from nightlab.testing.modelserver.values import Call, Result, Said, Turn, Usage, merged, pieces, words

CREATED = 1_700_000_000
"""A fixed moment: the same script gives the same bytes."""


def system(body: Mapping[str, Any]) -> str:
    """The system prompt, also where it is called developer."""
    said = [message for message in body.get("messages", ()) if message.get("role") in ("system", "developer")]
    return "\n".join(words(message.get("content")) for message in said)


def turns(body: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The conversation so far."""
    spoken = [message for message in body.get("messages", ()) if message.get("role") not in ("system", "developer")]
    return merged([_turn(message) for message in spoken])


def _turn(message: Mapping[str, Any]) -> Turn:
    if message.get("role") == "tool":
        return Turn("user", results=(Result(message.get("tool_call_id", ""), words(message.get("content"))),))
    called = [call for call in message.get("tool_calls") or () if "function" in call]
    return Turn(
        "assistant" if message.get("role") == "assistant" else "user",
        words(message.get("content")),
        tuple(Call(call["function"]["name"], call["function"]["arguments"], call.get("id", "")) for call in called),
    )


def tools(body: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The tools that the program itself carries out."""
    offered = [tool["function"] for tool in body.get("tools") or () if tool.get("type") == "function"]
    return {tool["name"]: tool.get("parameters", {}) for tool in offered}


def usage(counted: Usage) -> dict[str, Any]:
    """The count in the wire's own terms."""
    return {
        "prompt_tokens": counted.input,
        "completion_tokens": counted.output,
        "total_tokens": counted.tokens,
        "prompt_tokens_details": {"cached_tokens": counted.cached},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _calls(said: Said) -> list[dict[str, Any]]:
    return [
        {
            "id": said.call_id(call, place),
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments),
            },
        }
        for place, call in enumerate(said.reply.calls)
    ]


def whole(said: Said) -> dict[str, Any]:
    """A plain answer."""
    message: dict[str, Any] = {"role": "assistant", "content": said.reply.text or None}
    if said.reply.thinking:
        message["reasoning_content"] = said.reply.thinking
    if said.reply.calls:
        message["tool_calls"] = _calls(said)
    reason = "tool_calls" if said.reply.calls else "stop"
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
    return _envelope(said, "chat.completion") | {"choices": [choice], "usage": usage(said.usage)}


def stream(said: Said) -> Iterator[str]:
    """A streamed answer; its usage comes only where it was asked for, as with the provider."""
    head = _envelope(said, "chat.completion.chunk")
    for delta in _deltas(said):
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        yield _line(head | {"choices": [choice]})
    reason = "tool_calls" if said.reply.calls else "stop"
    yield _line(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    if (said.asked.body.get("stream_options") or {}).get("include_usage"):
        yield _line(head | {"choices": [], "usage": usage(said.usage)})
    yield "data: [DONE]\n\n"


def _deltas(said: Said) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": ""}
    for bit in pieces(said.reply.thinking):
        yield {"reasoning_content": bit}
    for bit in pieces(said.reply.text):
        yield {"content": bit}
    for index, call in enumerate(_calls(said)):
        function = call["function"]
        yield {"tool_calls": [call | {"index": index, "function": function | {"arguments": ""}}]}
        for bit in pieces(function["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": bit}}]}


def _envelope(said: Said, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{said.number}", "object": kind, "created": CREATED, "model": said.asked.model}


def _line(chunk: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


def refusal(status: int, message: str) -> dict[str, Any]:
    """An error."""
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
