"""Telling others: notifications and mirrors, beside a night or by themselves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from nightlab.cli.base import Json, app, print_json
from nightlab.errors import BadTask, NightlabError

if TYPE_CHECKING:
    from nightlab.place import Place

Notify = Annotated[
    list[str] | None,
    typer.Option("--notify", metavar="URL", help="Send the result there (apprise); may be given again."),
]
NotifyWhen = Annotated[
    str, typer.Option("--notify-when", metavar="WHEN", help="at-once (each keep), hourly, daily, end or off.")
]
Beside = Callable[["Place", Callable[[str], None]], AbstractContextManager[object]]
"""What stands beside a night: made from the study's place, and from how to say a line."""


def told(urls: Sequence[str] | None, when: str) -> Beside:
    """Whoever is told of a night. Raises BadTask before it begins where an address or a word is wrong."""
    from nightlab import notify

    addresses = _addresses(urls)
    notify.check(when)
    carries = notify.carrier(addresses) if addresses else None

    @contextmanager
    def beside(place: Place, say: Callable[[str], None]) -> Iterator[None]:
        with ExitStack() as stack:
            if carries is not None:
                stack.enter_context(notify.Notices(place, carries, when=when, say=say))
            yield

    return beside


def _addresses(urls: Sequence[str] | None) -> list[str]:
    """What was asked for, and what stands in NIGHTLAB_NOTIFY, where other users' `ps` does not show it."""
    return [*(urls or ()), *os.environ.get("NIGHTLAB_NOTIFY", "").split()]


@app.command()
def notify(
    urls: Annotated[list[str] | None, typer.Argument(metavar="[URL]...", help="Else: NIGHTLAB_NOTIFY.")] = None,
    as_json: Json = False,
) -> None:
    """Send a word to an address now, to see whether it arrives."""
    from nightlab.notify import Message, carrier, masked, send

    addresses = _addresses(urls)
    if not addresses:
        raise BadTask("no address; write one, or set NIGHTLAB_NOTIFY: nightlab notify ntfy://TOPIC")
    carries, names = carrier(addresses), [masked(url) for url in addresses]
    if not send(carries, Message("nightlab: a test", ("This is a test; the result of a night will arrive here.",))):
        raise NightlabError(f"not every address took the message ({', '.join(names)}); see that each is right")
    print_json({"sent": True, "addresses": names}) if as_json else print(f"sent to {', '.join(names)}")
