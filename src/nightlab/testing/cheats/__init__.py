"""The adversarial suite: proposals that want a better number without a better program, and what stops each.

A cheat is data: what it tries, which files it proposes, what is to become of it and by what mechanism. The task it is
aimed at is small and real: `tinylm` at level `predictions`, a script that prints its own loss at level `printed`.
"""

from __future__ import annotations

from nightlab.testing.cheats.cheat import BELIEVED, HARMLESS, Cheat, Level, Observer, PatientObserver
from nightlab.testing.cheats.predictions import CHEATS as PREDICTIONS
from nightlab.testing.cheats.printed import CHEATS as PRINTED
from nightlab.testing.cheats.printed import TASK as PRINTED_TASK

SUITE: tuple[Cheat, ...] = (*PREDICTIONS, *PRINTED)

__all__ = ["BELIEVED", "HARMLESS", "PRINTED_TASK", "SUITE", "Cheat", "Level", "Observer", "PatientObserver"]
