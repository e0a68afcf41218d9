"""A destination: whoever keeps runs, and the three we know. A study's run is found again by the study's identity."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from nightlab.errors import BadTask, NightlabError
from nightlab.mirrors.reading import Row, Subject
from nightlab.words import one_line

_WHERE = {
    "wandb": ("BASE_URL", "ENTITY", "PROJECT", "MODE"),
    "mlflow": ("TRACKING_URI", "EXPERIMENT_NAME"),
    "trackio": ("DIR", "SPACE_ID", "SERVER_URL"),
}
"""The three that we know, and which of their environment variables say where a run goes."""


class Unreachable(NightlabError):
    """A tracker did not answer, or refused; what was not sent is sent another time."""


class Destination(Protocol):
    """One run at a tracker. Every method raises Unreachable."""

    session: str
    """A folder that holds what this session sends until it is closed, and is worth nothing before; else empty."""

    def first_missing(self, remembered: int) -> int:
        """The first experiment that it does not have; `remembered` is what we know ourselves."""
        ...

    def log(self, rows: Sequence[Row]) -> None:
        """Take these rows, in rising order; never very many."""
        ...

    def close(self, numbers: dict[str, float], words: dict[str, str]) -> None:
        """Set the summary, unless it is empty, and see that all has arrived."""
        ...


Connect = Callable[[Subject, Path], Destination]


def connector(spec: str) -> Connect:
    """NAME or NAME:ARGUMENT -> what opens a run there. Raises BadTask where it is not known or not installed.

    The client is not imported before it is used: one takes three seconds.
    """
    name, _, argument = spec.partition(":")
    if name not in _WHERE:
        raise BadTask(f"there is no mirror {name!r}; write one of: {', '.join(_WHERE)}")
    found = find_spec(name)
    if found is None or found.origin is None:  # a mere folder of that name, as W&B leaves behind, is no client
        raise BadTask(f'the mirror {name} needs its client: pip install "nightlab[{name}]"')

    def connect(subject: Subject, folder: Path) -> Destination:
        opened: Destination = import_module(f"nightlab.mirrors.{name}").connect(argument, subject, folder)
        return opened

    return connect


def key(spec: str) -> str:
    """A name for the memory of what was sent to one place: other words, or another environment, are another place."""
    name = spec.partition(":")[0]
    said = [os.environ.get(f"{name.upper()}_{one}", "") for one in _WHERE[name]]
    return f"{name}-{blake2b(repr((spec, said)).encode(), digest_size=4).hexdigest()}"


@contextmanager
def reaching(name: str, *errors: type[Exception]) -> Iterator[None]:
    """What a client calls its troubles becomes Unreachable, in one line without control characters."""
    try:
        yield
    except errors as error:
        raise Unreachable(f"{name} did not take it: {one_line(str(error)) or type(error).__name__}") from error
