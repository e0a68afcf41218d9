"""The sandbox: the jail a run lives in. A ladder of levels, each proved by really running it.

    bubblewrap   own namespaces: sees the system, its interpreter and what the job names; no network
    process      own process group and rlimits; a run can read and write whatever its user can

A rung is a function from a Job to a command line and its environment, listed in `_RUNGS`, strongest first.
What a level does not cover stands in its function's docstring. The limits of a run are held by the shim, not here.
"""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from glob import escape, glob
from hashlib import blake2b
from pathlib import Path

from nightlab.errors import NightlabError
from nightlab.values import Job, Limits

Command = tuple[list[str], dict[str, str]]
"""The words to execute and the whole environment to execute them in."""
Places = dict[str, list[str]]
"""Where in the box -> the bubblewrap options that put something there."""

WRAPPED = frozenset({"bubblewrap"})
"""Levels whose first process is the jail's own: when it ends, everything inside has ended with it."""

_FLAGS = (
    *("--die-with-parent", "--new-session", "--unshare-all", "--unshare-user", "--disable-userns"),
    *("--cap-drop", "ALL"),
)
_ETC = ("alternatives", "hosts", "ld.so.cache", "localtime", "passwd")


def command(level: str, job: Job) -> Command:
    """What to execute, and with which environment, so that the job runs at this level."""
    return _RUNGS[level](job)


def probe(forced: str | None = None) -> str:
    """The strongest level that works here, found by running it; a forced level works or raises."""
    if forced is not None and forced not in _RUNGS:
        raise NightlabError(f"there is no sandbox level {forced!r}; choose from {', '.join(_RUNGS)}")
    for level in [forced] if forced else _RUNGS:
        trouble = why_not(level)
        if trouble is None:
            return level
    raise NightlabError(f"the sandbox level {level!r} does not work here: {trouble}")


@cache
def why_not(level: str) -> str | None:
    """What keeps this level from working here, in words; None when a command really ran in it."""
    # Not at the top: both bring modules that do something after every fork, 0.6 ms in each of the shim's two.
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory(prefix="nightlab-probe-") as name:
        folder = Path(name)
        (folder / "tree").mkdir()
        (folder / "out").mkdir()
        job = Job(id="probe", argv=("sh", "-c", "echo reached"), tree=folder / "tree", folder=folder, token="")
        try:
            argv, env = command(level, job)
            ran = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
        except (OSError, NightlabError, subprocess.TimeoutExpired) as error:
            return str(error)
    if ran.returncode == 0 and ran.stdout == b"reached\n":
        return None
    return ran.stderr.decode("utf-8", "replace").strip() or f"exit code {ran.returncode}"


def warm() -> None:
    """Learn once what every run's jail is built from; forks of this process then know it."""
    _system()
    _dying_with_its_parent()
    _homes_on(os.environ.get("PATH", os.defpath))


def mark(job: Job) -> tuple[str, str]:
    """The variable that lets recovery find what this attempt left running; it does not give the token away."""
    text = f"{job.folder}\0{job.token}"
    return "NIGHTLAB_ATTEMPT", blake2b(text.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()


def rlimits(limits: Limits) -> list[tuple[int, int]]:
    """Limits the kernel itself holds on each process, at every level.

    CPU is a second line, in case the run stops its shim. Not covered here: memory (RLIMIT_AS counts reservations, which
    GPU libraries make by the terabyte) and the number of processes (RLIMIT_NPROC counts the user's, not the run's).
    """
    lines = [(resource.RLIMIT_CORE, 0)]
    if limits.cpu is not None:
        lines.append((resource.RLIMIT_CPU, int(limits.cpu) + 5))
    return lines


def tidy(level: str, job: Job) -> None:
    """Clear away what showing things to the run has left in the tree and the folder."""
    if level == "process":
        for name in ("home", "tmp"):
            if not _remove_stub(job.folder / name):
                shutil.rmtree(job.folder / name, ignore_errors=True)
    for where in job.mounts:
        place = _place(where, job.tree, _home())
        if place.is_relative_to(job.tree) and not _is_detour(place, job.tree):
            _remove_stub(place)


def _remove_stub(place: Path) -> bool:
    """Remove an empty file or folder, which the jail leaves where it mounted something, or a link in its place."""
    try:
        mode = place.lstat()
        if stat.S_ISDIR(mode.st_mode):
            place.rmdir()
        elif stat.S_ISLNK(mode.st_mode) or mode.st_size == 0:
            place.unlink()
    except OSError:  # gone already, or not empty and therefore not ours
        return False
    return True


def _environment(job: Job, *, home: str, temporary: str) -> dict[str, str]:
    """All a run is told: nothing of the caller's own environment but PATH, and what the job adds."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": home,
        "TMPDIR": temporary,
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_CEILING_DIRECTORIES": str(job.tree.parent),
        "NIGHTLAB_OUT": str(job.folder / "out"),
        **job.env,
        **dict([mark(job)]),
    }


def _place(where: str, tree: Path, home: str) -> Path:
    """A mount's target: `~` is the run's home, anything relative is in its tree."""
    if where == "~" or where.startswith("~/"):
        return Path(os.path.normpath(home + where[1:]))
    return Path(os.path.normpath(tree / where))


def _is_detour(place: Path, root: Path) -> bool:
    """Whether a symbolic link on the way to this place leads out of the root.

    Not covered: a link made between this look and its use, by another process that can write to the tree.
    """
    return not Path(os.path.realpath(place.parent)).is_relative_to(os.path.realpath(root))


def _refuse_detour(place: Path, root: Path) -> None:
    if place.is_relative_to(root) and _is_detour(place, root):
        raise NightlabError(f"cannot show anything at {place}: a symbolic link on the way leads out of {root}")


# ---- process ----


def _process(job: Job) -> Command:
    """A process group of its own, a clean environment, and limits held from outside.

    Not covered: reading or writing any file its user can, the network, signals to the user's other processes (its own
    shim among them), memory between two looks. Only for code you would run by hand.
    """
    home, temporary = job.folder / "home", job.folder / "tmp"
    for folder in (home, temporary):
        folder.mkdir(exist_ok=True)
    for where, what in job.mounts.items():
        _link(_place(where, job.tree, str(home)), what, roots=(job.tree, home))
    return [*_dying_with_its_parent(), *job.argv], _environment(job, home=str(home), temporary=str(temporary))


@cache
def _dying_with_its_parent() -> tuple[str, ...]:
    """What to put before a command so that the kernel ends it when its shim dies; nothing where setpriv is missing."""
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()


def _link(place: Path, what: str, *, roots: Iterable[Path]) -> None:
    if os.path.realpath(place) == os.path.realpath(what):
        return  # there already: at this level the run sees what its user sees
    root = next((root for root in roots if place.is_relative_to(root)), None)
    if root is None:
        raise NightlabError(f"the level 'process' cannot show {what} at {place}; name a place in the tree or under ~")
    _refuse_detour(place, root)
    place.parent.mkdir(parents=True, exist_ok=True)
    _remove_stub(place)
    place.symlink_to(what)


# ---- bubblewrap ----


def _bubblewrap(job: Job) -> Command:
    """An allow-list: the system and the interpreter read-only, the job's own folders, and nothing else of this machine.

    Not covered: holes in the kernel, the size of what is written to the tree and `out/`, host names and users as /etc
    knows them, time and load as side channels. Private temporary folders are memory; each is bounded, their sum is not.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise NightlabError("bubblewrap is not installed; for example: apt install bubblewrap")
    home = _home()
    env = _environment(job, home=home, temporary="/tmp")
    places = _system() | _interpreters(job, env["PATH"]) | _devices() | _private(job.limits, home)
    places |= _visible_program(job, env["PATH"], places) | _job_places(job, home) | _hidden(job)
    argv = [bwrap, *_FLAGS]
    # Sorted, a folder comes before what lies in it, so the more specific of two places always wins.
    for where in sorted(places):
        argv += places[where]
    # The tree last: until then places are made in it for what is shown there.
    argv += ["--remount-ro", "/", *(["--remount-ro", str(job.tree)] if job.keeps_tree else [])]
    for name, value in env.items():
        argv += ["--setenv", name, value]
    argv += ["--chdir", str(job.tree), "--", *job.argv]
    # bwrap itself starts with no environment at all: what it is given can be read inside, from /proc/1/environ.
    return argv, {}


def _show(option: str, *paths: str | Path) -> Places:
    return {str(path): [option, str(path), str(path)] for path in paths}


def _home() -> str:
    """The user's real home, so that a path written into the data still holds; inside the box it is empty."""
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # a container may run as a number without a name
        home = "/"
    return "/home/run" if home in ("/", "") else home


@cache
def _system() -> Places:
    """The parts of the system that are the same for everyone: programs, libraries, and a few files of /etc."""
    names = ["/usr", "/nix/store", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"]
    names += [f"/etc/{name}" for name in _ETC]
    places = _show("--ro-bind", *filter(os.path.exists, names))
    return places | {name: ["--symlink", os.readlink(name), name] for name in names if os.path.islink(name)}


def _private(limits: Limits, home: str) -> Places:
    """Fresh kernel file systems, and empty folders in memory; /proc/sys read-only, for real root could write to it."""
    size = [] if limits.memory_mb is None else ["--size", str(int(limits.memory_mb * 1024 * 1024))]
    places = {where: [*size, "--tmpfs", where] for where in ("/tmp", "/dev/shm", home)}
    return places | {
        "/dev": ["--dev", "/dev"],
        "/proc": ["--proc", "/proc"],
        "/proc/sys": ["--ro-bind", "/proc/sys", "/proc/sys"],
    }


def _devices() -> Places:
    """NVIDIA's device nodes, all of them. Not covered: keeping a run off a GPU that is not its own, other makers."""
    nodes = glob("/dev/nvidia*")
    return _show("--dev-bind", *nodes) | _show("--ro-bind", "/sys") if nodes else {}


def _interpreters(job: Job, path: str) -> Places:
    """Every Python the run may mean: its own, those on PATH, ours, and tools (pyenv, asdf) behind a folder of shims."""
    program = _program(job, path)
    homes = _homes_on(path).union(_python_homes(program) if program else ())
    # Each mount costs bubblewrap a quarter of a millisecond: none for what lies in another.
    shown = [home for home in homes if not any(_is_below(home, other) for other in ("/usr", *homes))]
    return _show("--ro-bind", *shown)


def _is_below(path: str, other: str) -> bool:
    return path.startswith(other + "/")


@cache  # filled by the warm server: a run would pay half a millisecond for it
def _homes_on(path: str) -> frozenset[str]:
    named = [shutil.which(name, path=path) for name in ("python", "python3")]
    homes = {home for program in [*named, sys.executable] if program for home in _python_homes(program)}
    shims = {os.path.dirname(entry) for entry in path.split(":") if os.path.basename(entry) == "shims"}
    return frozenset(homes | set(filter(os.path.isdir, shims)))


def _python_homes(program: str) -> Iterator[str]:
    """The folders a Python needs: its environment, what that stands on, and where the real file lives."""
    prefix = os.path.dirname(os.path.dirname(program))
    settings = os.path.join(prefix, "pyvenv.cfg")
    candidates = [os.path.dirname(os.path.dirname(os.path.realpath(program)))]
    if os.path.isfile(settings):
        yield prefix
        with open(settings, encoding="utf-8") as lines:
            pairs = (line.partition("=") for line in lines)
            candidates += [os.path.dirname(value.strip()) for key, _, value in pairs if key.strip() == "home"]
    # Only what really is a Python's home: for ~/bin/tool the folder above would be the user's whole home.
    yield from filter(_is_python_home, candidates)


def _is_python_home(folder: str) -> bool:
    system = folder in ("/", "/usr") or _is_below(folder, "/usr")
    return not system and bool(glob(os.path.join(escape(folder), "lib", "python3*", "os.py")))


def _program(job: Job, path: str) -> str | None:
    name = job.argv[0]
    return str(job.tree / name) if "/" in name else shutil.which(name, path=path)


def _visible_program(job: Job, path: str, places: Places) -> Places:
    """The program itself where nothing else shows it: a link stays a link, since Python finds its home through it."""
    program = _program(job, path)
    bound = [where for where, words in places.items() if words[0] in ("--ro-bind", "--symlink")]
    if program is None or any(_is_below(program, where) for where in [*bound, str(job.tree)]):
        return {}
    if os.path.islink(program):
        return {program: ["--symlink", os.path.realpath(program), program]}
    return _show("--ro-bind-try", program)


def _job_places(job: Job, home: str) -> Places:
    """What the job names. The tree's `.git` is read-only: whoever can rewrite it has the lab's own git run its code."""
    places = _show("--ro-bind-try", *job.readable) | _show("--bind", *job.writable, job.tree, job.folder / "out")
    git = job.tree / ".git"
    if git.is_symlink():
        raise NightlabError(f"{git} is a symbolic link, so its target would be shown to the run; remove it")
    if git.exists():
        places |= _show("--ro-bind", git)
    for where, what in job.mounts.items():
        place = _place(where, job.tree, home)
        _refuse_detour(place, job.tree)
        places[str(place)] = ["--ro-bind", what, str(place)]
    return places


def _hidden(job: Job) -> Places:
    """An empty folder over every folder that is hidden, nothing over every file."""
    real = {os.path.realpath(path) for path in job.hidden}
    places = {path: ["--tmpfs", path, "--remount-ro", path] for path in real if os.path.isdir(path)}
    return places | {path: ["--ro-bind", "/dev/null", path] for path in real if os.path.isfile(path)}


def standard_libraries(program: str) -> list[Path]:
    """Every folder a run of this program is shown that holds a Python's standard library; large programs bring theirs.

    Not covered: a library in a zip file, and copies of single modules that packages carry.
    """
    tops = {"/usr", *_homes_on(os.environ.get("PATH", os.defpath)), *_python_homes(program)}
    found = {os.path.realpath(folder) for top in tops for folder in _libraries_below(top)}
    return [Path(path) for path in sorted(found)]


_BARREN = {"site-packages", "dist-packages", "node_modules", "doc", "include", "locale", "man", "src"}


def _libraries_below(top: str) -> Iterator[str]:
    for folder, below, names in os.walk(top):
        if {"os.py", "functools.py"} <= set(names):
            yield folder
            below.clear()
        below[:] = set(below) - _BARREN


_RUNGS: dict[str, Callable[[Job], Command]] = {"bubblewrap": _bubblewrap, "process": _process}
LEVELS = tuple(_RUNGS)
"""The ladder, strongest first."""
