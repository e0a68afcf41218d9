"""Telling others: notifications and mirrors, beside a night or by themselves."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Annotated

import typer

from nightlab.cli.base import Json, StudyName, app, place_of, print_json
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
Mirror = Annotated[
    list[str] | None,
    typer.Option(
        "--mirror", metavar="NAME[:ARG]", help="Show it there too: wandb, mlflow, trackio; may be given again."
    ),
]
Swarm = Annotated[
    str | None, typer.Option("--swarm", metavar="NAME", help="Take part in a swarm that you have joined.")
]
Beside = Callable[["Place", Callable[[str], None]], AbstractContextManager[object]]
"""What stands beside a night: made from the study's place, and from how to say a line."""
_LAST = 90.0  # seconds that a mirror may take after its night was killed


def told(urls: Sequence[str] | None, when: str, mirrors: Sequence[str] | None) -> Beside:
    """Whoever is told of a night. Raises BadTask before it begins where an address or a name is wrong."""
    from nightlab import notify
    from nightlab.mirrors.destination import connector
    from nightlab.mirrors.follower import Follower

    for spec in mirrors or ():
        connector(spec)
    addresses = _addresses(urls)
    notify.check(when)
    carries = notify.carrier(addresses) if addresses else None

    @contextmanager
    def beside(place: Place, say: Callable[[str], None]) -> Iterator[None]:
        with ExitStack() as stack:
            for spec in mirrors or ():
                stack.enter_context(Follower(place, spec, say))
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


@app.command()
def mirror(
    spec: Annotated[str, typer.Argument(metavar="NAME[:ARG]", help="wandb[:PROJECT], mlflow[:URI], trackio[:PROJECT]")],
    follow: Annotated[
        bool, typer.Option("--follow", hidden=True, help="For a night: go on until standard input ends.")
    ] = False,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Send a study to another tracker; what was sent before is not sent again."""
    from nightlab.mirrors.copying import folder_of, mirror

    place, out = place_of(study), sys.stdout
    place.read().close()
    folder_of(place).mkdir(exist_ok=True)
    os.chdir(folder_of(place))  # clients write where they stand: never into the user's own folder
    is_over = _over() if follow else lambda: True
    with redirect_stdout(sys.stderr):  # they print as well
        count = mirror(place, spec, is_over=is_over, say=lambda line: print(line, file=out, flush=True))
    if as_json:
        print_json({"mirror": spec.partition(":")[0], "sent": count})
    elif not follow:
        print(f"{count} experiments sent to {spec.partition(':')[0]}")


def _over() -> Callable[[], bool]:
    """Whether the night that started this process is over; its own end is bound to that."""
    os.nice(10)  # the night's runs come first

    def is_over() -> bool:
        ready, _, _ = select.select([sys.stdin], [], [], 1.0)
        if ready:
            end = threading.Timer(_LAST, os._exit, (1,))
            end.daemon = True
            end.start()
        return bool(ready)

    return is_over
