"""Fakes that run: slots without processes, for tests and benchmarks of everything above them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from heapq import heapify, heappop, heappush
from itertools import count
from pathlib import Path
from random import Random

from nightlab.runner import Attempt, Finding
from nightlab.values import Cost, Files, Measurement, Outcome, Run
from nightlab.workspace import Repository, Tree

Score = Callable[[Attempt, Files], float | str]
"""What a run of these texts comes to: a value, or the words of a failure."""


def noise(attempt: Attempt, texts: Files, *, sigma: float = 0.01) -> float:
    """One, and noise from the seed: no change is worth anything."""
    return 1.0 + Random(attempt.seed).gauss(0.0, sigma)


class InstantSlots:
    """Slots whose runs end at once: `score` says what each comes to; every attempt is remembered.

    It is told the changed texts alone, or with a repository at hand all texts of the tree.
    """

    def __init__(self, score: Score = noise, *, slots: int = 1, repository: Repository | None = None) -> None:
        self._score, self.count, self._repository = score, slots, repository
        self.attempts: list[Attempt] = []

    def start(self, attempt: Attempt, tree: Tree, texts: Files) -> Future[Finding]:
        """A finding at once."""
        self.attempts.append(attempt)
        if self._repository is not None:
            texts = {path: self._repository.text(tree, path) for path in tree.entries if path not in texts} | dict(
                texts
            )
        found, cost = self._score(attempt, texts), Cost(0.001, 0.001, 1.0)
        future: Future[Finding] = Future()
        if isinstance(found, str):
            run = Run(attempt.run, Outcome.CRASHED, found, Path(), 1, cost)
            future.set_result(Finding(attempt, run, tail=found))
        else:
            run = Run(attempt.run, Outcome.FINISHED, "exit code 0", Path(), 0, cost)
            future.set_result(Finding(attempt, run, Measurement(found), Measurement(found)))
        return future

    adopt = start

    def set_baseline(self, costs: list[Cost]) -> None:
        """Nothing to limit."""

    def examples(self, run: str) -> None:
        """There are none."""

    def clear(self, run: str, *, keep_examples: bool = False) -> None:
        """Nothing was made."""

    def kill(self, run: str | None = None) -> None:
        """Nothing runs."""


class TimedSlots(InstantSlots):
    """Slots whose runs take `seconds`, asleep: a cluster of any size on one machine. What is killed ends at once."""

    def __init__(self, score: Score = noise, *, slots: int, seconds: float) -> None:
        super().__init__(score, slots=slots)
        self._seconds, self._order = seconds, count()
        self._due: list[tuple[float, int, str, Future[Finding], Finding]] = []
        self._changed = threading.Condition()
        self.busy = 0.0
        """Seconds for which slots were busy, over all runs that have ended."""
        threading.Thread(target=self._end_in_time, name="timed-slots", daemon=True).start()

    def start(self, attempt: Attempt, tree: Tree, texts: Files) -> Future[Finding]:
        """A finding after a while."""
        finding, future = super().start(attempt, tree, texts).result(), Future[Finding]()
        with self._changed:
            heappush(self._due, (time.monotonic() + self._seconds, next(self._order), attempt.run, future, finding))
            self._changed.notify()
        return future

    adopt = start

    def kill(self, run: str | None = None) -> None:
        """End one run now, or every one."""
        with self._changed:
            gone = [one for one in self._due if run in (None, one[2])]
            self._due = [one for one in self._due if run not in (None, one[2])]
            heapify(self._due)
        for due, _, _, future, finding in gone:
            self.busy += self._seconds - (due - time.monotonic())
            killed = replace(finding.run, outcome=Outcome.KILLED, reason="killed")
            future.set_result(replace(finding, run=killed, measurement=None, sealed=None))

    def _end_in_time(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                while not self._due or self._due[0][0] > now:
                    self._changed.wait(self._due[0][0] - now if self._due else None)
                    now = time.monotonic()
                _, _, _, future, finding = heappop(self._due)
            self.busy += self._seconds
            future.set_result(finding)
