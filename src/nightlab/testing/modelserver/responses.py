"""OpenAI Responses, as its server speaks it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from nightlab.testing.modelserver.chat import CREATED
from nightlab.testing.modelserver.chat import refusal as refusal
from nightlab.testing.modelserver.values import Call, Result, Said, Turn, Usage, merged, pieces, words

FREE_TEXT: dict[str, Any] = {"type": "string"}


def _items(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    given = body.get("input") or []
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


def system(body: Mapping[str, Any]) -> str:
    """The instructions, and what was said as system or developer."""
    said = [item for item in _items(body) if item.get("role") in ("system", "developer")]
    return "\n".join([words(body.get("instructions")), *(words(item.get("content")) for item in said)])


def turns(body: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The conversation so far."""
    return merged([turn for item in _items(body) if (turn := _turn(item))])


def _turn(item: Mapping[str, Any]) -> Turn | None:
    match item.get("type", "message"):
        case "message" if item.get("role") in ("user", "assistant"):
            return Turn(item["role"], words(item.get("content")))
        case "function_call" | "custom_tool_call":
            call = Call(item["name"], item.get("arguments", item.get("input", "")), item.get("call_id", ""))
            return Turn("assistant", calls=(call,))
        case str(kind) if kind.endswith("_output"):
            return Turn("user", results=(Result(item.get("call_id", ""), words(item.get("output"))),))
        case _:
            return None  # reasoning, and what the provider keeps for itself


def tools(body: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The tools that the program itself carries out; one in a namespace says so beside its schema."""
    return dict(_offered(body.get("tools") or ()))


def _offered(given: Any, namespace: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for tool in given:
        match tool.get("type"):
            case "function":
                schema = tool.get("parameters") or {}
                yield tool["name"], {**schema, "x-namespace": namespace} if namespace else schema
            case "custom":
                yield tool["name"], FREE_TEXT
            case "local_shell" | "shell" | "apply_patch":
                yield tool["type"], {"type": "object", "x-native": tool["type"]}
            case "namespace":
                yield from _offered(tool.get("tools") or (), tool["name"])


def usage(counted: Usage) -> dict[str, Any]:
    """The count in the wire's own terms."""
    return {
        "input_tokens": counted.input,
        "input_tokens_details": {"cached_tokens": counted.cached},
        "output_tokens": counted.output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counted.tokens,
    }


def _output(said: Said) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if said.reply.thinking:
        summary = [{"type": "summary_text", "text": said.reply.thinking}]
        items.append({"type": "reasoning", "id": f"rs_{said.number}", "summary": summary})
    if said.reply.text or not said.reply.calls:
        part = {"type": "output_text", "text": said.reply.text, "annotations": []}
        head = {"type": "message", "id": f"msg_{said.number}", "status": "completed", "role": "assistant"}
        items.append(head | {"content": [part]})
    return items + [_call(said, call, place) for place, call in enumerate(said.reply.calls)]


def _call(said: Said, call: Call, place: int) -> dict[str, Any]:
    schema = said.asked.tools.get(call.name, {})
    item = {"id": f"fc_{said.number}_{place}", "call_id": said.call_id(call, place), "status": "completed"}
    if schema == FREE_TEXT:
        written = call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments)
        return item | {"type": "custom_tool_call", "name": call.name, "input": written}
    if "x-native" in schema:
        field = "operation" if call.name == "apply_patch" else "action"
        return item | {"type": f"{call.name}_call", field: call.arguments}
    written = call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments)
    named = {"name": call.name} | ({"namespace": schema["x-namespace"]} if "x-namespace" in schema else {})
    return item | {"type": "function_call", "arguments": written} | named


def whole(said: Said) -> dict[str, Any]:
    """A plain answer."""
    return {
        "id": f"resp_{said.number}",
        "object": "response",
        "created_at": CREATED,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "model": said.asked.model,
        "output": _output(said),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "metadata": {},
        "usage": usage(said.usage),
    }


def stream(said: Said) -> Iterator[str]:
    """A streamed answer, event by event."""
    for number, event in enumerate(_events(said)):
        yield f"event: {event['type']}\ndata: {json.dumps(event | {'sequence_number': number})}\n\n"


def _events(said: Said) -> Iterator[dict[str, Any]]:
    response = whole(said)
    start = response | {"status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": start}
    yield {"type": "response.in_progress", "response": start}
    for index, item in enumerate(response["output"]):
        empty, inner = _taken_apart(item)
        yield {"type": "response.output_item.added", "output_index": index, "item": empty}
        for event in inner:
            yield {"output_index": index, "item_id": item["id"], **event}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": "response.completed", "response": response}


def _taken_apart(item: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    match item["type"]:
        case "message":
            return {**item, "status": "in_progress", "content": []}, _part(item["content"][0])
        case "function_call":
            field, event = "arguments", "response.function_call_arguments"
        case "custom_tool_call":
            field, event = "input", "response.custom_tool_call_input"
        case _:
            return dict(item), []
    deltas = [{"type": f"{event}.delta", "delta": bit} for bit in pieces(item[field])]
    return {**item, "status": "in_progress", field: ""}, [*deltas, {"type": f"{event}.done", field: item[field]}]


def _part(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    place = {"content_index": 0}
    deltas = [
        {"type": "response.output_text.delta", "delta": bit, "logprobs": [], **place} for bit in pieces(part["text"])
    ]
    return [
        {"type": "response.content_part.added", "part": {**part, "text": ""}, **place},
        *deltas,
        {"type": "response.output_text.done", "text": part["text"], "logprobs": [], **place},
        {"type": "response.content_part.done", "part": part, **place},
    ]
