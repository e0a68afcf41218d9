"""The judge on trial: nights add up, pure noise stays noise, and an old log tells its own noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import shared
from typer.testing import CliRunner

from nightlab.cli import app
from nightlab.decide import Greedy, Race
from nightlab.errors import BadTask
from nightlab.judgebench import STREAMS, Ideas, Night, judge, lines, play, shorten, try_prune
from nightlab.replay import estimate_noise, replay


def test_the_same_seed_gives_the_same_figures() -> None:
    assert judge("rich", 60, 3, seed=4) == judge("rich", 60, 3, seed=4)
    assert judge("rich", 60, 3, seed=4) != judge("rich", 60, 3, seed=5)


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("policy", [Greedy(), Race("race"), Race("lean")], ids=["greedy", "race", "lean"])
def test_nobody_spends_more_than_the_purse(policy: Greedy | Race, stream: object) -> None:
    for runs in (60, 320):
        for seed in range(3):
            night = play(policy, stream, runs, seed)  # type: ignore[arg-type]
            assert runs - 12 <= night.spent <= runs or night.audited is None


def test_greedy_spends_every_run_on_the_search_and_believes_its_record() -> None:
    nights = [play(Greedy(), STREAMS["null"], 200, seed) for seed in range(20)]

    assert {night.proposals for night in nights} == {199}
    assert np.mean([night.overclaim for night in nights]) > 2


def test_a_good_idea_that_is_rejected_comes_back_half_of_the_time() -> None:
    ideas = Ideas(STREAMS["rich"], np.random.default_rng(0))
    before = len(ideas._good)
    for _ in range(1000):
        ideas.reject(5.0, True)
        ideas.reject(-5.0, False)

    assert len(ideas._good) - before == pytest.approx(500, abs=60)


def test_good_ideas_are_as_frequent_as_the_stream_says() -> None:
    drawn = [Ideas(STREAMS["rich"], np.random.default_rng(seed)).draw() for seed in range(1000)]

    assert sum(is_good for _, is_good in drawn) == pytest.approx(350, abs=50)
    assert all(effect > 0 for effect, is_good in drawn if is_good)


def test_pure_noise_gains_nothing_and_the_audit_says_so() -> None:
    found = judge("null", 350, 30)["policies"]["race"]

    assert found["gain"] == 0
    assert found["multiple"] is None
    assert found["barnacles"] == 1
    assert abs(found["audited"]) < 0.5
    assert 0 < found["false_keeps"] < 6


def test_racing_beats_greedy_where_runs_are_noisy() -> None:
    found = judge("noisy", 350, 25)

    assert found["policies"]["greedy"]["multiple"] == 1
    assert found["policies"]["race"]["multiple"] > 1.2
    assert found["policies"]["race"]["overclaim"] < found["policies"]["greedy"]["overclaim"] / 2


def test_the_prune_takes_barnacles_out_and_leaves_the_gain() -> None:
    found = try_prune(40)

    assert found["removed"] > 45
    assert found["gain"] > 0


def test_on_pure_noise_the_prune_leaves_little_of_a_lax_race() -> None:
    nights = [play(Race(), STREAMS["null"], 700, seed) for seed in range(25)]

    assert 100 * sum(night.keeps for night in nights) / sum(night.proposals for night in nights) < 3.3


def test_a_prune_of_nothing_costs_nothing() -> None:
    night = Night(STREAMS["rich"], 400, np.random.default_rng(0), is_checked=True)

    shorten(night)

    assert night.spent == 0


def test_a_bar_that_is_missed_is_said_to_fail() -> None:
    found = judge("late", 700, 2)
    found["bars"] = [{"figure": "race multiple", "value": 1.5, "low": 2.0, "high": None, "holds": False}]

    assert lines(found)[-1] == "  FAILS race multiple: 1.5 (>= 2)"


def test_an_old_night_tells_its_noise_and_marks_a_third_of_its_keeps() -> None:
    found = replay(shared("karpathy-mar8-results.tsv"))

    assert 0.0002 <= found["noise"] <= 0.00055
    assert {one["grade"] for one in found["keeps"]} == {"E1"}
    assert len(found["keeps"]) == 23
    assert 6 <= found["doubtful"] <= 9
    assert all(bool(one["why"]) == one["is_doubtful"] for one in found["keeps"])


def test_the_noise_of_a_simulated_log_comes_out_about_right() -> None:
    found = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        null, harm = rng.normal(0, 0.8, (4, 12)), -rng.lognormal(np.log(11), 0.98, (4, 12))
        effects = np.where(rng.random((4, 12)) < 0.5, null, harm)
        found.append(estimate_noise((rng.normal(0, 5, (4, 12)) - effects).tolist()))

    assert 3.5 < np.median([one for one in found if one]) < 6.5


def test_a_log_with_too_few_discards_is_refused_in_words(tmp_path: Path) -> None:
    file = tmp_path / "results.tsv"
    header = "commit\tval_bpb\tmemory_gb\tstatus\tdescription\n"
    file.write_text(header + "a\t0.9\t1\tkeep\tbaseline\nb\t0.91\t1\tdiscard\tx\n")

    with pytest.raises(BadTask, match="too few discards"):
        replay(file)


def test_the_command_prints_figures_and_bars_as_json() -> None:
    said = CliRunner().invoke(app, ["bench", "judge", *["--stream", "rich", "--runs", "126", "--reps", "2", "--json"]])
    found = json.loads(said.stdout)

    assert set(found["policies"]) == {"greedy", "race", "lean"}
    assert [bar["figure"] for bar in found["bars"]][:2] == ["race multiple", "race coverage"]


def test_a_stream_that_is_neither_name_nor_file_is_refused() -> None:
    said = CliRunner().invoke(app, ["bench", "judge", "--stream", "poor"])

    assert isinstance(said.exception, BadTask)
    assert "rich, late, noisy, null" in str(said.exception)
