"""Notifications over real HTTP: apprise posts to a server of ours, and hours pass by an injected clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from conftest import wait_for

from nightlab import notify
from nightlab.errors import BadTask, StudyStuck
from nightlab.ledger import Event, Ledger
from nightlab.notify import Notices, carrier, headline, safe
from nightlab.place import Place
from nightlab.readings import status

HOUR = 3600.0


class Inbox:
    """A server that takes what apprise posts, or refuses it."""

    def __init__(self) -> None:
        self.took: list[dict[str, str]] = []
        self.answer = 200
        inbox = self

        class Take(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                inbox.took.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(inbox.answer)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Take)
        self.url = f"json://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def bodies(self) -> list[str]:
        return [one["message"] for one in self.took]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with closing(Inbox()) as inbox:
        yield inbox


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    (tmp_path / ".nightlab").mkdir()
    with closing(Ledger(tmp_path / ".nightlab" / "ledger.sqlite")) as ledger:
        ledger.append(Event("study", "0", {"metric": "loss", "direction": "lower", "seed": 0}))
        decide(ledger, 0, "kept", proposer="lab", value=2.0)
        yield ledger


def decide(
    ledger: Ledger,
    number: int,
    status: str,
    *,
    gain: float | None = None,
    hypothesis: str = "an idea",
    proposer: str = "tuner",
    value: float | None = 1.0,
) -> None:
    body = {"parent": 0 if number else None, "hypothesis": hypothesis, "proposer": proposer, "tree": f"t{number}"}
    told = {"status": status, "value": value, "gain": gain, "reason": "because", "grade": "E2"}
    ledger.append(
        Event("proposed", str(number), body | {"money": 1.55}, number), Event("decided", str(number), told, number)
    )


def notices(place: Path, inbox: Inbox, when: str, said: list[str] | None = None) -> tuple[Notices, list[float]]:
    now = [0.0]
    words = said if said is not None else []
    return Notices(Place(place), carrier([inbox.url]), when=when, say=words.append, clock=lambda: now[0]), now


def test_the_headline_is_the_result(ledger: Ledger) -> None:
    decide(ledger, 1, "kept", gain=0.6)
    decide(ledger, 2, "invalid", value=None)
    found = {"experiment": 1, "gain": 0.62, "low": 0.58, "high": 0.66, "percent": 31.0, "sealed": True}
    ledger.append(Event("audited", "0", found))

    line = headline(ledger, status(ledger, name="main", is_running=False))

    assert line == "1 kept of 2, audited -31 % +- 2 %, 1 cheat caught, $4.65"


def test_a_headline_does_not_hide_that_nothing_holds(ledger: Ledger) -> None:
    decide(ledger, 1, "kept", gain=0.6)
    found = {"experiment": 1, "gain": 0.01, "low": -0.03, "high": 0.05, "percent": 0.5, "sealed": False}
    ledger.append(Event("audited", "0", found))

    line = headline(ledger, status(ledger, name="main", is_running=False))

    assert "audited -0.5 % +- 2 % (no gain that holds)" in line


def test_at_once_tells_each_keep_and_nothing_else(tmp_path: Path, ledger: Ledger, inbox: Inbox) -> None:
    told, _ = notices(tmp_path, inbox, "at-once")

    decide(ledger, 1, "discarded")
    assert told.look(ledger) is None
    decide(ledger, 2, "kept", gain=0.25, hypothesis="halve the rate")
    message = told.look(ledger)
    assert message is not None
    notify.send(carrier([inbox.url]), message)

    assert inbox.bodies == ["1 kept of 2, not audited, 0 cheats caught, $4.65\nkept 2, gain 0.25 (E2): halve the rate"]
    assert told.look(ledger) is None


@pytest.mark.parametrize(("when", "wait"), [("hourly", HOUR), ("daily", 24 * HOUR)])
def test_a_digest_comes_when_its_time_has_come(
    when: str, wait: float, tmp_path: Path, ledger: Ledger, inbox: Inbox
) -> None:
    told, now = notices(tmp_path, inbox, when)
    decide(ledger, 1, "kept", gain=0.1)

    now[0] = wait - 1
    assert told.look(ledger) is None
    now[0] = wait + 1
    message = told.look(ledger)
    decide(ledger, 2, "discarded")
    now[0] = 2 * wait + 2
    later = told.look(ledger)

    assert message is not None
    assert "since the last message: 2 decided, 1 kept" in message.body  # the baseline is one of them
    assert later is not None
    assert "since the last message: 1 decided, 0 kept" in later.body


@pytest.mark.parametrize("when", ["at-once", "hourly", "daily", "end"])
def test_the_end_is_told_under_every_policy(when: str, tmp_path: Path, ledger: Ledger, inbox: Inbox) -> None:
    told, _ = notices(tmp_path, inbox, when)

    with told:
        decide(ledger, 1, "kept", gain=0.5, hypothesis="a good idea")
        ledger.append(Event("stopped", "0", {"reason": "25 experiments"}))

    (body,) = inbox.bodies
    first, *rest = body.splitlines()
    assert first == "1 kept of 1, not audited, 0 cheats caught, $3.10"
    assert rest[:2] == ["best: kept 1, gain 0.5 (E2): a good idea", "stopped: 25 experiments"]
    assert rest[2].startswith("report: ")
    assert inbox.took[0]["title"] == "nightlab main: done"


def test_off_is_silent(tmp_path: Path, ledger: Ledger, inbox: Inbox) -> None:
    told, now = notices(tmp_path, inbox, "off")

    with told:
        decide(ledger, 1, "kept", gain=0.5)
        now[0] = 100 * HOUR
        assert told.look(ledger) is None

    assert inbox.took == []


def test_an_error_that_ends_a_night_is_told(tmp_path: Path, ledger: Ledger, inbox: Inbox) -> None:
    told, _ = notices(tmp_path, inbox, "end")

    with pytest.raises(StudyStuck), told:
        raise StudyStuck("the disk is full")

    assert "ended by an error: the disk is full" in inbox.bodies[0]
    assert inbox.took[0]["title"] == "nightlab main: stopped"


def test_an_address_that_refuses_is_said_once_and_fails_nothing(tmp_path: Path, ledger: Ledger, inbox: Inbox) -> None:
    inbox.answer, said = 500, list[str]()
    told, _ = notices(tmp_path, inbox, "end", said)

    with told:
        told._send(notify.Message("one", ("two",)))

    assert len(said) == 1
    assert "did not take a message" in said[0]
    assert inbox.url not in said[0]


def test_an_agents_words_call_nobody_and_lead_nowhere() -> None:
    words = safe("\x1b[31m@everyone <!channel> see https://evil.example/x\n" + "y" * 500)

    assert not set(words) & set("@<>\x1b\n")
    assert "://" not in words.replace(": //", "")
    assert len(words) == 100


def test_an_address_nobody_knows_is_refused_without_telling_its_secret() -> None:
    with pytest.raises(BadTask, match=r"nosuch://\.\.\.") as refused:
        carrier(["nosuch://TOKEN-OF-MINE"])

    assert "TOKEN-OF-MINE" not in str(refused.value)


def test_the_command_sends_a_word_now(nightlab: Callable[..., CompletedProcess[str]], inbox: Inbox) -> None:
    done = nightlab("notify", inbox.url, "--json")
    inbox.answer = 404
    refused = nightlab("notify", inbox.url, check=False)
    unknown = nightlab("notify", "nosuch://secret", check=False)

    assert json.loads(done.stdout) == {"sent": True, "addresses": ["json://..."]}
    assert "a test" in inbox.bodies[0]
    assert refused.returncode == 2
    assert "json://..." in refused.stderr
    assert unknown.returncode == 2
    assert "secret" not in unknown.stderr


def test_a_night_ends_with_its_result_and_a_dead_address_costs_nothing(
    nightlab: Callable[..., CompletedProcess[str]], folder: Path, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTLAB_NOTIFY", inbox.url)
    dead = "json://127.0.0.1:9/secret"

    done = nightlab("run", "--experiments", "1", "--notify", dead, "--no-audit", "--unsafe")
    wrong = nightlab("run", "--experiments", "1", "--notify-when", "never", "--unsafe", check=False)

    wait_for(lambda: len(inbox.took) == 1)
    assert " kept of 1, not audited, 0 cheats caught, $0.00" in inbox.bodies[0]
    assert "did not take a message" in done.stdout
    assert "secret" not in done.stdout + done.stderr
    assert wrong.returncode == 2
    assert "at-once" in wrong.stderr


def test_nothing_of_this_is_imported_by_a_command_that_does_not_need_it() -> None:
    heavy = "import sys, nightlab.cli; print([one for one in ('apprise', 'wandb', 'mlflow') if one in sys.modules])"

    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, env=os.environ, check=True)

    assert done.stdout.strip() == "[]"
