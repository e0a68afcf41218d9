"""The load: simulated visitors who use the real service over HTTP, in batches, as a server-side integration would.

    assign     a thousand units at a time are told what they see
    expose     they have seen it
    event      some of them sign up, a while later

Each visitor comes once, at the simulated moment of the batch.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from nightlab.live.visitors import People, Visitor
from nightlab.values import Clock

BATCH = 1000
_AGAIN = (503, 429)
_PATIENCE = 0.05


@dataclass(slots=True)
class Tally:
    """What a load did: units shown something, outcomes acknowledged, requests sent again."""

    shown: int = 0
    acknowledged: int = 0
    again: int = 0
    arms: Counter[int] = field(default_factory=Counter)


class Line:
    """One connection that is kept open; a request that was not acknowledged is sent again, with the same ids."""

    def __init__(self, url: str, key: str) -> None:
        self._where = urlsplit(url).netloc
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._open: http.client.HTTPConnection | None = None
        self.again = 0

    def post(self, path: str, body: Mapping[str, Any], *, over: threading.Event | None = None) -> dict[str, Any] | None:
        """The answer to a request, however often it takes; None: told to stop before there was one."""
        text = json.dumps(body, separators=(",", ":"))
        while over is None or not over.is_set():
            try:
                self._open = self._open or http.client.HTTPConnection(self._where, timeout=10)
                self._open.request("POST", path, text, self._headers)
                answer = self._open.getresponse()
                said = answer.read()
                if answer.status == 200:
                    found: dict[str, Any] = json.loads(said)
                    return found
                if answer.status not in _AGAIN:
                    raise ValueError(f"{path} was answered with {answer.status}: {said[:200]!r}")
            except (OSError, http.client.HTTPException):
                self.close()
            self.again += 1
            time.sleep(_PATIENCE)
        return None

    def close(self) -> None:
        """Hang up."""
        if self._open is not None:
            self._open.close()
            self._open = None


class Load:
    """Visitors for as long as the block lasts: a number for each simulated day, or as many as there is time for."""

    def __init__(
        self,
        url: str,
        key: str,
        crowd: People,
        *,
        clock: Clock,
        seed: int = 0,
        visitors_a_day: float | None = None,
        outcome: str = "signup",
    ) -> None:
        self._line, self._crowd, self._clock = Line(url, key), crowd, clock
        self._seed, self._a_day, self._outcome = seed, visitors_a_day, outcome
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._come, name="load", daemon=True)
        self.tally = Tally()
        self.trouble: ValueError | None = None

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._line.close()

    def _come(self) -> None:
        began = self._clock()
        while not self._over.is_set():
            days = (self._clock() - began) / 86400
            if self._a_day is not None and self.tally.shown > days * self._a_day:
                self._over.wait(0.01)
                continue
            try:
                visit(self._line, list(self._crowd.come(self._seed, BATCH, first=self.tally.shown)), self)
            except ValueError as error:  # turned away for good: whoever opened the street is told
                self.trouble = error
                return
            self.tally.again = self._line.again

    # What a batch needs to know

    @property
    def over(self) -> threading.Event:
        """Set when no more visitors are to come."""
        return self._over

    def events(self, visitors: Sequence[Visitor], said: Mapping[str, Any], at: float) -> list[dict[str, Any]]:
        """What these visitors do, having seen what they were assigned."""
        found = []
        for one, seen in zip(visitors, said["assignments"], strict=True):
            self.tally.arms[seen["arm"]] += 1
            if self._crowd.signs_up(one, said["copies"][str(seen["arm"])]):
                found.append({"token": seen["token"], "id": "1", "name": self._outcome, "at": at})
        return found

    def moment(self) -> float:
        """Now, for those who come now."""
        return self._clock()


def visit(line: Line, visitors: Sequence[Visitor], load: Load) -> None:
    """One batch, from being assigned to having signed up or not."""
    at = load.moment()
    said = line.post("/v1/assign", {"units": [one.unit for one in visitors]}, over=load.over)
    if said is None:
        return
    seen = [
        {"token": one["token"], "segment": {"audience": visitor.audience}, "at": at}
        for visitor, one in zip(visitors, said["assignments"], strict=True)
    ]
    if line.post("/v1/expose", {"exposures": seen}, over=load.over) is None:
        return
    load.tally.shown += len(visitors)
    events = load.events(visitors, said, at + 1.0)
    if events and line.post("/v1/event", {"events": events}, over=load.over) is not None:
        load.tally.acknowledged += len(events)
