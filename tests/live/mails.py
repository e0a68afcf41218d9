"""What mail is tested with: a task that sends it, a mail server that keeps what it is given, and the real command."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller

from nightlab.live.store import Arm, Rules, Store, open_store

TASK = """
[task]
run = "mail.html"
editable = ["copy.toml"]
[metric]
name = "conversion"
direction = "higher"
level = "live"
[live]
channel = "mail"
outcome = "try"
hosts = ["shop.example"]
guardrails = ["unsubscribe"]
segments = ["audience"]
holdout = 0.0
"""
HTML = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{{subject}}</title></head><body>
<p hidden>{{preheader}}</p><p>{{body}}</p>
<p><a class="button" href="https://shop.example/try?a=1&amp;b=2" data-nightlab="try">{{button}}</a></p>
<p><a href="nightlab:unsubscribe">No more mail</a></p></body></html>
"""
TEXT = """{{body}}

{{button}}: https://shop.example/try?a=1&b=2

No more mail: nightlab:unsubscribe
"""
CHAMPION = {"subject": "A notebook", "preheader": "For teams", "body": "Write & plan.", "button": "Begin"}
CHALLENGER = {"subject": "Größer schreiben", "preheader": "Now", "body": "Write <together>.", "button": "Try it"}


def mail_folder(tmp_path: Path) -> Path:
    """A folder with a task that sends mail."""
    folder = tmp_path / "post"
    folder.mkdir()
    (folder / "nightlab.toml").write_text(TASK)
    (folder / "mail.html").write_text(HTML)
    (folder / "mail.txt").write_text(TEXT)
    (folder / "copy.toml").write_text("".join(f'{slot} = "{text}"\n' for slot, text in CHAMPION.items()))
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


def store_of(folder: Path) -> Store:
    """Its store, with two arms half and half."""
    store = open_store(folder / ".nightlab/live.sqlite", "main")
    store.begin(Rules("seed", 0.0, 3600.0, ("audience",)))
    if store.split() is None:
        store.put_arm(Arm(0, None, CHAMPION, "a", "serving"))
        store.put_arm(Arm(1, 0, CHALLENGER, "b", "serving"))
        store.put_split({0: 0.5, 1: 0.5}, 0)
    return store


def list_of(folder: Path, count: int, *more: str, name: str = "list.csv") -> Path:
    """A list of people who consent, in two audiences."""
    lines = [f"u{n},Person{n}@Mail.example,yes,{'old' if n % 2 else 'new'}" for n in range(count)]
    path = folder / name
    path.write_text("\n".join(["id,address,consent,audience", *lines, *more]) + "\n")
    return path


@dataclass
class Sink:
    """A mail server: keeps everything, or answers as it is told to."""

    port: int = 0
    taken: list[tuple[str, EmailMessage]] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        """Takes a recipient, or says why not."""
        if answer := self.answers.get(address.lower()):
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        """Keeps a mail before it says that it has it."""
        mail = message_from_bytes(envelope.content, policy=policy.SMTP)
        self.taken.append((envelope.rcpt_tos[0], mail))  # type: ignore[arg-type]
        return "250 OK"

    @property
    def url(self) -> str:
        """Where it is."""
        return f"smtp://127.0.0.1:{self.port}"

    def mail_of(self, address: str) -> EmailMessage:
        """The mail that an address was sent last."""
        return [mail for to, mail in self.taken if to.lower() == address.lower()][-1]


class Bound(Controller):
    """A server on a socket that is bound already, so that its port is free for sure."""

    def __init__(self, handler: Any) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        super().__init__(handler, hostname="127.0.0.1", port=self._socket.getsockname()[1])

    def _create_server(self) -> Any:
        return self.loop.create_server(self._factory_invoker, sock=self._socket)


@contextmanager
def sink() -> Iterator[Sink]:
    """A mail server on this machine, for as long as the block lasts."""
    kept = Sink()
    controller = Bound(kept)
    controller.start()
    kept.port = controller.port
    try:
        yield kept
    finally:
        controller.stop()


def command(folder: Path, list_: Path, url: str, *words: str) -> list[str]:
    """`nightlab live send` as people write it."""
    sender = ["--from", "Tidewater <hello@tidewater.example>", "--url", url, "--rate", "10000"]
    return [sys.executable, "-m", "nightlab", "-C", str(folder), "live", "send", str(list_), *sender, *words]


def sent(folder: Path, list_: Path, mails: Sink, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Send a mailing, and what the command said."""
    env = {**os.environ, "NIGHTLAB_SMTP": mails.url}
    return subprocess.run(command(folder, list_, url, *words), env=env, capture_output=True, text=True, timeout=120)
