"""The place of a study: where it lives on disk, and who holds it. Light, so that readings start fast.

<repository>/nightlab.toml, program.md      the user's own, versioned
<repository>/.nightlab/                     ledger.sqlite, runs/, worktrees/, results.tsv (a study called main)
<repository>/.nightlab/studies/<name>/      the same for a study of another name
branch nightlab/<name>                      what was kept
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nightlab.errors import BadRepository, BadTask, NotFound, StudyBusy
from nightlab.ledger import Ledger
from nightlab.workspace import Repository, git

MAIN = "main"


@dataclass(frozen=True)
class Place:
    """Where a study lives. The repository is looked at only when it is needed, so that readings start no git."""

    root: Path
    name: str = MAIN

    @cached_property
    def repository(self) -> Repository:
        """The user's repository. Raises BadRepository."""
        return Repository(self.root)

    @property
    def home(self) -> Path:
        """The study's own folder."""
        home = self.root / ".nightlab"
        return home if self.name == MAIN else home / "studies" / self.name

    @property
    def ledger(self) -> Path:
        """The ledger's file."""
        return self.home / "ledger.sqlite"

    @property
    def swarm(self) -> Path:
        """What the study wrote down when it joined a swarm; not there where it has joined none."""
        return self.home / "swarm.json"

    @property
    def branch(self) -> str:
        """The branch that holds what was kept."""
        return f"nightlab/{self.name}"

    def read(self) -> Ledger:
        """The ledger, for reading and for wishes. Raises NotFound where no study was started."""
        if not self.ledger.exists():
            others = ", ".join(studies(self.root)) or "none"
            raise NotFound(f"no study called {self.name} in {self.root} (there: {others}); start it with: nightlab run")
        return Ledger(self.ledger)

    def holder(self) -> str | None:
        """Who runs this study now, in words; None when nobody does."""
        try:
            lock = os.open(self.home / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.read(lock, 1000).decode(errors="replace") or "another process"
        finally:
            os.close(lock)
        return None


def find(folder: Path, name: str = MAIN) -> Place:
    """The place of a study around a folder: the nearest folder above with a .nightlab or a .git, else the folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name.endswith((".", ".lock")) or ".." in name:
        raise BadTask(f"{name!r} cannot be a study's name; use letters, digits, '-', '_' and '.'")
    if not folder.is_dir():
        raise BadTask(f"{folder} is not a folder")
    here = folder.resolve()
    marked = (place for place in (here, *here.parents) if (place / ".nightlab").is_dir() or (place / ".git").exists())
    return Place(next(marked, here), name)


def studies(root: Path) -> list[str]:
    """The names of the studies in a repository."""
    home = root / ".nightlab"
    found = [MAIN] if (home / "ledger.sqlite").exists() else []
    return found + sorted(path.parent.name for path in home.glob("studies/*/ledger.sqlite"))


@contextmanager
def held(place: Place) -> Iterator[None]:
    """Hold a study; one lab at a time. Raises StudyBusy, saying who has it."""
    try:
        place.home.mkdir(parents=True, exist_ok=True)
        if (place.root / ".git").exists():  # an imported night needs no repository
            place.repository.ignore("/.nightlab/")
        lock = os.open(place.home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise BadRepository(
            f"cannot make {place.home} ({error.strerror}); make the folder writable, and see that nothing else is there"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 1000).decode(errors="replace") or "another process"
        os.close(lock)
        raise StudyBusy(
            f"study {place.name} is held by {holder}; watch it with: nightlab status, end it with: nightlab stop, "
            "or start another beside it with: nightlab run --study NAME"
        ) from None
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()} since {time.ctime()}".encode(), 0)
        yield
        os.ftruncate(lock, 0)
    finally:
        os.close(lock)


def first_commit(folder: Path) -> None:
    """Make a folder a repository and commit all of it: for folders that Nightlab made itself."""
    git("init", "-q", "-b", "main", folder=folder)
    git("add", "-A", folder=folder)
    who = ("-c", "user.name=Nightlab", "-c", "user.email=nightlab@localhost", "-c", "commit.gpgSign=false")
    git(*who, "commit", "-q", "-m", "The start", folder=folder)
