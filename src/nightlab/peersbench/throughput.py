"""Throughput: how many experiments a minute, and what a system itself takes for one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nightlab.peersbench import systems, work
from nightlab.peersbench.systems import Plan, Setting

GRID = (
    Setting("nightlab", "8 drafts", 2, 8),
    Setting("openevolve", "2 workers", 2, 2),
    Setting("openevolve", "6 workers", 6, 6),
    Setting("gepa", "as documented", 2, 1, "documented"),
    Setting("gepa", "4 proposals a step", 2, 4),
    Setting("shinka", "as documented", 2, 6, "documented"),
    Setting("shinka", "light evaluator, oversubscribed, told of 16 cores", 2, 6),
)
"""Two slots, but for OpenEvolve's six workers: thinking and evaluating are one worker's there."""
ALONE = (
    Setting("nightlab", "1 slot", 1, 2),
    Setting("openevolve", "1 worker", 1, 1),
    Setting("gepa", "1 proposal a step", 1, 1),
    Setting("shinka", "light evaluator", 1, 1),
)
LATENCY, SECONDS = 2.0, 1.0
_SPARE = 40


def measured(cache: Path, setting: Setting, plan: Plan, *, limit: float) -> Mapping[str, Any]:
    """One search of edits that nobody keeps, until so many are through or the time is over."""
    edits = work.harmful(plan.experiments + _SPARE)
    with (
        tempfile.TemporaryDirectory(prefix="nightlab-bench-") as name,
        systems.searching(Path(name) / "search", cache, setting, plan, edits) as (search, _, _),
    ):
        systems.watch(search, limit=limit, candidates=plan.experiments)
        systems.end(search)
        return {**systems.told(search), "thinkers": setting.thinkers, "slots": setting.slots}


def grid(cache: Path, experiments: int, *, only: Sequence[str], limit: float) -> Iterator[Mapping[str, Any]]:
    """Thinking takes 2 s, evaluating 1 s, at two slots: 120 a minute is the most there can be."""
    for setting in GRID:
        if setting.system in only:
            yield measured(cache, setting, Plan(experiments, SECONDS, LATENCY), limit=limit)


def alone(cache: Path, experiments: int, *, only: Sequence[str], limit: float) -> Iterator[Mapping[str, Any]]:
    """Thinking and evaluating take no time: what is left is the system's own."""
    for setting in ALONE:
        if setting.system in only:
            yield measured(cache, setting, Plan(experiments), limit=limit)
