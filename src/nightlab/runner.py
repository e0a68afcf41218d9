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
from typing import Literal, Protocol

from nightlab.errors import BadTask, Invalid, StudyStuck
from nightlab.evaluator import Evaluator, command_line
from nightlab.executor import Executor
from nightlab.sandbox import standard_libraries
from nightlab.task import Task
from nightlab.values import Cost, Files, Job, Limits, Measurement, Outcome, Run, derived_seed
from nightlab.workspace import Checkout, Repository, Tree, free_bytes, remove

Purpose = Literal["candidate", "incumbent", "audit"]
_LEAST_FREE = 100 * 1024 * 1024
_SLACK = 0.2  # seconds: what an interpreter's start varies by


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run to be made: whose tree, to what end, with which seed. `again` counts attempts lost before."""

    run: str
    experiment: int
    purpose: Purpose
    seed: int
    asked_by: int
    again: int = 0

    @property
    def token(self) -> str:
        """What a result must carry to be this attempt's."""
        return f"{self.run}.{self.again}"


@dataclass(frozen=True, slots=True)
class Finding:
    """What an attempt came to: the run, and a measurement or the reason why there is none."""

    attempt: Attempt
    run: Run
    measurement: Measurement | None = None
    sealed: Measurement | None = None
    invalid: str | None = None
    tail: str = ""


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

    def clear(self, run: str) -> None:
        """Take away what a run worked on and made; its log and result stay."""
        ...

    def kill(self) -> None:
        """End every run now."""
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
        count = self.executor.slots
        self._idle = [Checkout(self.home / "worktrees" / f"slot-{n}", self.repository) for n in reversed(range(count))]
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="slot")
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
        checkout = self._idle.pop()
        self._running.add(attempt.run)
        return self._pool.submit(self._occupy, checkout, attempt, tree, texts, adopting)

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
        job = self._job(attempt, checkout.folder)
        run = self.executor.recover(job) if adopting else None
        checkout.lay(tree, without=hidden, texts=texts)
        if run is None:
            job = self.evaluator.prepare(job, seed=attempt.seed, budget=self.task.budget.amount)
            run = self.executor.submit(job).result()
        tail = run.log()[-2000:]
        run = self._held_to_its_budget(attempt, run)
        if run.outcome is not Outcome.FINISHED:
            self._blame(checkout, run)
            return Finding(attempt, run, tail=tail)
        try:
            self._check_seal(checkout)
            return self._measure(attempt, run, job, tail)
        except Invalid as problem:
            return Finding(attempt, run, invalid=str(problem), tail=tail)

    def _measure(self, attempt: Attempt, run: Run, job: Job, tail: str) -> Finding:
        # Drawn from the run's seed, which the code never sees in this form; the two sides of an audit share it.
        seed = derived_seed(self.seed, "evaluate", attempt.seed)
        measurement = self.evaluator.evaluate(run, job, seed=seed)
        sealed = self.evaluator.evaluate(run, job, seed=seed, part="sealed") if attempt.purpose == "audit" else None
        # What its own code did while it was asked is its own cost: else it would train there, where nothing is counted.
        run = self._held_to_its_budget(attempt, replace(run, cost=run.cost + measurement.cost))
        if run.outcome is not Outcome.FINISHED:
            return Finding(attempt, run, tail=tail)
        return Finding(attempt, run, measurement, sealed, tail=tail)

    def _held_to_its_budget(self, attempt: Attempt, run: Run) -> Run:
        cap, used = allowed_cpu(self.task, self._baseline), run.cost.cpu_seconds
        if cap is None or used <= cap or attempt.purpose != "candidate" or run.outcome is not Outcome.FINISHED:
            return run
        return replace(run, outcome=Outcome.TIMEOUT, reason=f"used {used:.3g} CPU seconds; {cap:.3g} are allowed")

    def _check_seal(self, checkout: Checkout) -> None:
        frozen = [path for path in checkout.touched() if not self.task.is_editable(path)]
        if frozen:
            raise Invalid(f"the run changed frozen files: {', '.join(frozen[:5])}")

    def _job(self, attempt: Attempt, tree: Path) -> Job:
        threads = str(max(1, len(os.sched_getaffinity(0)) // self.executor.slots))
        budget = self.task.budget.amount
        return Job(
            id=attempt.run,
            argv=self._argv,
            tree=tree,
            folder=self.home / "runs" / attempt.run,
            token=attempt.token,
            env={
                "NIGHTLAB_SEED": str(attempt.seed),
                **({} if budget is None else {"NIGHTLAB_BUDGET": f"{budget:.17g}"}),
                **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads),
                **{name: os.environ[name] for name in self.task.task.env if name in os.environ},
            },
            limits=limits(self.task, self._baseline, is_candidate=attempt.purpose == "candidate"),
            mounts=mounts(self.task, self.repository.root, tree),
            hidden=self._hidden,
        )

    def clear(self, run: str) -> None:
        """Take away what a run worked on and made; its log and result stay."""
        folder = self.home / "runs" / run
        for item in folder.iterdir() if folder.is_dir() else ():
            if item.is_dir() and not item.is_symlink():
                remove(item)

    def kill(self) -> None:
        """End every run now."""
        for run in list(self._running):
            self.executor.kill(run)

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


def limits(task: Task, baseline: list[Cost], *, is_candidate: bool) -> Limits:
    """When a run is ended from outside: from the baseline's own use where it has been seen, else the task's timeout.

    A wall budget is held tightly (a loose deadline lets slow cheats win). A kept tree has more room than a candidate:
    the same work takes a third more CPU seconds when the neighbours are busy, and that must not fail an incumbent.
    """
    wall, cpu, caps = task.budget.timeout, allowed_cpu(task, baseline), task.limits
    if baseline:
        seen = median(cost.seconds for cost in baseline)
        wall = 1.15 * seen + _SLACK if task.budget.kind == "wall" else max(20 * seen, 60.0)
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
    """What [judge] hide names, with the compiled twins of hidden modules: their strings are the source's own."""
    libraries = standard_libraries(program) if any("{stdlib}" in glob for glob in globs) else [Path()]
    named = {glob.replace("{stdlib}", escape(str(home))) for glob in globs for home in libraries}
    found = {path for pattern in named for path in map(Path, glob_paths(pattern))}
    twins = {twin for path in found if path.suffix == ".py" for twin in path.parent.glob(f"__pycache__/{path.stem}.*")}
    return tuple(sorted(found | twins))


_OPTIONAL = ("~/.cache/autoresearch",)
