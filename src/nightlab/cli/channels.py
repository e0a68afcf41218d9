"""The commands for other places than the page: mail, other experiment platforms, files."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from nightlab.cli.base import Json, StudyName, print_json
from nightlab.cli.live import SecretAt, live_app, secret_of
from nightlab.cli.visitors import opened
from nightlab.errors import BadTask
from nightlab.words import harmless

_SMTP = "NIGHTLAB_SMTP"
_RESULTS = ("taken", "already", "suppressed", "deferred", "refused", "begun")


@live_app.command()
def send(
    recipients: Annotated[Path, typer.Argument(help="A CSV file: id, address, consent (yes or no), and segments.")],
    sender: Annotated[str, typer.Option("--from", help='Whom it is from: "Tidewater <hello@tidewater.example>".')],
    url: Annotated[str, typer.Option(help="https://… where nightlab live serve is reached from outside.")],
    mailing: Annotated[
        str | None, typer.Option(help="Its name; nobody gets the same mailing twice. The list's, unless said.")
    ] = None,
    rate: Annotated[float, typer.Option(min=0.01, help="Mails a second.")] = 10.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say who would get what.")] = False,
    secret: SecretAt = None,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Write to each recipient once, with their version of the mail; run it again to go on where it ended.

    The mail server is in NIGHTLAB_SMTP: smtp://user:password@host:587 (always with STARTTLS), or smtps://….
    """
    from nightlab import task
    from nightlab.live.clock import clock
    from nightlab.live.links import Links
    from nightlab.live.mail import Templates
    from nightlab.live.sending import Carrier, Mailing, people

    with opened(study) as (place, live, store):
        if live.channel != "mail":
            raise BadTask('this task sends no mail; say so in nightlab.toml: [live] channel = "mail"')
        key = secret_of(place, secret)
        links = Links(key, _reached(url), hosts=frozenset(live.hosts))
        page = place.root / task.load(place.root).task.run
        letters = Mailing(
            mailing or recipients.stem, store, Templates.at(page, sender, links, key), clock=clock(), rate=rate
        )
        list_ = people(recipients, key)
        if dry_run:
            _tell(letters.plan(list_), "would get: ", as_json)
            return
        with Carrier(_server()) as carrier:
            done: Counter[str] = Counter()
            try:
                done.update(letters.send(list_, carrier))
            finally:
                _tell(done, "", as_json)


def _reached(url: str) -> str:
    """Mail programs unsubscribe by https only (RFC 8058); plain http is for trying it on this machine."""
    if not url.startswith(("https://", "http://127.0.0.1:", "http://localhost:")):
        raise BadTask(f"{url} is not https://; mail programs do not unsubscribe by anything else")
    return url


def _server() -> str:
    server = os.environ.get(_SMTP, "")
    if not server.startswith(("smtp://", "smtps://")):
        raise BadTask(f"{_SMTP} names no mail server; write smtp://user:password@host:587 or smtps://…")
    return server


def _tell(counts: Counter[str], before: str, as_json: bool) -> None:
    if as_json:
        print_json(dict(counts))
        return
    names = [name for name in _RESULTS if counts[name]] + sorted(set(counts) - set(_RESULTS))
    print(before + (", ".join(f"{counts[name]:,} {harmless(name)}" for name in names) or "nobody"))
    if counts["begun"]:
        print(
            "begun: the connection broke while they were handed over; they may have them, and are not written to again"
        )
