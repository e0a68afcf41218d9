"""A berth: where a run lies on another machine. It lays out what it was sent, runs it in the jail, and packs the rest.

It knows no engine: whatever carries its words there and back (Ray does) is told apart from what is done here.
"""

from __future__ import annotations

import os
import platform
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nightlab import __version__, facts, sandbox
from nightlab.errors import NightlabError
from nightlab.executor import LocalExecutor, Share
from nightlab.executors.parcel import Listing, Reader, Store, change, lay, read
from nightlab.values import Job, Run
from nightlab.workspace import remove

LINGER = 0.25
"""Seconds a run goes on after its berth was lost: nobody can adopt it there."""
Fetch = Callable[[list[str]], Mapping[str, bytes]]


@dataclass(frozen=True, slots=True)
class Errand:
    """A job and the listings of the places it names, as they are where it comes from."""

    job: Job
    tree: Listing
    readable: tuple[Listing, ...] = ()

    @property
    def names(self) -> set[str]:
        """The hashes of everything it needs."""
        return {entry[2] for listing in (self.tree, *self.readable) for entry in listing.values() if entry[0] == "file"}


@dataclass(frozen=True, slots=True)
class Catch:
    """What a run left: the result file's own bytes, its log, and folders as listings with their new contents."""

    result: bytes
    log: bytes
    machine: Mapping[str, Any]
    out: Listing = field(default_factory=dict)
    tree: Listing | None = None
    writable: tuple[Listing, ...] = ()
    objects: Mapping[str, bytes] = field(default_factory=dict)


def dealt(cores: int) -> Share:
    """The share that an engine has dealt to this process: a number of cores, and the cards that it is shown."""
    return Share(cards=tuple(sandbox.cards(os.environ.get("CUDA_VISIBLE_DEVICES"))), count=cores)


def errand(job: Job, reader: Reader, keep: Callable[[str, bytes], None]) -> Errand:
    """Read what a job needs where it is."""
    readable = tuple(_listing(reader, path, keep) for path in job.readable)
    return Errand(job, reader.listing(job.tree, keep=keep), readable)


def _listing(reader: Reader, path: Path, keep: Callable[[str, bytes], None]) -> Listing:
    if not path.is_dir():
        raise NightlabError(f"{path} is no folder; a run on another machine can be sent folders only")
    return reader.listing(path, keep=keep)


def unpack(catch: Catch, sent: Errand) -> None:
    """Bring what a run left to where the job said it should be; the result file comes last, durably."""
    job, content = sent.job, catch.objects.__getitem__
    job.folder.mkdir(parents=True, exist_ok=True)
    lay(job.folder / "out", catch.out, content)
    if catch.tree is not None:
        change(job.tree, sent.tree, catch.tree, content)
    for folder, listing in zip(job.writable, catch.writable, strict=True):
        lay(folder, listing, content)
    remove(job.folder / "log")
    (job.folder / "log").write_bytes(catch.log)
    facts.note_machine(job.folder, catch.machine)
    temporary = job.folder / f"result.{os.getpid()}"
    with temporary.open("wb") as file:
        file.write(catch.result)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(job.folder / "result.json")
    directory = os.open(job.folder, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


class Berth:
    """One slot on a machine: one run at a time, in a folder of its own."""

    def __init__(self, cores: int = 1, level: str | None = None, *, unsafe: bool = False) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="nightlab-berth-"))
        self._store = Store(Path(tempfile.gettempdir()) / f"nightlab-objects-{os.getuid()}")
        self._share = dealt(cores)
        self._killed: tuple[Path, str] | None = None
        self._executor = LocalExecutor(1, level, linger=LINGER, unsafe=unsafe, given=self._share)

    def hello(self) -> dict[str, Any]:
        """Who and where this is, and the jail that works here. Raises NightlabError where none does."""
        return {"host": platform.node(), "version": __version__, "level": self._executor.level, "pid": os.getpid()}

    def perform(self, sent: Errand, fetch: Fetch) -> Catch | str:
        """Run it and say what it left; words where this machine could not."""
        missing = self._store.missing(sent.names)
        self._store.add(fetch(missing) if missing else {})
        job, places = self._moved(sent.job)
        absent = [what for what in job.mounts.values() if not Path(what).exists()]
        if absent:
            return f"{platform.node()} has no {absent[0]}, which the task's data names; every machine needs it there"
        lay(job.tree, sent.tree, self._store.content)
        for path, listing in zip(job.readable, sent.readable, strict=True):
            lay(path, listing, self._store.content)
        for path in job.writable:
            lay(path, {}, self._store.content)
        future = self._executor.submit(job)
        if self._killed == (sent.job.folder, sent.job.token):  # while its places were laid out
            self._executor.kill(job.id)
        run = future.result()
        try:
            return self._catch(sent, job, run)
        finally:
            self._killed = None
            for path in places.values():
                remove(path)

    def kill(self, job: Job) -> None:
        """End a run now, or as soon as it begins."""
        self._killed = job.folder, job.token
        self._executor.kill(job.id)

    def close(self) -> None:
        """End what runs, and leave nothing here but what may serve again."""
        self._executor.close()
        remove(self._home)

    def _moved(self, job: Job) -> tuple[Job, dict[Path, Path]]:
        """The job with every place it names moved in here, wherever the name stands."""
        named = [job.tree, job.folder, *job.readable, *job.writable]
        places = {path: self._home / str(n) / path.name for n, path in enumerate(named)}
        moved = _Moved(places)
        return replace(
            job,
            argv=tuple(map(moved.text, job.argv)),
            tree=moved.path(job.tree),
            folder=moved.path(job.folder),
            env={name: moved.text(value) for name, value in job.env.items()},
            readable=tuple(map(moved.path, job.readable)),
            writable=tuple(map(moved.path, job.writable)),
            mounts={moved.text(where): what for where, what in job.mounts.items()},
        ), places

    def _catch(self, sent: Errand, job: Job, run: Run) -> Catch | str:
        try:
            result, log = read(job.folder / "result.json"), read(job.folder / "log")
        except FileNotFoundError:
            return f"lost on {platform.node()}: {run.reason}"
        objects: dict[str, bytes] = {}
        out = _new(job.folder / "out", {}, objects)
        tree = None if job.keeps_tree else _new(job.tree, sent.tree, objects)
        writable = tuple(_new(path, {}, objects) for path in job.writable)
        return Catch(result, log, {**facts.machine(), **self._share.machine}, out, tree, writable, objects)


def _new(folder: Path, before: Listing, objects: dict[str, bytes]) -> Listing:
    """What lies there now; the contents of what did not before go to the objects."""
    contents: dict[str, bytes] = {}
    now = Reader().listing(folder, keep=contents.__setitem__) if folder.is_dir() else {}
    for path, entry in now.items():
        if entry[0] == "file" and before.get(path) != entry:
            objects[entry[2]] = contents[entry[2]]
    return now


class _Moved:
    """Names of places, said anew for where they are now."""

    def __init__(self, places: Mapping[Path, Path]) -> None:
        self._places = {str(old): str(new) for old, new in places.items()}
        names = sorted(self._places, key=len, reverse=True)  # the longest first: a place may lie in another
        self._pattern = re.compile(rf"({'|'.join(map(re.escape, names))})(?![\w.-])")

    def text(self, words: str) -> str:
        return self._pattern.sub(lambda found: self._places[found[1]], words)

    def path(self, path: Path) -> Path:
        return Path(self.text(str(path)))
