"""One recorded bank of edits to every system in the same order, and faults: hangs, kill -9, a full disk, a model out of
order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from nightlab.peersbench import systems, work
from nightlab.peersbench.systems import Plan, Search, Setting
from nightlab.testing.disk import small_disk

SETTINGS = {
    "nightlab": Setting("nightlab", "", 2, 2),
    "openevolve": Setting("openevolve", "", 2, 2),
    "gepa": Setting("gepa", "", 2, 1),
    "shinka": Setting("shinka", "", 2, 2),
}
TIMEOUT = 4
_GRACE = 2.0
_FULL = 15.0
"""Seconds that a search is left alone with a full disk."""
_BEFORE_THE_KILL, _ALL = 30, 150  # far enough apart that a busy machine does not sleep through the rest


def replayed(cache: Path, system: str, seed: int, *, limit: float) -> Mapping[str, Any]:
    """What a system makes of one bank: what its best is truly worth, what it claims, what hung and was left behind."""
    edits = work.bank(seed)
    plan = Plan(len(edits), sigma=1.0, timeout=TIMEOUT)
    with (
        tempfile.TemporaryDirectory(prefix="nightlab-bench-") as name,
        systems.searching(Path(name) / "search", cache, SETTINGS[system], plan, edits) as (search, model, _),
    ):
        systems.watch(search, limit=limit)
        has_ended = search.process is not None and search.process.poll() is not None
        left = len(survivors(search))
        systems.end(search)
        told: dict[str, Any] = {
            "system": system,
            "seed": seed,
            "asked": model.told,
            "evaluations": search.evaluations(),
        }
        told |= {"ended": has_ended, "survivors": left, "seconds": search.wall}
        told |= {"possible": sum(max(0.0, edit.worth) for edit in edits)}
        return told | (_best(search) if has_ended else {})


def _best(search: Search) -> dict[str, Any]:
    try:
        best = search.best()
    except FileNotFoundError:  # it ended without a word
        return {}
    if not best:
        return {}
    return {"true": work.truth(best["source"]), "claimed": best["claimed"]}


def survivors(search: Search) -> list[int]:
    """Processes of a search that still live a while after it has ended."""
    process = search.process
    if process is None:
        return []
    time.sleep(_GRACE)
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in (process.pid, os.getpid()):
            continue
        try:
            session = int((entry / "stat").read_text().rpartition(")")[2].split()[3])
            words = (entry / "cmdline").read_bytes().decode("utf-8", "replace")
        except (OSError, ValueError):  # it ended while we looked
            continue
        if words and (session == process.pid or str(search.folder) in words):
            found.append(int(entry.name))
    return found


def killed(cache: Path, system: str, *, limit: float) -> Mapping[str, Any]:
    """kill -9 in the middle: what was left running, what was lost, and whether it goes on."""
    plan = Plan(_ALL, seconds=0.05)
    edits = work.harmful(2 * _ALL)
    with (
        tempfile.TemporaryDirectory(prefix="nightlab-bench-") as name,
        systems.searching(Path(name) / "search", cache, SETTINGS[system], plan, edits) as (search, _, url),
    ):
        systems.watch(search, limit=limit, candidates=_BEFORE_THE_KILL)
        assert search.process is not None
        os.kill(search.process.pid, signal.SIGKILL)
        search.process.wait()
        left = len(survivors(search))
        before = _through(search)
        systems.end(search)
        known = remembered(cache, search)
        systems.start(search, cache, url)
        systems.watch(search, limit=limit, candidates=before + 5)
        after = _through(search)
        told = {"system": system, "before": before, "survivors": left, "known": known}
        return told | {"lost": max(0, before - known), "goes_on": after > before}


def filled(cache: Path, system: str, *, limit: float) -> Mapping[str, Any] | None:
    """A disk that fills up in the middle: whether the search ends by itself (its exit status), what it makes of a full
    disk, what was lost, and whether it goes on once there is room. None where no small disk can be mounted."""
    plan = Plan(_ALL, seconds=0.05)
    with tempfile.TemporaryDirectory(prefix="nightlab-bench-") as name:
        folder = Path(name) / "search"
        folder.mkdir()
        with small_disk(folder, "300m") as missing:
            if missing:
                return None
            with systems.searching(folder, cache, SETTINGS[system], plan, work.harmful(2 * _ALL)) as (search, _, url):
                systems.watch(search, limit=limit, candidates=_BEFORE_THE_KILL)
                before = _through(search)
                _fill(folder / "filler")
                systems.watch(search, limit=_FULL)
                assert search.process is not None
                status = search.process.poll()
                systems.end(search)
                left = len(survivors(search))
                (folder / "filler").unlink()
                done, known = _through(search), remembered(cache, search)
                systems.start(search, cache, url)
                systems.watch(search, limit=limit, candidates=done + 5)
                told = {"system": system, "before": before, "more": done - before, "exit": status, "survivors": left}
                return told | {"lost": max(0, done - known), "goes_on": _through(search) > done}


def _through(search: Search) -> int:
    return sum(one.end is not None for one in search.candidates())


def _fill(path: Path) -> None:
    """Write until there is no room for another byte."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass


def remembered(cache: Path, search: Search) -> int:
    """How many candidates a system would go on from."""
    if search.setting.system == "nightlab":
        return _through(search)
    driver = files("nightlab") / f"peersbench/drivers/run_{search.setting.system}.py"
    command = [str(systems.environment(cache, search.setting.system)), str(driver), str(search.folder), "known"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    try:
        return max(0, int(json.loads(said)["known"]) - 1)  # without the start
    except ValueError:
        return 0


def refused(cache: Path, system: str, *, limit: float) -> Mapping[str, Any]:
    """A model that answers every third call with an error: how many of thirty experiments come through."""
    plan = Plan(30)
    with (
        tempfile.TemporaryDirectory(prefix="nightlab-bench-") as name,
        systems.searching(Path(name) / "search", cache, SETTINGS[system], plan, work.harmful(100), refuses_every=3) as (
            search,
            model,
            _,
        ),
    ):
        systems.watch(search, limit=limit, candidates=plan.experiments)
        done = _through(search)
        return {"system": system, "experiments": done, "answers": model.told, "seconds": search.wall}
