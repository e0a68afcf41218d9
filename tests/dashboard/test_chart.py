from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from nights import a_long_night, a_night, tried

from nightlab.dashboard import chart
from nightlab.ledger import Event, Ledger


@pytest.fixture
def night(tmp_path: Path) -> Ledger:
    return a_night(tmp_path / "ledger.sqlite")


@pytest.fixture(scope="module")
def long_night(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return a_long_night(tmp_path_factory.mktemp("long") / "ledger.sqlite", 10_000)


def test_the_chart_tells_what_was_kept_what_was_lost_and_what_failed(night: Ledger) -> None:
    told = chart.progress(night)

    assert [one["id"] for one in told["kept"]] == [0, 1, 2]
    assert told["best"] == [[0, 4.0], [1, 3.5], [2, 3.0]]
    assert told["points"] == [[3, 3, 3.05, "discarded"]]
    assert told["failed"] == [[4, 4, "crashed"]]
    assert (told["metric"], told["direction"], told["sigma"], told["decided"]) == ("val_bpb", "lower", 0.1, 5)


def test_an_error_bar_is_two_standard_errors_of_the_runs_behind_a_value(night: Ledger) -> None:
    for run in ("2-2", "2-3", "2-4"):
        started = {"run": run, "purpose": "candidate", "seed": 2, "asked_by": 2, "again": 0}
        ended = {"run": run, "outcome": "finished", "value": 3.0, "seconds": 1.0}
        night.append(Event("started", run, started, 2), Event("ran", run, ended, 2))

    one, four = (chart.progress(night)["kept"][number] for number in (1, 2))

    assert one["high"] - one["value"] == pytest.approx(0.196)
    assert four["high"] - four["value"] == pytest.approx(0.098)


def test_what_was_kept_and_taken_out_again_is_shown_as_such(night: Ledger) -> None:
    night.append(Event("demoted", "1", {"status": "pruned", "reason": "no longer pays", "by": 9}, 1))

    told = chart.progress(night)

    assert [1, 1, 3.5, "pruned"] in told["points"]
    assert [one["id"] for one in told["kept"]] == [0, 2]


def test_one_exploded_run_does_not_flatten_the_others(night: Ledger) -> None:
    night.append(*tried(5, "discarded", 1e9, parent=2))

    low, high = chart.progress(night)["y"]

    assert low < 3.0 < 4.0 < high < 6.0


def test_the_frame_is_the_same_whichever_way_is_better(tmp_path: Path) -> None:
    down, up = Ledger(tmp_path / "down.sqlite"), Ledger(tmp_path / "up.sqlite")
    for ledger, sign in ((down, 1.0), (up, -1.0)):
        values = [("kept", 4.0), ("discarded", 9.0), ("kept", 3.0), ("discarded", 3.4), ("discarded", 50.0)]
        ledger.append(*(e for n, (status, value) in enumerate(values) for e in tried(n, status, sign * value)))

    one, other = chart.progress(down)["y"], chart.progress(up)["y"]

    assert one == pytest.approx([-other[1], -other[0]])


def test_of_many_points_the_extremes_stay_and_the_others_are_counted(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    values = [5.0 + (n * 37 % 100) / 100 for n in range(500)]
    values[123], values[321] = 0.5, 90.0
    ledger.append(*(event for n, value in enumerate(values) for event in tried(n, "discarded", value)))

    told = chart.progress(ledger, most=40)

    shown = [value for _, _, value, _ in told["points"]]
    assert len(shown) <= 40
    assert {0.5, 90.0} <= set(shown)
    assert told["left_out"] == 500 - len(shown)
    assert [place for place, *_ in told["points"]] == sorted(place for place, *_ in told["points"])


def test_ten_thousand_experiments_are_told_in_little_room_and_time(long_night: Ledger) -> None:
    times = []
    for _ in range(3):
        began = time.process_time()
        told = chart.progress(long_night)
        times.append(time.process_time() - began)

    assert min(times) < 0.1
    assert len(json.dumps(told)) < 100_000
    assert told["decided"] == 10_000
    assert told["counts"]["kept"] == len(told["kept"]) + told["kept_left_out"]
    assert {told["kept"][0]["id"], told["kept"][-1]["id"]} == {0, 9980}


def test_the_frontier_marks_what_nobody_beats_in_both(night: Ledger) -> None:
    night.append(*tried(5, "discarded", 3.9, parent=2, complexity=-2.0), *tried(6, "discarded", 3.9, complexity=8.0))

    told = chart.frontier(night)

    assert [one["id"] for one in told["front"]] == [5, 1, 2]
    assert 6 in [id_ for _, id_, *_ in told["points"]]


def test_a_study_that_has_not_begun_has_nothing_to_draw(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")

    assert chart.progress(ledger)["y"] is None
    assert chart.frontier(ledger)["front"] == []
