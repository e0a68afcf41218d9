from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import git

Nightlab = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_ledger_but_for_times(
    nightlab: Nightlab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    start = tmp_path / "start"
    start.mkdir()
    nightlab("init", "compress", at=start)
    task = start / "nightlab.toml"
    task.write_text(task.read_text().replace("cpu_cap = 3.0", "cpu_cap = 50.0"))  # no run may end by its time
    git(start, "init", "-q")
    git(start, "add", "-A")
    git(start, "commit", "-qm", "start")
    logs = []
    for name in ("one", "two"):
        git(tmp_path, "clone", "-q", str(start), name)
        nightlab("run", "--no-audit", "--experiments", "15", "--seed", "4", at=tmp_path / name)
        rows = [json.loads(line) for line in nightlab("log", "--json", at=tmp_path / name).stdout.splitlines()]
        logs.append([{key: value for key, value in row.items() if key != "seconds"} for row in rows])

    assert len(logs[0]) == 16
    assert logs[0] == logs[1]
