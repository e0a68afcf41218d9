"""The built-in agent against a scripted model over real HTTP: what it asks and takes, and its failures in words."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nightlab.agents.briefing import briefing
from nightlab.agents.builtin import BuiltIn, is_here, upstream
from nightlab.agents.edits import LONGEST_ANSWER
from nightlab.agents.prices import Price
from nightlab.agents.relay import Caps, Prices, Relay, Upstream
from nightlab.agents.workroom import Workroom
from nightlab.errors import BadPlugin
from nightlab.executor import LocalExecutor
from nightlab.proposer import Context, Proposer, Trace
from nightlab.task import parse
from nightlab.testing.modelserver import Asked, Broken, Hang, ModelServer, Refusal, Reply, Script
from nightlab.values import Experiment, Proposal, Status

TASK = parse('[task]\nrun = "python train.py"\neditable = ["train.py"]\n[metric]\nname = "loss"\ndirection = "lower"\n')
TRAIN = "RATE = 0.1\nWIDTH = 64\n"
CONTEXT = Context({"train.py": TRAIN}, "loss", "lower", 3, 1, value=1.0, sigma=0.1, instructions="Lower it.", draft=3)
GOOD = """\
HYPOTHESIS: a higher rate learns sooner
EXPECTED: 0.05

train.py
<<<<<<< SEARCH
RATE = 0.1
=======
RATE = 0.3
>>>>>>> REPLACE
"""
BETTER = {"train.py": "RATE = 0.3\nWIDTH = 64\n"}
PROSE = "I would raise the rate. That should help."
SPACE = '```space\n[{"path": "train.py", "name": "RATE", "low": 0.01, "high": 1, "scale": "log"}]\n```\n'
WIRES = ("chat", "messages")
FREE = Caps()


@contextmanager
def agent(
    home: Path, script: Script, wire: Any = "chat", seconds: float = 20.0, caps: Caps = FREE
) -> Iterator[tuple[BuiltIn, ModelServer]]:
    def lay(folder: Path, context: Context) -> Any:
        raise AssertionError("the built-in agent needs no tree")

    def tell(context: Context) -> str:
        return briefing(context, task=TASK)

    prices = Prices({"a-model": Price(1.0, 4.0, 1.0, 1.0)})
    with ModelServer(script, models=("a-model",)) as server, closing(Relay(prices, caps)) as relay:
        room = Workroom(home, TASK, LocalExecutor(), relay, lay, {}, seconds)
        url = f"{server.url}/v1" if wire == "chat" else server.url
        yield BuiltIn(room, Upstream(wire, url, "a-model", "sk-secret"), briefing=tell, pause=0.01), server


def proposed(home: Path, *script: Any, wire: str = "chat", context: Context = CONTEXT) -> tuple[Proposal, list[Asked]]:
    with agent(home, script, wire) as (builtin, server):
        return builtin.propose(context), server.asked


def test_it_is_a_proposer_that_takes_its_time(tmp_path: Path) -> None:
    with agent(tmp_path, [Reply(GOOD)]) as (builtin, _):
        assert isinstance(builtin, Proposer)
        assert (builtin.name, builtin.drafts) == ("builtin", 2)
        builtin.learn(Experiment(1, 0, Status.KEPT, "h", "builtin"))


@pytest.mark.parametrize("wire", WIRES)
def test_an_answer_becomes_a_proposal_with_its_cost(tmp_path: Path, wire: str) -> None:
    proposal, asked = proposed(tmp_path, Reply(GOOD, thinking="hm, the rate"), wire=wire)

    assert proposal.files == BETTER
    assert proposal.hypothesis == "a higher rate learns sooner"
    assert proposal.expected == 0.05
    assert proposal.facts == {}
    assert proposal.cost.tokens > 100
    assert 0 < proposal.cost.money < 0.01
    assert proposal.cost.seconds > 0
    assert len(asked) == 1
    assert asked[0].wire == wire
    assert asked[0].model == "a-model"


def test_the_model_is_told_the_briefing_the_files_and_how_to_answer(tmp_path: Path) -> None:
    _, (asked,) = proposed(tmp_path, Reply(GOOD))

    (turn,) = asked.turns
    assert turn.text == (tmp_path / "draft-3" / "prompt.md").read_text()
    assert turn.text.startswith(briefing(CONTEXT, task=TASK))
    assert f"train.py\n```\n{TRAIN}```" in turn.text
    assert "<<<<<<< SEARCH" in turn.text


@pytest.mark.parametrize("wire", WIRES)
def test_the_same_context_asks_in_the_same_bytes(tmp_path: Path, wire: str) -> None:
    _, first = proposed(tmp_path / "a", Reply(PROSE), wire=wire)
    _, second = proposed(tmp_path / "b", Reply(PROSE), wire=wire)

    assert [asked.body for asked in first] == [asked.body for asked in second]
    assert len(first) == 2


def test_a_call_that_was_begun_is_asked_again_in_its_own_words(tmp_path: Path) -> None:
    _, (first,) = proposed(tmp_path, Refusal(400, "a call that came to nothing"))

    later = replace(CONTEXT, steering=["Something new."], value=0.5)
    _, (again,) = proposed(tmp_path, Reply(GOOD), context=later)

    assert again.body == first.body


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (PROSE, "it holds no edit"),
        ("", "it holds no edit"),
        (GOOD.replace("RATE = 0.1", "RATE = 9"), "its SEARCH line 'RATE = 9' is not in the file"),
        (GOOD.replace("train.py", "judge.py"), "judge.py is not editable; editable here: train.py"),
        (SPACE.replace("RATE", "NOTHING"), "there is no name 'NOTHING'"),
    ],
)
def test_what_cannot_be_used_is_told_back_once(tmp_path: Path, bad: str, words: str) -> None:
    proposal, asked = proposed(tmp_path, Reply(bad), Reply(GOOD), wire="messages")

    assert proposal.files == BETTER
    assert [turn.role for turn in asked[1].turns] == ["user", "assistant", "user"]
    assert words in asked[1].prompt


def test_what_cannot_be_used_twice_is_a_failure_in_words(tmp_path: Path) -> None:
    proposal, asked = proposed(tmp_path, Reply(PROSE))

    assert len(asked) == 2
    assert proposal.files == {}
    assert "it holds no edit (it says: 'I would raise the rate.')" in proposal.facts["failure"]
    assert "exhausted" not in proposal.facts
    assert proposal.cost.tokens > 0


def test_a_search_may_be_asked_for_instead_of_a_value(tmp_path: Path) -> None:
    proposal, _ = proposed(tmp_path, Reply("HYPOTHESIS: the rate was never searched\n" + SPACE))

    knob = {"path": "train.py", "name": "RATE", "low": 0.01, "high": 1.0, "scale": "log"}
    assert proposal.files == {}
    assert proposal.facts == {"space": [knob]}
    assert proposal.hypothesis == "the rate was never searched"


def test_a_crash_is_repaired_in_a_call_of_its_own(tmp_path: Path) -> None:
    patch = (
        "diff --git a/train.py b/train.py\n--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-RATE = 0.1\n+RATE = rate()\n"
    )
    failed = Experiment(8, 0, Status.CRASHED, "a rate of its own", "builtin", reason="exit code 1", diff=patch)
    broken = {"train.py": TRAIN.replace("0.1", "rate()")}
    context = replace(CONTEXT, files=broken, mends=failed, traces={8: Trace("NameError: rate")}, draft=4)

    proposal, (asked,) = proposed(tmp_path, Reply(GOOD.replace("RATE = 0.1", "RATE = rate()")), context=context)

    assert "Your experiment #8 failed. Repair it" in asked.prompt
    assert "NameError: rate" in asked.prompt
    assert proposal.files == BETTER


def test_giving_up_is_a_failure_that_is_not_asked_about(tmp_path: Path) -> None:
    proposal, asked = proposed(tmp_path, Reply("GIVE UP: the idea cannot work here."))

    assert len(asked) == 1
    assert "it gave up: GIVE UP: the idea cannot work here." in proposal.facts["failure"]


PASSING = [Refusal(429, retry_after=0), Refusal(500), Refusal(529), Broken(Reply(GOOD), 3), Broken(Reply(GOOD), 0)]


@pytest.mark.parametrize("wire", WIRES)
def test_what_passes_is_tried_again(tmp_path: Path, wire: str) -> None:
    proposal, asked = proposed(tmp_path, *PASSING, Reply(GOOD), wire=wire)

    assert proposal.files == BETTER
    assert len(asked) == 6


def test_a_storm_that_does_not_pass_ends_in_words(tmp_path: Path) -> None:
    proposal, asked = proposed(tmp_path, Refusal(529, "overloaded"))

    assert len(asked) == 6
    assert proposal.facts == {"failure": "the endpoint answered 529: overloaded"}


def test_what_does_not_pass_is_not_tried_again(tmp_path: Path) -> None:
    proposal, asked = proposed(tmp_path, Refusal(401, "no such\x1b[2J key"))

    assert len(asked) == 1
    assert proposal.facts["failure"].startswith("the endpoint answered 401: no such [2J key")


def test_a_wait_longer_than_the_call_is_not_begun(tmp_path: Path) -> None:
    proposal, asked = proposed(tmp_path, Refusal(429, "slow down", retry_after=3600))

    assert len(asked) == 1
    assert "429: slow down; the next attempt would be 3.6e+03 s away" in proposal.facts["failure"]


def test_an_endpoint_that_hangs_costs_the_calls_time_and_no_more(tmp_path: Path) -> None:
    with agent(tmp_path, [Hang(30)], seconds=0.4) as (builtin, _):
        began = time.monotonic()

        proposal = builtin.propose(CONTEXT)

    assert time.monotonic() - began < 3
    assert proposal.facts == {"failure": "no whole answer came within 0.4 s"}


def test_a_call_can_be_ended_from_outside_while_the_model_thinks(tmp_path: Path) -> None:
    with agent(tmp_path, [Hang(30)], seconds=60) as (builtin, server):
        found: list[Proposal] = []
        thinking = threading.Thread(target=lambda: found.append(builtin.propose(CONTEXT)))
        thinking.start()
        while not server.asked:
            time.sleep(0.01)

        builtin.close()
        thinking.join(5)

    assert found[0].facts == {"failure": "the call was ended"}


def test_a_call_that_is_ended_before_it_asks_does_not_ask(tmp_path: Path) -> None:
    with agent(tmp_path, [Hang(30)], seconds=60) as (builtin, server):
        builtin.close()

        proposal = builtin.propose(CONTEXT)

    assert proposal.facts["failure"] == "the call's 60 s are over"
    assert not server.asked


@pytest.mark.parametrize("wire", WIRES)
def test_a_cap_that_is_reached_is_said_and_nothing_is_asked(tmp_path: Path, wire: str) -> None:
    with agent(tmp_path, [Reply(GOOD)], wire, caps=Caps(money=1e-9)) as (builtin, server):
        proposal = builtin.propose(CONTEXT)

    assert server.asked == []
    assert proposal.files == {}
    assert proposal.facts["exhausted"] == proposal.facts["failure"] != ""
    assert proposal.cost.money == 0


@pytest.mark.parametrize("wire", WIRES)
def test_a_call_that_was_paid_for_is_not_paid_for_again(tmp_path: Path, wire: str) -> None:
    script = [Reply(PROSE), Reply(GOOD)]
    first, asked = proposed(tmp_path, *script, wire=wire)

    again, asked_again = proposed(tmp_path, Reply("something else"), wire=wire)

    assert len(asked) == 2
    assert asked_again == []
    assert replace(again, cost=replace(again.cost, seconds=0)) == replace(first, cost=replace(first.cost, seconds=0))


def test_the_cost_is_what_the_server_counted(tmp_path: Path) -> None:
    with agent(tmp_path, [Reply(PROSE), Reply(GOOD)]) as (builtin, server):
        proposal = builtin.propose(CONTEXT)

    assert proposal.cost.tokens == server.usage.total.tokens


@pytest.mark.parametrize("wire", WIRES)
def test_an_answer_without_end_is_cut_off(tmp_path: Path, wire: str) -> None:
    proposal, _ = proposed(tmp_path, Reply("x" * (LONGEST_ANSWER + 1000)), wire=wire)

    assert "longer than 400000 characters" in proposal.facts["failure"]


def test_two_calls_at_once_do_not_mix(tmp_path: Path) -> None:
    def script(asked: Asked) -> Reply:
        return Reply(GOOD.replace("0.3", "0.7" if "SECOND" in asked.prompt else "0.3"))

    with agent(tmp_path, script) as (builtin, _):
        found: dict[int, Proposal] = {}
        second = replace(CONTEXT, draft=4, steering=["SECOND"])
        threads = [
            threading.Thread(target=lambda c=c: found.update({c.draft: builtin.propose(c)})) for c in (CONTEXT, second)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)

    assert found[3].files == BETTER
    assert found[4].files == {"train.py": TRAIN.replace("0.1", "0.7")}


# --- which model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "environ", "wanted"),
    [
        ("openai", {"OPENAI_API_KEY": "k"}, Upstream("chat", "https://api.openai.com/v1", "m", "k")),
        ("anthropic", {"ANTHROPIC_API_KEY": "k"}, Upstream("messages", "https://api.anthropic.com", "m", "k")),
        (
            "openai",
            {"OPENAI_BASE_URL": "http://localhost:11434/v1/"},
            Upstream("chat", "http://localhost:11434/v1", "m", ""),
        ),
        ("openai", {"OPENAI_BASE_URL": "http://[::1]:80/v1"}, Upstream("chat", "http://[::1]:80/v1", "m", "")),
    ],
)
def test_a_model_is_found_by_the_environment(name: str, environ: Mapping[str, str], wanted: Upstream) -> None:
    assert upstream(name, "m", environ) == wanted


@pytest.mark.parametrize(
    ("name", "model", "environ", "words"),
    [
        ("openai", "m", {}, "OPENAI_API_KEY is not set"),
        ("anthropic", "m", {"OPENAI_API_KEY": "k"}, "ANTHROPIC_API_KEY is not set"),
        ("openai", "m", {"OPENAI_BASE_URL": "http://example.org/v1"}, "example.org wants a key"),
        ("openai", "m", {"OPENAI_BASE_URL": "localhost:80"}, "OPENAI_BASE_URL is 'localhost:80', which is no address"),
        ("openai", " ", {"OPENAI_API_KEY": "k"}, "write --agent openai:MODEL"),
        ("openai", "m", {"OPENAI_BASE_URL": "http://[::1"}, "is no address of a model"),
        ("openai", "m", {"OPENAI_BASE_URL": "http://h:99999"}, "is no address of a model"),
        ("openai", "m", {"OPENAI_API_KEY": "sk-1\r\nx: y"}, "holds a letter that no key has"),
        ("openai", "m", {"OPENAI_API_KEY": "sk-é"}, "holds a letter that no key has"),
        ("closedai", "m", {}, "no model endpoint is called 'closedai'; there are: anthropic, openai"),
    ],
)
def test_what_is_missing_is_named(name: str, model: str, environ: Mapping[str, str], words: str) -> None:
    with pytest.raises(BadPlugin, match=words):
        upstream(name, model, environ)


def test_a_host_that_only_begins_like_this_machine_is_another() -> None:
    assert is_here("http://127.0.0.1:80")
    assert not is_here("http://127.0.0.1.example.org")
    assert not is_here("http://localhost@example.org")


def test_a_key_is_never_shown() -> None:
    assert "sk-1" not in repr(upstream("openai", "m", {"OPENAI_API_KEY": "sk-1"}))
    with pytest.raises(BadPlugin) as caught:
        upstream("openai", "m", {"OPENAI_API_KEY": "sk-1 23", "OPENAI_BASE_URL": "http://me:pass@host/v1"})
    assert "sk-1" not in str(caught.value)
    assert "pass" not in str(caught.value)


def test_a_wire_that_it_does_not_speak_is_refused_at_the_door(tmp_path: Path) -> None:
    with pytest.raises(BadPlugin, match="speaks chat and messages, not 'gemini'"), agent(tmp_path, [], "gemini"):
        pass
