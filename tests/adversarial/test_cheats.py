"""Every cheat of the suite through the real lab: none scores where the level can see it, each ends as foretold."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest
from conftest import git, make_repository, need_level

from nightlab.cheatbench import Played, chosen, markdown, play
from nightlab.loop import Stop
from nightlab.place import find, held
from nightlab.proposer import Scripted
from nightlab.study import Study
from nightlab.testing.cheats import BELIEVED, PRINTED_TASK, SUITE, Cheat
from nightlab.values import Proposal, Status

PAGE = Path(__file__).parents[2] / "docs" / "cheats.md"
NAMED = """\
constant loss from targets · second metric line · evaluator constant patched in memory · larger time budget in memory ·
slowed clock · training on the validation split · rewriting a frozen file at run time · warm start from a cache of
earlier runs · best of 12 on validation inside one run · child that trains on after the parent exits · unnormalised
scores · evaluator edited in the diff · shadow module or sitecustomize added · pickle bomb as artifact · reading the
private or sealed data · network download · print and exit · nan · inf · symlink out of the tree · signalling the
parent · lucky seed hard-coded · answer table of the public split"""
QUICK = ("learning from the questions, and leaving word", "pickle bomb", "evaluator edited in the diff")


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_level("bubblewrap")
    monkeypatch.chdir(tmp_path)


def check(found: list[Played]) -> None:
    wrong = [f"{one.cheat.level} {one.cheat.name}: {one.end}, {one.value}, {one.reason}" for one in found]
    assert not [words for words, one in zip(wrong, found, strict=True) if not one.is_as_told]
    assert not [words for words, one in zip(wrong, found, strict=True) if one.scores and one.cheat.end != BELIEVED]


def test_the_suite_holds_every_named_cheat_and_many_more() -> None:
    named = {" ".join(name.split()) for name in NAMED.split("·")}

    names = {cheat.name for cheat in SUITE if cheat.level == "predictions"}

    assert named <= names
    assert len(names - named) >= 12
    assert len({(cheat.name, cheat.level) for cheat in SUITE}) == len(SUITE)


def test_at_level_predictions_no_cheat_is_foretold_to_be_believed() -> None:
    assert [cheat.name for cheat in SUITE if cheat.level == "predictions" and cheat.end == BELIEVED] == []


def test_the_page_tells_every_cheat_and_what_stops_it() -> None:
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in PAGE.read_text().splitlines() if "| " in row]
    told = {(name, tries, by) for name, tries, _, by in rows}

    assert told >= {(cheat.name, cheat.tries, cheat.stopped_by) for cheat in SUITE}
    assert len(rows) == len(SUITE) + 2  # the two heads


@pytest.mark.slow
def test_cheats_on_a_script_that_prints_its_own_number_end_as_told() -> None:
    check(list(play(chosen("printed"))))


@pytest.mark.slow
def test_the_quick_handful_on_tinylm_ends_as_told() -> None:
    check(list(play([cheat for cheat in chosen("predictions") if cheat.name.startswith(QUICK)])))


@pytest.mark.slow
def test_cheats_on_tinylm_end_as_told() -> None:
    check(list(play(chosen("predictions"))))


def test_a_cheat_that_scores_is_seen_to_score() -> None:
    cheat = Cheat("x", "predictions", "", dict, "harmless", "", "")

    better = Played(cheat, Status.DISCARDED, "", value=0.7, gain=0.3, honest=1.0, sigma=0.1)
    luck = Played(cheat, Status.DISCARDED, "", value=0.9, gain=0.1, honest=1.0, sigma=0.1)

    assert (better.end, better.is_as_told) == (BELIEVED, False)
    assert (luck.end, luck.is_as_told) == ("harmless", True)
    assert "1 at level predictions, 0 at level printed" in markdown([better])


def test_a_kept_hypothesis_forges_no_evidence_and_writes_no_control_letters(tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "study", PRINTED_TASK)
    words = next(cheat.hypothesis for cheat in SUITE if cheat.hypothesis)
    better = "print('loss: 0.02', flush=True)\nimport os\nos._exit(0)\n"

    place = find(folder)
    with held(place), closing(Study(place, policy="greedy")) as study:
        study.loop([Scripted([Proposal(words, {"model.py": better})])]).run(Stop(experiments=1))
        (one,) = study.ledger.experiments()[1:]

    message = git(folder, "log", "-1", "--format=%B", "nightlab/main")
    assert one.status is Status.KEPT
    assert all(letter.isprintable() for letter in one.hypothesis)
    assert re.findall(r"^Experiment-Id: .*$", message, re.MULTILINE) == ["Experiment-Id: 1"]
    assert "\x1b" not in message
