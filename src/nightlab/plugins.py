"""Plugins: a name, a `module:attribute`, or an entry point becomes an object. One door for ours and for strangers'."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from inspect import signature
from typing import Any, Literal

from nightlab.errors import BadPlugin
from nightlab.executor import Executor
from nightlab.proposer import Proposer, walled

Role = Literal["proposers", "executors", "evaluators", "policies"]

_ONE = {"proposers": "proposer", "executors": "executor", "evaluators": "evaluator", "policies": "policy"}
_OURS: dict[str, dict[str, str]] = {
    "proposers": {"tuner": "nightlab.tuner:arms", "unchanged": "nightlab.proposer:Unchanged"},
    "executors": {
        "local": "nightlab.executor:LocalExecutor",
        "ray": "nightlab.executors.ray:RayExecutor",
        "slurm": "nightlab.executors.slurm:SlurmExecutor",
        "live": "nightlab.live.executor:LiveExecutor",
    },
    "evaluators": {
        "printed": "nightlab.evaluator:Printed",
        "artifact": "nightlab.evaluator:Artifact",
        "predictions": "nightlab.evaluator:Predictions",
        "live": "nightlab.live.evaluator:LiveEvaluator",
    },
    "policies": {
        "race": "nightlab.decide:race",
        "lean": "nightlab.decide:lean",
        "greedy": "nightlab.decide:Greedy",
        "serve": "nightlab.live.policy:Serve",
    },
}


def load(role: Role, name: str) -> Any:
    """The class or factory behind a name. Raises BadPlugin with what there is to choose from.

    A stranger's package names its own under the entry-point group `nightlab.<role>`; a module may also be a file of
    the folder one is in.
    """
    target = name if ":" in name else _OURS[role].get(name)
    if target is None:
        found = [point for point in entry_points(group=f"nightlab.{role}") if point.name == name]
        if not found:
            raise BadPlugin(
                f"no {_ONE[role]} is called {name!r}; there are: {', '.join(names(role))}, or module:attribute"
            )
        target = found[0].value
    module, _, attribute = target.partition(":")
    if ":" in name and "" not in sys.path:
        sys.path.append("")  # a file of the user's own folder; last, so that it shadows nothing
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadPlugin(f"cannot load {_ONE[role]} {name!r} from {target}: {error}") from error


def proposers(name: str) -> list[Proposer]:
    """The proposers behind a name: one, or the several arms of one agent."""
    make = load("proposers", name)
    made, trouble = walled(make) if callable(make) else (None, f"{make!r} cannot be called")
    if trouble:
        raise BadPlugin(f"{name!r} made no proposer: {trouble}")
    found: list[Any] = list(made) if isinstance(made, list | tuple) else [made]
    for one in found:
        if not isinstance(one, Proposer):
            raise BadPlugin(
                f"{name!r} made {one!r}, which is no proposer: it needs name, propose(context), learn(experiment)"
            )
    return found


def executor(name: str, settings: Mapping[str, Any], options: Mapping[str, Any]) -> Executor:
    """The executor behind a name: given those of the lab's settings that it takes, and every option of the user's.

    Raises BadPlugin where it does not take one of these, or is none.
    """
    make = load("executors", name)
    try:
        takes = signature(make).parameters
    except (TypeError, ValueError) as error:
        raise BadPlugin(f"{name!r} makes no executor: {error}") from error
    if others := [option for option in options if option not in takes]:
        known = [f"--{one}" for one in ("address", "partition", "cores", "gpus") if one in takes] or ["none of them"]
        raise BadPlugin(f"executor {name!r} takes no --{others[0]}; of these options it takes {', '.join(known)}")
    found = make(**{key: value for key, value in settings.items() if key in takes}, **options)
    if not isinstance(found, Executor):
        raise BadPlugin(f"{name!r} made {found!r}, which is no executor: see docs/recipes/executor.md")
    return found


def names(role: Role) -> list[str]:
    """Every name that `load` knows for a role."""
    return sorted({*_OURS[role], *(point.name for point in entry_points(group=f"nightlab.{role}"))})
