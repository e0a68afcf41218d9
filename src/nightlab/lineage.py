"""The lineage: what was kept, one on top of the other, as trees and texts, and the branch that says the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from nightlab.ledger import Event, Ledger
from nightlab.simplicity import complexity
from nightlab.task import Task
from nightlab.values import Experiment, Files, Status
from nightlab.workspace import TRAILER, Repository, Tree, difference, merged, patched, undone

BASELINE = 0
LAB = "lab"
"""Who proposes the baseline, and what takes keeps out again; no proposer may have this name."""


class Sample(NamedTuple):
    """One measured run of a tree."""

    run: str
    seed: int
    value: float


@dataclass(slots=True)
class Standing:
    """A kept experiment as others are raced against it: its tree, its editable texts, its unselected runs.

    `complexity` is counted from the start of the study.
    """

    number: int
    commit: str
    tree: Tree
    texts: dict[str, str]
    pool: list[Sample]
    runs: int
    complexity: float

    @property
    def values(self) -> list[float]:
        """The values of its pool."""
        return [sample.value for sample in self.pool]


class Lineage:
    """What one study kept, in a repository and a ledger."""

    def __init__(self, *, task: Task, ledger: Ledger, repository: Repository, branch: str) -> None:
        self.task, self.ledger, self.repository, self.branch = task, ledger, repository, branch
        self._standings: dict[int, Standing] = {}
        self._kept: list[Experiment] = []

    def standing(self, number: int) -> Standing:
        """A kept experiment; the same value each time, until it is forgotten."""
        if number not in self._standings:
            commit = str(self.ledger.experiment(number).commit)
            tree = self.repository.tree(commit)
            texts = self._texts(tree)
            pool = [Sample(*row) for row in self.ledger.pool(number)]
            runs = sum(run["purpose"] in ("candidate", "incumbent") for run in self.ledger.runs(number))
            added = complexity(self.start.texts, texts) if number != BASELINE else 0.0
            self._standings[number] = Standing(number, commit, tree, texts, pool, runs, added)
        return self._standings[number]

    def _texts(self, tree: Tree) -> dict[str, str]:
        read = {path: self.repository.text(tree, path) for path in tree.entries if self.task.is_editable(path)}
        return {path: text for path, text in read.items() if text is not None}

    @property
    def start(self) -> Standing:
        """The baseline."""
        return self.standing(BASELINE)

    def forget(self, needed: Collection[int]) -> None:
        """Let go of what nothing is raced against any more."""
        self._standings = {number: one for number, one in self._standings.items() if number in {BASELINE, *needed}}

    def commit(self, experiment: Experiment, files: Files) -> None:
        """Put a kept experiment onto the branch, on top of its parent, and record that it is there."""
        message = commit_message(experiment, self.task.metric.name)
        parent = self.standing(experiment.parent or BASELINE).commit
        commit = self.repository.keep(self.branch, parent=parent, files=files, message=message)
        self.ledger.append(Event("committed", str(experiment.id), {"commit": commit}, experiment.id))

    def lay_by(self, experiment: Experiment, files: Files) -> None:
        """Commit a tree made from the start beside the branch, on a ref that only keeps it from being swept away."""
        message = commit_message(experiment, self.task.metric.name)
        where = f"{self.branch}-grounds/{experiment.id}"
        commit = self.repository.keep(where, parent=self.start.commit, files=files, message=message)
        self.ledger.append(Event("committed", str(experiment.id), {"commit": commit}, experiment.id))

    def repair(self) -> Standing:
        """Make the branch what the ledger says, and return the incumbent: finish a keep whose commit was interrupted,
        mend a branch that was moved."""
        incumbent = self.ledger.incumbent() or self.ledger.experiment(BASELINE)
        tip = self.repository.commit(f"refs/heads/{self.branch}")
        if incumbent.commit is None and tip and self.repository.trailer(tip) == str(incumbent.id):
            self.ledger.append(Event("committed", str(incumbent.id), {"commit": tip}, incumbent.id))
        elif incumbent.commit is None:
            texts = self.standing(incumbent.parent or BASELINE).texts
            self.commit(incumbent, patched(texts, incumbent.diff) or {})
        elif tip != incumbent.commit:
            self.repository.start_branch(self.branch, incumbent.commit)
        return self.standing(incumbent.id)

    # Taking keeps out again

    def keeps(self) -> list[Experiment]:
        """The changes that stand on the branch, oldest first: neither the baseline nor what only took others out."""
        return [one for one in self._line()[1:] if one.status is Status.KEPT and one.proposer != LAB]

    def _line(self) -> list[Experiment]:
        """From the start to the incumbent, in the order in which they were kept."""
        incumbent = self.ledger.incumbent()
        if incumbent is None:
            return []
        if not self._kept or self._kept[-1].id != incumbent.id:
            self._kept = self.ledger.lineage(incumbent.id)
        return self._kept

    def without(self, gone: Sequence[Experiment], texts: dict[str, str]) -> dict[str, str] | None:
        """These texts with some keeps undone, the latest first; None where that conflicts with what came after."""
        order = {one.id: place for place, one in enumerate(self._line())}
        for one in sorted(gone, key=lambda one: -order[one.id]):
            before = self.standing(one.parent or BASELINE).texts
            after = self.standing(one.id).texts
            for path in changes(before, after):
                left = _without(path, before.get(path), after.get(path), texts)
                if left is None:
                    return None
                texts = left
        return texts

    def units(self, keeps: Sequence[Experiment], texts: dict[str, str]) -> list[list[Experiment]]:
        """The keeps in groups that can each be undone by itself: what later ones stand on goes with them.

        One that cannot be undone even with all that came after is in no group.
        """
        groups: list[list[Experiment]] = []  # nearest first
        for one in reversed(keeps):
            ways = [[], *([near] for near in groups), *(groups[:count] for count in range(2, len(groups) + 1))]
            for partners in ways:
                group = [one, *chain.from_iterable(partners)]
                if self.without(group, texts) is not None:
                    groups = [group, *(other for other in groups if other not in partners)]
                    break
        return groups

    def unit_of(self, number: int, texts: dict[str, str]) -> tuple[list[int], dict[str, str]] | None:
        """The keep of this number, alone or with what stands on it, and the texts without; None where none can go."""
        keeps = self.keeps()
        groups = [[one] for one in keeps if one.id == number]
        groups += [unit for unit in self.units(keeps, texts) if any(one.id == number for one in unit)]
        ways = (([one.id for one in group], self.without(group, texts)) for group in groups)
        return next(((gone, left) for gone, left in ways if left is not None), None)

    def take_out(
        self, gone: Sequence[int], texts: dict[str, str], status: Status, words: Mapping[str, Any], number: int
    ) -> Experiment:
        """Record that keeps leave the branch with an experiment of the lab's own, then commit it on top of them.

        `words` are what its decision says: value, gain, stderr, z, reason, grade, pool.
        """
        parent = self.repair()
        files = changes(parent.texts, texts)
        tree = parent.tree.changed(files)
        names = ", ".join(map(str, gone))
        body = {
            "parent": parent.number,
            "hypothesis": f"without experiment{'s' if len(gone) > 1 else ''} {names}",
            "proposer": LAB,
            "tree": tree.id,
            "diff": difference(parent.texts, files),
            "facts": {"takes_out": list(gone)},
            "complexity": complexity(self.start.texts, texts),
        }
        told = {"status": status, "reason": f"{words['reason']} (experiment {number})", "by": number}
        self.ledger.append(
            Event("proposed", str(number), body, number),
            Event("decided", str(number), {"status": Status.KEPT, **words}, number),
            *(Event("demoted", str(one), told, one) for one in gone),
        )
        experiment = self.ledger.experiment(number)
        self.commit(experiment, files)
        return experiment


def _without(path: str, before: str | None, after: str | None, texts: dict[str, str]) -> dict[str, str] | None:
    """These texts with one file's change undone."""
    both = merged({path: after}, texts, {path: before})
    if both is None and None not in (before, after):
        both = {**texts, path: undone(str(before), str(after), texts.get(path, ""))}
        both = None if both[path] is None else both
    return None if both is None else {path: text for path, text in both.items() if text is not None}


def changes(before: dict[str, str], after: dict[str, str]) -> dict[str, str | None]:
    """The files that differ, as a proposal would change them."""
    return {path: after.get(path) for path in {*before, *after} if before.get(path) != after.get(path)}


def commit_message(experiment: Experiment, metric: str) -> str:
    """The evidence, as the message of the commit that keeps it; a hypothesis is one line and cannot forge a trailer."""
    subject = experiment.hypothesis if len(experiment.hypothesis) <= 70 else experiment.hypothesis[:67] + "..."
    lines = [subject, "", *_evidence(experiment, metric), ""]
    if experiment.proposer == LAB:
        lines += [f"Takes-Out: {number}" for number in experiment.facts.get("takes_out", ())]
    lines += [f"{TRAILER}: {experiment.id}", f"Proposer: {experiment.proposer}"]
    return "\n".join(lines) + "\n"


def _evidence(one: Experiment, metric: str) -> list[str]:
    if one.value is None or one.gain is None:
        return [f"{one.reason}."]
    noise = f" +- {one.stderr:.3g}" if one.stderr else ""
    return [
        f"{metric} {one.value:.6g}, gain {one.gain:.4g}{noise} over experiment {one.parent}.",
        f"Kept: {one.reason}. Grade {one.grade}, {one.runs} runs.",
    ]
