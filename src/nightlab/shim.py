"""The shim: one small process per run. It starts the jail, holds the limits, ends the whole tree, writes the result.

    python -m nightlab.shim run FOLDER    one job, described in FOLDER/job.json
    python -m nightlab.shim serve FD      a warm server that forks one shim per job (a fork costs a tenth of a start)

Everything here is single-threaded: PDEATHSIG is bound to the thread that forked, and a fork copies only one thread.
Exits are learned from SIGCHLD through a wakeup pipe, which sees orphans too; a pidfd would see the first child only.
Needs Linux 5.3 or later.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nightlab import processes, sandbox
from nightlab.errors import NightlabError
from nightlab.values import Job, Limits, Outcome

LINGER = 1.5
"""Seconds a run may go on after its lab has gone, so that one about to end can still be adopted."""
GRACE = 0.05
"""Seconds between TERM and KILL."""
_MIB = 1024 * 1024
_FIRST_LOOK, _LAST_LOOK = 0.02, 0.25  # seconds between looks at the tree: they double from the first to the last
_LOOK_SHARE = 50  # a look may cost a fiftieth of the time to the next one; it reads all of /proc


@dataclass(frozen=True, slots=True)
class Order:
    """A job and how it is to be run: what `job.json` holds."""

    job: Job
    level: str
    linger: float = LINGER
    cores: tuple[int, ...] = ()
    """Cores it has for itself; none: whichever are free."""

    def write(self) -> None:
        """Leave it in the job's folder for the shim."""
        path = self.job.folder / "job.json"
        path.unlink(missing_ok=True)
        job = replace(self.job, env=dict(self.job.env), mounts=dict(self.job.mounts))
        words = asdict(job) | {"level": self.level, "linger": self.linger, "cores": self.cores}
        with open(path, "x", encoding="ascii") as file:
            json.dump(words, file, default=_plain)

    @classmethod
    def read(cls, folder: Path) -> Order:
        """What `write` left in this folder."""
        words = json.loads((folder / "job.json").read_bytes())
        job = Job(
            id=words["id"],
            argv=tuple(words["argv"]),
            tree=Path(words["tree"]),
            folder=Path(words["folder"]),
            token=words["token"],
            env=words["env"],
            limits=Limits(**words["limits"]),
            readable=tuple(map(Path, words["readable"])),
            mounts=words["mounts"],
            writable=tuple(map(Path, words["writable"])),
            hidden=tuple(map(Path, words["hidden"])),
            relay=Path(words["relay"]) if words["relay"] else None,
            keeps_tree=words["keeps_tree"],
        )
        return cls(job, words["level"], words["linger"], tuple(words["cores"]))


def _plain(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} cannot be written to job.json")


@dataclass(frozen=True, slots=True)
class Result:
    """What the shim found: what `result.json` holds.

    `survivors` counts processes that outlived the run's first one; None where the kernel ends them with it, uncounted.
    """

    token: str
    outcome: Outcome
    reason: str
    level: str
    exit_code: int | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mb: float = 0.0
    survivors: int | None = None

    def write(self, folder: Path) -> None:
        """Put it in place so that a reader sees the whole of it or nothing, also after a power cut."""
        temporary, path = folder / f"result.{os.getpid()}", folder / "result.json"
        temporary.unlink(missing_ok=True)  # in a container the same pid comes again
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        with os.fdopen(file, "w", encoding="utf-8") as out:
            json.dump(asdict(self), out)
            out.flush()
            os.fsync(file)
        os.rename(temporary, path)
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(directory)
        os.close(directory)


class Log:
    """What a run prints: the first MiB goes to the file at once, the last is held back; disk and memory stay small."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        self._tail = bytearray()
        self.total = 0

    def keep(self, chunk: bytes) -> None:
        """Take note of what was printed."""
        room = max(0, _MIB - self.total)
        self.total += len(chunk)
        if room:
            os.write(self._file, chunk[:room])
        self._tail += chunk[room:]
        if len(self._tail) > 2 * _MIB:
            del self._tail[:-_MIB]

    def close(self) -> None:
        """Append the last MiB, after a line that says how much is missing before it."""
        missing = self.total - 2 * _MIB
        if missing > 0:
            os.write(self._file, b"\n[... %d bytes left out ...]\n" % missing)
        os.write(self._file, self._tail[-_MIB:])
        os.close(self._file)


def take_lock(folder: Path) -> int | None:
    """The lock a run's shim holds for its life, as a descriptor; None when another holds it."""
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


class Alarm:
    """Signals as a readable descriptor, so that one poll waits for them and everything else."""

    def __init__(self, *signums: int) -> None:
        self.fd, self._writer = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._writer, False)
        self.heard: set[int] = set()
        for signum in signums:
            signal.signal(signum, self._note)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        # A batch system may start us with signals blocked.
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def _note(self, signum: int, _: object) -> None:
        self.heard.add(signum)

    def hush(self) -> None:
        """Empty the pipe; what was heard stays heard."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)


@dataclass(frozen=True, slots=True)
class Plan:
    """An order and what to execute for it; or why nothing can be."""

    order: Order
    command: sandbox.Command | None
    trouble: str = ""


def prepare(folder: Path) -> Plan:
    """Read the order in this folder and lay out its jail."""
    order = Order.read(folder)
    try:
        return Plan(order, sandbox.command(order.level, order.job))
    except (NightlabError, OSError) as error:
        return Plan(order, None, f"could not start: {error}")


def run(plan: Plan, *, life: int | None = None) -> None:
    """Run a job to its end and leave `log` and `result.json` in its folder; the caller holds the lock.

    `life` is a socket whose other end the lab holds: it hangs up when the lab has died.
    """
    order, job = plan.order, plan.order.job
    if order.cores:
        os.sched_setaffinity(0, order.cores)  # what we start has them too
    log = Log(job.folder / "log")
    if plan.command is None:
        result = Result(job.token, Outcome.CRASHED, plan.trouble, order.level)
    else:
        result = _Watch(order, log, life).follow(*plan.command)
    log.close()
    sandbox.tidy(order.level, job)
    try:
        result.write(job.folder)
    except OSError as error:
        raise SystemExit(f"nightlab: the result of run {job.id} cannot be written: {error}") from error


class _Watch:
    """One run, from the start of its first process to the end of its last."""

    def __init__(self, order: Order, log: Log, life: int | None) -> None:
        self._order, self._log = order, log
        self._limits = order.job.limits
        self._is_wrapped = order.level in sandbox.WRAPPED
        self._alarm = Alarm(signal.SIGCHLD, signal.SIGTERM)
        self._poll = select.poll()
        self._poll.register(self._alarm.fd, select.POLLIN)
        if life is not None:
            self._poll.register(life, 0)  # hang-up only: what is said on it is not for us
        self._pipe = self._main = -1
        self._exit: tuple[int, float] | None = None  # the first process's status, and when it ended
        self._lost: float | None = None
        self._cpu = self._hidden = self._reaped = 0.0
        self._seen: list[processes.Process] = []
        self._memory = 0
        self._count = self._survivors = 0

    def follow(self, argv: list[str], env: dict[str, str]) -> Result:
        """Start it, watch it, end what is left of it."""
        processes.become_subreaper()
        self._pipe, output = os.pipe()
        os.set_blocking(self._pipe, False)
        self._poll.register(self._pipe, select.POLLIN)
        self._started = self._printed = time.monotonic()
        self._next_look, self._pause = self._started + _FIRST_LOOK, _FIRST_LOOK
        try:
            self._main = _spawn(argv, env, self._order.job, output)
        except OSError as error:
            return self._unstarted(f"{argv[0]}: {error.strerror}")
        finally:
            os.close(output)
        self._note_session()
        verdict = self._watch()
        if verdict:
            self._ask_to_end()
        self._sweep()
        return self._result(verdict)

    def _unstarted(self, why: str) -> Result:
        self._log.keep(f"nightlab: cannot start {why}\n".encode())
        return Result(self._order.job.token, Outcome.CRASHED, f"cannot start {why}", self._order.level, exit_code=127)

    def _note_session(self) -> None:
        """Leave what finds the run should we be killed; the start time rules out a reused pid."""
        if main := processes.look(self._main):
            with open(self._order.job.folder / "session", "w", encoding="ascii") as file:
                file.write(f"{main.pid} {main.start}")

    def _watch(self) -> tuple[Outcome, str] | None:
        while self._exit is None:
            if verdict := self._verdict(time.monotonic()):
                return verdict
            self._wait(self._until_next())
            self._reap()
        return None

    def _verdict(self, now: float) -> tuple[Outcome, str] | None:
        """The first reason to end the run, if there is one."""
        if now >= self._next_look:
            self._look(now)
        if signal.SIGTERM in self._alarm.heard:
            return Outcome.KILLED, "stopped on request"
        if self._lost is not None and now - self._lost >= self._order.linger:
            return Outcome.KILLED, "the lab was gone"
        return self._broken_limit(now)

    def _broken_limit(self, now: float) -> tuple[Outcome, str] | None:
        limits = self._limits
        for used, limit, outcome, words in (
            (now - self._started, limits.wall, Outcome.TIMEOUT, "ran longer than {:g} s"),
            (now - self._printed, limits.silence, Outcome.TIMEOUT, "silent for {:g} s"),
            (self._cpu, limits.cpu, Outcome.TIMEOUT, "used more than {:g} CPU seconds"),
            (self._memory / _MIB, limits.memory_mb, Outcome.CRASHED, "used more than {:g} MB"),
            (self._count, limits.processes, Outcome.CRASHED, "had more than {} processes"),
            (self._log.total / _MIB, limits.log_mb, Outcome.CRASHED, "printed more than {:g} MB"),
        ):
            if limit is not None and used > limit:
                return outcome, words.format(limit)
        return None

    def _until_next(self) -> float:
        """Seconds until something can have happened that nothing will wake us for."""
        limits = self._limits
        moments = [self._next_look]
        moments += [self._started + limits.wall] if limits.wall is not None else []
        moments += [self._printed + limits.silence] if limits.silence is not None else []
        moments += [self._lost + self._order.linger] if self._lost is not None else []
        return min(moments) - time.monotonic()

    def _wait(self, seconds: float) -> None:
        """Sleep until something happens; read what was printed, note who called."""
        for fd, event in self._poll.poll(max(0, int(seconds * 1000) + 1)):
            if fd == self._alarm.fd:
                self._alarm.hush()
            elif fd == self._pipe:
                if not self._read():
                    self._poll.unregister(fd)  # the run closed its output; it may still be at work
            elif event & (select.POLLHUP | select.POLLERR):
                self._lost = time.monotonic()
                self._poll.unregister(fd)

    def _read(self) -> bool:
        """Take one chunk of output; False when nothing more can come."""
        try:
            chunk = os.read(self._pipe, 65536)
        except BlockingIOError:
            return True
        if chunk:
            self._printed = time.monotonic()
            self._log.keep(chunk)
        return bool(chunk)

    def _look(self, now: float) -> None:
        """Measure the tree.

        Not covered: what happens between two looks, the CPU time of children nobody waits for that end before one too.
        """
        tree = processes.descendants(os.getpid())
        live = [process for process in tree if not process.is_zombie]
        self._count = len(live)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        reaped = usage.ru_utime + usage.ru_stime
        self._hidden += processes.unaccounted(self._seen, tree, reaped - self._reaped)
        self._seen, self._reaped = tree, reaped
        self._cpu = max(self._cpu, self._hidden + reaped + sum(process.cpu for process in tree))
        memory = sum(process.rss for process in live)
        if self._limits.memory_mb is not None and memory > self._limits.memory_mb * _MIB:
            # Forked processes share pages, and a plain sum counts them once for each. The true share is dear: ask late.
            memory = sum(map(processes.share, live))
        self._memory = max(self._memory, memory)
        cost = time.monotonic() - now
        self._pause = max(min(2 * self._pause, _LAST_LOOK), _LOOK_SHARE * cost)
        self._next_look = now + self._pause

    def _reap(self) -> bool:
        """Collect the dead, ours and the orphans that came to us; False when no child is left, dead or alive."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._main:
                self._exit = status, time.monotonic()
            elif self._exit is not None:
                self._survivors += os.WIFSIGNALED(status)

    def _ask_to_end(self) -> None:
        """TERM to the whole tree but the jail's own process, which would take all with it; then a moment to obey."""
        for process in processes.descendants(os.getpid()):
            if not (self._is_wrapped and process.pid == self._main):
                processes.send(process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while self._reap() and (left := deadline - time.monotonic()) > 0:
            self._wait(left)

    def _sweep(self) -> None:
        """Kill whatever is left and wait for it; every orphan becomes our child, so the direct children are enough.

        A process the kernel cannot kill keeps us here, and the slot with us: better than two runs in one tree.
        """
        pause = 0.002
        while self._reap():
            for pid in processes.children():
                processes.kill_child(pid)
            self._wait(pause)
            pause = min(2 * pause, _LAST_LOOK)
        for _ in range(2 * _MIB // 65536):  # a pipe holds a mebibyte at most, and nobody is left to fill it
            if not self._read():
                break

    def _result(self, verdict: tuple[Outcome, str] | None) -> Result:
        assert self._exit is not None  # the sweep ends only when no child is left
        status, ended = self._exit
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            code = 128 - code  # as a shell and bubblewrap say it, so that both levels agree
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._cpu = max(self._cpu, self._hidden + usage.ru_utime + usage.ru_stime)
        self._memory = max(self._memory, usage.ru_maxrss * 1024)
        # Once more with the whole account: to end between two looks must not be a way around a limit.
        outcome, reason = verdict or self._broken_limit(ended) or _ending(code)
        return Result(
            token=self._order.job.token,
            outcome=outcome,
            reason=reason,
            level=self._order.level,
            exit_code=code,
            seconds=ended - self._started,
            cpu_seconds=self._cpu,
            peak_mb=self._memory / _MIB,
            survivors=None if self._is_wrapped else self._survivors,
        )


def _ending(code: int) -> tuple[Outcome, str]:
    if code == 0:
        return Outcome.FINISHED, "exit code 0"
    if 128 < code <= 128 + signal.NSIG:
        return Outcome.CRASHED, f"killed by signal {code - 128}"
    return Outcome.CRASHED, f"exit code {code}"


# What we ignore would stay ignored in the run: a Python without SIGINT, a pipe that never breaks.
_DEFAULTS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


def _spawn(argv: list[str], env: dict[str, str], job: Job, output: int) -> int:
    """Start the run in its tree, in a session of its own.

    By posix_spawn: no fork copies our memory, which saves 2 to 5 ms. What it cannot do, die with us, the command does.
    """
    os.chdir(job.tree)
    descriptors: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
    ]
    # setsigdef: what we ignore would stay ignored in the run (and so would what `nohup` or a shell's & ignores for us).
    pid = os.posix_spawnp(argv[0], argv, env, file_actions=descriptors, setsid=True, setsigmask=(), setsigdef=_DEFAULTS)
    _set_limits(pid, job.limits)
    return pid


def _set_limits(pid: int, limits: Limits) -> None:
    for which, most in sandbox.rlimits(limits):
        _, hard = resource.prlimit(pid, which)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.prlimit(pid, which, (most, most))


# ---- the warm server ----


def serve(control: socket.socket) -> None:
    """Fork a shim for every job asked for on this socket, and end when the lab hangs up and the last shim has ended.

    Spoken here: ["run", number, folder] with the lock's descriptor, ["kill", number]; answered: ["ended", number],
    by the shim itself, or for it when it was lost.
    """
    control.set_inheritable(False)  # it had to be, to reach us; a run must not be able to speak on it
    processes.become_subreaper()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is the lab's
    sandbox.warm()
    gc.freeze()  # what is here stays: a fork then shares it for good
    alarm = Alarm(signal.SIGCHLD)
    shims: dict[int, int] = {}
    poll = select.poll()
    poll.register(alarm.fd, select.POLLIN)
    poll.register(control, select.POLLIN)
    is_open = True
    while is_open or shims:
        ready = {fd for fd, _ in poll.poll()}
        if alarm.fd in ready:
            alarm.hush()
            for number in _reap_shims(shims):
                _tell(control, number)
        if control.fileno() in ready:
            is_open = _obey(control, shims)
            if not is_open:
                poll.unregister(control)


def _obey(control: socket.socket, shims: dict[int, int]) -> bool:
    """Do what the lab asks; False when it has hung up."""
    try:
        message, locks, _, _ = socket.recv_fds(control, 65536, 1)
    except ConnectionError:
        return False
    if not message:
        return False
    for lock in locks:
        os.set_inheritable(lock, False)  # Python drops MSG_CMSG_CLOEXEC here; a run must not hold its own lock
    match json.loads(message):
        case ["run", number, folder]:
            shims[_fork_shim(Path(folder), control, number, locks[0])] = number
            os.close(locks[0])
        case ["kill", number]:
            for pid in [pid for pid, name in shims.items() if name == number]:
                os.kill(pid, signal.SIGTERM)
    return True


def _fork_shim(folder: Path, control: socket.socket, number: int, lock: int) -> int:
    plan = prepare(folder)  # here, where everything is warm and no page has to be copied before it is touched
    parent = os.getpid()
    # A kill may come before the shim has learned to hear it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    pid = os.fork()
    if pid == 0:
        os.setsid()
        processes.die_with(parent, signal.SIGTERM)
        run(plan, life=control.fileno())
        os.close(lock)
        _tell(control, number)
        os._exit(0)  # nothing to finalize; saves a millisecond
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    return pid


def _reap_shims(shims: dict[int, int]) -> list[int]:
    """The numbers of shims that were lost. What they have left came to us, and is killed before we tell."""
    lost = []
    deadline = time.monotonic() + 1.0  # what the kernel cannot kill in that time must not keep the other slots waiting
    while True:
        pid, status = _dead_child()
        number = shims.pop(pid, None)
        if number is not None and status != 0:
            lost.append(number)
        if pid == 0:
            strangers = [child for child in processes.children() if child not in shims]
            if not strangers or time.monotonic() > deadline:
                return lost
            for stranger in strangers:
                processes.kill_child(stranger)
            time.sleep(0.001)


def _dead_child() -> tuple[int, int]:
    """Reap one: its pid and status; pid 0 when none is dead."""
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0, 0


def _tell(control: socket.socket, number: int) -> None:
    with contextlib.suppress(ConnectionError):  # the lab is gone: there is nobody to tell
        control.send(json.dumps(["ended", number]).encode())


def main(words: list[str]) -> int:
    """The two commands of this module."""
    match words:
        case ["run", folder]:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            lock = take_lock(Path(folder))
            if lock is None:
                sys.stderr.write(f"nightlab: {folder} is in use by another run\n")
                return 3
            run(prepare(Path(folder)))
        case ["serve", descriptor]:
            serve(socket.socket(fileno=int(descriptor)))
        case _:
            sys.stderr.write("usage: python -m nightlab.shim run FOLDER | serve FD\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
