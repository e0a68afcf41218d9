"""The crew: who proposes in a study, from the names on the command line.

tuner, unchanged, module:attribute     instant proposers, by the door that any plugin comes in
openai:MODEL, anthropic:MODEL          the built-in agent, for anyone with an endpoint
claude, codex, ... [:MODEL]            coding agents on the command line, by their templates; or a template file

Agents share one relay, which holds their keys and the study's caps, and slots of their own to think in.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from nightlab import plugins
from nightlab.agents import builtin, template
from nightlab.agents.briefing import briefing
from nightlab.agents.builtin import BuiltIn
from nightlab.agents.command_line import CommandLineAgent
from nightlab.agents.prices import Prices
from nightlab.agents.relay import Caps, Relay, Upstream
from nightlab.agents.template import Hire
from nightlab.agents.workroom import Workroom
from nightlab.errors import BadPlugin, NightlabError, NotFound
from nightlab.executor import LocalExecutor
from nightlab.lineage import changes
from nightlab.place import find
from nightlab.proposer import Context, Proposer
from nightlab.study import Study
from nightlab.tuner.asked import Asked
from nightlab.workspace import Checkout

PRICES_FILE = "prices.toml"
_NEEDED = ("httpx", "uvicorn")
Say = Callable[[str], None]


@dataclass(slots=True)
class Crew:
    """Those who propose, checked at the door: every agent's key is there, its program found, its endpoint answering."""

    names: Sequence[str]
    drafts: int = 2
    """How many calls of one agent may be under way."""
    seconds: float = 900.0
    """Wall time of one call."""
    money: float | None = None
    tokens: int | None = None
    replay: str | None = None
    """A study whose recorded conversations answer, in place of any model."""
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    say: Say = print
    _hired: dict[str, Hire | Upstream] = field(default_factory=dict)
    _room: Workroom | None = None
    _is_checked: bool = False
    _has_warned: bool = False

    def __post_init__(self) -> None:
        for name in self.names:
            if hired := self._hire(name):
                self._hired[name] = hired
            else:
                plugins.proposers(name)
        missing = [name for name in _NEEDED if self._hired and find_spec(name) is None]
        if missing:
            raise BadPlugin(f'agents need {", ".join(missing)}, not installed here: pip install "nightlab[agents]"')

    def _hire(self, name: str) -> Hire | Upstream | None:
        """A coding agent or a model; None where the name is a plugin's."""
        head, _, model = name.partition(":")
        if head in builtin.PROVIDERS:
            return builtin.upstream(head, model, self.environ)
        if head in template.names() or head.endswith(".toml"):
            return template.hire(name, self.environ)
        return None

    def gather(self, study: Study) -> list[Proposer]:
        """Fresh proposers for one stretch of a study; the last stretch's are sent home."""
        self.close()
        found: list[Proposer] = []
        for name in self.names:
            hired = self._hired.get(name)
            if hired is None:
                found += plugins.proposers(name)
                continue
            room = self._workroom(study)
            agent: BuiltIn | CommandLineAgent
            if isinstance(hired, Upstream):
                agent = BuiltIn(room, hired, briefing=self._briefing(study), name=name)
            else:
                agent = CommandLineAgent(hired, room, self._briefing(study), name=name)
            agent.drafts = self.drafts
            found.append(agent)
        if self._hired and not any(one.name == Asked.name for one in found):
            found.append(Asked())  # whoever asks for a search space gets it searched, without the rest of the tuner
        return found

    def _briefing(self, study: Study) -> Callable[[Context], str]:
        return lambda context: briefing(context, task=study.task)

    def _workroom(self, study: Study) -> Workroom:
        if self._room is None:
            home = study.place.home / "agents"
            if self.replay:
                lend(find(study.place.root, self.replay).home / "agents", home, study=self.replay)
            relay = Relay(
                Prices.load(self._prices(study.place.root)),
                Caps(money=self.money, tokens=self.tokens),
                warn=self._warn,
                replay_only=self.replay is not None,
            )
            relay.recall(home)
            self._room = Workroom(
                home=home,
                task=study.task,
                executor=LocalExecutor(
                    self.drafts * len(self._hired), None if study.task.live else study.executor.level
                ),
                relay=relay,
                lay=lambda folder, context: laid(study, folder, context),
                environ=self.environ,
                seconds=self.seconds,
            )
            self._check_endpoints(relay)
        return self._room

    def _warn(self, words: str) -> None:
        if not self._has_warned:  # every stretch has a relay of its own, which warns anew
            self._has_warned = True
            self.say(f"warning, 80 % of the cap: {words}")

    def _check_endpoints(self, relay: Relay) -> None:
        """Once, at the door: an endpoint that is down for a moment at a checkpoint costs time, not the night."""
        if self._is_checked:
            return
        for name, hired in self._hired.items():
            upstream = hired if isinstance(hired, Upstream) else hired.upstream
            if trouble := relay.preflight(upstream):
                raise NightlabError(f"the agent {name} cannot reach its model: {trouble}")
        self._is_checked = True

    def _prices(self, root: Path) -> Path | None:
        named = self.environ.get("NIGHTLAB_PRICES")
        path = Path(named) if named else root / PRICES_FILE
        return path if named or path.is_file() else None

    def close(self) -> None:
        """End every call under way."""
        if self._room is not None:
            self._room.close()
            self._room = None


def lend(source: Path, home: Path, *, study: str) -> None:
    """Give a study the conversations that another one recorded, call by call; what it has itself stays."""
    cassettes = sorted(source.glob("draft-*/cassette.jsonl"))
    if not cassettes:
        raise NotFound(f"study {study} has no recorded conversations under {source}; name one in which agents proposed")
    for cassette in cassettes:
        copy = home / cassette.parent.name / cassette.name
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(cassette, copy)


def laid(study: Study, folder: Path, context: Context) -> Checkout:
    """The whole tree that a context's files belong to, without what the judge hides."""
    repository = study.place.repository
    commit = study.ledger.experiment(context.incumbent).commit
    tree = repository.tree(str(commit))
    before = {
        path: text
        for path in tree.entries
        if study.task.is_editable(path) and (text := repository.text(tree, path)) is not None
    }
    texts = changes(before, dict(context.files))
    hidden = [path for path in tree.entries if study.task.is_hidden(path)]
    checkout = Checkout(folder, repository)
    checkout.lay(tree.changed(texts), without=hidden, texts=texts)
    return checkout
