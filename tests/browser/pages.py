"""What the page is tested with: the real server as a process of its own, and the system's own Chromium.

Every browser context is watched: a script that was planted, a dialog, an error in the console or a request that leaves
the machine fails the test in which it happened.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any, Literal
from urllib.parse import urlsplit

import psutil
import pytest
from conftest import need
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, Request, sync_playwright

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
PATIENCE = 120.0
VIEWS = ("", "experiments", "e/1", "tree", "frontier", "insights", "control", "report")
"""The views of one study, as parts of its address."""


@dataclass
class Server:
    """`nightlab web` as people start it."""

    process: subprocess.Popen[str]
    url: str
    """Where it listens, without a slash at the end."""
    token: str

    def at(self, view: str = "", study: str = "main") -> str:
        """The address of a view."""
        return f"{self.url}/s/{study}/{view}"

    @property
    def port(self) -> int:
        """Where it listens."""
        return urlsplit(self.url).port or 0

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def started(folder: Path, port: int = 0) -> Server:
    """A server of a folder's studies; it has to be ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nightlab", "-C", str(folder), "web", "--port", str(port), "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"},
    )
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    where = urlsplit(told["url"])
    return Server(process, f"{where.scheme}://{where.netloc}", told["token"])


@contextmanager
def served(folder: Path, port: int = 0) -> Iterator[Server]:
    """A server, for as long as the block lasts."""
    server = started(folder, port)
    try:
        yield server
    finally:
        server.kill()


@dataclass
class Chromium:
    """The system's Chromium; started anew where a test before had to end it."""

    playwright: Playwright
    program: str
    browser: Browser | None = None

    def context(self, **looks: Any) -> BrowserContext:
        """A visitor's own corner of the browser."""
        if self.browser is None or not self.browser.is_connected():
            arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's own jail does not work for root
            self.browser = self.playwright.chromium.launch(executable_path=self.program, args=arguments)
        return self.browser.new_context(**looks)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    """One browser for the tests of a module.

    Not of the session: as long as Playwright is there, an event loop counts as running in this thread, and no test of
    another module could have one of its own.
    """
    program = shutil.which("chromium") or ""
    need(bool(program), "chromium is not installed (sudo apt-get install chromium)")
    with sync_playwright() as playwright:
        found = Chromium(playwright, program)
        yield found
        if found.browser is not None:
            found.browser.close()


GONE = "net::ERR_|Failed to fetch"
"""What a browser says of a server that ends while a page is open, at whatever moment."""


@dataclass
class Watched:
    """What happened in a browser that should not have."""

    outside: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    expects: str = "(?!)"
    """A pattern of errors that the test itself brings about."""

    def request(self, request: Request) -> None:
        """A request that leaves the machine."""
        where = urlsplit(request.url)
        if where.scheme not in ("data", "about", "blob", "file") and where.hostname != "127.0.0.1":
            self.outside.append(request.url)

    def watch(self, page: Page) -> None:
        """Look at a page from now on."""
        page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)

    def check(self, context: BrowserContext) -> None:
        """Nothing of it may have happened."""
        hacked = [page.url for page in context.pages if page.evaluate("window.__hacked ?? null") is not None]
        errors = [error for error in self.errors if not re.search(self.expects, error)]
        happened = {"requests outside": self.outside, "dialogs": self.dialogs, "hacked": hacked, "errors": errors}
        assert not any(happened.values()), happened


def end_browsers() -> None:
    """Kill every browser that this process has started."""
    for child in psutil.Process().children(recursive=True):
        if "chrom" in child.name():
            child.kill()


@pytest.fixture
def patience() -> Iterator[None]:
    """Ends a browser that hangs, as Chromium may where the machine is at its limit.

    Closing one has no time limit of its own, and a test that fails is better than one that never ends.
    """
    timer = Timer(PATIENCE, end_browsers)
    timer.daemon = True
    timer.start()
    yield
    timer.cancel()


Visit = Callable[..., Page]
"""visit(address, phone=False, dark=False, script=True, still=False, expects="...") opens it in a context of its own.

`begins` is a script that runs before the page's own; `until` how far to wait; what else is said is the context's.
"""


@pytest.fixture
def visit(chromium: Chromium, patience: None) -> Iterator[Visit]:
    """Opens a page as somebody would; what must not happen in a browser is looked for at the end."""
    opened: list[tuple[BrowserContext, Watched]] = []

    def open_(
        address: str,
        *,
        phone: bool = False,
        dark: bool = False,
        script: bool = True,
        still: bool = False,
        expects: str = "(?!)",
        begins: str = "",
        until: Literal["load", "domcontentloaded", "commit"] = "load",
        **looks: Any,
    ) -> Page:
        context = chromium.context(
            viewport=PHONE if phone else DESK,
            has_touch=phone,
            is_mobile=phone,
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce" if still else "no-preference",
            java_script_enabled=script,
            **looks,
        )
        context.add_init_script(begins)
        context.set_default_timeout(10_000)
        watched = Watched(expects=expects)
        opened.append((context, watched))
        context.on("request", watched.request)
        context.on("page", watched.watch)
        page = context.new_page()
        page.goto(address, wait_until=until)
        return page

    yield open_
    try:
        for context, watched in opened:
            watched.check(context)
    finally:
        for context, _ in opened:
            context.close()


def faults(page: Page, *rules: str) -> list[dict[str, Any]]:
    """What axe-core finds serious or critical on a page, in few words; by all its rules, or by some."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    options = {"runOnly": {"type": "rule", "values": list(rules)}} if rules else {}
    found = axe.Axe().run(page, options=options).response["violations"]
    return [
        {
            "rule": one["id"],
            "where": [node["target"] for node in one["nodes"]],
            "why": one["nodes"][0]["failureSummary"],
        }
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
