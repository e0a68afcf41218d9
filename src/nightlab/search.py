"""Search: what to grow from, which proposer to ask next, what was thought out meanwhile, when to widen.

    think    whoever takes its time is asked ahead, in threads beside the loop, while the slots are busy
    collect  what was thought out is made durable, and waits for a slot
    ideas    what to try now: what a person handed in, then from whoever is most promising

A call is recorded before it is made and once more when it has been answered, so that a lab that is killed in between
asks the very same again. An answer belongs to the tree that it was made from: the loop brings it up to date, or drops
it, where the incumbent has moved meanwhile.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from random import Random
from statistics import fmean
from typing import Any

from nightlab.bandit import Bandit
from nightlab.ledger import Event, Ledger
from nightlab.lineage import BASELINE, LAB, Lineage, Standing, changes
from nightlab.noise import Noise
from nightlab.proposer import Alone, Context, Peers, Proposer, Trace, walled
from nightlab.task import Task
from nightlab.values import Clock, Cost, Experiment, Files, Proposal, Status, derived_seed
from nightlab.workspace import difference, is_plain, patched

PLATEAU = 15
"""So many proposals without a keep, and the search widens."""
_MEMORY = 200
_TRACES = 12
_LONGEST_PAUSE = 300.0
_ALIKE = 0.8
_LARGEST_PATCH = 1_000_000
_ONLY_PARSE = 1024  # ast.PyCF_ONLY_AST, without the weight of importing ast

Smoke = Callable[[Standing, Files], str | None]
"""Tries a changed tree for a moment: what is wrong with it, in words, or None."""


@dataclass(frozen=True, slots=True)
class Idea:
    """A proposal, who had it, and the kept experiment that it was made from."""

    proposer: str
    proposal: Proposal
    parent: Standing
    draft: int | None = None
    """The call that it was thought out in; None where it was had at once."""
    is_regrown: bool = False
    """Whether it was grown from an earlier keep on purpose, to be raced there first."""


@dataclass(frozen=True, slots=True)
class Around:
    """What surrounds a search: the task's own catalogue, what the human says, what the experiments say together, who
    tries a draft for a moment, and the other labs of a swarm."""

    ideas: Mapping[str, str] = field(default_factory=dict)
    instructions: Callable[[], str] = str
    insights: Callable[[], Sequence[str]] = tuple
    smoke: Smoke = lambda _parent, _files: None
    peers: Peers = field(default_factory=Alone)


@dataclass(frozen=True, slots=True)
class Draft:
    """A call that takes its time: who is asked, from what, to mend which experiment if any."""

    number: int
    proposer: str
    parent: Standing
    mends: int | None = None
    is_regrown: bool = False


class Search:
    """One study's ideas: who has them, at once or beside the loop, and all that they are told."""

    def __init__(
        self,
        proposers: Sequence[Proposer],
        *,
        task: Task,
        ledger: Ledger,
        lineage: Lineage,
        noise: Noise,
        seed: int = 0,
        around: Around | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.task, self.ledger, self.lineage, self.noise, self.seed = task, ledger, lineage, noise, seed
        self._around, self._clock = around or Around(), clock
        self.run_seconds = 0.0
        self.racing: Callable[[], Sequence[Mapping[str, Any]]] = tuple
        """The facts of what is being tried, as the loop knows them."""
        self.stuck_for = 0
        self._proposers = {proposer.name: proposer for proposer in proposers}
        self._slow = {name: int(slots) for name, one in self._proposers.items() if (slots := getattr(one, "drafts", 0))}
        self._bandit = Bandit(list(self._proposers), self._around.peers.lean)
        self.history: deque[Experiment] = deque(maxlen=_MEMORY)
        self._steering: list[str] = []
        self._spaces: list[dict[str, Any]] = []
        self._threads = ThreadPoolExecutor(max(1, sum(self._slow.values())), thread_name_prefix="draft")
        self._thinking: dict[Future[Proposal | None], Draft] = {}
        self._asked = 0
        self._unasked: deque[Draft] = deque()
        self._ready: deque[Idea] = deque()
        self._dry: set[str] = set()
        self._best: int | None = None
        self._failed: dict[str, int] = {}
        self._waits: dict[str, float] = {}

    # Having ideas

    def ideas(self, best: Standing, number: Callable[[], int]) -> Iterator[Idea]:
        """What to try now, the most promising first, until nobody has anything at hand. `number` is the next one's."""
        had: Idea | None = None
        while (had := self._handed_in() or self._first(best, number())) is not None:
            yield had

    def offer(self, idea: Idea) -> None:
        """Put an idea of a person's in front of all others."""
        self._ready.appendleft(replace(idea, draft=None))

    def _handed_in(self) -> Idea | None:
        return self._ready.popleft() if self._ready and self._ready[0].draft is None else None

    def _first(self, best: Standing, number: int) -> Idea | None:
        for name in self._bandit.order(seed=self.seed, number=number):
            if name in self._slow:
                found = next((idea for idea in self._ready if idea.proposer == name), None)
                if found is not None:
                    self._ready.remove(found)
                    return found
            elif (proposal := self._answer(name, self.context(best, number - 1))) is not None:
                return Idea(name, proposal, best)
        return None

    def _answer(self, name: str, context: Context) -> Proposal | None:
        """What a proposer answers; when it raises, that becomes a rejected experiment."""
        proposal, failure = walled(lambda: self._proposers[name].propose(context))
        if proposal is not None:
            _, failure = walled(lambda: _written(proposal))
            failure = failure and f"it answered with what cannot be written down: {failure}"
        cost = proposal.cost if proposal else Cost()
        return Proposal(f"{name} failed", {}, facts={"failure": failure}, cost=cost) if failure else proposal

    def context(self, parent: Standing, number: int) -> Context:
        """What a proposer is told that answers at once; `number` counts the ideas asked for so far."""
        return Context(
            files=parent.texts,
            metric=self.task.metric.name,
            direction=self.task.metric.direction,
            number=number,
            seed=self.seed,
            incumbent=parent.number,
            value=fmean(parent.values) if parent.pool else None,
            sigma=self.noise.sigma,
            history=tuple(self.history),
            ideas=self._around.ideas,
            instructions=self._around.instructions(),
            was_tried=lambda files: (
                self.ledger.was_tried(parent.tree.changed(files).id) is not None
                or self._around.peers.knows(difference(parent.texts, files))
            ),
            spaces=tuple(self._spaces),
            steering=tuple(self._steering),
            racing=self.racing(),
            is_stuck=self.is_stuck,
        )

    def whole_context(self, parent: Standing, draft: int = 0, mends: int | None = None) -> Context:
        """All there is to be told, for one who takes time to read it."""
        failed = None if mends is None else self.ledger.experiment(mends)
        told = [one for one in self.history if one.status is not Status.REJECTED][-_TRACES:]
        near = [one for one in self.history if one.status is Status.SHELVED][-_TRACES:]
        context = self.context(parent, draft)
        if failed is not None:
            context = replace(context, files=_texts({**parent.texts, **(patched(parent.texts, failed.diff) or {})}))
        return replace(
            context,
            draft=draft,
            insights=tuple(self._around.insights()),
            peers=tuple(self._around.peers.news()),
            kept=tuple(self.ledger.lineage(parent.number)[1:]),
            traces={one.id: self._trace(one) for one in [*told, *near, *([failed] if failed else [])]},
            under_way=tuple([one.hypothesis for one in self.ledger.open_experiments()] + self._waiting()),
            beside=len(self._thinking),
            mends=failed,
        )

    def _waiting(self) -> list[str]:
        return [idea.proposal.hypothesis for idea in self._ready]

    def _trace(self, experiment: Experiment) -> Trace:
        body = self.ledger.last_run(experiment.id)
        facts = body.get("facts") or {}
        return Trace(body.get("tail") or "", facts.get("said") or {}, facts.get("curves") or {})

    @property
    def is_stuck(self) -> bool:
        """Whether nothing was kept for so long that the search widens."""
        return self.stuck_for >= PLATEAU

    # Thinking beside the loop

    @property
    def futures(self) -> Iterable[Future[Proposal | None]]:
        """The calls under way, to be waited for."""
        return self._thinking

    @property
    def ahead(self) -> int:
        """How many ideas are being thought out or wait for a slot."""
        return len(self._thinking) + len(self._unasked) + len(self._ready)

    @property
    def may_think(self) -> bool:
        """Whether somebody who takes time may still come up with something."""
        return bool(self.ahead) or any(name not in self._dry for name in self._slow)

    def think(self, best: Standing, *, slots: int, room: int | None) -> None:
        """Ask whoever is free, as far ahead as the slots can use: each has its next idea ready, no more.

        `room` bounds the ideas wanted in all; what is thought out for an incumbent that moves is half wasted.
        """
        if self._best != best.number:
            self._best = best.number
            self._dry.clear()
        while self._unasked and self._is_free(self._unasked[0].proposer):
            self._ask(self._unasked.popleft())
        for name in self._bandit.order(seed=self.seed, number=self._asked) if self._slow else ():
            while self._is_free(name) and name not in self._dry and self._clock() >= self._waits.get(name, 0.0):
                if self.ahead >= slots + self._slow[name] - 1 or (room is not None and self.ahead >= room):
                    return
                ground = self._ground(best)
                self._begin(Draft(self._asked, name, ground, is_regrown=ground is not best))

    def _is_free(self, name: str) -> bool:
        return sum(draft.proposer == name for draft in self._thinking.values()) < self._slow.get(name, 0)

    def _ground(self, best: Standing) -> Standing:
        """What to grow from: the incumbent, and on a plateau every third time an earlier keep."""
        line = self.ledger.lineage(best.number) if self.is_stuck and self._asked % 3 == 2 else []
        earlier = [one.id for one in line[:-1] if one.commit]
        if not earlier:
            return best
        return self.lineage.standing(Random(derived_seed(self.seed, "ground", self._asked)).choice(earlier))

    def _begin(self, draft: Draft) -> None:
        words = {"proposer": draft.proposer, "parent": draft.parent.number}
        more = {"mends": draft.mends, "is_regrown": draft.is_regrown}
        self.ledger.append(Event("asked", str(draft.number), words | more))
        self._asked += 1
        self._unasked.append(draft) if draft.mends is not None else self._ask(draft)

    def _ask(self, draft: Draft) -> None:
        context = self.whole_context(draft.parent, draft.number, draft.mends)
        self._thinking[self._threads.submit(self._think, draft, context)] = draft

    def _think(self, draft: Draft, context: Context) -> Proposal | None:
        began = self._clock()
        proposal = self._answer(draft.proposer, context)
        if proposal is None:
            return None
        files = {path: text for path, text in proposal.files.items() if text != context.files.get(path)}
        if draft.mends is not None:
            files = dict(changes(draft.parent.texts, _texts({**context.files, **files})))
        facts = dict(proposal.facts) | {"thinking": round(self._in_runs(self._clock() - began), 3)}
        facts |= {} if draft.mends is None else {"mends": draft.mends}
        if files and "failure" not in facts and unfit(self.task, draft.parent, files) is None:
            # Where the lab itself cannot look, nobody has looked; its loop says what is wrong with the machine.
            wrong, _ = walled(lambda: syntax(files) or self._around.smoke(draft.parent, files))
            facts |= {"smoke": wrong} if wrong else {}
        return replace(proposal, files=files, facts=facts)

    def _in_runs(self, seconds: float) -> float:
        return seconds / self.run_seconds if self.run_seconds else 0.0

    def collect(self) -> bool:
        """Make durable what was thought out since the last look; whether there was anything."""
        done = [future for future in self._thinking if future.done()]
        for future in done:
            draft = self._thinking.pop(future)
            proposal = future.result()
            if proposal is None:
                self._dry.add(draft.proposer)
            self.ledger.append(Event("drafted", str(draft.number), _told(draft, proposal)))
            if proposal is not None:
                self._take(draft, proposal)
        return bool(done)

    def _take(self, draft: Draft, proposal: Proposal) -> None:
        """An answer waits for its slot; one that asks for a search instead is passed on."""
        failed = self._failed[draft.proposer] = self._failed.get(draft.proposer, 0) + 1
        if "failure" not in proposal.facts:
            self._failed[draft.proposer] = 0
        elif failed > 1:  # an endpoint may be down for a while; asking it faster mends nothing
            self._waits[draft.proposer] = self._clock() + min(_LONGEST_PAUSE, 2.0 ** (failed - 1))
        if "space" in proposal.facts and not proposal.files:
            words = {"hypothesis": proposal.hypothesis, "proposer": draft.proposer}
            self._spaces += [{**words, **dict(knob)} for knob in proposal.facts["space"]]
            # It is searched before the next is asked for.
            self._waits[draft.proposer] = self._clock() + min(_LONGEST_PAUSE, 4 * self.run_seconds)
        else:
            self._ready.append(Idea(draft.proposer, proposal, draft.parent, draft.number, draft.is_regrown))

    def leave(self) -> None:
        """Let go of the threads: what can be ended is, and asked again another time; the rest is waited for.

        What was paid for an answer that did not come is written down all the same.
        """
        self.collect()
        ended = {future: self._thinking.pop(future) for future in self.end()}
        self._threads.shutdown(wait=True)
        for future, draft in ended.items():
            if (proposal := future.result()) is not None and (proposal.cost.money or proposal.cost.tokens):
                key = f"{draft.number}.{self.ledger.count('broken_off')}"
                self.ledger.append(Event("broken_off", key, _paid(proposal)))
        self.collect()

    def end(self) -> list[Future[Proposal | None]]:
        """End the calls under way that can be ended, without a word in the ledger; which."""
        names = {
            draft.proposer for draft in self._thinking.values() if hasattr(self._proposers[draft.proposer], "close")
        }
        for name in names:
            walled(self._proposers[name].close)  # type: ignore[attr-defined]  # looked for above
        return [future for future, draft in self._thinking.items() if draft.proposer in names]

    @property
    def parents(self) -> set[int]:
        """The kept experiments that something is being thought out from."""
        drafts = {draft.parent.number for draft in (*self._thinking.values(), *self._unasked)}
        return drafts | {idea.parent.number for idea in self._ready}

    # Learning

    def learn(self, experiment: Experiment) -> list[str]:
        """Take note of a finished experiment; what went wrong where a proposer could not learn from it."""
        self.history.append(experiment)
        self._bandit.learn(experiment)
        if experiment.status is Status.KEPT:
            self.stuck_for = 0
        elif experiment.status is not Status.REJECTED and experiment.proposer != LAB:
            self.stuck_for += 1
        told = {name: self._teach(name, experiment) for name in self._proposers}
        return [
            f"{name} could not learn from experiment {experiment.id}: {words}" for name, words in told.items() if words
        ]

    def _teach(self, name: str, experiment: Experiment) -> str | None:
        return walled(lambda: self._proposers[name].learn(experiment))[1]

    def may_mend(self, experiment: Experiment) -> bool:
        """Whether its proposer takes its time and gets one turn to repair it: it crashed, or did not even begin."""
        has_crashed = experiment.status is Status.CRASHED or experiment.reason.startswith("smoke:")
        return has_crashed and "mends" not in experiment.facts and experiment.proposer in self._slow

    def let_mend(self, experiment: Experiment) -> None:
        """Ask for the repair of a finished experiment."""
        parent = self.lineage.standing(experiment.parent or BASELINE)
        self._begin(Draft(self._asked, experiment.proposer, parent, experiment.id))

    def steer(self, text: str) -> None:
        """Take up what the human has said."""
        self._steering.append(text)

    def resume(self) -> None:
        """Take up what an earlier lab was thinking about, and what it had thought out and not yet tried."""
        self._steering = [str(event.body["text"]) for event in self.ledger.read(kind="steered")]
        answers = {int(event.key): event.body for event in self.ledger.read(kind="drafted")}
        opened = self.ledger.opened_drafts() if answers else set()
        for event in self.ledger.read(kind="asked"):
            number, body = int(event.key), event.body
            self._asked = max(self._asked, number + 1)
            if body["proposer"] not in self._slow or number in opened:
                continue
            draft = Draft(
                number, body["proposer"], self.lineage.standing(body["parent"]), body["mends"], body["is_regrown"]
            )
            if number not in answers:
                self._unasked.append(draft)
            elif (proposal := _read(draft, answers[number])) is not None:
                self._take(draft, proposal)


def unfit(task: Task, parent: Standing, files: Files) -> tuple[str, str] | None:
    """Why these files may not be put onto a tree: the kind of problem and the words; None where they may."""
    for path, text in files.items():
        if not is_plain(path) or not task.is_editable(path):
            return "scope", f"{path} is not editable here; editable: {', '.join(task.task.editable)}"
        if (entry := parent.tree.entries.get(path)) and not entry.mode.startswith("100"):
            return "symlink", f"{path} is a symbolic link"
        if other := _in_the_way(path, {*parent.tree.entries, *files}):
            return "scope", f"{path} cannot be beside {other}: one name cannot be a file, or a link, and a folder"
        if text is not None and len(text) > _LARGEST_PATCH:
            return "size", f"{path} would hold {len(text)} characters; the most is {_LARGEST_PATCH}"
    return None


def _in_the_way(path: str, others: set[str]) -> str | None:
    """What lies where a path needs a folder, or in the folder that it would be."""
    above = (folder.as_posix() for folder in PurePosixPath(path).parents)
    return next((name for name in above if name in others), None) or next(
        (name for name in others if name.startswith(f"{path}/")), None
    )


def syntax(files: Files) -> str | None:
    """Why one of these texts is not Python, where it should be; None where all are."""
    for path, text in files.items():
        if text is None or not path.endswith(".py"):
            continue
        try:
            compile(text, path, "exec", flags=_ONLY_PARSE, dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return f"{path} is not valid Python: {error}"
    return None


def alike(diff: str, history: Iterable[Experiment]) -> int | None:
    """The latest experiment that changed nearly the same lines in the same way, if one did."""
    mine = _turns(diff)
    for one in sorted(history, key=lambda one: -one.id) if mine else ():
        other = _turns(one.diff)
        if len(mine & other) >= _ALIKE * len(mine | other):
            return one.id
    return None


def _turns(diff: str) -> set[str]:
    lines = (line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---"))
    return {line[0] + " ".join(line[1:].split()) for line in lines}


def _texts(files: Files) -> dict[str, str]:
    return {path: text for path, text in files.items() if text is not None}


def _told(draft: Draft, proposal: Proposal | None) -> dict[str, Any]:
    """An answer as the ledger keeps it."""
    if proposal is None:
        return {"hypothesis": None}
    return {
        "hypothesis": proposal.hypothesis,
        "diff": difference(draft.parent.texts, proposal.files),
        "facts": dict(proposal.facts),
        "expected": proposal.expected,
        **_paid(proposal),
    }


def _paid(proposal: Proposal) -> dict[str, Any]:
    return {"money": proposal.cost.money, "tokens": proposal.cost.tokens}


def _written(proposal: Proposal) -> None:
    """What the ledger will do with it, tried out: raises where it cannot."""
    for text in (*proposal.files, *filter(None, proposal.files.values())):
        text.encode()
    json.dumps([dict(proposal.facts), proposal.expected, _paid(proposal)], allow_nan=False)


def _read(draft: Draft, body: Mapping[str, Any]) -> Proposal | None:
    if body["hypothesis"] is None:
        return None
    files, facts = patched(draft.parent.texts, body["diff"]), body["facts"]
    if body["diff"] and not files:  # no change at all would be another experiment
        facts = {**facts, "failure": "its change cannot be read back from the ledger"}
    cost = Cost(money=body["money"], tokens=body["tokens"])
    return Proposal(body["hypothesis"], files or {}, facts, body["expected"], cost)
