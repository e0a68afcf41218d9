"""The local executor keeps the contract at every level, and outlives the death of any of its parts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil  # type: ignore[import-untyped, unused-ignore]
import pytest
from conftest import LEVELS, need_level

import nightlab.values
from nightlab import sandbox
from nightlab.executor import Executor, LocalExecutor, collect
from nightlab.shim import take_lock
from nightlab.testing import loss_contract as losses
from nightlab.testing.executor_contract import ExecutorContract, shell_job
from nightlab.testing.loss_contract import LossContract
from nightlab.values import Job, Outcome

SOURCE = Path(nightlab.values.__file__).parents[1]
LAB = """
import sys, time
from pathlib import Path
from nightlab.executor import LocalExecutor
from nightlab.testing.executor_contract import shell_job
LocalExecutor(1, sys.argv[1]).submit(shell_job(Path(sys.argv[2]), sys.argv[3]))
print("submitted", flush=True)
time.sleep(60)
"""


class TestLocalExecutorUnjailed(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        executor = LocalExecutor(2, "process")
        yield executor
        executor.close()


class TestLocalExecutorInBubblewrap(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        need_level("bubblewrap")
        executor = LocalExecutor(2, "bubblewrap")
        yield executor
        executor.close()


class LocalLosses(LossContract):
    """Here the lab itself is the worker, and its death ends the study; what can be lost beside it are its helpers."""

    def lose_worker(self, run: int) -> None:
        os.kill(losses.server_of(run), signal.SIGKILL)

    def lose_machine(self, run: int) -> None:
        server, shim = losses.server_of(run), losses.shim_of(run)
        os.kill(server, signal.SIGKILL)
        os.kill(shim, signal.SIGKILL)


class TestLossesUnjailed(LocalLosses):
    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        executor = LocalExecutor(2, "process")
        yield executor
        executor.close()


class TestLossesInBubblewrap(LocalLosses):
    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        need_level("bubblewrap")
        executor = LocalExecutor(2, "bubblewrap")
        yield executor
        executor.close()


@pytest.mark.slow
class TestLocalExecutorInLandlock(ExecutorContract):
    @pytest.fixture(params=["landlock", "landlock-only"])
    def executor(self, request: pytest.FixtureRequest) -> Iterator[Executor]:
        need_level(request.param)
        executor = LocalExecutor(2, request.param)
        yield executor
        executor.close()


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    level = str(request.param)
    need_level(level)
    return level


@pytest.fixture
def executor(level: str) -> Iterator[LocalExecutor]:
    executor = LocalExecutor(1, level)
    yield executor
    executor.close()


def start_lab(level: str, folder: Path, script: str) -> subprocess.Popen[bytes]:
    """A lab in a process of its own, with one job submitted."""
    lab = subprocess.Popen(
        [sys.executable, "-c", LAB, level, str(folder), script],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
    )
    assert lab.stdout is not None
    assert lab.stdout.readline() == b"submitted\n"
    return lab


def kill_lab(lab: subprocess.Popen[bytes]) -> None:
    lab.kill()
    lab.wait()
    assert lab.stdout is not None
    lab.stdout.close()


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs; whoever inherits an orphan may take its time to reap it."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def marked(job: Job) -> list[psutil.Process]:
    """The job's processes, found by their environment."""
    name, value = sandbox.mark(job)
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(name) == value and is_alive(process):
                found.append(process)
        except psutil.Error:
            continue
    return found


def assert_nothing_left(job: Job, *, within: float = 2.0) -> None:
    deadline = time.monotonic() + within
    while left := marked(job):
        assert time.monotonic() < deadline, f"still alive: {left}"
        time.sleep(0.01)


def wait_until_running(job: Job) -> None:
    deadline = time.monotonic() + 10
    while not marked(job):
        assert time.monotonic() < deadline, "the run did not begin"
        time.sleep(0.005)


def server_of(executor: LocalExecutor) -> psutil.Process:
    assert executor._server is not None
    return psutil.Process(executor._server._process.pid)


def shim_of(executor: LocalExecutor) -> psutil.Process:
    return server_of(executor).children()[0]


def test_a_run_that_ends_soon_after_its_lab_was_killed_is_adopted(level: str, tmp_path: Path) -> None:
    job = shell_job(tmp_path, "sleep 0.5; echo 0.25")
    kill_lab(start_lab(level, tmp_path, "sleep 0.5; echo 0.25"))

    executor = LocalExecutor(1, level)
    run = executor.recover(job)

    assert run is not None
    assert (run.outcome, run.log()) == (Outcome.FINISHED, "0.25\n")
    assert_nothing_left(job, within=0.0)


def test_nothing_is_left_two_seconds_after_the_lab_was_killed(level: str, tmp_path: Path) -> None:
    job = shell_job(tmp_path, "sleep 60")
    lab = start_lab(level, tmp_path, "(trap '' TERM; setsid sleep 60) & sleep 60")
    helpers = psutil.Process(lab.pid).children(recursive=True)
    wait_until_running(job)

    kill_lab(lab)
    deadline = time.monotonic() + 2.0

    assert_nothing_left(job, within=2.0)
    while any(map(is_alive, helpers)):
        assert time.monotonic() < deadline, f"still alive: {helpers}"
    assert LocalExecutor(1, level).recover(job) is None
    assert '"the lab was gone"' in (job.folder / "result.json").read_text()


def test_killing_the_shim_takes_the_whole_tree(executor: LocalExecutor, tmp_path: Path) -> None:
    job = shell_job(tmp_path, "setsid sleep 60 & sleep 60")
    future = executor.submit(job)
    wait_until_running(job)

    shim_of(executor).kill()
    run = future.result(timeout=10)

    assert (run.outcome, run.reason) == (Outcome.CRASHED, "the shim was lost")
    assert_nothing_left(job)


def test_a_run_dies_with_its_shim_even_when_nobody_is_there_to_end_it(executor: LocalExecutor, tmp_path: Path) -> None:
    job = shell_job(tmp_path, "exec sleep 60")
    future = executor.submit(job)
    wait_until_running(job)
    server = server_of(executor)
    shim = shim_of(executor)

    server.suspend()
    shim.kill()
    try:
        assert_nothing_left(job)
    finally:
        server.resume()

    assert future.result(timeout=10).outcome is Outcome.CRASHED


def test_killing_the_server_ends_its_runs_and_the_next_job_gets_a_new_one(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    job = shell_job(tmp_path, "setsid sleep 60 & sleep 60")
    future = executor.submit(job)
    wait_until_running(job)

    server_of(executor).kill()
    lost, again = future.result(timeout=10), executor.submit(shell_job(tmp_path, "echo here", name="run-2"))

    assert lost.outcome is Outcome.KILLED
    assert_nothing_left(job)
    assert again.result(timeout=10).log() == "here\n"


def test_what_outlived_shim_and_server_is_found_at_recovery(executor: LocalExecutor, tmp_path: Path) -> None:
    job = shell_job(tmp_path, "setsid sleep 60 & env -i sleep 60 & wait")
    future = executor.submit(job)
    wait_until_running(job)
    time.sleep(0.1)
    shim = shim_of(executor)
    tree = shim.children(recursive=True)

    server_of(executor).suspend()
    shim.kill()
    server_of(executor).kill()

    run = future.result(timeout=10)

    assert (run.outcome, run.reason) == (Outcome.KILLED, "the executor's server was lost")
    assert executor.recover(job) is None
    assert_nothing_left(job, within=0.1)
    deadline = time.monotonic() + 2.0  # the jail's own processes may take a moment longer than the run's
    while left := [process for process in tree if is_alive(process)]:
        assert time.monotonic() < deadline, f"still alive: {left}"
        time.sleep(0.01)


def test_a_link_in_place_of_the_result_is_not_followed(executor: LocalExecutor, tmp_path: Path) -> None:
    job = shell_job(tmp_path, "true")
    executor.submit(job).result(timeout=10)
    result = job.folder / "result.json"
    elsewhere = result.rename(tmp_path / "elsewhere.json")

    result.symlink_to(elsewhere)

    assert collect(job) is None
    assert executor.recover(job) is None


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"token": "run-1.0"}', "\xff", "[" * 9999])
def test_a_broken_result_counts_as_none(tmp_path: Path, text: str) -> None:
    job = shell_job(tmp_path, "true")
    job.folder.mkdir(parents=True)

    (job.folder / "result.json").write_text(text, encoding="latin-1")

    assert collect(job) is None


def test_a_named_pipe_in_place_of_the_result_holds_nobody_up(tmp_path: Path) -> None:
    job = shell_job(tmp_path, "true")
    job.folder.mkdir(parents=True)

    os.mkfifo(job.folder / "result.json")

    assert collect(job) is None


def test_the_lock_is_held_from_submit_on(executor: LocalExecutor, tmp_path: Path) -> None:
    job = shell_job(tmp_path, "sleep 60")

    future = executor.submit(job)
    is_free = take_lock(job.folder) is not None

    executor.kill(job.id)
    assert future.result(timeout=10).outcome is Outcome.KILLED
    assert not is_free


def test_a_job_may_carry_any_words(executor: LocalExecutor, tmp_path: Path) -> None:
    words = 'a b\n"c" é \udcff $HOME'
    job = shell_job(tmp_path / "ä b\udcfe", 'printf %s "$WORDS"')

    run = executor.submit(replace(job, env={"WORDS": words})).result(timeout=10)

    assert (run.folder / "log").read_bytes() == os.fsencode(words)


def test_ctrl_c_in_the_terminal_does_not_reach_a_run(executor: LocalExecutor, tmp_path: Path) -> None:
    job = shell_job(tmp_path, "sleep 0.3; echo unharmed")
    future = executor.submit(job)
    wait_until_running(job)

    for process in (server_of(executor), shim_of(executor)):
        process.send_signal(signal.SIGINT)
        assert process.pid == os.getsid(process.pid)

    assert future.result(timeout=10).log() == "unharmed\n"
