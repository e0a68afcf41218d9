from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nightlab.evaluator import command_line, ignores_seed, printed_values


@pytest.mark.parametrize(
    ("log", "values"),
    [
        ("val_bpb:          0.997900\n", [0.9979]),
        ("METRIC val_bpb=0.5\n", [0.5]),
        ('{"step": 3, "val_bpb": 0.25}\n', [0.25]),
        ("step 1 | loss 3\rstep 2 | loss 2\rval_bpb: 1e-3\r\n", [0.001]),
        ("val_bpb: 1\nval_bpb: 2\n", [1.0, 2.0]),
        ("final val_bpb: 1\n", []),
        ("val_bpb: 1 (best so far)\n", []),
        ("my_val_bpb: 1\n", []),
        ('{"val_bpb": true}\n{"val_bpb": "0.1"}\n{broken val_bpb\n', []),
        ("", []),
    ],
)
def test_a_metric_line_says_the_metric_and_nothing_else(log: str, values: list[float]) -> None:
    assert printed_values(log, "val_bpb") == values


def test_not_a_number_is_seen_as_such() -> None:
    assert str(printed_values("val_bpb: nan\nval_bpb: -inf", "val_bpb")) == "[nan, -inf]"


def test_runs_that_ignore_the_seed_are_seen_only_where_the_seed_should_matter() -> None:
    assert ignores_seed([1.0, 1.0], baseline_varies=True)
    assert not ignores_seed([1.0, 1.0], baseline_varies=False)
    assert not ignores_seed([1.0, 1.0 + 1e-15], baseline_varies=True)
    assert not ignores_seed([1.0], baseline_varies=True)


def test_python_means_the_projects_own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    assert command_line("python train.py", folder=tmp_path) == (sys.executable, "train.py")

    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    assert command_line("python3 train.py --rate '0.1 0.2'", folder=tmp_path) == (
        str(tmp_path / ".venv" / "bin" / "python"),
        "train.py",
        "--rate",
        "0.1 0.2",
    )
    assert command_line("sh run.sh", folder=tmp_path) == ("sh", "run.sh")
