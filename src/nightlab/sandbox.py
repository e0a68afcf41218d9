"""The sandbox: the jail a run lives in. A ladder of levels, each proved by really running it.

    bubblewrap      own namespaces: sees the system, its interpreter and what the job names; no network
    landlock        the same by a launcher of ours, for machines without bubblewrap; Landlock is a second line in it
    landlock-only   Landlock and a filter of system calls, where no namespaces can be had; no sockets
    process         own process group and rlimits; a run can read and write whatever its user can

A rung is a function from a Job to a command line and its environment, listed in `_RUNGS`, strongest first.
What a level does not cover stands in its function's docstring. The limits of a run are held by the shim, not here.
The last is no jail, and nobody gets it without having asked for it.
"""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from glob import escape, glob
from hashlib import blake2b
from itertools import takewhile
from pathlib import Path

from nightlab import landlock
from nightlab.errors import NightlabError
from nightlab.values import Job, Limits

Command = tuple[list[str], dict[str, str]]
"""The words to execute and the whole environment to execute them in."""
Places = dict[str, list[str]]
"""Where in the box -> the bubblewrap options that put something there."""

WRAPPED = frozenset({"bubblewrap", "landlock"})
"""Levels whose first process is the jail's own: when it ends, everything inside has ended with it."""

_FLAGS = (
    *("--die-with-parent", "--new-session", "--unshare-all", "--unshare-user", "--disable-userns"),
    *("--cap-drop", "ALL"),
)
_BINDS = ("--ro-bind", "--ro-bind-try", "--bind", "--dev-bind")
_RELAY = "/run/nightlab/relay"
"""Where a box shows the one socket it may talk to."""
_ETC = ("alternatives", "hosts", "ld.so.cache", "localtime", "passwd")


def command(level: str, job: Job) -> Command:
    """What to execute, and with which environment, so that the job runs at this level."""
    return _RUNGS[level](job)


def probe(forced: str | None = None, *, unsafe: bool = False) -> str:
    """The strongest level that works here, found by running it; a forced level works or raises.

    The level `process` is no jail: it is reached only by force, or where nothing else works and `unsafe` was said.
    """
    if forced is not None and forced not in _RUNGS:
        raise NightlabError(f"there is no sandbox level {forced!r}; choose from {', '.join(_RUNGS)}")
    if forced:
        if trouble := why_not(forced):
            raise NightlabError(f"the sandbox level {forced!r} does not work here: {trouble}; {mend(trouble)}")
        return forced
    tried = {}
    for level in LEVELS if unsafe else JAILS:
        trouble = why_not(level)
        if trouble is None:
            return level
        tried[level] = trouble
    found = "; ".join(f"{level}: {trouble}" for level, trouble in tried.items())
    raise NightlabError(
        f"no jail works here, and what an agent writes is not to be trusted ({found}). The mend: "
        f"{mend(tried['bubblewrap'])}. To run without a jail all the same: --unsafe"
    )


def is_weaker(level: str, other: str) -> bool:
    """Whether this level stands below the other on the ladder."""
    return LEVELS.index(level) > LEVELS.index(other)


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
    if level in ("process", "landlock-only"):
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
        **({} if job.relay is None else {"NIGHTLAB_RELAY": str(job.relay)}),
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

    Not covered: reading or writing any file its user can (what the job hides too), the network, every GPU, signals to
    the user's other processes (its own shim among them), memory between two looks. Only for code you would run by hand.
    """
    home, temporary = _folders_of_its_own(job)
    for where, what in job.mounts.items():
        _link(_place(where, job.tree, str(home)), what, roots=(job.tree, home))
    return [*_dying_with_its_parent(), *job.argv], _environment(job, home=str(home), temporary=str(temporary))


def _folders_of_its_own(job: Job) -> tuple[Path, Path]:
    """A home and a place for temporary files, on disk: where there are no mounts, they cannot be memory."""
    for name in ("home", "tmp"):
        (job.folder / name).mkdir(exist_ok=True)
    return job.folder / "home", job.folder / "tmp"


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
        raise NightlabError(f"without mounts {what} cannot be shown at {place}; name a place in the tree or under ~")
    _refuse_detour(place, root)
    place.parent.mkdir(parents=True, exist_ok=True)
    _remove_stub(place)
    place.symlink_to(what)


# ---- bubblewrap ----


def _bubblewrap(job: Job) -> Command:
    """An allow-list: the system and the interpreter read-only, the job's own folders, and nothing else of this machine.

    Not covered: holes in the kernel, the size of what is written to the tree and `out/`, host names and users as /etc
    knows them, time and load as side channels. Private temporary folders are memory; each is bounded, their sum is not.
    A hidden folder is seen empty and a hidden file cannot be read: that there is one can be seen.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise NightlabError("bubblewrap is not installed")
    words, env = _box(job)
    argv = [bwrap, *_FLAGS, *words, "--remount-ro", "/"]
    argv += ["--remount-ro", str(job.tree)] if job.keeps_tree else []  # last: until then places are made in it
    for name, value in env.items():
        argv += ["--setenv", name, value]
    argv += ["--chdir", str(job.tree), "--", *job.argv]
    # bwrap itself starts with no environment at all: what it is given can be read inside, from /proc/1/environ.
    return argv, {}


def _box(job: Job) -> Command:
    """The places of a root of its own, as bubblewrap's words, and the environment in it."""
    home = _home()
    env = _environment(job, home=home, temporary="/tmp")
    places = _shown(job, env) | _private(job.limits, home) | _job_places(job, home)
    if job.relay is not None:
        places |= {_RELAY: ["--ro-bind", str(job.relay), _RELAY]}
        env["NIGHTLAB_RELAY"] = _RELAY
    places |= _hiding(job, places)
    # Sorted, a folder comes before what lies in it, so the more specific of two places always wins.
    return [word for where in sorted(places) for word in places[where]], env


def _shown(job: Job, env: dict[str, str]) -> Places:
    """What of this machine every run sees: system, interpreters, its GPUs, its own program."""
    nodes, visible = gpus(job.env.get("CUDA_VISIBLE_DEVICES"))
    if visible is not None:
        env["CUDA_VISIBLE_DEVICES"] = visible
    places = _system() | _interpreters(job, env["PATH"])
    if nodes:
        places |= _show("--dev-bind", *nodes) | _show("--ro-bind", "/sys")
    return places | _visible_program(job, env["PATH"], places)


def _hiding(job: Job, places: Places) -> Places:
    """Something empty over whatever the job hides, at every place where it would be seen.

    Real paths are compared, so a way around by a link finds it hidden too. Not covered: a second hard link to a file.
    """
    shown = {where: os.path.realpath(words[-2]) for where, words in places.items() if words[0] in _BINDS}
    over: Places = {}
    for path in _really(job.hidden):
        for where, source in shown.items():
            if path == source or _is_below(path, source):
                at = where + path[len(source) :]
                if max((one for one in places if at == one or _is_below(at, one)), key=len) == where:
                    over[at] = ["--tmpfs", at] if os.path.isdir(path) else ["--ro-bind", os.devnull, at]
    return over


def _really(paths: Iterable[Path]) -> list[str]:
    return [os.path.realpath(path) for path in paths if os.path.exists(path)]


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


def _interpreters(job: Job, path: str) -> Places:
    """Every Python the run may mean: its own, those on PATH, ours, and tools (pyenv, asdf) behind a folder of shims."""
    homes = _homes(job, path)
    # Each mount costs bubblewrap a quarter of a millisecond: none for what lies in another.
    shown = [home for home in homes if not any(_is_below(home, other) for other in ("/usr", *homes))]
    return _show("--ro-bind", *shown)


def _homes(job: Job, path: str) -> frozenset[str]:
    program = _program(job, path)
    return _homes_on(path).union(_python_homes(program) if program else ())


_BARREN = {"site-packages", "dist-packages", "node_modules", "doc", "include", "locale", "man", "src"}


def standard_libraries(program: str) -> tuple[list[Path], list[Path]]:
    """Every folder shown to a run of this program that holds a Python's standard library: its own, and others'.

    Large programs bring their own Python. Not covered: a library in a zip file, copies of single modules that packages
    carry, and a Python in the job's own tree or data.
    """
    mine = [*_python_homes(program), *glob("/usr/lib*/python3*"), *glob("/usr/local/lib/python3*")]
    tops = {"/usr", *_homes_on(os.environ.get("PATH", os.defpath)), *mine}
    found = {os.path.realpath(folder) for top in tops for folder in _libraries_below(top)}
    own = {folder for folder in found if any(_is_in(folder, os.path.realpath(home)) for home in mine)}
    return [Path(path) for path in sorted(own)], [Path(path) for path in sorted(found - own)]


def _is_in(path: str, other: str) -> bool:
    return path == other or _is_below(path, other)


def _libraries_below(top: str) -> Iterator[str]:
    for folder, below, names in os.walk(top):
        if {"os.py", "functools.py"} <= set(names):
            yield folder
            below.clear()
        below[:] = set(below) - _BARREN


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


# ---- Landlock ----


def _landlock(job: Job) -> Command:
    """The same box as bubblewrap's, built by a small launcher of our own, with Landlock as a second line inside it.

    Not covered: what bubblewrap does not cover either; a tree to be kept that has data shown in it; pseudo-terminals,
    which this box has none of; and moving files between folders on kernels before 5.19, which Landlock forbids there.
    """
    words, env = _box(job)
    if job.keeps_tree and not job.mounts:
        where = words.index(str(job.tree)) - 1
        words[where] = "--ro-bind"
    return _launch(job, "apart", words), env


def _landlock_only(job: Job) -> Command:
    """Landlock's allow-list of files, no capabilities, and no socket but to a relay; for where no namespace can be had.

    Not covered: that files elsewhere exist, and their sizes and times (only what is in them is closed); the command
    lines of the user's other processes in /proc, their priorities and limits, and signals to them before Linux 6.12;
    the user's System V shared memory and key rings; with a relay, every local socket its user may use. There is no
    private /dev/shm, so what needs one fails. Nor could `.git` of its tree be read-only: a tree with one is refused.
    """
    home, temporary = _folders_of_its_own(job)
    env = _environment(job, home=str(home), temporary=str(temporary))
    if (job.tree / ".git").exists():
        raise NightlabError(f"without namespaces {job.tree / '.git'} cannot be kept from the run; remove it")
    for where, what in job.mounts.items():
        _link(_place(where, job.tree, str(home)), what, roots=(job.tree, home))
    readable = [words[-2] for words in _shown(job, env).values() if words[0].startswith("--ro-bind")]
    readable += ["/proc", *map(str, job.readable), *job.mounts.values()]
    tree, kept = ((), [str(job.tree)]) if job.keeps_tree else ((job.tree,), [])
    readable += kept
    nodes = gpus(job.env.get("CUDA_VISIBLE_DEVICES"))[0]
    hidden = _really(job.hidden)
    allowed = [line for place in readable for line in _around(os.path.realpath(place), hidden)]
    for place in map(os.path.realpath, (*job.writable, *tree, job.folder / "out", home, temporary)):
        if inside := [path for path in hidden if _is_below(path, place)]:
            raise NightlabError(f"without namespaces {inside[0]} cannot be hidden: the run may write to {place}")
        allowed.append(["--bind", place, place])
    allowed += [["--dev-bind", node, node] for node in nodes]
    return _launch(job, "here", [word for line in allowed for word in line]), env


def _around(place: str, hidden: list[str]) -> Iterator[list[str]]:
    """What to allow so that all of this place can be read but what is hidden in it, whose name can still be listed."""
    inside = [path for path in hidden if _is_below(path, place)]
    if place in hidden:
        return
    if not inside:
        yield ["--ro-bind", place, place]
        return
    yield ["--list", place]
    for entry in os.scandir(place):
        if not entry.is_symlink():
            yield from _around(entry.path, inside)


def _launch(job: Job, how: str, words: list[str]) -> list[str]:
    launcher = [sys.executable, "-I", "-S", landlock.__file__, how, *([] if job.relay is None else ["--relay"])]
    return [*launcher, *words, "--chdir", str(job.tree), "--", *job.argv]


# ---- GPUs ----


def gpus(assigned: str | None, root: Path = Path("/")) -> tuple[tuple[str, ...], str | None]:
    """The device nodes of the GPUs that CUDA_VISIBLE_DEVICES assigns, and how to call them where only they are.

    By number they would be counted anew in the box, so their lasting names take its place. None: all there are.
    Numbers count by bus address, as nvidia-smi does. Not covered: CUDA's own order of unlike cards (fastest first),
    parts of a card (MIG), for which every node is shown, and other makers' devices.
    """
    nodes = [f"/{node.relative_to(root)}" for node in sorted(root.glob("dev/nvidia*"))]
    if assigned is None or "MIG" in assigned:
        return tuple(nodes), None
    cards = [_card(text.read_text()) for text in sorted(root.glob("proc/driver/nvidia/gpus/*/information"))]
    mine = []
    for name in assigned.split(","):
        card = next((card for n, card in enumerate(cards) if _is_called(name.strip(), n, card[0])), None)
        if card is None:
            break  # as CUDA does: the list ends at the first name that is none
        mine.append(card)
    own = {f"/dev/nvidia{minor}" for _, minor in mine}
    shared = [node for node in nodes if mine and not node.removeprefix("/dev/nvidia").isdigit()]
    return tuple(node for node in nodes if node in own or node in shared), ",".join(name for name, _ in mine)


def cards(assigned: str | None, root: Path = Path("/")) -> list[tuple[str, str]]:
    """The lasting name and the model of each GPU that CUDA_VISIBLE_DEVICES assigns, or of all; no parts of cards."""
    texts = [text.read_text() for text in sorted(root.glob("proc/driver/nvidia/gpus/*/information"))]
    found = [(_card(text)[0], _model(text)) for text in texts]
    if assigned is None:
        return found
    chosen = [
        next((n for n, (name, _) in enumerate(found) if _is_called(one.strip(), n, name)), None)
        for one in assigned.split(",")
    ]
    return [] if "MIG" in assigned else [found[n] for n in takewhile(lambda n: n is not None, chosen) if n is not None]


def _model(text: str) -> str:
    lines = dict(line.partition(":")[::2] for line in text.splitlines())
    return lines.get("Model", "").strip()


def _card(text: str) -> tuple[str, str]:
    """A card's lasting name, and the number of its node."""
    lines = dict(line.partition(":")[::2] for line in text.splitlines())
    return lines.get("GPU UUID", "").strip(), lines.get("Device Minor", "").strip()


def _is_called(name: str, number: int, lasting: str) -> bool:
    return name == str(number) or (name.startswith("GPU-") and lasting.startswith(name))


# ---- refusals ----


def mend(refusal: str, settings: Mapping[str, str] | None = None) -> str:
    """What makes a jail work that refused with these words, given the kernel's settings (read here unless given)."""
    found = _settings() if settings is None else settings
    for words, setting, cure in _MENDS:
        if any(word in refusal for word in words) and (not setting or setting.items() <= found.items()):
            return cure
    return "sudo apt-get install bubblewrap, version 0.8 or newer; then: nightlab doctor"


def _settings() -> dict[str, str]:
    names = ("kernel/apparmor_restrict_unprivileged_userns", "kernel/unprivileged_userns_clone")
    found = {}
    for name in (*names, "user/max_user_namespaces"):
        with suppress(OSError):
            found[name] = Path("/proc/sys", name).read_text().strip()
    is_container = any(map(os.path.exists, ("/.dockerenv", "/run/.containerenv")))
    return found | {"container": str(is_container)}


_REFUSED = (
    *("No permissions to create new namespace", "Creating new namespace failed", "uid map", "RTM_NEWADDR"),
    *("Failed to make / slave", "Can't mount", "pivot_root", "unshare"),
)
_APPARMOR = (
    "AppArmor keeps user namespaces from bubblewrap; allow them to it alone: printf 'abi <abi/4.0>,\\ninclude "
    "<tunables/global>\\nprofile bwrap /usr/bin/bwrap flags=(unconfined) {\\n  userns,\\n}\\n' | sudo tee "
    "/etc/apparmor.d/bwrap && sudo apparmor_parser -r /etc/apparmor.d/bwrap - or, for every program: "
    "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
)
_MENDS: tuple[tuple[tuple[str, ...], dict[str, str], str], ...] = (
    (("not installed",), {}, "sudo apt-get install bubblewrap"),
    (("nknown option",), {}, "this bubblewrap is too old; install version 0.8 or newer"),
    (("does not support user namespaces",), {}, "this kernel has no user namespaces; boot one with CONFIG_USER_NS"),
    (_REFUSED, {"user/max_user_namespaces": "0"}, "sudo sysctl -w user.max_user_namespaces=15000"),
    (_REFUSED, {"kernel/unprivileged_userns_clone": "0"}, "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
    (
        _REFUSED,
        {"container": "True"},
        "the container forbids namespaces; start it with: docker run --security-opt seccomp=unconfined "
        "--security-opt apparmor=unconfined --security-opt systempaths=unconfined",
    ),
    (_REFUSED, {"kernel/apparmor_restrict_unprivileged_userns": "1"}, _APPARMOR),
    (("exceeded",), {}, "sudo sysctl -w user.max_user_namespaces=15000; or leave the namespace this one is nested in"),
    (("uid map: Permission denied", "RTM_NEWADDR"), {}, _APPARMOR),
)

_RUNGS: dict[str, Callable[[Job], Command]] = {
    "bubblewrap": _bubblewrap,
    "landlock": _landlock,
    "landlock-only": _landlock_only,
    "process": _process,
}
LEVELS = tuple(_RUNGS)
"""The ladder, strongest first."""
JAILS = LEVELS[:-1]
"""Those that hold code nobody has read."""
