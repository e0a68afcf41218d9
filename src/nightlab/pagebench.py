"""The page, measured: a night of many experiments behind the real server, and what watching costs a study."""

from __future__ import annotations

import gzip
import http.client
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from statistics import median
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from nightlab import task
from nightlab.errors import NightlabError
from nightlab.ledger import Event, Ledger
from nightlab.loop import Stop
from nightlab.place import Place, find, first_commit, held
from nightlab.proposer import Context
from nightlab.study import Study
from nightlab.values import Experiment, Proposal
from nightlab.workspace import Repository

_TASK = '[task]\nrun = "sh run.sh"\neditable = ["train.py"]\n[metric]\nname = "val_loss"\ndirection = "lower"\n'
_PARTS = ("the embedding", "the second block", "the schedule", "the optimiser", "the head", "the loader")
_WHY = (
    "the loss was still falling when the budget ended, so a larger value should get further in as many steps",
    "experiments near this one lost by less than their own standard error; a smaller step in the same direction may do",
    "it is the one constant of this part that nobody has touched since the start, and the gradients there are small",
    "half of it does not change what is computed, as the log of the last run shows, and it would be one thing less",
)
_TAIL = "".join(f"step {step} loss {4 - step / 900:.4f} rate 0.0{step % 97:02d} tokens/s 48211\n" for step in range(40))
_TRACE = "Traceback (most recent call last):\nValueError: shapes (64, 128) and (64, 256) do not fit\n"
_DIFF = """\
diff --git a/train.py b/train.py
--- a/train.py
+++ b/train.py
@@ -{line},4 +{line},7 @@ def block(x, width):
     x = norm(x)
     for layer in layers:
         x = x + layer(x)
-    return x * {old}
+    # {words}
+    scale = {new}
+    if scale != 1.0:
+        x = x * scale
+    return x
"""


@dataclass(slots=True)
class _Told:
    """How far the night has been told: the incumbent, its value, and the dice."""

    dice: Random
    incumbent: int = 0
    value: float = 2.0

    def study(self, base: str) -> Iterator[Event]:
        """The beginning: the study, its lab, the baseline and its noise."""
        study = {"seed": 0, "base": base, "metric": "val_loss", "direction": "lower", "study": "main"}
        yield Event("study", "0", study | {"policy": "race", "level": "printed", "jail": "process", "task": {}})
        yield Event("began", "0", {"slots": 2, "jail": "process"})
        yield Event("proposed", "0", {"hypothesis": "baseline", "proposer": "lab", "tree": "0", "diff": ""}, 0)
        yield Event("committed", "0", {"commit": base}, 0)
        for run in (1, 2, 3):
            yield from self._run(0, run, "incumbent", self.value + self.dice.gauss(0, 0.002))
        decided = {"status": "kept", "value": self.value, "reason": "the start", "grade": "E1", "pool": []}
        yield Event("decided", "0", decided, 0)
        power = {"sigma": 0.002, "correlation": 0.5, "visible_gain": 0.003, "examples": 4096, "good_for": 12_000}
        yield Event("measured", "0", power, 0)

    def experiment(self, number: int) -> Iterator[Event]:
        """One experiment: rejected, crashed, discarded, or kept; raced where it was close."""
        old, new = round(self.dice.random(), 4), round(self.dice.random(), 4)
        words = f"{self.dice.choice(_PARTS)}: from {old} to {new} (attempt {number}); {self.dice.choice(_WHY)}"
        diff = _DIFF.format(line=self.dice.randrange(10, 900), old=old, new=new, words=words[:90])
        proposer = self.dice.choice(("tuner.constants", "tuner.catalogue", "claude", "codex"))
        body = {"parent": self.incumbent, "hypothesis": words, "proposer": proposer, "diff": diff, "tokens": 3000}
        body |= {"money": 0.02, "facts": {"part": words.partition(":")[0]}}
        fate = self.dice.random()
        if fate < 0.03:
            why = {"kind": "smoke", "reason": "smoke: train.py does not parse"}
            yield Event("rejected", str(number), body | why, number)
            return
        size = {"tree": f"{number:040x}", "complexity": self.dice.randrange(40)}
        yield Event("proposed", str(number), body | size, number)
        if fate < 0.09:
            yield from self._run(number, 1, "candidate", None)
            yield Event("decided", str(number), {"status": "crashed", "reason": "exit code 1: ValueError"}, number)
            return
        gain = 0.006 if fate > 0.985 else -abs(self.dice.gauss(0, 0.05))
        for run in range(1, 4 if gain > -0.01 else 2):
            yield from self._run(number, run, "candidate", self.value - gain + self.dice.gauss(0, 0.002))
        yield from self._decided(number, gain)

    def _decided(self, number: int, gain: float) -> Iterator[Event]:
        is_kept, value = gain > 0, self.value - gain
        said = {"status": "kept" if is_kept else "discarded", "value": value, "gain": gain, "stderr": 0.0015}
        reason = f"z {gain / 0.0015:.2f} {'>' if is_kept else '<='} 0 while ideas are plentiful"
        more = {"z": gain / 0.0015, "reason": reason, "grade": "E2" if gain > -0.01 else "E1", "pool": [f"{number}-1"]}
        yield Event("decided", str(number), said | more, number)
        if is_kept:
            self.incumbent, self.value = number, value
            yield Event("committed", str(number), {"commit": f"{number:040x}"}, number)

    def _run(self, number: int, run: int, purpose: str, value: float | None) -> Iterator[Event]:
        name, seed = f"{number}-{run}", self.dice.randrange(2**31)
        body = {"run": name, "purpose": purpose, "seed": seed, "asked_by": number, "again": 0}
        yield Event("started", f"{name}.0", body, number)
        said = {"tail": _TAIL + ("" if value is not None else _TRACE), "secondary": {}, "examples": "", "facts": {}}
        end = {"outcome": "crashed", "reason": "exit code 1"} if value is None else {"outcome": "finished"}
        cost = {"seconds": 300.0, "cpu_seconds": 290.0, "peak_mb": 900.0 + seed % 200}
        yield Event("ran", name, {"run": name, "value": value, "reason": "exit code 0"} | end | said | cost, number)


def _repository(folder: Path) -> None:
    folder.mkdir()
    (folder / task.TASK_FILE).write_text(_TASK)
    (folder / "run.sh").write_text("echo val_loss: 1\n")
    (folder / "train.py").write_text("NUMBER = 0\n")
    first_commit(folder)


def night(folder: Path, experiments: int) -> Place:
    """A study of so many experiments in a new folder, told event by event as the loop would: in seconds, not hours."""
    _repository(folder)
    place, told = find(folder), _Told(Random(0))
    with held(place), closing(Ledger(place.ledger)) as ledger, closing(Repository(folder)) as repository:
        ledger.append(*told.study(repository.head()))
        for batch in range(1, experiments + 1, 500):
            numbers = range(batch, min(batch + 500, experiments + 1))
            ledger.append(*(event for number in numbers for event in told.experiment(number)))
    return place


@dataclass(frozen=True, slots=True)
class Served:
    """A server under way: its process, and the address of the study it shows."""

    process: int
    host: str
    port: int
    path: str

    def get(self, path: str, *, packed: bool = False) -> bytes:
        """What it sends for an address, as it goes over the wire. Raises NightlabError where it refuses."""
        line = http.client.HTTPConnection(self.host, self.port, timeout=30)
        with closing(line):
            line.request("GET", path, headers={"Accept-Encoding": "gzip" if packed else "identity"})
            answer = line.getresponse()
            sent = answer.read()
        if answer.status != 200:
            raise NightlabError(f"the page answered {answer.status} for {path}; see what nightlab web prints")
        return sent

    def memory_mb(self) -> float:
        """The most memory its process has held."""
        told = Path(f"/proc/{self.process}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", told)
        return int(found[1]) / 1024 if found else 0.0


@contextmanager
def serving(folder: Path, study: str = "main") -> Iterator[Served]:
    """`nightlab web` as a process of its own, until the block ends."""
    command = [sys.executable, "-m", "nightlab", "-C", str(folder), "web", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise NightlabError("nightlab web did not start; try it by hand to see why")
            where = urlsplit(json.loads(line)["url"])
            yield Served(process.pid, where.hostname or "127.0.0.1", where.port or 80, f"/s/{study}/")
        finally:
            process.send_signal(signal.SIGKILL)


def _first_load(served: Served, html: str) -> dict[str, int]:
    """Every file that the first screen asks for, by its address: bytes over the wire."""
    assets = re.findall(r"""<(?:script|link|img)\b[^>]*?(?:src|href)=["']([^"'#]+)["']""", html)
    found = {served.path: len(gzip.compress(html.encode(), 6))}
    for address in assets:
        if not address.startswith(("data:", "http:", "https:")):
            path = address if address.startswith("/") else served.path + address
            found[path] = len(served.get(path, packed=True))
    return found


def _listen(served: Served, arrived: dict[int, float]) -> None:
    """Note when the message of each event came, until the server ends."""
    line = http.client.HTTPConnection(served.host, served.port, timeout=60)
    with closing(line):
        line.request("GET", f"{served.path}events", headers={"Accept": "text/event-stream"})
        answer = line.getresponse()
        try:
            while row := answer.readline():
                if row.startswith(b"id:"):
                    arrived.setdefault(int(row[3:]), time.perf_counter())
        except OSError:
            return


def _latencies(served: Served, place: Place, appended: int = 40) -> list[float]:
    """Seconds from an append to the message that tells of it."""
    arrived: dict[int, float] = {}
    Thread(target=_listen, args=(served, arrived), daemon=True).start()
    told, dice = [], Random(1)
    with closing(Ledger(place.ledger)) as ledger:
        time.sleep(1.5)
        for number in range(appended):
            time.sleep(0.05 + 0.4 * dice.random())
            one = ledger.next_number()
            words = {"parent": 0, "hypothesis": f"said while somebody looks on, {number}", "proposer": "turning"}
            ledger.append(Event("proposed", str(one), words | {"tree": f"t{one}", "diff": "", "facts": {}}, one))
            told.append((ledger.last_seq(), time.perf_counter()))
        time.sleep(2.0)
    return [_arrival(arrived, seq) - at for seq, at in told]


def _arrival(arrived: dict[int, float], seq: int) -> float:
    """When the message came that told of an event, or of it and later ones at once."""
    return min((at for number, at in arrived.items() if number >= seq), default=float("inf"))


def _watch(served: Served, pages: int, ready: Any) -> None:
    """So many open pages, in one thread each; a process of its own, so that it takes no turn of the study's."""
    for _ in range(pages):
        Thread(target=_listen, args=(served, {}), daemon=True).start()
    time.sleep(0.5)
    ready.set()
    signal.pause()


@contextmanager
def watching(served: Served, pages: int) -> Iterator[None]:
    """So many pages are open while the block lasts."""
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    process = spawn.Process(target=_watch, args=(served, pages, ready))
    process.start()
    try:
        ready.wait(30)
        yield
    finally:
        process.kill()
        process.join()


class _Counting:
    """An instant proposer whose every tree is new."""

    name = "counting"

    def __init__(self) -> None:
        self._numbers = count(1)

    def propose(self, context: Context) -> Proposal:
        """Write the next number down."""
        number = next(self._numbers)
        return Proposal(f"number {number}", {"train.py": f"NUMBER = {number}\n"})

    def learn(self, experiment: Experiment) -> None:
        """Nothing."""


def _slowdown(folder: Path, pages: int, experiments: int, rounds: int) -> list[float]:
    """Experiments a second of a real study with so many pages open, over those without, turn by turn.

    The script prints its number at once, so that the study is as fast as it can be and has most to tell.
    """
    _repository(folder)
    place, ratios = find(folder), []
    with held(place), closing(Study(place, jail="process")) as study:
        proposer = _Counting()
        study.loop([proposer]).run(Stop(experiments=experiments))
        with serving(folder) as served:
            for turn in range(rounds):
                speeds = {}
                for is_watched in ((True, False), (False, True))[turn % 2]:
                    with watching(served, pages if is_watched else 0):
                        begin = time.perf_counter()
                        study.loop([proposer]).run(Stop(experiments=experiments))
                        speeds[is_watched] = experiments / (time.perf_counter() - begin)
                ratios.append(speeds[True] / speeds[False])
    return ratios


def page(experiments: int, *, pages: int = 20, rounds: int = 10) -> dict[str, Any]:
    """The page of a night of so many experiments: time, bytes, memory, delay; and what open pages cost a study."""
    with tempfile.TemporaryDirectory(prefix="nightlab-bench-", dir=Path.cwd()) as name:
        place = night(Path(name) / "night", experiments)
        with serving(place.root) as served:
            html = served.get(served.path).decode()
            times = [_timed(served) for _ in range(20)]
            load = _first_load(served, html)
            delays = _latencies(served, place)
            views = {view: _timed(served, view) for view in ("experiments", "tree", "frontier", "insights", "report")}
            memory = served.memory_mb()
        ratios = _slowdown(Path(name) / "study", pages, 60, rounds)
    return {
        "experiments": experiments,
        "overview_s": median(times),
        "overview_s_max": max(times),
        "views_s": views,
        "first_screen_bytes": len(html.encode()),
        "first_screen_gzip_bytes": load[served.path],
        "first_load_gzip_bytes": sum(load.values()),
        "first_load_files": load,
        "server_mb": memory,
        "delay_s_median": median(delays),
        "delay_s_max": max(delays),
        "pages": pages,
        "speed_with_pages": median(ratios),
        "speed_with_pages_each": ratios,
        "cores": len(os.sched_getaffinity(0)),
    }


def _timed(served: Served, view: str = "") -> float:
    begin = time.perf_counter()
    served.get(served.path + view)
    return time.perf_counter() - begin


def lines(found: dict[str, Any]) -> list[str]:
    """What was measured, in words, the bar beside each figure."""
    kb = {name: found[f"{name}_bytes"] / 1000 for name in ("first_screen", "first_screen_gzip", "first_load_gzip")}
    views = ", ".join(f"{name} {1000 * seconds:.0f}" for name, seconds in found["views_s"].items())
    ratios = ", ".join(f"{one:.2f}" for one in sorted(found["speed_with_pages_each"]))
    speed = f"{found['speed_with_pages']:.3f} times as fast as without"
    slowest = 1000 * found["overview_s_max"]
    return [
        f"{found['experiments']} experiments, {found['cores']} cores",
        f"overview: {1000 * found['overview_s']:.0f} ms, the slowest of twenty {slowest:.0f} (500)",
        f"other views, ms: {views}",
        f"first screen: {kb['first_screen']:.1f} KB of HTML (150), {kb['first_screen_gzip']:.1f} KB packed",
        f"first load, packed: {kb['first_load_gzip']:.1f} KB in {len(found['first_load_files'])} files (60)",
        f"memory of the server: {found['server_mb']:.0f} MB at most (120)",
        f"from an event to the page: {found['delay_s_median']:.2f} s, at most {found['delay_s_max']:.2f} (1)",
        f"a study with {found['pages']} open pages: {speed} ({ratios})",
    ]
