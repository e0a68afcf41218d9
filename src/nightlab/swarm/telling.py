"""Telling: what a study's ledger says to the swarm, each thing once, however often the lab is killed."""

from __future__ import annotations

import platform
import re
import threading
from hashlib import sha256
from statistics import fmean, median
from typing import Any

from nightlab import insights
from nightlab.facts import machine
from nightlab.ledger import Event, Ledger
from nightlab.lineage import BASELINE, LAB, Lineage
from nightlab.place import Place
from nightlab.swarm.identity import Identity
from nightlab.swarm.record import (
    Insight,
    Record,
    Result,
    Retraction,
    Verification,
    patch_key,
    rounded,
    task_hash,
)
from nightlab.swarm.store import Store
from nightlab.task import Task
from nightlab.values import Clock, Experiment, Status, improvement
from nightlab.words import one_line
from nightlab.workspace import difference

_INSIGHT_EVERY = 25
_LONGEST_HYPOTHESIS = 200


def hardware() -> str:
    """This machine's class: its GPU, else its processor and how many cores of it one may use."""
    found = machine()
    return one_line(found["gpus"][0] if found["gpus"] else f"{found['cores']} cores {found['cpu']}", 60)


def environment() -> str:
    """What the runs' interpreter and system are, as one short name."""
    words = f"{platform.python_implementation()} {platform.python_version()} {platform.machine()} {platform.libc_ver()}"
    return sha256(words.encode()).hexdigest()[:16]


def comparable(place: Place, task: Task, base: str) -> tuple[str, str]:
    """The names of the task and of its evaluator: what has to be the same for two labs' numbers to be of one kind."""
    tree = place.repository.tree(base).id
    judge = task.model_dump_json(include={"judge", "metric"})
    budget = task.model_dump_json(include={"budget", "task"})
    return task_hash({"tree": tree, "judge": judge, "budget": budget}), task_hash({"tree": tree, "judge": judge})


def is_told(one: Experiment) -> bool:
    """Whether the swarm is told what became of an experiment: it ran, and was not given up for another lab's."""
    return one.proposer != LAB and one.runs > 0 and not one.reason.startswith("yielded:")


class Teller:
    """Reads one study's ledger, and writes what happened there into the store."""

    def __init__(
        self, place: Place, task: Task, *, base: str, store: Store, identity: Identity, label: str, clock: Clock
    ) -> None:
        self.place, self.task, self.store, self.identity = place, task, store, identity
        self.label, self._clock = one_line(label, 60), clock
        self.name, self.evaluator = comparable(place, task, base)
        self.lab = sha256(str(place.home).encode()).hexdigest()[:16]
        self.ledger = Ledger(place.ledger)
        self.lineage = Lineage(task=task, ledger=self.ledger, repository=place.repository, branch=place.branch)
        self._since, self._lock = 0, threading.Lock()
        self._hardware, self._environment = hardware(), environment()
        self._grounds: dict[int, str] = {}

    def close(self) -> None:
        """Let go of the ledger and the repository."""
        self.ledger.close()
        self.place.repository.close()

    def said(self) -> dict[str, Any]:
        """What every record says."""
        return {"task": self.name, "label": self.label, "at": round(self._clock(), 3)}

    def tell(self) -> list[Record]:
        """Say what happened since the last look; the new records."""
        found: list[Record] = []
        with self._lock:
            for event in self.ledger.read(self._since):
                found += [one for one in self._of(event) if isinstance(one, Record)]
                self._since = event.seq
        return found

    def _of(self, event: Event) -> list[Record | str]:
        number = event.experiment
        if number is None or number == BASELINE or event.kind not in ("decided", "demoted"):
            return []
        one = self.ledger.experiment(number)
        if not is_told(one):
            return []
        once = f"{self.lab}:{event.kind}:{number}"
        if event.kind == "demoted":
            return [self._retract(one, once)]
        if "peer" in one.facts:
            return [self.store.write(self._verification(one), self.identity, once=once)]
        told = [self.store.write(self._result(one), self.identity, once=once)]
        return told + ([self._insight(once)] if number % _INSIGHT_EVERY == 0 else [])

    def ground(self, number: int) -> str:
        """The tree of a kept experiment as a diff against the task's start; the name of that blob."""
        if number not in self._grounds:
            start, parent = self.lineage.start, self.lineage.standing(number)
            everywhere = {path: parent.texts.get(path) for path in {*start.texts, *parent.texts}}
            self._grounds[number] = self.store.keep(difference(start.texts, everywhere))
            self.lineage.forget({number})
        return self._grounds[number]

    def _sides(self, one: Experiment) -> dict[str, Any]:
        values = [value for *_, value in self.ledger.samples(one.id, "candidate")]
        against = [value for *_, value in self.ledger.pool(one.parent or BASELINE)]
        return {"values": rounded(values), "against": rounded(against), "gain": one.gain, "stderr": one.stderr}

    def _result(self, one: Experiment) -> Result:
        is_kept, sides = one.status is Status.KEPT, self._sides(one)
        return Result(
            **self.said(),
            **sides,
            evaluator=self.evaluator,
            patch=patch_key(self.name, one.diff),
            change=self.store.keep(one.diff) if is_kept else "",
            parent=self.ground(one.parent or BASELINE),
            hypothesis=one_line(one.hypothesis, _LONGEST_HYPOTHESIS),
            status=one.status,
            direction=self.task.metric.direction,
            budget=[self.task.budget.kind, f"{self.task.budget.amount or 0:g}"],
            hardware=self._hardware,
            environment=self._environment,
            seeds=[seed for _, seed, _ in self.ledger.samples(one.id, "candidate")][-24:],
            sigma=(self.ledger.last("measured") or Event("", "")).body.get("sigma"),
            grade=one.grade,
            total=self.total(sides["values"]),
            per_hour=self.per_hour(),
            milestones=reached(self.task, one.diff) if is_kept else [],
        )

    def total(self, values: list[float]) -> float | None:
        """What these values are better than the start, as a share of it."""
        start = [value for *_, value in self.ledger.pool(BASELINE)]
        if not values or not start:
            return None
        return improvement(self.task.metric.direction, fmean(values), fmean(start)) / (abs(fmean(start)) or 1.0)

    def seconds_per_run(self) -> float:
        """What one run of the start took."""
        return fmean(run["seconds"] or 0.0 for run in self.ledger.runs(BASELINE))

    def per_hour(self) -> float | None:
        """How many experiments this lab makes in an hour, by its last fifty."""
        rows = self.ledger.experiments(limit=50, newest=True)
        seconds = [one.seconds for one in rows if one.runs]
        return 3600 / median(seconds) if seconds and median(seconds) > 0 else None

    def _verification(self, one: Experiment) -> Verification:
        win = str(one.facts["peer"])
        record = self.store.log.find(win)
        theirs = record.body.parent if record and isinstance(record.body, Result) else None
        return Verification(
            **self.said(),
            **self._sides(one),
            of=win,
            hardware=self._hardware,
            has_same_parent=self.ground(one.parent or BASELINE) == theirs,
            adopted=one.status is Status.KEPT,
        )

    def _retract(self, one: Experiment, once: str) -> Record | str:
        key = patch_key(self.name, one.diff)
        mine = [r for r in self.store.log.chains.get(self.identity.author, ()) if isinstance(r.body, Result)]
        said = next((r for r in reversed(mine) if isinstance(r.body, Result) and r.body.patch == key), None)
        if said is None:
            return "it was never told"
        return self.store.write(
            Retraction(**self.said(), of=said.id, reason=one_line(one.reason, 200)), self.identity, once=once
        )

    def _insight(self, once: str) -> Record | str:
        """What this lab's experiments say together, with its latest wins as evidence."""
        lines = insights.for_agents(self.place, self.ledger)
        if not lines:
            return "nothing to say yet"
        mine = self.store.log.chains.get(self.identity.author, [])
        wins = [r.id for r in mine if isinstance(r.body, Result) and r.body.status is Status.KEPT]
        text = one_line("; ".join(lines), 600)
        body = Insight(**self.said(), text=text, evidence=wins[-8:])
        return self.store.write(body, self.identity, once=f"{once}:insight")


def reached(task: Task, diff: str) -> list[str]:
    """The task's known ideas that the added lines of a diff bring."""
    added = "\n".join(line[1:] for line in diff.splitlines() if line[:1] == "+" and line[:4] != "+++ ")
    return [name[:60] for name, pattern in task.milestones.items() if re.search(pattern, added, re.MULTILINE)][:6]
