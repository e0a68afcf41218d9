"""Gemini generateContent, as its server speaks it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from nightlab.testing.modelserver.values import Call, Result, Said, Turn, Usage, merged, pieces, words

STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


def system(body: Mapping[str, Any]) -> str:
    """The system instruction."""
    given = body.get("systemInstruction") or body.get("system_instruction") or {}
    return words(given.get("parts")) if isinstance(given, dict) else words(given)


def turns(body: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The conversation so far."""
    return merged([_turn(content) for content in body.get("contents", ())])


def _turn(content: Mapping[str, Any]) -> Turn:
    parts = content.get("parts") or []
    called = [part["functionCall"] for part in parts if "functionCall" in part]
    brought = [part["functionResponse"] for part in parts if "functionResponse" in part]
    return Turn(
        "assistant" if content.get("role") == "model" else "user",
        words([part for part in parts if not part.get("thought")]),
        tuple(Call(call["name"], call.get("args", {}), call.get("id", "")) for call in called),
        tuple(Result(one.get("id", one.get("name", "")), json.dumps(one.get("response"))) for one in brought),
    )


def tools(body: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The tools that the program itself carries out."""
    groups = [tool.get("functionDeclarations", tool.get("function_declarations")) for tool in body.get("tools") or ()]
    offered = [one for group in groups for one in group or ()]
    return {one["name"]: one.get("parametersJsonSchema") or one.get("parameters") or {} for one in offered}


def usage(counted: Usage) -> dict[str, int]:
    """The count in the wire's own terms."""
    return {
        "promptTokenCount": counted.input,
        "candidatesTokenCount": counted.output,
        "totalTokenCount": counted.tokens,
        "cachedContentTokenCount": counted.cached,
    }


def _parts(said: Said) -> list[dict[str, Any]]:
    thoughts = [{"text": bit, "thought": True} for bit in pieces(said.reply.thinking)]
    calls = [
        {"functionCall": {"id": said.call_id(call, place), "name": call.name, "args": call.arguments}}
        for place, call in enumerate(said.reply.calls)
    ]
    return [*thoughts, *({"text": bit} for bit in pieces(said.reply.text)), *calls] or [{"text": ""}]


def _chunk(said: Said, parts: list[dict[str, Any]], *, is_last: bool) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if is_last:
        candidate["finishReason"] = "STOP"
    known = usage(said.usage) if is_last else {"promptTokenCount": said.usage.input}
    head = {"modelVersion": said.asked.model, "responseId": f"response-{said.number}"}
    return {"candidates": [candidate], "usageMetadata": known} | head


def whole(said: Said) -> dict[str, Any]:
    """A plain answer."""
    return _chunk(said, _parts(said), is_last=True)


def stream(said: Said) -> Iterator[str]:
    """A streamed answer."""
    parts = _parts(said)
    for place, part in enumerate(parts, 1):
        yield f"data: {json.dumps(_chunk(said, [part], is_last=place == len(parts)))}\r\n\r\n"


def refusal(status: int, message: str) -> dict[str, Any]:
    """An error."""
    return {"error": {"code": status, "message": message, "status": STATUS.get(status, "INTERNAL")}}
