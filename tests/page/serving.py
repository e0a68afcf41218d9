"""What the page is tested with: ledgers told event by event, and the real server over real HTTP."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from nightlab.dashboard.page.guard import Access
from nightlab.dashboard.page.server import Server, listen, server
from nightlab.dashboard.page.views import Swarm
from nightlab.ledger import Event, Ledger
from nightlab.place import Place

PATCH = "--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-KNOB = 1\n+KNOB = 2\n"
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}\u202e\x1b[31m"


def begun(place: Place) -> Ledger:
    """A study with a baseline."""
    place.home.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(place.ledger)
    study = {"study": place.name, "seed": 0, "base": "0" * 40, "metric": "val_bpb", "direction": "lower"}
    more = {
        "policy": "race",
        "level": "predictions",
        "jail": "bubblewrap",
        "task": {"task": {"run": "python train.py"}},
    }
    ledger.append(Event("study", "0", study | more), Event("began", "0", {"slots": 2, "jail": "bubblewrap"}))
    ledger.append(*told(0, status="kept", hypothesis="baseline", proposer="lab", parent=None, diff=""))
    return ledger


def told(number: int, *, status: str = "discarded", **more: Any) -> list[Event]:
    """One experiment from its proposal to its decision."""
    words = {
        "hypothesis": f"idea {number}",
        "proposer": "tuner",
        "parent": 0,
        "diff": PATCH,
        "reason": "as it is",
    } | more
    proposed = {name: words[name] for name in ("hypothesis", "proposer", "parent", "diff")}
    run = {"run": f"{number}-1", "purpose": "candidate", "seed": number, "asked_by": number, "again": 0}
    ran = {"run": f"{number}-1", "outcome": "finished", "value": 3.0, "reason": "exit code 0", "seconds": 1.5}
    ran |= {"tail": words.get("tail", "val_bpb: 3.0\n"), "cpu_seconds": 1.0, "peak_mb": 10.0}
    decided = {"status": status, "value": 3.0 - number * 1e-4, "gain": 0.01, "stderr": 0.001, "z": 2.0, "grade": "E2"}
    decided |= {"reason": words["reason"], "pool": []}
    return [
        Event("proposed", str(number), proposed | {"tree": f"{number:040x}", "facts": words.get("facts", {})}, number),
        Event("started", f"{number}-1.0", run, number),
        Event("ran", f"{number}-1", ran, number),
        Event("decided", str(number), decided, number),
    ]


def night(root: Path, count: int, *, name: str = "main") -> Place:
    """A study of so many experiments, the baseline among them; every tenth was kept."""
    place = Place(root, name)
    with closing(begun(place)) as ledger:
        one = (told(number, status="discarded" if number % 10 else "kept") for number in range(1, count))
        ledger.append(*(event for events in one for event in events))
    return place


@dataclass
class Served:
    """A server that answers in a thread of this process."""

    server: Server
    access: Access
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=10, headers=headers)

    def get(self, path: str, **headers: str) -> httpx.Response:
        with self.client(**headers) as client:
            return client.get(path)

    def ask(
        self, verb: str, *, study: str = "main", headers: dict[str, str] | None = None, **form: str
    ) -> httpx.Response:
        """A write as the page's own forms send it; `headers` replace what they would say."""
        said = {"origin": self.url, "sec-fetch-site": "same-origin"} if headers is None else headers
        with self.client() as client:
            return client.post(f"/s/{study}/control/{verb}", data={"token": self.access.token} | form, headers=said)


@contextmanager
def served(
    root: Path, *, access: Access | None = None, port: int = 0, swarm: Swarm = lambda _: None
) -> Iterator[Served]:
    """The page of a repository, for as long as the block lasts."""
    access = access or Access()
    sock = listen("127.0.0.1", port)
    found = server(root, access, swarm)
    thread = threading.Thread(target=found.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        yield Served(found, access, sock.getsockname()[1])
    finally:
        found.should_exit = True
        thread.join(10)
        sock.close()
        assert not thread.is_alive(), "the server did not end"


@dataclass(frozen=True)
class Message:
    """One message of a stream of events."""

    event: str
    id: str
    data: Any


class Reader:
    """A page that listens, as a browser does: it remembers the last message it had."""

    def __init__(self, url: str, study: str = "main", *, since: int | None = None, last: str | None = None) -> None:
        self.messages: list[Message] = []
        self.last = last
        self._more = threading.Condition()
        self._client = httpx.Client(timeout=httpx.Timeout(5, read=None))
        where = f"{url}/s/{study}/events" + ("" if since is None else f"?since={since}")
        headers = {b"last-event-id": last.encode()} if last is not None else {}
        self._answer = self._client.send(self._client.build_request("GET", where, headers=headers), stream=True)
        self.headers, self.status = self._answer.headers, self._answer.status_code
        self.is_over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        try:
            for line in self._answer.iter_lines():
                name, _, value = line.partition(": ")
                if line:
                    fields[name] = value
                elif "event" in fields:
                    self._take(Message(fields["event"], fields["id"], json.loads(fields["data"])))
                    fields = {}
                else:
                    fields = {}
        except (httpx.HTTPError, httpx.StreamError):
            pass
        self.is_over.set()

    def _take(self, message: Message) -> None:
        with self._more:
            self.messages.append(message)
            self.last = message.id
            self._more.notify_all()

    def wait(self, event: str, count: int = 1, *, patience: float = 5.0) -> list[Message]:
        """The messages of a kind, as soon as there are so many."""
        with self._more:
            assert self._more.wait_for(lambda: len(self.of(event)) >= count, patience), (event, count, self.messages)
        return self.of(event)

    def of(self, event: str) -> list[Message]:
        return [one for one in self.messages if one.event == event]

    def numbers(self) -> list[int]:
        """The experiments whose rows came, in order."""
        return [one.data["id"] for one in self.of("experiment")]

    def close(self) -> None:
        stream = self._answer.extensions["network_stream"]
        with suppress(OSError):  # it has ended already
            stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._client.close()
