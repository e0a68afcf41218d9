"""The coding agents themselves, installed for real, in the jail, against the scripted model: `make test-agents`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from workrooms import Room, asked, context, git, room

from nightlab import tasks as nightlab_tasks
from nightlab.agents import detect
from nightlab.agents.relay import Prices, Relay
from nightlab.testing.modelserver import Answer, Asked, Call, ModelServer, Reply, edit

pytestmark = pytest.mark.agents

PLACE = Path(os.environ["NIGHTLAB_AGENTS"]).absolute()
"""Where `make test-agents` installed them."""
PATH = f"{PLACE / 'node_modules' / '.bin'}:{PLACE / 'aider' / 'bin'}:{os.environ['PATH']}"
VARIABLES = {
    "messages": ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", ""),
    "chat": ("OPENAI_API_KEY", "OPENAI_BASE_URL", "/v1"),
    "responses": ("OPENAI_API_KEY", "OPENAI_BASE_URL", "/v1"),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL", ""),
}
AGENTS = [
    ("claude:scripted", "messages"),
    ("codex:scripted", "responses"),
    ("opencode:scripted", "chat"),
    ("opencode:scripted", "messages"),
    ("pi:scripted", "chat"),
    ("pi:scripted", "messages"),
    ("gemini:scripted", "gemini"),
    ("qwen:scripted", "chat"),
    ("aider:scripted", "chat"),
    ("acp:scripted:gemini --acp -m {model}", "gemini"),
    ("acp:scripted:qwen --acp --auth-type openai -m {model}", "chat"),
]
STEPS = [
    ("ORDER = 1  # bytes of context of the first model", "ORDER = 2", "a longer context knows more"),
    ("SECOND_ORDER = 1  # and of the second", "SECOND_ORDER = 3", "the second model may look back farther"),
    ("MIX = 0.0  # weight of the second model", "MIX = 0.4", "two models know more than one"),
    ("PRIOR = 1.0  # how often either bit is taken to have come before anything was seen", "PRIOR = 0.3", "trust more"),
    ("DECAY = 0.8  # what is left of the other bit's count", "DECAY = 0.9", "older counts still tell something"),
]


@dataclass
class Researcher:
    """A scripted model that makes one change of `compress` a call: reads where it has to, edits, explains."""

    file: str = "model.py"
    calls: int = 0
    step: tuple[str, str, str] = STEPS[0]

    def __call__(self, asked: Asked) -> Answer:
        """The next word of whichever conversation this is."""
        if "HYPOTHESIS: <one sentence>" not in json.dumps(asked.body):
            return Reply("a title")  # asked in passing
        is_new = not any(turn.role == "assistant" for turn in asked.turns)
        if is_new or not asked.tools:  # aider's prompt holds a conversation as an example
            self.step, self.calls = STEPS[self.calls % len(STEPS)], self.calls + 1
            if reading := next((name for name in ("Read", "read_file") if name in asked.tools), None):
                return Reply(calls=(Call(reading, {"file_path": self.path(asked)}),))
            return self.edited(asked)
        has_read = "Read" in asked.tools or "read_file" in asked.tools
        if has_read and sum(turn.role == "assistant" for turn in asked.turns) == 1:
            return self.edited(asked)
        return Reply(f"Done.\n\nHYPOTHESIS: {self.step[2]}")

    def edited(self, asked: Asked) -> Reply:
        old, new, why = self.step
        reply = edit(asked, self.path(asked), old, new)
        return reply if reply.calls else Reply(f"{reply.text}\nHYPOTHESIS: {why}\n")

    def path(self, asked: Asked) -> str:
        """Where the prompt says that the tree is."""
        return (
            json.dumps(asked.body).split("edit the files in place, in ")[1].split(". Only these")[0] + f"/{self.file}"
        )


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The task `compress`, ready to be studied."""
    place = tmp_path / "study"
    place.mkdir()
    subprocess.run([sys.executable, "-m", "nightlab", "init", "compress"], cwd=place, check=True, capture_output=True)
    if not (place / ".git").exists():
        git(place, "init", "-q", "-b", "main")
    git(place, "add", "-A")
    git(place, "commit", "-q", "--allow-empty", "-m", "start")
    return place


def nightlab(place: Path, *words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": PATH, "HOME": str(place.parent), "LANG": "C.UTF-8", **env}
    return subprocess.run(
        [sys.executable, "-m", "nightlab", *words], cwd=place, env=clean, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize(("name", "wire"), AGENTS)
def test_an_agent_runs_a_study_of_five_experiments(study: Path, name: str, wire: str) -> None:
    key, url, behind = VARIABLES[wire]
    with ModelServer(Researcher(), models=("scripted",)) as server:
        env = {key: "sk-real-0123456789", url: server.url + behind}
        done = nightlab(study, "run", "--agent", name, "--drafts", "1", "--experiments", "5", "--json", env=env)
        counted = server.usage.total.tokens

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    told = json.loads(nightlab(study, "status", "--json", env={}).stdout)
    rows = [json.loads(row) for row in nightlab(study, "log", "--json", env={}).stdout.splitlines()]
    assert told["cost"]["tokens"] == counted > 0
    assert sum(row["proposer"] == name for row in rows) >= 5


@pytest.mark.parametrize(("name", "wire"), AGENTS)
def test_a_call_that_is_made_again_is_not_paid_again(room: Room, name: str, wire: str) -> None:
    key, url, behind = VARIABLES[wire]
    model = Path(nightlab_tasks.__file__).parent / "compress" / "model.py"
    given = context(files={"train.py": model.read_text()})
    relay = Relay(Prices())
    with ModelServer(Researcher("train.py"), models=("scripted",)) as server:
        env = {"PATH": PATH, key: "sk-real-0123456789", url: server.url + behind}
        agent = asked(name, room(environ=env, relay=relay))

        first = agent.propose(given)
        paid = server.usage.total.tokens
        second = agent.propose(given)

        assert server.usage.total.tokens == paid == first.cost.tokens == second.cost.tokens > 0
    relay.close()
    assert first.files == second.files != {}


@pytest.mark.parametrize("agent", ["claude", "codex", "opencode", "pi", "gemini", "qwen", "aider"])
def test_an_installed_agent_is_found_with_its_version(agent: str) -> None:
    found = {one.name: one for one in detect.installed({"PATH": PATH})}[agent]

    assert found.version
    assert found.problem.startswith("no key; export")
