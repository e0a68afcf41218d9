"""The pruner: turns keeps off and on again, and takes those that no longer pay off the branch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightlab import prune
from nightlab.ledger import Event
from nightlab.lineage import LAB, Lineage, changes
from nightlab.noise import Noise
from nightlab.remeasure import run_all, spent, value, wish
from nightlab.runner import Finding, Slots
from nightlab.simplicity import PRICE, complexity
from nightlab.stats import difference, spread
from nightlab.values import Experiment, Status, derived_seed, improvement

_LOOKS = 10
"""How often fresh runs are spent on one prune, each time on fewer keeps."""
_SEEDS = 2
"""Under which each keep is turned off alone, where seeds are shared."""
PRUNE_FROM = 300
"""Runs since the last prune from which another pays for itself: nightlab bench judge."""
Say = Callable[[str], None]
Unit = Sequence[Experiment]


@dataclass(slots=True)
class Sheet:
    """What is known of runs with some of the keeps on: a row each, its value, and the seed where seeds are shared."""

    units: int
    rows: list[NDArray[np.bool_]] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)

    def add(self, row: NDArray[np.bool_], value: float, seed: int) -> None:
        """One more run."""
        self.rows.append(row)
        self.values.append(value)
        self.blocks.append(seed)

    @property
    def matrix(self) -> NDArray[np.bool_]:
        """Its rows, one below the other."""
        return np.array(self.rows, bool).reshape(-1, self.units)


@dataclass
class Pruner:
    """Looks at what one study kept, in its slots; at a larger rung where one is named."""

    lineage: Lineage
    slots: Slots
    seed: int
    say: Say = print

    def __post_init__(self) -> None:
        ledger, task = self.lineage.ledger, self.lineage.task
        self.best = self.lineage.repair()
        self.noise = Noise(ledger, task.metric.direction, self.slots.examples)
        self.units = self.lineage.units(self.lineage.keeps(), self.best.texts)
        self.spent: list[Finding] = []

    def since(self) -> int:
        """The runs that were made since the last prune."""
        last = self.lineage.ledger.last("pruned")
        return self.lineage.ledger.runs_made() - (int(last.body["after"]) if last else 0)

    def is_due(self) -> bool:
        """Whether it is worth its runs: after 300 since the last one, or where it takes less than half of them.

        Never where runs repeat exactly: there no keep was luck.
        """
        cost = len(self._rows("")[0]) + 2 * prune.CONFIRM_RUNS
        is_worth_it = self.since() >= PRUNE_FROM or cost <= self.since() / 2
        return bool(self.units) and bool(self.noise.sigma) and is_worth_it

    def prune(self) -> dict[str, Any] | None:
        """Find the keeps that no longer pay and take them off the branch, unless the whole plainly suffers.

        None when there are none to look at.
        """
        if not self.units:
            return None
        ledger = self.lineage.ledger
        number, after = ledger.count("pruned"), ledger.runs_made()
        sheet = Sheet(len(self.units)) if self.is_alone else self._searched()
        self._design(f"prune-{number}", sheet)
        means, stderrs = self._estimate(sheet)
        told: dict[str, Any] = {
            "units": [[one.id for one in unit] for unit in self.units],
            "gains": [mean if isfinite(mean) else None for mean in means],
            "stderrs": stderrs,
            "dropped": [],
            "after": after,
        }
        is_on = self._worthy(means)
        told |= {} if is_on.all() else self._confirm(number, sheet, means, is_on)
        told |= spent(self.spent)
        ledger.append(Event("pruned", str(number), told))
        return told

    def carriers(self, name: str, rung: str, sigma: float) -> dict[str, Any]:
        """The keeps that plainly pay at a larger rung, where one run varies by sigma."""
        sheet = Sheet(len(self.units))
        self._design(name, sheet, rung)
        direction = self.lineage.task.metric.direction
        means, stderrs = prune.estimate(sheet.matrix, sheet.values, sigma or 1e-12, direction)
        lows = [mean - stderr for mean, stderr in zip(means, stderrs, strict=True)]
        pays = [unit for unit, low in zip(self.units, lows, strict=True) if low >= prune.WORTH * sigma]
        return {"carried_by": [one.id for unit in pays for one in unit], "design": spent(self.spent)}

    # Runs with some keeps on

    def _searched(self) -> Sheet:
        """The unselected runs that the search made of its incumbents: in each the keeps so far were on.

        None of them where the metric drifts or the clock is the budget: the drift would be taken for gains.
        """
        sheet, ledger = Sheet(len(self.units)), self.lineage.ledger
        line = ledger.lineage(self.best.number)
        if self.lineage.task.budget.kind == "wall" or ledger.count("drifted"):
            return sheet
        first = max((place for place, one in enumerate(line) if one.proposer == LAB), default=0)
        on = {one.id for one in line[:first]}
        for one in line[first:]:
            on.add(one.id)
            row = np.array([all(keep.id in on for keep in unit) for unit in self.units])
            is_whole = all(all(k.id in on for k in unit) or not any(k.id in on for k in unit) for unit in self.units)
            for _, seed, came_to in ledger.pool(one.id) if is_whole else ():
                sheet.add(row, came_to, seed)
        return sheet

    @property
    def is_alone(self) -> bool:
        """Whether each keep is turned off alone: where runs under one seed hardly vary, or repeat exactly."""
        return self.noise.shares_seeds or self.noise.sigma == 0

    def _rows(self, name: str, rung: str = "") -> tuple[NDArray[np.bool_], list[int]]:
        """Which units are on in each run, and the runs' seeds."""
        keeps, rng = len(self.units), np.random.default_rng(derived_seed(self.seed, name))
        if not self.is_alone or rung:
            matrix = prune.design(keeps, prune.runs_needed(keeps), rng)
            return matrix, [derived_seed(self.seed, name, place) for place in range(len(matrix))]
        seeds = [derived_seed(self.seed, name, n) for n in range(_SEEDS if self.noise.shares_seeds else 1)]
        return np.tile(prune.one_by_one(keeps), (len(seeds), 1)), [seed for seed in seeds for _ in range(keeps + 1)]

    def _design(self, name: str, sheet: Sheet, rung: str = "") -> None:
        """Runs with some of the keeps off: each alone, or half of them at random."""
        matrix, seeds = self._rows(name, rung)
        self.say(f"{len(matrix)} runs{f' at {rung}' if rung else ''} with some of {len(self.units)} keeps off")
        wishes = []
        for place, (row, seed) in enumerate(zip(matrix, seeds, strict=True)):
            texts = self._laid_out(row)
            wishes.append(wish(f"{name}-{place}", "prune", self.best, seed, changes(self.best.texts, texts), rung=rung))
        found = run_all(self.slots, wishes, self.lineage.ledger, may_fail=True)
        self.spent += found.values()
        for row, one in zip(matrix, wishes, strict=True):
            if found[one.attempt.run].measurement:  # what does not run without some of the keeps tells nothing
                sheet.add(row, value(found[one.attempt.run]), one.attempt.seed)

    def _laid_out(self, row: NDArray[np.bool_]) -> dict[str, str]:
        """The texts with the row's units off; where some cannot be off together, the first of them stay on."""
        for first in range(len(self.units)):
            off = [place for place in map(int, np.flatnonzero(~row)) if place >= first]
            texts = self.lineage.without([one for place in off for one in self.units[place]], self.best.texts)
            if texts is not None:
                row[:first] = True
                return texts
        row[:] = True
        return self.best.texts

    # What comes out

    def _estimate(self, sheet: Sheet) -> tuple[list[float], list[float]]:
        """Every unit's gain and its standard error."""
        direction = self.lineage.task.metric.direction
        if not self.is_alone:
            return prune.estimate(sheet.matrix, sheet.values, self.noise.sigma or 1e-12, direction)
        left = self._scatter(sheet)
        runs = list(zip(sheet.rows, sheet.values, sheet.blocks, strict=True))
        whole = {seed: came for row, came, seed in runs if row.all()}
        means, stderrs = [], []
        for unit in range(sheet.units):
            gains = [improvement(direction, whole[s], came) for row, came, s in runs if not row[unit] and s in whole]
            means.append(fmean(gains) if gains else float("inf"))  # it does not run without it: it pays
            stderrs.append(left * (2 / max(len(gains), 1)) ** 0.5)
        return means, stderrs

    def _scatter(self, sheet: Sheet) -> float:
        """What one run varies by where seeds are shared: a guess, and what the runs themselves leave unexplained."""
        return prune.scatter(sheet.matrix, sheet.values, sheet.blocks, self.noise.scale)

    def _worthy(self, means: Sequence[float]) -> NDArray[np.bool_]:
        """Which units stay: what is worth its place, and what cannot be taken out together with worse ones."""
        is_on = np.ones(len(self.units), bool)
        for place in sorted(range(len(self.units)), key=lambda place: means[place]):
            if not self._pays(self.units[place], means[place]):
                is_on[place] = False
                is_on[place] = self.lineage.without(self._off(is_on), self.best.texts) is None
        return is_on

    def _pays(self, unit: Unit, mean: float) -> bool:
        """Whether it brings 0.1 sigma (0.2 by itself) and the price of what it adds; less where it simplifies."""
        left = self.lineage.without(unit, self.best.texts) or self.best.texts
        sigma = self.noise.sigma or 0.0
        more = self.best.complexity - complexity(self.lineage.start.texts, left)
        least = prune.WORTH_ALONE if self.is_alone else prune.WORTH
        bar = PRICE * sigma * more if more < 0 else max(least * sigma, PRICE * sigma * more)
        return mean > bar or (mean == bar and more < 0)

    def _off(self, is_on: NDArray[np.bool_]) -> list[Experiment]:
        return [one for unit, stays in zip(self.units, is_on, strict=True) if not stays for one in unit]

    def _confirm(self, number: int, sheet: Sheet, means: Sequence[float], is_on: NDArray[np.bool_]) -> dict[str, Any]:
        """Take out what looks idle where the whole does not plainly lose on fresh runs, then drop what still looks
        idle, these runs counted.

        Where it loses, some that look idle one by one are needed together: halves are tried, those that change least
        first.
        """
        new, on, waiting = self.lineage.ledger.next_number(), np.ones(len(is_on), bool), list[list[int]]()
        waiting.append(sorted(map(int, np.flatnonzero(~is_on)), key=lambda place: abs(means[place])))
        looks: tuple[list[Finding], list[Finding]] = ([], [])
        reason = ""
        for look in range(_LOOKS):
            if not waiting:
                break
            part, tried = waiting.pop(0), on.copy()
            tried[part] = False
            pruned, full, why = self._look(number, new, look, tried, self._scatter(sheet) if self.is_alone else None)
            reason = reason or why
            if not why:
                on, looks = tried, (pruned, full)
            elif len(part) > 1:
                waiting[:0] = [part[: len(part) // 2], part[len(part) // 2 :]]
            for one in () if self.is_alone or not pruned else (*pruned, *full):
                sheet.add(tried if one in pruned else np.ones(len(on), bool), value(one), one.attempt.seed)
        if on.all():
            return {"reason": reason}
        last = on if self.is_alone else on | self._worthy(self._estimate(sheet)[0])
        return self._drop(new, last, *(looks if (last == on).all() else ([], [])))

    def _look(
        self, number: int, new: int, look: int, is_on: NDArray[np.bool_], noise: float | None
    ) -> tuple[list[Finding], list[Finding], str]:
        """Fresh runs with and without some units, in pairs of one seed, and why these cannot go; no words: they can."""
        best, direction, count = self.best, self.lineage.task.metric.direction, prune.CONFIRM_RUNS
        texts = self.lineage.without(self._off(is_on), best.texts)
        if texts is None:
            return [], [], "they cannot be taken out together"
        seeds = {
            n: derived_seed(self.seed, "prune", number, n - 1) for n in range(look * count + 1, (look + 1) * count + 1)
        }
        short = [wish(f"{new}-{n}", "prune", best, seed, changes(best.texts, texts)) for n, seed in seeds.items()]
        whole = [wish(f"prune-{number}-full-{n}", "prune", best, seed) for n, seed in seeds.items()]
        wishes = [one for pair in zip(short, whole, strict=True) for one in pair]
        found = run_all(self.slots, wishes, self.lineage.ledger, may_fail=True)
        self.spent += found.values()
        if not all(one.measurement for one in found.values()):
            return [], [], "without them it no longer runs"
        pruned, full = ([found[one.attempt.run] for one in side] for side in (short, whole))
        values = [value(one) for one in pruned], [value(one) for one in full]
        is_fine = prune.is_accepted(*values, self.noise.sigma or 0.0, direction, noise=noise)
        return pruned, full, "" if is_fine else "without them it plainly loses"

    def _drop(
        self, new: int, is_on: NDArray[np.bool_], runs: Sequence[Finding], full: Sequence[Finding]
    ) -> dict[str, Any]:
        """Take them off the branch; `runs` are of exactly what is left, beside as many of the whole."""
        gone = self._off(is_on)
        texts = self.lineage.without(gone, self.best.texts)
        if texts is None or not gone:
            return {"reason": "on a second look they pay" if not gone else "they cannot be taken out together"}
        words: dict[str, Any] = {"reason": f"pruned: {len(gone)} keeps no longer pay", "grade": "E1", "pool": []}
        if runs:
            values = [value(one) for one in runs], [value(one) for one in full]
            direction = self.lineage.task.metric.direction
            gain = difference(*(values[::-1] if direction == "lower" else values))
            words |= {"value": fmean(values[0]), "gain": improvement(direction, *map(fmean, values)), "grade": "E2"}
            words |= {"stderr": (spread([a - b for a, b in zip(*values, strict=True)]) or 0.0) / len(values[0]) ** 0.5}
            words["reason"] += f", without them it gains {gain.estimate:+.3g}"
        self.lineage.take_out([one.id for one in gone], texts, Status.PRUNED, words, new)
        for one in runs:  # they are unselected runs of the new incumbent
            self._adopt(one, new)
        return {"dropped": [one.id for one in gone], "gain": words.get("gain"), "experiment": new}

    def _adopt(self, one: Finding, new: int) -> None:
        attempt, cost = one.attempt, one.run.cost
        started = {"run": attempt.run, "purpose": "incumbent", "seed": attempt.seed, "asked_by": new, "again": 0}
        ended = {"run": attempt.run, "outcome": "finished", "value": value(one), "reason": one.run.reason}
        ended |= {
            "seconds": 0.0,
            "cpu_seconds": cost.cpu_seconds,
            "peak_mb": cost.peak_mb,
        }  # the prune has counted them
        self.lineage.ledger.append(Event("started", attempt.token, started, new), Event("ran", attempt.run, ended, new))
