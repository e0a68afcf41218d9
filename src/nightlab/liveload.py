"""The live service on trial: what it bears over real HTTP, what `kill -9` costs, how long a results page takes.

The load comes from this machine too and takes its share of the cores; a note says how many things came at a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

from nightlab import task, tasks
from nightlab.errors import NightlabError
from nightlab.live.reading import results
from nightlab.live.store import Side, Store
from nightlab.live.throughput import Sender, assignments, events, filled
from nightlab.livebench import Row

_WORKERS = 2
_HOURS = 90 * 24
_ALONE = 64
"""Connections on which events come one by one."""


def rows(reps: int = 4000, *, seconds: float = 4.0, say: Callable[[str], None] = lambda _: None) -> Iterator[Row]:
    """Every measure of the service: a million events in the store where there are 1,000 repetitions or more."""
    with TemporaryDirectory(prefix="nightlab-bench-") as made:
        folder = Path(made, "landing")
        tasks.write("landing", folder)
        with closing(filled(folder / ".nightlab/live.sqlite", 2)) as store:
            say("a service under load")
            yield from loads(folder, seconds)
            say("kill -9 under load")
            yield from kill(folder, store)
    say("a store with many events")
    yield results_page(1_000_000 if reps >= 1000 else 10_000)


@contextmanager
def _serving(folder: Path, workers: int = 1) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """`nightlab live serve` in processes of its own, until the block ends: the process, its address and its key."""
    command = [sys.executable, "-m", "nightlab", "-C", str(folder), "live", "serve", "--json", "--port", "0"]
    process = subprocess.Popen([*command, "--workers", str(workers)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline() or "{}")
        if not told:
            raise NightlabError("the service did not start; try it by itself: nightlab live serve")
        yield process, told["url"], told["key"]
    finally:
        process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def loads(folder: Path, seconds: float) -> Iterator[Row]:
    """Assignments and durable events a second, by the hundred and one by one."""
    with _serving(folder, _WORKERS) as (_, url, key):
        given = assignments(url, key, seconds=seconds)
        many = events(url, key, seconds=seconds)
    with _serving(folder) as (_, url, key):
        one = events(url, key, seconds=seconds)
        alone = events(url, key, seconds=seconds, batch=1, connections=_ALONE)
    here = f"{os.cpu_count()} cores, the load on them too"
    by = f"100 at a time on 4 connections, {_WORKERS} workers"
    yield Row("durable events a second", many.a_second, 5_000, inf, f"{by}; {here}; one worker {one.a_second:,.0f}")
    note = f"each its own request on {_ALONE} connections, one worker; p99 {alone.p99:.0f} ms"
    yield Row("durable events a second, one by one", alone.a_second, -inf, inf, note)
    yield Row(
        "assignments a second", given.a_second, 20_000, inf, f"100 at a time on 2 connections, {_WORKERS} workers"
    )
    yield Row("assignments: p99 in ms", given.p99, 0, 20, "of a request for 100")


def kill(folder: Path, store: Store, *, seconds: float = 2.0) -> Iterator[Row]:
    """kill -9 of the service under load; then everything is sent again."""
    before = _counted(store)
    with _serving(folder) as (process, url, key):
        sender = Sender()
        sender.send(url, key, until=time.monotonic() + seconds, then=process.kill)
    lost = max(0, sender.acknowledged - (_counted(store) - before))
    yield Row("acknowledged events lost by kill -9", lost, 0, 0, f"of {sender.acknowledged:,}")
    with _serving(folder) as (_, url, key):
        sender.again(url, key)
    twice = _counted(store) - before - sender.sent
    yield Row("events counted twice when all are sent again", twice, 0, 0, f"of {sender.sent:,}")


def _counted(store: Store) -> int:
    side = sum((total.side for total in store.totals("conversion")), Side())
    return side.exposed + side.converted


def results_page(number: int) -> Row:
    """How long it takes to work out what a results page shows."""
    with TemporaryDirectory(prefix="nightlab-bench-") as made:
        tasks.write("landing", Path(made, "landing"))
        live = task.load(Path(made, "landing")).live
        assert live is not None
        with closing(filled(Path(made, "live.sqlite"), number, outcome=live.outcome, hours=_HOURS)) as store:
            begin = time.perf_counter()
            told = results(store, live, now=time.time())
            took = time.perf_counter() - begin
    shown = sum(one["exposed"] + one["converted"] for one in told["arms"])
    return Row(f"results page of {shown:,} events: seconds", took, 0, 1, "two versions, three audiences, 90 days")
