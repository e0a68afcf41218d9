"""What an arm has been told: finished experiments in the order of their numbers, however they came in."""

from __future__ import annotations

from bisect import bisect_left

from nightlab.values import Experiment


class Memory:
    """Experiments by number; told twice, the later word counts."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._experiments: list[Experiment] = []

    def learn(self, experiment: Experiment) -> None:
        """Put it in its place, which is nearly always the end."""
        at = bisect_left(self._ids, experiment.id)
        if at < len(self._ids) and self._ids[at] == experiment.id:
            self._experiments[at] = experiment
            return
        self._ids.insert(at, experiment.id)
        self._experiments.insert(at, experiment)

    def latest(self, count: int) -> list[Experiment]:
        """The newest of them, oldest first: a bound on what an idea costs, however long the study."""
        return self._experiments[-count:]
