"""What a study learns of its noise: shared seeds, shared examples, drift."""

from __future__ import annotations

from pathlib import Path
from random import Random
from statistics import stdev

import numpy as np
import pytest

from nightlab.ledger import Event, Ledger
from nightlab.lineage import Sample
from nightlab.noise import Noise
from nightlab.stats import Pairing, good_for, has_drifted, repeats_exactly


def begun(path: Path, values: list[float], again: float | None = None, examples: str = "") -> Ledger:
    """A study whose baseline came to these values under seeds 1, 2, ..., and to `again` under seed 1."""
    ledger = Ledger(path / "ledger.sqlite")
    runs = [(f"0-{n}", "incumbent", n, value) for n, value in enumerate(values, 1)]
    runs += [] if again is None else [("0-repeat", "repeat", 1, again)]
    ledger.append(Event("proposed", "0", {"parent": None, "hypothesis": "baseline", "proposer": "lab", "tree": "t"}, 0))
    for run, purpose, seed, value in runs:
        started = {"run": run, "purpose": purpose, "seed": seed, "asked_by": 0, "again": 0}
        ended = {"run": run, "outcome": "finished", "value": value, "seconds": 1.0, "examples": examples}
        ledger.append(Event("started", run, started, 0), Event("ran", run, ended, 0))
    return ledger


def test_seeds_are_shared_where_a_repeated_seed_gives_the_number_again(tmp_path: Path) -> None:
    noise = Noise(begun(tmp_path, [1.0, 1.1, 0.9], again=1.0), "lower", lambda run: None)

    assert noise.shares_seeds
    assert noise.scale < (noise.sigma or 0.0)


def test_seeds_are_not_shared_where_it_gives_another(tmp_path: Path) -> None:
    noise = Noise(begun(tmp_path, [1.0, 1.1, 0.9], again=1.08), "lower", lambda run: None)

    assert not noise.shares_seeds
    assert noise.scale == noise.sigma


def test_pairs_that_vary_like_strangers_end_the_pairing() -> None:
    pairing, dice = Pairing(), Random(0)
    pairing.repeat(1.0, 1.0)
    assert pairing.sigma(0.1) is not None

    for experiment in range(10):
        for _ in range(3):
            pairing.add(experiment, dice.gauss(0, 0.1 * 2**0.5))

    assert pairing.correlation(0.1) < 0.3
    assert pairing.sigma(0.1) is None


def test_the_noise_of_a_pair_is_learned() -> None:
    pairing, dice = Pairing(), Random(1)
    pairing.repeat(1.0, 1.0)
    for experiment in range(200):
        for _ in range(2):
            pairing.add(experiment, experiment + dice.gauss(0, 0.02))

    assert pairing.sigma(0.1) == pytest.approx(0.02, rel=0.2)


def test_the_incumbents_last_four_runs_stand_for_it_once_they_drift(tmp_path: Path) -> None:
    noise = Noise(begun(tmp_path, [1.0, 1.01, 0.99]), "lower", lambda run: None)
    steady = [Sample(str(n), n, 1.0 + 0.01 * (-1) ** n) for n in range(8)]
    drifting = steady[:4] + [Sample(str(n), n, 1.5 + 0.01 * (-1) ** n) for n in range(4, 8)]

    assert noise.window(steady) == steady
    assert noise.window(drifting) == drifting[-4:]
    assert noise.evidence([Sample("c", 99, 1.4)], drifting, []).gain() == pytest.approx(0.1, abs=0.02)


def test_noise_alone_is_rarely_called_drift() -> None:
    dice = Random(0)
    alarms = sum(has_drifted([dice.gauss(0, 1) for _ in range(12)]) for _ in range(2000))

    assert alarms < 40


def test_one_set_of_examples_adds_its_own_error_and_new_ones_do_not(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    each = {run: dice.normal(1, 0.5, 400) for run in ("0-1", "0-2", "c")}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    same = Noise(begun(tmp_path / "a", [1.0, 1.1], examples="set"), "lower", each.get)
    anew = Noise(begun(tmp_path / "b", [1.0, 1.1]), "lower", each.get)
    mine, pool = [Sample("c", 9, 1.0)], [Sample("0-1", 1, 1.0), Sample("0-2", 2, 1.1)]

    expected = stdev(each["c"] - each["0-2"]) / 400**0.5
    assert same.evidence(mine, pool, []).per_example_stderr == pytest.approx(expected)
    assert anew.evidence(mine, pool, []).per_example_stderr is None


def test_the_start_says_what_can_be_seen_and_what_the_set_is_good_for(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    each = {run: dice.normal(1, 0.5, 4000) for run in ("0-1", "0-2", "0-3")}
    ledger = begun(tmp_path, [1.0, 1.02, 0.98], again=1.03, examples="set")

    power = Noise(ledger, "lower", each.get).power(ledger)

    assert power["sigma"] == pytest.approx(0.02)
    assert power["visible_gain"] == pytest.approx(0.033, abs=0.001)
    assert power["examples"] == 4000
    assert 20 < power["good_for"] < 200


def test_what_a_set_is_good_for_is_told_by_what_races_see_between_two_trees(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    one = dice.normal(1, 2.0, 4000)
    each = {"0-1": one, "0-2": dice.normal(1, 2.0, 4000), "c": one + dice.normal(0, 0.1, 4000)}
    ledger = begun(tmp_path, [1.0, 1.02, 0.98], again=1.0)  # new examples for each run
    noise = Noise(ledger, "lower", each.get)

    between = noise.between([(Sample("c", 1, 1.0), Sample("0-1", 1, 1.0))])

    assert noise.power(ledger)["good_for"] is None
    assert between == pytest.approx(0.1, rel=0.1)


def test_500_decisions_overfit_by_two_over_root_n() -> None:
    n = 1000
    assert 300 < (good_for(2 / n**0.5, 0.5, n) or 0) < 3000


def test_equal_runs_are_no_proof_where_the_metric_is_coarse() -> None:
    assert repeats_exactly([0.81734512, 0.81734512], 0.01)
    assert not repeats_exactly([0.82, 0.82], 0.01)
    assert not repeats_exactly([0.81734512], 0.01)
    assert not repeats_exactly([0.81734512, 0.81734513], 0.01)
