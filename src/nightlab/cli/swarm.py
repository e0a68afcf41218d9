"""The commands of the swarm: make one, ask others in, join, leave; who is there, and who found what."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nightlab.cli.base import Json, StudyName, app, place_of, print_json
from nightlab.errors import BadPlugin, NotFound
from nightlab.words import harmless

if TYPE_CHECKING:
    from pathlib import Path

    from nightlab.swarm.identity import Identity
    from nightlab.swarm.membership import Membership
    from nightlab.swarm.node import Seat
    from nightlab.swarm.store import Store

swarm_app = typer.Typer(no_args_is_help=True, help="Labs that share everything and believe nothing.")
app.add_typer(swarm_app, name="swarm")

Name = Annotated[str, typer.Argument(help="The swarm's name here.")]
Label = Annotated[str | None, typer.Option(help="How others shall call you; user@machine unless said.")]
"""How a lab is called; peers see it."""


Hosts = Annotated[
    list[str] | None, typer.Option("--host", help="A name or address of that machine, where it is to run a router.")
]


def home() -> Path:
    """Where this user's key and swarms are. Raises BadPlugin where what the swarm needs is not installed."""
    from importlib.util import find_spec

    missing = [name for name in ("zenoh", "cryptography", "rfc8785") if find_spec(name) is None]
    if missing:
        raise BadPlugin(f'a swarm needs {", ".join(missing)}, not installed here: pip install "nightlab[swarm]"')
    from nightlab.swarm import identity

    return identity.home(os.environ)


def seat(name: str) -> Seat:
    """One's seat in a swarm that one has joined. Raises NotFound."""
    from nightlab.swarm import membership
    from nightlab.swarm.node import Seat

    return Seat(membership.open(home(), name), _me())


def _me() -> Identity:
    from nightlab.swarm.identity import Identity

    return Identity.load(home())


def _label(said: str | None) -> str:
    import getpass
    import socket

    return said or f"{getpass.getuser()}@{socket.gethostname()}"


@swarm_app.command("id")
def id_(as_json: Json = False) -> None:
    """Who you are in every swarm: the public half of this machine's key, made where there is none."""
    me = _me()
    if as_json:
        print_json({"author": me.author, "key": str(home() / "key.pem")})
        return
    print(f"{me.author}\nits key: {home() / 'key.pem'} (keep it, share it with nobody, copy it to no second machine)")


@swarm_app.command()
def create(
    name: Name,
    setting: Annotated[
        Literal["machine", "team", "open"], typer.Option(help="One machine; a team with certificates; strangers.")
    ] = "team",
    router: Annotated[list[str] | None, typer.Option(help="HOST:PORT where labs meet; several are better.")] = None,
    host: Hosts = None,
    label: Label = None,
    as_json: Json = False,
) -> None:
    """Make a swarm, and be its first member."""
    from nightlab.swarm import membership

    joined = membership.create(
        home(), name, label=_label(label), routers=router or [], setting=setting, hosts=host or []
    )
    _tell(joined, as_json)
    if not as_json and setting != "machine":
        if joined.routers:
            print(f"Start the router at {', '.join(joined.routers)} with: nightlab swarm router {name}")
        print(f"Ask others in with: nightlab swarm invite {name} THEIR-LABEL")


@swarm_app.command()
def invite(
    name: Name,
    label: Annotated[str, typer.Argument(help="How the one who is asked in shall be called.")],
    days: Annotated[int, typer.Option(min=1, help="How long the certificate in it is good for.")] = 30,
    host: Hosts = None,
    as_json: Json = False,
) -> None:
    """Print a link by which one other machine joins. Whoever reads it can join: send it as you would a password."""
    from nightlab.swarm import membership

    link = membership.invite(home(), name, label=label, days=days, hosts=host or [])
    print_json({"link": link}) if as_json else print(link)


@swarm_app.command()
def bar(
    name: Name,
    certificate: Annotated[str, typer.Argument(help="The common name of a certificate that was given to somebody.")],
) -> None:
    """Let nobody in with this certificate any more, at the routers that this machine runs."""
    from nightlab.swarm import membership

    membership.bar(home(), name, certificate)
    print(f"{harmless(certificate)} is let in no more at the routers of this machine; they notice in a moment")


@swarm_app.command()
def join(
    link: Annotated[str, typer.Argument(help="What `nightlab swarm invite` printed.")],
    label: Label = None,
    as_json: Json = False,
) -> None:
    """Become a member by a link."""
    from nightlab.swarm import membership

    _tell(membership.join(home(), link, label=label), as_json)


@swarm_app.command()
def leave(name: Name, as_json: Json = False) -> None:
    """Be a member no more; what was said there is put aside, not deleted."""
    from nightlab.swarm import membership

    where = membership.leave(home(), name)
    print_json({"left": name, "kept": str(where)}) if as_json else print(f"left {name}; its records are in {where}")


def _tell(joined: Membership, as_json: bool) -> None:
    facts: dict[str, Any] = {"name": joined.name, "swarm": joined.id, "label": joined.label, "setting": joined.setting}
    facts |= {"routers": list(joined.routers), "author": _me().author}
    if as_json:
        print_json(facts)
        return
    print(f"in the swarm {joined.name} as {harmless(joined.label)}, author {facts['author'][:16]}")
    print("\n".join(f"warning: {one}" for one in joined.warnings()), end="\n" if joined.warnings() else "")
    print(f"Take part with: nightlab run --swarm {joined.name}")


@swarm_app.command()
def router(
    name: Name,
    listen: Annotated[list[str] | None, typer.Option(help="HOST:PORT to listen on.")] = None,
    link: Annotated[list[str] | None, typer.Option(help="HOST:PORT of another router of this swarm.")] = None,
) -> None:
    """Be a place where labs meet, until Ctrl-C. It keeps nothing and decides nothing."""
    from nightlab.swarm import membership
    from nightlab.swarm.wire import Router

    over = _until_told()
    meeting = Router(membership.open(home(), name), listen=listen or [], links=link or [])
    print(f"a router of {name} at {', '.join(meeting.listen)}; Ctrl-C ends it", flush=True)
    over.wait()
    meeting.close()


@swarm_app.command()
def keep(name: Name) -> None:
    """Be there for others, without a study: hear, answer, keep what was said; until Ctrl-C."""
    from nightlab.swarm import line

    mine = seat(name)
    print(f"keeping what is said in {name}; Ctrl-C ends it", flush=True)
    line.keep(mine.joined, mine.identity, _until_told())


def _until_told() -> threading.Event:
    over = threading.Event()
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, lambda *_: over.set())
    return over


@swarm_app.command()
def peers(name: Name, as_json: Json = False) -> None:
    """Who is there now, and who was ever heard."""
    from nightlab.swarm.node import visit

    there = visit(seat(name))
    with _store(name) as store:
        known = {author: store.log.known(author)[0] for author in sorted(store.log.authors())}
    rows: list[dict[str, Any]] = [
        {
            "author": author,
            "is_there": author in there,
            "is_muted": known.get(author) == -1,
            "records": max(0, known.get(author, 0)),
        }
        for author in sorted({*known, *there})
    ]
    if as_json:
        print_json(rows)
        return
    for one in rows:
        words = "muted: it signed two things under one number" if one["is_muted"] else f"{one['records']} records"
        print(f"{'+' if one['is_there'] else ' '} {str(one['author'])[:16]}  {words}")
    print(f"{len(there)} there now, {len(known)} ever heard")


@contextmanager
def _store(name: str) -> Iterator[Store]:
    from nightlab.swarm import membership
    from nightlab.swarm.store import Store

    joined = membership.open(home(), name)
    store = Store(joined.records, joined.id)
    try:
        yield store
    finally:
        store.close()


@swarm_app.command()
def board(
    name: Name,
    task: Annotated[
        str | None, typer.Option(help="Of which task, by the start of its name; the busiest unless said.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Who found what, and what it came to elsewhere."""
    from nightlab.swarm.board import Board, tasks

    with _store(name) as store:
        found = [one for one in tasks(store.log) if one.startswith(task or "")]
        if not found:
            raise NotFound(f"nothing was said in {name} yet" + (f" about a task {task}" if task else ""))
        told = Board(store.log, found[0]).told(name)
    if as_json:
        print_json(told)
        return
    print("\n".join(map(harmless, _lines(told))))


def _lines(told: dict[str, Any]) -> Iterator[str]:
    totals, labs = told["totals"], len(told["authors"])
    yield f"{told['swarm']}: {totals['experiments']} experiments by {labs} labs, {totals['kept']} kept"
    yield (
        f"{totals['verifications']} verifications, {totals['adoptions']} adoptions, {totals['false_adoptions']} "
        f"of them of what is disputed now; {totals['duplicates']} duplicates"
    )
    yield from map(_win_line, told["wins"][:20])
    for one in told["milestones"]:
        spread = ", ".join(other["label"] for other in one["spread"]) or "nobody yet"
        yield f"milestone  {one['name']}: {one['label']} first; then {spread}"
    yield from map(_author_line, told["authors"])
    yield f"digest     {told['digest'][:16]}: the same wherever the same is known"


def _win_line(one: dict[str, Any]) -> str:
    share = "" if one["relative"] is None else f"{one['relative']:+.2%}"
    between = "" if one["low"] is None else f" ({one['low']:+.2%} to {one['high']:+.2%})"
    words = f"{one['hypothesis'][:60]}  by {one['label']}, {one['hardware']}"
    return f"{one['state']:10} {one['replicated']:2} {share:>8}{between}  {words}"


def _author_line(one: dict[str, Any]) -> str:
    trust = "not checked yet" if one["reputation"] is None else f"{one['reputation']:.2f}"
    words = "muted" if one["muted"] else f"{one['results']} results, reputation {trust}"
    return f"lab        {one['label']} ({one['author'][:8]}, {one['hardware']}): {words}"


@swarm_app.command()
def verify(
    name: Name,
    record: Annotated[str, typer.Argument(help="The win to run again here, by the start of its id.")],
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Have the lab that runs here race a win again, on its author's own tree."""
    from nightlab.study import load_task
    from nightlab.swarm.node import ask_for

    place = place_of(study)
    with closing(place.read()) as ledger:
        base = str((ledger.study() or {}).get("base"))
    found = ask_for(place, seat(name), record, load_task(place), base)
    if as_json:
        print_json({"verifies": found})
        return
    print(f"asked for: {found[:16]}; the lab takes it up next (nightlab log), and tells the swarm what came of it")


Remote = Annotated[str, typer.Argument(help="Any git remote that you may read (and, to push, write): a URL or a path.")]


@swarm_app.command()
def push(name: Name, remote: Remote, as_json: Json = False) -> None:
    """Carry all that is known here to a git remote, and bring what others left there."""
    _carry(name, remote, as_json, is_push=True)


@swarm_app.command()
def pull(name: Name, remote: Remote, as_json: Json = False) -> None:
    """Bring what others left at a git remote."""
    _carry(name, remote, as_json, is_push=False)


def _carry(name: str, remote: str, as_json: bool, *, is_push: bool) -> None:
    from nightlab.swarm import archive, membership

    folder = membership.open(home(), name).folder / "archive.git"
    with _store(name) as store:
        found = (
            archive.push(store, folder, remote, name, environ=os.environ)
            if is_push
            else archive.pull(store, folder, remote, environ=os.environ)
        )
    if as_json:
        print_json(asdict(found))
        return
    left = f", and left what was new there in commit {found.commit[:12]}" if found.commit else ""
    print(f"brought {found.records} records and {found.patches} patches from there{left}")
