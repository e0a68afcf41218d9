"""The audit: what the night was really worth, on seeds never used before and data never decided with."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from nightlab.errors import StudyStuck
from nightlab.ledger import Event, Ledger
from nightlab.runner import Attempt, Finding, Slots
from nightlab.stats import Interval, difference
from nightlab.values import Direction, Experiment, Outcome, derived_seed
from nightlab.workspace import Repository

_SEEDS, _SEEDS_OF_A_LONG_NIGHT, _LONG_NIGHT = 3, 5, 200


@dataclass(frozen=True, slots=True)
class Audit:
    """Incumbent against the start over fresh seeds; gains in metric units, positive is better.

    `sealed` is on data that no decision has used, where the task has such data; `validation` on the loop's own.
    """

    experiment: int
    validation: Interval
    sealed: Interval | None
    start: float
    start_sealed: float | None
    seeds: tuple[int, ...]

    @property
    def headline(self) -> Interval:
        """The number to report: on sealed data where there is any."""
        return self.sealed or self.validation

    def body(self) -> dict[str, Any]:
        """As the ledger keeps it."""
        named = {"gain": self.headline.estimate, "low": self.headline.low, "high": self.headline.high}
        start = self.start if self.start_sealed is None else self.start_sealed
        return named | {
            "percent": 100 * self.headline.estimate / abs(start) if start else None,
            "validation": _named(self.validation, self.start),
            "sealed": _named(self.sealed, self.start_sealed),
            "data": "sealed" if self.sealed else "not sealed",
            **{name: value for name, value in asdict(self).items() if name in ("experiment", "seeds")},
        }


def _named(interval: Interval | None, start: float | None) -> dict[str, float | None] | None:
    if interval is None or start is None:
        return None
    percent = 100 * interval.estimate / abs(start) if start else None
    return {"gain": interval.estimate, "low": interval.low, "high": interval.high, "percent": percent, "start": start}


def audit(
    ledger: Ledger,
    repository: Repository,
    slots: Slots,
    *,
    direction: Direction,
    seed: int,
    has_sealed: bool,
    repeats: int | None = None,
) -> Audit | None:
    """Run incumbent and start on the same fresh seeds and record what comes out; None when nothing was kept.

    Raises StudyStuck when one of them no longer runs.
    """
    best = ledger.incumbent()
    if best is None or best.parent is None:
        return None
    runs = sum(experiment.runs for experiment in ledger.experiments())
    repeats = repeats or (_SEEDS_OF_A_LONG_NIGHT if runs >= _LONG_NIGHT else _SEEDS)
    before = ledger.count("audited")
    seeds = [derived_seed(seed, "audit", before, number) for number in range(repeats)]
    sides = (best, ledger.experiment(0))
    found = _run_all(_attempts(sides, seeds, before), sides, repository, slots)
    values = {side.id: [found[side.id, one] for one in seeds] for side in sides}
    result = _compare(best.id, values[best.id], values[0], direction, has_sealed, seeds)
    seconds = sum(finding.run.cost.seconds for finding in found.values())
    ledger.append(Event("audited", str(before), result.body() | {"seconds": seconds}, best.id))
    for finding in found.values():
        slots.clear(finding.run.id)
    if result.headline.low > 0:
        ledger.append(Event("graded", f"{best.id}:audit:{before}", {"grade": "E3"}, best.id))
    return result


def _attempts(sides: Sequence[Experiment], seeds: Sequence[int], before: int) -> list[Attempt]:
    return [
        Attempt(f"audit-{before}-{side.id}-{seed}", side.id, "audit", seed, side.id) for seed in seeds for side in sides
    ]


def _run_all(
    attempts: Sequence[Attempt], sides: Sequence[Experiment], repository: Repository, slots: Slots
) -> dict[tuple[int, int], Finding]:
    trees = {side.id: repository.tree(str(side.commit)) for side in sides}
    left, flying = list(attempts)[::-1], dict[Future[Finding], Attempt]()
    found: dict[tuple[int, int], Finding] = {}
    while left or flying:
        while left and len(flying) < slots.count:
            attempt = left.pop()
            flying[slots.start(attempt, trees[attempt.experiment], {})] = attempt
        for future in wait(flying, return_when=FIRST_COMPLETED)[0]:
            attempt, finding = flying.pop(future), future.result()
            if finding.measurement is None:
                raise StudyStuck(_failed(attempt, finding))
            found[attempt.experiment, attempt.seed] = finding
    return found


def _failed(attempt: Attempt, finding: Finding) -> str:
    if finding.run.outcome is Outcome.KILLED:
        return "the audit was stopped; run it again with: nightlab audit"
    problem = finding.invalid or finding.run.reason
    return f"experiment {attempt.experiment} gave no number in the audit (seed {attempt.seed}): {problem}"


def _compare(
    best: int,
    after: Sequence[Finding],
    start: Sequence[Finding],
    direction: Direction,
    has_sealed: bool,
    seeds: Sequence[int],
) -> Audit:
    new, old = ([one.measurement.value for one in side if one.measurement] for side in (after, start))
    sealed_new, sealed_old = ([one.sealed.value for one in side if one.sealed] for side in (after, start))
    return Audit(
        experiment=best,
        validation=_gain(direction, new, old),
        sealed=_gain(direction, sealed_new, sealed_old) if has_sealed else None,
        start=fmean(old),
        start_sealed=fmean(sealed_old) if has_sealed else None,
        seeds=tuple(seeds),
    )


def _gain(direction: Direction, new: Sequence[float], old: Sequence[float]) -> Interval:
    return difference(old, new) if direction == "lower" else difference(new, old)
