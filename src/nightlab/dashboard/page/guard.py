"""The guard at the page's door: which host, which token, which origin; and what a browser may do with an answer.

Reading on the loopback address asks for nothing but a Host that is this machine's (a rebound DNS name is refused).
Any other address, and `private`, asks every request for the token. Every write asks for the token and for the same
origin, always. Not covered: other accounts of this machine can read a loopback page and take its token, unless
`private` is set; and there is no encryption, so over a network use ssh.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SAFE = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Access:
    """Who may come in: the address that is listened on, the token, and whether also reading asks for it."""

    host: str = "127.0.0.1"
    private: bool = False
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    @property
    def asks_readers(self) -> bool:
        """Whether reading needs the token too."""
        return self.private or not is_loopback(self.host)

    def is_token(self, said: str) -> bool:
        """Whether this is the token; takes as long for a near miss as for a far one."""
        return secrets.compare_digest(said.encode(), self.token.encode())

    def knows(self, host: str) -> bool:
        """Whether a Host header names this machine. On a network any IP address does: the token does the rest."""
        name = _name(host)
        if name in _LOOPBACK:
            return True
        if is_loopback(self.host):
            return False
        return name in _own_names(self.host) or _is_address(name)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


class Guard:
    """The middleware: refuses before anything is read, and writes the same headers on every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in, or say why not."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self.refusal(scope) or self.app
        return await answer(scope, receive, guarded)

    def refusal(self, scope: Scope) -> Response | None:
        """Why a request is not let in, or the cookie it is given first; None where it may pass."""
        headers = Headers(scope=scope)
        if not self.access.knows(headers.get("host", "")):
            return _no(421, "this page answers to the name of its own machine only; open the url that nightlab printed")
        if scope["method"] not in _SAFE and (why := foreign(headers)):
            return _no(403, why)
        if not self.access.asks_readers or self._has_cookie(scope, headers):
            return None
        return self._welcome(scope)

    def _has_cookie(self, scope: Scope, headers: Headers) -> bool:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(_cookie(scope))
        except CookieError:
            return False
        return found is not None and self.access.is_token(found.value)

    def _welcome(self, scope: Scope) -> Response:
        """The token in the url becomes a cookie, once; without it there is nothing to see."""
        asked = parse_qsl(scope["query_string"].decode("latin-1"))
        said = dict(asked).get("token", "")
        if scope["method"] not in _SAFE or not self.access.is_token(said):
            return _no(401, "this page asks for its token; open the whole url that nightlab printed")
        rest = urlencode([(name, value) for name, value in asked if name != "token"])
        # A page that goes on by itself, not a redirect: a browser that came here by a link from elsewhere would not
        # send a strict cookie along with a redirect.
        path = "/" + scope["path"].lstrip("/")
        there = _escaped(f"{path}?{rest}" if rest else path)
        words = f'<!doctype html><meta http-equiv="refresh" content="0;url={there}"><a href="{there}">Go on</a>'
        answer = HTMLResponse(words)
        answer.set_cookie(_cookie(scope), self.access.token, httponly=True, samesite="strict", path="/")
        return answer


def foreign(headers: Headers) -> str | None:
    """Why a write does not come from our own page; None where it does."""
    site, origin, host = headers.get("sec-fetch-site"), headers.get("origin"), headers.get("host", "")
    if site is None and origin is None:
        return "a write has to say where it comes from; send the Origin header of this page"
    if site is not None and site != "same-origin":
        return f"this write comes from another site (Sec-Fetch-Site: {site[:20]}); write from the page itself"
    if origin is not None and (_netloc(origin) or "") != host:
        return "this write comes from another origin; write from the page itself"
    return None


def _netloc(origin: str) -> str | None:
    """The host and port of an origin; None where it is none."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc if parts.scheme in ("http", "https") else None


def _name(host: str) -> str:
    """The name in a Host header, without its port; empty where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _own_names(host: str) -> Iterator[str]:
    name = socket.gethostname().lower()
    yield from (host.lower(), name, name.partition(".")[0], f"{name.partition('.')[0]}.local")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cookie(scope: Scope) -> str:
    """Its name has the port in it: cookies are shared between all ports of a host."""
    server = scope.get("server") or ("", 0)
    return f"nightlab_{server[1]}"


def _escaped(text: str) -> str:
    from html import escape
    from urllib.parse import quote

    return escape(quote(text, safe="/?&=%+"))


def _no(status: int, why: str) -> Response:
    return PlainTextResponse(f"nightlab: {why}\n", status)
