"""The server: the page's routes behind its guard, on an address that is this machine's own unless asked otherwise."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware

from nightlab.dashboard.page.guard import Access, Guard
from nightlab.dashboard.page.views import Page, Swarm
from nightlab.errors import BadTask

_PATIENCE = 1  # seconds for answers under way when the server ends


class Server(uvicorn.Server):
    """A server that ends at once: open pages are let go before they are waited for."""

    def __init__(self, config: uvicorn.Config, page: Page) -> None:
        super().__init__(config)
        self.page = page

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the open pages go, then end."""
        self.page.end()
        await super().shutdown(sockets)


def application(page: Page) -> Guard:
    """The page behind its guard, which is the outermost: also what goes wrong goes out by it."""
    app = Starlette(
        routes=page.routes(),
        exception_handlers=page.refusals(),
        middleware=[Middleware(GZipMiddleware, minimum_size=800, compresslevel=6)],
    )
    return Guard(app, page.access)


def server(root: Path, access: Access, swarm: Swarm = lambda _: None, live: Swarm = lambda _: None) -> Server:
    """A server for all studies of a repository; run it with the sockets it is to listen on."""
    page = Page(root, access, swarm, live)
    return Server(
        uvicorn.Config(
            application(page),
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_PATIENCE,
            timeout_keep_alive=30,
            ws="none",
            limit_concurrency=400,
        ),
        page,
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises BadTask where the address cannot be had, saying what to do."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise BadTask(f"there is no address {host!r} to listen on ({error}); write for example 127.0.0.1") from error
    family, kind, protocol, _, address = found[0]
    taken = socket.socket(family, kind, protocol)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(address)
        taken.listen(128)
    except OSError as error:
        taken.close()
        if error.errno == errno.EADDRINUSE:
            raise BadTask(
                f"port {port} on {host} is taken, perhaps by a page that is open already; "
                f"take another with --port {port + 1 if port < 65535 else 8642}, or any free one with --port 0"
            ) from error
        raise BadTask(
            f"cannot listen on {host} port {port} ({error.strerror}); take another --host or --port"
        ) from error
    return taken


def url(host: str, port: int, access: Access) -> str:
    """Where the page is; with the token, where reading asks for it."""
    name = socket.gethostname() if host in ("0.0.0.0", "::", "") else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={access.token}" if access.asks_readers else "")


def tunnel(port: int) -> str:
    """The line that brings a page on this machine's loopback address to another machine."""
    return f"ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}"
