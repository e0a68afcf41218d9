"""The pairs arm: two near misses together, since some changes pay only jointly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations, islice

from nightlab.proposer import Context
from nightlab.tuner.edit import ATTEMPTS, changed, constant_facts
from nightlab.tuner.memory import Memory
from nightlab.values import Experiment, Files, Proposal, Status

REMEMBERED = 500
NEAREST = 16
"""Pairs are made of this many near misses at most: 120 pairs are more than a night tries."""


class Pairs:
    """Puts two changes that nearly paid on one tree, the nearest misses first."""

    name = "tuner.pairs"

    def __init__(self) -> None:
        self._memory = Memory()

    def learn(self, experiment: Experiment) -> None:
        """Remember what lost with a number and a patch, and which pairs were tried."""
        if experiment.diff and experiment.status in (Status.DISCARDED, Status.SHELVED):
            self._memory.learn(experiment)

    def propose(self, context: Context) -> Proposal | None:
        """The best pair that both apply to the incumbent and that nobody has tried."""
        for one, other in islice(pairs(self._memory.latest(REMEMBERED), context.sigma), ATTEMPTS):
            files = changed(context.files, _both(context, one, other))
            if files and not context.was_tried(files):
                facts = {"pair": [one.id, other.id], **constant_facts(context.files, files)}
                return Proposal(f"{one.hypothesis}, and {other.hypothesis}", files, facts)
        return None


def pairs(told: Sequence[Experiment], sigma: float | None) -> Iterator[tuple[Experiment, Experiment]]:
    """Two near misses that do not turn the same thing, not yet tried together, by the sum of their scores."""
    tried = {tuple(e.facts["pair"]) for e in told if "pair" in e.facts}
    near = near_misses(told, sigma)
    score = {e.id: _score(e, sigma) for e in near}
    for one, other in sorted(
        combinations(sorted(near, key=lambda e: e.id), 2), key=lambda p: -score[p[0].id] - score[p[1].id]
    ):
        if (one.id, other.id) not in tried and not touches(one) & touches(other):
            yield one, other


def near_misses(told: Sequence[Experiment], sigma: float | None) -> list[Experiment]:
    """What lost by less than its noise, the nearest first; where there is no noise, what lost by least."""
    single = [e for e in told if "pair" not in e.facts and e.gain is not None]
    noisy = [e for e in single if (e.z is not None and e.z > -1) or (sigma and abs(e.gain or 0.0) < 2 * sigma)]
    return sorted(noisy if sigma or noisy else single, key=lambda e: (-_score(e, sigma), e.id))[:NEAREST]


def _score(experiment: Experiment, sigma: float | None) -> float:
    """z, or the gain in units of the noise, or of the value itself where there is none."""
    if experiment.z is not None and math.isfinite(experiment.z):
        return experiment.z
    return (experiment.gain or 0.0) / (sigma or abs(experiment.value or 0.0) or 1.0)


def touches(experiment: Experiment) -> set[str]:
    """What an experiment turns: knobs by key, or the site of its edit."""
    facts = experiment.facts
    return {*facts.get("turned", ()), *([str(facts["edit"])] if "edit" in facts else [])}


def _both(context: Context, one: Experiment, other: Experiment) -> Files | None:
    from nightlab.workspace import patched

    first = patched(context.files, one.diff)
    if not first:
        return None
    between = {path: text for path, text in {**context.files, **first}.items() if text is not None}
    second = patched(between, other.diff)
    return {**first, **second} if second else None
