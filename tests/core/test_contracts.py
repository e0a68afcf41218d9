"""Our own proposers and evaluators pass the contracts that strangers' do. (Executors: test_executor.py.)"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nightlab import plugins
from nightlab.errors import Invalid
from nightlab.evaluator import Predictions, Printed
from nightlab.executor import LocalExecutor
from nightlab.judge import Judge
from nightlab.proposer import Proposer, Scripted, Unchanged
from nightlab.testing.evaluator_contract import EvaluatorContract, Finished
from nightlab.testing.proposer_contract import ProposerContract
from nightlab.values import Job, Outcome, Proposal, Run


class TestScripted(ProposerContract):
    @pytest.fixture
    def proposer(self) -> Proposer:
        return Scripted([Proposal("an idea", {"train.py": "x = 1\n"})])

    def test_it_does_not_repeat_what_was_tried(self) -> None:
        """A script does what it says, also twice; the loop rejects the repeat."""


class TestUnchanged(ProposerContract):
    @pytest.fixture
    def proposer(self) -> Proposer:
        return Unchanged()


class TestTuner(ProposerContract):
    @pytest.fixture(params=range(4))
    def proposer(self, request: pytest.FixtureRequest) -> Proposer:
        return plugins.proposers("tuner")[request.param]


class TestPrinted(EvaluatorContract):
    @pytest.fixture
    def evaluator(self) -> Printed:
        return Printed("score", (0.0, 10.0))

    @pytest.fixture
    def finished(self, tmp_path: Path) -> Finished:
        said = {"honest": "step 1\nscore: 3.5\n", "silent": "done\n", "absurd": "score: inf\n"}

        def make(kind: str) -> tuple[Run, Job]:
            (tmp_path / "log").write_text(said[kind])
            return Run("r", Outcome.FINISHED, "exit code 0", tmp_path), Job("r", (), tmp_path, tmp_path, "t")

        return make


JUDGE = """\
import json, os, pathlib, sys
verb, folder = sys.argv[1], pathlib.Path(sys.argv[2])
if verb == "ask":
    (folder / "x").write_text(os.environ["NIGHTLAB_SEED"])
elif verb == "score":
    said = folder / "y"
    if not said.exists():
        sys.exit("invalid: there are no predictions")
    print(json.dumps({"value": float(said.read_text()), "secondary": {"examples": 1}}))
"""
PREDICT = """\
import os, pathlib
kind = (pathlib.Path(os.environ["NIGHTLAB_OUT"]) / "kind").read_text()
inputs, answers = (pathlib.Path(os.environ[name]) for name in ("NIGHTLAB_INPUTS", "NIGHTLAB_PREDICTIONS"))
assert (inputs / "x").read_text() == "5"
if kind == "link":
    (answers / "y").symlink_to(os.environ["HOME"])
elif kind == "pipe":
    os.mkfifo(answers / "y")
elif kind != "silent":
    (answers / "y").write_text({"honest": "0.25", "absurd": "nan"}[kind])
"""


class TestPredictions(EvaluatorContract):
    @pytest.fixture
    def evaluator(self, tmp_path: Path) -> Predictions:
        (tmp_path / "judge").mkdir()
        (tmp_path / "judge" / "judge.py").write_text(JUDGE)
        executor = LocalExecutor()
        return Predictions(
            judge=Judge(
                command=("python3", "judge.py"),
                home=tmp_path / "judge",
                cache=tmp_path,
                parts={"data": "validation", "sealed": "sealed"},
            ),
            predict=("python3", "predict.py"),
            metric="score",
            launch=lambda job: executor.submit(job).result(),
        )

    @pytest.fixture
    def finished(self, tmp_path: Path) -> Finished:
        def make(kind: str) -> tuple[Run, Job]:
            tree, folder = tmp_path / "tree", tmp_path / "run"
            tree.mkdir()
            (folder / "out").mkdir(parents=True)
            (tree / "predict.py").write_text(PREDICT)
            (folder / "out" / "kind").write_text(kind)
            return Run("r", Outcome.FINISHED, "exit code 0", folder), Job("r", ("true",), tree, folder, "t")

        return make

    @pytest.mark.parametrize("kind", ["link", "pipe"])
    def test_the_judge_is_not_led_away_by_what_a_run_left(
        self, evaluator: Predictions, finished: Finished, kind: str
    ) -> None:
        with pytest.raises(Invalid, match="no plain file: y"):
            evaluator.evaluate(*finished(kind), seed=5)

    def test_the_judge_gives_before_the_run_and_only_that_is_readable(
        self, evaluator: Predictions, finished: Finished
    ) -> None:
        _, job = finished("honest")
        prepared = evaluator.prepare(replace(job, folder=job.folder / "next"), seed=1, budget=10.0)

        assert prepared.env["NIGHTLAB_GIVEN"] == str(prepared.readable[0])
        assert not any(str(evaluator.judge.home).startswith(str(path)) for path in prepared.readable)
