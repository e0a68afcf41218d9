"""Flights: the runs that an executor has under way elsewhere, with the futures that wait for them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path

from nightlab.errors import NightlabError, StudyBusy
from nightlab.executor import collect
from nightlab.values import Job, Outcome, Run


class Flights:
    """Which jobs are under way. Each ends once: by its result file, or as a run that was killed or lost, with why."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._flying: dict[Path, tuple[Job, Future[Run], int | None]] = {}
        self._is_closed = False

    def begin(self, job: Job, lock: int | None = None) -> Future[Run]:
        """Note a job, and keep a lock for it until it ends. Raises StudyBusy while its folder belongs to another."""
        future: Future[Run] = Future()
        future.set_running_or_notify_cancel()
        with self._mutex:
            if self._is_closed:
                raise NightlabError("this executor is closed; make a new one")
            if job.folder in self._flying:
                raise busy(job)
            self._flying[job.folder] = job, future, lock
        return future

    def end(self, job: Job, why: str, *, is_killed: bool = False) -> None:
        """Resolve a job's future by the result file, which this attempt alone can have signed; without one it was
        killed or lost, which says nothing about the patch. An engine's own kill may look like a crash of the run."""
        with self._mutex:
            _, future, lock = self._flying.pop(job.folder, (job, None, None))
        if lock is not None:
            os.close(lock)  # before anybody hears of the end, and begins in this folder again
        if future is not None:
            run = collect(job) or Run(job.id, Outcome.KILLED, why, job.folder)
            is_crash = is_killed and run.outcome is Outcome.CRASHED
            future.set_result(replace(run, outcome=Outcome.KILLED, reason=why) if is_crash else run)

    def drop(self, job: Job) -> None:
        """Forget a job that could not be begun."""
        with self._mutex:
            self._flying.pop(job.folder, None)

    def named(self, run_id: str | None = None) -> list[Job]:
        """The jobs under way that have this name, or all."""
        with self._mutex:
            return [job for job, *_ in self._flying.values() if run_id in (job.id, None)]

    def wait(self, job: Job) -> None:
        """Return when nothing is under way in this job's folder."""
        with self._mutex:
            _, future, _ = self._flying.get(job.folder, (job, None, None))
        if future is not None:
            future.result()

    def close(self, patience: float | None = None) -> Iterator[Job]:
        """Let nothing new begin: yields what is under way, to be ended, then waits for it; not longer than this."""
        with self._mutex:
            self._is_closed = True
            flying = list(self._flying.values())
        for job, *_ in flying:
            yield job
        wait([future for _, future, _ in flying], timeout=patience)


def busy(job: Job) -> StudyBusy:
    """A refusal to begin in a folder that is in use."""
    return StudyBusy(f"{job.folder} belongs to a run that has not ended; wait for it with recover()")
