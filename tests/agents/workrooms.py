"""What agents are tested with: a small tree, and a way to the scripted server that counts nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from nightlab.agents.bridge import _pour
from nightlab.agents.command_line import CommandLineAgent, agent
from nightlab.agents.relay import Line, Relay, Upstream
from nightlab.agents.workroom import Workroom
from nightlab.executor import LocalExecutor
from nightlab.proposer import Context
from nightlab.task import parse
from nightlab.workspace import Checkout, remove

TASK = """\
[task]
run = "python train.py"
editable = ["train.py", "parts/*.py"]
[metric]
name = "score"
direction = "lower"
"""
TREE = {"train.py": "KNOB = 5\nprint('score:', KNOB)\n", "frozen.py": "X = 1\n", "program.md": "Lower it.\n"}


@dataclass
class PassThrough(Relay):
    """Every connection goes to one server, as it is; a stand-in where the real relay is not what is tested."""

    lines: list[Line] = field(default_factory=list)
    asked: list[Upstream] = field(default_factory=list)

    @contextmanager
    def line(self, upstream: Upstream, folder: Path) -> Iterator[Line]:
        place = folder / "relay.sock"
        place.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX)
        # Bound by a short way: a socket's path holds 107 bytes.
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        server.bind(f"/proc/self/fd/{at}/relay.sock")
        os.close(at)
        server.listen(64)
        where = urlsplit(upstream.url)
        target = (where.hostname or "", where.port or 80)
        threading.Thread(target=_serve, args=(server, target), daemon=True).start()
        line = Line(place)
        self.lines.append(line)
        self.asked.append(upstream)
        try:
            yield line
        finally:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()


def _serve(server: socket.socket, target: tuple[str, int]) -> None:
    with suppress(OSError):
        while True:
            here, _ = server.accept()
            try:
                there = socket.create_connection(target, 5)
            except OSError:
                here.close()
                continue
            there.settimeout(None)
            threading.Thread(target=_pour, args=(here, there), daemon=True).start()
            threading.Thread(target=_pour, args=(there, here), daemon=True).start()


class Copy(Checkout):
    """A tree that is written from texts; no repository stands behind it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def clear(self) -> None:
        remove(self.folder)


def lay(folder: Path, context: Context) -> Checkout:
    remove(folder)
    for name, text in {**TREE, **context.files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return Copy(folder)


def context(**changed: object) -> Context:
    words: dict[str, object] = {"files": {"train.py": TREE["train.py"]}, "metric": "score", "direction": "lower"}
    return Context(**{**words, "number": 0, "seed": 1, **changed})  # type: ignore[arg-type]


Room = Callable[..., Workroom]


def told(_: Context) -> str:
    return "Make the score lower.\n"


def asked(spec: str, workroom: Workroom) -> CommandLineAgent:
    return agent(spec, workroom, told)


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=A User", "-c", "user.email=user@example.org"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """Makes a workroom at a level of the jail; what it started is ended with the test."""
    made: list[LocalExecutor] = []

    def make(
        level: str | None = None, *, environ: Mapping[str, str], seconds: float = 60.0, relay: Relay | None = None
    ) -> Workroom:
        executor = LocalExecutor(level=level, linger=0.1)
        made.append(executor)
        whole = {"PATH": os.environ["PATH"], **environ}
        return Workroom(tmp_path / "agents", parse(TASK), executor, relay or PassThrough(), lay, whole, seconds)

    yield make
    for executor in made:
        executor.close()
