"""The relay: the only way out of an agent's jail, to one model; it holds the key, counts, caps and records."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nightlab.values import Cost

Wire = Literal["messages", "chat", "responses", "gemini"]
"""Anthropic Messages, OpenAI Chat Completions, OpenAI Responses, Gemini generateContent."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A model as its provider serves it."""

    wire: Wire
    url: str
    """What the wire's own path is put behind, as the provider's programs take it in their BASE_URL variable."""
    model: str
    key: str = field(default="", repr=False)


@dataclass(slots=True)
class Line:
    """One call's connection: an HTTP server on a socket of its own."""

    socket: Path
    cost: Cost = Cost()
    """What its requests came to so far, those replayed from the cassette counted as they were when first made."""
    refusal: str | None = None
    """Why the relay answered no, where it did: a cap is reached. The call is to be recorded as out of budget."""


class Relay:
    """Serves lines to one study's models, all under the same caps."""

    def line(self, upstream: Upstream, folder: Path) -> AbstractContextManager[Line]:
        """A line to a model for one call; socket and cassette lie in the call's folder."""
        raise NotImplementedError
