"""Nothing is asked of a model, or paid for, twice: what was recorded is played again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from asking import DOLLARS, KEY, WIRES, ask, calling, events, upstream

from nightlab.agents.relay import Caps, Relay
from nightlab.testing.modelserver import Asked, Broken, ModelServer, Refusal, Reply
from nightlab.values import Cost


@pytest.fixture
def numbered() -> Iterator[ModelServer]:
    """A model that never says the same twice."""
    said = iter(range(1000))
    with ModelServer(lambda _: Reply(f"answer {next(said)}")) as server:
        yield server


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("stream", [False, True])
def test_what_was_asked_before_is_answered_without_the_model_and_costs_nothing_again(
    numbered: ModelServer, wire: str, stream: bool, tmp_path: Path
) -> None:
    first = Relay(DOLLARS)
    with calling(first, upstream(numbered, wire), tmp_path) as (line, client):
        heard = [ask(client, wire, stream=stream) for _ in range(2)]
        paid = line.cost
    first.close()

    again = Relay(DOLLARS)
    with calling(again, upstream(numbered, wire), tmp_path) as (line, client):
        replayed = [ask(client, wire, stream=stream) for _ in range(2)]
        new = ask(client, wire, stream=stream)
    again.close()

    assert [answer.text for answer in replayed] == [answer.text for answer in heard]
    assert replayed[0].text != replayed[1].text
    assert replayed[0].headers["content-type"] == heard[0].headers["content-type"]
    assert "answer 2" in new.text or "answer 2" in "".join(str(event) for event in events(new.text))
    assert len(numbered.asked) == 3
    assert paid.money > 0
    assert line.cost == again.spent
    assert line.cost.tokens == numbered.usage.total.tokens


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from asking import DOLLARS, ask, calling, upstream
from nightlab.agents.relay import Relay
with calling(Relay(DOLLARS), upstream(sys.argv[1], "messages"), Path(sys.argv[2])) as (line, client):
    ask(client, "messages", words="one")
    ask(client, "messages", words="two", stream=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_call_killed_half_way_goes_on_without_paying_twice(numbered: ModelServer, tmp_path: Path) -> None:
    words = [sys.executable, "-c", KILLED, numbered.url, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    relay = Relay(DOLLARS, Caps(money=1.0))
    with calling(relay, upstream(numbered, "messages"), tmp_path) as (line, client):
        paid = relay.spent

        one = ask(client, "messages", words="one")
        two = ask(client, "messages", words="two", stream=True)
        assert len(numbered.asked) == 2
        assert relay.spent == paid
        ask(client, "messages", words="three")
    relay.close()

    assert "answer 0" in one.text
    assert "answer 1" in two.text
    assert line.cost.tokens == numbered.usage.total.tokens


def test_what_was_under_way_when_the_lab_was_killed_counts_as_its_most(numbered: ModelServer, tmp_path: Path) -> None:
    tape = tmp_path / "cassette.jsonl"
    first = Relay(DOLLARS)
    with calling(first, upstream(numbered, "chat"), tmp_path) as (_, client):
        ask(client, "chat")
    first.close()
    asked, answered = tape.read_text().splitlines()
    tape.write_text(asked + "\n" + answered[:40])

    again = Relay(DOLLARS)
    with calling(again, upstream(numbered, "chat"), tmp_path) as (line, client):
        most = line.cost
        answer = ask(client, "chat")
    again.close()

    assert most == Cost(money=json.loads(asked)["money"], tokens=json.loads(asked)["tokens"])
    assert most.tokens > first.spent.tokens
    assert "answer 1" in answer.text
    assert line.cost == most + first.spent
    assert len(tape.read_text().splitlines()) == 4


def test_a_line_opened_twice_is_counted_once(numbered: ModelServer, tmp_path: Path) -> None:
    relay = Relay(DOLLARS)
    for _ in range(3):
        with calling(relay, upstream(numbered, "chat"), tmp_path) as (line, client):
            ask(client, "chat")
    relay.close()

    assert relay.spent == line.cost
    assert relay.spent.tokens == numbered.usage.total.tokens


def test_what_earlier_calls_paid_is_recalled_whether_a_ledger_knows_of_them_or_not(
    numbered: ModelServer, tmp_path: Path
) -> None:
    first = Relay(DOLLARS)
    for draft in ("draft-0", "draft-1"):
        with calling(first, upstream(numbered, "chat"), tmp_path / draft) as (_, client):
            ask(client, "chat")
    first.close()

    again = Relay(DOLLARS)
    again.recall(tmp_path)
    recalled = again.spent
    with calling(again, upstream(numbered, "chat"), tmp_path / "draft-1") as (_, client):
        ask(client, "chat")
    again.close()

    assert recalled == again.spent == first.spent
    assert len(numbered.asked) == 2


def test_only_whole_answers_are_played_again(tmp_path: Path) -> None:
    with ModelServer([Refusal(429), Refusal(500), Broken(Reply("x" * 200)), Reply("well")]) as server:
        first = Relay(DOLLARS)
        with calling(first, upstream(server, "chat"), tmp_path) as (_, client):
            assert [ask(client, "chat").status_code for _ in range(2)] == [429, 500]
            with pytest.raises(httpx.RemoteProtocolError):
                ask(client, "chat")
        first.close()
        again = Relay(DOLLARS)
        with calling(again, upstream(server, "chat"), tmp_path) as (_, client):
            answer = ask(client, "chat")
        again.close()

    assert "well" in answer.text
    assert len(server.asked) == 4


def test_what_changes_with_the_hour_does_not_make_another_request(numbered: ModelServer, tmp_path: Path) -> None:
    relay = Relay(DOLLARS)
    with calling(relay, upstream(numbered, "messages"), tmp_path) as (_, client):
        first = ask(
            client,
            "messages",
            words="Today's date: 2026-11-23. Session 0b5a7c1e-1111-2222-3333-444455556666. Log at 1795470000123.",
            metadata={"user_id": "session_a"},
        )
    with calling(relay, upstream(numbered, "messages"), tmp_path) as (_, client):
        second = ask(
            client,
            "messages",
            words="Today's date: 2026-11-24. Session ffffffff-1111-2222-3333-444455556666. Log at 1795556400456.",
            metadata={"user_id": "session_b"},
        )
        other = ask(client, "messages", words="Something else.")
    relay.close()

    assert first.text == second.text != other.text
    assert len(numbered.asked) == 2


def test_a_study_is_replayed_without_a_model(numbered: ModelServer, tmp_path: Path) -> None:
    relay = Relay(DOLLARS)
    with calling(relay, upstream(numbered, "gemini"), tmp_path) as (_, client):
        heard = ask(client, "gemini", stream=True)
    relay.close()

    replay = Relay(DOLLARS, Caps(money=0.000001), replay_only=True)
    with calling(replay, upstream("http://127.0.0.1:9", "gemini", key=""), tmp_path) as (line, client):
        played = ask(client, "gemini", stream=True)
        refused = ask(client, "gemini", words="new")
    replay.close()

    assert played.text == heard.text
    assert refused.status_code == 400
    assert "on no cassette" in refused.json()["error"]["message"]
    assert line.cost == relay.spent


def test_a_cassette_holds_no_key_and_is_read_by_nobody_else(tmp_path: Path) -> None:
    def echo(asked: Asked) -> Reply:
        return Reply(json.dumps(dict(asked.headers)))

    relay = Relay(DOLLARS)
    with ModelServer(echo) as server:
        for wire in WIRES:
            with calling(relay, upstream(server, wire), tmp_path / wire) as (_, client):
                plain, streamed = (ask(client, wire, stream=stream) for stream in (False, True))
                assert KEY not in plain.text + streamed.text
    relay.close()

    for wire in WIRES:
        tape = tmp_path / wire / "cassette.jsonl"
        assert KEY not in tape.read_text()
        assert tape.stat().st_mode & 0o777 == 0o600


def test_a_link_in_place_of_the_cassette_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "call").mkdir()
    (tmp_path / "secret").write_text("mine\n")
    (tmp_path / "call" / "cassette.jsonl").symlink_to(tmp_path / "secret")
    relay = Relay(DOLLARS)

    with pytest.raises(OSError, match="symbolic"), relay.line(upstream("http://x", "chat"), tmp_path / "call"):
        pass

    assert (tmp_path / "secret").read_text() == "mine\n"
