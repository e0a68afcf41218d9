"""Processes: what /proc says of a tree of them, and how to signal one without hitting a stranger."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

_TICK = 1.0 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class Process(NamedTuple):
    """One line of /proc/PID/stat. `cpu` counts its reaped children too, in seconds; `start` is in ticks since boot.

    `reaped` is the children's part of it.
    """

    pid: int
    parent: int
    session: int
    is_zombie: bool
    cpu: float
    start: int
    rss: int
    reaped: float


def look(pid: int) -> Process | None:
    """The process of this number, or None when there is none (any more)."""
    try:
        # os.open, not open(): a whole scan costs a third this way.
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return None
    try:
        text = os.read(file, 1024)
    except OSError:
        return None
    finally:
        os.close(file)
    # The name stands in brackets and may hold anything, brackets and blanks too.
    words = text[text.rindex(b")") + 2 :].split()
    own, reaped = (int(words[11]) + int(words[12])) * _TICK, (int(words[13]) + int(words[14])) * _TICK
    is_zombie, start, rss = words[0] in (b"Z", b"X"), int(words[19]), int(words[21]) * _PAGE
    return Process(pid, int(words[1]), int(words[3]), is_zombie, own + reaped, start, rss, reaped)


def unaccounted(before: Sequence[Process], now: Sequence[Process], reaped: float) -> float:
    """CPU seconds of processes that are gone and that nobody was told of: a parent may refuse to wait for its children.

    `reaped` is what the looker's own reaped children gained meanwhile. Not covered: what lived only between two looks.
    """
    still = {(process.pid, process.start): process for process in now}
    pairs = [(process, still.get((process.pid, process.start))) for process in before]
    lost = sum(process.cpu for process, after in pairs if after is None)
    told = reaped + sum(after.reaped - process.reaped for process, after in pairs if after)
    return max(0.0, lost - told - _TICK * len(pairs))  # each figure is rounded down to a tick


def every() -> Iterator[Process]:
    """All processes this one can see."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := look(int(name))):
            yield process


def descendants(*roots: int) -> list[Process]:
    """Everything below these processes, parents before children; they themselves are not among it."""
    below: dict[int, list[Process]] = {}
    for process in every():
        below.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    for root in roots:
        found += below.get(root, ())
    for process in found:
        found += below.get(process.pid, ())
    return found


def children() -> list[int]:
    """The direct children of this (single-threaded) process, dead ones it has not reaped included."""
    try:
        with open("/proc/thread-self/children", "rb") as file:
            return [int(word) for word in file.read().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        here = os.getpid()
        return [process.pid for process in every() if process.parent == here]


def send(process: Process, signum: int) -> None:
    """Signal this very process: a pidfd and its start time rule out that the number has passed to another."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        now = look(process.pid)
        if now and now.start == process.start:
            signal.pidfd_send_signal(handle, signum)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def kill_child(pid: int) -> None:
    """Kill a child that is not reaped yet, with its process group.

    The kernel signals a group in one step that no fork can slip through, which is what ends a fork bomb. Nobody but us
    can reap the child, so neither its number nor its group's can have passed to a stranger.
    """
    try:
        group = os.getpgid(pid)
        if group == os.getpgrp():  # it has not left our own group yet
            os.kill(pid, signal.SIGKILL)
        else:
            os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def share(process: Process) -> int:
    """Its memory in bytes, shared pages divided among those who share them; all of it where the kernel will not say."""
    try:
        with open(f"/proc/{process.pid}/smaps_rollup", "rb") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss:")), process.rss)
    except (FileNotFoundError, ProcessLookupError):  # it ended since it was looked at
        return 0
    except OSError:
        return process.rss


def is_marked(pid: int, mark: str) -> bool:
    """Whether this `NAME=value` stood in its environment when it was started."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return os.fsencode(mark) in file.read().split(b"\0")
    except OSError:
        return False


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option} was refused")


def become_subreaper() -> None:
    """Make every orphan below this process its child, so that nothing gets away by daemonizing."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int, signum: int) -> None:
    """Ask for this signal when the parent dies; in truth when the thread that forked us ends: be it the main one."""
    _prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signum)
