"""The template: how one coding agent is called, as data; a new agent needs a TOML file and no code."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from nightlab.agents.upstream import Upstream, Wire
from nightlab.errors import BadPlugin

SHIPPED = Path(__file__).parent / "templates"
NAMES = frozenset({"prompt", "prompt_file", "worktree", "model", "session", "url", "home", "files", "command"})
"""What a template may write in braces."""
_NAME = re.compile(r"\{([a-z_]+)\}")


def _known(text: str) -> str:
    if unknown := set(_NAME.findall(text)) - NAMES:
        raise ValueError(
            f"{{{min(unknown)}}} is not known; there are {', '.join(f'{{{name}}}' for name in sorted(NAMES))}"
        )
    return text


Text = Annotated[str, AfterValidator(_known)]
Words = tuple[Text | Annotated[tuple[Text, ...], Field(strict=False)], ...]
"""A command line; a list in it is left out where something that it names is empty."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Provider(_Part):
    """[[provider]]: whose models an agent can speak to, and by which of the user's variables."""

    wire: Wire
    key: str
    """The user's variable that holds the key."""
    url: str
    """The user's variable that holds another address than the public one."""
    address: str
    model: str = ""
    """The model where the user names none; empty: one has to be named."""
    env: dict[str, Text] = {}
    files: dict[str, Text] = {}


class Find(_Part):
    """Where something stands in a stream of JSON lines: the last line in which `when` holds, there at `path`."""

    path: str
    when: dict[str, str] = {}
    joined: bool = False
    """Whether it comes in pieces, a line for each."""


class Output(_Part):
    """[output]: what an agent prints: JSON lines with something to be found in them, or plain words."""

    form: Literal["jsonl", "plain"] = "plain"
    text: Find | None = None
    error: Find | None = None
    session: Find | None = None


_ACP = Output(
    form="jsonl",
    text=Find(path="text", when={"event": "text"}, joined=True),
    error=Find(path="text", when={"event": "error"}),
    session=Find(path="id", when={"event": "session"}),
)
"""What our own client prints of a conversation, whichever agent it is with."""


class Template(_Part):
    """One coding agent: how it is called, what it is given, what it leaves."""

    name: str = Field(min_length=1, pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    argv: Annotated[Words, Field(strict=False, min_length=1)]
    provider: Annotated[tuple[Provider, ...], Field(strict=False, min_length=1)]
    title: str = ""
    install: str = ""
    """The line that installs it, for whoever has not."""
    speaks_acp: bool = False
    """Whether it is spoken to by the Agent Client Protocol rather than by its command line."""
    stdin: bool = False
    """Whether the prompt is what it reads on its standard input."""
    env: dict[str, Text] = {}
    files: dict[str, Text] = {}
    """Below its private HOME: what is written there before it starts."""
    leaves: tuple[str, ...] = Field(default=(), strict=False)
    """Globs of what it leaves in the tree for itself."""
    readable: tuple[str, ...] = Field(default=(), strict=False)
    """Files and folders of this machine that it needs besides its own program."""
    silence: float = Field(default=600.0, gt=0)
    """Seconds without a word after which it is taken to hang."""
    output: Output = Output()

    @property
    def prints(self) -> Output:
        """What there is to be read of a call."""
        return _ACP if self.speaks_acp else self.output

    def needs(self, name: str) -> bool:
        """Whether it cannot be called without this."""
        texts = [word for word in self.argv if isinstance(word, str)]
        texts += [*self.env.values(), *self.files.values()]
        for provider in self.provider:
            texts += [*provider.env.values(), *provider.files.values()]
        return any(name in _NAME.findall(text) for text in texts)

    def command(self, values: Mapping[str, str]) -> list[str]:
        """Its command line, names still in braces, without the lists that name something empty."""
        words: list[str] = []
        for word in self.argv:
            if isinstance(word, str):
                words.append(word)
            elif all(values.get(name) for text in word for name in _NAME.findall(text) if name != "url"):
                words += word
        return words


@dataclass(frozen=True, slots=True)
class Hire:
    """A template with what its user chose: a model or, where it asks for one, a command."""

    template: Template
    provider: Provider
    upstream: Upstream
    command: tuple[str, ...] = ()

    @property
    def program(self) -> str:
        """What is looked up to start it."""
        first = self.command[0] if self.command else self.template.argv[0]
        return first if isinstance(first, str) else first[0]


def names() -> list[str]:
    """The templates that ship."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load(name: str) -> Template:
    """A template by its name, or from a file that ends in .toml. Raises BadPlugin with what there is."""
    return _checked(_read(name), name)


def hire(spec: str, environ: Mapping[str, str]) -> Hire:
    """What `--agent NAME[:MODEL]` names, with the user's key; raises an error that says what is missing."""
    name, chosen = split(spec)
    template = load(name)
    provider = _provider(template, environ)
    command: tuple[str, ...] = ()
    if template.needs("command"):
        chosen, _, text = chosen.rpartition(":")
        command = _command(template, text)
    model = chosen or provider.model
    if not model:
        raise BadPlugin(
            f"{template.name} has to be told its model; write --agent {name}:MODEL{':COMMAND' * bool(command)}"
        )
    address, key = environ.get(provider.url, "").strip() or provider.address, environ.get(provider.key, "").strip()
    return Hire(template, provider, Upstream(provider.wire, address, model, key), command)


def split(spec: str) -> tuple[str, str]:
    """NAME[:MODEL], or PATH.toml[:MODEL]; a model may have colons of its own."""
    found = re.fullmatch(r"(.+?\.toml|[^:]*)(?::(.*))?", spec, re.DOTALL)
    assert found  # its second half takes whatever the first does not
    return found[1], found[2] or ""


def _command(template: Template, text: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise BadPlugin(f"{text!r} is no command: {error}; mend its quotation marks") from error
    if not words:
        raise BadPlugin(f"{template.name} has to be told what to start; write --agent '{template.name}:MODEL:COMMAND'")
    return words


def _provider(template: Template, environ: Mapping[str, str]) -> Provider:
    """The first whose key the user has, or who is served at an address of the user's own."""
    for variable in ("key", "url"):
        for provider in template.provider:
            if environ.get(getattr(provider, variable)):
                return provider
    keys = " or ".join(dict.fromkeys(provider.key for provider in template.provider))
    first = template.provider[0]
    raise BadPlugin(
        f"{template.name} has no key: {keys} is not set; export {first.key}=..., or, for a server of your own that "
        f"asks for none, {first.url}=http://..."
    )


def _read(name: str) -> dict[str, Any]:
    if not name.endswith(".toml") and name not in names():
        near = get_close_matches(name, names(), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadPlugin(f"no agent is called {name!r}{hint} There are: {', '.join(names())}, or a file NAME.toml")
    path = Path(name) if name.endswith(".toml") else SHIPPED / f"{name}.toml"
    try:
        words = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadPlugin(f"cannot read the agent's template {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadPlugin(f"{path} is not TOML: {error}; mend that line") from error
    like = words.pop("like", None)
    if like is None:
        return words
    if like not in names():
        raise BadPlugin(f"{path}: like = {like!r} names no agent; there are: {', '.join(names())}")
    return _over(_read(like), words)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """One template over another: variables and files are added to, all else is replaced."""
    merged = below | above
    for name in ("env", "files"):
        both = below.get(name, {}), above.get(name, {})
        if all(isinstance(part, dict) for part in both):
            merged[name] = both[0] | both[1]
    return merged


def _checked(words: dict[str, Any], name: str) -> Template:
    try:
        return Template.model_validate(words)
    except ValidationError as error:
        raise BadPlugin(f"the agent's template {name} is wrong: {'; '.join(_complaints(error))}") from error


def _complaints(error: ValidationError) -> Iterator[str]:
    for complaint in error.errors():
        place = ".".join(map(str, complaint["loc"]))
        known = list(Template.model_fields)
        near = get_close_matches(place, known, 1) if complaint["type"] == "extra_forbidden" else []
        yield f"{place}: {complaint['msg']}" + (f"; did you mean {near[0]}?" if near else "")
