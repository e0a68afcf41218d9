"""The commands of live experiments: serve visitors, and what is shown to them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightlab.cli.base import Json, StudyName, app, place_of, print_json
from nightlab.words import harmless

if TYPE_CHECKING:
    from nightlab.live.privacy import Secret
    from nightlab.place import Place

live_app = typer.Typer(no_args_is_help=True, help="The same loop with real visitors: pages, mails, offers.")
app.add_typer(live_app, name="live")

StoreAt = Annotated[
    str | None, typer.Option("--store", help="A file, or postgresql://…; .nightlab/live.sqlite unless said.")
]
"""Where lab and service meet."""
SecretAt = Annotated[
    Path | None, typer.Option("--secret", help="The file with the service's secret; several servers share one.")
]


def store_at(place: Place, said: str | None) -> str:
    """Where the live store of a study is."""
    from nightlab.live.opening import where

    return said or str(where(place))


def secret_of(place: Place, said: Path | None) -> Secret:
    """The secret that visitors are hashed with, made where there is none."""
    from nightlab.live.privacy import Secret

    return Secret.at(said or place.home / "live.secret")


@live_app.command()
def serve(
    host: Annotated[str, typer.Option(help="Where to listen; behind a proxy that speaks https: this machine.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0: any free one.")] = 8643,
    store: StoreAt = None,
    secret: SecretAt = None,
    origin: Annotated[
        list[str] | None, typer.Option(help="https://… of a site whose pages carry the script tag.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="How many processes share the work.")] = 1,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="Believe the last address in X-Forwarded-For.")
    ] = False,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Serve visitors: assign them, show them their copy, count what they do. Ctrl-C ends it; the lab need not run."""
    from nightlab.dashboard.page.server import listen
    from nightlab.live.service import Setting
    from nightlab.live.serving import serve as run
    from nightlab.task import load

    place = place_of(study)
    live = load(place.root).live
    setting = Setting(
        store_at(place, store),
        secret_of(place, secret),
        layer=place.name,
        page=_page(place),
        origins=frozenset(one.rstrip("/") for one in origin or []),
        hosts=frozenset(live.hosts if live else ()),
        behind_proxy=behind_proxy,
    )
    sock = listen(host, port)
    where = f"http://{f'[{host}]' if ':' in host else host}:{sock.getsockname()[1]}"
    if as_json:
        print_json({"url": where, "key": setting.secret.api_key, "pid": os.getpid()})
    else:
        print(f"serving {harmless(str(place.root))} at {where}/")
        print(f'on a page of yours: <script src="{where}/nl.js" data-consent="yes" async></script>')
        print("a server of yours says: Authorization: Bearer " + setting.secret.api_key)
    sys.stdout.flush()
    try:
        run(setting, sock, workers=workers)
    except KeyboardInterrupt:
        pass  # it has ended already; this is how it says why
    finally:
        sock.close()


def _page(place: Place) -> str | None:
    """The page of the task; None where there is no page, and copy goes out by the API alone."""
    from nightlab.task import load

    task = load(place.root)
    page = place.root / task.task.run
    if task.live is None or task.live.channel != "page" or not page.is_file():
        return None
    return page.read_text()
