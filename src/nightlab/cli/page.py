"""The page: nightlab web."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from nightlab.cli.base import Json, app, place_of, print_json
from nightlab.words import harmless


@app.command()
def web(
    host: Annotated[
        str, typer.Option(help="Where to listen; any but this machine's own asks for a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0: any free one.")] = 8642,
    private: Annotated[
        bool, typer.Option("--private", help="Ask for the token here too: others have accounts on this machine.")
    ] = False,
    browser: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    as_json: Json = False,
) -> None:
    """The live page: every study of this repository, before, during and after it runs. Ctrl-C ends it."""
    from nightlab.dashboard.page.guard import Access, is_loopback
    from nightlab.dashboard.page.server import listen, server, tunnel, url
    from nightlab.live.reading import of_place
    from nightlab.swarm.reading import Boards

    root, access = place_of("main").root, Access(host, private)
    sock = listen(host, port)
    number = sock.getsockname()[1]
    where = url(host, number, access)
    if as_json:
        print_json({"url": where, "token": access.token, "host": host, "port": number, "pid": os.getpid()})
    else:
        _say(where, tunnel(number) if is_loopback(host) else None, root)
    sys.stdout.flush()
    if browser:
        import webbrowser

        webbrowser.open(where)
    try:
        server(root, access, Boards(), of_place).run(sockets=[sock])
    except KeyboardInterrupt:
        pass  # it has ended already; this is how it says why
    finally:
        sock.close()


def _say(where: str, tunnel: str | None, root: Path) -> None:
    print(f"the page of {harmless(str(root))} is at")
    print(f"  {where}")
    if tunnel:
        print(f"from another machine: {tunnel}   and open the same url there")
    else:
        print("whoever has this url can read and steer; it is not encrypted, so prefer ssh over a network you share")
    print("Ctrl-C ends it; a study that runs goes on")
