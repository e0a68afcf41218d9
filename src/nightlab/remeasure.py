"""Runs that are no experiments: trees near a known one, run again by those who look back on a night."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from typing import Any

from nightlab.errors import StudyStuck
from nightlab.ledger import Ledger
from nightlab.lineage import Standing
from nightlab.runner import Attempt, Finding, Purpose, Slots
from nightlab.values import Files, Outcome
from nightlab.workspace import Tree

_TICK = 0.25
_MOST_LOST = 3


@dataclass(frozen=True, slots=True)
class Wish:
    """One run to be made of a tree that differs from a known one by a few texts."""

    attempt: Attempt
    tree: Tree
    texts: Files = field(default_factory=dict)


def wish(run: str, purpose: Purpose, side: Standing, seed: int, texts: Files | None = None, *, rung: str = "") -> Wish:
    """One run of a kept tree, with some of its texts changed."""
    texts = texts or {}
    return Wish(Attempt(run, side.number, purpose, seed, side.number, rung=rung), side.tree.changed(texts), texts)


def run_all(slots: Slots, wishes: Sequence[Wish], ledger: Ledger, *, may_fail: bool = False) -> dict[str, Finding]:
    """What all wishes come to, by run; every slot is kept busy, and what they made is cleared away.

    Raises StudyStuck when somebody asks the study to stop, or a run gives no number where it must.
    """
    left, flying = list(wishes)[::-1], dict[Future[Finding], Wish]()
    found, is_stopping = dict[str, Finding](), False
    while left or flying:
        if "stop" in (verb for verb, _ in ledger.wishes("stop", "pause", "resume")):
            slots.kill()
            is_stopping = True
            if not flying:
                raise StudyStuck(_stopped(left[-1].attempt.purpose))
        while left and len(flying) < slots.count and not ledger.is_paused():
            one = left.pop()
            flying[slots.start(one.attempt, one.tree, one.texts)] = one
        if not flying:  # paused
            time.sleep(_TICK)
        for future in wait(flying, timeout=_TICK, return_when=FIRST_COMPLETED)[0]:
            one, finding = flying.pop(future), future.result()
            attempt = one.attempt
            is_lost = finding.run.outcome is Outcome.KILLED and not is_stopping
            if is_lost and attempt.again < _MOST_LOST:  # with its machine: that says nothing about the tree
                left.append(replace(one, attempt=replace(attempt, again=attempt.again + 1)))
                continue
            if finding.run.outcome is Outcome.KILLED or (finding.measurement is None and not may_fail):
                raise StudyStuck(_failed(attempt, finding))
            found[attempt.run] = finding
            slots.clear(attempt.run)
    return found


def value(finding: Finding) -> float:
    """What a measured run came to."""
    assert finding.measurement is not None
    return finding.measurement.value


def spent(findings: Sequence[Finding]) -> dict[str, Any]:
    """How many runs these were, and how long they took."""
    return {"runs": len(findings), "seconds": sum(one.run.cost.seconds for one in findings)}


def _stopped(verb: str) -> str:
    return f"the {verb} was stopped; run it again with: nightlab {verb}"


def _failed(attempt: Attempt, finding: Finding) -> str:
    verb = attempt.purpose
    if finding.run.outcome is Outcome.KILLED:
        return _stopped(verb)
    problem = finding.invalid or finding.run.reason
    return f"experiment {attempt.experiment} gave no number in the {verb} (seed {attempt.seed}): {problem}"
