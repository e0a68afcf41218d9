"""What every executor must do: subclass ExecutorContract, override `executor`, and let pytest collect it."""

# ruff: noqa: D102 - the name of a test is its sentence

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path

import pytest

from nightlab.errors import StudyBusy
from nightlab.executor import Executor
from nightlab.values import Job, Limits, Outcome, Run

PATIENCE = 30.0
"""Seconds a run of this contract may take on the slowest executor."""
_LIMITS = Limits(wall=PATIENCE)


def shell_job(folder: Path, script: str, *, name: str = "run-1", limits: Limits = _LIMITS) -> Job:
    """A job that runs a shell script in a fresh tree below this folder."""
    tree = folder / "worktrees" / name
    tree.mkdir(parents=True, exist_ok=True)
    return Job(
        id=name,
        argv=("sh", "-c", script),
        tree=tree,
        folder=folder / "runs" / name,
        token=f"{name}.0",
        env={"NIGHTLAB_SEED": "7"},
        limits=limits,
    )


class ExecutorContract:
    """The promises of the Executor protocol, each as a test."""

    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        """The executor under test, closed afterwards."""
        raise NotImplementedError("override the fixture `executor`")

    def _run(self, executor: Executor, job: Job) -> Run:
        return executor.submit(job).result(timeout=PATIENCE)

    def test_it_has_at_least_one_slot(self, executor: Executor) -> None:
        assert executor.slots >= 1

    def test_a_run_that_ends_well_is_finished(self, executor: Executor, tmp_path: Path) -> None:
        run = self._run(executor, shell_job(tmp_path, "echo hello"))

        assert (run.id, run.outcome, run.exit_code, run.log()) == ("run-1", Outcome.FINISHED, 0, "hello\n")
        assert run.cost.seconds > 0

    def test_what_a_run_does_to_its_tree_is_seen(self, executor: Executor, tmp_path: Path) -> None:
        job = shell_job(tmp_path, "rm old; echo new > sub/made; echo more >> given; ln -s given link")
        (job.tree / "sub").mkdir()
        for name in ("old", "given", "same"):
            (job.tree / name).write_text(f"{name}\n")

        self._run(executor, job)

        assert sorted(path.name for path in job.tree.iterdir()) == ["given", "link", "same", "sub"]
        assert (job.tree / "sub" / "made").read_text() == "new\n"
        assert (job.tree / "link").read_text() == "given\nmore\n"

    def test_a_run_reads_and_writes_the_folders_it_is_given(self, executor: Executor, tmp_path: Path) -> None:
        asked, answers = tmp_path / "asked", tmp_path / "answers"
        asked.mkdir()
        answers.mkdir()
        (asked / "question").write_text("6 * 7\n")
        job = shell_job(tmp_path, 'echo $(($(cat "$ASKED/question"))) > "$ANSWERS/answer"')
        job = replace(job, env={"ASKED": str(asked), "ANSWERS": str(answers)}, readable=(asked,), writable=(answers,))

        run = self._run(executor, job)

        assert (run.outcome, (answers / "answer").read_text()) == (Outcome.FINISHED, "42\n")

    def test_another_exit_code_is_a_crash(self, executor: Executor, tmp_path: Path) -> None:
        run = self._run(executor, shell_job(tmp_path, "echo oh no >&2; exit 3"))

        assert (run.outcome, run.exit_code, run.reason) == (Outcome.CRASHED, 3, "exit code 3")
        assert run.log() == "oh no\n"

    def test_a_run_works_in_its_tree_and_writes_to_out(self, executor: Executor, tmp_path: Path) -> None:
        job = shell_job(tmp_path, 'cat given; basename "$(pwd)"; echo $NIGHTLAB_SEED > "$NIGHTLAB_OUT/seed"')
        (job.tree / "given").write_text("from the tree\n")

        run = self._run(executor, job)

        assert run.log() == f"from the tree\n{job.tree.name}\n"
        assert (run.out / "seed").read_text() == "7\n"

    def test_nothing_of_an_earlier_attempt_is_left_in_out(self, executor: Executor, tmp_path: Path) -> None:
        job = shell_job(tmp_path, 'ls "$NIGHTLAB_OUT"; touch "$NIGHTLAB_OUT/artifact"')

        self._run(executor, job)
        again = self._run(executor, replace(job, token="run-1.1"))

        assert again.log() == ""

    def test_a_run_over_its_wall_limit_is_a_timeout(self, executor: Executor, tmp_path: Path) -> None:
        run = self._run(executor, shell_job(tmp_path, "sleep 60", limits=Limits(wall=0.2)))

        assert (run.outcome, run.reason) == (Outcome.TIMEOUT, "ran longer than 0.2 s")

    def test_a_killed_run_says_so(self, executor: Executor, tmp_path: Path) -> None:
        job = shell_job(tmp_path, "sleep 60")
        future = executor.submit(job)
        time.sleep(1.0)  # by now it runs, most often; whether it does must make no difference

        executor.kill(job.id)

        assert future.result(timeout=PATIENCE).outcome is Outcome.KILLED

    def test_a_run_can_be_killed_before_it_has_begun(self, executor: Executor, tmp_path: Path) -> None:
        job = shell_job(tmp_path, "sleep 60")
        future = executor.submit(job)

        executor.kill(job.id)

        assert future.result(timeout=PATIENCE).outcome is Outcome.KILLED

    def test_killing_what_does_not_run_changes_nothing(self, executor: Executor, tmp_path: Path) -> None:
        run = self._run(executor, shell_job(tmp_path, "true"))

        executor.kill("run-1")
        executor.kill("never heard of")

        assert run.outcome is Outcome.FINISHED

    def test_runs_do_not_wait_for_each_other_up_to_the_slots(self, executor: Executor, tmp_path: Path) -> None:
        jobs = [shell_job(tmp_path, f"echo {n}", name=f"run-{n}") for n in range(executor.slots)]

        futures: list[Future[Run]] = [executor.submit(job) for job in jobs]
        wait(futures, timeout=PATIENCE)

        assert [future.result().log() for future in futures] == [f"{n}\n" for n in range(executor.slots)]

    def test_a_folder_in_use_is_refused(self, executor: Executor, tmp_path: Path) -> None:
        job = shell_job(tmp_path, "sleep 60")
        future = executor.submit(job)

        with pytest.raises(StudyBusy):
            executor.submit(job)

        executor.kill(job.id)
        assert future.result(timeout=PATIENCE).outcome is Outcome.KILLED

    def test_a_finished_run_is_recovered(self, executor: Executor, tmp_path: Path) -> None:
        job = shell_job(tmp_path, "echo 0.5; exit 4")

        run = self._run(executor, job)

        assert executor.recover(job) == run

    def test_a_job_that_never_ran_is_not_recovered(self, executor: Executor, tmp_path: Path) -> None:
        assert executor.recover(shell_job(tmp_path, "true")) is None

    def test_the_result_of_another_attempt_is_not_recovered(self, executor: Executor, tmp_path: Path) -> None:
        job = shell_job(tmp_path, "true")

        self._run(executor, job)

        assert executor.recover(replace(job, token="run-1.1")) is None

    def test_a_killed_run_is_not_recovered(self, executor: Executor, tmp_path: Path) -> None:
        job = shell_job(tmp_path, "sleep 60")
        future = executor.submit(job)
        executor.kill(job.id)
        future.result(timeout=PATIENCE)

        assert executor.recover(job) is None

    def test_recovering_waits_for_a_run_that_goes_on(self, executor: Executor, tmp_path: Path) -> None:
        job = shell_job(tmp_path, "sleep 0.3; echo done")
        future = executor.submit(job)

        recovered = executor.recover(job)

        assert recovered is not None
        assert recovered.log() == "done\n"
        assert recovered == future.result(timeout=PATIENCE)

    def test_closing_ends_what_runs_and_may_be_repeated(self, executor: Executor, tmp_path: Path) -> None:
        future = executor.submit(shell_job(tmp_path, "sleep 60"))

        executor.close()
        executor.close()

        assert future.result(timeout=PATIENCE).outcome is Outcome.KILLED
