"""The service: assigns visitors, counts what they are shown and what they do, and never holds a page up.

GET  /                the page with the visitor's copy in it      GET /nl.js        the script tag's script
POST /v1/assign       {token?, consent}                           -> {arm, copy, token}
     with the key     {unit} or {units: [...]}                    -> {assignments: [{arm, token}], copies: {arm: copy}}
POST /v1/expose       {token, segment?, at?, consent} or {exposures: [...]}     -> {token} or {tokens}: it was rendered
POST /v1/event        {token | unit, id, name, value?, at?, consent} or {events: [...]}   -> {accepted}
GET  /l               a link in a mail: counts, and leads on to where the mail's template leads, nowhere else
GET  /unsubscribe     asks once more, since programs open links; POST does it, by one click of a mail program too
GET  /healthz         whether it counts

An answer of 200 means: it is on the disk. 503 means it is not; sending it again with the same id counts it once.
Whoever objects (Global Privacy Control, Do Not Track), has not consented, or is a bot, gets the champion and no token.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from nightlab.errors import NightlabError
from nightlab.live import limits, privacy
from nightlab.live.drawing import Showing
from nightlab.live.grouped import Grouped
from nightlab.live.limits import Limits, Rates
from nightlab.live.links import Links, Recipient
from nightlab.live.privacy import Secret
from nightlab.live.rendering import rendered
from nightlab.live.script import SCRIPT
from nightlab.live.store import WORD, Exposure, Outcome, Store, open_store
from nightlab.live.tokens import Signer, Ticket
from nightlab.values import Clock

REFRESH = 0.2
"""Seconds between looks at the split; a rollback is in effect within a second."""
_REMEMBERED = 200_000
_SKEW = 300.0
_RENDERING = 600.0
_YEAR = 31_536_000
_SEGMENTS = 200
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: https:; "
    "font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"strict-origin-when-cross-origin"),
    (b"cache-control", b"no-store"),
)
_ASKED = '<form method="post">Do you want no more mail from us? <button>No more mail</button></form>'
_KEPT_BUSY = 20_000
"""Events that may wait for the disk; beyond them the service says that it is busy instead of growing."""


class Refused(Exception):
    """A request that is not served; `counted` is the name under which it is counted apart."""

    def __init__(self, status: int, why: str, counted: str = "") -> None:
        super().__init__(why)
        self.status, self.why, self.counted = status, why, counted


@dataclass(frozen=True, slots=True)
class Setting:
    """How a service is set up. `page` is the text of the page with its slots; None: there is only the API."""

    store: str
    secret: Secret
    layer: str = "main"
    page: str | None = None
    origins: frozenset[str] = frozenset()
    limits: Limits = field(default_factory=Limits)
    hosts: frozenset[str] = frozenset()
    """Where links in mails may lead."""
    behind_proxy: bool = False
    """Whether the last address in X-Forwarded-For is to be believed."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is looked at of a request."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    address: str
    is_keyed: bool

    @property
    def cookies(self) -> Mapping[str, str]:
        """The cookies that were sent; none where they cannot be read."""
        try:
            return {name: one.value for name, one in SimpleCookie(self.headers.get("cookie", "")).items()}
        except CookieError:
            return {}


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    body: bytes
    status: int = 200
    type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Service:
    """The ASGI application of one layer."""

    def __init__(self, setting: Setting, *, clock: Clock = time.time) -> None:
        self.setting, self._clock = setting, clock
        self._signer = Signer(setting.secret)
        self._links = Links(setting.secret, hosts=setting.hosts)
        self._rates = Rates(setting.limits)
        self._api_key = setting.secret.api_key
        self._unit_key = setting.secret.derived("unit")
        self._reader: Store = open_store(setting.store, setting.layer)
        self._writer: Store = open_store(setting.store, setting.layer)
        self._finds = Grouped(self._find)
        self._writes = Grouped(self._write)
        self._known: dict[bytes, Exposure] = {}
        self._segments: set[str] = set()
        self._apart: Counter[str] = Counter()
        self._showing: Showing | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._routes = {
            ("GET", "/"): self._page,
            ("GET", "/nl.js"): self._script,
            ("GET", "/healthz"): self._health,
            ("GET", "/l"): self._link,
            ("GET", "/unsubscribe"): self._ask_to_unsubscribe,
            ("POST", "/unsubscribe"): self._unsubscribe,
            ("POST", "/v1/assign"): self._assign,
            ("POST", "/v1/expose"): self._expose,
            ("POST", "/v1/event"): self._event,
        }

    # What the threads do

    def _find(self, units: list[bytes]) -> list[Exposure | None]:
        found = self._reader.assigned(units)
        return [found.get(unit) for unit in units]

    def _write(self, events: list[Exposure | Outcome | str]) -> list[Exposure | None]:
        exposures = [event for event in events if isinstance(event, Exposure)]
        outcomes = [event for event in events if isinstance(event, Outcome)]
        apart = Counter(event for event in events if isinstance(event, str))
        holding = iter(self._writer.record(exposures, outcomes, apart))
        return [next(holding) if isinstance(event, Exposure) else None for event in events]

    async def refresh(self) -> None:
        """See what the lab has changed."""
        try:
            split = await asyncio.to_thread(self._reader.split)
            if split and (self._showing is None or split.version != self._showing.split.version):
                rules = await asyncio.to_thread(self._reader.rules)
                arms = await asyncio.to_thread(self._reader.arms)
                if rules is not None:
                    self._showing = Showing.of(rules, split, {arm.number: arm for arm in arms})
                    self._known.clear()
        except NightlabError:
            return  # the store is away: what was shown is shown on, and nothing is acknowledged
        apart, self._apart = self._apart, Counter()
        if apart:
            try:
                await self._writes.do([reason for reason, n in apart.items() for _ in range(n)])
            except NightlabError:
                self._apart += apart

    async def _keep_fresh(self) -> None:
        parent = os.getppid()
        while True:
            await self.refresh()
            if os.getppid() != parent and parent != 1:  # the one who started us was killed
                os._exit(0)
            await asyncio.sleep(REFRESH)

    # ASGI

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request, or the life of the server."""
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        return None

    async def _live(self, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.refresh()
                self._refreshing = asyncio.create_task(self._keep_fresh())
                await send({"type": "lifespan.startup.complete"})
            else:
                if self._refreshing:
                    self._refreshing.cancel()
                    with suppress(asyncio.CancelledError):
                        await self._refreshing
                await self.refresh()
                await asyncio.to_thread(self.close)
                await send({"type": "lifespan.shutdown.complete"})
                return

    def close(self) -> None:
        """Finish what was asked for and let go of the store."""
        for group in (self._finds, self._writes):
            group.end()
        self._reader.close()
        self._writer.close()

    async def _http(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request = Request(
            scope["method"],
            scope["path"],
            parse_qs(scope["query_string"].decode("latin-1")) if scope["query_string"] else {},
            headers,
            self._address(scope, headers),
            self.setting.secret.is_api_key(headers["authorization"].removeprefix("Bearer "))
            if "authorization" in headers
            else False,
        )
        try:
            answer = await self._answered(request, receive)
        except Refused as refused:
            if refused.counted:
                self._apart[refused.counted] += 1
            answer = _json({"error": refused.why}, refused.status)
        except NightlabError as error:
            answer = _json({"error": f"not counted, send it again: {type(error).__name__}"}, 503)
        await self._send(request, answer, send)

    async def _answered(self, request: Request, receive: Any) -> Answer:
        if request.method == "OPTIONS":
            return Answer(b"", 204)
        route = self._routes.get(("GET" if request.method == "HEAD" else request.method, request.path))
        if route is None:
            raise Refused(404, "there is nothing here")
        if request.method == "POST" and request.path != "/unsubscribe":  # mail programs have no origin of ours
            self._check_origin(request)
        if not request.is_keyed and not self._rates.allow(request.address, time.monotonic()):
            raise Refused(429, "too many requests; wait a second", "flood")
        sent = await self._body(request, receive) if request.method == "POST" else b"{}"
        return await route(request, {} if request.path == "/unsubscribe" else _object(sent))

    async def _send(self, request: Request, answer: Answer, send: Any) -> None:
        origin = request.headers.get("origin", "")
        allowed = origin in self.setting.origins
        headers = [
            (b"content-type", answer.type),
            (b"content-length", str(len(answer.body)).encode()),
            *_HEADERS,
            *answer.headers,
        ]
        if allowed:
            headers += [
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"access-control-allow-headers", b"content-type"),
                (b"vary", b"origin"),
            ]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else answer.body})

    def _address(self, scope: Any, headers: Mapping[str, str]) -> str:
        if self.setting.behind_proxy and (said := headers.get("x-forwarded-for")):
            return said.rpartition(",")[2].strip()
        return scope["client"][0] if scope.get("client") else ""

    def _check_origin(self, request: Request) -> None:
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        if origin is not None:
            if not limits.is_allowed_origin(origin, request.headers.get("host", ""), self.setting.origins):
                raise Refused(403, "this page may not write here; name its origin with --origin", "cross-origin")
        elif site not in (None, "same-origin", "none"):
            raise Refused(403, "this page may not write here; name its origin with --origin", "cross-origin")

    async def _body(self, request: Request, receive: Any) -> bytes:
        most = self.setting.limits.keyed_body if request.is_keyed else self.setting.limits.body
        said = request.headers.get("content-length", "0")
        if not said.isdigit() or int(said) > most:
            raise Refused(413, f"more than {most} bytes", "oversized")
        parts, size = [], 0
        while True:
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise Refused(413, f"more than {most} bytes", "oversized")
            if not message.get("more_body", False):
                return b"".join(parts)

    # Routes

    async def _script(self, request: Request, body: Mapping[str, Any]) -> Answer:
        cached = (b"cache-control", b"public, max-age=300")
        return Answer(SCRIPT.encode(), type=b"text/javascript; charset=utf-8", headers=(cached,))

    async def _health(self, request: Request, body: Mapping[str, Any]) -> Answer:
        showing = self._showing
        if showing is None:
            raise Refused(503, "nothing is deployed yet")
        return _json({"split": showing.split.version, "arms": len(showing.split.weights), "pid": os.getpid()})

    async def _page(self, request: Request, body: Mapping[str, Any]) -> Answer:
        """The page: with the visitor's copy where they may be counted, else with the champion's."""
        if self.setting.page is None:
            raise Refused(404, "there is nothing here")
        showing = self._now()
        arm, token = showing.split.champion, ""
        cookies = request.cookies
        if (preview := self._previewed(request.query.get("preview", [""])[0])) is not None:
            arm = preview
        elif self._may_count(request, cookies.get("nightlab_consent") == "yes"):
            before = self._signer.read(cookies.get("nightlab"))
            unit = before.unit if before else os.urandom(privacy.UNIT_BYTES)
            ticket = (await self._tickets(showing, [unit], [before]))[0]
            arm, token = ticket.arm, self._signer.signed(ticket)
        return self._rendered(showing, arm, token)

    def _rendered(self, showing: Showing, arm: int, token: str) -> Answer:
        assert self.setting.page is not None
        page = rendered(self.setting.page, showing.copy(arm))
        said = f' data-token="{token}" data-consent="yes"' if token else ""
        tag = f'<script src="/nl.js"{said} async></script>'
        begin, end, rest = page.rpartition("</body>")
        whole = begin + tag + end + rest if end else page + tag
        cookie = f"nightlab={token}; Path=/; Max-Age={_YEAR}; HttpOnly; SameSite=Lax".encode()
        headers = ((b"content-security-policy", _CSP.encode()),)
        more = ((b"set-cookie", cookie),) if token else ()
        return Answer(whole.encode(), type=b"text/html; charset=utf-8", headers=(*headers, *more))

    async def _assign(self, request: Request, body: Mapping[str, Any]) -> Answer:
        showing = self._now()
        if request.is_keyed and "units" in body:
            return await self._assign_many(showing, body)
        if (preview := self._previewed(str(body.get("preview", "")))) is not None:
            return _json({"arm": preview, "copy": showing.copy(preview), "token": None})
        if not (request.is_keyed or self._may_count(request, body.get("consent") is True)):
            champion = showing.split.champion
            return _json({"arm": champion, "copy": showing.copy(champion), "token": None})
        before = self._signer.read(body.get("token"))
        if request.is_keyed and "unit" in body:
            unit = self._unit(body["unit"])
        else:
            unit = before.unit if before else os.urandom(privacy.UNIT_BYTES)
        ticket = (await self._tickets(showing, [unit], [before]))[0]
        return _json({"arm": ticket.arm, "copy": showing.copy(ticket.arm), "token": self._signer.signed(ticket)})

    async def _assign_many(self, showing: Showing, body: Mapping[str, Any]) -> Answer:
        names = body["units"]
        if not isinstance(names, list) or len(names) > self.setting.limits.keyed_batch:
            raise Refused(400, f"units is a list of at most {self.setting.limits.keyed_batch}", "malformed")
        tickets = await self._tickets(showing, [self._unit(name) for name in names], [])
        signed = self._signer.signed
        copies = {arm: showing.copy(arm) for arm in {ticket.arm for ticket in tickets}}
        return _json({"assignments": [{"arm": t.arm, "token": signed(t)} for t in tickets], "copies": copies})

    async def _expose(self, request: Request, body: Mapping[str, Any]) -> Answer:
        if not request.is_keyed and not self._may_count(request, body.get("consent") is True):
            return _json({"token": None})
        items = body["exposures"] if isinstance(body.get("exposures"), list) else [body]
        self._check_batch(request, items)
        holding = await self._written([self._exposure(request, item) for item in items])
        signed = [self._signer.signed(_ticket(one)) for one in holding if one is not None]
        return _json({"tokens": signed} if "exposures" in body else {"token": signed[0]})

    async def _event(self, request: Request, body: Mapping[str, Any]) -> Answer:
        if not request.is_keyed and not self._may_count(request, body.get("consent") is True):
            return _json({"accepted": 0})
        events = body["events"] if isinstance(body.get("events"), list) else [body]
        self._check_batch(request, events)
        outcomes = [self._outcome(request, event) for event in events]
        await self._written(outcomes)
        return _json({"accepted": len(outcomes)})

    async def _link(self, request: Request, body: Mapping[str, Any]) -> Answer:
        """A link in a mail. It leads on even where nothing can be written down: nobody is held up for a count."""
        click = self._links.clicked(request.query)
        if click is None:
            raise Refused(403, "this link is not one of ours", "forged")
        if request.method == "GET" and self._may_count(request, True):
            outcome = Outcome(f"{click.unit.hex()}:{click.id}", click.unit, click.name, 0.0, self._clock())
            with suppress(NightlabError, Refused):
                await self._written([outcome])
        return Answer(b"", 302, headers=((b"location", click.to.encode()), (b"referrer-policy", b"no-referrer")))

    async def _ask_to_unsubscribe(self, request: Request, body: Mapping[str, Any]) -> Answer:
        self._recipient(request)
        return _words(_ASKED)

    async def _unsubscribe(self, request: Request, body: Mapping[str, Any]) -> Answer:
        """One click: the address is never written to again. An answer of 200 means: that is on the disk."""
        who = self._recipient(request)
        await asyncio.to_thread(self._writer.suppress, who.address)
        await self._written([Outcome(f"{who.unit.hex()}:unsubscribe", who.unit, "unsubscribe", 0.0, self._clock())])
        return _words("You will get no more mail.")

    # What they are made of

    def _recipient(self, request: Request) -> Recipient:
        found = self._links.recipient(request.query.get("u", [""])[0])
        if found is None:
            raise Refused(403, "this link is not one of ours", "forged")
        return found

    def _now(self) -> Showing:
        if self._showing is None:
            raise Refused(503, "nothing is deployed yet; the page shows what it holds")
        return self._showing

    def _may_count(self, request: Request, consents: bool) -> bool:
        """Whether this visitor is counted: they did not object, they consented, and they are no bot."""
        if privacy.objects(request.headers) or not consents:
            return False
        if privacy.is_bot(request.headers.get("user-agent", "")):
            self._apart["bot"] += 1
            return False
        return True

    def _previewed(self, said: str) -> int | None:
        number = self._signer.previewed(said) if said else None
        return number if self._showing and number in self._showing.arms else None

    async def _tickets(self, showing: Showing, units: Sequence[bytes], before: Sequence[Ticket | None]) -> list[Ticket]:
        """What each unit is shown: what it was shown before while that holds, by its token, our memory or the store."""
        now = self._clock()
        known = self._known
        for ticket in before:
            if ticket is not None and showing.holds(ticket.arm, ticket.holdout):
                return [ticket]
        unknown = [unit for unit in units if unit not in known]
        if unknown:
            if len(known) > _REMEMBERED:
                known.clear()
            for exposure in await self._finds.do(unknown):
                if exposure is not None:
                    known[exposure.unit] = exposure
        return [showing.ticket(unit, known.get(unit), now) for unit in units]

    async def _written(self, events: Sequence[Exposure | Outcome]) -> list[Exposure | None]:
        if self._writes.waiting > _KEPT_BUSY:
            raise Refused(503, "busy; send it again in a second", "busy")
        return await self._writes.do(list(events))

    def _check_batch(self, request: Request, items: list[Any]) -> None:
        most = self.setting.limits.keyed_batch if request.is_keyed else self.setting.limits.batch
        if not 0 < len(items) <= most:
            raise Refused(413, f"1 to {most} at a time", "oversized")

    def _ticket(self, token: object) -> Ticket:
        ticket = self._signer.read(token)
        if ticket is None:
            raise Refused(403, "this token is not one of ours", "forged")
        return ticket

    def _unit(self, name: object) -> bytes:
        if not isinstance(name, str) or not 0 < len(name) <= 200:
            raise Refused(400, "a unit is a text of 1 to 200 letters", "malformed")
        return self.setting.secret.hashed(name)

    def _exposure(self, request: Request, item: Any) -> Exposure:
        if not isinstance(item, dict):
            raise Refused(400, "an exposure is an object", "malformed")
        ticket = self._ticket(item.get("token"))
        at = self._moment(request, item)
        if "at" not in item and at - ticket.at < _RENDERING:  # a click may overtake the word that it was rendered
            at = ticket.at
        return Exposure(ticket.unit, ticket.arm, ticket.split, self._segment(item.get("segment")), ticket.holdout, at)

    def _outcome(self, request: Request, event: Any) -> Outcome:
        if not isinstance(event, dict):
            raise Refused(400, "an event is an object", "malformed")
        keyed = request.is_keyed and "unit" in event
        unit = self._unit(event["unit"]) if keyed else self._ticket(event.get("token")).unit
        key, name, value = event.get("id"), event.get("name"), event.get("value", 0)
        if not (isinstance(key, str) and WORD.fullmatch(key) and isinstance(name, str) and WORD.fullmatch(name)):
            raise Refused(400, "an event needs an id and a name, of letters, digits and _.:-", "malformed")
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
            raise Refused(400, "a value is a finite number", "malformed")
        # An id is the unit's own: nobody can use up another's by guessing it.
        return Outcome(f"{unit.hex()}:{key}", unit, name, float(value), self._moment(request, event))

    def _moment(self, request: Request, event: Mapping[str, Any]) -> float:
        """When it happened: those with the key are believed about the past, a browser is not."""
        now, said = self._clock(), event.get("at")
        if not request.is_keyed or said is None:
            return now
        if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said) or said > now + _SKEW:
            raise Refused(400, "at is a moment in seconds, not in the future", "malformed")
        return float(min(said, now))

    def _segment(self, said: object) -> str:
        """What may be told apart of a visitor; no more of it than there are audiences to tell apart."""
        if isinstance(said, str):
            said = dict(part.split("=", 1) for part in said.split(";") if "=" in part)
        if not isinstance(said, dict) or self._showing is None:
            return ""
        text = self._showing.rules.segment(said)
        if text not in self._segments:
            if len(self._segments) >= _SEGMENTS:
                return ""
            self._segments.add(text)
        return text


def _ticket(exposure: Exposure) -> Ticket:
    return Ticket(exposure.unit, exposure.arm, exposure.split, exposure.holdout, int(exposure.at))


def _object(sent: bytes) -> dict[str, Any]:
    try:
        found = json.loads(sent)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "this is no JSON", "malformed") from error
    if not isinstance(found, dict):
        raise Refused(400, "an object is wanted", "malformed")
    return found


def _words(words: str) -> Answer:
    """A page of one sentence."""
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Mail</title><p>{words}</p></html>'
    headers = ((b"content-security-policy", _CSP.encode()),)
    return Answer(page.encode(), type=b"text/html; charset=utf-8", headers=headers)


def _json(content: Mapping[str, Any], status: int = 200) -> Answer:
    return Answer(json.dumps(content, separators=(",", ":")).encode(), status)
