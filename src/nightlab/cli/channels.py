"""The commands for other places than the page: mail, other experiment platforms, files."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from nightlab.cli.base import Json, StudyName, print_json
from nightlab.cli.live import SecretAt, live_app, secret_of
from nightlab.cli.visitors import opened
from nightlab.errors import BadTask
from nightlab.words import harmless, one_line

_SMTP, _GROWTHBOOK, _WEBHOOK = "NIGHTLAB_SMTP", "NIGHTLAB_GROWTHBOOK_KEY", "NIGHTLAB_WEBHOOK_SECRET"
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


@live_app.command()
def export(
    to: Annotated[Path | None, typer.Argument(help="A CSV file; on the screen, unless said.")] = None,
    study: StudyName = "main",
) -> None:
    """Every version with its copy and what was counted, as CSV: for an ad platform, or a spreadsheet."""
    from nightlab.live import reading
    from nightlab.live.adapters import files
    from nightlab.live.clock import clock

    with opened(study) as (_, live, store):
        told = reading.results(store, live, now=clock()())
        if to is None:
            files.write(told, store, sys.stdout)
            return
        with to.open("w", newline="", encoding="utf-8") as file:
            print(f"{files.write(told, store, file)} versions in {to}")


@live_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A CSV file: version, exposed, converted.")],
    source: Annotated[str, typer.Option("--from", help="Whose numbers they are.")],
    study: StudyName = "main",
) -> None:
    """Keep what another platform says of each version: observational, beside our own counts and never in a claim."""
    from nightlab.live.adapters import files

    with opened(study) as (_, _, store):
        rows = files.read(file, one_line(source, 60), store)
    print(f"{rows} rows kept, observational: nightlab live results" if rows else f"{file} was kept before")


@live_app.command()
def push(
    where: Annotated[str, typer.Argument(help="growthbook or webhook.")],
    url: Annotated[str | None, typer.Option(help="Where it is; GrowthBook's own cloud, unless said.")] = None,
    datasource: Annotated[str, typer.Option(help="GrowthBook: the data source's id.")] = "",
    assignment: Annotated[str, typer.Option(help="GrowthBook: the id of the assignment query in it.")] = "",
    owner: Annotated[str, typer.Option(help="GrowthBook: whose experiment it is.")] = "",
    results: Annotated[bool, typer.Option("--results", help="GrowthBook: only read what it has measured.")] = False,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Push the versions that are shown to GrowthBook (key in NIGHTLAB_GROWTHBOOK_KEY), or the results to a webhook.

    A webhook is signed with the secret in NIGHTLAB_WEBHOOK_SECRET, and tried again until it is taken.
    """
    from nightlab.live import reading
    from nightlab.live.adapters import growthbook, webhook
    from nightlab.live.clock import clock

    with opened(study) as (place, live, store):
        if where == "webhook":
            told = reading.results(store, live, now=clock()())
            attempts = webhook.post(_said(url, "--url"), _environment(_WEBHOOK), told, at=time.time())
            print_json({"attempts": attempts}) if as_json else print(f"taken at attempt {attempts}")
            return
        if where != "growthbook":
            raise BadTask(f"there is nothing to push to called {where!r}; write growthbook or webhook")
        split = store.split()
        if split is None:
            raise BadTask("nothing is deployed yet; nightlab live deploy shows the start")
        there = growthbook.GrowthBook(_environment(_GROWTHBOOK), url=url or growthbook.CLOUD)
        if results:
            _tell_measured(there.results(place.name, split), as_json)
            return
        target = growthbook.Target(
            _said(datasource, "--datasource"), _said(assignment, "--assignment"), _said(owner, "--owner")
        )
        made = there.push(place.name, split, store.arms(), target)
        print_json(made) if as_json else print(
            f"experiment {harmless(made['experiment'])} is a draft there; start it there"
        )


def _tell_measured(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json({"evidence": "measured elsewhere", "results": found})
        return
    for one in found:
        what = f"version {one['version']}, {one['metric']}: {one['mean']} of {one['users']} users"
        print(harmless(f"measured elsewhere, no claim: {what}"))
    if not found:
        print("GrowthBook has no results yet")


def _said(value: str | None, option: str) -> str:
    if not value:
        raise BadTask(f"this needs {option}")
    return value


def _environment(name: str) -> str:
    if not (value := os.environ.get(name)):
        raise BadTask(f"{name} is not set")
    return value


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
