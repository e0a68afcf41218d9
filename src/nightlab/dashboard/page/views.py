"""The views: one small function for each address. All of them read; only `ask` leaves a wish, and only by the table."""

from __future__ import annotations

import gzip
import json
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import cache
from html import unescape
from math import inf
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, PackageLoader, StrictUndefined
from sse_starlette.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from nightlab import __version__, control, insights
from nightlab.dashboard import board, chart, morning
from nightlab.dashboard.page import events, readings, studies
from nightlab.dashboard.page.detail import experiment_page, log_page
from nightlab.dashboard.page.guard import Access
from nightlab.dashboard.page.readings import Filter
from nightlab.dashboard.page.words import FILTERS, GRADES, visible
from nightlab.errors import BadLedger, BadTask, NightlabError, NotFound, StudyBusy, StudyStuck
from nightlab.ledger import Ledger
from nightlab.place import MAIN, Place
from nightlab.place import studies as names_of
from nightlab.simplicity import dominating
from nightlab.values import Status

STATIC = Path(__file__).parents[1] / "static"
FILES = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "chart.css": "text/css",
    "chart.js": "text/javascript",
    "uPlot.iife.min.js": "text/javascript",
    "uPlot.min.css": "text/css",
}
"""What is served from the folder of static files; nothing else is."""
_CODES: Mapping[type[NightlabError], int] = {
    NotFound: 404,
    BadTask: 422,
    StudyStuck: 409,
    StudyBusy: 409,
    BadLedger: 503,
}
LIVE = "live.sqlite"
"""The file by which a study with visitors is known, beside its ledger."""
_POINTS = 300  # of a chart: as many as a screen shows, and a few kilobytes
_LONGEST_FORM = 64 * 1024
_LONGEST_WORD = 200
_HEARTBEAT = 10
_SLOW = 15.0  # seconds for which a page may take nothing before it is let go; it comes back by itself
_LONG = 2_000  # experiments of a night
_REST = 0.4  # seconds at least between two looks at everything, for all pages

Swarm = Callable[[Place], Mapping[str, Any] | None]
"""What the swarm that a study has joined knows, or {"error": words}; None where it has joined none."""


class Page:
    """All studies of one repository, as a page."""

    def __init__(self, root: Path, access: Access, swarm: Swarm = lambda _: None, live: Swarm = lambda _: None) -> None:
        """`live` is asked the same of a study's visitors: None where it has none."""
        self.root, self.access, self._swarm, self._live = root, access, swarm, live
        self.boot = secrets.token_hex(4)
        self._watches: dict[str, events.Watch] = {}
        self._reckoning = threading.Lock()
        self._reckoned: dict[tuple[str, str], tuple[object, str]] = {}
        self._words = Environment(
            loader=PackageLoader("nightlab.dashboard.page"),
            autoescape=True,
            finalize=visible,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._words.filters.update(FILTERS)
        self._words.globals.update(
            version=__version__, grades=GRADES, statuses=[one.value for one in Status], controls=control.CONTROLS
        )
        self._words.globals.update(standings=board.MARKS, families=board.FAMILIES, cells=board.CELLS)

    def routes(self) -> list[Route]:
        """Every address."""
        read: list[tuple[str, Callable[..., Any]]] = [
            ("/", self.index),
            ("/s/{study}/", self.overview),
            ("/s/{study}/experiments", self.experiments),
            ("/s/{study}/e/{number}", self.experiment),
            ("/s/{study}/e/{number}/log", self.log),
            ("/s/{study}/tree", self.tree),
            ("/s/{study}/frontier", self.frontier),
            ("/s/{study}/insights", self.insights),
            ("/s/{study}/swarm", self.swarm),
            ("/s/{study}/live", self.live),
            ("/s/{study}/live.json", self.live_json),
            ("/s/{study}/control", self.controls),
            ("/s/{study}/report", self.report),
            ("/s/{study}/summary.json", self.summary_json),
            ("/s/{study}/swarm.json", self.swarm_json),
            ("/s/{study}/experiments.json", self.experiments_json),
            ("/s/{study}/progress.json", self.progress_json),
            ("/s/{study}/frontier.json", self.frontier_json),
            ("/s/{study}/events", self.news),
            ("/static/{name}", static),
        ]
        asked = Route("/s/{study}/control/{verb}", self.ask, methods=["POST"])
        return [*(Route(path, view, methods=["GET"]) for path, view in read), asked]

    def refusals(self) -> dict[Any, Callable[..., Any]]:
        """What is answered where something cannot be done."""
        return {NightlabError: self._refused, HTTPException: self._lost}

    def end(self) -> None:
        """Let all open pages go."""
        for watch in self._watches.values():
            watch.end()

    # Studies

    def names(self) -> list[str]:
        """The studies there are; before the first there is the one that will be."""
        return names_of(self.root) or [MAIN]

    def place(self, request: Request) -> Place:
        """The study of an address. Raises NotFound."""
        name = request.path_params["study"]
        if name not in self.names():
            raise NotFound(f"there is no study {name[:80]!r} here; there are: {', '.join(self.names())}")
        return Place(self.root, name)

    def show(self, template: str, request: Request, place: Place, **more: Any) -> HTMLResponse:
        """A whole page of a study."""
        facts = {"place": place, "base": f"/s/{place.name}", "names": self.names(), "token": self.access.token}
        where = {"path": request.url.path, "boot": self.boot, "root": self.root.name, "now": time.time()}
        where["is_in_swarm"], where["is_live"] = place.swarm.exists(), (place.home / LIVE).exists()
        return HTMLResponse(self._words.get_template(template).render(**facts, **where, **more), headers=_FRESH)

    # Views

    def index(self, request: Request) -> Response:
        """The studies; straight to the only one."""
        names = self.names()
        if len(names) == 1:
            return RedirectResponse(f"/s/{names[0]}/", 303, headers=_FRESH)
        seen = [studies.glance(Place(self.root, name)) for name in names]
        return self.show("index.html", request, Place(self.root, names[0]), seen=seen)

    def overview(self, request: Request) -> Response:
        """How the study stands, live."""
        place = self.place(request)
        seen = studies.glance(place)
        return self.show("overview.html", request, place, seen=seen, **self._listing(place, _filter(request)))

    def experiments(self, request: Request) -> Response:
        """The table of experiments, filtered and paged by the address."""
        place = self.place(request)
        return self.show("experiments.html", request, place, **self._listing(place, _filter(request)))

    def _listing(self, place: Place, wanted: Filter) -> dict[str, Any]:
        if not place.ledger.exists():
            return {"wanted": wanted, "rows": [], "is_more": False, "total": 0, "proposers": [], "seq": -1}
        with readings.reading(place.ledger) as db:
            db.execute("BEGIN")  # one moment for all of it
            rows, is_more = readings.table(db, wanted)
            return {
                "wanted": wanted,
                "rows": rows,
                "is_more": is_more,
                "total": readings.count(db, wanted),
                "proposers": readings.proposers(db),
                "seq": readings.last_seq(db),
            }

    def experiment(self, request: Request) -> Response:
        """One experiment: hypothesis, evidence, patch, log, neighbours."""
        place = self.place(request)
        found = experiment_page(place, _number(request.path_params["number"]))
        return self.show("experiment.html", request, place, **found)

    def log(self, request: Request) -> Response:
        """The end of an experiment's log, while it is written."""
        place = self.place(request)
        found = log_page(place, _number(request.path_params["number"]))
        words = self._words.get_template("_log.html").render(base=f"/s/{place.name}", **found)
        return HTMLResponse(words, headers=_FRESH)

    def tree(self, request: Request) -> Response:
        """Who grew from whom: the kept line, or what grew from one experiment."""
        place = self.place(request)
        at, before = _asked_number(request, "at"), _asked_number(request, "before")
        if not place.ledger.exists():
            return self.show("tree.html", request, place, at=None, rows=[], is_more=False, broods={}, one=None)
        with readings.reading(place.ledger) as db:
            one = None
            if at is None:
                rows, is_more = readings.kept_line(db, before=before)
            else:
                one = next(iter(readings.rows_of(db, [at])), None)
                if one is None:
                    raise NotFound(f"there is no experiment {at}; the tree begins at {place.name}'s own page")
                rows, is_more = readings.table(db, Filter(parent=at, before=before))
            broods = readings.broods(db, [row["id"] for row in rows])
        return self.show("tree.html", request, place, at=at, rows=rows, is_more=is_more, broods=broods, one=one)

    def frontier(self, request: Request) -> Response:
        """What nobody beats in metric, simplicity, memory and time at once."""
        place = self.place(request)
        rows: list[dict[str, Any]] = []
        metric = None
        if place.ledger.exists():
            with closing(place.read()) as ledger:
                study = ledger.study() or {}
            metric, sign = study.get("metric"), 1.0 if study.get("direction") == "lower" else -1.0
            with readings.reading(place.ledger) as db:
                rows = _front(db, sign)
        return self.show("frontier.html", request, place, rows=rows, metric=metric)

    def insights(self, request: Request) -> Response:
        """What works here."""
        place, query = self.place(request), request.query_params.get("q", "")[:_LONGEST_WORD]
        found: dict[str, Any] = {"findings": [], "matches": []}
        if place.ledger.exists():
            found = json.loads(self._once(place, "insights", lambda ledger: _insights(place, ledger, query), query))
        groups = morning.by_kind(found["findings"])
        return self.show("insights.html", request, place, query=query, groups=groups, matches=found["matches"])

    def swarm(self, request: Request) -> Response:
        """What the other labs found, who adopted what, and on which hardware; nothing where that is known already."""
        place = self.place(request)
        told = self._swarm(place)
        if told and told.get("digest") and request.query_params.get("known") == told["digest"]:
            return Response(status_code=204, headers=_FRESH)
        return self.show("swarm.html", request, place, swarm=None if told is None else board.shown(told))

    def live(self, request: Request) -> Response:
        """What visitors are shown and what they say: who waits for approval, what is served, what may be claimed."""
        place = self.place(request)
        told = self._live(place)
        if told is None:
            raise NotFound(f"study {place.name} has no visitors; nightlab init landing writes a task that has")
        return self.show("live.html", request, place, live=told)

    def controls(self, request: Request) -> Response:
        """What can be told to the study, what was, and how it was set."""
        place = self.place(request)
        seen = studies.glance(place)
        wishes: list[dict[str, Any]] = []
        settings: dict[str, Any] = {}
        if place.ledger.exists():
            with readings.reading(place.ledger) as db:
                wishes = readings.wishes(db)
            with closing(place.read()) as ledger:
                settings = dict(ledger.study() or {})
        return self.show("control.html", request, place, seen=seen, wishes=wishes, settings=settings)

    def report(self, request: Request) -> Response:
        """The report, as the file that opens from disk has it; it names its own scripts by their hashes."""
        place = self.place(request)
        told, live = self._swarm(place), self._live(place) if (place.home / LIVE).exists() else None
        seen = live["findings"] if live else []
        mark = _mark(told) + str([one["words"] for one in seen])
        body = self._once(place, "report", lambda ledger: _report(place, ledger, told, seen), mark)
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', body)
        more = {"content-security-policy": f"{unescape(policy[1])}; frame-ancestors 'none'"} if policy else {}
        return HTMLResponse(body, headers=_FRESH | more)

    # As JSON

    def summary_json(self, request: Request) -> Response:
        """The study at a glance, as `nightlab status --json`."""
        return _json(studies.summary(self.place(request)))

    def live_json(self, request: Request) -> Response:
        """What visitors have said, as `nightlab live results --json`. Raises NotFound where the study has none."""
        place = self.place(request)
        told = self._live(place)
        if told is None:
            raise NotFound(f"study {place.name} has no visitors; nightlab init landing writes a task that has")
        return _json(told)

    def swarm_json(self, request: Request) -> Response:
        """The board of the swarm that the study has joined. Raises NotFound where it has joined none, BadLedger where
        that cannot be read."""
        place = self.place(request)
        told = self._swarm(place)
        if told is None:
            raise NotFound(f"study {place.name} has joined no swarm; join one with: nightlab run --swarm NAME")
        if "error" in told:
            raise BadLedger(told["error"])
        return _json(told)

    def experiments_json(self, request: Request) -> Response:
        """Experiments after a number, as `nightlab log --json`; at most a thousand at a time."""
        place, since = self.place(request), _asked_number(request, "since")
        if not place.ledger.exists():
            place.read()  # says what is missing
        with readings.reading(place.ledger) as db:
            return _json(readings.rows_since(db, -1 if since is None else since))

    def progress_json(self, request: Request) -> Response:
        """The points of the progress chart."""
        return self._chart(self.place(request), chart.progress)

    def frontier_json(self, request: Request) -> Response:
        """The points of the frontier chart."""
        return self._chart(self.place(request), chart.frontier)

    def _chart(self, place: Place, kind: Callable[..., dict[str, Any]]) -> Response:
        body = self._once(place, kind.__name__, lambda ledger: json.dumps(kind(ledger, most=_POINTS)))
        return Response(body, media_type="application/json", headers=_FRESH)

    def _once(self, place: Place, name: str, reckon: Callable[[Ledger], str], asked: str = "") -> str:
        """What takes a while is reckoned once for all pages, until something happens or something else is asked."""
        with self._reckoning, closing(place.read()) as ledger:
            mark = (ledger.last_seq(), place.holder(), asked)
            before, body = self._reckoned.get((place.name, name), (None, ""))
            if before != mark:
                body = reckon(ledger)
                self._reckoned[place.name, name] = (mark, body)
        return body

    # What is new

    async def news(self, request: Request) -> Response:
        """What is new, as it happens."""
        place = await run_in_threadpool(self.place, request)
        said = request.headers.get("last-event-id") or request.query_params.get("since", "")
        since = int(said) if re.fullmatch(r"-?[0-9]{1,18}", said) else None
        watch = self._watches.setdefault(place.name, events.Watch(place.ledger, self._look(place)))
        return EventSourceResponse(
            watch.follow(since), ping=_HEARTBEAT, send_timeout=_SLOW, headers={"X-Nightlab-Boot": self.boot}
        )

    def _look(self, place: Place) -> events.Look:
        """How a watch looks at a study: rows each time, the rest as often as its cost allows."""
        parts: dict[str, str] = {}
        rest = 0.0

        def look(since: int | None) -> events.News:
            nonlocal parts, rest
            seq, found, missed = events.rows(place.ledger, since)
            rows = tuple(events.Row(seq_of, row["id"], self._row(place, row)) for seq_of, row in found)
            if time.monotonic() >= rest or not parts:
                began = time.monotonic()
                parts = self._parts(place)
                rest = time.monotonic() + max(_REST, 4 * (time.monotonic() - began))
            return events.News(seq, rows, parts, missed)

        return look

    def _row(self, place: Place, row: dict[str, Any]) -> str:
        words = self._words.get_template("_row.html").render(base=f"/s/{place.name}", row=row)
        return events.told(id=row["id"], status=row["status"], proposer=row["proposer"], html=words)

    def _parts(self, place: Place) -> dict[str, str]:
        seen = studies.glance(place)
        facts = {"seen": seen, "base": f"/s/{place.name}", "token": ""}
        head, slots = (self._words.get_template(name).render(**facts) for name in ("_head.html", "_slots.html"))
        told = {"state": seen["state"], "words": seen["words"], "said": studies.told_in_words(seen)}
        counts = {name: seen["facts"][name] for name in _COUNTS} if seen["facts"] else {}
        return {
            "summary": events.told(**told, counts=counts, boot=self.boot, html=head),
            "slots": events.told(busy=len(seen["slots"]), html=slots),
        }

    # Wishes

    async def ask(self, request: Request) -> Response:
        """Leave a wish for the lab, by the one table of controls."""
        place, form = await run_in_threadpool(self.place, request), await _form(request)
        token = request.headers.get("x-nightlab-token") or form.get("token", "")
        if not self.access.is_token(token):
            raise HTTPException(403, "this page is older than the server; load it again, then say it once more")
        verb, said = request.path_params["verb"], form.get("number", "").strip()
        number = _number(said) if said else None
        is_running = await run_in_threadpool(control.ask, place, verb, number=number, text=form.get("text") or None)
        if "application/json" in request.headers.get("accept", ""):
            return _json({"asked": verb, "running": is_running})
        when = "the lab takes it up now" if is_running else "the next lab takes it up: nightlab run"
        words = f"{verb}: {when}"
        if _PART in request.headers:
            return HTMLResponse(self._words.get_template("_said.html").render(words=words, is_refused=False))
        back = f"/s/{place.name}/" + ("control" if number is None else f"e/{number}")
        return RedirectResponse(back, 303)

    # Refusals

    def _refused(self, request: Request, error: NightlabError) -> Response:
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), 422)
        return self._said(request, code, str(error))

    def _lost(self, request: Request, error: HTTPException) -> Response:
        words = {404: "there is no such page; begin at the first one", 405: "this address cannot be used like that"}
        return self._said(request, error.status_code, words.get(error.status_code) or error.detail)

    def _said(self, request: Request, code: int, words: str) -> Response:
        if request.url.path.endswith(".json") or "application/json" in request.headers.get("accept", ""):
            return JSONResponse({"error": words}, code, headers=_FRESH)
        template = "_said.html" if _PART in request.headers else "error.html"
        facts = {"words": words, "code": code, "is_refused": True}
        return HTMLResponse(self._words.get_template(template).render(**facts), code, headers=_FRESH)


_PART = "x-nightlab-part"
"""Sent by our own script, which wants the words alone and not a page around them."""
_FRESH = {"cache-control": "no-store"}
_COUNTS = ("experiments", "kept", "discarded", "crashed", "rejected", "running")


def static(request: Request) -> Response:
    """One of our own files, by its name in a fixed list."""
    name = request.path_params["name"]
    if name not in FILES:
        raise HTTPException(404)
    plain, packed, tag = _file(name)
    headers = {"etag": tag, "cache-control": "no-cache", "vary": "accept-encoding"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    is_packed = "gzip" in request.headers.get("accept-encoding", "")
    headers |= {"content-encoding": "gzip"} if is_packed else {}
    return Response(packed if is_packed else plain, media_type=FILES[name], headers=headers)


@cache
def _file(name: str) -> tuple[bytes, bytes, str]:
    """A file as it is, packed once as small as it gets, and its tag."""
    import hashlib

    plain = (STATIC / name).read_bytes()
    return plain, gzip.compress(plain, 9, mtime=0), f'"{hashlib.blake2b(plain, digest_size=8).hexdigest()}"'


def _report(
    place: Place, ledger: Ledger, swarm: Mapping[str, Any] | None, seen: Sequence[Mapping[str, Any]] = ()
) -> str:
    """The report; of a long night by a process of its own, since it reads every patch, and this one is to stay small.

    Raises NotFound before there is anything to report.
    """
    if ledger.first() is None:
        raise NotFound(f"study {place.name} has measured nothing yet, so there is no report; look again in a while")
    if ledger.next_number() < _LONG:
        found = insights.insights(ledger, texts=insights.texts_of(place, ledger))
        found["findings"] = [*seen, *found["findings"]]
        is_running = place.holder() is not None
        return morning.html(ledger, name=place.name, is_running=is_running, insights=found, swarm=swarm)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        _elsewhere(place, "report", "-o", str(file))
        return file.read_text(encoding="utf-8")


def _mark(told: Mapping[str, Any] | None) -> str:
    """What changes when a swarm's board does."""
    return "" if told is None else str(told.get("digest") or told.get("error"))


def _insights(place: Place, ledger: Ledger, query: str) -> str:
    """What works here, as JSON; of a long night by a process of its own."""
    if ledger.next_number() < _LONG:
        return json.dumps(insights.insights(ledger, query, texts=insights.texts_of(place, ledger)))
    return _elsewhere(place, "insights", "--json", "--", query)


def _elsewhere(place: Place, verb: str, *words: str) -> str:
    """What a command of ours prints, in a process of its own, whose memory goes when it ends."""
    command = [sys.executable, "-m", "nightlab", "-C", str(place.root), verb, "--study", place.name, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise StudyStuck(f"nightlab {verb} failed: {done.stderr[-400:] or done.returncode}")
    return done.stdout


def _front(db: Any, sign: float) -> list[dict[str, Any]]:
    """The rows that nobody beats in all four, best metric first; grades beside them, since a front picks lucky runs."""
    seen = {one["id"]: one for one in readings.front(db)}
    points = {
        number: (sign * one["value"], one["complexity"], one["peak_mb"], one["seconds"] or inf)
        for number, one in seen.items()
    }
    front = dominating(points)[-200:]
    rows = [
        row | {name: seen[row["id"]][name] for name in ("complexity", "peak_mb", "seconds")}
        for row in readings.rows_of(db, front)
    ]
    return sorted(rows, key=lambda row: sign * row["value"])


def _filter(request: Request) -> Filter:
    """What an address asks to see. Raises BadTask where it makes no sense."""
    asked = {name: request.query_params.get(name, "")[:_LONGEST_WORD] for name in ("status", "proposer", "q")}
    if asked["status"] and asked["status"] not in {one.value for one in Status}:
        raise BadTask(f"there is no status {asked['status'][:40]!r}; there are: {', '.join(Status)}")
    return Filter(**asked, before=_asked_number(request, "before"), parent=_asked_number(request, "parent"))


def _asked_number(request: Request, name: str) -> int | None:
    """A number in the address. Raises BadTask where it is none."""
    said = request.query_params.get(name, "")
    if not said:
        return None
    if not re.fullmatch(r"-?[0-9]{1,18}", said):
        raise BadTask(f"{name} is the number of an experiment, not {said[:40]!r}")
    return int(said)


def _number(said: str) -> int:
    """The number of an experiment. Raises NotFound where it is none."""
    if not re.fullmatch(r"[0-9]{1,18}", said):
        raise NotFound(f"there is no experiment {said[:40]!r}; their numbers begin at 0")
    return int(said)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form, bounded."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_FORM:
            raise HTTPException(413, f"that is more than {_LONGEST_FORM // 1024} KB; say it in fewer words")
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=20)
    except ValueError as error:
        raise HTTPException(422, "this is not a form; send number, text and token as a form's fields") from error
    return {name: values[-1] for name, values in fields.items()}


def _json(value: object) -> Response:
    return Response(json.dumps(value), media_type="application/json", headers=_FRESH)
