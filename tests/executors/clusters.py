"""Real clusters of one machine: Slurm from Debian's packages, Ray from its wheel. Started here, ended by their pids."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nightlab import processes
from nightlab.testing.ports import free_ports

_SLURM = """\
ClusterName=nightlab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={work}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
ReturnToService=2
SlurmdTimeout=4
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=night Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class SlurmCluster:
    """munged, slurmctld and slurmd, with every file of theirs in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("state", "spool"):
            (folder / name).mkdir()
        host = socket.gethostname().split(".")[0]
        control, work = free_ports(2)
        text = _SLURM.format(host=host, folder=folder, control=control, work=work)
        self.conf = folder / "slurm.conf"
        self.conf.write_text(text)
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        folder.chmod(0o755)
        self.environment = os.environ | {"SLURM_CONF": str(self.conf)}
        self._munged, self.control, self.daemon = self._start_munged(), self.start_control(), self.start_daemon()
        self.wait_until_idle()

    def _start_munged(self) -> subprocess.Popen[bytes]:
        at = self.folder
        words = ["munged", "--foreground", "--force", f"--key-file={at}/munge.key", f"--socket={at}/munge.socket"]
        words += [f"--pid-file={at}/munged.pid", f"--log-file={at}/munged.log", f"--seed-file={at}/munged.seed"]
        return self._start(*words)

    def start_control(self) -> subprocess.Popen[bytes]:
        return self._start("slurmctld", "-D")

    def start_daemon(self) -> subprocess.Popen[bytes]:
        return self._start("slurmd", "-D")

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{words[0]}.out").open("ab")
        with log:
            return subprocess.Popen(
                words, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait_until_idle(self, patience: float = 40.0) -> None:
        """Until the one machine takes jobs."""
        deadline = time.monotonic() + patience
        while not self.say("sinfo", "--noheader", "--format=%T").startswith(("idle\n", "mixed\n", "allocated\n")):
            assert time.monotonic() < deadline, self.say("scontrol", "show", "node") + self.logs()
            time.sleep(0.1)

    def say(self, *words: str) -> str:
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False).stdout

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in sorted(self.folder.glob("*.log")))

    def end(self) -> None:
        """End the three; no run is left by now."""
        for process in (self.daemon, self.control, self._munged):
            process.terminate()
        for process in (self.daemon, self.control, self._munged):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def slurm(folder: Path) -> Iterator[SlurmCluster]:
    cluster = SlurmCluster(folder)
    try:
        yield cluster
    finally:
        cluster.end()


class RayCluster:
    """A head that runs nothing, and machines that come and go; all of them are here."""

    def __init__(self, folder: Path, *, machines: int = 1, cores: int = 2) -> None:
        self._folder, self._cores, [self._port] = folder, cores, free_ports(1)
        self.token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.address = f"127.0.0.1:{self._port}"
        self.head = self._start_head()
        self.machines = [self.add() for _ in range(machines)]

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        ray = Path(sys.executable).with_name("ray")
        command = [ray, "start", "--block", "--disable-usage-stats", *words]
        more = ["--include-dashboard=false", "--object-store-memory=100000000"]
        with (self._folder / "ray.out").open("ab") as log:
            return subprocess.Popen(
                [*command, *more] if "--head" in words else [*command, more[1]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self.token,
                start_new_session=True,
            )

    def _start_head(self) -> subprocess.Popen[bytes]:
        head = self._start("--head", f"--port={self._port}", "--num-cpus=0", f"--temp-dir={self._folder}")
        self._wait()
        return head

    def start_again(self) -> None:
        """A new head in place of one that was lost with all it knew, and machines that join it."""
        for process in self.machines:
            end_session(process)
        self.head = self._start_head()
        self.machines = [self.add() for _ in self.machines]

    def _wait(self, patience: float = 60.0) -> None:
        host, port = self.address.split(":")
        deadline = time.monotonic() + patience
        while True:
            with socket.socket() as one:
                if one.connect_ex((host, int(port))) == 0:
                    return
            assert time.monotonic() < deadline, (self._folder / "ray.out").read_text()
            time.sleep(0.1)

    def add(self) -> subprocess.Popen[bytes]:
        """One more machine."""
        return self._start(f"--address={self.address}", f"--num-cpus={self._cores}")

    def end(self) -> None:
        """End every process that was started here, its own children too."""
        for process in (*self.machines, self.head):
            end_session(process)


def end_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and everything in its session, which nobody else is in."""
    for one in processes.every():
        if one.session == process.pid:
            processes.send(one, signal.SIGKILL)
    process.wait()


@contextmanager
def ray(folder: Path, **wanted: int) -> Iterator[RayCluster]:
    cluster = RayCluster(folder, **wanted)
    try:
        yield cluster
    finally:
        cluster.end()
