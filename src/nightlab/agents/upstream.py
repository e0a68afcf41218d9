"""A model as its provider serves it, in one of four wire formats."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from nightlab.errors import BadPlugin

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

    def __post_init__(self) -> None:
        """Raises BadPlugin where address or key could not be sent; of a key, it does not say more than that.

        What sends them would quote the whole key in its complaint, from where it would come into logs and the ledger.
        """
        try:
            _ = urlsplit(self.url).port
        except ValueError as error:
            raise BadPlugin(f"{self.shown} is no address of a model: {error}; write one like https://host/v1") from None
        if any(not "!" <= letter <= "~" for letter in self.key):
            raise BadPlugin(
                f"the key for {self.shown} holds a letter that no key has (a space, the end of a line, an accent); "
                "set its variable anew"
            )

    @property
    def shown(self) -> str:
        """The address as it may be printed: without a password in it."""
        return re.sub(r"//[^/]*@", "//", self.url)
