"""The cassette: every request of one call and its answer, so that nothing is asked, or paid for, twice."""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode, b64encode
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from nightlab.agents.requests import Request
from nightlab.agents.upstream import Wire
from nightlab.values import Cost

VOLATILE_KEYS = {"metadata", "user", "prompt_cache_key", "session_id", "sessionId", "cache_control", "stream_options"}
VOLATILE = re.compile(
    r"(?<![0-9a-f])[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"  # uuid; Codex writes msg_ before it
    r"|\b20\d\d-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"  # date, or moment
    r"|\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, [\w ]+,? 20\d\d"
    r"|\b[A-Z][a-z]{2} [A-Z][a-z]{2} \d\d 20\d\d(?: \d\d:\d\d:\d\d)?"
    r"|\b1[6-9]\d{8}(?:\d{3})?\b"  # seconds or milliseconds of this age
    r"|\b\d\d?:\d\d:\d\d(?: [AP]M)?"
    r"|Chunk ID: [0-9a-f]+|Wall time: [\d.]+ seconds"  # Codex, of every command that it ran
    r"|\bcch=[0-9a-f]+"  # a checksum that Claude Code puts into its prompt
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """An answer as it was given."""

    status: int
    type: str
    body: bytes


def name_of(wire: Wire, request: Request) -> str:
    """What makes two requests the same: all that is said, without what changes from one minute to the next."""
    body = json.dumps(_still(request.body), sort_keys=True, ensure_ascii=False)
    path = re.sub(r"^https?://[^/]+", "", request.url)
    what = json.dumps([wire, path, VOLATILE.sub("-", body)])
    return blake2b(what.encode("utf-8", "replace"), digest_size=16).hexdigest()


def _still(thing: Any) -> Any:
    if isinstance(thing, dict):
        return {name: _still(value) for name, value in thing.items() if name not in VOLATILE_KEYS}
    return [_still(one) for one in thing] if isinstance(thing, list) else thing


class Cassette:
    """One call's file of requests and answers. What was asked is written before it leaves, so that it is never free."""

    def __init__(self, path: Path) -> None:
        self.cost = Cost()
        """What everything on it came to; a request whose answer was never written counts as its most."""
        self._path = path
        self._answers: dict[str, deque[Recorded]] = defaultdict(deque)
        self._number = 0
        self._load()

    def _load(self) -> None:
        names: dict[int, str] = {}
        costs: dict[int, Cost] = {}
        for line in _lines(self._path):
            number = line["number"]
            self._number = max(self._number, number)
            costs[number] = Cost(money=line["money"], tokens=line["tokens"])
            if "request" in line:
                names[number] = line["request"]
            elif line["whole"]:
                self._answers[names[number]].append(_answer(line))
        self.cost = sum(costs.values(), Cost())

    def play(self, name: str) -> Recorded | None:
        """The next answer to this request, once for each time it was given."""
        waiting = self._answers.get(name)
        return waiting.popleft() if waiting else None

    def asked(self, name: str, path: str, most: Cost) -> int:
        """Note that a request leaves and what it can cost at most; its number."""
        self._number += 1
        self._write({"request": name, "path": path, "number": self._number, **_money(most)})
        return self._number

    def answered(self, number: int, answer: Recorded, cost: Cost, *, whole: bool, estimated: bool) -> None:
        """Note what came back. Only whole, successful answers are played again."""
        try:
            body = {"text": answer.body.decode()} if whole else {}
        except UnicodeDecodeError:
            body = {"base64": b64encode(answer.body).decode()}
        head = {"number": number, "status": answer.status, "type": answer.type, "whole": whole, "estimated": estimated}
        self._write(head | _money(cost) | body)

    def _write(self, line: Mapping[str, Any]) -> None:
        handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            size = os.fstat(handle).st_size
            is_torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            text = ("\n" if is_torn else "") + json.dumps(line, ensure_ascii=False) + "\n"
            remaining = text.encode("utf-8", "replace")
            while remaining:
                remaining = remaining[os.write(handle, remaining) :]
            os.fsync(handle)
        finally:
            os.close(handle)


def _money(cost: Cost) -> dict[str, Any]:
    return {"money": cost.money, "tokens": cost.tokens}


def _answer(line: Mapping[str, Any]) -> Recorded:
    body = line["text"].encode() if "text" in line else b64decode(line["base64"])
    return Recorded(line["status"], line["type"], body)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Its whole lines; one that a kill tore is no line."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    with os.fdopen(handle, "rb") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                continue
