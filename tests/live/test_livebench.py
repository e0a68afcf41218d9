"""The bench of live statistics: every row runs, and agrees with others' code where that is installed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import need
from typer.testing import CliRunner

from nightlab.cli import app
from nightlab.livebench import Row, conformance, from_online_fdr, from_savvi, rows, shown


def test_the_conformance_vectors_all_agree() -> None:
    assert conformance().value == 1


def test_the_same_seed_gives_the_same_rows() -> None:
    assert list(rows(40, seed=1)) == list(rows(40, seed=1))


def test_a_row_says_whether_it_holds() -> None:
    assert shown(Row("x", 0.03, 0, 0.05)) == ("holds", "0.03", "<= 0.05")
    assert shown(Row("x", 0.07, 0, 0.05))[0] == "FAILS"
    assert Row("x", None, 0, 1).holds is None


def test_bench_live_prints_its_rows_as_json() -> None:
    done = CliRunner().invoke(app, ["bench", "live", "--reps", "40", "--json"])

    told = json.loads(done.stdout)
    assert {"what", "value", "low", "high", "holds", "note"} == set(told[0])
    assert done.exit_code == any(row["holds"] is False for row in told)


@pytest.mark.slow
def test_every_bar_is_met() -> None:
    failed = [row for row in rows(4000) if row.holds is False]

    assert not failed


@pytest.mark.slow
def test_e_values_agree_with_savvi() -> None:
    try:
        worst = max(from_savvi(np.random.default_rng(seed)) for seed in range(5))
    except ModuleNotFoundError as missing:
        need(False, f"pip install savvi: {missing}")
    assert worst <= 1e-6


@pytest.mark.slow
def test_claims_agree_with_online_fdr() -> None:
    try:
        worst = max(from_online_fdr(np.random.default_rng(seed)) for seed in range(20))
    except ModuleNotFoundError as missing:
        need(False, f"pip install online-fdr: {missing}")
    assert worst <= 1e-6
