"""The workroom: what an agent is given to work with, made by whoever puts a study together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nightlab.agents.relay import Relay
from nightlab.executor import Executor
from nightlab.proposer import Context
from nightlab.task import Task
from nightlab.workspace import Checkout


@dataclass(frozen=True, slots=True)
class Workroom:
    """One study's place for agents: where they work, what they are told, how they reach their models."""

    home: Path
    """`.nightlab/agents`: a folder for each draft below it, `draft-N`, kept until the study is deleted."""
    task: Task
    executor: Executor
    """Where agents on the command line run, in slots of their own."""
    relay: Relay
    lay: Callable[[Path, Context], Checkout]
    """Lay out, in a folder, the whole tree that a context's files belong to, without what the judge hides."""
    environ: Mapping[str, str]
    """The user's environment: keys and addresses of models. No agent sees it."""
    seconds: float = 900.0
    """Wall time of one call."""

    def close(self) -> None:
        """End every call under way; what was being asked is asked again another time."""
        self.relay.close()
        self.executor.close()
