"""The visit: one idea of somebody who sits beside the lab, run and judged by the same loop as any other.

A change is read from where it was made (a checkout, a folder of our own, a patch) as whole texts and what they were
made from. It is put onto the incumbent by a three-way merge, twice: at the door, so that a conflict costs nothing, and
when the loop asks, since an experiment that was still owed a decision may have become the incumbent meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightlab.errors import BadChange, BadRepository, StudyStuck
from nightlab.ledger import Ledger
from nightlab.lineage import LAB
from nightlab.place import Place, find
from nightlab.proposer import Context
from nightlab.readings import estimate, row
from nightlab.study import Study, Watch, load_task
from nightlab.task import TASK_FILE, Task
from nightlab.values import Experiment, Files, Proposal, Status
from nightlab.workspace import Checkout, Repository, Tree, blob_id, is_plain, merged, patched, remove, touched

MARKER = ".nightlab-try"
"""The file in a folder of ours that says which experiment it was laid out from."""
_LARGEST = 1_000_000
_TICK = 0.25
_MOST = 64 * 1024 * 1024  # what is larger is data: it is not compared
_OF_TOOLS = {".git", ".nightlab", "__pycache__"}
_FAILED = {Status.REJECTED, Status.CRASHED, Status.TIMEOUT, Status.INVALID}


@dataclass(frozen=True, slots=True)
class Change:
    """What somebody made of the editable files: new texts, and what they were made from (None: no such file)."""

    files: Files
    base: Files
    left_out: tuple[str, ...] = ()
    """Frozen files that differ as well; a run never sees that."""

    def onto(self, texts: Files) -> dict[str, str | None]:
        """The files that make the same change to these texts. Raises BadChange, naming what conflicts."""
        files, conflicts = {}, []
        for path, text in sorted(self.files.items()):
            both = merged(self.base, texts, {path: text})
            if both is None:
                conflicts.append(path)
            elif both[path] != texts.get(path):
                files[path] = both[path]
        if conflicts:
            raise BadChange(
                f"{', '.join(conflicts)}: your change and what was kept meanwhile touch the same lines; make it again "
                "on the incumbent's text (nightlab try --begin FOLDER lays it out)"
            )
        return files


class Visitor:
    """Proposes one change once, under its maker's name, and remembers what became of it."""

    def __init__(self, hypothesis: str, change: Change, *, name: str) -> None:
        self.name = name
        self.experiment: Experiment | None = None
        self._hypothesis, self._change, self._token = hypothesis, change, uuid.uuid4().hex
        self._was_asked = False

    def propose(self, context: Context) -> Proposal | None:
        """The change, put onto the incumbent; nothing more after that."""
        if self._was_asked:
            return None
        self._was_asked = True
        facts = {"try": self._token}
        try:
            files = self._change.onto(context.files)
        except BadChange as error:
            return Proposal(self._hypothesis, {}, facts=facts | {"failure": str(error)})
        if not files:
            return Proposal(self._hypothesis, {}, facts=facts | {"failure": "the incumbent holds it already"})
        return Proposal(self._hypothesis, files, facts=facts)

    def learn(self, experiment: Experiment) -> None:
        """Note what became of its own proposal; where it was merged and tried again, the last word counts."""
        if experiment.facts.get("try") == self._token:
            self.experiment = experiment


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of ours: the incumbent's tree without what the judge hides, to be edited by whoever sits there."""

    path: Path
    place: Place
    number: int
    commit: str

    def read(self, task: Task) -> Change:
        """What differs from the tree it was laid out from. Raises BadChange."""
        repository = self.place.repository
        tree = repository.tree(self.commit)
        shown = {path for path in tree.entries if not task.is_hidden(path)}
        return _read(self.path, task, repository, tree, shown | set(_files(self.path)))

    def settle(self, task: Task, seen: Change, number: int, commit: str) -> bool:
        """Give the editable files the texts of another kept experiment; False where somebody went on editing."""
        if self.read(task).files != seen.files:
            return False
        repository = self.place.repository
        tree = repository.tree(commit)
        texts = {path: repository.text(tree, path) for path in tree.entries if task.is_editable(path)}
        for path in {*texts, *seen.files}:
            _put(self.path, path, texts.get(path))
        _mark(self.path, self.place, number, commit)
        return True


def begin(place: Place, into: Path) -> Folder:
    """Lay the incumbent out in a new folder. Raises BadChange where something is there already."""
    task, (number, commit) = load_task(place), incumbent(place)
    into = into.absolute()
    if into.is_symlink() or (into.exists() and (not into.is_dir() or any(into.iterdir()))):
        raise BadChange(f"{into} exists and is not empty; go on in it with --in, or name another folder")
    tree = place.repository.tree(commit)
    try:
        Checkout(into, place.repository).lay(tree, without=[path for path in tree.entries if task.is_hidden(path)])
        _mark(into, place, number, commit)
    except OSError as error:
        raise BadChange(f"cannot lay out {into}: {error.strerror}; name a folder that can be written") from error
    return Folder(into, place, number, commit)


def opened(path: Path) -> Folder:
    """A folder that was laid out before. Raises BadChange where it was not, or no longer says from what."""
    path = path.absolute()
    try:
        said = json.loads((path / MARKER).read_text(encoding="utf-8"))
        place = find(Path(said["repository"]), str(said["study"]))
        number, commit = int(said["experiment"]), str(said["commit"])
    except FileNotFoundError as error:
        raise BadChange(f"{path} was not laid out by Nightlab; do it with: nightlab try --begin FOLDER") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadChange(f"{path / MARKER} cannot be read ({error}); lay out another folder with --begin") from error
    if place.repository.commit(commit) is None:
        raise BadChange(f"{path} was laid out from {commit}, which {place.root} does not have; lay out another folder")
    return Folder(path, place, number, commit)


def in_checkout(place: Place, task: Task) -> Change:
    """What the user's working tree makes of the last kept commit that it holds. Nothing there is touched."""
    repository = place.repository
    head, (_, best) = repository.head(), incumbent(place)
    try:
        base = repository.git("merge-base", head, best).decode().strip()
    except BadRepository:  # no common history: the branch was moved, or the user's was
        base = best
    tree = repository.tree(base)
    _check_task(repository, head)
    look = ("--no-optional-locks", f"--work-tree={repository.root}")  # not even the index is refreshed
    changed = repository.git(*look, "diff", "--name-only", "--no-renames", "-z", base)
    added = repository.git(*look, "ls-files", "--others", "--exclude-standard", "-z")
    names = {*_names(changed), *(name for name in _names(added) if not task.is_hidden(name))}
    return _read(repository.root, task, repository, tree, names)


def in_patch(place: Place, task: Task, diff: str) -> Change:
    """What a unified diff makes of the incumbent. Raises BadChange where it does not apply."""
    number, commit = incumbent(place)
    repository, diff = place.repository, _with_headers(diff)
    tree = repository.tree(commit)
    if frozen := sorted(path for path in touched(diff) if not is_plain(path) or not task.is_editable(path)):
        raise BadChange(f"{', '.join(frozen)} may not change here; editable: {', '.join(task.task.editable)}")
    base = {path: repository.text(tree, path) for path in touched(diff)}
    files = patched(base, diff)
    if files is None:
        raise BadChange(
            f"the patch does not apply to the incumbent (experiment {number}); make it from the incumbent's text: "
            "nightlab try --begin FOLDER lays it out"
        )
    return Change(files, base)


def incumbent(place: Place) -> tuple[int, str]:
    """Number and commit of the kept experiment that the next is raced against; HEAD before the study began."""
    if place.ledger.exists():
        with closing(place.read()) as ledger:
            best = ledger.incumbent()
            while best and best.commit is None and best.parent is not None:  # its commit was interrupted
                best = ledger.experiment(best.parent)
            if best and best.commit:
                return best.id, best.commit
    return 0, place.repository.head()


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants tried: a hypothesis, under a name, and where the change is; neither diff nor folder: the
    user's own checkout."""

    hypothesis: str
    name: str = "you"
    diff: str | None = None
    folder: Folder | None = None


def read(place: Place, asked: Asked) -> Change:
    """The change that is asked for. Raises BadChange at the door where it is none, or conflicts with the incumbent."""
    task = load_task(place)
    if asked.folder is not None:
        change = asked.folder.read(task)
    else:
        change = in_checkout(place, task) if asked.diff is None else in_patch(place, task, asked.diff)
    number, commit = incumbent(place)
    tree = place.repository.tree(commit)
    if change.onto({path: place.repository.text(tree, path) for path in change.files}):
        return change
    if change.files:
        raise BadChange(f"nothing to try: experiment {number}, the incumbent, holds this change already")
    words = f"{', '.join(change.left_out)} may not change here" if change.left_out else "nothing was changed"
    raise BadChange(f"nothing to try: {words}; editable: {', '.join(task.task.editable)}")


def visit(study: Study, asked: Asked, change: Change, watch: Watch) -> dict[str, Any]:
    """Run and judge one change, after whatever the study still owed; the baseline comes first where there is none.

    Returns what became of it and where to go on. Raises StudyStuck where it was not reached: stopped before.
    """
    visitor = Visitor(asked.hypothesis, change, name=asked.name)
    loop = study.loop([visitor])
    with watch(loop):
        reason = loop.run()
    if visitor.experiment is None:
        raise StudyStuck(f"your change was not tried: {reason}; try it again")
    experiment = study.ledger.experiment(visitor.experiment.id)
    return _whole(study.place, study.task, study.ledger, experiment, asked, change)


def hand_in(place: Place, asked: Asked, change: Change) -> dict[str, Any]:
    """Hand one change to the lab that runs this study, and wait for what becomes of it.

    Raises StudyStuck where that lab ends before.
    """
    token, (parent, commit) = uuid.uuid4().hex, incumbent(place)
    tree = place.repository.tree(commit)
    files = change.onto({path: place.repository.text(tree, path) for path in change.files})
    wish = {"hypothesis": asked.hypothesis, "proposer": asked.name, "files": files, "parent": parent, "id": token}
    with closing(place.read()) as ledger:
        ledger.ask("try", json.dumps(wish))
        while (experiment := _handed_in(ledger, token)) is None or experiment.status.is_open:
            if place.holder() is None:
                raise StudyStuck("the lab ended before your change was judged; see nightlab log, or try it again")
            time.sleep(_TICK)
        return _whole(place, load_task(place), ledger, experiment, asked, change)


def _handed_in(ledger: Ledger, token: str) -> Experiment | None:
    """The latest experiment that was made of a wish: a win may have been merged onto what was kept meanwhile."""
    found = (one for one in ledger.experiments(limit=100, newest=True)[::-1] if one.facts.get("try") == token)
    return next(found, None)


def _whole(
    place: Place, task: Task, ledger: Ledger, experiment: Experiment, asked: Asked, change: Change
) -> dict[str, Any]:
    found = told(ledger, experiment)
    where, words = _settled(place, task, asked, change, found)
    more = {"study": place.name, "metric": task.metric.name, "left_out": list(change.left_out)}
    return found | more | {"edit": str(where), "next": words}


def _settled(place: Place, task: Task, asked: Asked, change: Change, found: Mapping[str, Any]) -> tuple[Path, str]:
    """Where to make the next change, and in words what stands there now; a folder of ours follows the incumbent."""
    is_judged, branch = found["decision"] in ("kept", "discarded"), place.branch
    if asked.folder is None:
        root, names = place.repository.root, " ".join(sorted(change.files))
        if asked.diff is not None or found["decision"] == "kept":
            return root, f"what is kept is on branch {branch}; your checkout is as you left it"
        return root, f"your checkout still holds the change: mend it, or undo it with: git checkout HEAD -- {names}"
    path = asked.folder.path
    if not is_judged:
        return path, f"{path} still holds the change: mend it there, and try again"
    number, commit = incumbent(place)
    if asked.folder.settle(task, change, number, commit):
        return path, f"{path} holds the incumbent (experiment {number}) now: make the next change there"
    return path, f"{path} was edited meanwhile and stays as it is; it is still seen against experiment " + str(
        asked.folder.number
    )


def told(ledger: Ledger, experiment: Experiment) -> dict[str, Any]:
    """What became of a try: the experiment as `log --json` shows it, the decision in one word, both incumbents."""
    runs = ledger.runs(experiment.id)
    tail = str((ledger.find("ran", runs[-1]["id"]) or {}).get("tail", "")) if runs else ""
    return row(experiment) | {
        "decision": decision(experiment),
        "incumbent_before": standing(ledger, ledger.experiment(experiment.parent or 0)),
        "incumbent": standing(ledger, ledger.incumbent()),
        "diff": experiment.diff,
        "tail": tail if experiment.status in _FAILED else "",
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """The same in words; what comes from outside has still to be made harmless."""
    before, best = found["incumbent_before"], found["incumbent"]
    said = [f"{found['decision']}: experiment {found['id']}, {found['reason']}"]
    if found["tail"]:
        said += ["the end of its log:", *(f"    {line}" for line in found["tail"].splitlines()[-20:])]
    if best["value"] is not None:
        said.append(f"incumbent: experiment {best['id']}, {found['metric']} {best['value']:.6g} ({best['grade']})")
    if before["id"] != best["id"] and before["value"] is not None:
        said[-1] += f"; before: experiment {before['id']}, {before['value']:.6g} ({before['grade']})"
    if found["left_out"]:
        said.append(f"left out, since it may not change here: {', '.join(found['left_out'])}")
    return [*said, found["next"]]


def decision(experiment: Experiment) -> str:
    """In one word: kept, discarded, failed (it gave no number), rejected (it never ran)."""
    if experiment.status is Status.KEPT:
        return "kept"
    if experiment.status is Status.REJECTED:
        return "rejected"
    return "failed" if experiment.status in _FAILED else "discarded"


def standing(ledger: Ledger, experiment: Experiment | None) -> dict[str, Any]:
    """A kept experiment in a few words."""
    if experiment is None:
        return {"id": None, "value": None, "grade": None, "commit": None}
    value = estimate(ledger, experiment)
    return {"id": experiment.id, "value": value, "grade": experiment.grade, "commit": experiment.commit}


def checked_name(name: str) -> str:
    """A proposer's name as people may choose it. Raises BadChange."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 .:_/-]{0,39}", name) or name == LAB:
        raise BadChange(f"{name!r} cannot be a name here; use letters, digits, '-', '_', up to 40, and not {LAB!r}")
    return name


# ---- reading what was changed ----


def _read(folder: Path, task: Task, repository: Repository, tree: Tree, names: Iterable[str]) -> Change:
    """What these files make of a tree."""
    files, base, frozen = dict[str, str | None](), dict[str, str | None](), []
    for name in sorted(names):
        entry, mode, content = tree.entries.get(name), *_found(folder / name)
        if (entry.mode[:3] if entry else None) == mode and (
            entry is None or content is None or entry.blob == blob_id(content, repository.algorithm)
        ):
            continue
        is_plain_file = {mode, entry.mode[:3] if entry else None} <= {"100", None}
        if not is_plain(name) or not task.is_editable(name) or not is_plain_file:
            frozen.append(name)
            continue
        files[name], base[name] = _text(name, mode, content), repository.text(tree, name)
    return Change(files, base, tuple(frozen))


def _found(path: Path) -> tuple[str | None, bytes | None]:
    """What stands there, as git would say it: the kind of its mode and its bytes; links are not followed.

    No bytes where there is nothing, or too much to be a text.
    """
    if path.is_symlink():
        return "120", os.fsencode(os.readlink(path))
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(file, "rb") as stream:
            content = stream.read(_MOST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    except OSError as error:
        raise BadChange(f"cannot read {path}: {error.strerror}; it must be a plain file") from error
    return "100", content if len(content) <= _MOST else None


def _text(name: str, mode: str | None, content: bytes | None) -> str | None:
    if mode is None:
        return None
    if content is None or len(content) > _LARGEST:
        raise BadChange(f"{name} is larger than {_LARGEST} bytes; a proposal holds text that people can read")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BadChange(f"{name} is not text in UTF-8 ({error.reason}); only text can be tried") from error


def _check_task(repository: Repository, head: str) -> None:
    """The task is the human's: a try reads it as it was committed, or not at all."""
    _, content = _found(repository.root / TASK_FILE)
    entry = repository.tree(head).entries.get(TASK_FILE)
    if (entry.blob if entry else None) != (None if content is None else blob_id(content, repository.algorithm)):
        raise BadChange(
            f"{TASK_FILE} is not as it was committed, and whoever tries may not change the task; restore it with: "
            f"git checkout HEAD -- {TASK_FILE}, or let the human commit it"
        )


def _names(listed: bytes) -> list[str]:
    return [name for name in listed.decode(errors="surrogateescape").split("\0") if name]


def _files(folder: Path, inside: str = "") -> Iterator[str]:
    """What lies in a folder of ours, without what tools leave there."""
    for item in os.scandir(folder / inside):
        path = f"{inside}/{item.name}" if inside else item.name
        if item.name in _OF_TOOLS or path == MARKER:
            continue
        if item.is_dir(follow_symlinks=False):
            yield from _files(folder, path)
        else:
            yield path


def _with_headers(diff: str) -> str:
    """A unified diff with the header line that git gives each file, also where plain `diff -u` made it."""
    if re.search(r"^diff --git ", diff, re.MULTILINE):
        return diff
    pair = re.compile(r"^--- (?:a/)?([^\t\n]+)[^\n]*\n\+\+\+ (?:b/)?([^\t\n]+)[^\n]*\n(?=@@ )", re.MULTILINE)

    def headed(found: re.Match[str]) -> str:
        old, new = found[1].rstrip(), found[2].rstrip()
        path = old if new == "/dev/null" else new
        kind = "new file mode 100644\n" if old == "/dev/null" else ""
        kind = "deleted file mode 100644\n" if new == "/dev/null" else kind
        sides = [side if side == "/dev/null" else f"{mark}/{path}" for mark, side in (("a", old), ("b", new))]
        return f"diff --git a/{path} b/{path}\n{kind}--- {sides[0]}\n+++ {sides[1]}\n"

    return pair.sub(headed, diff)


def _put(folder: Path, path: str, text: str | None) -> None:
    """Make one file of a folder of ours hold a text, or nothing; links there are replaced, never followed."""
    place = folder / path
    if not place.parent.resolve().is_relative_to(folder.resolve()):
        raise BadChange(f"{place.parent} leads out of {folder}; remove that link")
    mode = place.stat().st_mode & 0o777 if place.is_file() and not place.is_symlink() else None
    remove(place)
    if text is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text.encode())
        place.chmod(mode or 0o644)


def _mark(folder: Path, place: Place, number: int, commit: str) -> None:
    said = {"study": place.name, "repository": str(place.root), "experiment": number, "commit": commit}
    remove(folder / MARKER)
    (folder / MARKER).write_text(json.dumps(said) + "\n", encoding="utf-8")
