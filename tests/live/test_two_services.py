"""Two services that share one PostgreSQL store come to what one service comes to on SQLite."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from services import Served, deployed, folder_of, postgres, served

from nightlab.live.privacy import Secret
from nightlab.live.store import Arm, Store, open_store

pytestmark = pytest.mark.slow
VISITORS = 1200
BATCH = 20


def visits(home: Served, other: Served, names: Sequence[str], now: float, seed: int) -> dict[str, int]:
    """Some visitors come and act as the dice say; which arm each of them was shown.

    A third of everything is told to the other service too, at the same moment.
    """
    dice, shown = random.Random(seed), {}
    with home.server as here, other.server as there, ThreadPoolExecutor(2) as pool:

        def told(path: str, body: dict[str, Any]) -> dict[str, Any]:
            servers = dice.choice(([here], [here], [here, there]))
            asked = [pool.submit(server.post, path, json=body) for server in servers]
            answers: list[dict[str, Any]] = [one.result().raise_for_status().json() for one in asked]
            assert path == "/v1/event" or [_arms(one) for one in answers] == [_arms(answers[0])] * len(answers)
            return answers[0]

        for begin in range(0, len(names), BATCH):
            part = names[begin : begin + BATCH]
            given = told("/v1/assign", {"units": part})["assignments"]
            shown |= {name: one["arm"] for name, one in zip(part, given, strict=True)}
            seen = [
                {"token": one["token"], "at": now - 5000, "segment": {"audience": dice.choice(("young", "old"))}}
                for one in given
            ]
            told("/v1/expose", {"exposures": seen})
            acts = [(name, dice.randrange(6000)) for name in part if dice.random() < 0.6]
            events = [
                {"unit": name, "id": f"order-{n}", "name": dice.choice(("signup", "complaint")), "value": 1 + late % 7}
                | {"at": now - 5000 + late - 900}  # some before they were shown anything, some after the window
                for n, (name, late) in enumerate([*acts, *acts[::3]])
            ]
            if events:
                told("/v1/event", {"events": events})
    return shown


def _arms(answer: dict[str, Any]) -> object:
    """What an answer comes to: arms, or how many tokens."""
    return [one["arm"] for one in answer["assignments"]] if "assignments" in answer else len(answer["tokens"])


def stream(services: Sequence[Served], store: Store, now: float) -> list[dict[str, int]]:
    """The same visitors in the same two crowds, each at one of the services; then a new split, and all come again.

    The second time, whoever was at one service comes to the other.
    """
    crowds = [[f"visitor-{crowd}-{n}" for n in range(VISITORS // 2)] for crowd in (0, 1)]
    seen = []
    for turn in (0, 1):
        places = [services[(crowd + turn) % len(services)] for crowd in (0, 1, 2)]
        with ThreadPoolExecutor(2) as pool:
            asked = [
                pool.submit(visits, *places[crowd : crowd + 2], names, now + 6000 * turn - 6000, 10 * turn + crowd)
                for crowd, names in enumerate(crowds)
            ]
            shown: dict[str, int] = {}
            for one in asked:
                shown |= one.result()
        seen.append(shown)
        if not turn:
            store.put_arm(Arm(2, 0, {"headline": "Third", "button": "Go"}, "c", "serving"))
            store.put_split({0: 0.4, 2: 0.6}, 0)  # arm 1 has left: whoever saw it is drawn anew
            for service in services:
                service.shows(2)
    return seen


def read(store: Store) -> dict[str, object]:
    """Everything a result could be made of."""
    found: dict[str, object] = {"holdout": store.holdout("signup"), "apart": store.apart()}
    for outcome in ("signup", "complaint"):
        found |= {
            f"{outcome} counts": [store.counts(one, 0, outcome) for one in (1, 2)],
            f"{outcome} totals": store.totals(outcome),
            f"{outcome} young": store.counts(2, 0, outcome, segment="audience=young"),
            f"{outcome} values": sorted((v.split, v.arm, v.value) for v in store.values(1, 2, outcome)),
        }
    return found


def test_two_services_on_postgresql_come_to_what_one_comes_to_on_sqlite(tmp_path: Path) -> None:
    folder, now = folder_of(tmp_path), time.time() - 60
    secret = folder / ".nightlab/live.secret"
    Secret.at(secret)
    with postgres() as cluster, ExitStack() as stack:
        alone, _ = deployed(tmp_path / "alone.sqlite", holdout=0.1)
        shared, _ = deployed(cluster.url, holdout=0.1)
        stack.enter_context(closing(alone))
        stack.enter_context(closing(shared))
        one = [stack.enter_context(served(folder, "--store", str(tmp_path / "alone.sqlite")))]
        two = [stack.enter_context(served(folder, "--store", cluster.url)) for _ in range(2)]

        seen_by_one, seen_by_two = stream(one, alone, now), stream(two, shared, now)

        assert two[0].process.pid != two[1].process.pid
        assert seen_by_two == seen_by_one
        assert {arm for shown in seen_by_one for arm in shown.values()} == {0, 1, 2}
        with closing(open_store(cluster.url)) as again:
            assert read(again) == read(alone)
        held, served_ = alone.holdout("signup")
        assert held.exposed + served_.exposed == VISITORS
        assert 0 < served_.converted < served_.exposed
