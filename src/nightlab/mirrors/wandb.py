"""W&B: `wandb[:[ENTITY/]PROJECT]`; with WANDB_MODE=offline into files that `wandb sync` sends later."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from nightlab.mirrors.destination import reaching
from nightlab.mirrors.reading import Row, Subject


class Wandb:
    """A run at W&B. Online the server knows what it has; offline a session counts once it is closed."""

    def __init__(self, argument: str, subject: Subject, folder: Path) -> None:
        import wandb

        os.environ.setdefault("WANDB_INIT_TIMEOUT", "30")  # seconds; by itself it tries for longer
        self._errors = wandb.Error
        entity, _, project = argument.rpartition("/")
        settings = wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True, x_disable_stats=True)
        with reaching("wandb", self._errors):
            self._run = wandb.init(
                entity=entity or None,
                project=project or os.environ.get("WANDB_PROJECT", "nightlab"),
                id=subject.identity,
                name=subject.name,
                dir=folder,
                resume="allow",
                config=subject.facts,
                settings=settings,
            )
        self.session = str(self._run.settings.sync_dir) if self._run.offline else ""

    def first_missing(self, remembered: int) -> int:
        """Online the server says; offline there is nobody to ask."""
        return remembered if self._run.offline else self._run.step

    def log(self, rows: Sequence[Row]) -> None:
        """Hand rows to the client, which sends them in its own time."""
        with reaching("wandb", self._errors):
            for row in rows:
                self._run.log({"experiment": row.step, **row.numbers, **row.words}, step=row.step)

    def close(self, numbers: dict[str, float], words: dict[str, str]) -> None:
        """Set the summary and wait until all is sent, or on the disk."""
        with reaching("wandb", self._errors):
            self._run.summary.update({**numbers, **words})
            self._run.finish()


connect = Wandb
