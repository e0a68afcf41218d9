"""The bench of live statistics: every row runs, and agrees with others' code where that is installed."""

from __future__ import annotations

import json
from math import inf

import numpy as np
import pytest
from conftest import need, shared
from typer.testing import CliRunner

from nightlab.cli import app
from nightlab.livebench import Row, conformance, from_online_fdr, from_savvi, rows, shown


def test_the_conformance_vectors_all_agree() -> None:
    shared("growthbook-cases.json")

    assert conformance().value == 1


def test_the_same_seed_gives_the_same_rows() -> None:
    assert list(rows(40, seed=1)) == list(rows(40, seed=1))


def test_a_row_says_whether_it_holds() -> None:
    assert shown(Row("x", 0.03, 0, 0.05)) == ("holds", "0.03", "<= 0.05")
    assert shown(Row("x", 0.07, 0, 0.05))[0] == "FAILS"
    assert Row("x", None, 0, 1).holds is None
    assert Row("x", 7.0, -inf, inf).holds is None
    assert shown(Row("x", 7.0, -inf, inf)) == ("-", "7", "-")


def test_bench_live_prints_its_rows_as_json() -> None:
    done = CliRunner().invoke(app, ["bench", "live", "--only", "statistics", "--reps", "40", "--json"])

    told = json.loads(done.stdout)
    assert {"what", "value", "low", "high", "holds", "note"} == set(told[0])
    assert done.exit_code == any(row["holds"] is False for row in told)


@pytest.mark.slow
def test_the_service_is_measured_and_loses_nothing() -> None:
    """No bar of speed is asked for here: the tests beside this one want the cores too."""
    done = CliRunner().invoke(app, ["bench", "live", "--only", "service", "--reps", "40", "--json"])

    told = {row["what"]: row for row in json.loads(done.stdout)}
    assert all(row["value"] is not None for row in told.values())
    assert told["acknowledged events lost by kill -9"]["holds"]
    assert told["events counted twice when all are sent again"]["holds"]
    assert told["durable events a second"]["value"] > 0
    assert "results page of 10,000 events: seconds" in told


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
