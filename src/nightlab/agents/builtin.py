"""The built-in agent: for anyone with a model's endpoint and no coding agent. One question, one answer, one edit.

    briefing + files  ->  model  ->  hypothesis + edit  ->  proposal
                            ^            |
                            +-- once ----+   what did not apply, or that there was no edit at all

It is asked in the very same words after a kill, since the prompt lies in the call's folder and nothing in a request
depends on the time: what was paid for is then played from the relay's cassette. It has no tools and runs nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from nightlab.agents import edits
from nightlab.agents.briefing import with_files
from nightlab.agents.model import FIRST_PAUSE, Model, Turn, Unanswered
from nightlab.agents.relay import Line, Upstream, Wire
from nightlab.agents.workroom import Workroom
from nightlab.errors import BadPlugin
from nightlab.proposer import Context
from nightlab.values import Experiment, Proposal

PROMPT = "prompt.md"


class BuiltIn:
    """Asks a model for a hypothesis and an edit, tells it once what cannot be used, and proposes what comes of it."""

    def __init__(
        self,
        workroom: Workroom,
        upstream: Upstream,
        *,
        briefing: Callable[[Context], str],
        name: str = "builtin",
        drafts: int = 2,
        pause: float = FIRST_PAUSE,
    ) -> None:
        if upstream.wire not in ("chat", "messages"):
            raise BadPlugin(
                f"the built-in agent speaks chat and messages, not {upstream.wire!r}; use an endpoint of one of these"
            )
        self.name, self.drafts = name, drafts
        self._workroom, self._upstream, self._briefing, self._pause = workroom, upstream, briefing, pause
        self._calls: list[Model] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def propose(self, context: Context) -> Proposal:
        """What the model proposes; where nothing usable came of the call, a proposal that says what went wrong."""
        began = time.monotonic()
        folder = self._workroom.home / f"draft-{context.draft}"
        turns = [Turn("user", self._prompt(folder, context))]
        with self._workroom.relay.line(self._upstream, folder) as line:
            model = self._model(line)
            with self._lock:
                self._calls.append(model)
                if self._is_closed:  # while the prompt was written
                    model.end()
            try:
                proposal = self._talked(model, turns, context)
            except Unanswered as trouble:
                proposal = _failure(self.name, str(trouble), line.refusal)
            finally:
                with self._lock:
                    self._calls.remove(model)
        return replace(proposal, cost=replace(line.cost, seconds=time.monotonic() - began))

    def learn(self, experiment: Experiment) -> None:
        """Nothing to remember: each call is told the history anew."""

    def close(self) -> None:
        """End the calls under way; those that are about to begin do not."""
        with self._lock:
            self._is_closed = True
            for model in self._calls:
                model.end()

    def _model(self, line: Line) -> Model:
        upstream = self._upstream
        return Model(
            line.socket,
            upstream.wire,
            upstream.model,
            self._workroom.seconds,
            self._pause,
            lambda: line.refusal is not None,
        )

    def _prompt(self, folder: Path, context: Context) -> str:
        """What the call's folder holds already, else made now and put there before anything is asked."""
        place = folder / PROMPT
        try:
            return place.read_text(encoding="utf-8")
        except FileNotFoundError:
            text = f"{with_files(self._briefing(context), context)}\n## How to answer\n\n{edits.FORMAT}"
        folder.mkdir(parents=True, exist_ok=True)
        half = place.with_suffix(".part")
        with half.open("w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        half.replace(place)
        return place.read_text(encoding="utf-8")

    def _talked(self, model: Model, turns: list[Turn], context: Context) -> Proposal:
        """Ask, and once more where what came cannot be used."""
        said = model.answer(turns)
        answer = self._read(said, context)
        if wrong := _wrong(answer):
            turns = [*turns, Turn("assistant", said or "(nothing)"), Turn("user", _told_back(wrong))]
            answer = self._read(model.answer(turns), context)
        if answer.has_given_up and not answer.files:
            raise Unanswered(f"it gave up: {answer.hypothesis}")
        if wrong := _wrong(answer):
            raise Unanswered(f"told once what was wrong, it answered again with what cannot be used: {wrong}")
        facts = {"space": [dict(knob) for knob in answer.space]} if answer.space else {}
        hypothesis = answer.hypothesis or f"an edit of {', '.join(sorted(answer.files))}, without a reason given"
        return Proposal(hypothesis, dict(answer.files), facts, answer.expected)

    def _read(self, said: str, context: Context) -> edits.Answer:
        return edits.read(said, context.files, self._workroom.task.is_editable)


def _wrong(answer: edits.Answer) -> str:
    """Why an answer cannot be used, in words for the model; nothing where it can."""
    if answer.troubles:
        return "; ".join(answer.troubles)[:3000]
    if answer.files or answer.space or answer.has_given_up:
        return ""
    return f"it holds no edit (it says: {answer.hypothesis[:120]!r})"


def _told_back(wrong: str) -> str:
    return (
        f"Nothing of your answer was used: {wrong}\n\n"
        "Answer once more, with the whole answer: the HYPOTHESIS line and every block, not only those that failed. "
        "This is the last time you are asked.\n"
    )


def _failure(name: str, why: str, refusal: str | None) -> Proposal:
    if refusal is None:
        return Proposal(f"{name} proposed nothing that can be run", {}, {"failure": why})
    return Proposal(f"{name} was refused", {}, {"failure": refusal, "exhausted": refusal})


# --- which model ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Provider:
    wire: Wire
    key: str
    base: str
    url: str


PROVIDERS = {
    "openai": _Provider("chat", "OPENAI_API_KEY", "OPENAI_BASE_URL", "https://api.openai.com/v1"),
    "anthropic": _Provider("messages", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
}


def upstream(name: str, model: str, environ: Mapping[str, str]) -> Upstream:
    """The model behind `--agent openai:MODEL` or `anthropic:MODEL`, with the key and address of the environment.

    Raises BadPlugin, naming what is missing. A server on this machine needs no key.
    """
    if name not in PROVIDERS:
        raise BadPlugin(f"no model endpoint is called {name!r}; there are: {', '.join(sorted(PROVIDERS))}")
    provider = PROVIDERS[name]
    if not model.strip():
        raise BadPlugin(f"{name} needs the name of a model: write --agent {name}:MODEL")
    url = environ.get(provider.base, "").strip().rstrip("/") or provider.url
    key = environ.get(provider.key, "").strip()
    found = Upstream(provider.wire, url, model.strip(), key)
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise BadPlugin(
            f"{provider.base} is {found.shown!r}, which is no address; write for example http://127.0.0.1:8000/v1"
        )
    if not key and not is_here(url):
        raise BadPlugin(
            f"{provider.key} is not set, and {urlsplit(url).hostname} wants a key: export {provider.key}=..., "
            f"or set {provider.base} to a server on this machine, which needs none"
        )
    return found


def is_here(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
