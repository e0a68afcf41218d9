"""The runner: turns an attempt into a finding, in one of its slots: lay the tree, run, check the seal, evaluate."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from glob import escape
from glob import glob as glob_paths
from pathlib import Path
from statistics import median
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from nightlab import facts
from nightlab.errors import BadTask, Invalid, StudyStuck, Unscored
from nightlab.evaluator import Evaluator, command_line
from nightlab.executor import THREADS, Executor
from nightlab.sandbox import standard_libraries
from nightlab.task import Task
from nightlab.values import Cost, Files, Job, Limits, Measurement, Outcome, Run, derived_seed
from nightlab.workspace import Checkout, Repository, Tree, free_bytes, remove

Purpose = Literal["candidate", "incumbent", "repeat", "audit", "prune", "transfer"]
_LEAST_FREE = 100 * 1024 * 1024
_MEASURED = "measured"
_MOST_SLOTS = 4096
_TELLING = 0.5  # seconds of the baseline above which its time tells something about work
_SLACK = 0.2  # seconds: what an interpreter's start varies by


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run to be made: whose tree, to what end, with which seed, at which larger rung of the task, if any.

    `again` counts attempts lost before.
    """

    run: str
    experiment: int
    purpose: Purpose
    seed: int
    asked_by: int
    again: int = 0
    rung: str = ""
    hardware: str = ""
    """The class of hardware that it should run on, where one is free; another's answer would say nothing."""

    @property
    def token(self) -> str:
        """What a result must carry to be this attempt's."""
        return f"{self.run}.{self.again}"


@dataclass(frozen=True, slots=True)
class Finding:
    """What an attempt came to: the run, a measurement or the reason why there is none, and what really ran."""

    attempt: Attempt
    run: Run
    measurement: Measurement | None = None
    sealed: Measurement | None = None
    invalid: str | None = None
    tail: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class Slots(Protocol):
    """What the loop and the audit need of a runner."""

    @property
    def count(self) -> int:
        """How many attempts may be under way; whoever starts them counts those not yet told of."""
        ...

    def start(self, attempt: Attempt, tree: Tree, texts: Files) -> Future[Finding]:
        """Begin an attempt in a free slot."""
        ...

    def adopt(self, attempt: Attempt, tree: Tree, texts: Files) -> Future[Finding]:
        """Take over what an earlier lab started, or begin it anew."""
        ...

    def set_baseline(self, costs: list[Cost]) -> None:
        """Take the limits of later runs from what the baseline used."""
        ...

    def examples(self, run: str) -> NDArray[np.float64] | None:
        """What each example came to in a run; None where nobody can tell."""
        ...

    def clear(self, run: str, *, keep_examples: bool = False) -> None:
        """Take away what a run worked on and made; its log and result stay."""
        ...

    def kill(self, run: str | None = None) -> None:
        """End one run now, or every one."""
        ...


@dataclass
class Runner:
    """Runs attempts in slots, one tree each, on an executor. Its threads only wait; the ledger is not theirs."""

    task: Task
    repository: Repository
    executor: Executor
    evaluator: Evaluator
    home: Path
    seed: int
    _baseline: list[Cost] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._idle: list[Checkout] = []
        self._made = 0
        self._pool = ThreadPoolExecutor(_MOST_SLOTS, thread_name_prefix="slot")  # a thread comes when none is idle
        self._running: set[str] = set()
        self._argv = command_line(self.task.task.run, folder=self.repository.root)
        self._hidden = hidden(self.task.judge.hide, self._argv[0]) if self.task.judge else ()

    @property
    def count(self) -> int:
        """How many attempts may be under way; whoever starts them counts those not yet told of."""
        return self.executor.slots

    def set_baseline(self, costs: list[Cost]) -> None:
        """Take the limits of later runs from what the baseline used."""
        self._baseline = list(costs)

    def start(self, attempt: Attempt, tree: Tree, texts: Files) -> Future[Finding]:
        """Begin an attempt in a free slot. Raises StudyStuck when the disk is nearly full."""
        return self._begin(attempt, tree, texts, adopting=False)

    def adopt(self, attempt: Attempt, tree: Tree, texts: Files) -> Future[Finding]:
        """Take over what an earlier lab started, or begin it anew."""
        return self._begin(attempt, tree, texts, adopting=True)

    def _begin(self, attempt: Attempt, tree: Tree, texts: Files, *, adopting: bool) -> Future[Finding]:
        self._need_space()
        checkout = self._checkout()
        self._running.add(attempt.run)
        return self._pool.submit(self._occupy, checkout, attempt, tree, texts, adopting)

    def _checkout(self) -> Checkout:
        """A tree that nobody works in; slots may have come since."""
        if self._idle:
            return self._idle.pop()
        self._made += 1
        return Checkout(self.home / "worktrees" / f"slot-{self._made - 1}", self.repository)

    def _need_space(self) -> None:
        if free_bytes(self.home) < _LEAST_FREE:
            raise StudyStuck(
                f"less than {_LEAST_FREE >> 20} MB are free under {self.home}; free some space, then: nightlab run"
            )

    def _blame(self, checkout: Checkout, run: Run) -> None:
        """A run that failed on a full disk failed by its own doing only if its own files were what filled it."""
        if free_bytes(self.home) < _LEAST_FREE:
            checkout.clear()
            self.clear(run.id)
            self._need_space()

    def _occupy(self, checkout: Checkout, attempt: Attempt, tree: Tree, texts: Files, adopting: bool) -> Finding:
        try:
            return self._perform(checkout, attempt, tree, texts, adopting)
        finally:  # before the future is done: whoever sees its result finds the slot free
            self._running.discard(attempt.run)
            self._idle.append(checkout)

    def _perform(self, checkout: Checkout, attempt: Attempt, tree: Tree, texts: Files, adopting: bool) -> Finding:
        hidden = [path for path in tree.entries if self.task.is_hidden(path)]
        job, busy = self._job(attempt, checkout.folder), facts.load()
        run = self.executor.recover(job) if adopting else None
        checkout.lay(tree, without=hidden, texts=texts)
        if run is None:
            job = self.evaluator.prepare(job, seed=attempt.seed, budget=self._amount(attempt))
            run = self.executor.submit(job).result()
        run = self._held_to_its_budget(attempt, run)
        found = Finding(attempt, run, tail=run.log()[-2000:], facts=facts.facts(run, tree, checkout, busy=busy))
        if run.outcome is not Outcome.FINISHED:
            self._blame(checkout, run)
            return found
        try:
            self._check_seal(checkout)
            return self._measure(found, job)
        except Invalid as problem:
            return replace(found, invalid=str(problem))
        except Unscored as problem:
            if attempt.purpose != "candidate":  # nothing to blame but the judge, and nothing it could decide
                raise
            return replace(found, invalid=str(problem))

    def _measure(self, found: Finding, job: Job) -> Finding:
        attempt, run = found.attempt, found.run
        if attempt.purpose == "candidate" and (problem := too_fast(self.task, self._baseline, run.cost)):
            raise Invalid(problem)
        # Drawn from the run's seed, which the code never sees in this form; the two sides of an audit share it.
        seed = derived_seed(self.seed, "evaluate", attempt.seed)
        measurement = self.evaluator.evaluate(run, job, seed=seed)
        self._keep_examples(run, measurement)
        opens_seal = attempt.purpose == "audit" and self.task.has_sealed
        sealed = self.evaluator.evaluate(run, job, seed=seed, part="sealed") if opens_seal else None
        # What its own code did while it was asked is its own cost: else it would train there, where nothing is counted.
        run = self._held_to_its_budget(attempt, replace(run, cost=run.cost + measurement.cost))
        if run.outcome is not Outcome.FINISHED:
            return replace(found, run=run)
        return replace(found, run=run, measurement=measurement, sealed=sealed)

    def _held_to_its_budget(self, attempt: Attempt, run: Run) -> Run:
        cap, used = allowed_cpu(self.task, self._baseline), run.cost.cpu_seconds
        if cap is None or used <= cap or attempt.purpose != "candidate" or run.outcome is not Outcome.FINISHED:
            return run
        return replace(run, outcome=Outcome.TIMEOUT, reason=f"used {used:.3g} CPU seconds; {cap:.3g} are allowed")

    def _check_seal(self, checkout: Checkout) -> None:
        frozen = [path for path in checkout.touched() if not self.task.is_editable(path)]
        if frozen:
            raise Invalid(f"the run changed frozen files: {', '.join(frozen[:5])}")

    def _amount(self, attempt: Attempt) -> float | None:
        rung = self.task.scale.get(attempt.rung)
        return self.task.budget.amount if rung is None or rung.amount is None else rung.amount

    def rehearse(
        self, attempt: Attempt, checkout: Checkout, tree: Tree, texts: Files, *, share: float, seconds: float
    ) -> Run:
        """A run on a share of its budget that nobody measures, in a tree of its own and in no slot."""
        checkout.lay(tree, without=[path for path in tree.entries if self.task.is_hidden(path)], texts=texts)
        job, amount = self._job(attempt, checkout.folder), (self._amount(attempt) or 0.0) * share
        env = {**job.env, "NIGHTLAB_BUDGET": f"{amount:.17g}"}
        job = replace(job, env=env, limits=replace(job.limits, wall=seconds))
        return self.executor.submit(self.evaluator.prepare(job, seed=attempt.seed, budget=amount)).result()

    @property
    def baseline(self) -> Sequence[Cost]:
        """What the baseline's runs used, once they are known."""
        return self._baseline

    def _job(self, attempt: Attempt, tree: Path) -> Job:
        threads = str(max(1, len(os.sched_getaffinity(0)) // max(1, self.executor.slots)))
        budget, rung = self._amount(attempt), self.task.scale.get(attempt.rung)
        baseline = [] if rung else self._baseline  # how long a larger rung takes, nobody has seen
        return Job(
            id=attempt.run,
            argv=command_line(rung.run, folder=self.repository.root) if rung and rung.run else self._argv,
            tree=tree,
            folder=self.home / "runs" / attempt.run,
            token=attempt.token,
            env={
                "NIGHTLAB_SEED": str(attempt.seed),
                **({} if budget is None else {"NIGHTLAB_BUDGET": f"{budget:.17g}"}),
                **({"NIGHTLAB_RUNG": attempt.rung} if attempt.rung else {}),
                **dict.fromkeys(THREADS, threads),
                **{name: os.environ[name] for name in self.task.task.env if name in os.environ},
            },
            limits=limits(self.task, baseline, is_candidate=attempt.purpose == "candidate"),
            mounts=mounts(self.task, self.repository.root, tree),
            hidden=self._hidden,
            hardware=attempt.hardware,
        )

    def _keep_examples(self, run: Run, measurement: Measurement) -> None:
        """Durably, before the run counts as measured: a resumed study compares the same examples."""
        if measurement.per_example is None:
            return
        path = run.folder / _MEASURED / "per_example.npy"
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            np.save(file, np.asarray(measurement.per_example))
            file.flush()
            os.fsync(file.fileno())

    def examples(self, run: str) -> NDArray[np.float64] | None:
        """What each example came to in a run; None where nobody can tell."""
        try:
            found: NDArray[np.float64] = np.load(self.home / "runs" / run / _MEASURED / "per_example.npy")
        except FileNotFoundError:
            return None
        return found

    def clear(self, run: str, *, keep_examples: bool = False) -> None:
        """Take away what a run worked on and made; its log and result stay."""
        folder = self.home / "runs" / run
        for item in folder.iterdir() if folder.is_dir() else ():
            if item.is_dir() and not item.is_symlink() and not (keep_examples and item.name == _MEASURED):
                remove(item)

    def kill(self, run: str | None = None) -> None:
        """End one run now, or every one."""
        for one in list(self._running):
            if run in (None, one):
                self.executor.kill(one)

    def close(self) -> None:
        """Wait for the slots, then clear their trees away."""
        self._pool.shutdown(wait=True)
        for checkout in self._idle:
            checkout.clear()


def allowed_cpu(task: Task, baseline: list[Cost]) -> float | None:
    """CPU seconds a candidate may use, from what the baseline used; None before it ran, and under a wall budget.

    Held over the whole process tree, so that a busy machine fails nobody and nobody buys gain with time.
    """
    if not baseline or task.budget.kind == "wall":
        return None
    factor = task.budget.cpu_cap if task.budget.kind == "work" else 1.15
    return factor * median(cost.cpu_seconds for cost in baseline) + _SLACK


def too_fast(task: Task, baseline: list[Cost], cost: Cost) -> str | None:
    """Why a finished run may not be believed to have done its work: it took next to none of the baseline's time.

    Not covered: a run that does nothing for long enough, and any baseline of half a second or less, most of which
    is an interpreter's start.
    """
    kind = "seconds" if task.budget.kind == "wall" else "cpu_seconds"
    needed, took = median(getattr(one, kind) for one in baseline) if baseline else 0.0, getattr(cost, kind)
    if needed <= _TELLING or took >= task.limits.fastest * needed:
        return None
    unit = "s" if task.budget.kind == "wall" else "CPU s"
    return (
        f"finished in {took:.2g} {unit}, the baseline needs {needed:.2g}: too fast to be believed; where such a gain "
        "is what the task is after, write fastest = 0 in [limits]"
    )


def limits(task: Task, baseline: list[Cost], *, is_candidate: bool) -> Limits:
    """When a run is ended from outside: from the baseline's own use where it has been seen, else the task's timeout.

    A wall budget is held tightly, with the start-up and evaluation seen at the baseline on top (a loose deadline lets
    slow cheats win). A kept tree has more room than a candidate:
    the same work takes a third more CPU seconds when the neighbours are busy, and that must not fail an incumbent.
    """
    wall, cpu, caps = task.budget.timeout, allowed_cpu(task, baseline), task.limits
    if baseline:
        seen = median(cost.seconds for cost in baseline)
        granted = max(seen, task.budget.amount or 0.0)  # a baseline that ended early had its whole budget to use
        wall = 1.15 * granted + _SLACK if task.budget.kind == "wall" else max(20 * seen, 60.0)
    room = 1.0 if is_candidate else 2.0
    return Limits(
        wall=wall * room,
        cpu=None if cpu is None else 1.25 * cpu * room,
        silence=caps.silence,
        memory_mb=caps.memory_mb,
        processes=caps.processes,
        log_mb=caps.log_mb,
    )


def mounts(task: Task, root: Path, tree: Path) -> Mapping[str, str]:
    """Where a run expects the task's data -> where it is; a path from the user's folder, the home, or anywhere."""
    shown = {}
    for name in task.task.data:
        source = Path(name).expanduser() if name.startswith("~") else root / name
        if source.exists():
            shown[name if name.startswith(("~", "/")) else str(tree / name)] = str(source.resolve())
        elif name not in _OPTIONAL:
            raise BadTask(f"[task] data names {name!r}, and {source} does not exist; make it, or take it out")
    return shown


def hidden(globs: Sequence[str], program: str) -> tuple[Path, ...]:
    """What [judge] hide names, with the compiled twins of hidden modules: their strings are the source's own.

    Where it names parts of the standard library, those of other Pythons are hidden whole: a mount each, not dozens.
    """
    libraries, others = standard_libraries(program) if any("{stdlib}" in glob for glob in globs) else ([Path()], [])
    named = {glob.replace("{stdlib}", escape(str(home))) for glob in globs for home in libraries}
    found = {path for pattern in named for path in map(Path, glob_paths(pattern))}
    twins = {twin for path in found if path.suffix == ".py" for twin in path.parent.glob(f"__pycache__/{path.stem}.*")}
    return tuple(sorted(found | twins | set(others)))


_OPTIONAL = ("~/.cache/autoresearch",)
