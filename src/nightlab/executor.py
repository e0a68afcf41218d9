"""The executor: submit(job) -> Future[Run]. The local one talks to a warm server that forks a shim per run."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nightlab import processes, sandbox
from nightlab.errors import NightlabError, StudyBusy
from nightlab.shim import LINGER, Order, take_lock
from nightlab.values import Cost, Job, Outcome, Run

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@runtime_checkable
class Executor(Protocol):
    """Where runs happen. A submitted job ends in a Run, whatever becomes of it; no future is left waiting."""

    @property
    def slots(self) -> int:
        """How many runs it is meant to have in flight; slots may come and go."""
        ...

    @property
    def level(self) -> str:
        """The sandbox level its runs live in."""
        ...

    def submit(self, job: Job) -> Future[Run]:
        """Start a job. Raises StudyBusy while its folder belongs to a run that has not ended."""
        ...

    def kill(self, run_id: str) -> None:
        """End a run now: its future yields KILLED. A run that has ended already stays as it is."""
        ...

    def recover(self, job: Job) -> Run | None:
        """What became of a job that an earlier lab submitted: waits while it runs; None when it must be run again.

        None too when it was killed. When this returns, nothing of that attempt is running any more.
        """
        ...

    def close(self) -> None:
        """End what is running and let go of everything."""
        ...


@dataclass(frozen=True, slots=True)
class Share:
    """What of a machine one slot has: cores to itself (none: whichever are free), cards by lasting name and model.

    `count`: so many cores, whichever they are, where somebody else has dealt them.
    """

    cores: tuple[int, ...] = ()
    cards: tuple[tuple[str, str], ...] = ()
    count: int = 0

    @property
    def env(self) -> dict[str, str]:
        """What tells a run which cards are its own, and how many threads are its due."""
        found = {"CUDA_VISIBLE_DEVICES": ",".join(name for name, _ in self.cards)} if self.cards else {}
        return found | (dict.fromkeys(THREADS, str(self.count)) if self.count else {})

    @property
    def machine(self) -> dict[str, Any]:
        """What a run has of the machine, where that is less than all of it."""
        found: dict[str, Any] = {"gpus": [model for _, model in self.cards]} if self.cards else {}
        cores = len(self.cores) or self.count
        return found | ({"cores": cores} if cores else {})


def shares(slots: int, *, exclusive: bool, cores: Sequence[int], cards: Sequence[tuple[str, str]]) -> list[Share]:
    """A machine shared out: cards evenly, in their order; its cores too, where each run has some for itself alone."""
    for what, there in (("cores", cores), ("GPUs", cards)):
        if exclusive and there and slots > len(there):
            raise NightlabError(
                f"runs that are timed by the clock need {what} of their own, and {slots} slots would share "
                f"{len(there)}; say --workers {len(there)} or fewer"
            )
    own = [tuple(cores[n * len(cores) // slots : (n + 1) * len(cores) // slots]) for n in range(slots)]
    return [Share(own[n] if exclusive else (), _dealt(cards, n, slots)) for n in range(slots)]


def _dealt(cards: Sequence[tuple[str, str]], slot: int, slots: int) -> tuple[tuple[str, str], ...]:
    if slots == 1 or not cards:
        return tuple(cards)
    if slots > len(cards):
        return (cards[slot % len(cards)],)
    return tuple(cards[slot * len(cards) // slots : (slot + 1) * len(cards) // slots])


class LocalExecutor:
    """Runs on this machine. Whoever submits counts the slots; only runs that must have a share for themselves wait."""

    def __init__(
        self,
        slots: int = 1,
        level: str | None = None,
        *,
        linger: float = LINGER,
        unsafe: bool = False,
        exclusive: bool = False,
        given: Share | None = None,
    ) -> None:
        """A level is forced; else the strongest that works, and `unsafe` says that this may be none at all.

        `exclusive`: a run has its share of cores and cards for itself while it is going. Not covered: what else this
        machine is doing, the clock rate and the caches that cores have in common. `given` is the one share there is,
        where somebody else has dealt it.
        """
        self._slots, self._forced, self._linger, self._unsafe = slots, level, linger, unsafe
        self._is_exclusive, self._given = exclusive, given
        self._level: str | None = None
        self._server: _Server | None = None
        self._mutex = threading.Lock()
        self._is_closed = False
        cores, cards = sorted(os.sched_getaffinity(0)), sandbox.cards(os.environ.get("CUDA_VISIBLE_DEVICES"))
        self._shares = [given] if given else shares(slots, exclusive=exclusive, cores=cores, cards=cards)
        self._taken = [0] * len(self._shares)
        self._queue: deque[tuple[Job, int, Future[Run]]] = deque()

    @property
    def slots(self) -> int:
        """How many runs it is meant to have in flight."""
        return self._slots

    @property
    def level(self) -> str:
        """The sandbox level its runs live in, found by trying it out once."""
        if self._level is None:
            self._level = sandbox.probe(self._forced, unsafe=self._unsafe)
        return self._level

    def submit(self, job: Job) -> Future[Run]:
        """Start a job in its folder, whose `out/`, log and result of an earlier attempt are cleared away first."""
        self.level  # noqa: B018 - found before anything is written
        job.folder.mkdir(parents=True, exist_ok=True)
        lock = take_lock(job.folder)
        if lock is None:
            raise StudyBusy(f"{job.folder} belongs to a run that has not ended; wait for it with recover()")
        future: Future[Run] = Future()
        future.set_running_or_notify_cancel()
        clear(job.folder)
        with self._mutex:
            self._queue.append((job, lock, future))
        self._start_next(raises=True)
        return future

    def _start_next(self, *, raises: bool = False) -> None:
        """Start what waits, as far as there are shares for it."""
        while (ready := self._next()) is not None:
            number, (job, lock, future) = ready
            try:
                started = self._begin(job, lock, self._shares[number])
            except (NightlabError, OSError) as error:
                self._release(number)
                if raises:
                    raise
                future.set_exception(error)
                continue
            finally:
                os.close(lock)
            started.add_done_callback(partial(self._ended, number, future))

    def _next(self) -> tuple[int, tuple[Job, int, Future[Run]]] | None:
        with self._mutex:
            number = self._taken.index(min(self._taken))
            if not self._queue or (self._is_exclusive and self._taken[number]):
                return None
            self._taken[number] += 1
            return number, self._queue.popleft()

    def _release(self, number: int) -> None:
        with self._mutex:
            self._taken[number] -= 1

    def _ended(self, number: int, future: Future[Run], done: Future[Run]) -> None:
        self._release(number)
        self._start_next()
        future.set_result(done.result())

    def _begin(self, job: Job, lock: int, share: Share) -> Future[Run]:
        job = replace(job, env={**job.env, **share.env})
        if share.machine:
            (job.folder / "machine.json").write_text(json.dumps(share.machine), encoding="utf-8")
        Order(job, self.level, self._linger, share.cores).write()
        return self._start(job, lock)

    def _start(self, job: Job, lock: int) -> Future[Run]:
        with self._mutex:
            if self._is_closed:
                raise NightlabError("this executor is closed; make a new one")
            if self._server is None or not self._server.is_alive:
                self._server = _Server()
            server = self._server
        try:
            return server.start(job, lock)
        except ConnectionError:  # it died between two jobs
            with self._mutex:
                self._server = None if self._server is server else self._server
            return self._start(job, lock)

    def kill(self, run_id: str) -> None:
        """End a run now; its tree is gone within a tenth of a second."""
        self._forget(run_id)
        if self._server is not None:
            self._server.kill(run_id)

    def _forget(self, run_id: str | None = None) -> None:
        """End what waits for a share."""
        with self._mutex:
            gone = [one for one in self._queue if run_id in (one[0].id, None)]
            self._queue = deque(one for one in self._queue if one not in gone)
        for job, lock, future in gone:
            os.close(lock)
            future.set_result(Run(job.id, Outcome.KILLED, "killed before it had begun", job.folder))

    def recover(self, job: Job) -> Run | None:
        """What became of a job that an earlier lab submitted; waits while its shim lives."""
        if not job.folder.is_dir():
            return None
        _wait_for_lock(job.folder)
        run = collect(job)
        if run is not None:
            return None if run.outcome is Outcome.KILLED else run
        end_leftovers(job)
        return None

    def close(self) -> None:
        """End what is running, then the server."""
        with self._mutex:
            self._is_closed = True
            server, self._server = self._server, None
        self._forget()
        if server is not None:
            server.close()


def collect(job: Job) -> Run | None:
    """The run that this very attempt left a result of; None when there is none that can be believed.

    Not covered: at level "process" a run can read its token and forge a result, if it also kills its shim in time.
    """
    try:
        # NOFOLLOW and NONBLOCK: a link or a named pipe in its place must neither lead us away nor hold us up.
        file = os.open(job.folder / "result.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(file, "rb") as stream:
            words: Any = json.loads(stream.read(65536))
        if words["token"] != job.token:
            return None
        cost = Cost(float(words["seconds"]), float(words["cpu_seconds"]), float(words["peak_mb"]))
        code = words["exit_code"]
        outcome, reason = Outcome(words["outcome"]), str(words["reason"])
        return Run(job.id, outcome, reason, job.folder, None if code is None else int(code), cost)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def end_leftovers(job: Job, *, patience: float = 2.0) -> None:
    """Kill what an attempt left running when its shim and server were both killed.

    Found by the mark in its environment or by its session, with everything below. Not covered: a process that left
    both behind and has no such ancestor; in a process namespace there is none, for that dies with its shim.
    """
    deadline = time.monotonic() + patience
    hit: dict[int, processes.Process] = {}  # one that is ending has no environment any more to know it by
    while left := [*_leftovers(job), *filter(_still_there, hit.values())]:
        for process in [*left, *processes.descendants(*(process.pid for process in left))]:
            processes.send(process, signal.SIGKILL)
            hit[process.pid] = process
        if time.monotonic() > deadline:
            numbers = ", ".join(str(process.pid) for process in left)
            raise StudyBusy(
                f"processes {numbers} of the lost run {job.id} cannot be killed; end them, then start again"
            )
        time.sleep(0.005)


def _leftovers(job: Job) -> list[processes.Process]:
    mark = "=".join(sandbox.mark(job))
    leader, start = _session(job.folder)
    now = processes.look(leader)
    # A session keeps its number from being given away while it has members; a leader of another age is a stranger.
    session = leader if now is None or now.start == start else 0
    return [
        process
        for process in processes.every()
        if not process.is_zombie and (processes.is_marked(process.pid, mark) or 0 < session == process.session)
    ]


def _still_there(process: processes.Process) -> bool:
    now = processes.look(process.pid)
    return now is not None and now.start == process.start and not now.is_zombie


def _session(folder: Path) -> tuple[int, int]:
    try:
        leader, start = (folder / "session").read_text(encoding="ascii").split()
        return int(leader), int(start)
    except (OSError, ValueError):
        return 0, 0


def _wait_for_lock(folder: Path) -> None:
    with contextlib.suppress(OSError):  # there is none, or the run put something else in its place
        lock = os.open(folder / "lock", os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        finally:
            os.close(lock)


def clear(folder: Path) -> None:
    """Make `out/` anew, and forget an earlier attempt's result and log."""
    for name in ("out", "home", "tmp", "result.json", "log", "session", "machine.json"):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (folder / "out").mkdir()


class _Server:
    """The lab's end of a warm server: sends jobs, and resolves their futures from its own thread."""

    def __init__(self) -> None:
        # Each message keeps its bounds, and a hang-up on either side is seen on the other.
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-S", "-m", "nightlab.shim", "serve", str(other.fileno())],
                pass_fds=[other.fileno()],
                env=_server_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # no signal of the terminal reaches it
            )
        self._waiting: dict[int, tuple[Job, Future[Run]]] = {}
        self._numbers = itertools.count()
        self._mutex = threading.Lock()
        self._thread = threading.Thread(target=self._listen, name="nightlab-executor", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it takes jobs. Its end of the socket is no witness: shims hold it too, and may outlive it."""
        return self._process.poll() is None

    def start(self, job: Job, lock: int) -> Future[Run]:
        """Have a job run. The lock travels with it, so that at no moment nobody holds it."""
        future: Future[Run] = Future()
        future.set_running_or_notify_cancel()
        with self._mutex:
            if not self.is_alive:
                raise ConnectionResetError
            number = next(self._numbers)
            self._waiting[number] = job, future
            try:
                socket.send_fds(self._socket, [_encoded("run", number, str(job.folder))], [lock])
            except ConnectionError:
                del self._waiting[number]
                raise
        return future

    def kill(self, run_id: str | None = None) -> None:
        """Have a run ended, or every run."""
        with self._mutex:
            numbers = [number for number, (job, _) in self._waiting.items() if run_id in (job.id, None)]
        with contextlib.suppress(OSError):  # the server is gone, and its runs with it
            for number in numbers:
                self._socket.send(_encoded("kill", number))

    def close(self) -> None:
        """End all runs, and the server after them."""
        self.kill()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _listen(self) -> None:
        while message := self._receive():
            _, number = json.loads(message)
            with self._mutex:
                waiting = self._waiting.pop(number, None)
            if waiting is None:
                continue  # its shim had told us, then was killed, and the server told us again
            job, future = waiting
            future.set_result(collect(job) or Run(job.id, Outcome.CRASHED, "the shim was lost", job.folder))
        self._process.wait()
        with self._mutex:
            lost, self._waiting = list(self._waiting.values()), {}
        for job, future in lost:
            future.set_result(_run_of_a_lost_server(job))
        self._socket.close()

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(65536)
        except ConnectionError:
            return b""


def _run_of_a_lost_server(job: Job) -> Run:
    """Its shim has been told of the server's death and ends the run; it may have ended by itself before."""
    _wait_for_lock(job.folder)
    run = collect(job)
    if run is not None and run.outcome is not Outcome.KILLED:
        return run
    end_leftovers(job)
    return Run(job.id, Outcome.KILLED, "the executor's server was lost", job.folder)


def _encoded(*words: str | int) -> bytes:
    return json.dumps(words).encode()


def _server_environment() -> dict[str, str]:
    """Nothing of the caller's but what starting a program takes; a run at level "process" could read it."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"LANG": "C.UTF-8", "PYTHONPATH": str(Path(__file__).parents[1])}
