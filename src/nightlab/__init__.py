"""Nightlab: an honest, autonomous research loop for anything that can be scored."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightlab.decide import Evidence, Greedy, Policy, Race
    from nightlab.evaluator import Evaluator
    from nightlab.executor import Executor
    from nightlab.ledger import Ledger
    from nightlab.loop import Loop
    from nightlab.observation import Observation, observe
    from nightlab.proposer import Context, Proposer
    from nightlab.task import Task
    from nightlab.values import Decision, Experiment, Job, Measurement, Proposal, Run, Status

_HOMES = {
    "Context": "proposer",
    "Decision": "values",
    "Evaluator": "evaluator",
    "Evidence": "decide",
    "Executor": "executor",
    "Experiment": "values",
    "Greedy": "decide",
    "Job": "values",
    "Ledger": "ledger",
    "Loop": "loop",
    "Measurement": "values",
    "Observation": "observation",
    "Policy": "decide",
    "Proposal": "values",
    "Proposer": "proposer",
    "Race": "decide",
    "Run": "values",
    "Status": "values",
    "Task": "task",
    "observe": "observation",
}
__version__ = "0.1.0"
__all__ = [*_HOMES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    # Lazy, so that `nightlab --help` and the shim's warm server import nothing heavy.
    if name not in _HOMES:
        raise AttributeError(f"module 'nightlab' has no attribute {name!r}")
    return getattr(import_module(f"nightlab.{_HOMES[name]}"), name)
