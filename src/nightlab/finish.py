"""Finishing: what a study kept, as branches or patches to review, one for each logical change.

A logical change is what can be undone by itself: keeps that stand on one another go together, what was taken out again
does not appear. Each is tried alone on the base, then on the fewest others that it needs. What does not merge is left
out whole and named. Only git's objects and branches of our own are written: never HEAD, the index or the working tree.
Not covered: two changes that merge as texts and still need each other to run.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from nightlab import evidence
from nightlab.errors import BadRepository, BadTask, StudyStuck
from nightlab.exports import write_whole
from nightlab.ledger import Ledger
from nightlab.lineage import Lineage, changes
from nightlab.place import Place
from nightlab.task import Task
from nightlab.values import Experiment, Files
from nightlab.workspace import Repository, Tree, merged, stream_data, stream_path

_SCRATCH = "refs/nightlab/finish"
_NOBODY = "Nightlab <nightlab@localhost>"
_THERE = "the base has it already"
Chain = tuple["Change", ...]
"""Changes to be committed one on the other."""


@dataclass(frozen=True, eq=False)
class Change:
    """One logical change: its experiments, oldest first, and the study's texts before and after it in the series."""

    number: int
    experiments: tuple[Experiment, ...]
    before: Mapping[str, str]
    after: Mapping[str, str]

    @cached_property
    def files(self) -> Files:
        """What it makes of the files that it touches."""
        return changes(dict(self.before), dict(self.after))

    @cached_property
    def subject(self) -> str:
        """What it does, in one line."""
        return evidence.subject(self.experiments, self.before, self.files)

    @property
    def slug(self) -> str:
        """The same, as a part of a branch's name."""
        plain = unicodedata.normalize("NFKD", self.subject.casefold()).encode("ascii", "ignore").decode()
        return "-".join(re.findall(r"[a-z0-9]+", plain))[:40].strip("-") or "change"


def logical_changes(lineage: Lineage) -> list[Change]:
    """What stands, as changes each of which can be undone by itself, in the order in which they began.

    What cannot be told apart is one change, the first.
    """
    keeps, texts, start = lineage.keeps(), lineage.standing(_best(lineage.ledger)).texts, lineage.start.texts
    order = {one.id: place for place, one in enumerate(keeps)}
    units = [sorted(unit, key=lambda one: order[one.id]) for unit in lineage.units(keeps, texts)]
    found: list[tuple[Sequence[Experiment], dict[str, str], dict[str, str]]] = []
    for unit in sorted(units, key=lambda unit: order[unit[0].id], reverse=True):
        left = lineage.without(unit, texts)
        if left is not None:
            found.append((unit, left, texts))
            texts = left
    told = {one.id for unit, *_ in found for one in unit}
    if texts != start:
        found.append(([one for one in keeps if one.id not in told], start, texts))
    real = [row for row in reversed(found) if row[1] != row[2]]
    return [Change(number, tuple(unit), before, after) for number, (unit, before, after) in enumerate(real, start=1)]


def _alone(lineage: Lineage, change: Change) -> Change | None:
    """The change without all others: also where it stands so close to them that a merge sees a conflict."""
    mine = {one.id for one in change.experiments}
    others = [one for one in lineage.keeps() if one.id not in mine]
    left = lineage.without(others, lineage.standing(_best(lineage.ledger)).texts)
    return None if left is None else Change(change.number, change.experiments, lineage.start.texts, left)


def _best(ledger: Ledger) -> int:
    best = ledger.incumbent()
    return best.id if best else 0


@dataclass(frozen=True)
class Ground:
    """A tree that changes are merged onto: a commit's, with what was merged so far."""

    repository: Repository
    tree: Tree
    texts: Files = field(default_factory=dict)

    def plus(self, change: Change) -> Ground | None:
        """With a change merged in, or None where it conflicts."""
        if self.conflicts(change):
            return None
        return Ground(self.repository, self.tree, {**self.texts, **self._merged(change)})

    def conflicts(self, change: Change) -> list[str]:
        """The files in which a change conflicts with what is here."""
        found = [path for path in change.files if self._one(change, path) is None]
        return found or [path for path in self._merged(change) if self._is_in_the_way(path)]

    def _merged(self, change: Change) -> dict[str, str | None]:
        return {path: text for one in change.files for path, text in (self._one(change, one) or {}).items()}

    def _one(self, change: Change, path: str) -> dict[str, str | None] | None:
        if path not in self.texts and path in self.tree.entries and self.text(path) is None:
            return None  # a link, or no text
        return merged({path: change.before.get(path)}, {path: self.text(path)}, {path: change.after.get(path)})

    def text(self, path: str) -> str | None:
        """A file as it is here."""
        return self.texts[path] if path in self.texts else self.repository.text(self.tree, path)

    def _is_in_the_way(self, path: str) -> bool:
        """Whether a file that is new here would take the place of a folder, or of a file where it needs a folder."""
        above = [parent.as_posix() for parent in Path(path).parents]
        return path not in self.tree.entries and any(
            there in above or there.startswith(f"{path}/") for there in self.tree.entries
        )

    def since(self, before: Ground) -> Files:
        """What differs from another state of the same tree."""
        paths = {*self.texts, *before.texts}
        return {path: self.text(path) for path in paths if self.text(path) != before.text(path)}


@dataclass(frozen=True)
class Plan:
    """What finishing a study would write: the changes, what each stands on, what is left out and why."""

    name: str
    onto: str
    commit: str
    ground: Ground
    changes: Sequence[Change]
    series: Chain
    """All that merge one after the other, in order."""
    chains: Mapping[int, Chain]
    """Each change as a branch of its own: what it needs first, itself last."""
    left_out: Mapping[int, str]
    messages: Mapping[int, str]
    facts: Mapping[int, Mapping[str, Any]]
    incumbent: str
    """The id of the incumbent's tree."""

    @property
    def folder(self) -> str:
        """What the names of its branches begin with."""
        return f"nightlab/finish/{self.name}/"

    @cached_property
    def is_exact(self) -> bool:
        """Whether all changes together are the incumbent's very tree."""
        whole = _stacked(self.ground, self.series)
        assert whole is not None
        return self.ground.tree.changed(whole.texts).id == self.incumbent

    def branches(self) -> dict[str, Chain]:
        """The branches by name."""
        each = {self.branch(change): self.chains[change.number] for change in self._apart()}
        return each | ({f"{self.folder}all": self.series} if self.series else {})

    def branch(self, change: Change) -> str:
        """The name of a change's own branch."""
        return f"{self.folder}{change.number:02}-{change.slug}"

    def _apart(self) -> Iterator[Change]:
        return (change for change in self.changes if change.number in self.chains)


def plan(place: Place, ledger: Ledger, *, onto: str = "HEAD") -> Plan:
    """What finishing this study onto a commit would write.

    Raises StudyStuck where nothing stands, BadTask where the study or the base is not one to finish.
    """
    lineage = _lineage(place, ledger)
    commit = place.repository.commit(onto)
    if commit is None:
        raise BadTask(f"{onto!r} is no commit of {place.root}; name a branch or a commit with --onto")
    found = logical_changes(lineage)
    if not found:
        raise StudyStuck(f"there is nothing to finish in study {place.name}: nothing that was kept stands")
    ground = Ground(place.repository, place.repository.tree(commit))
    series, left_out = _series(ground, found)
    away = [change for change in found if left_out.get(change.number) != _THERE]
    chains = _chains(lineage, ground, away, series)
    about = evidence.whole(ledger, name=place.name, is_only=len(found) == 1)
    facts = {change.number: evidence.told(ledger, change.experiments) for change in found}
    messages = {
        change.number: evidence.message(
            change.subject,
            change.experiments,
            facts[change.number],
            metric=lineage.task.metric.name,
            about=about,
        )
        for change in found
    }
    best = lineage.standing(_best(ledger)).tree.id
    return Plan(place.name, onto, commit, ground, found, series, chains, left_out, messages, facts, best)


def _lineage(place: Place, ledger: Ledger) -> Lineage:
    study, best = ledger.study() or {}, ledger.incumbent()
    if "task" not in study:
        raise BadTask(f"study {place.name} was not searched by this lab, so it holds no patches to hand over")
    if best is None or best.id == 0:
        raise StudyStuck(f"there is nothing to finish in study {place.name}: nothing that was kept stands")
    if best.commit is None:
        raise StudyStuck(f"experiment {best.id} was kept and is not committed yet; do it with: nightlab run")
    for one in ledger.lineage(best.id):
        if place.repository.commit(str(one.commit)) is None:
            raise BadRepository(f"the commit {one.commit} of experiment {one.id} is not in {place.root}")
    task = Task.model_validate(study["task"])
    return Lineage(task=task, ledger=ledger, repository=place.repository, branch=place.branch)


def _series(ground: Ground, found: Sequence[Change]) -> tuple[Chain, dict[int, str]]:
    """What merges one after the other, and why the rest does not."""
    series, left_out = list[Change](), dict[int, str]()
    for change in found:
        after = ground.plus(change)
        if after is None:
            left_out[change.number] = f"conflicts with the base in {', '.join(ground.conflicts(change))}"
        elif not after.since(ground):
            left_out[change.number] = _THERE
        else:
            series.append(change)
            ground = after
    return tuple(series), left_out


def _chains(lineage: Lineage, ground: Ground, found: Sequence[Change], series: Chain) -> dict[int, Chain]:
    """Each change alone, else on the fewest others that it needs; none for one that conflicts on all of them."""
    chains: dict[int, Chain] = {}
    for change in found:
        earlier = [one for one in series if one.number < change.number]
        ways = [*(chains[one.number] for one in reversed(earlier) if one.number in chains)]
        if ground.plus(change):
            chains[change.number] = (change,)
        elif (alone := _alone(lineage, change)) and ground.plus(alone):
            chains[change.number] = (alone,)
        elif (way := next((way for way in ways if _stacked(ground, (*way, change))), None)) is not None:
            chains[change.number] = (*way, change)
        elif change in series:
            chains[change.number] = (*_fewest(ground, earlier, change), change)
    return chains


def _fewest(ground: Ground, earlier: Sequence[Change], change: Change) -> Chain:
    """Those of the earlier changes that it cannot do without."""
    needed = list(earlier)
    for one in earlier:
        fewer = [other for other in needed if other is not one]
        if _stacked(ground, (*fewer, change)):
            needed = fewer
    return tuple(needed)


def _stacked(ground: Ground | None, chain: Sequence[Change]) -> Ground | None:
    for change in chain:
        ground = ground.plus(change) if ground else None
    return ground


# Writing


def written(place: Place, wanted: Mapping[str, Chain], planned: Plan, *, force: bool = False) -> dict[str, list[str]]:
    """Make all branches at once or none; returns the commits of each.

    Raises BadTask where one is there already, unless `force` and it is ours.
    """
    repository = place.repository
    stale = _stale(repository, planned, wanted, force=force)
    made = _committed(repository, wanted.values(), planned)
    commits = {name: [made[chain[: length + 1]] for length in range(len(chain))] for name, chain in wanted.items()}
    rows = [f"delete {_SCRATCH}", *(f"delete refs/heads/{name}" for name in stale if name not in wanted)]
    verbs = {name: "update" if name in stale else "create" for name in commits}
    rows += [f"{verbs[name]} refs/heads/{name} {ids[-1]}" for name, ids in commits.items()]
    repository.git("update-ref", "-m", "nightlab finish", "--stdin", input="\n".join([*rows, ""]).encode())
    return commits


def _stale(repository: Repository, planned: Plan, wanted: Mapping[str, Chain], *, force: bool) -> list[str]:
    """Branches of an earlier finish, which the new ones replace."""
    if repository.commit("refs/heads/nightlab/finish"):
        raise BadTask("a study called finish has the branch nightlab/finish; write patches instead: --patches DIR")
    form = f"--format=%(refname:lstrip=2)%09%(contents:trailers:key={evidence.TRAILER},valueonly,separator=%2C)"
    rows = repository.git("for-each-ref", form, f"refs/heads/{planned.folder}").decode().splitlines()
    there = {name: ours for name, _, ours in (row.partition("\t") for row in rows)}
    if there and not force:
        raise BadTask(f"there is a branch {next(iter(there))} already; replace what finish made with --force")
    for name in wanted:
        if name in there and not there[name]:
            raise BadTask(f"the branch {name} is not what finish made; rename it: git branch -m {name} NEW-NAME")
    stale = [name for name, ours in there.items() if ours]
    listed = repository.git("worktree", "list", "--porcelain").decode(errors="replace").splitlines()
    for name in stale:
        if f"branch refs/heads/{name}" in listed:
            raise BadTask(f"the branch {name} is checked out; switch to another one first")
    return stale


def _committed(repository: Repository, chains: Iterable[Chain], planned: Plan) -> dict[Chain, str]:
    """The commits of all chains, each made once; nothing points to them yet but a reference of our own."""
    who = f"{_author(repository.root)} {os.environ.get('SOURCE_DATE_EPOCH') or int(time.time())} +0000"
    stream, numbers = list[bytes](), count(1)
    marks: dict[Chain, str] = {(): planned.commit}
    grounds: dict[Chain, Ground] = {(): planned.ground}
    for chain in chains:
        for length in range(len(chain)):
            before, now = chain[:length], chain[: length + 1]
            if now in marks:
                continue
            after = grounds[before].plus(now[-1])
            assert after is not None
            grounds[now], marks[now] = after, f":{next(numbers)}"
            files = after.since(grounds[before])
            stream += [f"commit {_SCRATCH}\nmark {marks[now]}\nauthor {who}\ncommitter {who}\n".encode()]
            stream += [stream_data(planned.messages[now[-1].number].encode())]
            stream += [f"from {marks[before]}\n".encode(), *_stream(files, planned.ground.tree)]
    asked = list(marks)[1:]
    stream += [f"get-mark {marks[chain]}\n".encode() for chain in asked]
    ids = repository.git("fast-import", "--quiet", "--force", input=b"".join(stream)).decode().split()
    return dict(zip(asked, ids, strict=True))


def _stream(files: Files, tree: Tree) -> Iterator[bytes]:
    for path, text in sorted(files.items(), key=lambda item: (item[1] is not None, item[0])):
        if text is None:
            yield f"D {stream_path(path)}\n".encode()
        else:
            mode = tree.entries[path].mode if path in tree.entries else "100644"
            yield f"M {mode} inline {stream_path(path)}\n".encode()
            yield stream_data(text.encode())


def _author(root: Path) -> str:
    """Who the user is to git, by their own settings; Nightlab where they never said."""
    # Asked as the user would: the hardened git sees no global configuration, and this runs nothing of the repository.
    command = ["git", "-c", "user.useConfigOnly=true", "var", "GIT_AUTHOR_IDENT"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, errors="replace", check=False)
    return done.stdout.rsplit(" ", 2)[0] if done.returncode == 0 else _NOBODY


def patches(place: Place, planned: Plan, folder: Path, *, force: bool = False) -> list[Path]:
    """Write the series as numbered patches for `git am`, into a new or empty folder."""
    if not planned.series:
        return []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        old = sorted(folder.iterdir())
    except OSError as error:
        raise BadTask(f"cannot write patches into {folder}: {error.strerror}; name another folder") from error
    ours = [path for path in old if path.suffix == ".patch" and evidence.TRAILER.encode() in path.read_bytes()]
    if old and not (force and ours == old):
        raise BadTask(f"{folder} is not empty; name a new folder" + (", or say --force" if ours == old else ""))
    made = _committed(place.repository, [planned.series], planned)
    texts = {
        f"{number:04}-{change.slug}.patch": _patch(place.repository, made[planned.series[:number]])
        for number, change in enumerate(planned.series, start=1)
    }
    place.repository.git("update-ref", "-d", _SCRATCH)
    for path in ours:
        path.unlink()
    for name, text in texts.items():
        write_whole(folder / name, text)
    return [folder / name for name in texts]


def _patch(repository: Repository, commit: str) -> str:
    options = ("--stdout", "-1", "--no-signature", "--no-numbered", "--no-thread", "--no-attach", "--no-renames")
    plain = ("--no-ext-diff", "--no-textconv", "--full-index", "--binary", "--src-prefix=a/", "--dst-prefix=b/")
    return repository.git("format-patch", *options, *plain, commit).decode()
