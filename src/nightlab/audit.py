"""The morning after: what the night is really worth, and which of its keeps still pay.

    audit      incumbent against start, on seeds never used before and data never decided with
    prune      which keeps still pay? the others leave the branch
    transfer   does it hold at a larger scale?

Their runs are no experiments: each verb records one event with what it came to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightlab import prune
from nightlab.errors import BadTask, StudyStuck
from nightlab.ledger import Event
from nightlab.lineage import Lineage, Standing, changes
from nightlab.noise import Noise
from nightlab.runner import Attempt, Finding, Purpose, Slots
from nightlab.simplicity import PRICE, complexity
from nightlab.stats import Interval, difference, spread
from nightlab.values import Experiment, Files, Outcome, Status, derived_seed, improvement
from nightlab.workspace import Tree

_SEEDS, _SEEDS_OF_A_LONG_NIGHT, _LONG_NIGHT = 3, 5, 200
_RUNG_SEEDS, _RUNG_CONFIDENCE, _CARRIES = 2, 0.8, 0.3
_BLOCK = 8
PRUNE_FROM = 300
"""Runs since the last prune from which a prune pays for itself: nightlab bench judge."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """One run to be made of a tree that differs from a known one by a few texts."""

    attempt: Attempt
    tree: Tree
    texts: Files = field(default_factory=dict)


@dataclass
class Auditor:
    """Looks at one study's incumbent with fresh eyes, over its lineage and in its slots."""

    lineage: Lineage
    slots: Slots
    seed: int
    say: Say = print

    def audit(self, repeats: int | None = None) -> dict[str, Any] | None:
        """Run incumbent and start on the same fresh seeds and record what comes out; None when nothing was kept.

        Where it shows no gain at all, everything leaves the branch. Raises StudyStuck when a side no longer runs.
        """
        ledger, best = self.lineage.ledger, self.lineage.repair()
        if not self.lineage.keeps():
            return None
        before = ledger.count("opened")
        repeats = repeats or (_SEEDS_OF_A_LONG_NIGHT if self._runs() >= _LONG_NIGHT else _SEEDS)
        seeds = [derived_seed(self.seed, "audit", before, number) for number in range(repeats)]
        is_sealed = self.lineage.task.has_sealed
        opened = {"seeds": seeds, "sealed": is_sealed}
        ledger.append(Event("opened", str(before), opened, best.number))  # before anybody looks
        sides = (best, self.lineage.start)
        found = self._run([_wish(f"audit-{before}-{one.number}-{s}", "audit", one, s) for s in seeds for one in sides])
        after, start = ([found[f"audit-{before}-{one.number}-{seed}"] for seed in seeds] for one in sides)
        told = self._comparison(best.number, after, start, seeds)
        ledger.append(Event("audited", str(before), told, best.number))
        if told["low"] > 0 and told["sealed"]:
            ledger.append(Event("graded", f"{best.number}:audit:{before}", {"grade": "E3"}, best.number))
        elif told["gain"] <= 0:
            self._take_all_out(told, start)
        return told

    def _comparison(
        self, best: int, after: Sequence[Finding], start: Sequence[Finding], seeds: Sequence[int]
    ) -> dict[str, Any]:
        validation = self._named([_value(one) for one in after], [_value(one) for one in start])
        opened = [
            (one.sealed.value, other.sealed.value)
            for one, other in zip(after, start, strict=True)
            if one.sealed and other.sealed
        ]
        sealed = self._named(*zip(*opened, strict=True)) if opened else None
        headline = sealed or validation
        costs = [one.run.cost.seconds for one in (*after, *start)]
        return {**{name: headline[name] for name in ("gain", "low", "high", "percent")}} | {
            "experiment": best,
            "validation": validation,
            "sealed": sealed,
            "data": "sealed" if sealed else "not sealed",
            "seeds": list(seeds),
            "runs": len(costs),
            "seconds": sum(costs),
        }

    def _named(self, new: Sequence[float], old: Sequence[float]) -> dict[str, float | None]:
        gain, start = self._gain(new, old), fmean(old)
        percent = 100 * gain.estimate / abs(start) if start else None
        return {"gain": gain.estimate, "low": gain.low, "high": gain.high, "percent": percent, "start": start}

    def _gain(self, new: Sequence[float], old: Sequence[float], confidence: float = 0.95) -> Interval:
        is_lower = self.lineage.task.metric.direction == "lower"
        return difference(*((old, new) if is_lower else (new, old)), confidence=confidence)

    def _take_all_out(self, told: dict[str, Any], start: Sequence[Finding]) -> None:
        keeps = [one.id for one in self.lineage.keeps()]
        words = {
            "reason": f"reverted: the audit found no gain ({told['gain']:.3g}, at most {told['high']:.3g})",
            "value": fmean(_value(one) for one in start),
            "grade": "E3",
            "pool": [sample.run for sample in self.lineage.start.pool],
        }
        texts, number = dict(self.lineage.start.texts), self.lineage.ledger.next_number()
        self.lineage.take_out(keeps, texts, Status.REVERTED, words, number)

    # Prune

    def prune_cost(self) -> int:
        """The runs that a prune would take now."""
        keeps = len(self.lineage.keeps())
        return prune.runs_needed(keeps) + 2 * prune.CONFIRM_RUNS if keeps else 0

    def is_prune_due(self) -> bool:
        """Whether a prune is worth its runs: after 300 since the last one, or where it takes less than half of them."""
        return bool(self.lineage.keeps()) and (self.since() >= PRUNE_FROM or self.prune_cost() <= self.since() / 2)

    def since(self) -> int:
        """The runs that were made since the last prune."""
        return self._runs() - int((self._last("pruned") or {}).get("after", 0))

    def prune(self) -> dict[str, Any] | None:
        """Find the keeps that no longer pay and take them off the branch, if the whole does not suffer.

        None when there are none to look at.
        """
        best, number = self.lineage.repair(), self.lineage.ledger.count("pruned")
        units = self.lineage.units(self.lineage.keeps(), best.texts)
        if not units:
            return None
        noise = self._noise()
        means, stderrs, spent = self._design(f"prune-{number}", units, best, noise.sigma or 0.0, noise.shared)
        gone = [unit for unit, mean in zip(units, means, strict=True) if mean < self._bar(unit, best, noise)]
        told: dict[str, Any] = {
            "units": [[one.id for one in unit] for unit in units],
            "gains": means,
            "stderrs": stderrs,
            "dropped": [],
            "after": self._runs(),
        }
        looked = self._drop(number, [one for unit in gone for one in unit], best, noise) if gone else {}
        told |= looked | {"runs": len(spent) + looked.get("runs", 0)}
        told["seconds"] = sum(one.run.cost.seconds for one in spent) + looked.get("seconds", 0.0)
        self.lineage.ledger.append(Event("pruned", str(number), told))
        return told

    def _bar(self, unit: Sequence[Experiment], best: Standing, noise: Noise) -> float:
        """What keeps have to be worth: 0.2 sigma, or the price of what they add to read; less where they simplify."""
        left = self.lineage.without(unit, best.texts) or best.texts
        price = PRICE * (noise.sigma or 0.0) * (best.complexity - complexity(self.lineage.start.texts, left))
        return max(prune.WORTH * (noise.sigma or 0.0), price) if price >= 0 else price

    def _design(
        self,
        name: str,
        units: Sequence[list[Experiment]],
        best: Standing,
        sigma: float,
        shared: float | None = None,
        rung: str = "",
    ) -> tuple[list[float], list[float], list[Finding]]:
        """Every unit's gain and standard error, from runs with a quarter of them off.

        Where sharing seeds pays, runs come in blocks of one seed; `shared` is what they are thought to vary by then.
        """
        wanted = prune.runs_needed(len(units))
        matrix = prune.design(len(units), wanted, np.random.default_rng(derived_seed(self.seed, name)))
        shown = "" if not rung else f" at {rung}"
        self.say(f"{wanted} runs{shown} with a quarter of {len(units)} keeps off each")
        wishes = []
        for place, row in enumerate(matrix):
            texts = self._laid_out(units, row, best)
            seed = derived_seed(self.seed, name, place if shared is None else place // _BLOCK)
            wish = _wish(f"{name}-{place}", "prune", best, seed, changes(best.texts, texts))
            wishes.append(replace(wish, attempt=replace(wish.attempt, rung=rung)))
        found = self._run(wishes, may_fail=True)
        rows = [place for place in range(wanted) if found[f"{name}-{place}"].measurement]
        values = [_value(found[f"{name}-{place}"]) for place in rows]
        blocks = None if shared is None else [place // _BLOCK for place in rows]
        direction = self.lineage.task.metric.direction
        left = None if shared is None else prune.scatter(matrix[rows], values, blocks, shared)
        means, stderrs = prune.estimate(matrix[rows], values, sigma or 1e-12, direction, blocks=blocks, noise=left)
        return means, stderrs, list(found.values())

    def _laid_out(self, units: Sequence[list[Experiment]], row: NDArray[np.bool_], best: Standing) -> dict[str, str]:
        """The texts with the row's units off; where some cannot be off together, the first of them stay on."""
        for first in range(len(units)):
            off = [place for place in map(int, np.flatnonzero(~row)) if place >= first]
            texts = self.lineage.without([one for place in off for one in units[place]], best.texts)
            if texts is not None:
                row[:first] = True
                return texts
        row[:] = True
        return best.texts

    def _drop(self, number: int, gone: Sequence[Experiment], best: Standing, noise: Noise) -> dict[str, Any]:
        """Run the pruned whole against the full one on fresh seeds, and take the keeps out where it loses little."""
        texts = self.lineage.without(gone, best.texts)
        if texts is None:
            return {"reason": "they cannot be taken out together"}
        ledger, direction = self.lineage.ledger, self.lineage.task.metric.direction
        new, runs = ledger.next_number(), list[Finding]()
        pruned, full = list[Finding](), list[Finding]()
        for look in range(prune.LOOKS):
            names = range(look * prune.CONFIRM_RUNS + 1, (look + 1) * prune.CONFIRM_RUNS + 1)
            seeds = {name: derived_seed(self.seed, "prune", number, name) for name in names}
            short = [_wish(f"{new}-{n}", "prune", best, s, changes(best.texts, texts)) for n, s in seeds.items()]
            whole = [_wish(f"prune-{number}-full-{n}", "prune", best, s) for n, s in seeds.items()]
            found = self._run([wish for pair in zip(short, whole, strict=True) for wish in pair], may_fail=True)
            runs += found.values()
            pruned += [found[wish.attempt.run] for wish in short]
            full += [found[wish.attempt.run] for wish in whole]
            if not all(one.measurement for one in (*pruned, *full)):
                return _spent(runs) | {"reason": "without them it no longer runs"}
            values = [_value(one) for one in pruned], [_value(one) for one in full]
            if prune.is_accepted(*values, noise.sigma or 0.0, direction):
                gain = self._gain(*values)
                self._record_drop(new, gone, texts, pruned, gain)
                return _spent(runs) | {"dropped": [one.id for one in gone], "gain": gain.estimate, "experiment": new}
        return _spent(runs) | {"reason": "without them it loses more than half a sigma"}

    def _record_drop(
        self, new: int, gone: Sequence[Experiment], texts: dict[str, str], runs: Sequence[Finding], gain: Interval
    ) -> None:
        values = [_value(one) for one in runs]
        words = {
            "reason": f"pruned: without {len(gone)} keeps that no longer pay it gains {gain.estimate:+.3g}",
            "value": fmean(values),
            "gain": gain.estimate,
            "stderr": (spread(values) or 0.0) / len(values) ** 0.5,
            "grade": "E2",
            "pool": [],
        }
        self.lineage.take_out([one.id for one in gone], texts, Status.PRUNED, words, new)
        for one in runs:  # they are unselected runs of the new incumbent
            attempt, cost = one.attempt, one.run.cost
            started = {"run": attempt.run, "purpose": "incumbent", "seed": attempt.seed, "asked_by": new, "again": 0}
            ended = {"run": attempt.run, "outcome": "finished", "value": _value(one), "seconds": cost.seconds}
            ended |= {"cpu_seconds": cost.cpu_seconds, "peak_mb": cost.peak_mb, "reason": one.run.reason}
            self.lineage.ledger.append(
                Event("started", attempt.token, started, new), Event("ran", attempt.run, ended, new)
            )

    # Transfer

    def transfer(self, rung: str) -> dict[str, Any] | None:
        """Incumbent against start at a larger rung: the gain there as a multiple of the gain here, with 80 % interval.

        Where less than 0.3 of it carries over, the keeps are turned on and off there to find those that do. None when
        nothing was kept. Not covered: the uncertainty of the gain here, which the interval takes as known.
        """
        if rung not in self.lineage.task.scale:
            there = ", ".join(self.lineage.task.scale) or "none"
            raise BadTask(f"the task has no [scale.{rung}] (there: {there}); write one into nightlab.toml")
        ledger, best, start = self.lineage.ledger, self.lineage.repair(), self.lineage.start
        if not self.lineage.keeps():
            return None
        number = ledger.count("transferred")
        seeds = [derived_seed(self.seed, "transfer", number, n) for n in range(_RUNG_SEEDS)]
        wishes = [
            _wish(f"transfer-{number}-{side.number}-{s}", "transfer", side, s) for s in seeds for side in (best, start)
        ]
        found = self._run([replace(one, attempt=replace(one.attempt, rung=rung)) for one in wishes])
        after, before = (
            [_value(found[f"transfer-{number}-{side.number}-{s}"]) for s in seeds] for side in (best, start)
        )
        gain, here = self._gain(after, before, _RUNG_CONFIDENCE), self._gain_here(best)
        told: dict[str, Any] = {"rung": rung, "experiment": best.number}
        told |= {"gain": gain.estimate, "low": gain.low, "high": gain.high}
        told |= {"here": here, **_ratio(gain, here), **_spent(list(found.values()))}
        if told["ratio"] is not None and told["ratio"] < _CARRIES:
            told |= self._carriers(f"transfer-{number}", best, rung, (after, before))
        ledger.append(Event("transferred", str(number), told, best.number))
        if gain.low > 0:
            ledger.append(Event("graded", f"{best.number}:transfer:{number}", {"grade": "E4"}, best.number))
        return told

    def _gain_here(self, best: Standing) -> float:
        audited = self._last("audited")
        if audited and audited["experiment"] == best.number:
            return float(audited["validation"]["gain"])
        direction = self.lineage.task.metric.direction
        return improvement(direction, fmean(best.values or self.lineage.start.values), fmean(self.lineage.start.values))

    def _carriers(self, name: str, best: Standing, rung: str, sides: Sequence[Sequence[float]]) -> dict[str, Any]:
        """The keeps that still pay at the rung."""
        units = self.lineage.units(self.lineage.keeps(), best.texts)
        sigma = max(spread(side) or 0.0 for side in sides) or self._noise().scale
        means, stderrs, spent = self._design(f"{name}-design", units, best, sigma, None, rung)
        lows = [mean - stderr for mean, stderr in zip(means, stderrs, strict=True)]
        pays = [unit for unit, low in zip(units, lows, strict=True) if low >= prune.WORTH * sigma]
        return {"carried_by": [one.id for unit in pays for one in unit], "design": _spent(spent)}

    # Running

    def _run(self, wishes: Sequence[Wish], *, may_fail: bool = False) -> dict[str, Finding]:
        """What all wishes come to, by run; every slot is kept busy. What they made is cleared away."""
        left, flying = list(wishes)[::-1], dict[Future[Finding], Attempt]()
        found: dict[str, Finding] = {}
        while left or flying:
            while left and len(flying) < self.slots.count:
                wish = left.pop()
                flying[self.slots.start(wish.attempt, wish.tree, wish.texts)] = wish.attempt
            for future in wait(flying, return_when=FIRST_COMPLETED)[0]:
                attempt, finding = flying.pop(future), future.result()
                if finding.run.outcome is Outcome.KILLED or (finding.measurement is None and not may_fail):
                    raise StudyStuck(_failed(attempt, finding))
                found[attempt.run] = finding
                self.slots.clear(attempt.run)
        return found

    def _runs(self) -> int:
        return sum(one.runs for one in self.lineage.ledger.experiments())

    def _last(self, kind: str) -> dict[str, Any] | None:
        event = self.lineage.ledger.last(kind)
        return dict(event.body) if event else None

    def _noise(self) -> Noise:
        return Noise(self.lineage.ledger, self.lineage.task.metric.direction, self.slots.examples)


def _wish(run: str, purpose: Purpose, side: Standing, seed: int, texts: Files | None = None) -> Wish:
    texts = texts or {}
    return Wish(Attempt(run, side.number, purpose, seed, side.number), side.tree.changed(texts), texts)


def _value(finding: Finding) -> float:
    assert finding.measurement is not None
    return finding.measurement.value


def _spent(findings: Sequence[Finding]) -> dict[str, Any]:
    return {"runs": len(findings), "seconds": sum(one.run.cost.seconds for one in findings)}


def _ratio(there: Interval, here: float) -> dict[str, float | None]:
    names = ("ratio", "ratio_low", "ratio_high")
    return dict(zip(names, (end / here if here > 0 else None for end in there), strict=True))


def _failed(attempt: Attempt, finding: Finding) -> str:
    verb = attempt.purpose
    if finding.run.outcome is Outcome.KILLED:
        return f"the {verb} was stopped; run it again with: nightlab {verb}"
    problem = finding.invalid or finding.run.reason
    return f"experiment {attempt.experiment} gave no number in the {verb} (seed {attempt.seed}): {problem}"
