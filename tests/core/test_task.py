from __future__ import annotations

from pathlib import Path

import pytest

from nightlab.errors import BadTask
from nightlab.task import load, parse

GOOD = """\
[task]
run = "python train.py"
editable = ["train.py", "src/**/*.py"]
[metric]
name = "loss"
direction = "lower"
"""


def test_a_small_task_takes_the_defaults() -> None:
    task = parse(GOOD)

    assert task.metric.level == "printed"
    assert (task.budget.kind, task.budget.cpu_cap) == ("work", 2.0)


def test_globs_cross_folders_only_with_two_stars() -> None:
    task = parse(GOOD)

    assert task.is_editable("train.py")
    assert task.is_editable("src/a.py")
    assert task.is_editable("src/deep/er/a.py")
    assert not task.is_editable("lib/train.py")
    assert not task.is_editable("src/a.txt")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("editable", "editabel"), "line 3: unknown key 'task.editabel'; did you mean 'editable'?"),
        (GOOD + "[budgte]\nkind = 'cpu'\n", "line 7: unknown key 'budgte'; did you mean 'budget'?"),
        (GOOD + "[live]\nefect = 0.2\n", "line 8: unknown key 'live.efect'; did you mean 'effect'?"),
        (GOOD + "[judge]\nrun = 'python j.py'\ndatta = 'v'\n", "unknown key 'judge.datta'; did you mean 'data'?"),
        (GOOD + "[scale.medium]\namont = 4\n", "line 8: unknown key 'scale.medium.amont'; did you mean 'amount'?"),
        (GOOD.replace('"lower"', '"down"'), "line 6: metric.direction"),
        (GOOD.replace('run = "python train.py"\n', ""), "'task.run' is missing"),
        (GOOD + "[budget]\namount = -5\n", "line 8: budget.amount"),
        (GOOD + "[budget]\namount = 'much'\n", "line 8: budget.amount"),
        (GOOD + "bounds = [3, 1]\n", "not in rising order"),
        (GOOD + "level = 'predictions'\n", "needs [judge] run and [task] predict"),
        (GOOD + "level = 'artifact'\n", "needs [judge] run and [task] artifact"),
        (GOOD + "[limits]\nfastest = 1.0\n", "line 8: limits.fastest"),
        ("[task\n", "not valid TOML"),
        (GOOD.replace('"python train.py"', "'python \"train.py'"), "line 2: task.run"),
        (GOOD.replace('"python train.py"', '""'), "a command is empty"),
        (GOOD.replace('["train.py", "src/**/*.py"]', '"train.py"'), "line 3: task.editable should be a list"),
        ("task = 3\n", "line 1: task should be a table: write [task]"),
        (GOOD + "[budget]\namount = inf\n", "line 8: budget.amount"),
        ("", "'task' is missing"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_its_mend(text: str, words: str) -> None:
    with pytest.raises(BadTask) as caught:
        parse(text)

    assert words in str(caught.value)


def test_a_task_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "nightlab.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(BadTask, match="must be a text file in UTF-8"):
        load(tmp_path)


def test_a_folder_without_a_task_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadTask, match="nightlab init"):
        load(tmp_path)


def test_a_folder_in_karpathys_layout_needs_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print('val_bpb: 1.0')")
    (tmp_path / "prepare.py").write_text("TIME_BUDGET = 120        # seconds\n")
    (tmp_path / "program.md").write_text("# program")

    task = load(tmp_path)

    assert (task.metric.name, task.metric.direction) == ("val_bpb", "lower")
    assert (task.budget.kind, task.budget.amount) == ("wall", 120.0)
    assert task.is_editable("train.py")
    assert not task.is_editable("prepare.py")


def test_the_judges_files_are_never_editable_and_are_hidden() -> None:
    text = GOOD.replace('"train.py", "src/**/*.py"', '"**"').replace(
        '"python train.py"', '"python train.py"\npredict = "p"'
    )
    task = parse(text + "level = 'predictions'\n[judge]\nrun = 'python judge.py'\ndata = 'judge/validation'\n")

    assert task.is_hidden("judge.py")
    assert task.is_hidden("judge/validation/a.bin")
    assert not task.is_editable("judge.py")
    assert task.is_editable("anything/else.py")


def test_a_sealed_set_is_what_the_task_names_and_gifts_go_with_the_level() -> None:
    printed = parse(GOOD)
    text = GOOD.replace('"python train.py"', '"x"\npredict = "p"\nartifact = "m.json"')
    judged = {
        level: parse(text + f"level = '{level}'\n[judge]\nrun = 'j'\n" + more)
        for level, more in (("artifact", "sealed = 's'\n"), ("predictions", "sealed = ''\n"))
    }

    assert [printed.has_sealed, judged["artifact"].has_sealed, judged["predictions"].has_sealed] == [False, True, False]
    assert [printed.gives, judged["artifact"].gives, judged["predictions"].gives] == [False, False, True]
    assert parse(text + "level = 'artifact'\n[judge]\nrun = 'j'\ngives = true\n").gives
