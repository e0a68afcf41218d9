"""Runs as jobs of a Slurm cluster: one `sbatch` each, whose batch script is a worker that runs the shim.

    python -m nightlab.executors.slurm FOLDER    the worker: one job, described in FOLDER/job.json

Slurm's own commands, no submitit: that waits for a pickled return value, and a run's outcome is read from its result
file alone. All machines see the study's folder under one path, as clusters with Slurm do. A job is known by its name,
which tells the attempt, so a lab that was killed finds again what it left in the queue.
"""

from __future__ import annotations

import contextlib
import getpass
import math
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

from nightlab import processes, sandbox
from nightlab.errors import NightlabError, StudyStuck
from nightlab.executor import LocalExecutor, clear, collect
from nightlab.executors.berth import LINGER, dealt
from nightlab.executors.flights import Flights, busy
from nightlab.shim import Order, take_lock
from nightlab.values import Job, Run

_TICK = 0.05
_ASKING = 0.5
"""Seconds between questions to Slurm; each is a process and a call to the one controller that all share."""
_PATIENCE = 5.0
"""Seconds a result file may take to be seen here after Slurm has said that its job is over."""
_GRACE = 5.0
"""Seconds a worker has to end its run before Slurm is asked to."""
_LEASE = 120.0
"""Seconds after which a network file system has taken back the locks of a machine that is gone (NFS 4: 90)."""
_ALIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "STAGE_OUT", "SIGNALING")
_TROUBLE = "trouble"
"""The file in a run's folder in which a worker says why it could not begin."""


class SlurmExecutor:
    """Runs in the queue of a Slurm cluster. What finds no room waits there.

    Not covered: a cluster whose machines do not share the study's folder, or whose file system has no locks. Every run
    waits for Slurm's scheduler, a second or so, which tells where runs take seconds.
    """

    def __init__(
        self,
        slots: int = 1,
        level: str | None = None,
        *,
        unsafe: bool = False,
        partition: str | None = None,
        cores: int = 1,
        gpus: int = 0,
    ) -> None:
        """As many jobs at a time as there are slots, each with so many cores and whole GPUs, in a partition."""
        if shutil.which("sbatch") is None:
            raise NightlabError("there is no sbatch here; run this where Slurm's commands are: on a login machine")
        self.slots = slots
        self._asked = ["--cpus-per-task", str(cores), *(["--partition", partition] if partition else [])]
        self._asked += ["--gres", f"gpu:{gpus}"] if gpus else []
        self._local = LocalExecutor(slots, level, unsafe=unsafe)
        self._flights, self._mutex = Flights(), threading.Lock()
        self._killed: dict[str, float] = {}
        self._thread: threading.Thread | None = None

    @property
    def level(self) -> str:
        """The sandbox level that works here; a machine where it does not is refused, never lowered."""
        return self._local.level

    def submit(self, job: Job) -> Future[Run]:
        """Queue a job."""
        level = self.level
        job.folder.mkdir(parents=True, exist_ok=True)
        future = self._flights.begin(job)
        try:
            lock = _lock(job)
            clear(job.folder)
            (job.folder / _TROUBLE).unlink(missing_ok=True)
            Order(job, level).write()
            os.close(lock)  # the shim takes it for itself, wherever it runs
            self._queue(job)
        except (NightlabError, OSError):
            self._flights.drop(job)
            raise
        with self._mutex:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, name="nightlab-slurm", daemon=True)
                self._thread.start()
        return future

    def _queue(self, job: Job) -> None:
        words = ["env", f"PYTHONPATH={Path(__file__).parents[2]}", sys.executable, "-P", "-m"]
        script = f"#!/bin/sh\nexec {shlex.join([*words, 'nightlab.executors.slurm', str(job.folder)])}\n"
        asked = [
            "sbatch",
            "--job-name",
            _name(job),
            "--no-requeue",
            "--output=/dev/null",
            "--export=PATH",
            *self._asked,
        ]
        asked += ["--chdir=/"]
        if job.limits.wall is not None:
            asked += ["--time", str(math.ceil(job.limits.wall / 60) + 2)]
        done = subprocess.run(asked, input=script, capture_output=True, text=True, check=False, env=_environment())
        if done.returncode:
            raise StudyStuck(f"sbatch refused a run: {done.stderr.strip() or done.returncode}")

    def _watch(self) -> None:
        """Look at result files often, and ask Slurm now and then about jobs that have none."""
        asked, missing = time.monotonic(), dict[str, float]()
        while flying := self._flights.named():
            for job in flying:
                if collect(job) is not None:
                    self._end(job, "")
                elif trouble := _trouble(job):
                    self._end(job, trouble)
            if time.monotonic() - asked > _ASKING:
                asked = time.monotonic()
                self._ask(missing)
            time.sleep(_TICK)

    def _ask(self, missing: dict[str, float]) -> None:
        """End the jobs that Slurm has ended without a result. One that is not seen is given a moment: the controller
        may not know it yet, and a file system may show a file late."""
        flying = self._flights.named()
        states = _states()
        if states is None:
            return  # the controller cannot be reached: nothing is known, and nothing is made up
        for job in flying:
            name, now = _name(job), time.monotonic()
            state = states.get(name, "unknown to it")
            if state in _ALIVE:
                missing.pop(name, None)
                if name in self._killed:  # it may have been between the two states that can be told to end
                    _slurm("scancel", "--name", name) if now > self._killed[name] else _end(name)
            elif now - missing.setdefault(name, now) > (0 if name in self._killed else _PATIENCE):
                self._end(job, f"Slurm lost it: its job is {state}, and left no result")

    def _end(self, job: Job, words: str) -> None:
        was_killed = self._killed.pop(_name(job), None) is not None
        self._flights.end(job, "ended on request" if was_killed else words, is_killed=was_killed)

    def kill(self, run_id: str) -> None:
        """End a run now, queued or going."""
        for job in self._flights.named(run_id):
            self._kill(job)

    def _kill(self, job: Job) -> None:
        name = _name(job)
        self._killed[name] = time.monotonic() + _GRACE
        _end(name)

    def recover(self, job: Job) -> Run | None:
        """What became of a job that an earlier lab queued; waits while Slurm holds it."""
        self._flights.wait(job)
        while collect(job) is None and (_states() or {}).get(_name(job), "") in _ALIVE:
            time.sleep(_ASKING)
        return self._local.recover(job)

    def close(self) -> None:
        """End what is queued and what runs."""
        for job in self._flights.close():
            self._kill(job)
        self._local.close()


def _trouble(job: Job) -> str:
    """What a worker says of why there will be no result."""
    try:
        return (job.folder / _TROUBLE).read_text(encoding="utf-8")[:500]
    except FileNotFoundError:
        return ""


def _lock(job: Job) -> int:
    """The folder's lock. A machine that was lost with a run may hold it until the file system gives it up for lost."""
    deadline = time.monotonic() + _LEASE
    while (lock := take_lock(job.folder)) is None:
        if time.monotonic() > deadline:
            raise busy(job)
        time.sleep(_ASKING)
    return lock


def _name(job: Job) -> str:
    return f"nightlab-{sandbox.mark(job)[1]}"


def _end(name: str) -> None:
    """Take a job from the queue, or tell its worker, and it alone, to end its run."""
    _slurm("scancel", "--name", name, "--state=PENDING")
    _slurm("scancel", "--name", name, "--state=RUNNING", "--batch", "--signal=TERM")


def _states() -> dict[str, str] | None:
    """The state of each of this user's jobs, by name; None where Slurm does not answer."""
    done = _slurm("squeue", "--noheader", "--states=all", "--user", getpass.getuser(), "--format=%j|%T")
    if done.returncode:
        return None
    return dict(line.split("|", 1) for line in done.stdout.splitlines() if "|" in line)


def _slurm(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, env=_environment())


def _environment() -> Mapping[str, str]:
    """Nothing of the caller's but what Slurm's commands need: a job must not inherit what sbatch was told."""
    return {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "USER", "SLURM_CONF")}


def work(folder: Path) -> int:
    """The worker: run the job of this folder on this machine; TERM ends it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # waited for below; the shim hears its own
    processes.die_with(os.getppid(), signal.SIGTERM)  # Slurm's own keeper of this job: without it nobody would end us
    order = Order.read(folder)
    if trouble := sandbox.why_not(order.level):
        (folder / _TROUBLE).write_text(f"{platform.node()} has no jail {order.level}: {trouble}", encoding="utf-8")
        return 1
    executor = LocalExecutor(
        1, order.level, linger=LINGER, given=dealt(int(os.environ.get("SLURM_CPUS_PER_TASK", "1")))
    )
    with contextlib.closing(executor):
        future = executor.submit(order.job)
        while not future.done():
            if signal.sigtimedwait([signal.SIGTERM], 0.05) is not None:
                executor.kill(order.job.id)
        if collect(order.job) is None:
            (folder / _TROUBLE).write_text(f"lost on {platform.node()}: {future.result().reason}", encoding="utf-8")
        return 0


if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1])))
