"""Records for tests: authors by name, whose keys come from their names."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from itertools import count
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nightlab.swarm.gossip import Gossip
from nightlab.swarm.identity import Identity
from nightlab.swarm.record import Body, Claim, Record, Result, Retraction, Verification, write
from nightlab.swarm.store import Memory
from nightlab.values import Status

SWARM = "5a" * 16


def named(*words: object) -> str:
    """A hash that stands for something."""
    return sha256(repr(words).encode()).hexdigest()


TASK = named("task")


def key(name: str) -> Identity:
    private = Ed25519PrivateKey.from_private_bytes(sha256(name.encode()).digest())
    return Identity(private.public_key().public_bytes_raw().hex(), private)


class Author:
    """Somebody who signs one chain."""

    def __init__(self, name: str) -> None:
        self.name, self.identity = name, key(name)
        self.said: list[Record] = []

    @property
    def id(self) -> str:
        return self.identity.author

    def say(self, body: Body, swarm: str = SWARM) -> Record:
        prev = self.said[-1].id if self.said else ""
        self.said.append(write(body, self.identity, swarm=swarm, seq=len(self.said), prev=prev))
        return self.said[-1]

    def forked(self, at: int) -> Author:
        """The same key on another machine, which knows the first `at` records."""
        other = Author(self.name)
        other.said = self.said[:at]
        return other

    def claims(self, what: object) -> Record:
        return self.say(claim(self.name, what))

    def wins(self, gain: float, **changes: Any) -> Record:
        return self.say(result(self.name, len(self.said), gain=gain, **changes))

    def runs(self, win: Record, gain: float | None, **changes: Any) -> Record:
        return self.say(verification(self.name, win.id, gain, **changes))

    def retracts(self, record: Record) -> Record:
        return self.say(Retraction(task=TASK, of=record.id, label=self.name, reason="it was wrong", at=9.0))


_ticks = count(1)


def claim(name: str, what: object) -> Claim:
    return Claim(
        task=TASK,
        patch=named(what),
        label=name,
        lab="lab",
        hypothesis=f"try {what}",
        lease=900.0,
        at=float(next(_ticks)),
    )


def result(name: str, what: object, *, gain: float | None = 0.0, **changes: Any) -> Result:
    """A result raced at about 100, with a standard error of 1 unless said."""
    said: dict[str, Any] = {
        "task": TASK,
        "evaluator": named("evaluator"),
        "patch": named(name, what, "patch"),
        "change": named(name, what, "change"),
        "parent": "",
        "label": name,
        "hypothesis": f"what {name} found",
        "status": Status.KEPT,
        "direction": "higher",
        "budget": ["wall", "300"],
        "hardware": "a machine",
        "environment": "here",
        "at": float(next(_ticks)),
        "against": [100.0],
        "gain": gain,
        "stderr": 1.0,
    }
    return Result(**{**said, **changes})


def verification(name: str, of: str, gain: float | None, **changes: Any) -> Verification:
    said: dict[str, Any] = {
        "task": TASK,
        "of": of,
        "label": name,
        "hardware": "a machine",
        "at": float(next(_ticks)),
        "has_same_parent": True,
        "adopted": False,
        "gain": gain,
        "stderr": 1.0,
        "against": [100.0],
    }
    return Verification(**{**said, **changes})


def lab(*records: Record) -> Gossip:
    """A lab that knows these."""
    gossip = Gossip(Memory(SWARM), clock=lambda: 0.0)
    gossip.store.add(records)
    return gossip


def authors(names: Iterable[str]) -> list[Author]:
    return [Author(name) for name in names]
