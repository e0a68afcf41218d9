"""What any evaluator must hold to. Subclass, override the fixtures, and pytest does the rest."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from pathlib import Path

import pytest

from nightlab.errors import Invalid
from nightlab.evaluator import Evaluator
from nightlab.values import Job, Run

Finished = Callable[[str], tuple[Run, Job]]
"""Makes a finished run: 'honest', 'silent' (no result at all) or 'absurd' (a result that is no finite number)."""


class EvaluatorContract:
    """Tests that any evaluator passes. Override `evaluator` and `finished`."""

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        """The evaluator under test."""
        raise NotImplementedError("override the fixture `evaluator`")

    @pytest.fixture
    def finished(self, tmp_path: Path) -> Finished:
        """How to make finished runs for it."""
        raise NotImplementedError("override the fixture `finished`")

    def test_it_is_an_evaluator(self, evaluator: Evaluator) -> None:
        """Both methods are there."""
        assert isinstance(evaluator, Evaluator)

    def test_an_honest_run_gets_a_finite_number(self, evaluator: Evaluator, finished: Finished) -> None:
        """The same run with the same seed gets the same number again."""
        run, job = finished("honest")
        first, second = evaluator.evaluate(run, job, seed=5), evaluator.evaluate(run, job, seed=5)
        assert isfinite(first.value)
        assert first.value == second.value

    def test_a_run_without_a_result_is_invalid_with_a_reason(self, evaluator: Evaluator, finished: Finished) -> None:
        """Never zero, never infinity."""
        run, job = finished("silent")
        with pytest.raises(Invalid, match=r"\w+"):
            evaluator.evaluate(run, job, seed=5)

    def test_a_number_that_is_none_is_invalid(self, evaluator: Evaluator, finished: Finished) -> None:
        """What is not finite is not a result."""
        run, job = finished("absurd")
        with pytest.raises(Invalid, match=r"\w+"):
            evaluator.evaluate(run, job, seed=5)
