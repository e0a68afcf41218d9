"""Load: how many assignments and durable events a service bears, told over real HTTP by a client that costs little."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nightlab.errors import NightlabError
from nightlab.live.store import Arm, Exposure, Outcome, Rules, Store, open_store

Bodies = Callable[[int], tuple[str, Any, int]]
"""Of the n-th request: its path, its body, and how many things it asks for."""
Seen = Callable[[Any], None]
_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class Rate:
    """What a service bore: things a second, and how long 99 of 100 requests took at most, in milliseconds."""

    a_second: float
    p99: float
    things: int


class Connection:
    """One keep-alive connection that posts JSON and reads the answers."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._head = f"HTTP/1.1\r\nhost: {parts.netloc}\r\nauthorization: Bearer {key}\r\ncontent-length: "
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: Any) -> Any:
        """The answer to a body. Raises NightlabError where it is not 200, OSError where nobody answers."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        sent = json.dumps(body, separators=(",", ":")).encode()
        writer.write(f"POST {path} {self._head}{len(sent)}\r\n\r\n".encode() + sent)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            answer = await reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            self.close()
            raise ConnectionResetError("the service went away") from error
        if not head.startswith(b"HTTP/1.1 200"):
            raise NightlabError(f"the service said {answer[:200]!r} to {path}")
        return json.loads(answer)

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def press(url: str, key: str, bodies: Bodies, *, seconds: float, connections: int, seen: Seen | None) -> Rate:
    """Post as fast as the answers come, on some connections, for a while."""
    took: list[float] = []
    things = 0
    number = iter(range(1 << 62))
    begin = time.perf_counter()

    async def one(connection: Connection) -> None:
        nonlocal things
        while time.perf_counter() - begin < seconds:
            path, body, size = bodies(next(number))
            asked = time.perf_counter()
            answer = await connection.post(path, body)
            took.append(time.perf_counter() - asked)
            things += size
            if seen:
                seen(answer)

    lines = [Connection(url, key) for _ in range(connections)]
    try:
        await asyncio.gather(*(one(line) for line in lines))
    finally:
        for line in lines:
            line.close()
    took.sort()
    return Rate(things / (time.perf_counter() - begin), took[int(len(took) * 0.99)] * 1000, things)


def assignments(url: str, key: str, *, seconds: float = 3.0, batch: int = 100, connections: int = 2) -> Rate:
    """How many visitors a second are assigned, by the hundred."""
    salt = os.urandom(4).hex()

    def bodies(n: int) -> tuple[str, Any, int]:
        return "/v1/assign", {"units": [f"{salt}-{n}-{one}" for one in range(batch)]}, batch

    return asyncio.run(press(url, key, bodies, seconds=seconds, connections=connections, seen=None))


def events(url: str, key: str, *, seconds: float = 3.0, batch: int = 100, connections: int = 4) -> Rate:
    """How many events a second are safe on the disk when they are acknowledged: half exposures, half outcomes."""
    salt = os.urandom(4).hex()
    tokens: list[list[str]] = []

    def asked(n: int) -> tuple[str, Any, int]:
        return "/v1/assign", {"units": [f"{salt}-{n}-{one}" for one in range(batch)]}, batch

    def seen(answer: Any) -> None:
        tokens.append([one["token"] for one in answer["assignments"]])

    def bodies(n: int) -> tuple[str, Any, int]:
        those = tokens[n // 2 % len(tokens)]
        if n % 2 == 0:
            return "/v1/expose", {"exposures": [{"token": token} for token in those]}, batch
        named = [{"token": token, "id": f"{n}", "name": "conversion"} for token in those]
        return "/v1/event", {"events": named}, batch

    asyncio.run(press(url, key, asked, seconds=seconds / 2, connections=connections, seen=seen))
    return asyncio.run(press(url, key, bodies, seconds=seconds, connections=connections, seen=None))


class Sender:
    """Whoever tells a service what visitors see and do, and remembers what was acknowledged."""

    def __init__(self, *, batch: int = 50) -> None:
        self._salt, self._batch = os.urandom(4).hex(), batch
        self._begun: list[int] = []
        self.acknowledged = 0

    @property
    def sent(self) -> int:
        """How many events it has told, acknowledged or not."""
        return 2 * self._batch * len(self._begun)

    def send(self, url: str, key: str, *, until: float, then: Callable[[], None], connections: int = 4) -> None:
        """Tell as much as there is time for, then do something while more is on its way; ends when nobody answers."""
        number = iter(range(1 << 62))

        async def one() -> None:
            line = Connection(url, key)
            with suppress(OSError):
                while True:
                    await self._tell(line, next(number))

        async def all_() -> None:
            lines = [asyncio.create_task(one()) for _ in range(connections)]
            await asyncio.sleep(until - time.monotonic())
            then()
            await asyncio.gather(*lines)

        asyncio.run(all_())

    def again(self, url: str, key: str) -> None:
        """Tell everything once more."""

        async def all_() -> None:
            line = Connection(url, key)
            for number in list(self._begun):
                await self._tell(line, number)
            line.close()

        asyncio.run(all_())

    async def _tell(self, line: Connection, number: int) -> None:
        names = [f"{self._salt}-{number}-{one}" for one in range(self._batch)]
        given = (await line.post("/v1/assign", {"units": names}))["assignments"]
        if number not in self._begun:
            self._begun.append(number)
        await line.post("/v1/expose", {"exposures": [{"token": one["token"]} for one in given]})
        self.acknowledged += self._batch
        told = [{"unit": name, "id": "1", "name": "conversion"} for name in names]
        await line.post("/v1/event", {"events": told})
        self.acknowledged += self._batch


def filled(where: str | Path, number: int, *, outcome: str = "conversion", hours: int = 1) -> Store:
    """A store with this many events of the last hours: half exposures of two arms to three audiences, half outcomes."""
    store = open_store(where)
    store.begin(Rules("load", segments=("audience",)))
    for arm in (0, 1):
        store.put_arm(Arm(arm, 0 if arm else None, {}, str(arm), "serving"))
    split, now = store.put_split({0: 0.5, 1: 0.5}, 0), time.time()
    for begin in range(0, number // 2, _AT_ONCE):
        those = range(begin, min(begin + _AT_ONCE, number // 2))
        seen = [
            Exposure(os.urandom(16), n % 2, split.version, f"audience={n % 3}", at=now - n // 6 % hours * 3600.0)
            for n in those
        ]
        store.record(seen, [Outcome(one.unit.hex(), one.unit, outcome, at=one.at) for one in seen])
    return store
