"""trackio: `trackio[:PROJECT]`, into its own SQLite on this machine, or where its environment variables point."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from nightlab.mirrors.destination import reaching
from nightlab.mirrors.reading import Row, Subject

_ERRORS = (OSError, ValueError, sqlite3.Error)


class Trackio:
    """A run of a project; it knows the last step that it has."""

    session = ""

    def __init__(self, argument: str, subject: Subject, folder: Path) -> None:
        import trackio

        with reaching("trackio", *_ERRORS):
            self._run = trackio.init(
                project=argument or "nightlab",
                name=f"{subject.name}-{subject.identity}",
                resume="allow",
                config=subject.facts,
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self._step = 0

    def first_missing(self, remembered: int) -> int:
        """What its database says; a remote one that could not be asked says 0, and is not believed."""
        found = int(self._run._next_step)  # there is no public word for it
        return found if self._run._is_local else max(found, remembered)

    def log(self, rows: Sequence[Row]) -> None:
        """Hand rows to its thread."""
        for row in rows:
            self._run.log({**row.numbers, **row.words}, step=row.step)
            self._step = row.step

    def close(self, numbers: dict[str, float], words: dict[str, str]) -> None:
        """It has no summary: that is a row of its own at the last step."""
        with reaching("trackio", *_ERRORS):
            if numbers:
                self._run.log({**numbers, **words}, step=self._step)
            self._run.finish()


connect = Trackio
