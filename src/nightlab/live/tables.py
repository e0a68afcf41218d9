"""The live store's tables: the same statements over SQLite and PostgreSQL, one writer at a time; counted as it comes.

arms, splits      what the lab has said
exposures         one row per unit and turn
outcomes          one row per event id; what was replayed finds its id there
firsts            what a turn has already been counted for, with the sum of its values
tallies           counts by split, arm, holdout, segment, name and hour: results never read events
cohorts           counts by the hour a unit was first seen, held out or not
apart             what was refused, by reason
notes             claims and insights
sends             one row per mailing and unit: written before a mail goes out
unsubscribed      addresses that asked to be left alone, whatever the layer
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any, Protocol

from nightlab.errors import NotFound
from nightlab.live.store import (
    EXPOSED,
    Arm,
    ArmStatus,
    Counts,
    Exposure,
    Note,
    Outcome,
    Rules,
    SendStatus,
    Side,
    Split,
    Total,
    Value,
)
from nightlab.values import Clock

_SCHEMA = """
CREATE TABLE IF NOT EXISTS layers (layer TEXT PRIMARY KEY, rules TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS arms (
    layer TEXT NOT NULL, number INTEGER NOT NULL, parent INTEGER, content TEXT NOT NULL, hash TEXT NOT NULL,
    status TEXT NOT NULL, reason TEXT NOT NULL, at DOUBLE PRECISION NOT NULL, PRIMARY KEY (layer, number));
CREATE TABLE IF NOT EXISTS splits (
    layer TEXT NOT NULL, version INTEGER NOT NULL, weights TEXT NOT NULL, champion INTEGER NOT NULL,
    at DOUBLE PRECISION NOT NULL, PRIMARY KEY (layer, version));
CREATE TABLE IF NOT EXISTS exposures (
    layer TEXT NOT NULL, unit {blob} NOT NULL, turn INTEGER NOT NULL, arm INTEGER NOT NULL, split INTEGER NOT NULL,
    segment TEXT NOT NULL, holdout INTEGER NOT NULL, at DOUBLE PRECISION NOT NULL, PRIMARY KEY (layer, unit, turn));
CREATE TABLE IF NOT EXISTS outcomes (
    layer TEXT NOT NULL, id TEXT NOT NULL, unit {blob} NOT NULL, name TEXT NOT NULL, value DOUBLE PRECISION NOT NULL,
    at DOUBLE PRECISION NOT NULL, PRIMARY KEY (layer, id));
CREATE INDEX IF NOT EXISTS outcomes_unit ON outcomes (layer, unit);
CREATE TABLE IF NOT EXISTS firsts (
    layer TEXT NOT NULL, unit {blob} NOT NULL, turn INTEGER NOT NULL, name TEXT NOT NULL,
    value DOUBLE PRECISION NOT NULL, PRIMARY KEY (layer, unit, turn, name));
CREATE INDEX IF NOT EXISTS firsts_value ON firsts (layer, name) WHERE value <> 0;
CREATE TABLE IF NOT EXISTS tallies (
    layer TEXT NOT NULL, split INTEGER NOT NULL, arm INTEGER NOT NULL, holdout INTEGER NOT NULL, segment TEXT NOT NULL,
    name TEXT NOT NULL, hour INTEGER NOT NULL, n BIGINT NOT NULL,
    PRIMARY KEY (layer, split, arm, holdout, segment, name, hour));
CREATE TABLE IF NOT EXISTS cohorts (
    layer TEXT NOT NULL, holdout INTEGER NOT NULL, name TEXT NOT NULL, hour INTEGER NOT NULL, n BIGINT NOT NULL,
    PRIMARY KEY (layer, holdout, name, hour));
CREATE TABLE IF NOT EXISTS apart (
    layer TEXT NOT NULL, reason TEXT NOT NULL, n BIGINT NOT NULL, PRIMARY KEY (layer, reason));
CREATE TABLE IF NOT EXISTS notes (
    seq {serial}, layer TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL, at DOUBLE PRECISION NOT NULL);
CREATE TABLE IF NOT EXISTS sends (
    layer TEXT NOT NULL, mailing TEXT NOT NULL, unit {blob} NOT NULL, status TEXT NOT NULL,
    at DOUBLE PRECISION NOT NULL, PRIMARY KEY (layer, mailing, unit));
CREATE TABLE IF NOT EXISTS unsubscribed (address {blob} PRIMARY KEY);
"""
_FIRST_EVER = -1
"""The turn under which `firsts` keeps what a unit did since it was first seen, whatever it was shown later."""


class Database(Protocol):
    """A place for tables: what differs between SQLite and PostgreSQL."""

    name: str
    blob: str
    serial: str

    def writing(self, layer: str) -> AbstractContextManager[None]:
        """A transaction that other writers wait for."""

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """What a statement finds."""

    def among(self, statement: str, keys: Sequence[Any], *values: Any) -> list[Any]:
        """What a statement finds where AMONG a list of keys."""

    def do(self, statement: str, *values: Any) -> None:
        """Carry a statement out."""

    def each(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Carry a statement out for each row."""

    def close(self) -> None:
        """Let go of it."""


class Tables:
    """A live store over a database, for one layer."""

    def __init__(self, database: Database, layer: str = "main", *, clock: Clock = time.time) -> None:
        self._db, self.layer, self._clock = database, layer, clock
        self._weights: dict[int, Mapping[int, float]] = {}
        self._kept: Rules | None = None
        with database.writing(layer):
            for statement in _SCHEMA.format(blob=database.blob, serial=database.serial).split(";\n"):
                if statement.strip():
                    database.do(statement)

    def close(self) -> None:
        """Let go of it."""
        self._db.close()

    # The lab's side

    def begin(self, rules: Rules) -> Rules:
        """The rules in force: these, or those with which the layer began."""
        with self._db.writing(self.layer):
            self._db.do(
                "INSERT INTO layers VALUES (?, ?) ON CONFLICT (layer) DO NOTHING", self.layer, json.dumps(asdict(rules))
            )
        return self.rules() or rules

    def rules(self) -> Rules | None:
        """The rules in force; None: nobody has begun."""
        if self._kept is None:
            for (text,) in self._db.rows("SELECT rules FROM layers WHERE layer = ?", self.layer):
                said = json.loads(text)
                self._kept = Rules(**{**said, "segments": tuple(said["segments"])})
        return self._kept

    def put_arm(self, arm: Arm) -> None:
        """Write an arm down; the same number again changes its status and reason, never its content."""
        with self._db.writing(self.layer):
            self._db.do(
                "INSERT INTO arms VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (layer, number) DO UPDATE "
                "SET status = excluded.status, reason = excluded.reason",
                *(self.layer, arm.number, arm.parent, json.dumps(dict(arm.content)), arm.hash, arm.status, arm.reason),
                arm.at or self._clock(),
            )

    def arms(self) -> list[Arm]:
        """All arms, by number."""
        found = self._db.rows(f"{_ARMS} WHERE layer = ? ORDER BY number", self.layer)
        return [_arm(row) for row in found]

    def arm(self, number: int) -> Arm:
        """One arm. Raises NotFound."""
        for row in self._db.rows(f"{_ARMS} WHERE layer = ? AND number = ?", self.layer, number):
            return _arm(row)
        raise NotFound(f"there is no arm {number} in {self.layer!r}; those there are: nightlab live results")

    def set_status(self, number: int, status: ArmStatus, reason: str = "") -> None:
        """Say how an arm stands, and why. Raises NotFound."""
        self.arm(number)
        with self._db.writing(self.layer):
            self._db.do(
                "UPDATE arms SET status = ?, reason = ? WHERE layer = ? AND number = ?",
                *(status, reason, self.layer, number),
            )

    def put_split(self, weights: Mapping[int, float], champion: int) -> Split:
        """What new units get from now on; the service has it within half a second."""
        kept = {arm: weight for arm, weight in sorted(weights.items()) if weight > 0}
        with self._db.writing(self.layer):
            last = self._db.rows("SELECT max(version) FROM splits WHERE layer = ?", self.layer)[0][0] or 0
            split = Split(last + 1, kept, champion, self._clock())
            self._db.do(
                "INSERT INTO splits VALUES (?, ?, ?, ?, ?)",
                *(self.layer, split.version, json.dumps(kept), champion, split.at),
            )
        return split

    def split(self) -> Split | None:
        """The split in force; None: nothing is shown yet."""
        found = self._db.rows(f"{_SPLITS} WHERE layer = ? ORDER BY version DESC LIMIT 1", self.layer)
        return _split(found[0]) if found else None

    def splits(self) -> list[Split]:
        """All splits there were, oldest first."""
        return [_split(row) for row in self._db.rows(f"{_SPLITS} WHERE layer = ? ORDER BY version", self.layer)]

    def counts(self, candidate: int, other: int, outcome: str, *, segment: str | None = None) -> list[Counts]:
        """Two arms under every split that had both; those held out are not in it."""
        where = "" if segment is None else "AND segment = ?"
        rows = self._db.rows(
            f"SELECT split, arm, name, CAST(sum(n) AS BIGINT) FROM tallies WHERE layer = ? AND holdout = 0 "
            f"AND arm IN (?, ?) AND name IN (?, ?) {where} GROUP BY split, arm, name",
            *(self.layer, candidate, other, EXPOSED, outcome),
            *([] if segment is None else [segment]),
        )
        found = {(split, arm, name): n for split, arm, name, n in rows}
        both = [split for split in self.splits() if split.is_live(candidate) and split.is_live(other)]

        def side(split: int, arm: int) -> Side:
            return Side(found.get((split, arm, EXPOSED), 0), found.get((split, arm, outcome), 0))

        return [
            Counts(
                split.version,
                split.weights[candidate] / (split.weights[candidate] + split.weights[other]),
                side(split.version, candidate),
                side(split.version, other),
            )
            for split in both
        ]

    def totals(self, outcome: str, *, since: float = 0.0) -> list[Total]:
        """Everything counted since a moment, to the hour: by split, arm, holdout and segment."""
        rows = self._db.rows(
            "SELECT split, arm, holdout, segment, name, CAST(sum(n) AS BIGINT) FROM tallies "
            "WHERE layer = ? AND name IN (?, ?) AND hour >= ? GROUP BY split, arm, holdout, segment, name",
            *(self.layer, EXPOSED, outcome, _hour(since)),
        )
        sides: dict[tuple[int, int, int, str], Side] = {}
        for split, arm, held, segment, name, n in rows:
            side = Side(n, 0) if name == EXPOSED else Side(0, n)
            sides[split, arm, held, segment] = sides.get((split, arm, held, segment), Side()) + side
        return [
            Total(split, arm, bool(held), segment, side) for (split, arm, held, segment), side in sorted(sides.items())
        ]

    def holdout(self, outcome: str, *, since: float = 0.0) -> tuple[Side, Side]:
        """Those held out for good, and everybody else: units first seen since a moment, and what they did after."""
        rows = self._db.rows(
            "SELECT holdout, name, CAST(sum(n) AS BIGINT) FROM cohorts "
            "WHERE layer = ? AND name IN (?, ?) AND hour >= ? GROUP BY holdout, name",
            *(self.layer, EXPOSED, outcome, _hour(since)),
        )
        found = {(held, name): n for held, name, n in rows}
        held, served = (Side(found.get((who, EXPOSED), 0), found.get((who, outcome), 0)) for who in (1, 0))
        return held, served

    def values(self, candidate: int, other: int, outcome: str) -> list[Value]:
        """What units of two arms spent, where it was not 0; how many there were is in `counts`."""
        rows = self._db.rows(
            "SELECT e.split, e.arm, f.value FROM firsts f JOIN exposures e "
            "ON e.layer = f.layer AND e.unit = f.unit AND e.turn = f.turn "
            "WHERE f.layer = ? AND f.name = ? AND f.value <> 0 AND e.holdout = 0 AND e.arm IN (?, ?)",
            *(self.layer, outcome, candidate, other),
        )
        return [Value(*row) for row in rows]

    def apart(self) -> dict[str, int]:
        """What was refused or counted apart, by reason."""
        return dict(self._db.rows("SELECT reason, n FROM apart WHERE layer = ? ORDER BY reason", self.layer))

    def note(self, kind: str, body: Mapping[str, Any]) -> None:
        """Add to what is known."""
        with self._db.writing(self.layer):
            self._db.do(
                "INSERT INTO notes (layer, kind, body, at) VALUES (?, ?, ?, ?)",
                *(self.layer, kind, json.dumps(dict(body), allow_nan=False), self._clock()),
            )

    def notes(self, kind: str | None = None) -> list[Note]:
        """What is known, oldest first."""
        where, values = ("", []) if kind is None else ("AND kind = ?", [kind])
        rows = self._db.rows(
            f"SELECT seq, kind, body, at FROM notes WHERE layer = ? {where} ORDER BY seq", self.layer, *values
        )
        return [Note(seq, kind, json.loads(body), at) for seq, kind, body, at in rows]

    # The service's side

    def record(
        self,
        exposures: Sequence[Exposure] = (),
        outcomes: Sequence[Outcome] = (),
        apart: Mapping[str, int] | None = None,
    ) -> list[Exposure]:
        """Write all of it or nothing, and return when it is safe on the disk."""
        with self._db.writing(self.layer):
            batch = _Batch(self, exposures, outcomes)
            holding = [batch.expose(exposure) for exposure in exposures]
            for outcome in (*batch.early(), *batch.fresh(outcomes)):
                batch.count(outcome)
            batch.write()
            self._db.each(_ADD_APART, [(self.layer, reason, n) for reason, n in sorted((apart or {}).items())])
        return holding

    def assigned(self, units: Iterable[bytes]) -> dict[bytes, Exposure]:
        """The latest exposure of each unit that had one."""
        return {unit: turns[-1] for unit, turns in self.turns(units).items()}

    def turns(self, units: Iterable[bytes]) -> dict[bytes, list[Exposure]]:
        """All exposures of each unit that had one, in order."""
        rows = self._db.among(
            "SELECT unit, arm, split, segment, holdout, at FROM exposures WHERE layer = ? AND unit AMONG "
            "ORDER BY unit, turn",
            *(list(set(units)), self.layer),
        )
        found: dict[bytes, list[Exposure]] = {}
        for unit, arm, split, segment, held, at in rows:
            found.setdefault(bytes(unit), []).append(Exposure(bytes(unit), arm, split, segment, bool(held), at))
        return found

    def is_live(self, arm: int, version: int) -> bool:
        """Whether an arm was shown under a version of the split."""
        if version not in self._weights:
            self._weights = {split.version: split.weights for split in self.splits()}
        return self._weights.get(version, {}).get(arm, 0.0) > 0

    def begin_send(self, mailing: str, unit: bytes) -> bool:
        """Whether one may write to a unit now, for this mailing: nobody has begun to. Durable when it returns."""
        with self._db.writing(self.layer):
            before = self._db.rows(f"{_SENDS} AND unit = ?", self.layer, mailing, unit)
            if before and before[0][1] != "deferred":
                return False
            self._db.do(_SET_SEND, self.layer, mailing, unit, "begun", self._clock())
        return True

    def settle_send(self, mailing: str, unit: bytes, status: SendStatus) -> None:
        """What became of a mail that was begun; a deferred one may be begun again."""
        with self._db.writing(self.layer):
            self._db.do(_SET_SEND, self.layer, mailing, unit, status, self._clock())

    def sends(self, mailing: str) -> dict[bytes, SendStatus]:
        """Whom a mailing was begun to be sent to, and what became of it."""
        return {bytes(unit): status for unit, status in self._db.rows(_SENDS, self.layer, mailing)}

    def suppress(self, address: bytes) -> None:
        """Never write to this address again, in no layer of this store."""
        with self._db.writing(self.layer):
            self._db.do("INSERT INTO unsubscribed VALUES (?) ON CONFLICT DO NOTHING", address)

    def is_suppressed(self, address: bytes) -> bool:
        """Whether this address has asked to be left alone."""
        return bool(self._db.rows("SELECT 1 FROM unsubscribed WHERE address = ?", address))


class _Batch:
    """What one transaction adds: read once, worked out in memory, written once."""

    def __init__(self, tables: Tables, exposures: Sequence[Exposure], outcomes: Sequence[Outcome]) -> None:
        self.tables, self.db, self.layer = tables, tables._db, tables.layer
        self.turns = tables.turns({one.unit for one in exposures} | {one.unit for one in outcomes})
        rules = tables.rules()
        self.window = rules.window if rules else Rules("").window
        self.counted = self._firsts({outcome.unit for outcome in outcomes}) if outcomes else {}
        self.new_turns: list[tuple[Any, ...]] = []
        self.new_outcomes: list[Outcome] = []
        self.changed: set[tuple[bytes, int, str]] = set()
        self.tallies: Counter[tuple[Any, ...]] = Counter()
        self.cohorts: Counter[tuple[Any, ...]] = Counter()

    def _firsts(self, units: Iterable[bytes]) -> dict[tuple[bytes, int, str], float]:
        rows = self.db.among(
            "SELECT unit, turn, name, value FROM firsts WHERE layer = ? AND unit AMONG", list(units), self.layer
        )
        return {(bytes(unit), turn, name): value for unit, turn, name, value in rows}

    def expose(self, new: Exposure) -> Exposure:
        """The exposure that holds: the unit's last one while its arm is still shown, else this one."""
        turns = self.turns.setdefault(new.unit, [])
        if turns and (turns[-1].holdout or new.split <= turns[-1].split or self._stays(turns[-1], new)):
            return turns[-1]
        turns.append(new)
        self.new_turns.append(
            (self.layer, new.unit, len(turns) - 1, new.arm, new.split, new.segment, int(new.holdout), new.at)
        )
        self._tally(new, EXPOSED)
        if len(turns) == 1:
            self.cohorts[int(new.holdout), EXPOSED, _hour(new.at)] += 1
        return new

    def _stays(self, last: Exposure, new: Exposure) -> bool:
        return self.tables.is_live(last.arm, new.split)

    def early(self) -> Iterator[Outcome]:
        """What units of this batch did that was told before they were known to have been shown anything."""
        first_seen = [row[1] for row in self.new_turns if row[2] == 0]
        rows = self.db.among(
            "SELECT id, unit, name, value, at FROM outcomes WHERE layer = ? AND unit AMONG ORDER BY at",
            *(first_seen, self.layer),
        )
        self.counted |= self._firsts({bytes(row[1]) for row in rows}) if rows else {}
        for event, unit, name, value, at in rows:
            yield Outcome(event, bytes(unit), name, value, at)

    def fresh(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Those of the outcomes that were not told before, each once."""
        ids = [outcome.id for outcome in outcomes]
        known = {
            row[0] for row in self.db.among("SELECT id FROM outcomes WHERE layer = ? AND id AMONG", ids, self.layer)
        }
        for outcome in outcomes:
            if outcome.id not in known:
                known.add(outcome.id)
                self.new_outcomes.append(outcome)
        return self.new_outcomes

    def count(self, outcome: Outcome) -> None:
        """Count an outcome for the turn it happened in, and for the time since its unit was first seen."""
        turns = self.turns.get(outcome.unit, [])
        held = [turn for turn, exposure in enumerate(turns) if exposure.at <= outcome.at]
        if not held:
            return
        turn, first = held[-1], turns[0]
        if outcome.at <= turns[turn].at + self.window and self._is_first(outcome, turn):
            self._tally(turns[turn], outcome.name)
        if outcome.at <= first.at + self.window and self._is_first(outcome, _FIRST_EVER):
            self.cohorts[int(first.holdout), outcome.name, _hour(first.at)] += 1

    def _is_first(self, outcome: Outcome, turn: int) -> bool:
        key = (outcome.unit, turn, outcome.name)
        before = self.counted.get(key)
        self.counted[key] = (before or 0.0) + outcome.value
        self.changed.add(key)
        return before is None

    def _tally(self, exposure: Exposure, name: str) -> None:
        where = (exposure.split, exposure.arm, int(exposure.holdout), exposure.segment)
        self.tallies[*where, name, _hour(exposure.at)] += 1

    def write(self) -> None:
        """Write what changed, in one order for everybody."""
        self.db.each("INSERT INTO exposures VALUES (?, ?, ?, ?, ?, ?, ?, ?)", self.new_turns)
        rows = [(self.layer, one.id, one.unit, one.name, one.value, one.at) for one in self.new_outcomes]
        self.db.each("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?)", rows)
        self.db.each(_SET_FIRST, [(self.layer, *key, self.counted[key]) for key in sorted(self.changed)])
        self.db.each(_ADD_TALLY, [(self.layer, *key, n) for key, n in sorted(self.tallies.items())])
        self.db.each(_ADD_COHORT, [(self.layer, *key, n) for key, n in sorted(self.cohorts.items())])


_ARMS = "SELECT number, parent, content, hash, status, reason, at FROM arms"
_SPLITS = "SELECT version, weights, champion, at FROM splits"
_SENDS = "SELECT unit, status FROM sends WHERE layer = ? AND mailing = ?"
_SET_SEND = (
    "INSERT INTO sends VALUES (?, ?, ?, ?, ?) ON CONFLICT (layer, mailing, unit) "
    "DO UPDATE SET status = excluded.status, at = excluded.at"
)
_SET_FIRST = (
    "INSERT INTO firsts VALUES (?, ?, ?, ?, ?) ON CONFLICT (layer, unit, turn, name) "
    "DO UPDATE SET value = excluded.value"
)
_ADD_TALLY = (
    "INSERT INTO tallies VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (layer, split, arm, holdout, segment, name, hour) DO UPDATE SET n = tallies.n + excluded.n"
)
_ADD_COHORT = (
    "INSERT INTO cohorts VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (layer, holdout, name, hour) DO UPDATE SET n = cohorts.n + excluded.n"
)
_ADD_APART = "INSERT INTO apart VALUES (?, ?, ?) ON CONFLICT (layer, reason) DO UPDATE SET n = apart.n + excluded.n"


def _arm(row: Sequence[Any]) -> Arm:
    number, parent, content, *rest = row
    return Arm(number, parent, json.loads(content), *rest)


def _split(row: Sequence[Any]) -> Split:
    version, weights, champion, at = row
    return Split(version, {int(arm): weight for arm, weight in json.loads(weights).items()}, champion, at)


def _hour(at: float) -> int:
    return int(at // 3600)
