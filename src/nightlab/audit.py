"""The audit: what the night is really worth, and whether it holds at a larger scale.

    audit      incumbent against start, on seeds never used before and data never decided with
    transfer   the same at a larger rung of the task

Their runs are no experiments: each verb records one event with what it came to. The prune is the pruner's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from nightlab.errors import BadTask
from nightlab.ledger import Event
from nightlab.lineage import Lineage, Standing
from nightlab.pruner import Pruner, Say
from nightlab.remeasure import run_all, spent, value, wish
from nightlab.runner import Finding, Slots
from nightlab.stats import Interval, difference, spread
from nightlab.values import Status, derived_seed, improvement

_SEEDS, _SEEDS_OF_A_LONG_NIGHT, _LONG_NIGHT = 3, 5, 200
_RUNG_SEEDS, _RUNG_CONFIDENCE, _CARRIES = 2, 0.8, 0.3


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
        repeats = repeats or (_SEEDS_OF_A_LONG_NIGHT if ledger.runs_made() >= _LONG_NIGHT else _SEEDS)
        seeds = [derived_seed(self.seed, "audit", before, number) for number in range(repeats)]
        is_sealed = self.lineage.task.has_sealed
        opened = {"seeds": seeds, "sealed": is_sealed}
        ledger.append(Event("opened", str(before), opened, best.number))  # before anybody looks
        sides = (best, self.lineage.start)
        wishes = [wish(f"audit-{before}-{one.number}-{s}", "audit", one, s) for s in seeds for one in sides]
        found = run_all(self.slots, wishes, ledger)
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
        validation = self._named([value(one) for one in after], [value(one) for one in start])
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
            "value": fmean(value(one) for one in start),
            "grade": "E3" if told["sealed"] else "E2",
            "pool": [sample.run for sample in self.lineage.start.pool],
        }
        texts, number = dict(self.lineage.start.texts), self.lineage.ledger.next_number()
        self.lineage.take_out(keeps, texts, Status.REVERTED, words, number)

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
            wish(f"transfer-{number}-{side.number}-{s}", "transfer", side, s, rung=rung)
            for s in seeds
            for side in (best, start)
        ]
        found = run_all(self.slots, wishes, ledger)
        after, before = (
            [value(found[f"transfer-{number}-{side.number}-{s}"]) for s in seeds] for side in (best, start)
        )
        gain, here = self._gain(after, before, _RUNG_CONFIDENCE), self._gain_here(best)
        told: dict[str, Any] = {"rung": rung, "experiment": best.number}
        told |= {"gain": gain.estimate, "low": gain.low, "high": gain.high}
        told |= {"here": here, **_ratio(gain, here), **spent(list(found.values()))}
        if told["ratio"] is not None and told["ratio"] < _CARRIES:
            sigma = max(spread(after) or 0.0, spread(before) or 0.0)
            told |= Pruner(self.lineage, self.slots, self.seed, self.say).carriers(f"transfer-{number}", rung, sigma)
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

    def _last(self, kind: str) -> dict[str, Any] | None:
        event = self.lineage.ledger.last(kind)
        return dict(event.body) if event else None


def _ratio(there: Interval, here: float) -> dict[str, float | None]:
    names = ("ratio", "ratio_low", "ratio_high")
    return dict(zip(names, (end / here if here > 0 else None for end in there), strict=True))
