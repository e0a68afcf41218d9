"""The service assigns, shows and counts; refuses what is forged, repeated, too much or from elsewhere."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from html import unescape
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from services import (
    CHALLENGER,
    CHAMPION,
    PERSON,
    Served,
    act,
    deployed,
    folder_of,
    served,
    visit,
)

from nightlab.errors import BadTask
from nightlab.live.assignment import assign, is_held_out
from nightlab.live.drawing import Showing
from nightlab.live.limits import Limits, Rates
from nightlab.live.privacy import Secret, is_bot
from nightlab.live.script import SCRIPT
from nightlab.live.store import Arm, Rules, Side, Split, Store, open_store
from nightlab.live.tokens import Signer, Ticket

CONSENT = {"consent": True}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    folder = folder_of(tmp_path_factory.mktemp("service"))
    store, _ = deployed(folder / ".nightlab/live.sqlite")
    store.close()
    with served(folder, "--origin", "https://shop.example") as service:
        yield service, folder


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    """A service behind a proxy, for tests that change what is shown."""
    folder = folder_of(tmp_path_factory.mktemp("proxied"))
    store, _ = deployed(folder / ".nightlab/live.sqlite")
    store.close()
    with served(folder, "--behind-proxy") as service:
        yield service, folder


@pytest.fixture
def changing(proxied: tuple[Served, Path]) -> Iterator[Store]:
    """The store of that service; it shows two arms, half and half, when a test begins."""
    with closing(open_store(proxied[1] / ".nightlab/live.sqlite")) as opened:
        proxied[0].shows(opened.put_split({0: 0.5, 1: 0.5}, 0).version)
        yield opened


@pytest.fixture
def service(site: tuple[Served, Path]) -> Served:
    return site[0]


@pytest.fixture
def store(site: tuple[Served, Path]) -> Iterator[Store]:
    with closing(open_store(site[1] / ".nightlab/live.sqlite")) as opened:
        yield opened


@pytest.fixture
def client(service: Served) -> Iterator[httpx.Client]:
    with service.client as opened:
        yield opened


def sides(store: Store) -> tuple[int, int]:
    """How many were exposed, and how many converted, in all."""
    side = sum((total.side for total in store.totals("signup")), Side())
    return side.exposed, side.converted


def apart(store: Store, reason: str, least: int) -> int:
    """What was counted apart; it is written down a moment later."""
    deadline = time.monotonic() + 20
    while (found := store.apart().get(reason, 0)) < least and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


# Assignment


def test_units_are_drawn_as_the_public_hash_says_in_the_shares_that_were_asked_for() -> None:
    split = Split(7, {0: 0.2, 3: 0.5, 4: 0.3}, 0)
    showing = Showing.of(Rules("seed", 0.1), split, {})
    units = [os.urandom(16) for _ in range(3000)]

    tickets = [showing.drawn(unit, 0.0) for unit in units]

    for unit, ticket in zip(units, tickets, strict=True):
        held = is_held_out("seed", unit.hex(), 0.1)
        assert ticket.holdout == held
        assert ticket.arm == (0 if held else assign("seed:7", unit.hex(), split.weights))
    drawn = [ticket.arm for ticket in tickets if not ticket.holdout]
    assert abs(drawn.count(3) / len(drawn) - 0.5) < 0.05
    assert abs(1 - len(drawn) / 3000 - 0.1) < 0.03


def test_layers_draw_independently_of_each_other() -> None:
    split = Split(1, {0: 0.5, 1: 0.5}, 0)
    one, other = (Showing.of(Rules(seed, 0.0), split, {}) for seed in ("page", "mail"))

    same = sum(one.drawn(unit, 0).arm == other.drawn(unit, 0).arm for unit in (os.urandom(16) for _ in range(4000)))

    assert abs(same / 4000 - 0.5) < 0.04


def test_a_visitor_sees_the_same_arm_at_every_visit(client: httpx.Client) -> None:
    first = visit(client)

    again = [client.post("/v1/assign", json={**CONSENT, "token": first["token"]}).json() for _ in range(3)]

    assert {one["arm"] for one in again} == {first["arm"]}
    assert first["copy"] == (CHALLENGER if first["arm"] else CHAMPION)


def test_a_server_with_the_key_names_its_own_units(service: Served, store: Store) -> None:
    before = sides(store)
    with service.server as server:
        many = server.post("/v1/assign", json={"units": [f"user-{n}" for n in range(50)]}).json()
        again = server.post("/v1/assign", json={"unit": "user-7"}).json()
        told = [{"token": one["token"], "segment": {"audience": "young"}} for one in many["assignments"]]
        server.post("/v1/expose", json={"exposures": told}).raise_for_status()
        events = [{"unit": f"user-{n}", "id": "order-1", "name": "signup"} for n in range(10)]
        accepted = server.post("/v1/event", json={"events": events}).json()

    assert again["arm"] == many["assignments"][7]["arm"]
    assert {one["arm"] for one in many["assignments"]} == {0, 1}
    assert many["copies"]["1"] == CHALLENGER
    assert accepted == {"accepted": 10}
    assert sides(store) == (before[0] + 50, before[1] + 10)
    assert {total.segment for total in store.totals("signup")} >= {"audience=young"}


def test_a_new_split_is_shown_within_half_a_second_and_those_who_stay_stay(
    proxied: tuple[Served, Path], changing: Store
) -> None:
    with proxied[0].client as client:
        seen = [visit(client) for _ in range(20)]

        proxied[0].shows(changing.put_split({0: 1.0}, 0).version)
        later = [client.post("/v1/assign", json={**CONSENT, "token": one["token"]}).json() for one in seen]

    assert {one["arm"] for one in seen} == {0, 1}
    assert {one["arm"] for one in later} == {0}


# Counting


def test_only_what_was_rendered_is_counted(client: httpx.Client, store: Store) -> None:
    before = sides(store)

    given = client.post("/v1/assign", json=CONSENT).json()
    assert sides(store) == before
    client.post("/v1/expose", json={**CONSENT, "token": given["token"]}).raise_for_status()
    client.post("/v1/expose", json={**CONSENT, "token": given["token"]}).raise_for_status()

    assert sides(store) == (before[0] + 1, before[1])


def test_a_replayed_event_is_counted_once(client: httpx.Client, store: Store) -> None:
    visitor, before = visit(client), sides(store)

    for _ in range(5):
        assert act(client, visitor["token"], "order-1").json() == {"accepted": 1}

    assert sides(store) == (before[0], before[1] + 1)


def test_nobody_can_use_up_the_ids_of_another(client: httpx.Client, store: Store) -> None:
    one, other, before = visit(client), visit(client), sides(store)

    act(client, one["token"], "order-77")
    act(client, other["token"], "order-77")

    assert sides(store)[1] == before[1] + 2


def test_a_late_event_is_taken_from_a_server_and_none_from_the_future(service: Served, store: Store) -> None:
    now = time.time()
    with service.server as server:
        token = server.post("/v1/assign", json={"unit": "late"}).json()["token"]
        server.post("/v1/expose", json={"token": token, "at": now - 3000}).raise_for_status()
        before = sides(store)
        event = {"unit": "late", "id": "x", "name": "signup"}
        future = server.post("/v1/event", json={**event, "at": now + 9000})
        late = server.post("/v1/event", json={**event, "at": now - 1000})

    assert (future.status_code, late.status_code) == (400, 200)
    assert sides(store)[1] == before[1] + 1


def test_a_browser_is_not_believed_about_when_it_acted(client: httpx.Client, store: Store) -> None:
    token, before = visit(client)["token"], sides(store)

    event = {**CONSENT, "token": token, "id": "x", "name": "signup", "at": time.time() - 9_000}
    client.post("/v1/event", json=event).raise_for_status()

    assert sides(store)[1] == before[1] + 1


def test_a_preview_shows_an_arm_and_counts_nothing(
    site: tuple[Served, Path], client: httpx.Client, store: Store
) -> None:
    signer = Signer(Secret.at(site[1] / ".nightlab/live.secret"))
    before = sides(store)

    page = client.get("/", params={"preview": signer.preview(1)}, headers={"cookie": "nightlab_consent=yes"})
    api = client.post("/v1/assign", json={**CONSENT, "preview": signer.preview(1)}).json()
    forged = client.get("/", params={"preview": "1-" + "0" * 32})

    assert CHALLENGER["headline"] in page.text
    assert "set-cookie" not in page.headers
    assert (api["arm"], api["token"]) == (1, None)
    assert CHAMPION["headline"] in forged.text
    assert sides(store) == before


# Abuse


def test_forged_tokens_are_refused_and_counted_apart(client: httpx.Client, store: Store) -> None:
    token, before, seen = visit(client)["token"], sides(store), store.apart().get("forged", 0)
    other = Signer(Secret(b"x" * 64)).signed(Ticket(b"u" * 16, 1, 1, False, 0))
    changed = ("A" if token[30] != "A" else "B").join([token[:30], token[31:]])

    for bad in (other, changed, "", "é" * 60, None, 7, token + "=", "=" * 60):
        assert client.post("/v1/expose", json={**CONSENT, "token": bad}).status_code == 403
        assert client.post("/v1/event", json={**CONSENT, "token": bad, "id": "a", "name": "signup"}).status_code == 403

    assert apart(store, "forged", seen + 16) == seen + 16
    assert sides(store) == before


def test_a_forged_key_opens_nothing(service: Served) -> None:
    with service.client as client:
        client.headers["authorization"] = "Bearer nope"
        named = client.post("/v1/event", json={**CONSENT, "unit": "user-1", "id": "a", "name": "signup"})
        many = client.post("/v1/assign", json={**CONSENT, "units": ["user-1"]})

    assert named.status_code == 403
    assert "assignments" not in many.json()


def test_a_flood_from_one_address_is_held_back_and_counted_apart(service: Served, store: Store) -> None:
    def press(number: int) -> list[int]:
        with service.client_at("127.0.0.1") as client:
            client.headers["x-forwarded-for"] = f"203.0.113.{number}"  # nobody said --behind-proxy
            return [client.get("/healthz").status_code for _ in range(150)]

    with ThreadPoolExecutor(4) as pool:
        answers = [status for statuses in pool.map(press, range(4)) for status in statuses]

    assert answers.count(429) > 100
    assert answers.count(200) >= 200
    assert apart(store, "flood", 1) > 0
    with service.client_at("127.0.0.2") as neighbour:
        assert neighbour.get("/healthz").status_code == 200
    with service.server as server:
        assert server.get("/healthz").status_code == 200


def test_behind_a_proxy_only_the_address_that_the_proxy_adds_is_believed(proxied: tuple[Served, Path]) -> None:
    def is_held_back(said: str, requests: int) -> bool:
        with proxied[0].client as client:
            asked = (client.get("/healthz", headers={"x-forwarded-for": said.format(n)}) for n in range(requests))
            return any(answer.status_code == 429 for answer in asked)

    assert is_held_back("10.0.0.{}, 203.0.113.7", 2000)
    assert not is_held_back("203.0.113.7, 10.0.0.{}", 220)


def test_rates_fill_again_and_forget_nobody_who_still_asks() -> None:
    rates = Rates(Limits(a_second=10, burst=5))

    assert [rates.allow("a", 0.0) for _ in range(6)] == [True] * 5 + [False]
    assert rates.allow("b", 0.0)
    assert [rates.allow("a", 0.2) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("path", ["/v1/assign", "/v1/expose", "/v1/event"])
def test_oversized_bodies_are_refused_before_they_are_read(client: httpx.Client, path: str) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    assert client.post(path, content=b"x" * 20_000).status_code == 413
    assert client.post(path, content=endless()).status_code == 413
    assert client.post("/v1/event", json={**CONSENT, "events": [{}] * 21}).status_code == 413


def test_a_body_that_says_it_is_too_large_is_refused_while_none_of_it_has_come(service: Served) -> None:
    where = urlsplit(service.url)
    with socket.create_connection((where.hostname, where.port or 0), timeout=10) as line:
        line.sendall(f"POST /v1/event HTTP/1.1\r\nhost: {where.netloc}\r\ncontent-length: 20000\r\n\r\n".encode())

        assert line.recv(1000).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 9000, b'{"token": 1e999}', b'"x"'])
def test_odd_bodies_are_refused(client: httpx.Client, body: bytes) -> None:
    assert client.post("/v1/event", content=body, headers={"content-type": "text/plain"}).status_code in (200, 400, 403)
    assert client.post("/v1/expose", content=body).status_code in (200, 400, 403)


@pytest.mark.parametrize(
    "odd",
    [{"id": "a b"}, {"id": ""}, {"name": "x" * 65}, {"name": None}, {"value": "1"}, {"value": True}, {"value": 1e13}],
)
def test_odd_events_are_refused(client: httpx.Client, odd: dict[str, object]) -> None:
    event = {**CONSENT, "token": visit(client)["token"], "id": "a", "name": "signup", **odd}

    assert client.post("/v1/event", json=event).status_code == 400


def test_infinite_values_are_refused(client: httpx.Client) -> None:
    body = json.dumps({**CONSENT, "token": visit(client)["token"], "id": "a", "name": "signup", "value": float("nan")})

    assert client.post("/v1/event", content=body).status_code == 400


def test_bots_get_the_champion_and_are_counted_apart(service: Served, store: Store) -> None:
    before, seen = sides(store), store.apart().get("bot", 0)
    with service.client as client:
        person = visit(client)
        for agent in ("Googlebot/2.1 (+http://www.google.com/bot.html)", "curl/8.1", "", "python-httpx/0.28"):
            with service.client as bot:
                bot.headers["user-agent"] = agent
                given = bot.post("/v1/assign", json=CONSENT).json()
                assert (given["arm"], given["token"]) == (0, None)
                assert act(bot, person["token"]).json() == {"accepted": 0}

    assert apart(store, "bot", seen + 8) == seen + 8
    assert sides(store) == (before[0] + 1, before[1])


def test_browsers_of_people_are_no_bots() -> None:
    assert not is_bot(PERSON)
    assert not is_bot("Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Safari/604.1")
    assert is_bot("Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://[bad"},
        {"origin": "https://shop.example.evil.example"},
        {"sec-fetch-site": "cross-site"},
    ],
)
def test_posts_from_other_pages_are_refused(client: httpx.Client, store: Store, headers: dict[str, str]) -> None:
    token, before = visit(client)["token"], sides(store)

    answer = act(client, token, "cross", headers=headers)

    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    assert sides(store) == before


def test_a_page_whose_name_begins_like_ours_is_another_page(service: Served, client: httpx.Client) -> None:
    token = visit(client)["token"]

    for origin in (f"{service.url}.evil.example", f"{service.url}0", service.url.replace("http", "ftp")):
        assert act(client, token, headers={"origin": origin}).status_code == 403
    assert act(client, token, headers={"origin": service.url}).status_code == 200


def test_a_site_that_was_named_may_write_and_read_the_answer(client: httpx.Client) -> None:
    answer = client.post("/v1/assign", json=CONSENT, headers={"origin": "https://shop.example"})

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"


def test_script_in_copy_comes_out_as_text(proxied: tuple[Served, Path], changing: Store) -> None:
    evil = {"headline": "</h1><script>alert(1)</script>", "button": '"><img src=x onerror=alert(1)>{{headline}}'}
    changing.put_arm(Arm(2, 0, evil, "c", "serving"))
    proxied[0].shows(changing.put_split({2: 1.0}, 2).version)
    with proxied[0].client as client:
        page = client.get("/")
        api = client.post("/v1/assign", json=CONSENT)

    assert page.text.count("<script") == 1
    assert "<img" not in page.text
    assert re.findall(r"<h1[^>]*>(.*?)</h1>", page.text) == ["&lt;/h1&gt;&lt;script&gt;alert(1)&lt;/script&gt;"]
    assert unescape(page.text).count("{{headline}}") == 1
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert api.headers["content-type"] == "application/json"
    assert api.headers["x-content-type-options"] == "nosniff"


# Privacy


def everything(folder: Path) -> bytes:
    """All bytes the service has written down."""
    return b"".join(path.read_bytes() for path in sorted((folder / ".nightlab").glob("live.sqlite*")))


def test_who_objects_or_has_not_consented_gets_the_champion_and_leaves_nothing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    store, _ = deployed(folder / ".nightlab/live.sqlite", weights={0: 0.001, 1: 0.999})
    with closing(store), served(folder) as service, service.client as client:
        token = visit(client)["token"]
        before = dump(folder)
        for headers in ({"sec-gpc": "1"}, {"dnt": "1"}, {}):
            said = {"consent": bool(headers), "token": token, "id": "a", "name": "signup"}
            given = client.post("/v1/assign", json=said, headers=headers).json()
            told = client.post("/v1/expose", json=said, headers=headers).json()
            event = client.post("/v1/event", json=said, headers=headers).json()
            page = client.get("/", headers={**headers, "cookie": "nightlab_consent=yes" if headers else ""})

            assert (given["arm"], given["token"], told, event) == (0, None, {"token": None}, {"accepted": 0})
            assert CHAMPION["headline"] in page.text
            assert "data-token" not in page.text
            assert "set-cookie" not in page.headers
        service.end()
        assert dump(folder) == before


def dump(folder: Path) -> list[str]:
    """Every row of the store."""
    with closing(sqlite3.connect(folder / ".nightlab/live.sqlite")) as db:
        return list(db.iterdump())


def test_neither_names_nor_addresses_are_written_down(proxied: tuple[Served, Path], changing: Store) -> None:
    service, folder = proxied
    name = "jane.doe@example.com"
    with service.server as server:
        token = server.post("/v1/assign", json={"unit": name}).json()["token"]
        server.post(
            "/v1/expose", json={"token": token, "segment": {"audience": "young", "email": name, "who": "jane-doe"}}
        )
        server.post("/v1/event", json={"unit": name, "id": "o", "name": "signup"}).raise_for_status()
    with service.client as client:
        visit(client, headers={"x-forwarded-for": "203.0.113.77", "referer": "https://a.example/?jane"})

    stored = everything(folder)
    for trace in (b"jane", b"203.0.113", b"127.0.0.1", b"Firefox", name.encode()):
        assert trace not in stored
    assert Secret.at(folder / ".nightlab/live.secret").hashed(name) in stored


def test_without_the_secret_a_guessed_name_does_not_lead_to_a_unit() -> None:
    one, other = Secret(b"a" * 64), Secret(b"b" * 64)

    assert one.hashed("jane") == one.hashed("jane")
    assert one.hashed("jane") != other.hashed("jane")
    assert len({one.derived(purpose) for purpose in ("unit", "token", "api", "preview")}) == 4
    assert one.key not in (one.hashed("jane"), one.api_key.encode())


def test_the_secret_is_its_owners_alone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    made = Secret.at(folder / ".nightlab/live.secret")
    path = folder / ".nightlab/live.secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Secret.at(path) == made

    path.chmod(0o644)
    with pytest.raises(BadTask, match="chmod 600"):
        Secret.at(path)


def test_the_script_is_small_and_never_writes_markup() -> None:
    assert len(SCRIPT.encode()) < 2000
    assert not re.search(r"innerHTML|outerHTML|document\.write|eval|insertAdjacentHTML|Function\(", SCRIPT)


def test_without_a_split_the_service_says_so_and_does_not_count(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    with served(folder, version=None) as service, service.client as client:
        assert client.post("/v1/assign", json=CONSENT).status_code == 503
        assert client.get("/nl.js").text == SCRIPT
