"""The smoke test: a patch's first steps, on a hundredth of its budget, before it costs a slot.

Only a crash counts. It is made where the task allows it, which the incumbent itself shows: its own smoke test ends
well, and takes so much less than a run that a crash found early is worth it. Tasks whose budget is the clock are left
alone: what runs beside a run would slow it down.
"""

from __future__ import annotations

import shutil
from itertools import count
from statistics import median
from threading import Lock

from nightlab.lineage import Standing
from nightlab.runner import Attempt, Runner
from nightlab.values import Files, Outcome, Run
from nightlab.workspace import Checkout, Tree

SHARE = 0.01
_LONG_RUN = 5.0  # seconds; below, a crash costs less than looking for it
_MOST = 0.2  # of a run's time


class Smoke:
    """Tries changed trees for a moment, beside the slots. Called from the threads that think."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._lock, self._numbers = Lock(), count()
        self._is_allowed: bool | None = None

    def __call__(self, parent: Standing, files: Files) -> str | None:
        """What goes wrong on the first steps of a changed tree, in words; None where nothing did, or nobody looked."""
        budget, baseline = self._runner.task.budget, self._runner.baseline
        seconds = median(cost.seconds for cost in baseline) if baseline else 0.0
        if budget.kind != "work" or budget.amount is None or seconds < _LONG_RUN:
            return None
        with self._lock:
            if self._is_allowed is None:
                self._is_allowed = self._tried(parent.tree, {}, _MOST * seconds)[0].outcome is Outcome.FINISHED
        if not self._is_allowed:
            return None
        run, said = self._tried(parent.tree.changed(files), files, _MOST * seconds)
        return f"{said or run.reason} (on a hundredth of the budget)" if run.outcome is Outcome.CRASHED else None

    def _tried(self, tree: Tree, files: Files, seconds: float) -> tuple[Run, str]:
        """How a tree's first steps ended, and the last line that they printed."""
        number = next(self._numbers)
        attempt = Attempt(f"smoke-{number}", 0, "candidate", 0, 0)
        checkout = Checkout(self._runner.home / "worktrees" / attempt.run, self._runner.repository)
        try:
            run = self._runner.rehearse(attempt, checkout, tree, files, share=SHARE, seconds=seconds)
            lines = [line.strip() for line in run.log().splitlines() if line.strip()]
        finally:
            checkout.clear()
            shutil.rmtree(self._runner.home / "runs" / attempt.run, ignore_errors=True)
        return run, lines[-1][:200] if lines else ""
