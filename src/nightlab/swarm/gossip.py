"""Gossip: what labs say to each other, without a network in sight.

    push           what is new goes to all at once (or, without routers, to a few, who pass it on)
    anti-entropy   every few seconds one asks another: the digest first, then digests by bucket, then what is
                   lacking by how far each author is known, both ways. A push alone loses what a partition swallowed.

A message is JSON. Whatever is wrong with one is counted and dropped: a peer can waste its own breath, nothing else.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from nightlab.swarm.log import MUTED, Log, Vector
from nightlab.swarm.record import LARGEST, BadRecord, Record, read
from nightlab.words import one_line

LARGEST_MESSAGE = 1 << 20
_MOST_RECORDS = 400
_MOST_ROUNDS = 1000
_BURST, _PER_SECOND = 200, 5.0
_MOST_REASONS = 100
_AT_ONCE = 2000
"""Authors in one vector: of ten thousand it would be too large for a message."""
_BUCKET_NAME, _HASH = re.compile("[0-9a-f]{2}"), re.compile("[0-9a-f]{64}")

Found = TypeVar("Found")
Ask = Callable[[bytes], bytes | None]
"""Puts a question to one peer; None where no answer came."""
Talk = Generator[bytes, bytes | None, Found]
"""Yields questions to one peer and is sent the answers, None where none came; what it found in the end."""


class Records(Protocol):
    """Where records are kept: a store, or memory alone."""

    @property
    def swarm(self) -> str:
        """Whose records."""
        ...

    @property
    def log(self) -> Log:
        """All that is known."""
        ...

    def add(self, records: Iterable[Record]) -> list[Record]:
        """Take in checked records; what became known by it."""
        ...

    def take(self, name: str, text: str) -> bool:
        """Keep a patch from a peer, if it is the one asked for and there is room."""
        ...

    def blob(self, name: str) -> str | None:
        """A patch by its name; None where it is not here yet."""
        ...


class Quota:
    """How many pushed records of one author are taken: a burst, then a few a second; anti-entropy brings the rest."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def allows(self, author: str) -> bool:
        """Whether one more may be taken now."""
        now = self._clock()
        left, since = self._left.get(author, (_BURST, now))
        left = min(_BURST, left + (now - since) * _PER_SECOND)
        self._left[author] = (max(left - 1, 0.0) if left >= 1 else left, now)
        return left >= 1


class Gossip:
    """One lab's side of every conversation."""

    def __init__(self, store: Records, *, clock: Callable[[], float], reads: Callable[..., Record] = read) -> None:
        self.store = store
        self.refused: Counter[str] = Counter()
        """What was not taken, by why."""
        self._quota, self._reads = Quota(clock), reads

    # Push

    def push(self, records: Iterable[Record]) -> bytes:
        """A message that tells records."""
        return _message({"records": [one.data.decode() for one in records]})

    def heard(self, message: bytes) -> list[Record]:
        """Take in what was pushed; what is new of it."""
        said = self._understood(message)
        lines = said.get("records") if said else None
        return self._take(lines, is_pushed=True) if isinstance(lines, list) else []

    def _take(self, lines: list[object], *, is_pushed: bool = False) -> list[Record]:
        return self.store.add([one for line in lines[:_MOST_RECORDS] if (one := self._checked(line, is_pushed))])

    def _checked(self, line: object, is_pushed: bool) -> Record | None:
        """The record in a line; the cheap checks first, then the signature."""
        if not isinstance(line, str):
            self._refuse("no record")
            return None
        try:
            record = self._reads(line.encode(), swarm=self.store.swarm)
        except (BadRecord, UnicodeEncodeError) as error:
            self._refuse(str(error))
            return None
        if self.store.log.holds(record):  # and costs its author nothing: others may have said it again
            return None
        if is_pushed and not self._quota.allows(record.author):
            self._refuse("over its quota")
            return None
        return record

    def _refuse(self, why: str) -> None:
        words = one_line(why, 60)
        self.refused[words if words in self.refused or len(self.refused) < _MOST_REASONS else "something else"] += 1

    # Anti-entropy

    def sync(self, ask: Ask) -> list[Record]:
        """Compare with one peer, until both know the same; what was new here. Ends where an answer stays away."""
        return _held(self.compare(), ask)

    def compare(self) -> Talk[list[Record]]:
        """The same as a conversation, for who has to wait for the answers otherwise than by standing still."""
        said = yield from self._asked({"digest": self.store.log.digest()})
        theirs = said.get("buckets") if said else None
        if not said or not isinstance(theirs, dict):
            return []
        mine, most = self.store.log.buckets(), said.get("authors")
        differing = sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))
        names = [name for name in differing if _BUCKET_NAME.fullmatch(name)]  # 256 at most, whatever a peer says
        step = max(1, 256 * _AT_ONCE // max(most if type(most) is int else 0, len(self.store.log.authors()), _AT_ONCE))
        new: list[Record] = []
        for start in range(0, len(names), step):
            new += yield from self._compare_buckets(names[start : start + step])
        return new

    def _compare_buckets(self, names: list[str]) -> Talk[list[Record]]:
        new, theirs = yield from self._fetch(names)
        if theirs is None:
            return new
        yield from self._give(theirs, names)
        if self.store.log.contradicts(theirs):  # it has the proof only now
            new += (yield from self._fetch(names))[0]
        return new

    def _fetch(self, names: list[str]) -> Talk[tuple[list[Record], Vector | None]]:
        """What we lack, and how far each author is known there; None where no answer came."""
        new, theirs = list[Record](), None
        for _ in range(_MOST_ROUNDS):
            said = yield from self._asked({"lacking": self.store.log.vector(names), "among": names})
            theirs = _vector(said.get("vector")) if said else None
            lines = said.get("records") if said else None
            found = self._take(lines) if isinstance(lines, list) and theirs is not None else []
            new += found
            if not found or not self._is_behind(theirs or {}):  # nothing to be had, or nothing that can be taken
                break
        return new, theirs

    def _is_behind(self, theirs: Vector) -> bool:
        mine = {author: self.store.log.known(author) for author in theirs}
        return any(
            mine[author] != MUTED and (there == MUTED or there[0] > mine[author][0]) for author, there in theirs.items()
        )

    def _give(self, theirs: Vector, names: list[str]) -> Talk[None]:
        mine = [author for author in self.store.log.authors() if author[:2] in names]
        lacking = self.store.log.lacking(theirs, mine)
        while lines := _batch(lacking):
            if (yield from self._asked({"records": lines})) is None:
                return

    def fetch_blob(self, ask: Ask, name: str) -> str | None:
        """A patch from one peer, kept if it is the one asked for."""
        said = _held(self._asked({"blob": name}), ask)
        text = said.get("text") if said else None
        return text if isinstance(text, str) and self.store.take(name, text) else None

    def answer(self, message: bytes) -> bytes:
        """What a peer's question is answered with."""
        match self._understood(message):
            case {"digest": digest}:
                log = self.store.log
                if digest == log.digest():
                    return _message({})
                return _message({"buckets": log.buckets(), "authors": len(log.authors())})
            case {"lacking": theirs, "among": [*names]} if (known := _vector(theirs)) is not None:
                vector = self.store.log.vector(name for name in names if isinstance(name, str))
                lacking = self.store.log.lacking(known, vector)
                return _message({"vector": vector, "records": _batch(lacking, len(_message(vector)))})
            case {"records": [*lines]}:
                return _message({"taken": len(self._take(lines))})
            case {"blob": str(name)} if _HASH.fullmatch(name):
                return _message({"text": self.store.blob(name)})
        return _message({})

    # Words

    def _asked(self, question: Mapping[str, Any]) -> Talk[dict[str, Any] | None]:
        answer = yield _message(question)
        return None if answer is None else self._understood(answer)

    def _understood(self, message: bytes) -> dict[str, Any] | None:
        try:
            said = json.loads(message) if len(message) <= LARGEST_MESSAGE else None
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            self._refuse("no message")
            return None
        return said


def _held(talk: Talk[Found], ask: Ask) -> Found:
    """A conversation held to its end."""
    answer: bytes | None = None
    while True:
        try:
            question = talk.send(answer)
        except StopIteration as end:
            found: Found = end.value
            return found
        answer = ask(question)


def _message(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode()


def _batch(records: Iterator[Record], size: int = 0) -> list[str]:
    """As many records as fit into one message with `size` bytes already, however many letters JSON has to escape."""
    lines = list[str]()
    for record in records:
        lines.append(record.data.decode())
        size += len(json.dumps(lines[-1])) + 1
        if size > LARGEST_MESSAGE - 3 * LARGEST or len(lines) == _MOST_RECORDS:
            break
    return lines


def _vector(said: object) -> Vector | None:
    """A vector as a peer tells it; None where it is none."""
    if not isinstance(said, dict):
        return None
    found: Vector = {}
    for author, known in said.items():
        match known:
            case [int(count), str(head)] if isinstance(author, str) and -1 <= count < 2**53:
                found[author] = (count, head)
            case _:
                return None
    return found
