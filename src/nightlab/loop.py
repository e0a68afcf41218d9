"""The loop: propose, apply, run, evaluate, decide, record; for as long as people want, through any interruption.

    ask    a proposer has an idea: it is checked, numbered and recorded
    step   obey, fill every free slot, wait for a run to end, tell
    tell   a run has ended: it is recorded and judged; what wins is committed

Record first, then act: an event is durable before a run starts or git moves, so a lab that is killed at any instant
finds its way back from the ledger. Evidence is always relative to an experiment's own parent: a win whose parent is
no longer the incumbent is merged onto the incumbent and raced there as a new experiment; where the two conflict, the
winner's own tree is judged against the new incumbent.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any

from nightlab.decide import Policy
from nightlab.errors import StudyStuck
from nightlab.ledger import Event, Ledger
from nightlab.lineage import BASELINE, LAB, Lineage, Sample, Standing
from nightlab.noise import Noise
from nightlab.proposer import Proposer
from nightlab.runner import Attempt, Finding, Purpose, Slots
from nightlab.search import Around, Idea, Search, alike, unfit
from nightlab.simplicity import complexity
from nightlab.stats import repeats_exactly
from nightlab.task import Task
from nightlab.values import (
    Clock,
    Contrast,
    Cost,
    Decision,
    Experiment,
    Files,
    Grade,
    Outcome,
    Proposal,
    Side,
    Status,
    derived_seed,
    improvement,
)
from nightlab.words import one_line
from nightlab.workspace import Repository, Tree, difference, merged, patched

FAILURES_IN_A_ROW = 20
CHECKPOINT = "checkpoint"
_TICK = 0.25
_PATIENCE = 5.0
_LONGEST_REASON = 3000
_MOST_LOST = 3
_MANY, _AHEAD = 8, {"incumbent": 20, "candidate": 4}
"""From so many slots on, one that is free repeats what is under way, up to so many runs of either side."""
_REPEAT = "0-repeat"
_ASKED_FOR = {"try", "retries", "peer"}  # by a person, or raced here because it won elsewhere


@dataclass(frozen=True, slots=True)
class Stop:
    """When to end by itself: so many new experiments or seconds, a metric value, so many runs, so many US dollars or
    tokens of the whole study, so many experiments without a gain; None: never."""

    experiments: int | None = None
    seconds: float | None = None
    target: float | None = None
    runs: int | None = None
    money: float | None = None
    tokens: int | None = None
    plateau: int | None = None

    def after(self, experiments: int, seconds: float) -> Stop:
        """What is left of it once so much of it has passed."""
        return replace(
            self,
            experiments=None if self.experiments is None else max(0, self.experiments - experiments),
            seconds=None if self.seconds is None else max(0.0, self.seconds - seconds),
        )


@dataclass(slots=True)
class Race:
    """An experiment under way."""

    number: int
    parent: Standing
    proposal: Proposal
    proposer: str
    tree: Tree
    diff: str
    complexity: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    runs: int = 0
    seconds: float = 0.0
    is_refreshed: bool = False
    is_rebased: bool = False
    veto: str | None = None
    contrast: Contrast | None = None

    @property
    def values(self) -> list[float]:
        """What its runs came to, in the order they ended."""
        return [sample.value for sample in self.samples]

    def pairs(self) -> list[tuple[Sample, Sample]]:
        """Candidate and incumbent under one seed, in the order of the candidate's runs."""
        other = {sample.seed: sample for sample in self.parent.pool}
        return [(mine, other[mine.seed]) for mine in self.samples if mine.seed in other]

    def experiment(self, status: Status, **more: Any) -> Experiment:
        """As the ledger will tell it."""
        return Experiment(
            self.number,
            self.parent.number,
            status,
            one_line(self.proposal.hypothesis),
            self.proposer,
            runs=self.runs,
            seconds=self.seconds,
            tree=self.tree.id,
            diff=self.diff,
            facts=self.proposal.facts,
            complexity=self.complexity,
            **more,
        )


class Loop:
    """One study's loop over a ledger, a repository, slots and proposers; what it keeps goes onto `branch`."""

    def __init__(
        self,
        *,
        task: Task,
        ledger: Ledger,
        repository: Repository,
        slots: Slots,
        proposers: Sequence[Proposer],
        policy: Policy,
        branch: str,
        seed: int = 0,
        around: Around | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.task, self.ledger, self.repository, self.slots, self.policy = task, ledger, repository, slots, policy
        self.lineage = Lineage(task=task, ledger=ledger, repository=repository, branch=branch)
        self._is_timed = task.budget.kind == "wall"
        self.noise = Noise(ledger, task.metric.direction, slots.examples, by_hardware=self._is_timed)
        self.around = around or Around()
        self.search = Search(
            proposers,
            task=task,
            ledger=ledger,
            lineage=self.lineage,
            noise=self.noise,
            seed=seed,
            around=self.around,
            clock=clock,
        )
        self.search.racing = lambda: [race.proposal.facts for race in self._races.values()]
        self.seed = seed
        self.reason: str | None = None
        self.is_paused, self.is_asked_to_stop, self.prune_follows = ledger.is_paused(), False, False
        self._clock = clock
        self._races: dict[int, Race] = {}
        self._queue: deque[Attempt] = deque()
        self._adopting: set[str] = set()
        self._flying: dict[Future[Finding], Attempt] = {}
        self._unwritten: list[Event] = []
        self._spent: list[tuple[str, bool]] = []
        self._gains: deque[float] = deque(maxlen=20)
        self._costs: list[Cost] = []
        self.opened = self._failures = self._lost = self._next = self._ran = 0
        self._lost_to_simplicity = 0.0
        self._stop, self._began, self.spent = Stop(), clock(), Cost()
        self.is_killed = self._is_measured = False

    # The sentence

    def run(self, stop: Stop | None = None) -> str:
        """Go on until a stop rule, a person, or nothing is left to try; returns which. The study can be resumed.

        Raises StudyStuck where it cannot go on until a person acts.
        """
        self._stop, self._began = stop or Stop(), self._clock()
        try:
            self.begin()
            while self.reason is None or self._is_busy():
                self.reason = self.reason or self._why_stop()
                self.step()
            self.search.leave()
        except BaseException:
            wait(self.search.end(), timeout=_PATIENCE)  # no thread may use what is let go of now, or wait for an answer
            raise
        self._write(Event("stopped", str(self.ledger.count("stopped")), {"reason": self.reason}))
        self._flush()
        return self.reason

    def _is_busy(self) -> bool:
        """Whether something under way is still waited for; before a checkpoint that is what is being thought as well,
        since the study goes on with it right after."""
        is_owed = not self.is_killed and (self._races or self._queue)
        return bool(self._flying or is_owed or (self.reason == CHECKPOINT and self.search.futures))

    def _is_held(self) -> bool:
        """Whether nothing may be started, owed runs neither; a pause gives way to whatever ends the search."""
        return self.is_killed or (self.is_paused and self.reason is None)

    def step(self) -> None:
        """Obey, let others think, fill every free slot, wait for a run or a thought to end, tell."""
        self._obey()
        self._think()
        while not self._is_held() and len(self._flying) < self.slots.count and (self._queue or self.ask()):
            self._start(self._queue.popleft())
        self._repeat_ahead()
        self._flush()
        awaited: set[Future[Any]] = {*self._flying, *self.search.futures}
        if not awaited and (self.is_paused or self.search.may_think or not self.slots.count):
            time.sleep(_TICK)
        wait(awaited, timeout=_TICK, return_when=FIRST_COMPLETED)
        for future in sorted((one for one in self._flying if one.done()), key=lambda one: self._flying[one].run):
            self.tell(self._flying.pop(future), future.result())

    def _think(self) -> None:
        """Take in what was thought out, and ask for more; nothing new is begun that no experiment is left for."""
        if self.search.collect():
            self.spent = self._paid()
        if self._is_measured and not (self.reason or self.is_paused):
            left = None if self._stop.experiments is None else self._stop.experiments - self.opened
            self.search.think(self._best, slots=self.slots.count, room=left)

    def ask(self) -> bool:
        """Have an idea, check it, number it and record it; False when nothing is to be started now."""
        self.reason = self.reason or self._why_stop()
        if self.reason or self.is_paused or not self._is_measured:
            return False
        self._take_in()
        for idea in self.search.ideas(self._best, lambda: self._next):
            if self._open(idea):
                return bool(self._queue)
            self.reason = self.reason or self._why_stop()
            if self.reason:
                return False
        if not self._flying and not self.search.may_think:
            self.reason = "no proposer has an idea left"
        return False

    def tell(self, attempt: Attempt, finding: Finding) -> None:
        """Record how a run ended, judge what waited for it, commit what won."""
        race = self._races.get(attempt.asked_by)
        if race is None and attempt.purpose == "candidate":  # repeated ahead, and decided without it
            gone = replace(finding.run, outcome=Outcome.KILLED, reason="not needed any more")
            self._record(attempt, replace(finding, run=gone, measurement=None))
            self._spent.append((attempt.run, False))
            return
        if finding.run.outcome is Outcome.KILLED and not (race and race.veto and attempt.purpose == "candidate"):
            self._lose(attempt, finding)
            return
        self._record(attempt, finding)
        if race and attempt.purpose == "candidate":
            self._tell_candidate(race, finding)
        else:
            self._tell_incumbent(attempt, finding)

    # Having an idea

    def _problem(self, proposal: Proposal, parent: Standing) -> tuple[str, str] | None:
        """Why this proposal may not run: the kind of problem and the words; None when it may."""
        for kind in ("failure", "smoke"):
            if kind in proposal.facts:
                return "proposer" if kind == "failure" else kind, str(proposal.facts[kind])
        if problem := unfit(self.task, parent, proposal.files):
            return problem
        tried = self.ledger.was_tried(parent.tree.changed(proposal.files).id) if proposal.files else None
        if tried is not None and "retries" not in proposal.facts:
            return "duplicate", f"the same tree was tried as experiment {tried}"
        is_ours = proposal.files and not _ASKED_FOR & proposal.facts.keys()
        taken = self.around.peers.claim(self._next, difference(parent.texts, proposal.files)) if is_ours else None
        return ("claimed", taken) if taken else None

    def _open(self, idea: Idea) -> bool:
        """Number and record a proposal, and begin its race; False when it may not run."""
        brought = self._up_to_date(idea)
        problem = self._problem(brought.proposal, brought.parent) if brought else None
        if brought is None:
            problem = "conflict", f"made from experiment {idea.parent.number}; {self._best.number} was kept meanwhile"
        elif idea.proposal.files and not brought.proposal.files:
            problem = "duplicate", f"experiment {self._best.number} holds this change already"
        if brought is None or problem is not None:
            self._reject(idea, *(problem or ("", "")))
            return False
        self._begin_race(brought)
        return True

    def _begin_race(self, idea: Idea) -> None:
        proposal, parent, words = idea.proposal, idea.parent, self._words(idea)
        if idea.draft is not None and (other := alike(words["diff"], self.search.history)) is not None:
            words["facts"] |= {"like": other}
        tree = parent.tree.changed(proposal.files)
        more = complexity(self.lineage.start.texts, {**parent.texts, **proposal.files})
        race = Race(self._take_number(), parent, proposal, idea.proposer, tree, words["diff"], more)
        self._races[race.number] = race
        self.opened += 1
        body = words | {"tree": tree.id, "expected": proposal.expected, "complexity": more}
        self._write(Event("proposed", str(race.number), body, race.number))
        self._judge(race)

    def _up_to_date(self, idea: Idea) -> Idea | None:
        """An idea that was made from what is no longer the incumbent, put onto it; None where the two conflict.

        One that was grown from an earlier keep on purpose is raced there first, as it stands.
        """
        if idea.parent is self._best or not idea.proposal.files or idea.is_regrown:
            return idea
        both = merged(idea.parent.texts, self._best.texts, idea.proposal.files)
        if both is None:
            return None
        files = {path: text for path, text in both.items() if text != self._best.texts.get(path)}
        return replace(idea, proposal=replace(idea.proposal, files=files), parent=self._best)

    def _reject(self, idea: Idea, kind: str, reason: str) -> None:
        number = self._take_number()
        body = self._words(idea) | {"kind": kind, "reason": one_line(f"{kind}: {reason}", _LONGEST_REASON)}
        self._write(Event("rejected", str(number), body, number))
        self._flush()
        experiment = self.ledger.experiment(number)
        self._remember(experiment)
        if self.search.may_mend(experiment):
            self.search.let_mend(experiment)
        if "exhausted" in idea.proposal.facts:
            self.reason = self.reason or one_line(str(idea.proposal.facts["exhausted"]), _LONGEST_REASON)

    def _words(self, idea: Idea) -> dict[str, Any]:
        return {
            "parent": idea.parent.number,
            "hypothesis": one_line(idea.proposal.hypothesis),
            "proposer": idea.proposer,
            "diff": difference(idea.parent.texts, idea.proposal.files),
            "facts": dict(idea.proposal.facts),
            "money": idea.proposal.cost.money,
            "tokens": idea.proposal.cost.tokens,
            "draft": idea.draft,
        }

    def _take_number(self) -> int:
        self._next += 1
        return self._next - 1

    # Running

    def _start(self, attempt: Attempt) -> None:
        if attempt.purpose == "candidate":
            race = self._races[attempt.asked_by]
            tree, texts = race.tree, race.proposal.files
        else:
            tree, texts = self.lineage.standing(attempt.experiment).tree, None
        body = {name: getattr(attempt, name) for name in ("run", "purpose", "seed", "asked_by", "again")}
        self._write(Event("started", attempt.token, body, attempt.experiment))
        self._flush()
        begin = self.slots.adopt if attempt.run in self._adopting else self.slots.start
        self._adopting.discard(attempt.run)
        self._flying[begin(attempt, tree, texts or {})] = attempt

    def _repeat_ahead(self) -> None:
        """On many slots, those that no idea is ready for repeat the incumbent, then what is raced against it: a race
        mostly asks for it, and what it turns out not to need is ended. On few, an idea that is ready a moment later
        would have to wait."""
        if (
            self.slots.count < _MANY
            or self._is_held()
            or self.reason
            or not self.sigma
            or self.policy.baseline_runs == 1
        ):
            return
        begun = Counter((one.purpose, one.experiment) for one in self._under_way())
        races = {race.number: race for race in self._races.values() if race.parent is self._best}
        counts = {number: len(race.samples) + begun["candidate", number] for number, race in races.items()}
        again = len(self._best.pool) + begun["incumbent", self._best.number]
        while races and len(self._flying) < self.slots.count:
            number = min(counts, key=lambda one: (counts[one], one))
            if again >= _AHEAD["incumbent"] and counts[number] >= _AHEAD["candidate"]:
                return
            side: Side = "incumbent" if again < _AHEAD["incumbent"] else "candidate"
            again, counts[number] = again + (side == "incumbent"), counts[number] + (side == "candidate")
            self._queue_run(side, races[number])
            self._start(self._queue.pop())

    def _want(self, side: Side, race: Race) -> None:
        """Queue one more run of a side, unless one is under way; two races that wait for the incumbent share one."""
        race.is_refreshed |= side == "incumbent"
        whose = race.number if side == "candidate" else race.parent.number
        if not any(one.purpose == side and one.experiment == whose for one in self._under_way()):
            self._queue_run(side, race)

    def _queue_run(self, side: Side, race: Race) -> None:
        whose = race if side == "candidate" else race.parent
        whose.runs += 1
        run = f"{whose.number}-{whose.runs}"
        where = (self.noise.where(race.samples) or "") if side == "incumbent" else ""
        self._queue.append(Attempt(run, whose.number, side, self._seed(side, race, run), race.number, hardware=where))

    def _seed(self, side: Side, race: Race, run: str) -> int:
        """A seed that the other side has run under, its latest first, where pairing pays; else one never used before.

        No change at all is run under fresh seeds: under shared ones it would only repeat the incumbent's numbers.
        """
        mine, other = (race.samples, race.parent.pool)[:: 1 if side == "candidate" else -1]
        if race.proposal.files and self.noise.shares_seeds:
            used = {sample.seed for sample in mine}
            used |= {one.seed for one in self._under_way() if (one.purpose, one.asked_by) == (side, race.number)}
            for sample in reversed(other):
                if sample.seed not in used:
                    return sample.seed
        return derived_seed(self.seed, run)

    def _under_way(self) -> Iterator[Attempt]:
        yield from self._queue
        yield from self._flying.values()

    # Judging

    def _record(self, attempt: Attempt, finding: Finding) -> None:
        run, cost = finding.run, finding.run.cost
        body = {
            "run": attempt.run,
            "outcome": run.outcome if finding.invalid is None else "invalid",
            "reason": finding.invalid or run.reason,
            "value": finding.measurement.value if finding.measurement else None,
            "secondary": dict(finding.measurement.secondary) if finding.measurement else {},
            "examples": finding.measurement.examples if finding.measurement else "",
            "tail": finding.tail,
            "facts": dict(finding.facts),
            "seconds": cost.seconds,
            "cpu_seconds": cost.cpu_seconds,
            "peak_mb": cost.peak_mb,
        }
        if finding.measurement and finding.measurement.contrast:
            body["contrast"] = asdict(finding.measurement.contrast)
        self._write(Event("ran", attempt.run, body, attempt.experiment))
        if self._is_timed:
            self.noise.hardware[attempt.run] = str(finding.facts.get("hardware", ""))
        self._ran += 1

    def _lose(self, attempt: Attempt, finding: Finding) -> None:
        """A run was ended by the lab, or with it: that says nothing about the patch, so it is run again."""
        if self.is_killed:
            return
        if attempt.again >= _MOST_LOST:
            raise StudyStuck(
                f"run {attempt.run} was lost {attempt.again + 1} times ({finding.run.reason}); see nightlab doctor"
            )
        body = {"run": attempt.run, "reason": finding.run.reason}
        self._write(Event("lost", attempt.token, body, attempt.experiment))
        self._queue.appendleft(replace(attempt, again=attempt.again + 1))

    def _tell_incumbent(self, attempt: Attempt, finding: Finding) -> None:
        self._spent.append((attempt.run, True))
        standing = self.lineage.standing(attempt.experiment)
        if finding.measurement is None:
            self._lost += 1
            if not self._is_measured or self._lost >= _MOST_LOST:
                self._flush()
                raise StudyStuck(_broken(standing.number, finding))
        else:
            self._lost = 0
            if attempt.purpose == "incumbent":
                standing.pool.append(Sample(attempt.run, attempt.seed, finding.measurement.value))
                self.noise.add(standing.number, attempt.run, finding.measurement.value)
            self._costs += [finding.run.cost] if not self._is_measured else []
        if not self._is_measured:
            self._finish_baseline()
            return
        self._watch(standing)
        for race in [race for race in self._races.values() if race.parent is standing and not self._is_awaited(race)]:
            self._judge(race)

    def _watch(self, standing: Standing) -> None:
        """Raise the alarm where an incumbent's runs drift; take out one that turns out to ignore its seed."""
        if len(self.noise.window(standing.pool)) < len(standing.pool):
            key = f"{standing.number}:{len(standing.pool)}"
            self._write(Event("drifted", key, {"values": standing.values}, standing.number))
        if standing is self._best and standing.number != BASELINE:
            self._flush()
            values = [value for *_, value in self.ledger.samples(standing.number, "candidate", "incumbent")]
            if self._ignores_seed(values):
                self._take_out(standing, f"it comes to {values[0]:g} under every seed, where others vary")

    def _ignores_seed(self, values: Sequence[float]) -> bool:
        start = self.lineage.start.values
        return len(set(start)) == len(start) and repeats_exactly(values, self.sigma or 0.0)

    def _take_out(self, standing: Standing, reason: str) -> None:
        """The incumbent leaves the branch: what it grew from stands again."""
        parent = self.lineage.standing(self.ledger.experiment(standing.number).parent or BASELINE)
        words: dict[str, Any] = {"reason": f"reverted: {reason}", "pool": [sample.run for sample in parent.pool]}
        words |= {"value": fmean(parent.values) if parent.pool else None, "grade": "E1"}
        experiment = self.lineage.take_out([standing.number], parent.texts, Status.REVERTED, words, self._take_number())
        self._remember(experiment)
        self._best = self.lineage.standing(experiment.id)

    def _is_awaited(self, race: Race) -> bool:
        return any(a.purpose == "candidate" and a.asked_by == race.number for a in self._under_way())

    def _tell_candidate(self, race: Race, finding: Finding) -> None:
        race.seconds += finding.run.cost.seconds
        if race.veto:
            self._close(race, Status.DISCARDED, Decision("discard", None, None, None, None, race.veto))
            return
        if finding.measurement is not None:
            race.samples.append(Sample(finding.run.id, finding.attempt.seed, finding.measurement.value))
            race.contrast = finding.measurement.contrast
            if self._ignores_seed(race.values):
                words = f"it ignores its seed: {race.values[0]:g} under {len(race.samples)} of them, where others vary"
                self._close(race, Status.INVALID, Decision("discard", None, None, None, None, words))
                return
            self._judge(race)
            return
        run = finding.run
        status = Status.INVALID if finding.invalid else Status(run.outcome.value)
        self._close(race, status, Decision("discard", None, None, None, None, finding.invalid or _failure(finding)))

    def _judge(self, race: Race) -> None:
        if not race.parent.pool:  # nothing has been run on it yet, since something was taken out
            self._want("incumbent", race)
            return
        evidence = self.noise.evidence(
            race.samples,
            race.parent.pool,
            race.pairs(),
            recent_gains=tuple(self._gains),
            proposals=race.number - 1,
            refreshed=race.is_refreshed,
            prune_follows=self.prune_follows,
            complexity=race.complexity - race.parent.complexity,
            loss_left=(self.sigma or 0.0) - self._lost_to_simplicity,
            contrast=race.contrast,
        )
        decision = self.policy.decide(evidence)
        if "peer" in race.proposal.facts:
            decision = self.around.peers.doubt(decision, evidence)
        if decision.verdict == "more":
            assert decision.side is not None
            if race.values:
                key = f"{race.number}:{len(race.values)}:{len(race.parent.pool)}"
                self._write(Event("racing", key, {"reason": decision.reason}, race.number))
            self._want(decision.side, race)
        elif decision.verdict == "discard":
            lost_narrowly = decision.z is not None and decision.z > 0
            self._close(race, Status.SHELVED if lost_narrowly else Status.DISCARDED, decision)
        elif race.parent is self._best:
            self._close(race, Status.KEPT, decision)
        else:
            self._merge(race, decision)

    def _merge(self, race: Race, decision: Decision) -> None:
        """A win over an incumbent that has been replaced meanwhile is put onto the new one and raced there."""
        both = merged(race.parent.texts, self._best.texts, race.proposal.files)
        old, new = race.parent.number, self._best.number
        words = f"{decision.reason}; won against experiment {old}, but {new} was kept meanwhile"
        if both is None:
            self._rebase(race, decision, f"{words}, and the two conflict")
            return
        files = {path: text for path, text in both.items() if text != self._best.texts.get(path)}
        self._close(race, Status.SHELVED, replace(decision, reason=f"{words}: merged onto it and tried again"))
        self._open(Idea(race.proposer, replace(race.proposal, files=files, cost=Cost()), self._best))

    def _rebase(self, race: Race, decision: Decision, words: str) -> None:
        """Judge the very same tree against the new incumbent: what cannot stand beside it may still replace it."""
        if race.is_rebased or "peer" in race.proposal.facts:
            self._close(race, Status.SHELVED, replace(decision, reason=words))
            return
        whole, best = {**race.parent.texts, **race.proposal.files}, self._best
        files = {path: whole.get(path) for path in {*whole, *best.texts} if whole.get(path) != best.texts.get(path)}
        race.proposal, race.parent, race.is_rebased = replace(race.proposal, files=files), best, True
        race.contrast = None  # it was held against another
        race.diff = difference(best.texts, files)
        self._write(Event("rebased", str(race.number), {"parent": best.number, "diff": race.diff}, race.number))
        self._judge(race)

    def _close(self, race: Race, status: Status, decision: Decision) -> None:
        """Record the decision; only when it is durable may git move."""
        del self._races[race.number]
        self._recall(race)
        kept = status is Status.KEPT
        said = {name: getattr(decision, name) for name in ("gain", "stderr", "z", "reason")}
        said |= {"value": fmean(race.values) if race.values else None, "grade": _grade(race) if race.values else None}
        more: dict[str, Any] = {"pool": _successors(race, self.policy) if kept else None}
        if pairs := race.pairs():
            more |= {"paired": self.noise.close(race.number, pairs), "between": self.noise.between(pairs)}
        self._write(Event("decided", str(race.number), {"status": status, **more, **said}, race.number))
        experiment = race.experiment(status, **said)
        self._remember(experiment)
        if not kept:
            self._spent += [(f"{race.number}-{n}", False) for n in range(1, race.runs + 1)]
            if self.search.may_mend(experiment):
                self._flush()
                self.search.let_mend(experiment)
        else:
            self._flush()
            self.lineage.commit(experiment, race.proposal.files)
            self._best = self.lineage.standing(race.number)
            self._forget()

    def _recall(self, race: Race) -> list[str]:
        """End the candidate's runs that are under way; which of them had begun."""
        mine = [one for one in self._under_way() if one.purpose == "candidate" and one.asked_by == race.number]
        self._queue = deque(one for one in self._queue if one not in mine) if mine else self._queue
        flying = [one.run for one in self._flying.values() if one in mine]
        for run in flying:
            self.slots.kill(run)
        return flying

    def _remember(self, experiment: Experiment) -> None:
        """What a finished experiment teaches: the proposers, the bandit, and how rich the vein is."""
        if experiment.id == BASELINE:
            return
        for text in self.search.learn(experiment):  # whoever cannot learn may still have ideas
            self._write(Event("note", text.partition(" ")[0] + f":{experiment.id}", {"text": text}, experiment.id))
        if not experiment.reason.startswith(("conflict:", "claimed:")):  # nobody's failure: another was faster
            self._failures = self._failures + 1 if experiment.status.is_failure else 0
        if experiment.status is not Status.REJECTED and experiment.proposer != LAB:
            gain = (experiment.gain or 0.0) if experiment.status is Status.KEPT else 0.0
            self._gains.append(gain)
            self._lost_to_simplicity += max(0.0, -gain)
        if self._failures >= FAILURES_IN_A_ROW:
            self.reason = f"{self._failures} failures in a row; the last: {experiment.reason}"

    # Beginning and resuming

    def begin(self) -> None:
        """Take the study up where the ledger left it; a new one starts with its baseline."""
        if self.ledger.next_number() == BASELINE:
            self._open_baseline()
        self._next = self.ledger.next_number()
        for experiment in self.ledger.experiments():
            if not experiment.status.is_open:
                self._remember(experiment)
        self.reason = self.reason if self.is_asked_to_stop else None
        self.opened = self._failures = 0
        self._best = self.lineage.repair()
        self.spent = self._paid()
        self.search.resume()
        self._costs = [_cost(run) for run in self.ledger.runs(BASELINE) if run["value"] is not None]
        self._resume()

    def _open_baseline(self) -> None:
        commit = str((self.ledger.study() or {})["base"])
        tree = self.repository.tree(commit).id
        body: dict[str, Any] = {"parent": None, "hypothesis": "baseline", "proposer": "lab", "tree": tree, "diff": ""}
        committed = Event("committed", "0", {"commit": commit}, BASELINE)
        self.ledger.append(Event("proposed", "0", body, BASELINE), committed)

    def _finish_baseline(self) -> None:
        """Once the baseline has its runs: noise, limits, and the first incumbent.

        One more run under the first seed tells what sharing seeds is worth; a policy that runs it once asks for none.
        """
        base, runs = self.lineage.start, self.policy.baseline_runs
        while base.runs < runs:
            base.runs += 1
            self._queue.append(self._start_run(f"{BASELINE}-{base.runs}", "incumbent"))
            if base.runs == 1 < runs:
                self._queue.append(self._start_run(_REPEAT, "repeat"))
        if runs > 1 and not self._has_repeated():  # a lab was killed just before it would have been
            self._queue.append(self._start_run(_REPEAT, "repeat"))
        if len(base.pool) < runs or any(attempt.purpose == "repeat" for attempt in self._under_way()):
            return
        self._flush()
        self.noise.learn_start(self.ledger)
        self.slots.set_baseline(self._costs[:runs])
        self.search.run_seconds = fmean(cost.seconds for cost in self._costs[:runs])
        if self.ledger.experiment(BASELINE).status.is_open:
            again = "runs repeat exactly, whatever the seed" if runs > 1 else "run once"
            noise = f"one run varies by {self.sigma:.3g}" if self.sigma else again
            value, reason = fmean(base.values), f"the start; {noise}"
            body: dict[str, Any] = {"status": Status.KEPT, "value": value, "reason": reason, "grade": "E1", "pool": []}
            self._write(Event("decided", "0", body, BASELINE))
            self._write(Event("measured", "0", self.noise.power(self.ledger), BASELINE))
            self._flush()
        self._is_measured = True

    def _has_repeated(self) -> bool:
        known = {attempt.run for attempt in self._under_way()} | {run["id"] for run in self.ledger.runs(BASELINE)}
        return _REPEAT in known or not self.ledger.experiment(BASELINE).status.is_open

    def _start_run(self, run: str, purpose: Purpose) -> Attempt:
        seed = derived_seed(self.seed, f"{BASELINE}-1" if purpose == "repeat" else run)
        return Attempt(run, BASELINE, purpose, seed, BASELINE)

    def _resume(self) -> None:
        """Take up every run of which no end is known, and every experiment that is owed a decision."""
        owed = {experiment.id for experiment in self.ledger.open_experiments()}
        for lost in self.ledger.unfinished():
            attempt = Attempt(**lost)
            if attempt.purpose == "candidate" and attempt.asked_by not in owed:  # vetoed before it was taken up
                continue
            self._adopting.add(attempt.run)
            self._queue.append(attempt)
        self._finish_baseline()
        for experiment in self.ledger.open_experiments():
            if experiment.id != BASELINE:
                self._races[experiment.id] = self._reopened(experiment)
        for race in list(self._races.values()):
            if not self._is_awaited(race):
                self._judge(race)

    def _reopened(self, experiment: Experiment) -> Race:
        parent = self.lineage.standing(experiment.parent or BASELINE)
        files = patched(parent.texts, experiment.diff) or {}
        proposal = Proposal(experiment.hypothesis, files, experiment.facts)
        tree = parent.tree.changed(files)
        more = complexity(self.lineage.start.texts, {**parent.texts, **files})
        race = Race(experiment.id, parent, proposal, experiment.proposer, tree, experiment.diff, more)
        race.samples = [Sample(*row) for row in self.ledger.samples(experiment.id, "candidate")]
        race.runs, race.seconds = len(self.ledger.runs(experiment.id)), experiment.seconds
        race.is_refreshed = self.ledger.has_refreshed(experiment.id)
        race.is_rebased = self.ledger.find("rebased", experiment.id) is not None
        if said := self.ledger.last_run(experiment.id).get("contrast"):
            race.contrast = Contrast(**said)
        return race

    def _forget(self) -> None:
        """Let go of kept experiments that nothing is raced against any more."""
        needed = {self._best.number, *(race.parent.number for race in self._races.values()), *self.search.parents}
        self.lineage.forget(needed | {one.experiment for one in self._under_way() if one.purpose == "incumbent"})

    # Stopping and obeying

    def stop(self, reason: str = "asked to stop") -> None:
        """Start nothing new; what runs is finished and judged."""
        self.reason = reason if self.reason in (None, CHECKPOINT) else self.reason
        self.is_asked_to_stop = True

    def kill(self, reason: str = "asked to stop now") -> None:
        """Stop, and end what runs; it is run again when the study goes on."""
        self.stop(reason)
        self.is_killed = True
        self._queue.clear()
        self.slots.kill()

    def _obey(self) -> None:
        for verb, argument in self.ledger.wishes("stop", "pause", "resume", "steer", "note", "veto"):
            match verb:
                case "stop":
                    self.kill() if argument == "now" else self.stop()
                case "pause" | "resume":
                    self.is_paused = verb == "pause"
                case "steer":
                    self.search.steer(argument)
                case "veto":
                    self._veto(int(argument))
        for number, words in self.around.peers.lost():
            if number in self._races:
                self._veto(number, words)

    def _take_in(self) -> None:
        """What people want tried waits in the ledger until there is a slot for it: a lab that ends loses none of it."""
        for verb, argument in self.ledger.wishes("retry", "try", most=1):
            self._retry(int(argument)) if verb == "retry" else self._try(json.loads(argument))

    def _veto(self, number: int, words: str = "vetoed by a human") -> None:
        """End an experiment under way; take a kept one out of the branch."""
        race = self._races.get(number)
        if race is None:
            self._flush()
            self._take_out_kept(number, words)
            return
        race.veto = words
        if not self._recall(race):
            self._close(race, Status.DISCARDED, Decision("discard", None, None, None, None, words))

    def _take_out_kept(self, number: int, reason: str) -> None:
        """Undo a kept change, with what stands on it where it cannot be undone by itself."""
        found = self.lineage.unit_of(number, self._best.texts)
        if found is None:
            text = f"experiment {number} is {reason}, but nothing kept can be taken out for it"
            self._write(Event("note", f"veto:{number}", {"text": text}, number))
            return
        words: dict[str, Any] = {"reason": reason, "pool": [], "value": None, "grade": None}
        self._remember(self.lineage.take_out(*found, Status.REVERTED, words, self._take_number()))
        self._best = self.lineage.standing(self._next - 1)

    def _retry(self, number: int) -> None:
        """Propose an experiment's patch again, on what is the incumbent now."""
        one = self.ledger.experiment(number)
        parent = self.lineage.standing(one.parent or BASELINE)
        facts = {name: value for name, value in one.facts.items() if name not in ("failure", "smoke", "mends")}
        files = patched(parent.texts, one.diff)
        facts |= {"retries": number} | ({} if files else {"failure": "its change cannot be read back from the ledger"})
        proposal = Proposal(one.hypothesis, files or {}, facts)
        self.search.offer(Idea(one.proposer, proposal, parent))

    def _try(self, said: Mapping[str, Any]) -> None:
        """Propose what was handed in: files against the incumbent of that time, by somebody who sits beside the lab;
        or what won in another lab, to be raced on the tree (`ground`, from the start) that it won on."""
        ground, facts = said.get("ground"), {said.get("as", "try"): said["id"]}
        parent = self.lineage.standing(said["parent"]) if ground is None else self._ground(ground, said["id"])
        proposal = Proposal(said["hypothesis"], said["files"], facts=facts)
        self.search.offer(Idea(said["proposer"], proposal, parent, is_regrown=ground is not None))

    def _ground(self, files: Files, peer: str) -> Standing:
        """The tree of another lab, as a kept experiment of ours, or one that is no more than a ground to race on."""
        tree = self.lineage.start.tree.changed(files)
        known = self.ledger.standing_on(tree.id)
        if known is None:
            known = self._take_number()
            words = f"what another lab raced on; for its result {peer[:12]}"
            body = {
                "parent": BASELINE,
                "hypothesis": words,
                "proposer": LAB,
                "tree": tree.id,
                "facts": {"ground": peer},
            }
            told = {"status": Status.SHELVED, "reason": "not judged here"}
            self._write(
                Event("proposed", str(known), body | {"diff": difference(self.lineage.start.texts, files)}, known)
            )
            self._write(Event("decided", str(known), told, known))
            self._flush()
            self.lineage.lay_by(self.ledger.experiment(known), files)
        return self.lineage.standing(known)

    def _why_stop(self) -> str | None:
        stop = self._stop
        if stop.experiments is not None and self.opened >= stop.experiments:
            return f"{stop.experiments} experiments"
        if stop.seconds is not None and self._clock() - self._began >= stop.seconds:
            return f"{stop.seconds:g} seconds"
        if stop.runs is not None and self._ran >= stop.runs:
            return CHECKPOINT
        if stop.money is not None and self.spent.money >= stop.money:
            return f"{stop.money:g} US dollars are spent"
        if stop.tokens is not None and self.spent.tokens >= stop.tokens:
            return f"{stop.tokens} tokens are used"
        if stop.plateau is not None and self.search.stuck_for >= stop.plateau:
            return f"no gain in {stop.plateau} experiments"
        values, direction = self._best.values, self.task.metric.direction
        if stop.target is not None and values and improvement(direction, fmean(values), stop.target) >= 0:
            return f"target {stop.target:g} reached"
        return None

    # Small things

    @property
    def sigma(self) -> float | None:
        """The standard deviation of one run; None before it is known."""
        return self.noise.sigma

    def _paid(self) -> Cost:
        paid = self.ledger.spent()
        return Cost(money=paid["money"], tokens=int(paid["tokens"]))

    def _write(self, event: Event) -> None:
        self._unwritten.append(event)

    def _flush(self) -> None:
        """Make what was written durable: one commit for all that happened since the last. Then tidy up after it."""
        if self._unwritten:
            self.ledger.append(*self._unwritten)
            self._unwritten.clear()
        while self._spent:
            run, is_kept = self._spent.pop()
            self.slots.clear(run, keep_examples=is_kept)


def _grade(race: Race) -> Grade:
    return "E2" if len(race.values) > 1 and len(race.parent.pool) > 1 else "E1"


def _successors(race: Race, policy: Policy) -> list[str]:
    """The runs that the new incumbent starts with, the latest first where several came to one value."""
    left = race.samples[::-1]
    chosen = []
    for value in policy.successor(race.values):
        sample = next(sample for sample in left if sample.value == value)
        left.remove(sample)
        chosen.append(sample.run)
    return chosen


def _failure(finding: Finding) -> str:
    said = [line.strip() for line in finding.tail.splitlines() if line.strip()]
    return f"{finding.run.reason}: {one_line(said[-1], 200)}" if said else finding.run.reason


def _broken(number: int, finding: Finding) -> str:
    who = "the baseline" if number == BASELINE else f"the incumbent (experiment {number})"
    problem = finding.invalid or finding.run.reason
    indented = "\n".join(f"    {line}" for line in finding.tail.splitlines()[-20:]) or "    (it printed nothing)"
    return f"{who} gives no number: {problem}. The end of its log:\n{indented}\nMend it, commit, and start again."


def _cost(run: Mapping[str, Any]) -> Cost:
    return Cost(run["seconds"] or 0.0, run["cpu_seconds"] or 0.0, run["peak_mb"] or 0.0)
