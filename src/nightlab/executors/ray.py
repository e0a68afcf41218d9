"""Runs on a Ray cluster: each in a berth on one of its machines, which is sent what it has not seen.

    lab ---- words on a socket ---- ferry (Ray's driver) ---- berths (actors), each a warm server, a shim, a jail

The ferry is a process of its own: Ray ends its driver when it loses its head, and the lab must not end with it. Lost
ferry, lost berth, lost machine: what ran there counts as killed, and whoever asked for it asks again; Ray itself is
told to repeat nothing. What a run came to is read from the result file its shim wrote, never from what Ray returns.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from typing import Any

from nightlab.errors import NightlabError, StudyStuck
from nightlab.executor import clear, collect
from nightlab.executors.flights import Flights, busy
from nightlab.shim import Order, take_lock
from nightlab.values import Job, Outcome, Run

PATIENCE = 120.0
"""Seconds a cluster may take to give its first slot."""
_ENDING = 12.0
"""Seconds that runs have to be ended one by one at the close, before the way to all of them is cut."""
_CALLING = 3.0
"""Seconds between two calls to a cluster that is away."""
_GIVE_UP = 600.0
"""Seconds it may be away before the study stops, and says so."""


class RayExecutor:
    """Runs on a Ray cluster. Its slots are the berths that the cluster has given so far; they come and go with it.

    Not covered: data that the task names ([task] data) is not sent, and must lie at the same path on every machine; so
    must the interpreter. What a run leaves is brought back whole through the memory of two machines.
    """

    def __init__(
        self,
        slots: int = 1,
        level: str | None = None,
        *,
        unsafe: bool = False,
        address: str | None = None,
        cores: int = 1,
        gpus: int | None = None,
    ) -> None:
        """A cluster of this machine's own is started where no address is given. Each slot has so many cores and whole
        GPUs; where the cluster has any GPU, one each unless said."""
        self._wanted: dict[str, Any] = {"slots": slots, "level": level, "unsafe": unsafe, "address": address}
        self._wanted |= {"cores": cores, "gpus": gpus}
        self._flights, self._mutex = Flights(), threading.Lock()
        self._ferry: _Ferry | None = None
        self._level: str | None = None
        self._called, self._seen = -math.inf, 0.0
        self.is_closed = False

    @property
    def slots(self) -> int:
        """How many berths the cluster gives now; none while it is away, and it is called again. Raises StudyStuck when
        it has been away for long."""
        assert self.level  # at first it is waited for
        ferry = self._alive()
        count = ferry.slots if ferry else 0
        self._seen = time.monotonic() if count else self._seen
        if time.monotonic() - self._seen > _GIVE_UP:
            raise StudyStuck(f"the Ray cluster gave no slot for {_GIVE_UP:g} s; look at ray status, then: nightlab run")
        return count

    @property
    def level(self) -> str:
        """The sandbox level of every berth, found by trying it out on the first one."""
        if self._level is None:
            ferry = self._alive()
            if ferry is None:
                raise NightlabError("this executor is closed; make a new one")
            self._level = ferry.level
            self._wanted["level"] = self._level  # a later cluster gives no other
            self._seen = time.monotonic()
        return self._level

    def submit(self, job: Job) -> Future[Run]:
        """Send a job on its way; it waits where every berth is taken."""
        level = self.level
        job.folder.mkdir(parents=True, exist_ok=True)
        lock = take_lock(job.folder)
        if lock is None:
            raise busy(job)
        try:
            future = self._flights.begin(job, lock)
        except NightlabError:
            os.close(lock)
            raise
        clear(job.folder)
        Order(job, level).write()
        ferry = self._alive()
        if ferry is None or not ferry.send("run", job):
            self._flights.end(job, "the way to the cluster was lost")
        return future

    def kill(self, run_id: str) -> None:
        """End a run now, wherever it is."""
        for job in self._flights.named(run_id):
            self._kill(job)

    def _kill(self, job: Job) -> None:
        if self._ferry is not None:
            self._ferry.send("kill", job)

    def recover(self, job: Job) -> Run | None:
        """What became of a job. One whose lab is gone has ended: Ray ends the berths of a driver that left."""
        self._flights.wait(job)
        run = collect(job)
        return None if run is None or run.outcome is Outcome.KILLED else run

    def close(self) -> None:
        """End what runs, give the berths back, end a cluster of our own."""
        self.is_closed = True
        for job in self._flights.close(patience=_ENDING):
            self._kill(job)
        with self._mutex:
            ferry, self._ferry = self._ferry, None
        if ferry is not None:
            ferry.close()

    def _alive(self) -> _Ferry | None:
        """The way to the cluster; a new one where it was lost."""
        with self._mutex:
            is_lost = self._ferry is None or not self._ferry.is_alive
            if is_lost and not self.is_closed and time.monotonic() - self._called > _CALLING:
                self._called = time.monotonic()
                self._ferry = _Ferry(self._wanted, self._flights)
            return self._ferry


class _Ferry:
    """The lab's end of the ferry."""

    def __init__(self, wanted: dict[str, Any], flights: Flights) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "nightlab.executors.ferry", str(other.fileno()), json.dumps(wanted)],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # no signal of the terminal reaches it
            )
        self._flights, self._numbers, self._mutex = flights, itertools.count(), threading.Lock()
        self._sent: dict[int, Job] = {}
        self._facts: dict[str, Any] = {"slots": 0, "level": None}
        self._met, self._said = threading.Event(), ""
        threading.Thread(target=self._listen, name="nightlab-ray", daemon=True).start()
        self._errors = threading.Thread(target=self._overhear, name="nightlab-ray-errors", daemon=True)
        self._errors.start()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def slots(self) -> int:
        return int(self._facts["slots"])

    @property
    def level(self) -> str:
        self._meet()
        return str(self._facts["level"])

    def _meet(self) -> None:
        if not self._met.wait(PATIENCE):
            raise NightlabError(f"the Ray cluster gave no slot in {PATIENCE:g} s; look at: ray status")
        if self._facts["level"] is None:
            raise NightlabError(f"no slot on the Ray cluster: {self._said or 'the ferry was lost'}")

    def send(self, verb: str, job: Job) -> bool:
        """Whether it could be said."""
        with self._mutex:
            if verb == "run":
                number = next(self._numbers)
                self._sent[number] = job
            else:
                number = next((number for number, one in self._sent.items() if one is job), -1)
            try:
                self._socket.send(json.dumps([verb, number, str(job.folder)]).encode())
            except OSError:
                self._sent.pop(number, None)
                return False
        return True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        try:
            self._process.wait(_CALLING)
        except subprocess.TimeoutExpired:  # without its head Ray may never let go
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        while message := self._receive():
            match json.loads(message):
                case ["slots", count, level]:
                    self._facts = {"slots": count, "level": level}
                    self._met.set()
                case ["trouble", words]:
                    self._said = words
                case ["ended", number, words]:
                    self._end(number, words)
        self._process.wait()
        self._facts = {**self._facts, "slots": 0}
        self._met.set()
        for number in list(self._sent):
            self._end(number, "the way to the cluster was lost")
        self._socket.close()

    def _end(self, number: int, words: str) -> None:
        with self._mutex:
            job = self._sent.pop(number, None)
        if job is not None:
            self._flights.end(job, words)

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(65536)
        except OSError:
            return b""

    def _overhear(self) -> None:
        """What the ferry complains of last is the best word there is on why it went."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if line.strip():
                self._said = line.decode("utf-8", "replace").strip()[:500]
