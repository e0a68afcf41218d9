"""Who may read the page and who may write: host, token, origin, and what a browser is told it may do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import asked
from serving import Served, night, served

from nightlab.dashboard.page.guard import Access
from nightlab.place import Place, held

VIEWS = ["", "experiments", "e/1", "e/1/log", "tree", "tree?at=0", "frontier", "insights", "control", "report"]
OTHERS = ["summary.json", "experiments.json", "progress.json", "frontier.json"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A study that somebody holds, as a lab would."""
    place = night(tmp_path, 12)
    with held(place):
        yield place


@pytest.fixture
def page(place: Place) -> Iterator[Served]:
    with served(place.root) as page:
        yield page


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "[::1", "", "0"]
)
def test_a_name_that_is_not_this_machines_is_refused(page: Served, host: str) -> None:
    answer = page.get("/s/main/", host=host)

    assert answer.status_code in (400, 421)
    assert "baseline" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:1", "[::1]:8642", "LOCALHOST"])
def test_a_tunnel_may_have_any_port(page: Served, host: str) -> None:
    assert page.get("/s/main/", host=host).status_code == 200


def test_a_write_from_the_page_is_a_wish_in_the_ledger(page: Served, place: Place) -> None:
    answer = page.ask("pause")

    assert (answer.status_code, answer.headers["location"]) == (303, "/s/main/control")
    assert asked(place) == [""]


@pytest.mark.parametrize("token", ["", "x", "é", "A" * 32])
def test_a_write_without_the_token_is_refused(page: Served, place: Place, token: str) -> None:
    answer = page.ask("pause", token=token)

    assert answer.status_code == 403
    assert "load it again" in answer.text
    assert asked(place) == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"origin": "http://[", "sec-fetch-site": "same-origin"},
        {"origin": "http://evil.example", "sec-fetch-site": "same-origin"},
    ],
)
def test_a_write_from_elsewhere_is_refused_although_it_has_the_token(
    page: Served, place: Place, headers: dict[str, str]
) -> None:
    answer = page.ask("pause", headers=headers)

    assert answer.status_code == 403
    assert asked(place) == []


def test_nothing_is_written_by_reading(page: Served, place: Place) -> None:
    answer = page.get(f"/s/main/control/pause?token={page.access.token}")

    assert answer.status_code == 405
    assert asked(place) == []


def test_a_wish_that_makes_no_sense_is_refused_in_words(page: Served) -> None:
    answers = [
        page.ask("explode"),
        page.ask("veto"),
        page.ask("veto", number="0"),
        page.ask("veto", number="99"),
        page.ask("steer", text="  "),
        page.ask("steer", text="x" * 5000),
        page.ask("stop", text="please"),
        page.ask("pause", number="3"),
    ]

    assert [one.status_code for one in answers] == [422, 422, 422, 404, 422, 422, 422, 422]
    assert "no words" in answers[4].text


def test_a_form_that_is_too_long_is_refused(page: Served) -> None:
    assert page.ask("steer", text="x" * 100_000).status_code == 413


def test_every_answer_binds_the_browser(page: Served) -> None:
    paths = [f"/s/main/{view}" for view in [*VIEWS, *OTHERS, "e/999", "nothing"]]
    answers = [page.get(path) for path in [*paths, "/", "/static/page.js", "/static/no", "/nowhere"]]
    answers += [page.get("/", host="evil.example"), page.ask("pause", headers={}), page.ask("pause")]

    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'"), answer.url
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("view", VIEWS[:-1])
def test_no_page_needs_a_script_or_style_of_its_own(page: Served, view: str) -> None:
    words = page.get(f"/s/main/{view}").text

    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:|https?://(?!127)", words)


@pytest.mark.parametrize(
    "path",
    [
        "/static/../page/server.py",
        "/static/..%2fpage%2fserver.py",
        "/static/%2e%2e/plot.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/page.css%00.py",
        "/s/../../etc/passwd",
        "/s/..%2f..%2f..%2fetc/",
        "/s/.nightlab/",
        "/s/studies/",
        "/s/main/../../secret",
        "/s/main/e/..%2f..%2fsecret",
        "/s/main/e/1%2f..%2f..%2flog",
    ],
)
def test_no_path_leads_out(page: Served, path: str) -> None:
    with page.client() as client:
        request = client.build_request("GET", "/")
        request.url = httpx.URL(page.url).copy_with(raw_path=path.encode())
        answer = client.send(request)

    assert answer.status_code == 404


def test_on_a_network_nothing_is_read_without_the_token(place: Place) -> None:
    with served(place.root, access=Access("0.0.0.0")) as page:
        answers = [
            page.get(path) for path in ("/", "/s/main/", "/s/main/events", "/s/main/summary.json", "/static/page.css")
        ]
        answers += [
            page.get("/s/main/?token=wrong"),
            page.get("/s/main/?token=%C3%A9"),
        ]
        odd = page.get("/", cookie="x=\x7f;;")
        written = page.ask("pause")

    assert odd.status_code in (400, 401), "one parser of requests refuses such a cookie before we are asked"
    assert {one.status_code for one in answers} == {401}
    assert not any("main" in one.text for one in answers)
    assert written.status_code == 401
    assert asked(place) == []


@pytest.mark.parametrize("access", [Access("0.0.0.0"), Access(private=True)])
def test_the_token_in_the_address_becomes_a_cookie_once(place: Place, access: Access) -> None:
    with served(place.root, access=access) as page, page.client() as client:
        welcome = client.get(f"/s/main/experiments?status=kept&token={access.token}")
        cookie = welcome.headers["set-cookie"].lower()
        onward = re.search(r'content="0;url=([^"]*)"', welcome.text)
        again = client.get("/s/main/")
        written = client.post("/s/main/control/pause", data={"token": access.token}, headers={"origin": page.url})

    assert onward is not None
    assert onward[1] == "/s/main/experiments?status=kept"
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert (again.status_code, written.status_code) == (200, 303)
    assert asked(place) == [""]


def test_a_cookie_alone_writes_nothing(place: Place) -> None:
    access = Access(private=True)
    with served(place.root, access=access) as page, page.client() as client:
        client.get(f"/?token={access.token}")
        answer = client.post("/s/main/control/pause", data={}, headers={"origin": page.url})

    assert answer.status_code == 403
    assert asked(place) == []


def test_the_way_on_after_the_token_stays_on_this_page(place: Place) -> None:
    access = Access(private=True)
    with served(place.root, access=access) as page, page.client() as client:
        request = client.build_request("GET", "/")
        request.url = httpx.URL(page.url).copy_with(raw_path=f"//evil.example/?token={access.token}".encode())
        words = client.send(request).text

    assert 'url=/evil.example/"' in words
