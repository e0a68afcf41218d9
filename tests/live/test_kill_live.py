"""kill -9 of the service and of PostgreSQL under load: nothing acknowledged is lost or doubled, nobody changes arm."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from services import Served, deployed, folder_of, postgres, served, started

from nightlab.errors import NightlabError
from nightlab.live.store import Side, Store, open_store
from nightlab.live.throughput import Connection

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("NIGHTLAB_LIVE_KILLS", "12"))
UNITS = 20


class Crowd:
    """Visitors who come, act, and try again until they are told that it was written down."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key
        self.arms: dict[str, int] = {}
        self.acted: set[str] = set()
        self.ended = False

    async def one(self, who: int) -> None:
        """One source of visitors, until the end."""
        line, n = Connection(self.url, self.key), 0
        while not self.ended:
            names = [f"{who}-{n}-{one}" for one in range(UNITS)]
            n += 1
            given = (await self.told(line, "/v1/assign", {"units": names}))["assignments"]
            await self.told(line, "/v1/expose", {"exposures": [{"token": one["token"]} for one in given]})
            self.arms |= {name: one["arm"] for name, one in zip(names, given, strict=True)}
            events = [{"unit": name, "id": "order", "name": "signup", "value": 1} for name in names[::2]]
            await self.told(line, "/v1/event", {"events": events})
            self.acted |= set(names[::2])
        line.close()

    async def told(self, line: Connection, path: str, body: object) -> dict[str, list[dict[str, object]]]:
        """The answer to something, asked again for as long as there is none; often asked twice all the same."""
        while True:
            try:
                answer = await line.post(path, body)
                return await line.post(path, body) if random.random() < 0.2 else answer
            except (OSError, NightlabError):
                line.close()
                await asyncio.sleep(0.05)


async def harassed(crowd: Crowd, harm: list[object], kills: int) -> None:
    dice = random.Random(7)
    sources = [asyncio.create_task(crowd.one(who)) for who in range(4)]
    for n in range(kills):
        await asyncio.sleep(dice.uniform(0.1, 0.8))
        await asyncio.to_thread(harm[n % len(harm)])  # type: ignore[arg-type]
        before = len(crowd.acted)
        for _ in range(1200):  # until somebody was counted again
            if len(crowd.acted) > before:
                break
            await asyncio.sleep(0.05)
        assert len(crowd.acted) > before, "the service did not come back"
    crowd.ended = True
    await asyncio.gather(*sources)


def check(crowd: Crowd, store: Store, service: Served) -> None:
    """Every acknowledged event is there once, and everybody is shown what they were shown."""
    total = sum((one.side for one in store.totals("signup")), Side())
    assert total == Side(len(crowd.arms), len(crowd.acted))
    assert len(store.values(1, 0, "signup")) == len(crowd.acted)
    assert {one.value for one in store.values(1, 0, "signup")} == {1.0}
    names = sorted(crowd.arms)
    with service.server as server:
        for begin in range(0, len(names), 500):
            part = names[begin : begin + 500]
            given = server.post("/v1/assign", json={"units": part}).raise_for_status().json()["assignments"]
            assert [one["arm"] for one in given] == [crowd.arms[name] for name in part]
    print(f"{len(crowd.arms)} visitors, {len(crowd.acted)} outcomes acknowledged, none lost, none counted twice")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path)


def test_kills_of_the_service_lose_nothing(folder: Path) -> None:
    store, _ = deployed(folder / ".nightlab/live.sqlite")
    services = [started(folder)]
    port = urlsplit(services[0].url).port or 0
    crowd = Crowd(services[0].url, services[0].key)

    def kill() -> None:
        services[0].kill()
        services[0] = started(folder, port=port)

    with closing(store):
        try:
            asyncio.run(harassed(crowd, [kill], KILLS))
            check(crowd, store, services[0])
        finally:
            services[0].kill()


def test_kills_of_postgresql_lose_nothing(folder: Path) -> None:
    with postgres() as cluster, ExitStack() as stack:
        deployed(cluster.url)[0].close()
        service = stack.enter_context(served(folder, "--store", cluster.url, "--workers", "2"))
        crowd = Crowd(service.url, service.key)

        def kill() -> None:
            cluster.kill()
            cluster.start()

        asyncio.run(harassed(crowd, [kill], KILLS))
        with closing(open_store(cluster.url)) as store:
            check(crowd, store, service)
