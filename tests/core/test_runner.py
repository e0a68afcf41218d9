from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import pytest

from nightlab.errors import BadTask
from nightlab.runner import allowed_cpu, hidden, limits, mounts, too_fast
from nightlab.task import Task, parse
from nightlab.values import Cost

BASELINE = [Cost(seconds=10.0, cpu_seconds=8.0), Cost(12.0, 9.0), Cost(30.0, 20.0)]


def task(budget: str = "", more: str = "") -> Task:
    text = f"[task]\nrun = 'x'\neditable = ['a']\n{more}[metric]\nname = 'm'\ndirection = 'lower'\n[budget]\n{budget}"
    return parse(text)


def test_before_the_baseline_only_the_timeout_holds() -> None:
    found = limits(task("timeout = 7.0"), [], is_candidate=True)

    assert (found.wall, found.cpu) == (7.0, None)


def test_work_is_held_in_cpu_seconds_not_by_the_clock() -> None:
    found = limits(task("kind = 'work'"), BASELINE, is_candidate=True)

    assert allowed_cpu(task("kind = 'work'"), BASELINE) == pytest.approx(18.2)
    assert found.cpu == pytest.approx(1.25 * 18.2)
    assert found.wall == 240.0


def test_a_wall_budget_is_held_tightly_by_the_clock() -> None:
    found = limits(task("kind = 'wall'"), BASELINE, is_candidate=True)

    assert (found.wall, found.cpu) == (pytest.approx(1.15 * 12 + 0.2), None)


def test_a_baseline_that_ended_early_leaves_candidates_their_whole_budget() -> None:
    assert limits(task("kind = 'wall'\namount = 20"), BASELINE, is_candidate=True).wall == pytest.approx(23.2)
    assert limits(task("kind = 'wall'\namount = 10"), BASELINE, is_candidate=True).wall == pytest.approx(14.0)


@pytest.mark.parametrize(
    ("budget", "cost", "words"),
    [
        ("kind = 'work'", Cost(9.0, 0.44), "finished in 0.44 CPU s, the baseline needs 9: too fast to be believed"),
        ("kind = 'work'", Cost(0.1, 0.46), None),
        ("kind = 'wall'", Cost(0.5, 9.0), "finished in 0.5 s, the baseline needs 12"),
        ("kind = 'wall'", Cost(0.7, 0.0), None),
        ("[limits]\nfastest = 0", Cost(0.0, 0.0), None),
    ],
)
def test_too_fast_is_measured_against_the_baseline(budget: str, cost: Cost, words: str | None) -> None:
    found = too_fast(task(budget), BASELINE, cost)

    assert found is None if words is None else words in str(found)


def test_nothing_is_too_fast_before_the_baseline_or_beside_a_quick_one() -> None:
    assert too_fast(task(), [], Cost()) is None
    assert too_fast(task(), [Cost(0.5, 0.4)], Cost()) is None


def test_a_kept_tree_has_more_room_than_a_candidate() -> None:
    candidate, kept = (limits(task(), BASELINE, is_candidate=one) for one in (True, False))

    assert kept.cpu is not None
    assert candidate.cpu is not None
    assert kept.cpu == 2 * candidate.cpu


def test_data_is_shown_where_the_script_expects_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "corpus").mkdir()
    (tmp_path / "repo" / "data").mkdir(parents=True)
    asked = task(more=f"data = ['data', '~/corpus', '{tmp_path}/corpus']\n")

    assert mounts(asked, tmp_path / "repo", tmp_path / "slot") == {
        str(tmp_path / "slot" / "data"): str(tmp_path / "repo" / "data"),
        "~/corpus": str(tmp_path / "corpus"),
        f"{tmp_path}/corpus": str(tmp_path / "corpus"),
    }


def test_data_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadTask, match="'nowhere'"):
        mounts(task(more="data = ['nowhere']\n"), tmp_path, tmp_path)


def test_what_is_hidden_is_hidden_in_every_library_with_its_compiled_twins() -> None:
    found = hidden(["{stdlib}/turtle.py", "{stdlib}/asyncio"], sys.executable)

    home = Path(os.path.realpath(sysconfig.get_path("stdlib")))
    assert {home / "turtle.py", home / "asyncio"} <= set(found)
    assert all(twin in found for twin in home.glob("__pycache__/turtle.*"))
    others = [path for path in found if "turtle" not in path.name and path.name != "asyncio"]
    assert all((path / "os.py").exists() and path != home for path in others)  # other Pythons' libraries, hidden whole


def test_nothing_is_hidden_unless_the_task_says_so() -> None:
    assert hidden([], sys.executable) == ()
