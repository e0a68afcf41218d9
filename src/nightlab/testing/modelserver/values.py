"""What is asked of the scripted model and what it answers, the same for all four wires."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Wire = Literal["messages", "chat", "responses", "gemini"]
"""Anthropic Messages, OpenAI Chat Completions, OpenAI Responses, Gemini generateContent."""


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call. Arguments given as a string go out as they are: free text where the tool takes it, else broken."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What an agent says that a tool call brought."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One side's part of a conversation; tool results are the user's side in every wire."""

    role: Literal["user", "assistant"]
    text: str = ""
    calls: tuple[Call, ...] = ()
    results: tuple[Result, ...] = ()

    def __add__(self, other: Turn) -> Turn:
        text = "\n".join(part for part in (self.text, other.text) if part)
        return Turn(self.role, text, self.calls + other.calls, self.results + other.results)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens. `input` is all that was read, `cached` and `written` the parts of it read from and put into a cache."""

    input: int = 0
    output: int = 0
    cached: int = 0
    written: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.cached + other.cached,
            self.written + other.written,
        )

    @property
    def tokens(self) -> int:
        """Read and written together."""
        return self.input + self.output


class Tally(dict[str, Usage]):
    """The server's own count of what it answered, by model."""

    @property
    def total(self) -> Usage:
        """All models together."""
        return sum(self.values(), Usage())


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for an answer, as the program sent it and as it can be compared over the wires."""

    wire: Wire
    model: str
    system: str
    turns: tuple[Turn, ...]
    tools: Mapping[str, Mapping[str, Any]]
    """Name -> JSON Schema of its arguments; {"type": "string"} where the tool takes free text."""
    is_streamed: bool
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    path: str
    """With its query."""

    @property
    def has_result(self) -> bool:
        """Whether the last turn holds tool results: the agent has done something and asks what next."""
        return bool(self.turns and self.turns[-1].results)

    @property
    def prompt(self) -> str:
        """The last words of the user's side."""
        return next((turn.text for turn in reversed(self.turns) if turn.role == "user" and turn.text), "")

    @property
    def results(self) -> str:
        """What the tools said since the last answer."""
        return "\n".join(result.text for result in self.turns[-1].results) if self.turns else ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model says: prose, thoughts, tool calls. Without a usage the server counts by length."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    thinking: str = ""
    usage: Usage | None = None
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error in the wire's own words: 429, 500, 529, ...; `retry_after` in seconds."""

    status: int
    message: str = "scripted refusal"
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Hang:
    """Takes the request and says nothing; the connection breaks in the end."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Broken:
    """A reply whose connection breaks after so many events of a stream, or bytes of a plain answer."""

    reply: Reply
    after: int = 2


def malformed(name: str = "edit", arguments: str = '{"path": "train.py", "old') -> Reply:
    """A tool call whose arguments are no JSON, as small models write them."""
    return Reply(calls=(Call(name, arguments),))


Answer = Reply | Refusal | Hang | Broken
Script = Callable[[Asked], Answer] | Sequence[Answer]
"""What the model says to each request; of a sequence the last repeats."""


@dataclass(frozen=True, slots=True)
class Said:
    """A reply on its way to the wire: numbered, and counted."""

    asked: Asked
    reply: Reply
    usage: Usage
    number: int

    def call_id(self, call: Call, place: int, prefix: str = "call") -> str:
        """The call's own id, or one that is the same in every play of the script."""
        return call.id or f"{prefix}_{self.number}_{place}"


def merged(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Neighbours of the same side as one turn."""
    whole: list[Turn] = []
    for turn in turns:
        if whole and whole[-1].role == turn.role:
            whole[-1] += turn
        else:
            whole.append(turn)
    return tuple(whole)


def pieces(text: str, size: int = 40) -> list[str]:
    """A text in the bits that a stream brings it in."""
    return [text[start : start + size] for start in range(0, len(text), size)]


def words(content: Any) -> str:
    """The text of what a wire calls content: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict) and "text" in part)
    return "" if content is None else str(content)
