"""Slurm keeps both contracts, on a real cluster of one machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from clusters import SlurmCluster, slurm
from conftest import SCRIPT, TASK, make_repository

from nightlab import processes
from nightlab.executors.slurm import SlurmExecutor
from nightlab.place import find
from nightlab.shim import Order
from nightlab.testing.executor_contract import ExecutorContract, shell_job
from nightlab.testing.loss_contract import LossContract, worker_of
from nightlab.values import Outcome

LAB = """
import sys, time
from pathlib import Path
from nightlab.executors.slurm import SlurmExecutor
from nightlab.shim import Order
SlurmExecutor(1).submit(Order.read(Path(sys.argv[1])).job)
print("submitted", flush=True)
time.sleep(600)
"""
pytestmark = pytest.mark.slurm


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def executor(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmExecutor]:
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    executor = SlurmExecutor(2)
    yield executor
    executor.close()


class TestSlurmExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self, executor: SlurmExecutor) -> SlurmExecutor:  # type: ignore[override]
        return executor


class TestSlurmLosses(LossContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: SlurmCluster) -> None:
        self.cluster = cluster

    def lose_machine(self, run: int) -> None:
        """Its daemon and its keeper of the job; a new daemon comes up later, as after a reboot."""
        self.cluster.daemon.kill()
        self.cluster.daemon.wait()
        worker = processes.look(worker_of(run))
        assert worker is not None
        os.kill(worker.parent, signal.SIGKILL)
        self.cluster.daemon = self.cluster.start_daemon()


def test_a_job_left_in_the_queue_is_found_again_by_the_next_lab(
    cluster: SlurmCluster, executor: SlurmExecutor, tmp_path: Path
) -> None:
    """The first lab is killed with its job running: the next one waits for it, and has its result."""
    job = shell_job(tmp_path, "sleep 3; echo at last")
    job.folder.mkdir(parents=True)
    Order(job, executor.level).write()
    lab = subprocess.Popen(
        [sys.executable, "-c", LAB, str(job.folder)], env=cluster.environment, stdout=subprocess.PIPE
    )
    assert lab.stdout is not None
    assert lab.stdout.readline() == b"submitted\n"
    lab.kill()
    lab.wait()
    lab.stdout.close()

    run = executor.recover(job)

    assert run is not None
    assert (run.outcome, run.log()) == (Outcome.FINISHED, "at last\n")


def test_a_study_runs_on_slurm_and_each_run_says_what_it_had(cluster: SlurmCluster, tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "study", {"train.py": SCRIPT, "nightlab.toml": TASK})
    words = ["run", "--executor", "slurm", "--partition", "night", "--workers", "2", "--experiments", "2", "--no-audit"]
    command = [sys.executable, "-m", "nightlab", *words, "--json"]

    done = subprocess.run(command, cwd=folder, env=cluster.environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["experiments"] == 3
    with closing(find(folder).read()) as ledger:
        facts = [event.body["facts"] for event in ledger.read() if event.kind == "ran"]
    assert {found["machine"]["cores"] for found in facts} == {1}
    assert all(found["hardware"] for found in facts)
