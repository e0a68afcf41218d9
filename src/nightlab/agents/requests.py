"""What an agent may ask of a model: the wire's own paths, a body of known fields, tools that the agent itself runs.

Everything is a list of what passes, never of what is stopped: a field that a provider adds tomorrow may open a way to
the network, keep a conversation where it cannot be replayed, or cost more than its tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from nightlab.agents.bounds import CONVERSATION
from nightlab.agents.upstream import Upstream, Wire

Kind = Literal["answer", "count", "list"]

PASSES: Mapping[Wire, str] = {
    "messages": "model messages system max_tokens metadata stop_sequences stream temperature top_k top_p thinking tools"
    " tool_choice output_config output_format context_management",
    "chat": "model messages max_tokens max_completion_tokens stop stream stream_options temperature top_p top_k min_p"
    " seed tools tool_choice parallel_tool_calls response_format reasoning reasoning_effort verbosity logit_bias"
    " presence_penalty frequency_penalty repetition_penalty functions function_call prompt_cache_key thinking"
    " enable_thinking chat_template_kwargs options keep_alive think user",
    "responses": "model input instructions max_output_tokens stream temperature top_p tools tool_choice"
    " parallel_tool_calls reasoning text include truncation prompt_cache_key metadata user store",
    "gemini": "contents systemInstruction system_instruction tools toolConfig tool_config generationConfig"
    " generation_config safetySettings",
}
"""The fields of a body that go out. `n`, service tiers, caches and connectors are not among them."""
TWICE = (("generationConfig", "generation_config"), ("systemInstruction", "system_instruction"))
"""Names of Gemini's that mean the same: which of two counts, only the provider knows."""
KEPT_ELSEWHERE = {
    "previous_response_id": "responses",
    "conversation": "responses",
    "prompt": "responses",
    "cachedContent": "gemini",
}
"""Fields that stand for text which the provider holds: without it a request means something else, so it is refused."""
ANTHROPIC_TOOLS = re.compile(r"custom|bash_\d+|text_editor_\d+|memory_\d+")
"""Tools of Anthropic's that the agent carries out itself."""
GENERATION_DROPS = {"candidateCount", "responseModalities", "speechConfig", "imageConfig"}
HEADERS = {"accept", "content-type", "anthropic-version", "anthropic-beta", "openai-beta"}
DEAR_BETAS = ("context-1m", "fast-mode", "mcp-client", "code-execution", "files-api", "skills", "extended-cache-ttl")
QUERY = {"beta": "true", "alt": "sse"}
IMAGE_TOKENS = 50_000
"""More than any provider counts an image as."""


class Refused(Exception):
    """A request that does not leave; says why, and with which status."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """A request that may go out."""

    kind: Kind
    method: str
    url: str
    body: Mapping[str, Any] | None
    headers: Mapping[str, str]
    is_streamed: bool
    model: str = ""
    """Who is to answer."""
    images: int = 0
    """The most tokens its images can be counted as."""
    adds_usage: bool = False
    """Whether the usage at the end of a stream was asked for by us, so that the agent must not see it."""


def read(
    upstream: Upstream,
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    raw: bytes,
    also: Collection[str] | None,
) -> Request:
    """What an agent sent, as it may go out; Refused where it may not."""
    kind, named, verb = _routed(upstream.wire, method, unquote(path))
    body = _parsed(raw) if kind != "list" else {}
    model = "" if kind == "list" else _model(named or body.get("model"), upstream, also)
    url = _address(upstream, kind, verb, model) + _query(query)
    sent = _headers(upstream, headers)
    if kind == "list":
        return Request(kind, "GET", url, None, sent, False)
    images = sum(IMAGE_TOKENS for _ in _images(upstream.wire, body))
    clean = _cleaned(upstream.wire, kind, body, model)
    is_streamed = verb == "streamGenerateContent" if upstream.wire == "gemini" else clean.get("stream") is True
    asked = isinstance(body.get("stream_options"), dict) and body["stream_options"].get("include_usage")
    adds_usage = upstream.wire == "chat" and is_streamed and not asked
    if upstream.wire == "chat" and is_streamed:
        clean["stream_options"] = {"include_usage": True}
    return Request(kind, "POST", url, clean, sent, is_streamed, model, images, adds_usage)


def _routed(wire: Wire, method: str, path: str) -> tuple[Kind, str | None, str]:
    """What is asked for, of which model where the path says so, and by which verb."""
    tail = re.sub(r"^/(v1beta|v1alpha|v1)(?=/)", "", path)
    if method in ("GET", "HEAD") and tail == "/models":
        return "list", None, ""
    if method == "POST" and wire == "gemini":
        found = re.fullmatch(r"/models/([\w.\-:@/]+):(generateContent|streamGenerateContent|countTokens)", tail)
        if found:
            return "count" if found[2] == "countTokens" else "answer", found[1], found[2]
    elif method == "POST" and (wire, tail) in POSTS:
        return POSTS[wire, tail], None, ""
    raise Refused(403, f"{method} {path} is no part of this model's interface; only its own requests pass")


POSTS: Mapping[tuple[Wire, str], Kind] = {
    ("messages", "/messages"): "answer",
    ("messages", "/messages/count_tokens"): "count",
    ("chat", "/chat/completions"): "answer",
    ("responses", "/responses"): "answer",
}


def _model(asked: object, upstream: Upstream, also: Collection[str] | None) -> str:
    """Who answers: the one model whatever is asked for, or where none is named the one that the agent chooses.

    Programs ask a smaller model in passing, for a title or a summary, and some give up where that fails.
    """
    if not upstream.model:
        if isinstance(asked, str) and MODEL.fullmatch(asked):
            return asked
        raise Refused(400, f"{asked!r} is no name of a model")
    if also is None or asked == upstream.model or asked in also:
        return upstream.model
    raise Refused(400, f"only {upstream.model} answers here, not {asked!r}")


MODEL = re.compile(r"[\w.\-@/]+(?::(?!online)[\w.\-]+)?")
"""`:online` would have OpenRouter search the web for it."""


def address(upstream: Upstream, tail: str) -> str:
    """The whole address of one of the wire's paths."""
    url, version = upstream.url.rstrip("/"), {"messages": "/v1", "gemini": "/v1beta"}.get(upstream.wire, "")
    return url + ("" if version and url.endswith(version) else version) + tail


def _address(upstream: Upstream, kind: Kind, verb: str, model: str) -> str:
    if kind == "list":
        return address(upstream, "/models")
    if upstream.wire == "gemini":
        return address(upstream, f"/models/{quote(model)}:{verb}")
    return address(
        upstream, next(tail for (wire, tail), what in POSTS.items() if (wire, what) == (upstream.wire, kind))
    )


def _query(query: str) -> str:
    kept = [f"{name}={value}" for name, value in parse_qsl(query) if QUERY.get(name) == value]
    return f"?{'&'.join(kept)}" if kept else ""


def key_header(upstream: Upstream) -> dict[str, str]:
    """The real key, where the wire wants it."""
    if not upstream.key:
        return {}
    match upstream.wire:
        case "messages":
            return {"x-api-key": upstream.key}
        case "gemini":
            return {"x-goog-api-key": upstream.key}
        case _:
            return {"authorization": f"Bearer {upstream.key}"}


def _headers(upstream: Upstream, given: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in given.items() if name in HEADERS}
    if "anthropic-beta" in kept:
        betas = [beta.strip() for beta in kept.pop("anthropic-beta").split(",")]
        if passing := [beta for beta in betas if not beta.startswith(DEAR_BETAS)]:
            kept["anthropic-beta"] = ",".join(passing)
    if upstream.wire == "messages":
        kept.setdefault("anthropic-version", "2023-06-01")
    return {**kept, "accept-encoding": "identity", "user-agent": "nightlab", **key_header(upstream)}


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is no JSON") from None
    if not isinstance(body, dict):
        raise Refused(400, "the body is no JSON object")
    return body


def _cleaned(wire: Wire, kind: Kind, body: Mapping[str, Any], model: str) -> dict[str, Any]:
    if kind == "count" and wire == "gemini":
        body = body.get("generateContentRequest") or body
    for name, of in KEPT_ELSEWHERE.items():
        if of == wire and body.get(name):
            raise Refused(400, f"{name} stands for text that the provider keeps; send the whole conversation")
    passing = PASSES[wire].split()
    clean = {name: value for name, value in body.items() if name in passing}
    if wire != "gemini":
        clean["model"] = model
    for one, other in TWICE:
        if one in clean and other in clean:
            raise Refused(400, f"{one} and {other} are two names of one field; send one of them")
    _TOUCHES[wire](clean)
    if not clean.get("tools"):
        for name in ("tools", "tool_choice", "toolConfig", "tool_config", "parallel_tool_calls"):
            clean.pop(name, None)
    return clean


def _messages(body: dict[str, Any]) -> None:
    """Plain cache marks only: an hour in the cache costs more than the price list says."""
    dropped = {"allowed_callers", "defer_loading"}
    tools = [tool for tool in _dicts(body.get("tools")) if ANTHROPIC_TOOLS.fullmatch(str(tool.get("type") or "custom"))]
    body["tools"] = [{name: value for name, value in tool.items() if name not in dropped} for tool in tools]
    for name in ("system", "messages", "tools"):
        if name in body:
            body[name] = _plain_marks(body[name])
    managed = body.pop("context_management", None)
    if isinstance(managed, dict):  # what shortens by leaving out passes; a summary would be paid for unseen
        edits = [edit for edit in _dicts(managed.get("edits")) if str(edit.get("type")).startswith("clear_")]
        body["context_management"] = {"edits": edits}


def _plain_marks(thing: Any) -> Any:
    if isinstance(thing, list):
        return [_plain_marks(one) for one in thing]
    if isinstance(thing, dict):
        return {
            name: {"type": "ephemeral"}
            if name == "cache_control" and value
            else value
            if name in INSIDE_CALLS
            else _plain_marks(value)
            for name, value in thing.items()
        }
    return thing


def _chat(body: dict[str, Any]) -> None:
    body["tools"] = [tool for tool in _dicts(body.get("tools")) if tool.get("type") in ("function", "custom")]


def _responses(body: dict[str, Any]) -> None:
    """Nothing is stored with the provider, so thoughts that were are left out of what is sent back to it."""
    body["tools"] = _of_the_client(body.get("tools"))
    body["store"] = False
    if isinstance(body.get("include"), list):
        body["include"] = [one for one in body["include"] if one == "reasoning.encrypted_content"]
    if isinstance(body.get("input"), list):
        kept = [item for item in body["input"] if not _is_stored(item)]
        # Codex brings tools in the conversation too; they are held to the same.
        body["input"] = [
            {**item, "tools": _of_the_client(item["tools"])} if isinstance(item, dict) and "tools" in item else item
            for item in kept
        ]


def _of_the_client(tools: Any) -> list[dict[str, Any]]:
    return [kept for tool in _dicts(tools) if (kept := _client_side(tool))]


def _client_side(tool: dict[str, Any]) -> dict[str, Any] | None:
    match tool.get("type"):
        case "function" | "custom" | "local_shell" | "apply_patch":
            return tool
        case "shell" if (tool.get("environment") or {}).get("type") == "local":
            return tool
        case "tool_search" if tool.get("execution") == "client":
            return tool
        case "namespace":
            inner = _of_the_client(tool.get("tools"))
            return {**tool, "tools": inner} if inner else None
        case _:
            return None


def _is_stored(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    return item.get("type") == "item_reference" or (
        item.get("type") == "reasoning" and not item.get("encrypted_content")
    )


def _gemini(body: dict[str, Any]) -> None:
    declared = [
        {name: tool[name]}
        for tool in _dicts(body.get("tools"))
        for name in ("functionDeclarations", "function_declarations")
        if name in tool
    ]
    body["tools"] = declared
    for name in ("generationConfig", "generation_config"):
        if isinstance(body.get(name), dict):
            body[name] = {key: value for key, value in body[name].items() if key not in GENERATION_DROPS}


_TOUCHES: Mapping[Wire, Callable[[dict[str, Any]], None]] = {
    "messages": _messages,
    "chat": _chat,
    "responses": _responses,
    "gemini": _gemini,
}


def _dicts(given: Any) -> list[dict[str, Any]]:
    return [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []


INSIDE_CALLS = {"input", "args", "arguments", "input_schema", "parameters"}
"""What belongs to a tool and not to the wire."""
FETCHED = {"file", "input_file", "input_audio", "document", "container_upload", "video", "input_video"}


def _images(wire: Wire, body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The images that a conversation carries with it; anything a provider would have to fetch is Refused.

    An address that the provider opens is a way out of the jail, and has no bound on its tokens.
    """
    for part in _walk([body.get(CONVERSATION[wire]), body.get("system"), body.get("systemInstruction")]):
        kind, source = part.get("type"), part.get("source")
        held = part.get("inlineData") or part.get("inline_data")
        link = part.get("image_url")
        link = link.get("url") if isinstance(link, dict) else link
        is_text = isinstance(source, dict) and source.get("type") in ("text", "content")
        is_held = isinstance(source, dict) and source.get("type") == "base64"
        is_fetched = (
            "fileData" in part
            or "file_data" in part
            or (kind in FETCHED and not is_text)
            or (kind == "image" and not is_held)
            or (kind == "input_image" and not link)
            or (link is not None and not str(link).startswith("data:image/"))
            or (isinstance(held, dict) and not str(held.get("mimeType", held.get("mime_type"))).startswith("image/"))
        )
        if is_fetched:
            raise Refused(400, "only text and images that are part of the request pass; no files and no addresses")
        if kind in ("image", "image_url", "input_image") or held:
            yield part


def _walk(thing: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(thing, dict):
        yield thing
        for name, value in thing.items():
            if name not in INSIDE_CALLS:
                yield from _walk(value)
    elif isinstance(thing, list):
        for one in thing:
            yield from _walk(one)


LIMITS: Mapping[Wire, tuple[str, ...]] = {
    "messages": ("max_tokens",),
    "chat": ("max_completion_tokens", "max_tokens"),
    "responses": ("max_output_tokens",),
    "gemini": ("maxOutputTokens", "max_output_tokens"),
}


def _limited(wire: Wire, body: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Where a body says how long the answer may be: the field that holds it, and what that field stands in."""
    if wire != "gemini":
        return "", body
    name = "generation_config" if "generation_config" in body else "generationConfig"
    inner = body.get(name)
    return name, inner if isinstance(inner, dict) else {}


def limit(wire: Wire, body: Mapping[str, Any]) -> int | None:
    """How long the answer may be, where the agent says so: by the largest of what it says, for who knows which of two
    names a server knows. Anthropic lets thinking between tool calls go beyond the limit of the answer."""
    _, place = _limited(wire, body)
    thinking = body.get("thinking")
    said = [place.get(name) for name in LIMITS[wire]]
    said += [thinking.get("budget_tokens")] if wire == "messages" and isinstance(thinking, dict) else []
    return max((one for one in said if isinstance(one, int) and one > 0), default=None)


def limited(upstream: Upstream, body: Mapping[str, Any], output: int) -> dict[str, Any]:
    """The same request with an answer of at most so many tokens."""
    within, place = _limited(upstream.wire, body)
    present = [name for name in LIMITS[upstream.wire] if name in place]
    names = present or [_usual(upstream)]
    place = {**place, **dict.fromkeys(names, output)}
    body = {**body, within: place} if within else place
    thinking = body.get("thinking")
    thinking = thinking if upstream.wire == "messages" and isinstance(thinking, dict) else {}
    budget = thinking.get("budget_tokens")
    if isinstance(budget, int) and budget >= output:
        body = {**body, "thinking": {**thinking, "budget_tokens": output // 2}}
        if output // 2 < LEAST_THINKING:
            del body["thinking"]
    return body


LEAST_THINKING = 1024
"""Anthropic takes no smaller budget for thinking."""


def _usual(upstream: Upstream) -> str:
    """OpenAI's newer models know one name of the limit only, other servers of this wire often the older one."""
    if upstream.wire == "chat" and not (urlsplit(upstream.url).hostname or "").endswith("openai.com"):
        return "max_tokens"
    return LIMITS[upstream.wire][0]


def refusal(wire: Wire, status: int, words: str) -> bytes:
    """An error as the wire's own programs show it."""
    match wire:
        case "messages":
            kind = {403: "permission_error"}.get(status, "invalid_request_error" if status < 500 else "api_error")
            body: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": words}}
        case "gemini":
            names = {400: "FAILED_PRECONDITION", 403: "PERMISSION_DENIED"}
            body = {"error": {"code": status, "message": words, "status": names.get(status, "INTERNAL")}}
        case _:
            kind = "invalid_request_error" if status < 500 else "server_error"
            body = {"error": {"message": words, "type": kind, "param": None, "code": "nightlab"}}
    return json.dumps(body).encode()
