"""Anthropic Messages, as its server speaks it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from nightlab.testing.modelserver.values import Call, Result, Said, Turn, Usage, merged, pieces, words

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def system(body: Mapping[str, Any]) -> str:
    """The system prompt."""
    return words(body.get("system"))


def turns(body: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The conversation so far."""
    return merged([_turn(message) for message in body.get("messages", ())])


def _turn(message: Mapping[str, Any]) -> Turn:
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return Turn(
        "assistant" if message.get("role") == "assistant" else "user",
        words([part for part in parts if part.get("type") == "text"]) if parts else words(content),
        tuple(
            Call(part["name"], part.get("input", {}), part["id"]) for part in parts if part.get("type") == "tool_use"
        ),
        tuple(
            Result(part["tool_use_id"], words(part.get("content")))
            for part in parts
            if part.get("type") == "tool_result"
        ),
    )


def tools(body: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The tools that the program itself carries out."""
    return {tool["name"]: tool.get("input_schema", {}) for tool in body.get("tools") or () if "name" in tool}


def usage(counted: Usage) -> dict[str, int]:
    """The count in the wire's own terms, which keep cached tokens out of the input."""
    return {
        "input_tokens": counted.input - counted.cached - counted.written,
        "cache_creation_input_tokens": counted.written,
        "cache_read_input_tokens": counted.cached,
        "output_tokens": counted.output,
    }


def _blocks(said: Said) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if said.reply.thinking:
        blocks.append({"type": "thinking", "thinking": said.reply.thinking, "signature": "scripted"})
    if said.reply.text or not said.reply.calls:
        blocks.append({"type": "text", "text": said.reply.text})
    for place, call in enumerate(said.reply.calls):
        name = said.call_id(call, place, "toolu")
        blocks.append({"type": "tool_use", "id": name, "name": call.name, "input": call.arguments})
    return blocks


def _message(said: Said) -> dict[str, Any]:
    return {
        "id": f"msg_{said.number}",
        "type": "message",
        "role": "assistant",
        "model": said.asked.model,
        "content": _blocks(said),
        "stop_reason": "tool_use" if said.reply.calls else "end_turn",
        "stop_sequence": None,
        "usage": usage(said.usage),
    }


def whole(said: Said) -> dict[str, Any]:
    """A plain answer."""
    return _message(said)


def stream(said: Said) -> Iterator[str]:
    """A streamed answer, event by event."""
    for event in _events(said):
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"


def _events(said: Said) -> Iterator[dict[str, Any]]:
    message = _message(said)
    start = message | {"content": [], "stop_reason": None, "usage": message["usage"] | {"output_tokens": 1}}
    yield {"type": "message_start", "message": start}
    yield {"type": "ping"}
    for index, block in enumerate(message["content"]):
        empty, deltas = _taken_apart(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    stop = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": stop, "usage": message["usage"]}
    yield {"type": "message_stop"}


def _taken_apart(block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    match block["type"]:
        case "text":
            deltas = [{"type": "text_delta", "text": bit} for bit in pieces(block["text"])]
            return {**block, "text": ""}, deltas
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": bit} for bit in pieces(block["thinking"])]
            signature = {"type": "signature_delta", "signature": block["signature"]}
            return {**block, "thinking": "", "signature": ""}, [*deltas, signature]
        case _:
            written = block["input"] if isinstance(block["input"], str) else json.dumps(block["input"])
            return {**block, "input": {}}, [
                {"type": "input_json_delta", "partial_json": bit} for bit in pieces(written)
            ]


def refusal(status: int, message: str) -> dict[str, Any]:
    """An error."""
    return {"type": "error", "error": {"type": KINDS.get(status, "api_error"), "message": message}}
