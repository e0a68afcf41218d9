"""The live store: all that the lab and the service share; what is shown to whom, and how many did what.

The lab writes arms and splits and reads counts; the service writes exposures and outcomes. `open_store` takes a path
(SQLite: one machine) or a PostgreSQL address (several servers); both are the same tables and the same statements.

A unit is a visitor under a keyed hash: nothing here says who it is. A unit is assigned once and stays with its arm for
as long as the arm is in the split; when its arm has left, its next visit is drawn anew (its next `turn`). An outcome
belongs to the unit's latest turn at the time it happened, and counts once per turn and name, within the window.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

ArmStatus = Literal["waiting", "approved", "serving", "ended", "frozen", "rolled back"]
SendStatus = Literal["begun", "taken", "refused", "deferred"]
"""How a mail stands: `begun` and nothing else is not known to have gone, and may have."""
WORD = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
"""What an id, an event's name or a segment's value may be."""
EXPOSED = ""
"""The name under which exposures are counted among the outcomes."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for a layer for good: a unit's assignment hangs on it. Times are in seconds."""

    seed: str
    holdout: float = 0.05
    window: float = 168 * 3600.0
    segments: tuple[str, ...] = ()
    """What is kept of a visitor to tell audiences apart; anything else that is sent is not stored."""

    def segment(self, said: Mapping[str, object]) -> str:
        """What may be told apart, in one writing; unknown keys and odd values are dropped."""
        kept = [(key, value) for key in self.segments if isinstance(value := said.get(key), str)]
        return ";".join(f"{key}={value}" for key, value in kept if WORD.fullmatch(value))


@dataclass(frozen=True, slots=True)
class Arm:
    """One version of the copy, under its experiment's number; 0 is the start."""

    number: int
    parent: int | None
    content: Mapping[str, str]
    hash: str
    status: ArmStatus = "waiting"
    reason: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Split:
    """Which arms new units may get, and how large a part of them each gets. A change makes a new version."""

    version: int
    weights: Mapping[int, float]
    champion: int
    at: float = 0.0

    def is_live(self, arm: int) -> bool:
        """Whether an arm is shown to anybody under this split."""
        return self.weights.get(arm, 0.0) > 0


@dataclass(frozen=True, slots=True)
class Exposure:
    """One unit was shown one arm: counted when it was rendered, under the split it was drawn from."""

    unit: bytes
    arm: int
    split: int
    segment: str = ""
    holdout: bool = False
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Something a unit did. The same id is counted once, however often it is sent; `at` is when it happened."""

    id: str
    unit: bytes
    name: str
    value: float = 0.0
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Side:
    """How many units were shown something, and how many of them then did it within the window."""

    exposed: int = 0
    converted: int = 0

    def __add__(self, other: Side) -> Side:
        return Side(self.exposed + other.exposed, self.converted + other.converted)


@dataclass(frozen=True, slots=True)
class Counts:
    """Two arms under one split. `share` is the candidate's part of the two when the units were assigned."""

    split: int
    share: float
    candidate: Side
    other: Side


@dataclass(frozen=True, slots=True)
class Total:
    """One cell of everything that was counted."""

    split: int
    arm: int
    holdout: bool
    segment: str
    side: Side


@dataclass(frozen=True, slots=True)
class Value:
    """What one unit's outcomes of a name came to within the window; units with nothing are not listed."""

    split: int
    arm: int
    value: float


@dataclass(frozen=True, slots=True)
class Note:
    """One line of what was said: a claim, an insight, an expiry. Never changed, only followed by another."""

    seq: int
    kind: str
    body: Mapping[str, Any] = field(default_factory=dict)
    at: float = 0.0


class Store(Protocol):
    """What lab and service share, for one layer: one place where people are shown something."""

    # The lab's side

    def begin(self, rules: Rules) -> Rules:
        """The rules in force: these, or those with which the layer began."""

    def rules(self) -> Rules | None:
        """The rules in force; None: nobody has begun."""

    def put_arm(self, arm: Arm) -> None:
        """Write an arm down; the same number again changes its status and reason, never its content."""

    def arms(self) -> list[Arm]:
        """All arms, by number."""

    def arm(self, number: int) -> Arm:
        """One arm. Raises NotFound."""

    def set_status(self, number: int, status: ArmStatus, reason: str = "") -> None:
        """Say how an arm stands, and why. Raises NotFound."""

    def put_split(self, weights: Mapping[int, float], champion: int) -> Split:
        """What new units get from now on; the service has it within half a second."""

    def split(self) -> Split | None:
        """The split in force; None: nothing is shown yet."""

    def splits(self) -> list[Split]:
        """All splits there were, oldest first."""

    def counts(self, candidate: int, other: int, outcome: str, *, segment: str | None = None) -> list[Counts]:
        """Two arms under every split that had both; those held out are not in it."""

    def totals(self, outcome: str, *, since: float = 0.0) -> list[Total]:
        """Everything counted since a moment, to the hour: by split, arm, holdout and segment."""

    def holdout(self, outcome: str, *, since: float = 0.0) -> tuple[Side, Side]:
        """Those held out for good, and everybody else: units first seen since a moment, and what they did after."""

    def values(self, candidate: int, other: int, outcome: str) -> list[Value]:
        """What units of two arms spent, where it was not 0; how many there were is in `counts`."""

    def apart(self) -> dict[str, int]:
        """What was refused or counted apart, by reason."""

    def note(self, kind: str, body: Mapping[str, Any]) -> None:
        """Add to what is known."""

    def notes(self, kind: str | None = None) -> list[Note]:
        """What is known, oldest first."""

    # The service's side

    def record(
        self,
        exposures: Sequence[Exposure] = (),
        outcomes: Sequence[Outcome] = (),
        apart: Mapping[str, int] | None = None,
    ) -> list[Exposure]:
        """Write all of it or nothing, and return when it is safe on the disk.

        Returns for each exposure the one that holds: what the unit was shown before, where that is still shown.
        """

    def assigned(self, units: Iterable[bytes]) -> dict[bytes, Exposure]:
        """The latest exposure of each unit that had one."""

    def begin_send(self, mailing: str, unit: bytes) -> bool:
        """Whether one may write to a unit now, for this mailing: nobody has begun to. Durable when it returns."""

    def settle_send(self, mailing: str, unit: bytes, status: SendStatus) -> None:
        """What became of a mail that was begun; a deferred one may be begun again."""

    def sends(self, mailing: str) -> dict[bytes, SendStatus]:
        """Whom a mailing was begun to be sent to, and what became of it."""

    def suppress(self, address: bytes) -> None:
        """Never write to this address again, in no layer of this store."""

    def is_suppressed(self, address: bytes) -> bool:
        """Whether this address has asked to be left alone."""

    def close(self) -> None:
        """Let go of it."""


def open_store(where: str | Path, layer: str = "main") -> Store:
    """The store at a path, or at a postgresql:// address; made where there is none.

    Raises BadPlugin where psycopg is missing, BadLedger where the place is not ours or cannot be reached.
    """
    from nightlab.live.tables import Tables

    if isinstance(where, str) and where.startswith(("postgresql://", "postgres://")):
        from nightlab.live.postgres import Postgres

        return Tables(Postgres(where), layer)
    from nightlab.live.sqlite import Sqlite

    return Tables(Sqlite(Path(where)), layer)
