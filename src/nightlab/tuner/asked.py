"""The asked arm: searches the small spaces that other proposers asked for instead of naming a value."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import groupby, islice
from typing import Any

from nightlab.proposer import Context
from nightlab.tuner import space
from nightlab.tuner.memory import Memory
from nightlab.tuner.space import Knob, Number
from nightlab.values import Experiment, Proposal, derived_seed

ATTEMPTS = 20
TRIALS = 8
"""Experiments that one space may take: it is one idea among many."""
MOST_KNOBS = 4

Row = Mapping[str, Any]
"""One number of a space, as it was asked for: path, name, low, high, scale, and who asked and why."""


class Asked:
    """Tries values in the spaces of `context.spaces`, the newest space first."""

    name = "tuner.asked"

    def __init__(self) -> None:
        self._memory = Memory()

    def learn(self, experiment: Experiment) -> None:
        """Remember what was tried in which space."""
        if "asked" in experiment.facts:
            self._memory.learn(experiment)

    def propose(self, context: Context) -> Proposal | None:
        """A value for each number of the newest space that is not searched through; None where there is none."""
        if not context.spaces:
            return None
        knobs = {knob.key: knob for knob in space.knobs(context.files)}
        told = self._memory.latest(2000)
        for rows in reversed(spaces(context.spaces)):
            mine = [one for one in told if one.facts["asked"] == key_of(rows)]
            narrowed = chosen(rows, list(knobs.values()))
            if narrowed and len(mine) < TRIALS:
                found = self._tried(context, rows, narrowed, mine, knobs)
                if found is not None:
                    return found
        return None

    def _tried(
        self,
        context: Context,
        rows: Sequence[Row],
        narrowed: Sequence[Knob],
        told: Sequence[Experiment],
        knobs: Mapping[str, Knob],
    ) -> Proposal | None:
        from nightlab.tuner.sampler import places

        is_inside = all(k.low < k.place < k.high for k in narrowed)
        here = context if is_inside else replace(context, value=None)  # it says nothing of a place at the edge
        seed = derived_seed(context.seed, self.name, context.number)
        known = [one for one in told if "constants" in one.facts]
        for place in islice(places(here, narrowed, known, seed), ATTEMPTS):
            turn = {k.key: k.at(place[k.key]) for k in narrowed}
            moved = {key: value for key, value in turn.items() if value != knobs[key].value}
            files = space.turned(context.files, moved)
            if files and not context.was_tried(files):
                values = {key: turn.get(key, knob.value) for key, knob in knobs.items()}
                facts = {
                    "asked": key_of(rows),
                    "constants": values,
                    "turned": {key: [knobs[key].value, value] for key, value in moved.items()},
                }
                words = ", ".join(f"{knobs[key].label} to {value}" for key, value in moved.items())
                who = str(rows[0].get("proposer", "an agent"))[:60]
                return Proposal(f"search space of {who}: {words}", files, facts)
        return None


def spaces(rows: Sequence[Row]) -> list[list[Row]]:
    """The numbers that were asked for together, oldest first."""
    together = groupby(rows, key=lambda row: (str(row.get("proposer")), str(row.get("hypothesis"))))
    return [list(some)[:MOST_KNOBS] for _, some in together]


def key_of(rows: Sequence[Row]) -> str:
    """A name for a space that is the same after a resume."""
    said = json.dumps([dict(row) for row in rows], sort_keys=True, default=str)
    return blake2b(said.encode(), digest_size=8).hexdigest()


def chosen(rows: Sequence[Row], knobs: Sequence[Knob]) -> list[Knob]:
    """The knobs that a space names, with its bounds in place of their own; what is not in the files is left out."""
    found = {knob.key: knob for row in rows if (knob := _narrowed(row, knobs)) is not None}
    return list(found.values())


def _narrowed(row: Row, knobs: Sequence[Knob]) -> Knob | None:
    """The knob of this name between the low and the high that were asked for."""
    low, high = _number(row.get("low")), _number(row.get("high"))
    knob = next((k for k in knobs if k.path == row.get("path") and row.get("name") in _names(k)), None)
    if knob is None or isinstance(knob.value, bool) or low is None or high is None or not low < high:
        return None
    is_whole = isinstance(knob.value, int) and low.is_integer() and high.is_integer()
    value: Number = knob.value if is_whole else float(knob.value)
    if row.get("scale") == "log" and low > 0 and value > 0:
        return replace(knob, kind="log", value=value, low=math.log2(low), high=math.log2(high))
    return replace(knob, kind="count" if is_whole else "linear", value=value, low=low, high=high)


def _names(knob: Knob) -> set[str]:
    """What somebody who reads the file may call it: `rate` for `rate of train()`, `LAYERS[0]` as it stands."""
    return {knob.label, knob.label.partition(" of ")[0], knob.key.partition(":")[2]}


def _number(value: object) -> float | None:
    is_one = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
    return float(value) if is_one else None  # type: ignore[arg-type]  # checked in the line above
