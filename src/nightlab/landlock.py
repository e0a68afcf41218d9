"""The second rung of the jail, and the third: a launcher that shuts itself in by Landlock and becomes the run.

    python -I -S landlock.py apart [--relay] WORDS... --chdir FOLDER -- COMMAND...
    python -I -S landlock.py here  [--relay] WORDS... --chdir FOLDER -- COMMAND...

WORDS are the few of bubblewrap's own that name a place. `apart` leaves the machine's namespaces for a root that holds
these places only, and Landlock is a second line behind it. `here` has Landlock alone: places cannot be moved
(`--ro-bind X X`, never X Y), and a filter forbids making sockets.

It is a program of its own, started once for every run: it imports nothing of ours, and little else.
Needs Linux 5.13 or later, built with Landlock.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import sys
from collections.abc import Iterator, Sequence

_APART = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
"""Every namespace but time: mounts, cgroup, host name, IPC, users, processes, network."""

Place = tuple[str, str, str]
"""What to do (one of bubblewrap's words), with what, and where."""

_BINDS = ("--ro-bind", "--ro-bind-try", "--bind", "--dev-bind")
_NODES = ("null", "zero", "full", "random", "urandom", "tty")
_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD, _RECURSIVE, _EMPTY_PATH = -100, 0x8000, 0x1000

# Landlock's rights, as bits: what its first version knew, then one more with each of these versions.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_ALL = (1 << 16) - 1
_SINCE = (2, 3, 5)
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_DEVICE = _READ_FILE | _WRITE_FILE | _IOCTL | _READ_DIR
_WRITE = _ALL & ~(1 << 6) & ~(1 << 11)  # everything but making device nodes
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
_RIGHTS = {
    "--ro-bind": _READ,
    "--ro-bind-try": _READ,
    "--proc": _READ,
    "--list": _READ_DIR,
    "--bind": _WRITE,
    "--tmpfs": _WRITE,
    "--dev": _DEVICE,
    "--dev-bind": _DEVICE,
}

_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""Name -> the number the kernel gives the architecture, and that of its call `socket`."""


def main(words: list[str]) -> int:
    """Shut the door behind us, then start the command; its exit code as a shell says it."""
    cut = words.index("--")
    is_apart, has_relay, command = words[0] == "apart", words[1] == "--relay", words[cut + 1 :]
    places = list(parse(words[2 if has_relay else 1 : cut - 2]))
    try:
        if is_apart:
            _leave_namespaces()
        _die_with_parent()
        if is_apart and (child := os.fork()):
            return _exit_code(child)
        if is_apart:
            _die_with_parent()
            _build_root(places)
        _shut(places, is_apart=is_apart, has_relay=has_relay)
        os.chdir(words[cut - 1])
        if is_apart and (child := os.fork()):  # we are the namespace's first process: when we end, all in it end
            return _exit_code(child)
    except OSError as error:
        return _complain(f"cannot shut the run in: {error}", 126)
    return _become(command)


def parse(words: Sequence[str]) -> Iterator[Place]:
    """The places that these words name."""
    rest, size = iter(words), ""
    for word in rest:
        if word == "--size":
            size = f",size={next(rest)}"
        elif word in ("--tmpfs", "--dev", "--proc", "--list"):
            yield word, size, next(rest)
            size = ""
        else:
            yield word, next(rest), next(rest)


def _call(name: str, *words: int | bytes | None) -> int:
    """A function of the C library, or of the kernel behind its `syscall`; raises what it complains of."""
    given = [ctypes.c_long(word) if isinstance(word, int) else word for word in words]
    result = int(getattr(_LIBC, name)(*given))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _exit_code(child: int) -> int:
    """Reap until this child has ended; 128 more than the signal that ended it, as bubblewrap says it."""
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code


def _become(command: list[str]) -> int:
    for signum in (13, 25):  # SIGPIPE and SIGXFSZ: an interpreter ignores them, a program should not
        _LIBC.signal(signum, None)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        return _complain(f"cannot start {command[0]}: {error.strerror}", 127)


def _complain(words: str, code: int) -> int:
    os.write(2, os.fsencode(f"nightlab: {words}\n"))
    return code


def _die_with_parent() -> None:
    """Have the kernel end us when our parent ends; if it has already, nobody reads any more what we print."""
    _call("prctl", 1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, KILL
    output = select.poll()
    output.register(1, 0)
    if any(event & select.POLLERR for _, event in output.poll(0)):
        os._exit(137)


# ---- namespaces ----


def _leave_namespaces() -> None:
    """Our user is the only one of the new namespace, under its own number."""
    user, group = os.geteuid(), os.getegid()
    _call("unshare", _APART)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        _write(f"/proc/self/{name}", text)
    try:  # noqa: SIM105 - contextlib is one more module to import
        _write("/proc/sys/user/max_user_namespaces", "0")  # the new one's own setting: none below it
    except OSError:  # read-only in a container; Landlock still forbids to mount anything there
        pass
    _raise_loopback()


def _write(path: str, text: str) -> None:
    file = os.open(path, os.O_WRONLY)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def _raise_loopback() -> None:
    """A run may talk to itself; not by the module `socket`, which takes longer to import than all the rest."""
    import _socket
    import fcntl

    talk = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    fcntl.ioctl(talk.fileno(), 0x8914, struct.pack("16sh22x", b"lo", 0x41))  # SIOCSIFFLAGS: up and running
    talk.close()


def _build_root(places: Sequence[Place]) -> None:
    """Make a root that holds these places and nothing else, and move into it."""
    _call("mount", None, b"/", None, 0x4000 | 0x40000, None)  # recursively private
    # Taken before anything is mounted, so that no place can hide another's source.
    taken = [(place, _take(*place)) for place in places]
    nodes = {name: _take("--dev-bind", f"/dev/{name}", "") for name in _NODES}
    _call("mount", b"tmpfs", b"/tmp", b"tmpfs", 6, b"mode=755")
    os.chdir("/tmp")
    for (kind, what, where), mount in taken:
        target = where.lstrip("/")
        if kind in _BINDS:
            _put(mount, target)
        elif kind == "--symlink":
            _make_way(target)
            os.symlink(what, target)
        else:
            os.makedirs(target, exist_ok=True)
            system = "proc" if kind == "--proc" else "tmpfs"
            limits = None if kind == "--proc" else f"mode=755{what}".encode()
            _call("mount", system.encode(), os.fsencode(target), system.encode(), 6, limits)
        if kind == "--dev":
            for name, node in nodes.items():
                _put(node, f"{target}/{name}")
            for name, there in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
                os.symlink(f"/proc/self/fd{there}", f"{target}/{name}")
    _call("pivot_root", b".", b".")
    _call("umount2", b".", 2)  # what is on top: the old root
    os.chdir("/")


def _take(kind: str, source: str, _: str) -> int | None:
    """A copy of what is mounted there, as a descriptor; read-only where it is to be."""
    if kind not in _BINDS:
        return None
    try:
        mount = _call("syscall", 428, _AT_FDCWD, os.fsencode(source), 1 | os.O_CLOEXEC | _RECURSIVE)
    except FileNotFoundError:
        if kind == "--ro-bind-try":
            return None
        raise
    if kind.startswith("--ro"):
        _call("syscall", 442, mount, b"", _EMPTY_PATH | _RECURSIVE, struct.pack("4Q", 1, 0, 0, 0), 32)
    return mount


def _put(mount: int | None, target: str) -> None:
    if mount is None:
        return
    _make_way(target)
    if not os.path.lexists(target):
        if os.path.isdir(f"/proc/self/fd/{mount}"):
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    _call("syscall", 429, mount, b"", _AT_FDCWD, os.fsencode(target), 4)
    os.close(mount)


def _make_way(target: str) -> None:
    if folder := os.path.dirname(target):
        os.makedirs(folder, exist_ok=True)


# ---- Landlock and its neighbours ----


def _shut(places: Sequence[Place], *, is_apart: bool, has_relay: bool) -> None:
    _give_up_power()
    if is_apart:  # all that is there may be read
        writable = [place for place in places if _RIGHTS.get(place[0], _READ) != _READ]
        _enclose([("--ro-bind", "/", "/"), *writable], has_network=True)
    else:
        nodes = [("--dev-bind", "", f"/dev/{name}") for name in _NODES]
        _enclose([*(place for place in places if place[0] != "--dev"), *nodes], has_network=False)
        _forbid_sockets(has_relay=has_relay)


def _give_up_power() -> None:
    """No capabilities, now or later; and nothing that we start can have more rights than we."""
    _call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    for capability in range(64):
        try:
            _call("prctl", 24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
        except OSError:  # past the last one; or we have none to drop, and no way to get any
            break
    _call("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))


def handled(version: int, *, has_network: bool) -> tuple[int, int, int]:
    """What this version of Landlock can deny, as bits: acts on files, TCP (bind, connect), and abstract sockets and
    signals to what is outside."""
    files = (1 << (13 + sum(version >= since for since in _SINCE))) - 1
    return files, 3 if version >= 4 and not has_network else 0, 3 if version >= 6 else 0


def _enclose(places: Sequence[Place], *, has_network: bool) -> None:
    """Allow these places; deny every other file, and TCP where no namespace of our own does it better."""
    version = _call("syscall", 444, None, 0, 1)
    known, net, scoped = handled(version, has_network=has_network)
    ruleset = _call("syscall", 444, struct.pack("3Q", known, net, scoped), 24, 0)
    for kind, _, where in places:
        if rights := _RIGHTS.get(kind, 0):
            _allow(ruleset, where, rights & known)
    _call("syscall", 446, ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, place: str, rights: int) -> None:
    try:
        file = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # gone, or not ours to see
        return
    if not os.path.isdir(f"/proc/self/fd/{file}"):
        rights &= _ON_FILES
    _call("syscall", 445, ruleset, 1, struct.pack("=Qi", rights, file), 0)
    os.close(file)


def _forbid_sockets(*, has_relay: bool) -> None:
    """Close what Landlock leaves open, UDP and the sockets of others in the file system: no socket is made at all.

    With a relay to talk to, local ones may be made. Not covered then: any other local socket that our user may use.
    """
    name = os.uname().machine
    if name not in _MACHINES:
        raise OSError(f"no filter of system calls is known for {name}")
    machine, number = _MACHINES[name]
    program: list[tuple[int, str, str, int]] = [
        (0x20, "", "", 4),  # the architecture: another one numbers its calls otherwise
        (0x15, "", "deny", machine),
        (0x20, "", "", 0),  # the call's number
        (0x35, "deny", "", 0x40000000),  # a second table of calls of the same machine
        (0x15, "deny", "", 425),  # io_uring, which makes sockets without a call
        (0x15, "" if has_relay else "deny", "allow", number),
        *([(0x20, "", "", 16), (0x15, "allow", "deny", 1)] if has_relay else []),  # its first argument: AF_UNIX
    ]
    ends = {"allow": len(program), "deny": len(program) + 1}
    words = [
        struct.pack("HBBI", code, *(ends[way] - at - 1 if way else 0 for way in (yes, no)), value)
        for at, (code, yes, no, value) in enumerate(program)
    ]
    words += [struct.pack("HBBI", 6, 0, 0, verdict) for verdict in (0x7FFF0000, 0x00050000 | 13)]  # or EACCES
    text = ctypes.create_string_buffer(b"".join(words))
    _call("prctl", 22, 2, struct.pack("HxxxxxxP", len(words), ctypes.addressof(text)), 0, 0)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
