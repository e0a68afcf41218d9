"""The commands around live experiments: deploy, results, insights, capacity, rollback, simulated visitors, demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightlab.cli.base import (
    Json,
    StudyName,
    leave_report,
    open_study,
    place_of,
    print_json,
    print_report,
    seconds,
    speaker,
)
from nightlab.cli.live import live_app
from nightlab.errors import BadTask, NightlabError, NotFound
from nightlab.words import harmless

if TYPE_CHECKING:
    from nightlab.live.store import Store
    from nightlab.place import Place
    from nightlab.study import Study
    from nightlab.task import Live

_KEY = "NIGHTLAB_LIVE_KEY"
Seed = Annotated[int, typer.Option(help="Where all chance comes from.")]


@contextmanager
def opened(study: str) -> Iterator[tuple[Place, Live, Store]]:
    """A study's live side, whether or not a lab runs."""
    from nightlab import task
    from nightlab.live.opening import store_of

    place = place_of(study)
    live = task.load(place.root).live
    if live is None:
        raise BadTask("this task has no [live]; nightlab init landing writes one that has")
    seed = 0
    if place.ledger.exists():
        with closing(place.read()) as ledger:
            seed = int((ledger.study() or {}).get("seed") or 0)
    with closing(store_of(place, live, seed)) as store:
        yield place, live, store


@live_app.command()
def deploy(
    check: Annotated[bool, typer.Option("--check", help="Only hold the copy against page and brand.")] = False,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Show the start to all visitors, if the brand guard lets it; what is to be raced against it: nightlab run, try."""
    from nightlab import task
    from nightlab.live.deploying import checked, show_start

    with opened(study) as (place, _, store):
        found = task.load(place.root)
        copy = checked(place.root, found)
        words = "page and brand have nothing against it"
        if not check:
            words = show_start(store, copy, at=time.time())
    print_json({"copy": dict(copy), "words": words}) if as_json else print(words)


@live_app.command()
def results(study: StudyName = "main", as_json: Json = False) -> None:
    """What visitors have said so far: every version, what may be claimed, the lift over the start three times."""
    from nightlab.live import reading
    from nightlab.live.clock import clock

    with opened(study) as (_, live, store):
        told = reading.results(store, live, now=clock()())
    print_json(told) if as_json else print("\n".join(map(harmless, reading.lines(told))))


@live_app.command()
def insights(
    query: Annotated[str, typer.Argument(help="Only what holds these words: an audience, a slot, a word.")] = "",
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """What may be claimed of which audience, admitted over the whole stream of experiments, and until when."""
    from nightlab.live.claims import insights as claimed
    from nightlab.live.clock import clock
    from nightlab.live.comparison import Snapshot

    with opened(study) as (_, live, store):
        found = claimed(store, Snapshot.of(store, live.outcome), live, now=clock()(), query=query)
    if as_json:
        print_json([one.told() for one in found])
        return
    print("\n".join(harmless(one.words()) for one in found) or "no claim stands yet")


@live_app.command()
def capacity(
    rate: Annotated[float | None, typer.Option(help="What converts now; [live] rate unless said.")] = None,
    visitors: Annotated[float | None, typer.Option(help="Visitors a day; [live] unless said.")] = None,
    layers: Annotated[int, typer.Option(min=1, help="Experiments that overlap, in layers of their own.")] = 1,
    as_json: Json = False,
) -> None:
    """What this traffic can honestly tell in a year, before anything is shown to anybody."""
    from dataclasses import asdict

    from nightlab import task
    from nightlab.live.capacity import smallest_effect, table

    live = task.load(Path.cwd()).live if rate is None or visitors is None else None
    rate, visitors = rate or (live.rate if live else 0.03), visitors or (live.visitors_a_day if live else 1000.0)
    holdout = live.holdout if live else 0.05
    rows, least = table(rate, visitors, layers=layers, holdout=holdout), smallest_effect(rate, visitors)
    if as_json:
        print_json({"rate": rate, "visitors_a_day": visitors, "rows": [asdict(one) for one in rows], "least": least})
        return
    print(f"{visitors:,.0f} visitors a day, of whom {rate:.1%} convert; {holdout:.0%} held out")
    for one in rows:
        print(f"  a gain of {one.effect:>4.0%}: {one.visitors:>10,} visitors each, {one.a_year:>6,} experiments a year")
    print(f"the smallest gain that one experiment can tell before its claim would expire: {least:.1%}")


@live_app.command()
def rollback(
    number: Annotated[int | None, typer.Argument(help="The version; the champion unless said.")] = None,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Take a version from all visitors within a second; the lab takes it out of the branch."""
    from nightlab import control
    from nightlab.live.rollback import roll_back

    with opened(study) as (place, _, store):
        taken, split = roll_back(store, number)
    with suppress(BadTask, NotFound):  # no study stands behind it, or it was decided against already
        control.ask(place, "veto", number=taken)
    words = f"version {taken} is rolled back; version {split.champion} is the champion (split {split.version})"
    print_json({"rolled_back": taken, "champion": split.champion, "split": split.version}) if as_json else print(words)


@live_app.command()
def visitors(
    url: Annotated[str, typer.Argument(help="Where nightlab live serve listens.")],
    for_: Annotated[str, typer.Option("--for", help="For how long they come.")] = "1m",
    a_day: Annotated[
        float | None, typer.Option(help="How many a (simulated) day; as many as can, unless said.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Simulated visitors of the landing template, who use the service over HTTP with the key in NIGHTLAB_LIVE_KEY."""
    from nightlab.live.clock import clock
    from nightlab.live.load import Load
    from nightlab.live.visitors import people

    key = os.environ.get(_KEY)
    if not key:
        raise BadTask(f"{_KEY} is not set; nightlab live serve says the key")
    end = time.monotonic() + seconds(for_)
    with (
        Load(url, key, people(), clock=clock(), seed=seed, visitors_a_day=a_day) as load,
        suppress(KeyboardInterrupt),
    ):
        while time.monotonic() < end and load.trouble is None:
            time.sleep(0.1)
    if load.trouble:
        raise NightlabError(f"the visitors were turned away: {load.trouble}")
    told = {"shown": load.tally.shown, "acknowledged": load.tally.acknowledged, "again": load.tally.again}
    print_json(told) if as_json else print(
        f"{told['shown']:,} visitors, {told['acknowledged']:,} outcomes acknowledged"
    )


@live_app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="A new folder for it.")] = Path("nightlab-live"),
    for_: Annotated[str, typer.Option("--for", help="How long to search, in real time.")] = "80s",
    experiments: Annotated[int, typer.Option(min=1, help="Stop after so many experiments.")] = 45,
    workers: Annotated[int, typer.Option(min=1, help="How many versions are raced at a time.")] = 5,
    speed: Annotated[
        float, typer.Option(min=1, help="How much faster than real time the simulated clock runs.")
    ] = 70_000,
    rest: Annotated[str, typer.Option(help="How long the champion is then held against the holdout.")] = "15s",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """The whole loop with simulated visitors over HTTP: propose copy, race, serve, claim, insights, holdout, report."""
    from nightlab import tasks
    from nightlab.live.clock import CLOCK
    from nightlab.place import first_commit

    if folder.exists() and any(folder.iterdir()):
        raise BadTask(f"{folder} exists already; remove it, or name another folder: nightlab live demo FOLDER")
    say = speaker(as_json)
    tasks.write("landing", folder)
    first_commit(folder)
    os.chdir(folder)
    os.environ[CLOCK] = f"{time.time()}:{speed}"
    say(f"The landing template is in {Path.cwd()}. No language model is used; the tuner tries a library of texts.")
    say(f"Visitors are simulated, and so is time: one second stands for {speed / 3600:.0f} hours.")
    with open_study("main", seed=seed, workers=workers) as study, _street(seed, say):
        told = _show(study, experiments, seconds(for_), seconds(rest), say, is_quiet=as_json)
    left = leave_report("main")
    if as_json:
        print_json(told)
        return
    print_report("main")
    print("\n".join(map(harmless, told["lines"])))
    print(f"{left}\nLook around: cd {folder}; nightlab log; nightlab live results; nightlab live insights students")


def _show(study: Study, experiments: int, search: float, rest: float, say: Any, *, is_quiet: bool) -> dict[str, Any]:
    """The search, then a while in which the champion alone is held against the holdout; what came of it."""
    from nightlab import plugins
    from nightlab.cli.night import watched
    from nightlab.live import reading, truth
    from nightlab.live.clock import clock
    from nightlab.live.visitors import people
    from nightlab.loop import Stop

    stop = Stop(experiments=experiments, seconds=search)
    loop = study.loop(plugins.proposers("tuner"))
    with watched(study, stop, is_quiet=is_quiet)(loop):
        reason = loop.run(stop)
    say(f"stopped: {reason}; now the champion alone, beside those held out, for {rest:.0f} s")
    time.sleep(rest)
    study.finish(say)
    live, store = study.task.live, study.executor.store  # type: ignore[attr-defined]
    assert live is not None
    now = clock()()
    told, known = reading.results(store, live, now=now), truth.truth(store, live, people(), now=now)
    return {"results": told, "truth": known, "lines": _said(told, known)}


def _said(told: dict[str, Any], known: dict[str, Any]) -> list[str]:
    from nightlab.live import truth

    tried = [one for one in told["arms"] if one["parent"] is not None]
    seen = sum(one["exposed"] for one in told["arms"])
    served = [one["number"] for one in tried if one["status"] == "serving"]
    return [
        "",
        f"Live: {len(tried)} versions raced, {seen:,} visitors; won: {', '.join(map(str, served)) or 'none'}",
        told["lift"]["words"] if told["lift"] else "no lift yet",
        "Claims, each beside the simulator's truth:",
        *truth.lines(known),
    ]


@contextmanager
def _street(seed: int, say: Any) -> Iterator[None]:
    """The real service in a process of its own, and visitors in another, until the block ends."""
    nightlab = [sys.executable, "-m", "nightlab", "live"]
    service = subprocess.Popen([*nightlab, "serve", "--port", "0", "--json"], stdout=subprocess.PIPE, text=True)
    people: subprocess.Popen[bytes] | None = None
    try:
        assert service.stdout is not None
        where = json.loads(service.stdout.readline() or "{}")
        if not where:
            raise NightlabError("the service did not start; try it by itself: nightlab live serve")
        say(f"The service is at {where['url']}/ : open it, and you are one of the visitors.")
        coming = [*nightlab, "visitors", where["url"], "--for", "1h", "--seed", str(seed)]
        people = subprocess.Popen(coming, env={**os.environ, _KEY: where["key"]}, stdout=subprocess.DEVNULL)
        yield
    finally:
        for process in (people, service):
            if process is not None:
                process.terminate()
                process.wait(timeout=20)
