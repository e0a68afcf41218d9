"""Ray keeps both contracts, on a real cluster: a head that runs nothing, and machines that come and go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from clusters import RayCluster, end_session, ray
from conftest import SCRIPT, TASK, make_repository

from nightlab import processes
from nightlab.executors.ray import RayExecutor
from nightlab.place import Place, find
from nightlab.shim import Order
from nightlab.testing.executor_contract import ExecutorContract, shell_job
from nightlab.testing.loss_contract import LossContract, assert_gone, stubborn, wait_for, worker_of
from nightlab.values import Outcome

pytestmark = pytest.mark.ray


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with ray(tmp_path_factory.mktemp("ray")) as cluster, pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.token.items():
            patch.setenv(name, value)
        yield cluster


@pytest.fixture(scope="session")
def lasting(cluster: RayCluster) -> Iterator[list[RayExecutor]]:
    """An executor for many tests; each that closes it has the next one made."""
    kept: list[RayExecutor] = []
    yield kept
    for executor in kept:
        executor.close()


@pytest.fixture
def executor(cluster: RayCluster, lasting: list[RayExecutor]) -> RayExecutor:
    if not lasting or lasting[-1].is_closed:
        lasting.append(RayExecutor(2, address=cluster.address))
    wait_for_slots(lasting[-1], 2)
    return lasting[-1]


def wait_for_slots(executor: RayExecutor, count: int) -> None:
    deadline = time.monotonic() + 60
    while executor.slots != count:
        assert time.monotonic() < deadline, f"{executor.slots} slots, not {count}"
        time.sleep(0.05)


class TestRayExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self, executor: RayExecutor) -> RayExecutor:  # type: ignore[override]
        return executor


class TestRayLosses(LossContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: RayCluster) -> None:
        self.cluster = cluster

    def lose_machine(self, run: int) -> None:
        """Its raylet and all; another machine joins."""
        end_session(self.cluster.machines.pop())
        self.cluster.machines.append(self.cluster.add())


@pytest.fixture
def alone(cluster: RayCluster, lasting: list[RayExecutor]) -> RayCluster:
    """The cluster, with all its cores given back."""
    for executor in lasting:
        executor.close()
    return cluster


def test_slots_come_and_go_with_machines_and_a_lost_one_costs_its_runs_only(alone: RayCluster, tmp_path: Path) -> None:
    with closing(RayExecutor(4, address=alone.address)) as executor:
        wait_for_slots(executor, 2)
        there = executor.submit(shell_job(tmp_path, "sleep 12; echo well", name="there"))
        time.sleep(1)
        alone.machines.append(alone.add())
        wait_for_slots(executor, 4)
        made = [stubborn(tmp_path / str(n)) for n in range(3)]
        runs = {tag: executor.submit(job) for tag, job in made}
        lost = [tag for tag in runs if machine_of(wait_for(tag)) == alone.machines[-1].pid]

        end_session(alone.machines.pop())
        deadline = time.monotonic() + 2.0

        assert len(lost) == 2
        for tag in lost:
            assert_gone(tag, deadline)
            assert runs[tag].result(timeout=30).outcome is Outcome.KILLED
            assert "lost" in runs[tag].result().reason
        assert there.result(timeout=30).log() == "well\n"
        wait_for_slots(executor, 2)
        far = executor.submit(shell_job(tmp_path, "true", name="far"))
        assert far.result(timeout=30).outcome is Outcome.FINISHED


def machine_of(run: int) -> int:
    """The session of the machine's processes that has this run: its worker is started by its raylet."""
    worker = processes.look(worker_of(run))
    raylet = processes.look(worker.parent) if worker else None
    assert raylet is not None
    return raylet.session


LAB = """
import sys, time
from pathlib import Path
from nightlab import processes
from nightlab.executors.ray import RayExecutor
from nightlab.place import Place, find
from nightlab.shim import Order
executor = RayExecutor(1, address=sys.argv[1])
executor.submit(Order.read(Path(sys.argv[2])).job)
time.sleep(600)
"""


def test_nothing_is_left_when_the_lab_itself_was_killed(alone: RayCluster, tmp_path: Path) -> None:
    tag, job = stubborn(tmp_path)
    job.folder.mkdir(parents=True)
    Order(job, "process").write()
    lab = subprocess.Popen([sys.executable, "-c", LAB, alone.address, str(job.folder)])
    wait_for(tag)

    lab.kill()
    lab.wait()

    assert_gone(tag, time.monotonic() + 2.0)
    with closing(RayExecutor(1, address=alone.address)) as executor:
        assert executor.recover(job) is None


def test_a_study_goes_on_when_a_worker_and_then_the_head_are_lost(alone: RayCluster, tmp_path: Path) -> None:
    script = SCRIPT.replace("print(", "import time; time.sleep(1.5)\nprint(")
    folder = make_repository(tmp_path / "study", {"train.py": script, "nightlab.toml": TASK})
    command = [sys.executable, "-m", "nightlab", "run", "--executor", "ray", "--address", alone.address]
    command += ["--workers", "2", "--experiments", "6", "--no-audit", "--json"]
    lab = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    place = find(folder)

    until(lambda: count(place, "ran") >= 2)
    os.kill(busy_worker(), signal.SIGKILL)
    until(lambda: count(place, "lost") >= 1)
    before = count(place, "lost")
    end_session(alone.head)
    alone.start_again()
    said, trouble = lab.communicate(timeout=150)

    assert lab.returncode == 0, trouble
    assert json.loads(said)["experiments"] == 7
    with closing(place.read()) as ledger:
        events = list(ledger.read())
    lost = {event.body["run"]: event.body["reason"] for event in events if event.kind == "lost"}
    ran = [event.id.removeprefix("ran:") for event in events if event.kind == "ran"]
    assert before >= 1
    assert all(lost.values())
    assert len(ran) == len(set(ran)), "a run was recorded twice"
    assert set(lost) <= set(ran), "a lost run was not run again"


def count(place: Place, kind: str) -> int:
    if not place.ledger.exists():
        return 0
    with closing(place.read()) as ledger:
        return ledger.count(kind)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def busy_worker() -> int:
    """A worker of Ray's that has a run under way, which is found by its jail's words."""
    deadline = time.monotonic() + 30
    while True:
        for process in processes.every():
            with suppress(OSError):
                words = Path(f"/proc/{process.pid}/cmdline").read_bytes()
                if b"train.py" in words and b"nightlab-berth-" in words:
                    return worker_of(process.pid)
        assert time.monotonic() < deadline, "nothing runs"
        time.sleep(0.02)
