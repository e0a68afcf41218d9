"""The archive: a swarm's records as files on a ref of a git remote, for labs with no network between them.

refs/nightlab/swarm/<swarm id>
    <swarm id>/<author>.jsonl        the author's records in their order, one a line
    <swarm id>/<author>.fork.jsonl   the two that prove that the author is not to be heard
    <swarm id>/blobs/<hash>          the patches that records name

The same records make the same tree, so that who pushes nothing new makes no commit. A remote is believed as little as
a peer: each record is checked as if it came by the network, sizes are looked at before anything is read, and no path of
its choosing is ever written. Not covered: git itself takes in what a remote sends before we see how much that is.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from nightlab.errors import BadRepository, NightlabError
from nightlab.swarm.log import MOST
from nightlab.swarm.record import LARGEST, BadRecord, Record, Result, blob_hash, read
from nightlab.swarm.store import LARGEST_BLOB, Store
from nightlab.words import one_line
from nightlab.workspace import blob_id, git, stream_data

_TRIES = 5
_MOST_FILES = 200_000
_MOST_BYTES = 1024 * 1024 * 1024  # of all files of a swarm
_LARGEST_FILE = MOST * (LARGEST + 1)
_AT_ONCE = 32 * 1024 * 1024  # bytes given to git, or asked of it, in one go
_IN_ONE = 1000
_MOST_PACKS = 60
_PLAIN = "100644"
_REFUSED = "rejected]"
_PATIENT = (
    *("-c", "http.lowSpeedLimit=500", "-c", "http.lowSpeedTime=30"),
    *("-c", "fetch.fsckObjects=true", "-c", "fetch.unpackLimit=1"),
)

Ids = dict[str, str]
"""Path in the archive -> git's id of the file there."""


class BadArchive(NightlabError):
    """A remote holds something that is no archive of this swarm, or cannot be reached."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What came of a push or a pull: records and patches that were new here, and the commit where one was made."""

    records: int = 0
    patches: int = 0
    commit: str | None = None

    def __add__(self, more: Carried) -> Carried:
        return Carried(self.records + more.records, self.patches + more.patches, more.commit or self.commit)


def push(
    store: Store,
    folder: Path,
    remote: str,
    name: str,
    *,
    environ: Mapping[str, str] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Carried:
    """Bring all that is known here to a remote, and what is there here. `folder` is the archive's own repository; it
    may be thrown away. Raises BadArchive where the remote cannot be had, or others keep pushing first."""
    found, refusal, remote = Carried(), "", _address(remote)
    store.refresh()
    with _held(folder):
        for turn in range(_TRIES):
            sleep(turn * 0.2)
            head = _fetched(store, folder, remote, environ or {})
            found += _taken(store, folder, head)
            commit = _committed(store, folder, head, f"{one_line(name, 60)}: {len(store.log)} records")
            if commit is None:
                return found
            refusal = _pushed(store, folder, remote, commit, environ or {})
            if not refusal:
                return found + Carried(commit=commit)
    raise BadArchive(f"could not push to {_said(remote)} in {_TRIES} tries: {_said(refusal)}; try again later")


def pull(store: Store, folder: Path, remote: str, *, environ: Mapping[str, str] | None = None) -> Carried:
    """Bring what a remote has of this swarm here. Raises BadArchive where it cannot be had."""
    store.refresh()
    with _held(folder):
        head = _fetched(store, folder, _address(remote), environ or {})
        if head is None:
            raise BadArchive(f"{_said(remote)} has nothing of swarm {store.swarm[:8]} yet; nightlab swarm push first")
        return _taken(store, folder, head)


def _address(remote: str) -> str:
    """A remote as git finds it from wherever: git works in the archive's folder, people elsewhere."""
    return str(Path(remote).absolute()) if remote and Path(remote).exists() else remote


def _said(text: object) -> str:
    """Words about a remote, without the password that its address may hold."""
    return one_line(re.sub(r"//[^/@\s]*@", "//", str(text)))


def _ref(store: Store) -> str:
    return f"refs/nightlab/swarm/{store.swarm}"


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The archive's repository, for one process at a time: labs of one user share it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "archive.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.glob("refs/**/*.lock"):  # by a git that was killed: nobody else is here
            left.unlink(missing_ok=True)
        if not (folder / "HEAD").exists():
            git("init", "-q", "--bare", folder=folder, repository=folder)
        elif len(list(folder.glob("objects/pack/*.pack"))) > _MOST_PACKS:
            git("repack", "-a", "-d", "-q", folder=folder, repository=folder)
        yield
    finally:
        os.close(lock)


def _speak(folder: Path, environ: Mapping[str, str], *words: str) -> bytes:
    """Git, where it speaks to a remote: it asks nobody for a password, and does not wait for ever."""
    agent = f"SSH_AUTH_SOCK={shlex.quote(environ['SSH_AUTH_SOCK'])} " if "SSH_AUTH_SOCK" in environ else ""
    shell = f"{agent}ssh -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=15"
    return git(*_PATIENT, "-c", f"core.sshCommand={shell}", *words, folder=folder, repository=folder)


def _fetched(store: Store, folder: Path, remote: str, environ: Mapping[str, str]) -> str | None:
    """The commit at the remote, brought here; None where it has none."""
    ref, here = _ref(store), "refs/nightlab/theirs"
    try:
        if not _speak(folder, environ, "ls-remote", "--", remote, ref).strip():
            return None
        _speak(folder, environ, "fetch", "-q", "--no-tags", "--no-write-fetch-head", "--", remote, f"+{ref}:{here}")
        return git("rev-parse", "--verify", f"{here}^{{commit}}", folder=folder, repository=folder).decode().strip()
    except BadRepository as error:
        raise BadArchive(f"cannot have the swarm's records from {_said(remote)}: {_said(error)}") from error


def _pushed(store: Store, folder: Path, remote: str, commit: str, environ: Mapping[str, str]) -> str:
    """Why the remote did not take it because somebody else was first; "" where it did."""
    try:
        _speak(folder, environ, "push", "-q", "--", remote, f"{commit}:{_ref(store)}")
    except BadRepository as error:
        if _REFUSED not in str(error):
            raise BadArchive(f"cannot push to {_said(remote)}: {_said(error)}") from error
        return str(error)
    return ""


# What is there


def _entries(store: Store, folder: Path, head: str | None) -> dict[str, tuple[str, int]]:
    """The files at the remote that can be ours, by path: git's id and the size. Raises BadArchive for too many."""
    if head is None:
        return {}
    where = (f"{store.swarm}/", f"{store.swarm}/blobs/")  # not -r: trees within trees may have no end
    rows = git("ls-tree", "-l", "-z", head, "--", *where, folder=folder, repository=folder)
    ours = re.compile(rf"{store.swarm}/([0-9a-f]{{64}}(\.fork)?\.jsonl|blobs/[0-9a-f]{{64}})")
    found: dict[str, tuple[str, int]] = {}
    for row in rows.decode(errors="replace").split("\0")[:-1]:
        what, _, path = row.partition("\t")
        mode, kind, id_, size = what.split()
        if mode == _PLAIN and kind == "blob" and ours.fullmatch(path):
            found[path] = (id_, int(size))
    if len(found) > _MOST_FILES or sum(size for _, size in found.values()) > _MOST_BYTES:
        raise BadArchive(f"{len(found)} files of swarm {store.swarm[:8]} are more than is read; something floods it")
    return {
        path: one for path, one in found.items() if one[1] <= (LARGEST_BLOB if "/blobs/" in path else _LARGEST_FILE)
    }


def _contents(folder: Path, wanted: Iterable[tuple[str, str, int]]) -> Iterator[tuple[str, bytes]]:
    """These files by path, a handful at a time: so much as fits into memory."""
    group: list[tuple[str, str, int]] = []
    held = 0
    for one in wanted:
        held += one[2]
        if held > _AT_ONCE:
            yield from _read(folder, group)
            group, held = [], one[2]
        group.append(one)
    yield from _read(folder, group)


def _read(folder: Path, group: list[tuple[str, str, int]]) -> Iterator[tuple[str, bytes]]:
    asked = "".join(f"{id_}\n" for _, id_, _ in group).encode()
    answer = git("cat-file", "--batch", folder=folder, repository=folder, input=asked) if group else b""
    at = 0
    for path, _, size in group:
        at = answer.index(b"\n", at) + 1
        yield path, answer[at : at + size]
        at += size + 1


def _taken(store: Store, folder: Path, head: str | None) -> Carried:
    """Take in what a commit holds and is not known here."""
    entries = _entries(store, folder, head)
    ours = {path: blob_id(data) for path, data in _texts(store)}
    files = {path: one for path, one in entries.items() if path.endswith(".jsonl") and one[0] != ours.get(path)}
    new = [(path, *one) for path, one in files.items() if _author(path) not in store.log.forks]
    found = (record for path, data in _contents(folder, new) for record in _records(data, _author(path), store))
    count = 0
    while some := list(islice(found, _IN_ONE)):  # one transaction for many authors, each short enough for other labs
        count += len(store.add(some))
    named = {name for name in _named(store) if store.blob(name) is None}
    there = [(path, *one) for path, one in entries.items() if path.rpartition("/blobs/")[2] in named]
    taken = sum(store.take(path[-64:], data.decode("utf-8", "replace")) for path, data in _contents(folder, there))
    return Carried(count, taken)


def _author(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0]


def _records(data: bytes, author: str, store: Store) -> list[Record]:
    """The records of a file that are not known here, as far as they are of the author whose name it has."""
    known = {record.data for record in store.log.chains.get(author, ())}
    found: list[Record] = []
    for line in data.split(b"\n"):
        if not line or line in known:
            continue
        try:
            record = read(line, swarm=store.swarm)
        except BadRecord:
            break  # what comes after it hangs on it
        if record.author == author:
            found.append(record)
    return found


# What is here


def _texts(store: Store) -> Iterator[tuple[str, bytes]]:
    """The files of records that all that is known here comes to."""
    for author, records in store.log.chains.items():
        yield f"{store.swarm}/{author}.jsonl", b"".join(record.data + b"\n" for record in records)
    for author, pair in store.log.forks.items():
        told = sorted(pair, key=lambda record: record.id)  # in one order, whichever came first here
        yield f"{store.swarm}/{author}.fork.jsonl", b"".join(record.data + b"\n" for record in told)


def _named(store: Store) -> set[str]:
    """The patches that records name."""
    bodies = [record.body for record in store.log if isinstance(record.body, Result)]
    return {name for body in bodies for name in (body.change, body.parent) if name}


def _patches(store: Store, folder: Path, entries: Mapping[str, tuple[str, int]]) -> Iterator[tuple[str, bytes]]:
    """The patches that records name, from here; from the archive those for which there is no room here."""
    absent: list[tuple[str, str, int]] = []
    for name in sorted(_named(store)):
        path = f"{store.swarm}/blobs/{name}"
        text = store.blob(name)
        if text is not None:
            yield path, text.encode()
        elif path in entries:
            absent.append((path, *entries[path]))
    for path, data in _contents(folder, absent):
        if blob_hash(data.decode("utf-8", "replace")) == path[-64:]:
            yield path, data


def _proofs(store: Store, folder: Path, entries: Mapping[str, tuple[str, int]]) -> Ids:
    """The remote's own proofs against authors who are muted here too: one is enough, and two would take turns."""
    forks = [(path, *one) for path, one in entries.items() if path.endswith(".fork.jsonl")]
    muted = [one for one in forks if _author(one[0]) in store.log.forks and one[2] <= 2 * (LARGEST + 1)]
    pairs = {path: _records(data, _author(path), store) for path, data in _contents(folder, muted)}
    return {path: entries[path][0] for path, pair in pairs.items() if _is_proof(pair)}


def _is_proof(pair: list[Record]) -> bool:
    return len(pair) == 2 and pair[0].seq == pair[1].seq and pair[0].id < pair[1].id


def _committed(store: Store, folder: Path, head: str | None, message: str) -> str | None:
    """A commit that holds all that is known here, on top of that one; None where that one holds just this."""
    entries = _entries(store, folder, head)
    ids = _written(folder, entries, chain(_texts(store), _patches(store, folder, entries)))
    ids |= _proofs(store, folder, entries)
    who = f"Nightlab <nightlab@localhost> {os.environ.get('SOURCE_DATE_EPOCH') or int(time.time())} +0000"
    ref = "refs/nightlab/ours"
    stream = [f"commit {ref}\nauthor {who}\ncommitter {who}\n".encode(), stream_data(message.encode())]
    stream += [f"from {head}\n".encode() if head else b"", b"deleteall\n"]
    stream += [f"M {_PLAIN} {id_} {path}\n".encode() for path, id_ in sorted(ids.items())]
    if head is None:
        git("update-ref", "-d", ref, folder=folder, repository=folder)
    git("fast-import", "--quiet", "--force", folder=folder, repository=folder, input=b"".join(stream))
    trees = [f"{one}^{{tree}}" for one in (ref, head) if one]
    commit, *found = git("rev-parse", ref, *trees, folder=folder, repository=folder).decode().split()
    return None if len(found) == 2 and found[0] == found[1] else commit


def _written(folder: Path, there: Mapping[str, tuple[str, int]], texts: Iterable[tuple[str, bytes]]) -> Ids:
    """Git's ids of these files, of which it is given those that the remote does not have."""
    ids: Ids = {}
    waiting = bytearray()
    for path, data in texts:
        ids[path] = blob_id(data)
        if there.get(path, ("", 0))[0] != ids[path]:
            waiting += b"blob\n" + stream_data(data)
        if len(waiting) > _AT_ONCE:
            _give(folder, waiting)
    _give(folder, waiting)
    return ids


def _give(folder: Path, waiting: bytearray) -> None:
    if waiting:
        git("fast-import", "--quiet", folder=folder, repository=folder, input=bytes(waiting))
        waiting.clear()
