"""Copying: what is new in a ledger goes to a destination, each row once, also after kill -9."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from nightlab.errors import StudyBusy
from nightlab.exports import write_whole
from nightlab.ledger import Ledger
from nightlab.mirrors.destination import Connect, Destination, Unreachable, connector, key
from nightlab.mirrors.reading import Reader, subject, summary
from nightlab.place import Place

_AT_A_TIME = 50  # MLflow takes 1,000 metrics and 100 tags in a request


def folder_of(place: Place) -> Path:
    """Where the mirrors of a study keep what they remember, and clients what they write."""
    return place.home / "mirrors"


def mirror(place: Place, spec: str, *, is_over: Callable[[], bool], say: Callable[[str], None]) -> int:
    """Send what is new until it is over, and then the summary; returns how many experiments were sent.

    `is_over` waits a little each time. Raises Unreachable where the last try failed, StudyBusy where another sends.
    """
    folder, connect = folder_of(place), connector(spec)
    folder.mkdir(exist_ok=True)
    with _alone(folder / f"{key(spec)}.lock", spec), closing(place.read()) as ledger:
        copying = Copying(ledger, place.name, folder, connect=connect, memory=folder / f"{key(spec)}.json")
        has_failed = False
        while True:
            last = is_over()
            try:
                if last or not has_failed:
                    copying.bring()
                if last:
                    copying.finish()
                    return copying.count
            except Unreachable as error:
                if last:
                    raise
                has_failed = True
                copying.let_go()
                say(f"mirror: {error}; it is tried again at the end")


@contextmanager
def _alone(path: Path, spec: str) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyBusy(f"this study is being mirrored to {spec.partition(':')[0]} already; wait for it") from None
        yield


class Copying:
    """One ledger, one destination, and what is remembered of it.

    The destination is asked what it has wherever it can be. Where it cannot, what a session left that was never closed
    is thrown away, and sent again.
    """

    def __init__(self, ledger: Ledger, name: str, folder: Path, *, connect: Connect, memory: Path) -> None:
        self._ledger, self._name, self._folder = ledger, name, folder
        self._connect, self._memory = connect, memory
        self._reader = Reader(ledger)
        self._destination: Destination | None = None
        self._known: dict[str, Any] = {"sent": 0, "summary": "", "session": ""}
        if memory.exists():
            self._known |= json.loads(memory.read_text())
        self._sent = int(self._known["sent"])
        self.count = 0

    def bring(self) -> None:
        """Send what is new; a destination is opened when there is something for it."""
        if self._destination is None:
            if next(self._reader.rows(self._sent), None) is None:
                return
            self._open()
        assert self._destination is not None
        rows = self._reader.rows(self._sent)
        while some := list(islice(rows, _AT_A_TIME)):
            self._destination.log(some)
            self._sent = some[-1].step + 1
            self.count += len(some)

    def finish(self) -> None:
        """Set the summary where it has changed, see that all has arrived, and remember it."""
        numbers, words = summary(self._ledger, self._name)
        digest = blake2b(repr((numbers, words)).encode(), digest_size=8).hexdigest()
        is_new = digest != self._known["summary"]
        if self._destination is None and is_new:
            self._open()
        if self._destination is not None:
            self._destination.close(numbers if is_new else {}, words if is_new else {})
            self._remember(sent=self._sent, summary=digest, session="")
            self._destination = None

    def let_go(self) -> None:
        """Forget a destination that failed; what it did not take is known when it is opened again."""
        self._destination = None
        self._sent = int(self._known["sent"])

    def _open(self) -> None:
        left = self._known["session"]
        if left and Path(left).is_relative_to(self._folder):
            shutil.rmtree(left, ignore_errors=True)
        self._destination = self._connect(subject(self._ledger, self._name), self._folder)
        self._remember(session=self._destination.session)
        self._sent = self._destination.first_missing(self._sent)

    def _remember(self, **facts: object) -> None:
        self._known |= facts
        write_whole(self._memory, json.dumps(self._known))
