"""A cheat as a value, and the policy that watches it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nightlab.decide import Evidence
from nightlab.values import Decision, Files

Level = Literal["predictions", "printed"]
Patch = Callable[[str], Files]
"""The start of the editable file -> the files proposed."""

HARMLESS = "harmless"
"""It ran and was measured, and its number is not better than honest ones."""
BELIEVED = "believed"
"""It ran and its number stands: this level cannot see it."""


_MOST = 4


@dataclass(frozen=True, slots=True)
class Cheat:
    """One way to a better number. `end` is a status of the lab, or harmless, or believed; `words` are in its reason.

    A cheat whose code is itself an improvement has an honest `twin`: the same code without the cheat, to be beaten.
    """

    name: str
    level: Level
    tries: str
    patch: Patch
    end: str
    words: str
    stopped_by: str
    hypothesis: str = ""
    twin: Patch | None = None


class Observer:
    """A policy that keeps nothing, so that every cheat is tried on the same honest start."""

    name = "observer"
    baseline_runs = 5
    runs = 1

    def decide(self, evidence: Evidence) -> Decision:
        """So many runs, more where they look good: of many honest runs a few are lucky. Then no."""
        count = len(evidence.candidate)
        if count < self.runs or (count < _MOST and evidence.gain() > evidence.sigma):
            return Decision("more", "candidate", None, None, None, f"watched {count} times")
        return Decision("discard", None, evidence.gain(), None, None, "watched, not kept")

    def successor(self, candidate_runs: Sequence[float]) -> list[float]:
        """None: nothing is kept."""
        return []


class PatientObserver(Observer):
    """The same, with two runs of each, where runs are cheap."""

    runs = 2


def other(files: Mapping[str, str | None]) -> Patch:
    """A patch that does not care what the start is."""
    return lambda _: dict(files)
