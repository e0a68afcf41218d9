"""What every executor must do when parts of it are lost: subclass LossContract, override what loses them here."""

# ruff: noqa: D102 - the name of a test is its sentence

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nightlab import processes
from nightlab.executor import Executor
from nightlab.testing.executor_contract import PATIENCE, shell_job
from nightlab.values import Job, Limits, Outcome, Run

WITHIN = 2.0
"""Seconds after which nothing of a run may be left."""


class LossContract:
    """No survivors, one accepted result for each attempt, the reason recorded: whatever is lost.

    The runs are found among this machine's processes, so whatever runs them must be on it.
    """

    def lose_worker(self, run: int) -> None:
        """Kill what keeps the server that keeps the shim of this process."""
        kill(worker_of(run))

    def lose_machine(self, run: int) -> None:
        """Kill what the engine calls a node, with whatever it takes with it."""
        raise NotImplementedError

    def test_a_run_whose_worker_was_killed_leaves_nothing_and_says_why(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        run = _lost(executor, tmp_path, self.lose_worker)

        assert run.outcome is Outcome.KILLED
        assert run.reason

    def test_a_run_whose_machine_was_lost_leaves_nothing_and_says_why(self, executor: Executor, tmp_path: Path) -> None:
        run = _lost(executor, tmp_path, self.lose_machine)

        assert run.outcome is Outcome.KILLED
        assert run.reason

    def test_a_run_whose_shim_was_killed_leaves_nothing_and_says_why(self, executor: Executor, tmp_path: Path) -> None:
        run = _lost(executor, tmp_path, lambda run: kill(shim_of(run)))

        assert run.outcome in (Outcome.CRASHED, Outcome.KILLED)
        assert "lost" in run.reason

    def test_a_cancelled_run_leaves_nothing(self, executor: Executor, tmp_path: Path) -> None:
        run = _lost(executor, tmp_path, lambda _: executor.kill("run-1"))

        assert run.outcome is Outcome.KILLED
        assert run.reason

    def test_a_run_over_its_time_leaves_nothing(self, executor: Executor, tmp_path: Path) -> None:
        tag, job = stubborn(tmp_path, limits=Limits(wall=1.0))

        run = executor.submit(job).result(timeout=PATIENCE)
        deadline = time.monotonic() + WITHIN

        assert (run.outcome, run.reason) == (Outcome.TIMEOUT, "ran longer than 1 s")
        assert_gone(tag, deadline)

    def test_what_is_asked_for_again_gives_one_result_its_own(self, executor: Executor, tmp_path: Path) -> None:
        tag, job = stubborn(tmp_path)
        future = executor.submit(job)
        self.lose_worker(wait_for(tag))
        first = future.result(timeout=PATIENCE)

        again = replace(job, token="run-1.1", argv=("sh", "-c", "echo once"))
        second = executor.submit(again).result(timeout=PATIENCE)

        assert (first.outcome, second.outcome, second.log()) == (Outcome.KILLED, Outcome.FINISHED, "once\n")
        assert executor.recover(job) is None
        assert executor.recover(again) == second

    def test_a_second_result_from_an_earlier_attempt_is_refused(self, executor: Executor, tmp_path: Path) -> None:
        tag = _tag()
        job = shell_job(tmp_path, f"sleep 1.{tag}; echo mine")
        future = executor.submit(replace(job, token="run-1.1"))
        wait_for(tag)

        stale = {"token": "run-1.0", "outcome": "finished", "reason": "exit code 0", "exit_code": 0}
        words = json.dumps(stale | {"seconds": 1, "cpu_seconds": 1, "peak_mb": 1})
        (job.folder / "stale").write_text(words)
        (job.folder / "stale").rename(job.folder / "result.json")
        run = future.result(timeout=PATIENCE)

        assert (run.outcome, run.log()) == (Outcome.FINISHED, "mine\n")
        assert executor.recover(job) is None

    def test_a_result_that_was_lost_afterwards_is_not_made_up(self, executor: Executor, tmp_path: Path) -> None:
        job = shell_job(tmp_path, "true")
        executor.submit(job).result(timeout=PATIENCE)

        (job.folder / "result.json").unlink()

        assert executor.recover(job) is None


def _lost(executor: Executor, folder: Path, lose: Callable[[int], None]) -> Run:
    """What becomes of a run that something is taken from; the next one must find a place again."""
    tag, job = stubborn(folder)
    future = executor.submit(job)
    lose(wait_for(tag))
    deadline = time.monotonic() + WITHIN
    assert_gone(tag, deadline)
    run = future.result(timeout=PATIENCE)
    after = executor.submit(shell_job(folder, "echo here", name="run-2")).result(timeout=2 * PATIENCE)
    assert after.log() == "here\n"
    return run


def _tag() -> str:
    return str(random.randrange(10**8, 10**9))


def stubborn(folder: Path, *, limits: Limits = Limits(wall=PATIENCE)) -> tuple[str, Job]:  # noqa: B008 - frozen
    """A run with a grandchild in a session of its own that will not hear of an end; and how to find both."""
    tag = _tag()
    script = f"(trap '' TERM; setsid sleep 3600.{tag}) & trap '' TERM; while :; do sleep 3600.{tag}; done"
    return tag, shell_job(folder, script, limits=limits)


def tagged(tag: str) -> list[int]:
    """The sleeping processes of a run."""
    found = []
    for process in processes.every():
        if (
            f".{tag}\0".encode() in _words(process.pid)
            and b"sleep" in _words(process.pid)[:12]
            and not process.is_zombie
        ):
            found.append(process.pid)
    return found


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def wait_for(tag: str) -> int:
    """One process of a run, once there is one."""
    deadline = time.monotonic() + PATIENCE
    while not (found := tagged(tag)):
        assert time.monotonic() < deadline, "the run did not begin"
        time.sleep(0.01)
    return found[0]


def assert_gone(tag: str, deadline: float) -> None:
    """Nothing of a run is left when the time is over."""
    while left := tagged(tag):
        assert time.monotonic() < deadline, f"still alive: {left}"
        time.sleep(0.01)


def _ancestors(pid: int) -> list[int]:
    found = []
    while (process := processes.look(pid)) is not None and process.parent > 1:
        pid = process.parent
        found.append(pid)
    return found


def server_of(run: int) -> int:
    """The warm server that keeps a run's shim; the shim is its fork, and has its words."""
    return [pid for pid in _ancestors(run) if b"nightlab.shim" in _words(pid)][-1]


def shim_of(run: int) -> int:
    """The shim of a run."""
    return [pid for pid in _ancestors(run) if b"nightlab.shim" in _words(pid)][-2]


def kill(pid: int) -> None:
    """End a process at once."""
    os.kill(pid, signal.SIGKILL)


def worker_of(run: int) -> int:
    """What keeps that server: an engine's worker, or the lab itself."""
    process = processes.look(server_of(run))
    assert process is not None
    return process.parent
