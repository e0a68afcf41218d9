"""The live evaluator: what visitors said of a version, read from what the executor left of its run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from nightlab.errors import Invalid
from nightlab.judge import Part
from nightlab.values import Contrast, Job, Measurement, Run

LEFT = "live.json"
"""What a run leaves in its `out` folder."""
_SECONDARY = ("exposed", "converted", "other_exposed", "other_converted", "better", "worse", "ratio", "hours")


@dataclass(frozen=True, slots=True)
class LiveEvaluator:
    """Reads the counts that a live run ended with. No code of the candidate's had a part in them."""

    def prepare(self, job: Job, *, seed: int, budget: float | None) -> Job:
        """Nothing to give: what is shown lies in the tree."""
        return job

    def evaluate(self, run: Run, job: Job, *, seed: int, part: Part = "data") -> Measurement:
        """The candidate's rate, and its contrast to the champion. Raises Invalid where it was not, or may not be."""
        told = left_by(run)
        if told.get("invalid"):
            raise Invalid(str(told["invalid"]))
        if not told["exposed"]:
            raise Invalid("nobody was shown it; is the service running? nightlab live serve")
        secondary = {name: float(told[name]) for name in _SECONDARY if told.get(name) is not None}
        contrast = None if told.get("contrast") is None else Contrast(**told["contrast"])
        return Measurement(told["converted"] / told["exposed"], secondary=secondary, contrast=contrast)


def left_by(run: Run) -> dict[str, Any]:
    """What the executor wrote down at the end of a run. Raises Invalid where that is gone."""
    try:
        found: dict[str, Any] = json.loads((run.out / LEFT).read_text())
    except (OSError, ValueError) as error:
        raise Invalid(f"what visitors said of it cannot be read back ({error})") from error
    return found
