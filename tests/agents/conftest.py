from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from workrooms import TASK, PassThrough, Room, lay

from nightlab.agents.relay import Relay
from nightlab.agents.workroom import Workroom
from nightlab.executor import LocalExecutor
from nightlab.task import parse

collect_ignore = [] if "NIGHTLAB_AGENTS" in os.environ else ["test_real_agents.py"]
"""The agents themselves are driven where `make test-agents` has installed them."""


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """Makes a workroom at a level of the jail; what it started is ended with the test."""
    made: list[LocalExecutor] = []

    def make(
        level: str | None = None, *, environ: Mapping[str, str], seconds: float = 60.0, relay: Relay | None = None
    ) -> Workroom:
        executor = LocalExecutor(level=level, linger=0.1)
        made.append(executor)
        whole = {"PATH": os.environ["PATH"], **environ}
        return Workroom(tmp_path / "agents", parse(TASK), executor, relay or PassThrough(), lay, whole, seconds)

    yield make
    for executor in made:
        executor.close()
