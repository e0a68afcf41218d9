"""How many tokens a request can have at most, known before it is sent.

No tokenizer that models use makes more tokens of a text than it has bytes. That alone is four times too much, so what
was counted before is used: a conversation that goes on has at most the tokens it had, and one a byte for what is new.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

from nightlab.agents.upstream import Wire

UNSEEN = 2_000
"""What a provider puts around a conversation: templates, and a prompt of its own where there are tools."""
CONVERSATION: Mapping[Wire, str] = {
    "messages": "messages",
    "chat": "messages",
    "responses": "input",
    "gemini": "contents",
}
"""Where each wire keeps the turns."""
LOOSE = {"cache_control", "max_tokens", "max_completion_tokens", "max_output_tokens", "stream", "stream_options"}
"""What moves between requests and has no tokens."""


class Bounds:
    """Remembers what conversations and their beginnings were counted as."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}

    def most(self, wire: Wire, model: str, body: Mapping[str, Any], images: int) -> int:
        """The most input tokens it can be counted as."""
        parts = list(_prefixes(wire, model, body))
        whole = sum(length for _, length in parts)
        best, done = whole + UNSEEN, 0
        for name, length in parts:
            done += length
            if name in self._known:
                best = min(best, self._known[name] + whole - done)
        return best + images

    def learn(self, wire: Wire, model: str, body: Mapping[str, Any], counted: int) -> None:
        """Note what a request was counted as; each of its beginnings has at most that."""
        for name, _ in _prefixes(wire, model, body):
            self._known[name] = min(counted, self._known.get(name, counted))


def _prefixes(wire: Wire, model: str, body: Mapping[str, Any]) -> Iterator[tuple[bytes, int]]:
    """A name for each beginning of a conversation, and how many bytes longer it is than the one before."""
    turns = body.get(CONVERSATION[wire]) or []
    head = {name: value for name, value in body.items() if name != CONVERSATION[wire]}
    running = blake2b(f"{wire} {model}\0".encode(), digest_size=16)
    for part in [head, *(turns if isinstance(turns, list) else [turns])]:
        text = json.dumps(_still(part), ensure_ascii=False, sort_keys=True).encode("utf-8", "replace")
        running.update(text)
        yield running.digest(), len(text)


def _still(thing: Any) -> Any:
    if isinstance(thing, dict):
        return {name: _still(value) for name, value in thing.items() if name not in LOOSE}
    return [_still(one) for one in thing] if isinstance(thing, list) else thing
