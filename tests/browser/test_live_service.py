"""The live service in a real browser: what a visitor sees and what is counted, on our own page and on somebody else's.

The visitor's browser is the system's Chromium, the service is the real command, and the page of another origin comes
from a server of its own; a service that hangs is the real one, stopped by a signal.
"""

from __future__ import annotations

import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest
from conftest import wait_for
from pages import Visit, chromium, patience, visit
from playwright.sync_api import Page, expect

from nightlab.live.store import Arm, Side, Store, open_store

sys.path.insert(0, str(Path(__file__).parents[1] / "live"))
from services import CHALLENGER, CHAMPION, PERSON, Served, deployed, folder_of, served

pytestmark = pytest.mark.slow

OBJECTS = 'Object.defineProperty(navigator, "globalPrivacyControl", {value: true})'
HOSTILE = {
    "headline": "</h1><script>window.__hacked = 1</script><img src=x onerror='window.__hacked = 1'>",
    "button": '" onmouseover="window.__hacked = 1" href="javascript:window.__hacked=1">{{headline}}<b>',
}
OWN = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Tidewater</title>
<link rel="icon" href="data:,"></head><body><h1 data-nightlab-slot="headline" title="{{button}}">{{headline}}</h1>
<a data-nightlab="signup" href="#signed"><span>{{button}}</span></a></body></html>"""


class Elsewhere(ThreadingHTTPServer):
    """A site of another origin that carries the script tag; what it shows without us is written into it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.tag, self.policy = "", ""
        self.goes_on = Event()
        self.goes_on.set()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}"

    def carries(self, service: Served, said: str = 'data-consent="yes"') -> None:
        """Put the script tag into the page, as the command says it."""
        self.tag = f'<script src="{service.url}/nl.js" {said} async></script>'

    @property
    def parts(self) -> tuple[str, str]:
        """Its page, in two pieces; the second comes when it `goes_on`."""
        head = '<meta charset="utf-8"><title>Shop</title><link rel="icon" href="data:,">'
        copy = (f'data-nightlab-slot="{slot}">{text}' for slot, text in CHAMPION.items())
        body = '<h1 {}</h1><a data-nightlab="signup" href="/thanks"><span {}</span></a>'.format(*copy)
        return f'<!doctype html><html lang="en"><head>{head}{self.tag}</head><body><p>Shop</p>', f"{body}</body></html>"


class Answers(BaseHTTPRequestHandler):
    """What such a site answers."""

    server: Elsewhere

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html; charset=utf-8")
        if self.server.policy:
            self.send_header("content-security-policy", self.server.policy)
        self.end_headers()
        if self.path == "/thanks":
            self.wfile.write(b"<title>Thanks</title>Thanks")
            return
        first, second = self.server.parts
        self.wfile.write(first.encode())
        self.server.goes_on.wait()
        self.wfile.write(second.encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def site() -> Iterator[Elsewhere]:
    """Such a site, for as long as the block lasts."""
    with Elsewhere() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.goes_on.set()
        server.shutdown()


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    with site() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path, OWN)


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    """A store in which next to everybody is shown the challenger."""
    opened, _ = deployed(folder / ".nightlab/live.sqlite", weights={0: 0.0001, 1: 0.9999})
    with closing(opened):
        yield opened


@pytest.fixture
def service(folder: Path, store: Store, elsewhere: Elsewhere) -> Iterator[Served]:
    with served(folder, "--origin", elsewhere.url) as running:
        elsewhere.carries(running)
        yield running


@contextmanager
def hanging(service: Served) -> Iterator[None]:
    """The service takes connections and never answers, for as long as the block lasts."""
    service.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        service.process.send_signal(signal.SIGCONT)


def shows(page: Page, copy: dict[str, str]) -> None:
    """What a person reads."""
    expect(page.locator("h1")).to_have_text(copy["headline"])
    expect(page.locator("a")).to_have_text(copy["button"])


def counted(store: Store) -> Side:
    """How many were shown the challenger, and how many of them signed up."""
    return store.counts(1, 0, "signup")[0].candidate


def dump(folder: Path) -> list[str]:
    """Every row of the store."""
    with closing(sqlite3.connect(folder / ".nightlab/live.sqlite")) as db:
        return list(db.iterdump())


def clicks(folder: Path) -> int:
    """How many outcomes were written down, whether or not they were the first."""
    return sum('INTO "outcomes"' in row for row in dump(folder))


def stays(page: Page) -> None:
    """Let a click on the link lead nowhere."""
    page.locator("a").evaluate("a => a.removeAttribute('href')")


def kept(page: Page) -> dict[str, object]:
    """What the browser has been asked to remember."""
    return {"storage": page.evaluate("Object.keys(localStorage)"), "cookies": page.context.cookies()}


NOTHING = {"storage": [], "cookies": []}


def test_a_page_elsewhere_shows_the_variant_and_counts_what_was_rendered_and_clicked_once(
    folder: Path, service: Served, store: Store, elsewhere: Elsewhere, visit: Visit
) -> None:
    page = visit(elsewhere.url, user_agent=PERSON)
    shows(page, CHALLENGER)
    wait_for(lambda: counted(store) == Side(1, 0))

    page.locator("a span").click()  # it leads away while the outcome is on its way
    wait_for(lambda: counted(store) == Side(1, 1))
    page.wait_for_url("**/thanks")
    for _ in range(2):
        page.goto(elsewhere.url)
        shows(page, CHALLENGER)
        page.locator("a span").click()
        page.wait_for_url("**/thanks")
    wait_for(lambda: clicks(folder) == 3)

    assert counted(store) == Side(1, 1)


def test_a_page_that_nobody_has_seen_yet_is_not_counted(
    service: Served, store: Store, elsewhere: Elsewhere, visit: Visit
) -> None:
    hidden = """Object.defineProperty(document, "visibilityState", {get: () => window.seen ? "visible" : "hidden"})"""

    page = visit(elsewhere.url, user_agent=PERSON, begins=hidden)
    shows(page, CHALLENGER)
    assert counted(store) == Side(0, 0)
    page.evaluate("window.seen = true; document.dispatchEvent(new Event('visibilitychange'))")

    wait_for(lambda: counted(store) == Side(1, 0))


def test_a_page_that_is_still_on_its_way_is_filled_before_it_is_counted(
    service: Served, store: Store, elsewhere: Elsewhere, visit: Visit
) -> None:
    elsewhere.goes_on.clear()

    page = visit(elsewhere.url, user_agent=PERSON, until="commit")
    with page.expect_response("**/v1/assign"):
        pass
    page.evaluate("new Promise(done => setTimeout(done, 200))")  # what was answered would have been used by now
    assert counted(store) == Side(0, 0)
    elsewhere.goes_on.set()

    shows(page, CHALLENGER)
    wait_for(lambda: counted(store) == Side(1, 0))


def test_consent_that_comes_later_begins_later(
    folder: Path, service: Served, store: Store, elsewhere: Elsewhere, visit: Visit
) -> None:
    elsewhere.carries(service, "")
    before = dump(folder)

    page = visit(elsewhere.url, user_agent=PERSON)
    stays(page)
    page.locator("a").click()
    shows(page, CHAMPION)
    assert (dump(folder), kept(page)) == (before, NOTHING)
    page.evaluate("nightlab.consent()")

    shows(page, CHALLENGER)
    wait_for(lambda: counted(store) == Side(1, 0))


def painted(page: Page) -> None:
    """Wait until the page is on the screen and its own scripts may run; whatever else is still on its way."""
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length == 1")
    page.wait_for_function("document.readyState != 'loading'")


def test_a_page_whose_script_never_comes_shows_the_champion_and_waits_for_nothing(
    service: Served, elsewhere: Elsewhere, visit: Visit
) -> None:
    with hanging(service):
        page = visit(elsewhere.url, user_agent=PERSON, until="commit")

        painted(page)
        shows(page, CHAMPION)
        page.locator("a").click()
        page.wait_for_url("**/thanks", wait_until="commit")


def test_a_page_whose_service_hangs_or_is_gone_shows_the_champion(
    service: Served, elsewhere: Elsewhere, visit: Visit
) -> None:
    elsewhere.carries(service, "")
    page = visit(elsewhere.url, user_agent=PERSON, expects="net::ERR_")
    with hanging(service):
        page.evaluate("nightlab.consent()")
        painted(page)
        shows(page, CHAMPION)
        page.locator("a").click()
        page.wait_for_url("**/thanks", wait_until="commit")

    service.kill()
    elsewhere.carries(service)
    page.goto(elsewhere.url)
    painted(page)
    shows(page, CHAMPION)
    page.locator("a").click()
    page.wait_for_url("**/thanks")


def test_who_was_shown_a_variant_sees_the_champion_while_the_service_is_gone(
    service: Served, elsewhere: Elsewhere, visit: Visit
) -> None:
    page = visit(elsewhere.url, user_agent=PERSON, expects="net::ERR_")
    shows(page, CHALLENGER)

    service.kill()
    page.reload()

    painted(page)
    shows(page, CHAMPION)


@pytest.mark.parametrize(
    ("own", "by"), [(True, "header"), (True, "both"), (False, "header"), (False, "script"), (False, "both")]
)
def test_who_objects_sees_the_champion_and_nothing_is_stored_anywhere(
    folder: Path, service: Served, elsewhere: Elsewhere, visit: Visit, own: bool, by: str
) -> None:
    before = dump(folder)
    page = visit(
        f"{service.url}/" if own else elsewhere.url,
        user_agent=PERSON,
        begins="" if by == "header" else OBJECTS,
        extra_http_headers={} if by == "script" else {"sec-gpc": "1"},
        storage_state={"cookies": [consented(service)], "origins": []},
    )

    shows(page, CHAMPION)
    stays(page)
    page.locator("a").click()
    page.evaluate("nightlab.consent(); nightlab.track('signup')")
    page.wait_for_load_state("networkidle")

    assert page.evaluate("Object.keys(localStorage)") == []
    assert [cookie["name"] for cookie in page.context.cookies()] == ["nightlab_consent"]
    service.end()
    assert dump(folder) == before


def consented(service: Served) -> dict[str, object]:
    """The cookie by which a visitor of our own page has consented."""
    return {"name": "nightlab_consent", "value": "yes", "domain": "127.0.0.1", "path": "/"}


def test_hostile_copy_is_text_on_our_own_page_and_elsewhere(
    service: Served, store: Store, elsewhere: Elsewhere, visit: Visit
) -> None:
    store.put_arm(Arm(2, 0, HOSTILE, "c", "serving"))
    store.put_split({2: 1.0}, 2)
    service.shows(2)
    elsewhere.policy = (
        f"default-src 'none'; img-src data:; script-src {service.url}; connect-src {service.url}; "
        "require-trusted-types-for 'script'"
    )

    for address in (f"{service.url}/", elsewhere.url):
        page = visit(address, user_agent=PERSON)
        shows(page, HOSTILE)
        assert page.locator("a").get_attribute("href") in ("#signed", "/thanks")
        stays(page)
        page.locator("h1").hover()
        page.locator("a").click()

        assert page.locator("h1 *").count() == 0
        assert page.locator("img, b").count() == 0
        assert page.locator("script").count() == 1
        assert not page.url.startswith("javascript:")
        assert page.evaluate("document.querySelector('h1').onmouseover") is None


def test_our_own_page_shows_the_same_variant_again_and_counts_it_once(
    folder: Path, service: Served, store: Store, visit: Visit
) -> None:
    page = visit(f"{service.url}/", user_agent=PERSON)
    shows(page, CHAMPION)  # nobody has consented
    page.context.add_cookies([consented(service)])  # type: ignore[list-item]

    for _ in range(3):
        page.goto(f"{service.url}/")
        shows(page, CHALLENGER)
        page.locator("a span").click()
        page.wait_for_load_state("networkidle")

    wait_for(lambda: clicks(folder) == 3)
    assert counted(store) == Side(1, 1)


def test_our_own_page_runs_no_script_but_ours(service: Served, visit: Visit) -> None:
    page = visit(f"{service.url}/", user_agent=PERSON, expects="Content Security Policy")

    page.evaluate(
        "for (const [what, how] of [['textContent', 'window.__hacked = 1'], ['src', 'http://127.0.0.1:1/x.js']]) {"
        "const s = document.createElement('script'); s[what] = how; document.body.append(s); }"
    )
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"window.__hacked = 1\">')"
    )

    page.wait_for_load_state("networkidle")
    assert page.evaluate("window.__hacked ?? null") is None


@pytest.mark.parametrize("has_token", [False, True], ids=["a stranger", "a stranger with somebody's token"])
def test_a_site_that_was_not_named_gets_nothing(
    folder: Path, service: Served, elsewhere: Elsewhere, visit: Visit, has_token: bool
) -> None:
    with service.client as client:
        token = client.post("/v1/assign", json={"consent": True}).json()["token"]
    before = dump(folder)
    ask = f"""fetch("{service.url}/v1/assign", {{method: "POST", body: '{{"consent": true}}'}})"""

    with site() as stranger:
        stranger.carries(service, 'data-consent="yes"' + (f' data-token="{token}"' if has_token else ""))
        page = visit(stranger.url, user_agent=PERSON, expects="CORS|403|net::ERR_FAILED|ERR_CONNECTION_REFUSED")
        shows(page, CHAMPION)
        page.evaluate("nightlab.track('signup')")
        read = page.evaluate(f"{ask}.then(answer => answer.text(), () => 'nothing')")
        page.wait_for_load_state("networkidle")

        assert read == "nothing"
        assert kept(page) == NOTHING
        service.end()
        assert [row for row in dump(folder) if '"apart"' not in row] == before
