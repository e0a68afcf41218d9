"""Swarms for tests to look at: real records by real keys in a real store, and studies that have joined."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightlab.place import Place
from nightlab.swarm.identity import Identity
from nightlab.swarm.record import Claim, Insight, Record, Result, Verification, blob_hash, patch_key
from nightlab.swarm.store import Store
from nightlab.values import Status

SWARM = "5a" * 32
TASK = blob_hash("the task")
BEGAN = 1_790_000_000.0
HARDWARE = ("cpu, 2 cores", "NVIDIA H200", "cpu, 64 cores")


@dataclass(frozen=True, slots=True)
class Lab:
    """One who speaks in a swarm."""

    store: Store
    key: Identity
    label: str
    hardware: str

    def say(self, body: Any) -> Record:
        """A record of its own."""
        found = self.store.write(body, self.key)
        assert isinstance(found, Record), found
        return found

    def find(self, number: int, hypothesis: str = "", **more: Any) -> Record:
        """An experiment that it kept, with its patch."""
        diff = f"diff --git a/train.py b/train.py\n+knob = {number}\n"
        said: dict[str, Any] = {
            "hypothesis": hypothesis or f"idea {number}",
            "status": Status.KEPT,
            "at": BEGAN + 60 * number,
            "values": [2.9, 2.91],
            "against": [3.0, 3.01],
            "gain": 0.1,
            "stderr": 0.01,
            "grade": "E2",
            "per_hour": 12.0,
        }
        return self.say(
            Result(
                task=TASK, evaluator=TASK, patch=patch_key(TASK, diff), change=self.store.keep(diff), parent="",
                label=self.label, direction="lower", budget=["seconds", "60"], hardware=self.hardware,
                environment="python 3.11", **said | more,
            )
        )  # fmt: skip

    def run(self, win: Record, *, gain: float = 0.1, adopted: bool = True, at: float = 0.0) -> Record:
        """Somebody else's win, run again here."""
        said = {"gain": gain, "stderr": 0.01, "values": [2.9], "against": [3.0]}
        return self.say(
            Verification(
                task=TASK, of=win.id, label=self.label, hardware=self.hardware, at=at or BEGAN + 900,
                has_same_parent=True, adopted=adopted, **said,
            )
        )  # fmt: skip


def labs(store: Store, folder: Path, names: Sequence[str], hardware: Sequence[str] = HARDWARE) -> list[Lab]:
    """Labs with keys of their own, which share one store."""
    return [
        Lab(store, Identity.load(folder / f"lab{n}"), name, hardware[n % len(hardware)]) for n, name in enumerate(names)
    ]


def a_swarm(folder: Path, *, words: Sequence[str] = ("fan-in initialisation",), names: Sequence[str] = ()) -> Store:
    """A swarm of four in which each of these words was found, run by others and adopted; one win is disputed."""
    store = Store(folder / "records.sqlite", SWARM)
    first, second, third, fourth = labs(store, folder, names or ("ada", "bo", "cy", "di"))
    for number, text in enumerate(words):
        known = [text[:60]] if number % 2 == 0 else []
        win = first.find(number, text[:200], milestones=known)
        second.run(win, at=BEGAN + 60 * number + 300)
        third.run(win, gain=0.09, adopted=number % 2 == 0, at=BEGAN + 60 * number + 7200)
    false = fourth.find(900, words[-1][:200], gain=2.0)
    for one in (first, second, third):
        one.run(false, gain=0.0, adopted=False)
    second.find(901, words[0][:200], status=Status.DISCARDED, gain=-0.1)
    fourth.find(902, status=Status.CRASHED, values=[], against=[], gain=None, stderr=None, grade=None)
    wanted = {"task": TASK, "label": fourth.label, "at": BEGAN}
    fourth.say(Claim(patch=blob_hash("c"), lab="di-1", hypothesis=words[0][:200], lease=60.0, **wanted))
    fourth.say(Insight(text=words[0][:600], evidence=[false.id], **wanted))
    return store


def join(place: Place, store: Store, name: str = "the swarm") -> None:
    """Write down in a study that it has joined."""
    place.home.mkdir(parents=True, exist_ok=True)
    said = {"store": str(store.path), "swarm": store.swarm, "name": name, "task": TASK}
    place.swarm.write_text(json.dumps(said))
