"""What of a machine a slot has: whole cards, and cores for itself where the clock is the budget."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nightlab import facts, plugins
from nightlab.errors import BadPlugin, NightlabError
from nightlab.executor import LocalExecutor, Share, shares
from nightlab.testing.executor_contract import shell_job
from nightlab.values import Outcome

CARDS = [(f"GPU-{n}", "NVIDIA H100") for n in range(4)]


def test_eight_slots_share_four_cards_and_one_slot_has_all() -> None:
    eight = shares(8, exclusive=False, cores=range(8), cards=CARDS)
    one = shares(1, exclusive=False, cores=range(8), cards=CARDS)
    two = shares(2, exclusive=False, cores=range(8), cards=CARDS)

    assert [share.env["CUDA_VISIBLE_DEVICES"] for share in eight] == [f"GPU-{n % 4}" for n in range(8)]
    assert one[0].env == {"CUDA_VISIBLE_DEVICES": "GPU-0,GPU-1,GPU-2,GPU-3"}
    assert [share.env["CUDA_VISIBLE_DEVICES"] for share in two] == ["GPU-0,GPU-1", "GPU-2,GPU-3"]


def test_an_exclusive_slot_has_cores_and_a_card_that_no_other_has() -> None:
    found = shares(3, exclusive=True, cores=range(8), cards=CARDS)

    assert [share.cores for share in found] == [(0, 1), (2, 3, 4), (5, 6, 7)]
    assert not set(found[0].cards) & set(found[1].cards)
    assert found[0].machine == {"gpus": ["NVIDIA H100"], "cores": 2}


@pytest.mark.parametrize(("slots", "cards"), [(9, []), (5, CARDS)])
def test_more_slots_than_can_be_timed_apart_are_refused(slots: int, cards: list[tuple[str, str]]) -> None:
    with pytest.raises(NightlabError, match="--workers"):
        shares(slots, exclusive=True, cores=range(8), cards=cards)


def test_a_timed_run_has_its_cores_alone_and_the_next_waits(tmp_path: Path) -> None:
    executor = LocalExecutor(1, exclusive=True)
    cores = sorted(os.sched_getaffinity(0))
    words = "python3 -c 'import os; print(sorted(os.sched_getaffinity(0)))'; date +%s%N; sleep 0.3; date +%s%N"

    futures = [executor.submit(shell_job(tmp_path, words, name=f"run-{n}")) for n in range(3)]
    runs = [future.result(timeout=30) for future in futures]
    executor.close()

    seen = [run.log().splitlines() for run in runs]
    assert [lines[0] for lines in seen] == [str(cores)] * 3
    assert int(seen[0][2]) < int(seen[1][1])
    assert int(seen[1][2]) < int(seen[2][1])


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two slots need two cores")
def test_timed_runs_side_by_side_are_on_different_cores_and_say_so(tmp_path: Path) -> None:
    executor = LocalExecutor(2, exclusive=True)
    words = "python3 -c 'import os; print(*os.sched_getaffinity(0))'; sleep 0.3"
    jobs = [shell_job(tmp_path, words, name=f"run-{n}") for n in range(2)]

    runs = [future.result(timeout=30) for future in [executor.submit(job) for job in jobs]]
    executor.close()

    one, two = ({int(core) for core in run.log().split()} for run in runs)
    assert not one & two
    assert facts.machine_of(jobs[0].folder)["cores"] == len(one)


def test_a_timed_run_that_waits_can_be_killed_and_is_when_all_ends(tmp_path: Path) -> None:
    executor = LocalExecutor(1, exclusive=True)
    futures = [executor.submit(shell_job(tmp_path, "sleep 60", name=f"run-{n}")) for n in range(3)]

    executor.kill("run-1")
    waiting = futures[1].result(timeout=10)
    executor.close()

    assert (waiting.outcome, waiting.reason) == (Outcome.KILLED, "killed before it had begun")
    assert all(future.result(timeout=10).outcome is Outcome.KILLED for future in futures)


def test_a_share_that_was_dealt_elsewhere_is_not_pinned() -> None:
    assert Share(count=3).env["OMP_NUM_THREADS"] == "3"
    assert Share(count=3).machine == {"cores": 3}


def test_an_executor_is_found_by_its_name_with_options_of_its_own(tmp_path: Path) -> None:
    found = plugins.executor("nightlab.executor:LocalExecutor", {"slots": 3, "unknown": 1}, {})

    assert found.slots == 3


def test_an_option_that_an_executor_does_not_take_is_refused() -> None:
    with pytest.raises(BadPlugin, match="takes no --address"):
        plugins.executor("local", {"slots": 1}, {"address": "here:6379"})
    with pytest.raises(BadPlugin, match="no executor is called 'kubernetes'; there are: live, local, ray, slurm"):
        plugins.executor("kubernetes", {}, {})
