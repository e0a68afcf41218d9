"""The log: the grow-only set of records, in memory. Union is the merge; whoever says two things is not heard any more.

Each author's records are a chain, taken in their order; one that comes too early waits. Two records of one author under
one number prove misconduct: the author is muted, and the pair is passed on so that it is muted everywhere. Hence two
labs that know the same heads and the same muted authors know the same, and a digest of those tells it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import islice
from threading import RLock

from nightlab.swarm.record import Record

Vector = dict[str, tuple[int, str]]
"""Author -> how many of its records are known, and the id of the last; (-1, "") for one who is muted."""

MUTED = (-1, "")
MOST = 50_000
"""Records of one author: a key that floods is heard no further."""
_MOST_WAITING = 64
_BUCKET = 2
_IN_TURN = 20


class Log:
    """What one lab knows of a swarm."""

    def __init__(self) -> None:
        self.chains: dict[str, list[Record]] = {}
        self.forks: dict[str, tuple[Record, Record]] = {}
        self._waiting: dict[str, dict[int, Record]] = {}
        self._buckets: dict[str, str] = {}
        self._lock = RLock()  # a digest made while a record comes in would be kept, and be wrong

    def __len__(self) -> int:
        return sum(map(len, self.chains.values()))

    def __iter__(self) -> Iterator[Record]:
        """Every record of those who are heard, the authors in the order of their names."""
        for author in sorted(self.chains):
            yield from self.chains.get(author, ())

    def add(self, record: Record) -> list[Record]:
        """Take in a record; which records became known by it, or proved a fork."""
        with self._lock:
            return self._add(record)

    def holds(self, record: Record) -> bool:
        """Whether this very record is known."""
        chain = self.chains.get(record.author, ())
        return record.seq < len(chain) and chain[record.seq].id == record.id

    def _add(self, record: Record) -> list[Record]:
        author = record.author
        if author in self.forks:
            return []
        chain = self.chains.get(author, [])
        if record.seq < len(chain):
            return self._mute(chain[record.seq], record)
        waiting = self._waiting.setdefault(author, {})
        if (other := waiting.get(record.seq)) is not None and other.id != record.id:
            return self._mute(other, record)
        if record.seq < MOST:
            if len(waiting) >= _MOST_WAITING:
                waiting.popitem()  # the newest: a proof comes as a pair, and its first must wait for its second
            waiting[record.seq] = record
        return self._drained(author)

    def _drained(self, author: str) -> list[Record]:
        waiting, chain = self._waiting[author], self.chains.get(author, [])
        found: list[Record] = []
        while (record := waiting.get(len(chain))) is not None:
            if record.prev != (chain[-1].id if chain else ""):
                break  # the sibling of what is known here will come, and prove it
            chain.append(waiting.pop(record.seq))
            found.append(record)
        if found:
            self.chains[author] = chain
            self._buckets.pop(author[:_BUCKET], None)
        if not waiting:
            del self._waiting[author]
        return found

    def _mute(self, one: Record, other: Record) -> list[Record]:
        if one.id == other.id:
            return []
        self.forks[one.author] = (one, other)
        self.chains.pop(one.author, None)
        self._waiting.pop(one.author, None)
        self._buckets.pop(one.author[:_BUCKET], None)
        return [one, other]

    def find(self, name: str) -> Record | None:
        """The record of that id; None where none is known. Slow: for people."""
        return next((one for one in self if one.id == name), None)

    # Knowing who knows what

    def authors(self) -> set[str]:
        """All who were heard, muted ones too."""
        return {*self.chains, *self.forks}

    def known(self, author: str) -> tuple[int, str]:
        """How many records of an author are known, and the last one's id."""
        if author in self.forks:
            return MUTED
        chain = self.chains.get(author, [])
        return len(chain), chain[-1].id if chain else ""

    def vector(self, buckets: Iterable[str] | None = None) -> Vector:
        """How far each author is known; of all, or of those whose names begin so."""
        wanted = None if buckets is None else set(buckets)
        return {one: self.known(one) for one in self.authors() if wanted is None or one[:_BUCKET] in wanted}

    def buckets(self) -> dict[str, str]:
        """A digest for all authors whose names begin alike, so that ten thousand authors are compared in 4 kB."""
        with self._lock:
            wanted = {author[:_BUCKET] for author in self.authors()}
            for name in wanted - self._buckets.keys():
                lines = sorted(f"{author} {count} {head}" for author, (count, head) in self.vector([name]).items())
                self._buckets[name] = sha256("\n".join(lines).encode()).hexdigest()[:16]
            return {name: self._buckets[name] for name in sorted(wanted)}

    def digest(self) -> str:
        """The same wherever the same is known."""
        return sha256(repr(list(self.buckets().items())).encode()).hexdigest()

    def lacking(self, theirs: Mapping[str, tuple[int, str]], among: Iterable[str] | None = None) -> Iterator[Record]:
        """What somebody who knows so much does not know yet: a few of each author in turn, so that nobody who says
        much keeps others from being heard. Where our last common number is told apart, that record comes as well."""
        left = [
            self._behind(author, theirs.get(author, (0, "")))
            for author in sorted(self.authors() if among is None else among)
        ]
        while left:
            turns = [(one, list(islice(one, _IN_TURN))) for one in left]
            for _, some in turns:
                yield from some
            left = [one for one, some in turns if some]

    def contradicts(self, theirs: Mapping[str, tuple[int, str]]) -> bool:
        """Whether somebody knows another record than we do under one number."""
        for author, (count, head) in theirs.items():
            chain = self.chains.get(author, ())
            if 0 < count <= len(chain) and chain[count - 1].id != head:
                return True
        return False

    def _behind(self, author: str, theirs: tuple[int, str]) -> Iterator[Record]:
        count, head = theirs
        if theirs == MUTED or theirs == self.known(author):
            return iter(())
        if author in self.forks:
            return iter(self.forks[author])
        chain = self.chains.get(author, [])
        differs = 0 < count <= len(chain) and chain[count - 1].id != head
        return iter(chain[max(0, count - differs) :])
