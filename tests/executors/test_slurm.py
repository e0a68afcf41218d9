"""Slurm keeps both contracts, on a real cluster of one machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from clusters import SlurmCluster, slurm

from nightlab import processes
from nightlab.executors.slurm import SlurmExecutor
from nightlab.testing.executor_contract import ExecutorContract
from nightlab.testing.loss_contract import LossContract, worker_of

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
