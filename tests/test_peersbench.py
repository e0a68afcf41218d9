"""The bench of peers: the work that all are given, what is counted, the tables; Nightlab's half runs for real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import need

from nightlab.peersbench import faults, page, systems, throughput, work
from nightlab.peersbench.constants import Found, Script, summary
from nightlab.peersbench.systems import Look, Plan, Setting
from nightlab.testing.disk import small_disk


@pytest.mark.slow
def test_nightlabs_half_of_the_bench_runs_for_real(tmp_path: Path) -> None:
    setting = Setting("nightlab", "here", 2, 4)

    told = throughput.measured(tmp_path, setting, Plan(5, seconds=0.1, latency=0.1), limit=60)

    assert told["experiments"] == 5
    assert told["at_once"] == 2
    assert told["rate"] > 0


@pytest.mark.slow
def test_a_bank_of_edits_is_played_whole_and_what_hangs_leaves_nothing(tmp_path: Path) -> None:
    told = faults.replayed(tmp_path, "nightlab", 0, limit=180)

    assert told["ended"]
    assert told["survivors"] == 0
    assert told["true"] > 0.7 * told["possible"]


@pytest.mark.slow
def test_after_kill_nine_nightlab_goes_on_and_has_lost_nothing(tmp_path: Path) -> None:
    told = faults.killed(tmp_path, "nightlab", limit=90)

    assert (told["lost"], told["survivors"], told["goes_on"]) == (0, 0, True)


@pytest.mark.slow
def test_a_disk_that_fills_ends_the_night_and_costs_nothing_that_was_decided(tmp_path: Path) -> None:
    with small_disk(tmp_path, "1m") as missing:
        need(not missing, f"cannot mount a small disk here: {missing}")

    told = faults.filled(tmp_path, "nightlab", limit=90)

    assert (told["exit"], told["lost"], told["survivors"], told["goes_on"]) == (4, 0, 0, True)


@pytest.mark.parametrize("system", work.SYSTEMS)
def test_every_system_is_told_the_same_edit_in_its_own_words(system: str) -> None:
    source, edit = work.program(3), work.Edit("good", "SWITCH_001", "1.5")
    asked = f"The value is:\n```\n{source}\n```\nSome data:\n```\nscore 1\n```\n"

    said = work.answer(system, edit, asked)

    if system == "gepa":
        assert work.truth(said) == 1.5
    else:
        assert f"<<<<<<< SEARCH\n{edit.before}\n=======\n{edit.after}\n>>>>>>> REPLACE" in said
        assert work.truth(source.replace(edit.before, edit.after)) == 1.5


def test_a_bank_is_the_same_for_everybody_and_its_worth_is_known() -> None:
    edits = work.bank(3)

    assert edits == work.bank(3) != work.bank(4)
    assert len({edit.switch for edit in edits}) == len(edits) == 40
    assert min(edit.worth for edit in edits if edit.kind == "good") >= 0.25
    assert work.truth(work.program(2).replace("SWITCH_000 = 0", "SWITCH_000 = hang()")) is None


def test_evaluations_are_read_from_the_log_that_all_write(tmp_path: Path) -> None:
    lines = [("begin", "start", 0), ("end", "start", 1), ("begin", "a", 1), ("begin", "b", 1.5), ("end", "a", 2)]
    lines += [("begin", "c", 2), ("end", "c", 3), ("begin", "a", 3), ("end", "a", 4)]
    log = "".join(json.dumps({"event": event, "key": key, "at": at}) + "\n" for event, key, at in lines)
    systems.log(tmp_path / "search").write_text(log)
    search = systems.Search(Setting("gepa", ""), Plan(3), tmp_path / "search")

    assert search.looks()[:2] == [Look("start", 0, 1), Look("a", 1, 2)]
    assert [one.key for one in search.candidates()] == ["a", "b", "c"]
    assert systems.at_once(search.looks()) == 2
    assert systems.rate(search.candidates()) == 60 * 2 / (3 - 1)


def test_constants_stand_where_the_tuner_finds_them() -> None:
    for name in ("digits", "diabetes", "tinylm"):
        script = Script(name)
        places = {knob.key: knob.place for knob in script.knobs}

        assert 5 <= len(places) <= 8
        assert script.at(places) == script.source
        assert script.at({key: place + 0.9 for key, place in places.items()}) != script.source


def test_the_tables_say_what_was_found_and_leave_the_rest_of_the_page(tmp_path: Path) -> None:
    found = [Found("diabetes", name, seed, 40, "", 55, 55 + seed) for name in ("nightlab", "tpe") for seed in (0, 1)]
    found.append(Found("diabetes", "tpe", 2, 40, "", 50, 50))
    row = {"system": "nightlab", "label": "8 drafts", "rate": 117.0, "at_once": 2, "experiments": 60, "gap_ms": 20.0}
    full = {"system": "gepa", "before": 31, "more": 9, "exit": None, "lost": 9, "survivors": 0, "goes_on": True}
    results = {"machine": "a machine", "versions": {"nightlab": "1"}, "grid": [row], "alone": [{**row, "rate": None}]}
    results["filled"] = [full]
    target = tmp_path / "page.md"
    target.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")

    page.put(target, page.markdown(results, found))

    text = target.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "\nold\n" not in text
    assert "| nightlab | 8 drafts | 117.0 | 98% | 1.00 | 2 | 60 |" in text
    assert "| diabetes | 40 | 2 | **55.5 ± 0.5** | **55.5 ± 0.5** |" in text
    assert "| gepa | 31 | stays, 9 more | 9 | 0 | yes |" in text
    assert summary(found)[0]["seeds"] == 2
