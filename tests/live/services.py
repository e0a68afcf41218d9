"""What the live service is tested with: the real command as processes of its own, and a client that speaks to it."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import psutil
from conftest import need

from nightlab.live.store import Arm, Rules, Split, Store, open_store

PERSON = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Tidewater</title></head>
<body><h1 data-nightlab-slot="headline">{{headline}}</h1><a data-nightlab="signup" href="#signed">{{button}}</a>
</body></html>"""
TASK = """
[task]
run = "page.html"
editable = ["copy.toml"]
[metric]
name = "conversion"
direction = "higher"
level = "live"
[live]
outcome = "signup"
"""
CHAMPION = {"headline": "A notebook for teams", "button": "Begin"}
CHALLENGER = {"headline": "Write together", "button": "Try it"}
_ADDRESSES = count()
"""Every visitor has an address of their own; all of 127.0.0.0/8 is this machine."""


@dataclass
class Served:
    """`nightlab live serve` as people start it."""

    process: subprocess.Popen[str]
    url: str
    key: str

    @property
    def client(self) -> httpx.Client:
        """A visitor's browser, as far as its headers go, at an address of its own."""
        number = next(_ADDRESSES)
        return self.client_at(f"127.1.{number // 250}.{number % 250 + 1}")

    def client_at(self, address: str) -> httpx.Client:
        """A visitor's browser at an address of this machine."""
        line = httpx.HTTPTransport(local_address=address)
        return httpx.Client(base_url=self.url, headers={"user-agent": PERSON}, timeout=30, transport=line)

    @property
    def server(self) -> httpx.Client:
        """A server with the key."""
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {self.key}"}, timeout=30)

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        """End it as a person would."""
        self.process.terminate()
        self.process.wait(timeout=30)

    def shows(self, version: int, patience: float = 30.0) -> None:
        """Wait until it shows a split; fail where it does not in a while."""
        deadline = time.monotonic() + patience
        with self.client as client:
            while client.get("/healthz").json().get("split") != version:
                assert time.monotonic() < deadline, f"split {version} is not shown"
                time.sleep(0.02)


def folder_of(tmp_path: Path, page: str = PAGE) -> Path:
    """A folder with a task."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "nightlab.toml").write_text(TASK)
    (folder / "page.html").write_text(page)
    (folder / "copy.toml").write_text("".join(f'{slot} = "{text}"\n' for slot, text in CHAMPION.items()))
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


def deployed(
    where: str | Path, *, weights: Mapping[int, float] | None = None, holdout: float = 0.0, window: float = 3600.0
) -> tuple[Store, Split]:
    """A store with two arms, half and half unless said."""
    store = open_store(where)
    store.begin(Rules("seed", holdout, window, ("audience",)))
    store.put_arm(Arm(0, None, CHAMPION, "a", "serving"))
    store.put_arm(Arm(1, 0, CHALLENGER, "b", "serving"))
    return store, store.put_split(weights or {0: 0.5, 1: 0.5}, 0)


def started(folder: Path, *words: str, port: int = 0) -> Served:
    """A service of a folder; it has to be ended."""
    command = [sys.executable, "-m", "nightlab", "-C", str(folder), "live", "serve", "--json", "--port", str(port)]
    process = subprocess.Popen(
        [*command, *words],
        stdout=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"},
    )
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    return Served(process, told["url"], told["key"])


@contextmanager
def served(folder: Path, *words: str, version: int | None = 1, port: int = 0) -> Iterator[Served]:
    """A service, for as long as the block lasts; it shows a split when the block begins."""
    service = started(folder, *words, port=port)
    try:
        if version is not None:
            service.shows(version)
        yield service
    finally:
        service.kill()


def visit(client: httpx.Client, **more: Any) -> dict[str, Any]:
    """One visitor comes, with consent, and sees what they are given."""
    given: dict[str, Any] = client.post("/v1/assign", json={"consent": True}, **more).raise_for_status().json()
    told = client.post("/v1/expose", json={"token": given["token"], "consent": True}, **more).raise_for_status().json()
    return {**given, "token": told["token"]}


def act(client: httpx.Client, token: str, key: str = "once", name: str = "signup", **more: Any) -> httpx.Response:
    """They do something."""
    return client.post("/v1/event", json={"token": token, "id": key, "name": name, "consent": True}, **more)


def programs_of_postgres() -> Path | None:
    """Where PostgreSQL's programs are; None: it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    which = shutil.which("initdb")
    return found[-1].parent if found else Path(which).resolve().parent if which else None


@dataclass
class Cluster:
    """A PostgreSQL server of its own, on a socket in its folder; it can be killed and started again."""

    folder: Path
    programs: Path
    who: str | None
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"postgresql:///postgres?host={self.folder}&user=tester"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.process = subprocess.Popen(
            [
                self.programs / "postgres",
                "-D",
                self.folder / "data",
                "-k",
                self.folder,
                "-h",
                "",
                "-c",
                "log_min_messages=panic",
            ],
            user=self.who,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while subprocess.run([self.programs / "pg_isready", "-q", "-h", self.folder, "-d", "postgres"]).returncode:
            assert time.monotonic() < deadline, "PostgreSQL does not come up"
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill the server and all that belongs to it at once, as a power cut would."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children(recursive=True)
        for one in (self.process, *children):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)
        self.process.wait()
        psutil.wait_procs(children, timeout=10)


@contextmanager
def postgres() -> Iterator[Cluster]:
    """A running server with an empty database; the test is skipped where PostgreSQL is not installed."""
    programs = programs_of_postgres()
    if programs is None:
        need(False, "PostgreSQL is not installed here: apt-get install postgresql")
    who = None
    if os.getuid() == 0:  # it does not run as root
        who = next(user.pw_name for name in ("postgres", "nobody") for user in pwd.getpwall() if user.pw_name == name)
    folder = Path(tempfile.mkdtemp(prefix="nl-pg-", dir="/tmp"))
    server = Cluster(folder, programs, who)
    try:
        if who:
            shutil.chown(folder, who)
        subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-U", "tester", "-A", "trust", "--no-locale", "-E", "UTF8"],
            check=True,
            capture_output=True,
            user=who,
            cwd="/tmp",
        )
        server.start()
        yield server
    finally:
        if server.process is not None:
            server.kill()
        shutil.rmtree(folder)
