"""The matrix: whatever a run does, it ends, its limits hold, and nothing of it is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import psutil  # type: ignore[import-untyped, unused-ignore]
import pytest
from conftest import LEVELS, need_level

import nightlab.values
from nightlab import processes, sandbox
from nightlab.executor import LocalExecutor, collect
from nightlab.processes import Process, unaccounted
from nightlab.shim import Log, Order, Result, take_lock
from nightlab.testing.executor_contract import shell_job
from nightlab.values import Job, Limits, Outcome, Run

MB = 1024 * 1024
LIMITS = Limits(wall=20.0)
SOURCE = Path(nightlab.values.__file__).parents[1]
KILL_BAR = 0.5  # seconds; the promise is 0.1 on a quiet machine, and what was measured is printed


@pytest.fixture(scope="module", params=LEVELS)
def executor(request: pytest.FixtureRequest) -> Iterator[LocalExecutor]:
    need_level(request.param)
    executor = LocalExecutor(4, request.param)
    yield executor
    executor.close()


@pytest.fixture
def is_jailed(executor: LocalExecutor) -> bool:
    return executor.level in sandbox.WRAPPED


class Bench:
    """Runs scripts in one tree, and checks after each that nothing is left of it."""

    def __init__(self, executor: LocalExecutor, folder: Path) -> None:
        self.executor, self.folder = executor, folder
        self.job = shell_job(folder, "true")

    def start(self, script: str, limits: Limits = LIMITS) -> Future[Run]:
        self.job = shell_job(self.folder, script, limits=limits)
        return self.executor.submit(self.job)

    def run(self, script: str, limits: Limits = LIMITS) -> Run:
        return self.start(script, limits).result(timeout=60)

    def python(self, script: str, limits: Limits = LIMITS) -> Run:
        (self.job.tree / "script.py").write_text(script)
        return self.run(f'exec "{sys.executable}" -I -S script.py', limits)

    def started(self, name: str = "started") -> None:
        deadline = time.monotonic() + 10
        while not (self.job.folder / "out" / name).exists():
            assert time.monotonic() < deadline, "the run did not begin"
            time.sleep(0.002)

    def result(self) -> dict[str, object]:
        words: dict[str, object] = json.loads((self.job.folder / "result.json").read_text())
        return words

    def alive(self) -> list[psutil.Process]:
        name, value = sandbox.mark(self.job)
        return [process for process in psutil.process_iter() if _environment(process).get(name) == value]


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return {} if process.status() == psutil.STATUS_ZOMBIE else process.environ()
    except psutil.Error:
        return {}


@pytest.fixture
def bench(executor: LocalExecutor, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(executor, tmp_path)
    yield bench
    deadline = time.monotonic() + 2.0
    while left := bench.alive():
        assert time.monotonic() < deadline, f"still alive two seconds after the end: {left}"
        time.sleep(0.02)


def test_a_plain_success_says_what_it_cost(bench: Bench, executor: LocalExecutor) -> None:
    run = bench.python("import time; end = time.process_time() + 0.1\nwhile time.process_time() < end: pass")

    assert (run.outcome, run.reason, run.exit_code) == (Outcome.FINISHED, "exit code 0", 0)
    assert 0.1 <= run.cost.cpu_seconds < 1.0
    assert 0.1 <= run.cost.seconds < 5.0
    assert 4 < run.cost.peak_mb < 60
    assert bench.result()["level"] == executor.level


def test_an_exit_code_is_a_crash(bench: Bench) -> None:
    run = bench.run("exit 200")

    assert (run.outcome, run.reason, run.exit_code) == (Outcome.CRASHED, "exit code 200", 200)


def test_death_by_signal_is_named(bench: Bench) -> None:
    run = bench.run("kill -SEGV $$")

    assert (run.outcome, run.reason, run.exit_code) == (Outcome.CRASHED, "killed by signal 11", 139)


def test_a_command_that_does_not_exist_is_a_crash_with_its_name_in_the_log(bench: Bench) -> None:
    bench.job = replace(bench.job, argv=("no-such-program",))

    run = bench.executor.submit(bench.job).result(timeout=10)

    assert run.outcome is Outcome.CRASHED
    assert "no-such-program" in run.log()


def test_a_tree_that_does_not_exist_is_a_crash(bench: Bench) -> None:
    bench.job.tree.rmdir()

    run = bench.executor.submit(bench.job).result(timeout=10)

    assert run.outcome is Outcome.CRASHED


def test_a_daemon_does_not_outlive_its_run(bench: Bench, is_jailed: bool) -> None:
    run = bench.python(
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.closerange(0, 10)\n"
        "        time.sleep(60)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )

    assert run.outcome is Outcome.FINISHED
    assert bench.result()["survivors"] == (None if is_jailed else 1)


RELAY = """
import os, sys, time
if os.fork():
    time.sleep({alive}); os._exit(0)
while True:  # each generation leaves session and parent behind, and lives for an instant
    os.setsid()
    if os.fork():
        os._exit(0)
"""


def test_a_relay_that_forks_without_end_is_caught_when_the_run_ends(bench: Bench) -> None:
    run = bench.python(RELAY.format(alive=0.1))

    assert run.outcome is Outcome.FINISHED


def test_a_relay_is_caught_when_the_run_is_over_its_limit(bench: Bench) -> None:
    run = bench.python(RELAY.format(alive=60), Limits(wall=0.3))

    assert run.outcome is Outcome.TIMEOUT


def test_an_ignored_term_does_not_help(bench: Bench) -> None:
    run = bench.run("trap '' TERM INT HUP; (trap '' TERM; sleep 60) & sleep 60; sleep 60", Limits(wall=0.2))

    assert run.outcome is Outcome.TIMEOUT
    assert run.cost.seconds < 0.2 + KILL_BAR


def test_a_term_leaves_a_moment_for_last_words(bench: Bench) -> None:
    run = bench.run("trap 'echo last words; exit 0' TERM; echo ready; sleep 60 & wait", Limits(wall=0.3))

    assert (run.outcome, run.log()) == (Outcome.TIMEOUT, "ready\nlast words\n")


def test_a_stopped_process_is_ended(bench: Bench) -> None:
    run = bench.run("(kill -STOP $$) ; sleep 60", Limits(wall=0.3))

    assert run.outcome is Outcome.TIMEOUT


def test_a_memory_hog_is_ended(bench: Bench) -> None:
    run = bench.python(
        "import os, time\nif os.fork():\n    os.wait()\nhog = [b'x' * 1048576 for _ in range(150)]\ntime.sleep(60)\n",
        Limits(wall=20, memory_mb=120),
    )

    assert (run.outcome, run.reason) == (Outcome.CRASHED, "used more than 120 MB")
    assert 120 < run.cost.peak_mb < 400


def test_pages_shared_by_forked_processes_count_once(bench: Bench) -> None:
    run = bench.python(
        "import os, time\n"
        "shared = [b'x' * 1048576 for _ in range(60)]\n"
        "for _ in range(4):\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(0.4); os._exit(0)\n"
        "time.sleep(0.4)\n",
        Limits(wall=20, memory_mb=120),
    )

    assert run.outcome is Outcome.FINISHED
    assert 60 < run.cost.peak_mb < 120


def test_a_crowd_of_processes_is_ended(bench: Bench) -> None:
    run = bench.run("for i in $(seq 60); do sleep 60 & done; wait", Limits(wall=20, processes=30))

    assert (run.outcome, run.reason) == (Outcome.CRASHED, "had more than 30 processes")


def test_a_flood_of_two_gigabytes_is_ended_and_leaves_only_its_head_and_tail(bench: Bench) -> None:
    future = bench.start("echo first; head -c 2000000000 /dev/zero; echo never", Limits(wall=30))
    largest = _largest_shim(bench.executor, future)
    run = future.result()

    assert (run.outcome, run.reason) == (Outcome.CRASHED, "printed more than 64 MB")
    assert (run.folder / "log").stat().st_size < 2.001 * MB
    assert largest < 40 * MB


def _largest_shim(executor: LocalExecutor, future: Future[Run]) -> int:
    assert executor._server is not None
    server, largest = psutil.Process(executor._server._process.pid), 0
    while not future.done():
        for shim in server.children():
            try:
                largest = max(largest, shim.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.01)
    return largest


def test_a_long_log_keeps_its_first_and_its_last_mebibyte(bench: Bench) -> None:
    run = bench.run("echo first; head -c 20000000 /dev/zero | tr '\\0' x; echo; echo last")

    log = run.log()
    assert run.outcome is Outcome.FINISHED
    assert log.startswith("first\nxxx")
    assert log.endswith("xxx\nlast\n")
    assert f"\n[... {20000012 - 2 * MB} bytes left out ...]\n" in log


def test_silence_is_ended(bench: Bench) -> None:
    run = bench.run("for i in 1 2 3; do echo $i; sleep 0.15; done; sleep 60", Limits(wall=20, silence=0.3))

    assert (run.outcome, run.reason, run.log()) == (Outcome.TIMEOUT, "silent for 0.3 s", "1\n2\n3\n")


def test_cpu_is_counted_over_the_whole_tree(bench: Bench) -> None:
    spin = "(trap '' TERM; while :; do :; done) &"
    run = bench.run(f"{spin} {spin} sleep 60", Limits(wall=20, cpu=0.4))

    assert (run.outcome, run.reason) == (Outcome.TIMEOUT, "used more than 0.4 CPU seconds")
    assert run.cost.cpu_seconds > 0.4


@pytest.mark.slow
def test_cpu_of_children_that_nobody_waits_for_is_counted(bench: Bench) -> None:
    spin = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for n in range(30):
    if os.fork() == 0:
        begin = time.process_time()
        while time.process_time() - begin < 0.6:
            pass
        os._exit(0)
    try:
        os.wait()
    except ChildProcessError:
        pass
"""
    run = bench.python(spin, Limits(wall=60, cpu=2.0))

    assert run.reason == "used more than 2 CPU seconds"


def test_time_of_a_process_that_is_gone_is_lost_only_if_nobody_was_told() -> None:
    parent = Process(10, 1, 1, False, 1.0, 5, 0, 0.0)
    child = Process(11, 10, 1, False, 0.8, 6, 0, 0.0)
    told = parent._replace(cpu=1.9, reaped=0.9)

    assert unaccounted([parent, child], [parent, child], 0.0) == 0.0
    assert unaccounted([parent, child], [told], 0.0) == 0.0
    assert unaccounted([parent, child], [], 1.9) == 0.0
    assert 0.7 < unaccounted([parent, child], [parent], 0.0) <= 0.8


def test_cpu_of_children_that_have_ended_is_counted(bench: Bench) -> None:
    run = bench.python(
        "import os, time\n"
        "while True:\n"
        "    if os.fork() == 0:\n"
        "        end = time.process_time() + 0.05\n"
        "        while time.process_time() < end: pass\n"
        "        os._exit(0)\n"
        "    os.wait()\n",
        Limits(wall=20, cpu=0.5),
    )

    assert run.reason == "used more than 0.5 CPU seconds"


def test_ending_between_two_looks_is_no_way_around_a_limit(bench: Bench) -> None:
    spin = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"

    assert bench.python(spin, Limits(wall=20, cpu=0.15)).reason == "used more than 0.15 CPU seconds"
    assert bench.python("x = b'x' * 150000000", Limits(wall=20, memory_mb=100)).reason == "used more than 100 MB"
    assert bench.run("head -c 2000000 /dev/zero", Limits(wall=20, log_mb=1)).reason == "printed more than 1 MB"


def test_a_child_that_closed_its_output_and_goes_on_is_ended_with_its_parent(bench: Bench) -> None:
    run = bench.run('exec "$0" -c "exec >&- 2>&-; trap : TERM; sleep 60" & sleep 0.1; echo over')

    assert (run.outcome, run.log()) == (Outcome.FINISHED, "over\n")


@pytest.mark.slow
def test_a_run_that_closed_its_output_is_watched_without_spinning(bench: Bench) -> None:
    future = bench.start("exec >&- 2>&-; sleep 4")
    time.sleep(0.5)  # what only helps it to begin is gone by then
    shim = _shim_of(bench)
    before = shim.cpu_times()
    time.sleep(1.0)
    after = shim.cpu_times()

    assert future.result(timeout=10).outcome is Outcome.FINISHED
    assert after.user + after.system - before.user - before.system < 0.1


def _shim_of(bench: Bench) -> psutil.Process:
    assert bench.executor._server is not None
    server = psutil.Process(bench.executor._server._process.pid)
    while not server.children():
        time.sleep(0.002)
    return server.children()[0]


def test_a_background_child_that_keeps_the_pipe_open_holds_nothing_up(bench: Bench) -> None:
    run = bench.run("sleep 60 & echo over")

    assert (run.outcome, run.log()) == (Outcome.FINISHED, "over\n")
    assert run.cost.seconds < 5


def test_a_run_may_delete_its_own_tree(bench: Bench) -> None:
    run = bench.run('rm -rf "$PWD"/* "$PWD" 2>/dev/null; echo gone')

    assert (run.outcome, run.log()) == (Outcome.FINISHED, "gone\n")


FORGED = '{"token": "run-1.0", "outcome": "finished", "reason": "", "exit_code": 0}'


def test_a_forged_result_in_out_counts_for_nothing(bench: Bench) -> None:
    run = bench.run(f"echo '{FORGED}' > \"$NIGHTLAB_OUT/result.json\"; exit 9")

    assert (run.outcome, run.exit_code) == (Outcome.CRASHED, 9)


def test_a_forged_result_in_the_folder_is_replaced_by_the_true_one(bench: Bench) -> None:
    run = bench.run(f"echo '{FORGED}' > \"$NIGHTLAB_OUT/../result.json\"; exit 9")

    assert (run.outcome, run.exit_code) == (Outcome.CRASHED, 9)


def test_a_run_that_ruins_its_folder_hangs_nothing(bench: Bench) -> None:
    run = bench.run('rm -rf "${NIGHTLAB_OUT%/out}" 2>/dev/null; exit 0')

    assert (run.outcome, run.reason) == (
        (Outcome.CRASHED, "the shim was lost")
        if bench.executor.level == "process"
        else (Outcome.FINISHED, "exit code 0")
    )


def test_the_token_is_not_in_the_environment_of_a_run(bench: Bench) -> None:
    run = bench.run("env")

    assert bench.job.token not in run.log()


def test_a_kill_takes_the_whole_tree_at_once(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    future = bench.start(
        "trap '' TERM; (trap '' TERM; setsid sleep 60) & touch $NIGHTLAB_OUT/started; sleep 60; sleep 60"
    )
    bench.started()
    tree = bench.alive()

    asked = time.monotonic()
    bench.executor.kill(bench.job.id)
    while any(map(psutil.Process.is_running, tree)):
        time.sleep(0.001)
    took = time.monotonic() - asked

    with capsys.disabled():
        print(f" kill {bench.executor.level}: {1000 * took:.0f} ms", end=" ")
    assert future.result(timeout=10).reason == "stopped on request"
    assert len(tree) >= 2
    assert took < KILL_BAR


def test_runs_in_parallel_are_told_apart(bench: Bench, executor: LocalExecutor, tmp_path: Path) -> None:
    jobs = [shell_job(tmp_path, f"sleep 0.1; exit {n}", name=f"many-{n}") for n in range(8)]

    runs = [future.result(timeout=20) for future in [executor.submit(job) for job in jobs]]

    assert [run.exit_code for run in runs] == list(range(8))


def test_no_descriptor_of_the_lab_reaches_a_run(bench: Bench) -> None:
    run = bench.run("ls -l /proc/self/fd")

    assert [line.split()[-3] for line in run.log().splitlines()[1:]] == ["0", "1", "2", "3"], run.log()


def test_signals_are_as_a_program_expects_them(bench: Bench) -> None:
    run = bench.run("grep -E 'Sig(Blk|Ign)' /proc/self/status")

    # The two realtime signals that glibc keeps for itself are not a program's business.
    assert set(run.log().split()[1::2]) <= {"0" * 16, "0000000180000000"}


def test_a_run_may_be_made_without_a_lab(bench: Bench, executor: LocalExecutor) -> None:
    job = shell_job(bench.folder, "echo alone")
    (job.folder / "out").mkdir(parents=True)
    Order(job, executor.level).write()

    done = subprocess.run(
        [sys.executable, "-m", "nightlab.shim", "run", str(job.folder)], env=os.environ | {"PYTHONPATH": str(SOURCE)}
    )

    run = collect(job)
    assert done.returncode == 0
    assert run is not None
    assert run.log() == "alone\n"


def test_a_term_to_a_lone_shim_ends_its_run(bench: Bench, executor: LocalExecutor) -> None:
    bench.job = job = shell_job(bench.folder, 'touch "$NIGHTLAB_OUT/started"; sleep 60')
    (job.folder / "out").mkdir(parents=True)
    Order(job, executor.level).write()
    shim = subprocess.Popen(
        [sys.executable, "-m", "nightlab.shim", "run", str(job.folder)], env=os.environ | {"PYTHONPATH": str(SOURCE)}
    )
    bench.started()

    shim.send_signal(signal.SIGTERM)

    assert shim.wait(timeout=10) == 0
    run = collect(job)
    assert run is not None
    assert run.outcome is Outcome.KILLED


def test_a_second_shim_in_the_same_folder_refuses(bench: Bench, executor: LocalExecutor) -> None:
    job = shell_job(bench.folder, "true")
    (job.folder / "out").mkdir(parents=True)
    Order(job, executor.level).write()
    lock = take_lock(job.folder)

    done = subprocess.run(
        [sys.executable, "-m", "nightlab.shim", "run", str(job.folder)],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        stderr=subprocess.PIPE,
    )

    assert done.returncode == 3
    assert b"in use" in done.stderr
    assert lock is not None


def test_a_signal_does_not_hit_a_stranger_with_the_same_number() -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    seen = processes.look(stranger.pid)
    assert seen is not None

    processes.send(seen._replace(start=seen.start - 1), signal.SIGKILL)
    with pytest.raises(subprocess.TimeoutExpired):
        stranger.wait(timeout=0.05)

    processes.send(seen, signal.SIGKILL)
    assert stranger.wait(timeout=5) == -signal.SIGKILL


def test_a_process_may_have_any_name(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([program, "60"])

    seen = processes.look(process.pid)

    process.kill()
    process.wait()
    assert seen is not None
    assert seen.parent == os.getpid()


def test_an_order_comes_back_as_it_was_written(tmp_path: Path) -> None:
    job = Job(
        id="run-1",
        argv=("python", "é\udcff"),
        tree=tmp_path / "ä b",
        folder=tmp_path,
        token="t",
        env={"A": "b"},
        limits=Limits(wall=1.0, processes=None),
        readable=(tmp_path / "given",),
        mounts={"~/.cache/x": "/data"},
        writable=(tmp_path / "answers",),
        hidden=(tmp_path / "truth",),
        relay=tmp_path / "socket",
    )

    Order(job, "process", 3.0).write()

    assert Order.read(tmp_path) == Order(job, "process", 3.0)


def test_a_result_is_whole_or_absent_to_a_reader(tmp_path: Path) -> None:
    job = replace(shell_job(tmp_path, "true"), folder=tmp_path)
    is_over, seen = threading.Event(), []

    def read() -> None:
        while not is_over.is_set():
            seen.append(os.path.exists(tmp_path / "result.json") and collect(job) is None)

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(30):
        Result(job.token, Outcome.FINISHED, "x" * n * 100, "process").write(tmp_path)
    is_over.set()
    reader.join()

    assert not any(seen)
    assert sorted(path.name for path in tmp_path.glob("result*")) == ["result.json"]


@pytest.mark.parametrize("total", [0, 10, MB - 1, MB, MB + 1, 2 * MB, 2 * MB + 1, 5 * MB])
def test_a_log_loses_only_its_middle(tmp_path: Path, total: int) -> None:
    text = bytes(n % 251 for n in range(251)) * (total // 251 + 1)
    log = Log(tmp_path / "log")

    for start in range(0, total, 70_000):
        log.keep(text[start : min(start + 70_000, total)])
    log.close()

    gap = b"\n[... %d bytes left out ...]\n" % (total - 2 * MB)
    whole = text[:total] if total <= 2 * MB else text[:MB] + gap + text[total - MB : total]
    assert (tmp_path / "log").read_bytes() == whole
