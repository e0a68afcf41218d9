"""A model as its provider serves it, in one of four wire formats."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

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
