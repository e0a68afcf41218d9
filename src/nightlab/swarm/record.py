"""The record: one immutable, signed sentence of one lab to all others.

It is canonical JSON (RFC 8785), its id the SHA-256 of all but its signature (Ed25519). Each names the one before it by
the same author, so that nobody can say two things under one number without leaving proof of it. What a record says is
a claim of its author's and nothing more: whoever wants to build on it runs it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain
from dataclasses import field
from hashlib import sha256
from typing import Annotated, Any, Literal

import rfc8785
from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from nightlab.errors import NightlabError
from nightlab.swarm.identity import Identity, verifies
from nightlab.values import Direction, Grade, Status

LARGEST = 2048
"""Bytes of one record, signature included."""
VERSION = 1

Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Line = Annotated[str, StringConstraints(max_length=200)]
Word = Annotated[str, StringConstraints(max_length=60)]
Number = Annotated[float, Field(ge=-1e100, le=1e100)]
"""What sums and squares of it stay a number."""
Spread = Annotated[float, Field(ge=0, le=1e100)]
Values = Annotated[list[Number], Field(max_length=24)]
Seconds = Annotated[float, Field(ge=0, le=1e10)]
Count = Annotated[int, Field(ge=0, le=2**53)]

_strict = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class BadRecord(NightlabError):
    """Bytes from a peer that are no record, or one that nobody signed."""


@dataclass(frozen=True, slots=True, config=_strict)
class Claim:
    """I try this now; others take something else until it has a result, or its lease ran out unrenewed."""

    task: Hash
    patch: Hash
    label: Word
    lab: Word
    hypothesis: Line
    lease: Seconds
    at: Seconds


@dataclass(frozen=True, slots=True, config=_strict)
class Result:
    """What became of an experiment, in the author's words and numbers; crashes and discards are results too.

    `patch` names the change whatever it stands on; `change` and `parent` are blobs, a diff against the parent's tree
    and the parent's against the task's start ("" where nothing differs). `values` and `against` hold one value per run.
    """

    task: Hash
    evaluator: Hash
    patch: Hash
    change: Literal[""] | Hash
    parent: Literal[""] | Hash
    label: Word
    hypothesis: Line
    status: Status
    direction: Direction
    budget: Annotated[list[Word], Field(min_length=2, max_length=2)]
    hardware: Word
    environment: Word
    at: Seconds
    values: Values = field(default_factory=list)
    against: Values = field(default_factory=list)
    seeds: Annotated[list[Count], Field(max_length=24)] = field(default_factory=list)
    sigma: Spread | None = None
    gain: Number | None = None
    stderr: Spread | None = None
    grade: Grade | None = None
    total: Number | None = None
    """What the whole tree has gained over the task's start, as a share: what lines of work are compared by."""
    per_hour: Seconds | None = None
    inspired_by: Annotated[list[Hash], Field(max_length=4)] = field(default_factory=list)
    milestones: Annotated[list[Word], Field(max_length=6)] = field(default_factory=list)


@dataclass(frozen=True, slots=True, config=_strict)
class Verification:
    """What somebody else's result came to when it was run again here, on fresh seeds."""

    task: Hash
    of: Hash
    label: Word
    hardware: Word
    at: Seconds
    has_same_parent: bool
    """Whether it was run on the very tree that the author had it on; else on what was the incumbent here."""
    adopted: bool
    gain: Number | None = None
    stderr: Spread | None = None
    values: Values = field(default_factory=list)
    against: Values = field(default_factory=list)


@dataclass(frozen=True, slots=True, config=_strict)
class Insight:
    """What the experiments of one lab say together, with the records that it rests on."""

    task: Hash
    label: Word
    text: Annotated[str, StringConstraints(max_length=600)]
    evidence: Annotated[list[Hash], Field(max_length=8)]
    at: Seconds


@dataclass(frozen=True, slots=True, config=_strict)
class Retraction:
    """The author takes back a record of its own."""

    task: Hash
    of: Hash
    label: Word
    reason: Line
    at: Seconds


Body = Claim | Result | Verification | Insight | Retraction
_KINDS: dict[str, TypeAdapter[Any]] = {
    one.__name__.lower(): TypeAdapter(one) for one in (Claim, Result, Verification, Insight, Retraction)
}
_FIELDS = {"author", "body", "prev", "seq", "sig", "swarm", "type", "v"}


@plain(frozen=True, slots=True)
class Record:
    """One record that was checked: well-formed, signed by its author, for this swarm."""

    id: str
    author: str
    seq: int
    prev: str
    body: Body
    data: bytes
    """The bytes that its author signed, signature included: what is stored and passed on."""


def write(body: Body, identity: Identity, *, swarm: str, seq: int, prev: str) -> Record:
    """A record of one's own. Raises BadRecord where it would be too large."""
    kind = type(body).__name__.lower()
    said = _KINDS[kind].dump_python(body, mode="json", exclude_none=True)
    words: dict[str, Any] = {
        "v": VERSION,
        "swarm": swarm,
        "author": identity.author,
        "seq": seq,
        "prev": prev,
        "type": kind,
    }
    unsigned: dict[str, Any] = {**words, "body": said}
    signed = {**unsigned, "sig": identity.sign(rfc8785.dumps(unsigned)).hex()}
    return read(rfc8785.dumps(signed), swarm=swarm)


def read(data: bytes, *, swarm: str, is_checked: bool = False) -> Record:
    """The record that these bytes are. Raises BadRecord. `is_checked`: it was read before, and stored by ourselves."""
    if len(data) > LARGEST:
        raise BadRecord(f"a record of {len(data)} bytes; {LARGEST} are allowed")
    said = _parsed(data)
    if said["v"] is True or said["v"] != VERSION or said["swarm"] != swarm:
        raise BadRecord(f"a record of version {said['v']!r} for swarm {said['swarm']!r}, not for {swarm}")
    author, seq, prev, signature = said["author"], said["seq"], said["prev"], said["sig"]
    if not (type(seq) is int and 0 <= seq < 2**53 and _is_hex(author, 64) and _is_hex(signature, 128)):
        raise BadRecord("a record whose author, number or signature is none")
    if not (prev == "" if seq == 0 else _is_hex(prev, 64)):
        raise BadRecord(f"record {seq} names {prev!r} as the one before it")
    body = _body(said["type"], said["body"])
    unsigned = data.replace(f',"sig":"{signature}"'.encode(), b"")  # canonical as well: no other field is called so
    if not is_checked and not verifies(author, bytes.fromhex(signature), unsigned):
        raise BadRecord(f"a record that {author[:8]} did not sign")
    return Record(sha256(unsigned).hexdigest(), author, seq, prev, body, data)


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        said = json.loads(data, parse_int=_whole)
        if type(said) is not dict or set(said) != _FIELDS:
            raise BadRecord(f"no record: its fields have to be {', '.join(sorted(_FIELDS))}")
        if rfc8785.dumps(said) != data:
            raise BadRecord("a record that is not in canonical form")
    except (ValueError, RecursionError, rfc8785.CanonicalizationError) as error:
        raise BadRecord(f"no record: {error}") from error
    return said


def _whole(digits: str) -> int | float:
    """A number without a point; a large one is a float, which RFC 8785 writes so up to 1e21."""
    return int(digits) if abs(float(digits)) < 2**53 else float(digits)


def _body(kind: object, said: object) -> Body:
    checks = _KINDS.get(kind) if isinstance(kind, str) else None
    if checks is None:
        raise BadRecord(f"a record of type {kind!r}; there are: {', '.join(_KINDS)}")
    try:
        body: Body = checks.validate_json(json.dumps(said))  # JSON knows no enums: strict there means strict in JSON
    except ValidationError as error:
        first = error.errors()[0]
        raise BadRecord(f"a {kind} whose {'.'.join(map(str, first['loc']))} is wrong: {first['msg']}") from error
    return body


def _is_hex(value: object, length: int) -> bool:
    return isinstance(value, str) and len(value) == length and not set(value) - set("0123456789abcdef")


def blob_hash(text: str) -> str:
    """What a patch is called."""
    return sha256(text.encode()).hexdigest() if text else ""


def patch_key(task: str, diff: str) -> str:
    """What a change is called whatever it stands on: its added and removed lines by file, however they are indented."""
    return sha256(json.dumps([task, _turns(diff)]).encode()).hexdigest()


def _turns(diff: str) -> list[tuple[str, str, str]]:
    turns: list[tuple[str, str, str]] = []
    path = ""
    for line in diff.splitlines():
        if line.startswith("diff --git "):
            path = line.rpartition(" b/")[2]
        elif line[:1] in ("+", "-") and line[:4] not in ("+++ ", "--- ") and (words := " ".join(line[1:].split())):
            turns.append((path, line[0], words))
    return sorted(turns)


def rounded(values: Sequence[float]) -> list[float]:
    """Values as records carry them: nine digits, the latest 24."""
    return [float(f"{value:.9g}") for value in values[-24:]]


def task_hash(facts: Mapping[str, Any]) -> str:
    """What makes two labs' experiments comparable, as one name."""
    return sha256(rfc8785.dumps(dict(facts))).hexdigest()
