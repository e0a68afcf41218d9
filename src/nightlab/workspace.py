"""The workspace: trees for runs to live in, and the branch that holds what was kept.

A run's tree is laid out from git's objects into a folder of our own. It has no `.git`: nothing in it can make the
lab's git run code, and nothing left there can reach the user's checkout. Git is called with a clean environment, no
system or global configuration, no hooks, and `core.fsync=all` (with git's defaults a power cut lost every
acknowledged commit). Not covered: LFS and other smudge filters, whose files a run sees as git stores them.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, unified_diff
from functools import cached_property, lru_cache
from hashlib import new as new_hash
from itertools import count
from pathlib import Path, PurePosixPath
from threading import Lock

from nightlab.errors import BadRepository, NotFound
from nightlab.values import Files

_EMPTY = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}
_SETTINGS = (
    *("core.hooksPath=/dev/null", "core.fsmonitor=false", "core.fsync=all", "core.quotePath=false", "gc.auto=0"),
    "safe.directory=*",  # the user named this repository; nothing of it is run
)
_OPTIONS = tuple(part for setting in _SETTINGS for part in ("-c", setting))
_SUBMODULE = "160000"
TRAILER = "Experiment-Id"


def git(
    *words: str, folder: Path, input: bytes | None = None, repository: Path | None = None, above: Path | None = None
) -> bytes:
    """What git prints. It looks for a repository no further up than `above`.

    Raises BadRepository with git's own words when it refuses.
    """
    where = ["--git-dir", str(repository)] if repository else []
    command = ["git", *where, *_OPTIONS, *words]
    env = _environment() | ({"GIT_CEILING_DIRECTORIES": str(above)} if above else {})
    try:
        done = subprocess.run(command, cwd=folder, env=env, input=input, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise BadRepository("git is not installed (or not on PATH); install git 2.30 or newer") from error
    if done.returncode:
        raise BadRepository(f"git {_verb(words)} failed in {folder}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def _verb(words: Sequence[str]) -> str:
    return next(word for before, word in zip(("", *words), words, strict=False) if before != "-c" and word[0] != "-")


def _environment() -> dict[str, str]:
    return _EMPTY | {"PATH": os.environ.get("PATH", os.defpath)}


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a tree: its git mode and the id of its blob."""

    mode: str
    blob: str


class Tree:
    """A whole tree by its entries; equal trees have equal ids, git's own."""

    def __init__(self, entries: Mapping[str, Entry], algorithm: str = "sha1") -> None:
        self.entries = entries
        self._algorithm = algorithm

    @cached_property
    def id(self) -> str:
        """The id that git gives this tree; computed here, since a git process for each proposal costs 5 ms."""
        folders: dict[str, list[tuple[bytes, bytes]]] = {"": []}
        for path, entry in self.entries.items():
            folder, _, name = path.rpartition("/")
            folders.setdefault(folder, []).append(_line(entry.mode, name, entry.blob))
        for folder in list(folders):
            while folder:
                folder = folder.rpartition("/")[0]
                folders.setdefault(folder, [])
        for folder in sorted(folders, key=lambda name: -(name.count("/") + bool(name))):
            if folder:
                parent, _, name = folder.rpartition("/")
                folders[parent].append(_line("40000", name, self._hash("tree", folders[folder])))
        return self._hash("tree", folders[""])

    def changed(self, files: Files) -> Tree:
        """This tree with some files replaced, added or deleted."""
        entries = dict(self.entries)
        for path, text in files.items():
            if text is None:
                entries.pop(path, None)
            else:
                mode = entries[path].mode if path in entries else "100644"
                entries[path] = Entry(mode, blob_id(text.encode(), self._algorithm))
        return Tree(entries, self._algorithm)

    def _hash(self, kind: str, lines: list[tuple[bytes, bytes]]) -> str:
        return _object_id(kind, b"".join(line for _, line in sorted(lines)), self._algorithm)


def _line(mode: str, name: str, id_: str) -> tuple[bytes, bytes]:
    raw = os.fsencode(name)  # git keeps names as bytes, whatever they mean
    return raw + (b"/" if mode == "40000" else b""), mode.encode() + b" " + raw + b"\0" + bytes.fromhex(id_)


def _object_id(kind: str, body: bytes, algorithm: str) -> str:
    return new_hash(algorithm, f"{kind} {len(body)}\0".encode() + body).hexdigest()


def blob_id(content: bytes, algorithm: str = "sha1") -> str:
    """The id that git gives these bytes."""
    return _object_id("blob", content, algorithm)


class Repository:
    """The user's git repository: read from it, and write one branch of our own; the checkout is never touched."""

    def __init__(self, folder: Path) -> None:
        """Find the repository around a folder. Raises BadRepository, saying what to do."""
        try:
            text = git("rev-parse", "--is-bare-repository", "--absolute-git-dir", folder=folder).decode()
        except BadRepository as error:
            if "not a git repository" not in str(error):
                raise
            raise BadRepository(
                f"{folder} is not in a git repository; make it one with: git init && git add -A && git commit -m start"
            ) from error
        bare, self.git_dir = text.split("\n")[0] == "true", Path(text.split("\n")[1])
        if bare:
            raise BadRepository(f"{folder} is a bare repository; run Nightlab in a clone with a checkout")
        self.root = Path(git("rev-parse", "--show-toplevel", folder=folder).decode().rstrip("\n"))
        self.common = (folder / git("rev-parse", "--git-common-dir", folder=folder).decode().rstrip("\n")).resolve()
        self._reader: subprocess.Popen[bytes] | None = None
        self._lock = Lock()

    def git(self, *words: str, input: bytes | None = None) -> bytes:
        """Git on this repository, hardened."""
        return git(*words, folder=self.root, input=input, repository=self.git_dir)

    @cached_property
    def algorithm(self) -> str:
        """sha1 or sha256."""
        return self.git("rev-parse", "--show-object-format").decode().strip()

    def commit(self, revision: str) -> str | None:
        """The full id of a revision, or None when there is no such thing."""
        try:
            return self.git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").decode().strip()
        except BadRepository:
            return None

    def head(self) -> str:
        """The commit a study starts from."""
        if commit := self.commit("HEAD"):
            return commit
        raise BadRepository(f"{self.root} has no commit yet; make one with: git add -A && git commit -m start")

    def tree(self, commit: str) -> Tree:
        """All files of a commit. Raises BadRepository where there are submodules."""
        entries, modules = {}, []
        for row in self.git("ls-tree", "-r", "-z", "--full-tree", commit).decode(errors="surrogateescape").split("\0"):
            if row:
                (mode, _, blob), path = row.split("\t")[0].split(), row.split("\t", 1)[1]
                entries[path] = Entry(mode, blob)
                modules += [path] if mode == _SUBMODULE else []
        if modules:
            raise BadRepository(
                f"{self.root} has submodules ({', '.join(modules)}), which a run's tree cannot hold; commit their "
                "files, or move the study to a repository without them"
            )
        return Tree(entries, self.algorithm)

    def left_out(self) -> list[str]:
        """What a study will not see: changes and new files that are not committed."""
        rows = self.git("--work-tree", str(self.root), "status", "--porcelain", "-z", "--no-renames").decode(
            errors="replace"
        )
        return [row[3:] for row in rows.split("\0") if row]

    def blob(self, id_: str) -> bytes:
        """A blob's bytes, from one long-lived reader."""
        with self._lock:
            if self._reader is None or self._reader.poll() is not None:
                self._reader = self._start_reader()
            asked, answers = self._reader.stdin, self._reader.stdout
            assert asked
            assert answers
            asked.write(id_.encode() + b"\n")
            asked.flush()
            header = answers.readline().split()
            if len(header) != 3:
                raise NotFound(f"git has no object {id_} in {self.git_dir}")
            return answers.read(int(header[2]) + 1)[:-1]

    def _start_reader(self) -> subprocess.Popen[bytes]:
        # Ends by itself when the lab dies: its standard input closes.
        command = ["git", "--git-dir", str(self.git_dir), *_OPTIONS, "cat-file", "--batch"]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, env=_environment(), cwd="/", start_new_session=True)

    def close(self) -> None:
        """End the reader."""
        if self._reader is not None and self._reader.stdin and self._reader.stdout:
            self._reader.stdin.close()
            self._reader.stdout.close()
            self._reader.wait()
            self._reader = None

    def text(self, tree: Tree, path: str) -> str | None:
        """A file of a tree as text; None where there is none or it is not UTF-8."""
        entry = tree.entries.get(path)
        if entry is None or not entry.mode.startswith("100"):
            return None
        try:
            return self.blob(entry.blob).decode()
        except UnicodeDecodeError:
            return None

    def keep(self, branch: str, *, parent: str, files: Files, message: str) -> str:
        """Commit changed files onto a branch in one atomic step and return the commit; the checkout stays as it is."""
        tree = self.tree(parent)
        git_time = os.environ.get("SOURCE_DATE_EPOCH") or str(int(time.time()))
        who = f"Nightlab <nightlab@localhost> {git_time} +0000"
        stream = [
            f"commit refs/heads/{branch}\nauthor {who}\ncommitter {who}\n".encode(),
            stream_data(message.encode()),
        ]
        stream.append(f"from {parent}\n".encode())
        for path, text in sorted(files.items()):
            if text is None:
                stream.append(f"D {stream_path(path)}\n".encode())
            else:
                mode = tree.entries[path].mode if path in tree.entries else "100644"
                stream += [f"M {mode} inline {stream_path(path)}\n".encode(), stream_data(text.encode())]
        self.git("fast-import", "--quiet", "--force", input=b"".join(stream))
        return self.git("rev-parse", "--verify", f"refs/heads/{branch}").decode().strip()

    def start_branch(self, branch: str, commit: str) -> None:
        """Put a branch at a commit, whatever was there."""
        self.git("update-ref", "-m", "nightlab", f"refs/heads/{branch}", commit)

    def trailer(self, commit: str) -> str | None:
        """Which experiment a commit says it holds."""
        text = self.git("log", "-1", f"--format=%(trailers:key={TRAILER},valueonly)", commit).decode().strip()
        return text or None

    def ignore(self, path: str) -> None:
        """Keep a path out of the user's `git status`, without touching a tracked file."""
        exclude = self.common / "info" / "exclude"
        exclude.parent.mkdir(exist_ok=True)
        before = exclude.read_text() if exclude.exists() else ""
        if path not in before.splitlines():
            exclude.write_text(before + ("" if before.endswith("\n") or not before else "\n") + path + "\n")


def stream_data(content: bytes) -> bytes:
    """Bytes as git's fast-import reads them."""
    return b"data %d\n%b\n" % (len(content), content)


def stream_path(path: str) -> str:
    """A path as git's fast-import reads it."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


class Checkout:
    """One slot's folder, laid anew for each run; only what differs is written.

    A file counts as untouched while its inode, size, mode, and change time are those it was laid with. Change time
    cannot be set from user space, so a run cannot rewrite a file and hide it (a change within the same clock tick of
    4 ms could; an interpreter takes longer than that to start).
    """

    def __init__(self, folder: Path, repository: Repository) -> None:
        self.folder = folder
        self._repository = repository
        self._laid: dict[str, tuple[Entry, tuple[int, ...]]] = {}

    def lay(self, tree: Tree, *, without: Sequence[str] = (), texts: Files | None = None) -> Path:
        """Make the folder hold exactly this tree, less some paths; `texts` are files git does not have yet."""
        wanted = {path: entry for path, entry in tree.entries.items() if path not in without}
        self._sweep(wanted)
        for path, entry in wanted.items():
            if path not in self._laid:
                text = (texts or {}).get(path)
                self._write(path, entry, self._repository.blob(entry.blob) if text is None else text.encode())
        return self.folder

    def touched(self) -> list[str]:
        """The laid files that a run changed or removed."""
        return [path for path, (_, mark) in self._laid.items() if _mark(self.folder / path) != mark]

    def clear(self) -> None:
        """Take the folder away."""
        remove(self.folder)
        self._laid.clear()

    def _sweep(self, wanted: Mapping[str, Entry]) -> None:
        if self.folder.is_symlink() or not self.folder.is_dir():
            remove(self.folder)
            self.folder.mkdir(parents=True)
        folders = {parent.as_posix() for path in wanted for parent in PurePosixPath(path).parents}
        fine = {
            path: known
            for path, known in self._laid.items()
            if known[0] == wanted.get(path) and _mark(self.folder / path) == known[1]
        }
        self._laid = fine
        self._clear("", fine, folders)

    def _clear(self, inside: str, fine: Mapping[str, object], folders: set[str]) -> None:
        for item in _entries(self.folder / inside):
            path = f"{inside}/{item.name}" if inside else item.name
            if item.is_dir(follow_symlinks=False) and path in folders:
                self._clear(path, fine, folders)
            elif path not in fine:
                remove(Path(item.path))

    def _write(self, path: str, entry: Entry, content: bytes) -> None:
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if entry.mode == "120000":
            place.symlink_to(os.fsdecode(content))
        else:
            place.write_bytes(content)
            place.chmod(0o755 if entry.mode == "100755" else 0o644)
        self._laid[path] = entry, _mark(place)


def _mark(path: Path) -> tuple[int, ...]:
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ()
    return found.st_ino, found.st_ctime_ns, found.st_size, found.st_mode


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, which a run may have locked: from being listed, or only from being entered."""
    if stat.S_IMODE(folder.lstat().st_mode) & stat.S_IRWXU != stat.S_IRWXU:
        folder.chmod(stat.S_IRWXU)
    return list(os.scandir(folder))


def remove(path: Path) -> None:
    """Remove whatever stands there, also what a run made unreadable; symlinks are removed, never followed."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    names, full, empty = count(), [path], list[Path]()
    while full:
        folder = full.pop()
        for item in _entries(folder):
            if item.is_dir(follow_symlinks=False):
                full.append(_brought_up(Path(item.path), path, names))
            else:
                Path(item.path).unlink(missing_ok=True)
        empty.append(folder)
    for folder in reversed(empty):
        folder.rmdir()


def _brought_up(folder: Path, top: Path, names: Iterator[int]) -> Path:
    """A folder moved right below the top: nested deeply enough, its path is longer than any that can be named."""
    if folder.parent == top:
        return folder
    folder.chmod(stat.S_IRWXU)  # its own way up changes, so it is written to
    while os.path.lexists(place := top / f".gone-{next(names)}"):
        continue
    return folder.rename(place)


def difference(before: Files, after: Files) -> str:
    """The unified diff that `git apply` and people read, from whole texts."""
    return "".join(_one_difference(path, before.get(path), text) for path, text in sorted(after.items()))


def _one_difference(path: str, before: str | None, after: str | None) -> str:
    if before == after:
        return ""
    tab = "\t" if " " in path else ""
    header = [f"diff --git a/{path} b/{path}\n"]
    header += ["new file mode 100644\n"] if before is None else []
    header += ["deleted file mode 100644\n"] if after is None else []
    old, new = (
        (f"a/{path}{tab}" if before is not None else "/dev/null"),
        f"b/{path}{tab}" if after is not None else "/dev/null",
    )
    hunks = unified_diff(_lines(before), _lines(after), old, new)
    body = [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in hunks]
    return "".join(header + body)


def _lines(text: str | None) -> list[str]:
    """Lines as git counts them: only a newline ends one."""
    return re.findall(r"[^\n]*\n|[^\n]+", text or "")


def patched(files: Files, diff: str) -> dict[str, str | None] | None:
    """The files that a unified diff changes, as they are after it; None where it does not apply.

    The diff may come from anyone: it is applied in an empty folder, and only plain files are read back.
    """
    paths = touched(diff)
    if not paths or any(not is_plain(path) for path in paths):
        return None
    with tempfile.TemporaryDirectory(prefix="nightlab-") as name:
        folder = Path(name)
        for path in paths:
            if (text := files.get(path)) is not None:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(text.encode())
        try:
            words = ("apply", "--whitespace=nowarn", "--recount", "-")
            git(*words, folder=folder, input=diff.encode(), above=folder.resolve().parent)
        except BadRepository:
            return None
        after = {path: _plain_text(folder / path) for path in paths}
    return {path: text for path, text in after.items() if text != files.get(path)}


def touched(diff: str) -> set[str]:
    """The paths a unified diff changes in place; what it renames is not ours to take."""
    return set(re.findall(r"^diff --git a/(.+) b/\1$", diff, re.MULTILINE))


def _plain_text(path: Path) -> str | None:
    if path.is_symlink() or not path.is_file():
        return None
    return path.read_bytes().decode("utf-8", "replace")


def is_plain(path: str) -> bool:
    """Whether a path stays inside the tree and out of git's and the lab's own folders."""
    parts = PurePosixPath(path).parts
    names = {part.lower() for part in parts}  # git itself refuses to apply a patch to any spelling of .git
    is_inside = bool(parts) and not path.startswith("/") and not {"..", ".git", "git~1", ".nightlab"} & names
    # A tab or a newline would end the name in a diff and in a briefing, and git quotes a quote; ./a is a second name.
    return is_inside and path.isprintable() and not {'"', "\\"} & set(path) and PurePosixPath(path).as_posix() == path


def merged(base: Files, ours: Files, theirs: Files) -> dict[str, str | None] | None:
    """Both sides' changes together, or None where they conflict."""
    result: dict[str, str | None] = dict(ours)
    for path in theirs:
        one, two, three = base.get(path), ours.get(path, base.get(path)), theirs[path]
        if two in (one, three):
            result[path] = three
        elif None in (one, two, three) or (text := _merge_texts(str(two), str(one), str(three))) is None:
            return None
        else:
            result[path] = text
    return result


def undone(before: str, after: str, now: str) -> str | None:
    """A text without a change from `before` to `after` that it holds, found by the lines that the change brought.

    For changes so close to each other that git sees a conflict. None where those lines are not there, or not only once.
    """
    old, new, lines = (text.splitlines(keepends=True) for text in (before, after, now))
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    for kind, a, b, c, d in reversed(blocks):
        if kind == "equal":
            continue
        for around in range(4):  # what was only deleted is found by its neighbours
            lead, tail = new[max(0, c - around) : c], new[d : d + around]
            sought = [*lead, *new[c:d], *tail]
            places = [at for at in range(len(lines) - len(sought) + 1) if lines[at : at + len(sought)] == sought]
            if sought and len(places) == 1:
                lines[places[0] : places[0] + len(sought)] = [*lead, *old[a:b], *tail]
                break
        else:
            return None
    return "".join(lines)


@lru_cache(maxsize=16)
def _merge_texts(ours: str, base: str, theirs: str) -> str | None:
    with tempfile.TemporaryDirectory(prefix="nightlab-") as name:
        paths = [Path(name) / side for side in ("ours", "base", "theirs")]
        for path, text in zip(paths, (ours, base, theirs), strict=True):
            path.write_bytes(text.encode())
        try:
            return git("merge-file", "-p", "-q", *map(str, paths), folder=Path(name)).decode()
        except BadRepository:
            return _merge_lines(ours, base, theirs)


def _merge_lines(ours: str, base: str, theirs: str) -> str | None:
    """Changes of single lines that stand next to each other, as constants do: git takes them for a conflict."""
    old, mine, other = (_lines(text) for text in (base, ours, theirs))
    if not len(old) == len(mine) == len(other):
        return None
    rows = list(zip(old, mine, other, strict=True))
    if any(one != before != two and one != two for before, one, two in rows):
        return None
    return "".join(one if one != before else two for before, one, two in rows)


def free_bytes(path: Path) -> int:
    """Free space on the disk under a path."""
    return shutil.disk_usage(path).free
