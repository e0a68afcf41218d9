"""What a model's answer says of its tokens, plain or streamed, in each wire's own words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from nightlab.agents.prices import Tokens
from nightlab.agents.upstream import Wire

Counts = dict[str, int]


class Reading:
    """Reads one answer as it passes by."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._counts: Counts = {}
        self._has_all = False

    @property
    def tokens(self) -> Tokens | None:
        """What was counted, or None where the answer does not say, or broke before it said all.

        Some servers send zeros where they did not count: no request has no tokens.
        """
        tokens = self._tokens() if self._has_all else None
        return tokens if tokens and tokens.input else None

    def see(self, message: Any) -> None:
        """Take note of a whole answer, or of one event of a stream."""
        for one in message if isinstance(message, list) else [message]:
            if isinstance(one, dict):
                self._see(one)

    def _see(self, message: Mapping[str, Any]) -> None:
        found, is_last = _usage(self._wire, message)
        counts = {name: value for name, value in _flat(found) if isinstance(value, int) and value >= 0}
        self._counts |= counts
        self._has_all |= bool(counts) and is_last

    def _tokens(self) -> Tokens:
        count = self._counts.get
        match self._wire:
            case "messages":
                cached, written = count("cache_read_input_tokens", 0), count("cache_creation_input_tokens", 0)
                return Tokens(count("input_tokens", 0) + cached + written, count("output_tokens", 0), cached, written)
            case "chat":
                cached = count("cached_tokens", count("prompt_cache_hit_tokens", 0))
                return self._of_all("prompt_tokens", "completion_tokens", "total_tokens", cached)
            case "responses":
                return self._of_all("input_tokens", "output_tokens", "total_tokens", count("cached_tokens", 0))
            case _:
                self._counts["said"] = count("candidatesTokenCount", 0) + count("thoughtsTokenCount", 0)
                cached = count("cachedContentTokenCount", 0)
                return self._of_all("promptTokenCount", "said", "totalTokenCount", cached)

    def _of_all(self, read: str, said: str, total: str, cached: int) -> Tokens:
        """Some leave thoughts out of what was said, but not out of the total."""
        count = self._counts.get
        output = max(count(said, 0), count(total, 0) - count(read, 0))
        return Tokens(count(read, 0), output, cached, count("cache_write_tokens", 0))


def _usage(wire: Wire, message: Mapping[str, Any]) -> tuple[Any, bool]:
    """The usage in a message, and whether it is the whole answer's."""
    kind = message.get("type")
    match wire:
        case "messages" if kind == "message_start":
            return (message.get("message") or {}).get("usage"), False
        case "responses" if isinstance(message.get("response"), dict):
            return message["response"].get("usage"), True
        case "chat":  # some servers count as they go; the last word comes with the end, or after it
            choices = [one for one in message.get("choices") or () if isinstance(one, dict)]
            return message.get("usage"), not choices or any(one.get("finish_reason") for one in choices)
        case "gemini":
            ends = [one for one in message.get("candidates") or () if isinstance(one, dict) and one.get("finishReason")]
            return message.get("usageMetadata"), bool(ends) or "promptFeedback" in message
        case _:
            return message.get("usage"), True


def _flat(usage: Any) -> Iterator[tuple[str, Any]]:
    """Its counts, those of the input's details among them."""
    if isinstance(usage, dict):
        for name, value in usage.items():
            if name in ("prompt_tokens_details", "input_tokens_details"):
                yield from _flat(value)
            else:
                yield name, value


class Events:
    """Cuts a stream of server-sent events into whole events, as they come."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, more: bytes) -> Iterator[bytes]:
        """The events that are now whole, each with the blank line that ends it."""
        self._rest += more
        while found := BLANK.search(self._rest):
            event, self._rest = self._rest[: found.end()], self._rest[found.end() :]
            yield event

    def rest(self) -> bytes:
        """What came after the last whole event."""
        return self._rest


BLANK = re.compile(rb"\r?\n\r?\n")


def said(event: bytes) -> Any:
    """What an event carries, or None where that is no JSON."""
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    try:
        return json.loads(b"\n".join(lines))
    except (ValueError, RecursionError):
        return None
