"""MLflow: `mlflow[:TRACKING_URI]`, else what MLFLOW_TRACKING_URI says."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nightlab.mirrors.destination import reaching
from nightlab.mirrors.reading import Row, Subject

_IDENTITY = "nightlab.study"
_STEP = "experiment"
_LONGEST = 500


class Mlflow:
    """A run of the experiment `nightlab`; it is asked for the last step that it has."""

    session = ""

    def __init__(self, argument: str, subject: Subject, folder: Path) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # by itself it tries for minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient, MlflowException
        from mlflow.entities import Param

        self._errors = (MlflowException, OSError)
        with reaching("mlflow", *self._errors):
            self._client = MlflowClient(tracking_uri=argument or None)
            self._run = self._found(subject)
            self._id = self._run.info.run_id
            self._client.update_run(self._id, status="RUNNING")
            self._client.log_batch(self._id, params=[Param(*one) for one in subject.facts.items()])
        self._last = int(self._run.data.metrics.get(_STEP, -1))

    def _found(self, subject: Subject) -> Any:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "nightlab")
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        runs = self._client.search_runs([experiment], f"tags.`{_IDENTITY}` = '{subject.identity}'")
        if runs:
            return runs[0]
        return self._client.create_run(experiment, run_name=subject.name, tags={_IDENTITY: subject.identity})

    def first_missing(self, remembered: int) -> int:
        """The step after the last that it has; a request is taken whole or not at all."""
        return self._last + 1

    def log(self, rows: Sequence[Row]) -> None:
        """Metrics for all, and a tag with the hypothesis for what was kept."""
        from mlflow.entities import Metric, RunTag

        metrics = [
            Metric(name, value, int(1000 * row.at), row.step)
            for row in rows
            for name, value in (*row.numbers.items(), (_STEP, float(row.step)))
        ]
        kept = [row for row in rows if row.numbers["kept"]]
        tags = [RunTag(f"kept {row.step}", row.words["hypothesis"][:_LONGEST]) for row in kept]
        with reaching("mlflow", *self._errors):
            self._client.log_batch(self._id, metrics=metrics, tags=tags)
        self._last = rows[-1].step

    def close(self, numbers: dict[str, float], words: dict[str, str]) -> None:
        """The summary as metrics and tags, and the run at its end."""
        from mlflow.entities import Metric, RunTag

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, max(self._last, 0)) for name, value in numbers.items()]
        tags = [RunTag(name, text[:_LONGEST]) for name, text in words.items() if text]
        with reaching("mlflow", *self._errors):
            self._client.log_batch(self._id, metrics=metrics, tags=tags)
            self._client.set_terminated(self._id)


connect = Mlflow
