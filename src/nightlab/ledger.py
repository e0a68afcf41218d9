"""The ledger: an append-only journal of events in one SQLite file; all state is a reading of it.

WAL with synchronous=FULL: an appended event survives a power cut (NORMAL lost up to 790 acknowledged rows when power
was cut under a file system image). One process writes; anyone may read. The tables `experiments` and `runs` are
projections, kept in the same transaction so that readings stay fast at 10,000 experiments; `rebuild` replays them.

event       body
study       seed, base (commit), metric, direction, policy, task
asked       proposer, parent, mends: somebody who takes time was asked for an idea
drafted     hypothesis (null: none), diff, facts, expected, money, tokens: what was answered
broken_off  money, tokens: a call was ended before it was answered; it is asked again
proposed    parent, hypothesis, proposer, tree, diff, facts, expected, complexity (of the whole tree, from the start),
            money, tokens, draft (the call that it was thought out in)
rejected    parent, hypothesis, proposer, diff, kind, reason, money, tokens, draft
started     run, purpose, seed, asked_by, again
ran         run, outcome, value, reason, secondary, examples, facts, tail, seconds, cpu_seconds, peak_mb, contrast
racing      reason: it is owed another run
rebased     parent, diff: it is judged against a newer incumbent
decided     status, value, gain, stderr, z, reason, grade, pool (run ids), paired (gains under shared seeds),
            between (what one example varied by between the two)
committed   commit
demoted     status (pruned, reverted), reason, by: it was kept, and left the branch again with experiment `by`
began       slots, jail: a lab took the study up
drifted     values: the incumbent's runs drift in time
measured    sigma, correlation, visible_gain, good_for: what the start of the study says of the task
looked_back after: prune, audit and transfer follow, after so many runs of the search
opened      seeds, sealed: an audit is about to look at what no decision has used
audited     gain, low, high, and the runs behind them
pruned      what was tried without which keeps, and what came of it
transferred rung, ratio, low, high, and the runs behind them
graded      grade
note        text
stopped     reason: why a search ended
capped      money, tokens, experiments, seconds: what a session may spend, where that is new (null: no cap)
steered     text: what the human has said to whoever proposes
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightlab.errors import BadLedger, NotFound, StudyStuck
from nightlab.values import Clock, Experiment, Status

SCHEMA_VERSION = 2
_LARGEST = 2**63  # what SQLite calls an integer
_LEAST_FREE = 1 << 20  # on a full disk not even reading works, and SQLite does not say why
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, experiment INTEGER, at REAL NOT NULL,
    body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS control (
    seq INTEGER PRIMARY KEY, verb TEXT NOT NULL, argument TEXT NOT NULL, at REAL NOT NULL, taken REAL);
"""
_PROJECTIONS = """
CREATE TABLE IF NOT EXISTS experiments (
    id INTEGER PRIMARY KEY, parent INTEGER, status TEXT NOT NULL, hypothesis TEXT NOT NULL, proposer TEXT NOT NULL,
    grade TEXT, value REAL, stderr REAL, gain REAL, z REAL, runs INTEGER NOT NULL DEFAULT 0,
    seconds REAL NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '', "commit" TEXT, tree TEXT NOT NULL DEFAULT '',
    facts TEXT NOT NULL DEFAULT '{}', decided INTEGER, peak_mb REAL, money REAL NOT NULL DEFAULT 0,
    tokens INTEGER NOT NULL DEFAULT 0, complexity REAL NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, experiment INTEGER NOT NULL, purpose TEXT NOT NULL, seed INTEGER NOT NULL,
    asked_by INTEGER NOT NULL, again INTEGER NOT NULL, outcome TEXT,
    value REAL, reason TEXT, seconds REAL, cpu_seconds REAL, peak_mb REAL);
CREATE INDEX IF NOT EXISTS events_kind ON events (kind, seq);
CREATE INDEX IF NOT EXISTS experiments_tree ON experiments (tree);
CREATE INDEX IF NOT EXISTS experiments_status ON experiments (status, decided);
CREATE INDEX IF NOT EXISTS runs_experiment ON runs (experiment, purpose);
CREATE INDEX IF NOT EXISTS runs_asked ON runs (asked_by);
CREATE INDEX IF NOT EXISTS runs_open ON runs (outcome) WHERE outcome IS NULL;
"""
_SELECT = """
SELECT e.id, e.parent, e.status, e.hypothesis, e.proposer, e.grade, e.value, e.stderr, e.gain, e.z, e.runs, e.seconds,
       e.reason, e."commit", e.tree, e.complexity, e.peak_mb,
       coalesce(json_extract(r.body, '$.diff'), json_extract(p.body, '$.diff'), json_extract(x.body, '$.diff')), e.facts
FROM experiments e LEFT JOIN events p ON p.id = 'proposed:' || e.id LEFT JOIN events r ON r.id = 'rebased:' || e.id
LEFT JOIN events x ON x.id = 'rejected:' || e.id
"""


_THOUGHTS = """
SELECT coalesce(sum(money), 0), coalesce(sum(tokens), 0) FROM (
    SELECT CAST(substr(id, instr(id, ':') + 1) AS INTEGER) AS draft,
           max(json_extract(body, '$.money')) AS money, max(json_extract(body, '$.tokens')) AS tokens
    FROM events WHERE kind IN ('drafted', 'broken_off') GROUP BY draft)
WHERE draft NOT IN (SELECT json_extract(body, '$.draft') FROM events
                    WHERE kind IN ('proposed', 'rejected') AND json_extract(body, '$.draft') IS NOT NULL)
"""
"""What was paid for thoughts that are no experiments (yet): a call that goes on counts what it came to before."""


@dataclass(frozen=True, slots=True)
class Event:
    """One immutable fact. `key` tells apart events of one kind; kind and key together are its identity."""

    kind: str
    key: str
    body: Mapping[str, Any] = field(default_factory=dict)
    experiment: int | None = None
    at: float = 0.0
    seq: int = 0

    @property
    def id(self) -> str:
        """What makes it idempotent: the same fact is written once, however often it is told."""
        return f"{self.kind}:{self.key}"


class Ledger:
    """An append-only journal of one study."""

    def __init__(self, path: Path, *, clock: Clock = time.time) -> None:
        """Open the ledger at a path, making it where there is none.

        Raises BadLedger where the file is not ours or from a newer version.
        """
        self.path = path
        self._clock = clock
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30.0, check_same_thread=False)
            self._prepare()
        except sqlite3.DatabaseError as error:
            raise BadLedger(_why(path, error)) from error

    def _prepare(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise BadLedger(
                f"{self.path} was written by a newer Nightlab (ledger version {version}, this one reads up to "
                f"{SCHEMA_VERSION}); upgrade with: pip install --upgrade nightlab"
            )
        self._db.execute("PRAGMA synchronous = FULL")
        if version == SCHEMA_VERSION:
            return
        self._db.execute("PRAGMA journal_mode = WAL")
        with self._transaction():
            for table in ("experiments", "runs") if version else ():  # of an older version: made anew from the events
                self._db.execute(f"DROP TABLE {table}")
            for statement in (_SCHEMA + _PROJECTIONS).split(";"):
                self._db.execute(statement)
            for event in self.read():
                self._project(event, event.seq)
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._db:  # commits, or rolls back on an error
            self._db.execute("BEGIN IMMEDIATE")
            yield

    # Writing

    def append(self, *events: Event) -> None:
        """Write events durably, all or none; those already there are passed over.

        Raises StudyStuck when the disk is full: what was acknowledged before is safe.
        """
        try:
            with self._transaction():
                for event in events:
                    self._insert(event)
        except sqlite3.OperationalError as error:
            raise StudyStuck(_why(self.path, error)) from error

    def _insert(self, event: Event) -> None:
        at = event.at or self._clock()
        row = self._db.execute(
            "INSERT INTO events (id, kind, experiment, at, body) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO NOTHING RETURNING seq",
            (event.id, event.kind, event.experiment, at, json.dumps(dict(event.body), allow_nan=False)),
        ).fetchone()
        if row:
            self._project(event, row[0])

    def _project(self, event: Event, seq: int) -> None:
        statement = _REDUCERS.get(event.kind)
        if statement is None:
            return
        blank: dict[str, Any] = dict.fromkeys(_COLUMNS)
        values = blank | dict(event.body) | {"experiment": event.experiment, "seq": seq}
        values["facts"] = json.dumps(values["facts"] or {})
        for one in statement:
            self._db.execute(one, {k: v for k, v in values.items() if not isinstance(v, dict | list)})

    def rebuild(self) -> None:
        """Make the projections anew from the events alone."""
        with self._transaction():
            for table in ("experiments", "runs"):
                self._db.execute(f"DELETE FROM {table}")
            for event in self.read():
                self._project(event, event.seq)

    # Reading

    def read(self, since: int = 0, *, kind: str | None = None) -> Iterator[Event]:
        """The events after a sequence number, in order; all, or those of one kind."""
        only, wanted = ("AND kind = ?", (since, kind)) if kind else ("", (since,))
        rows = self._db.execute(
            f"SELECT seq, id, kind, experiment, at, body FROM events WHERE seq > ? {only} ORDER BY seq", wanted
        )
        for seq, id_, kind, experiment, at, body in rows:
            yield Event(kind, id_.partition(":")[2], json.loads(body), experiment, at, seq)

    def find(self, kind: str, key: object) -> Mapping[str, Any] | None:
        """The body of one event, or None."""
        row = self._db.execute("SELECT body FROM events WHERE id = ?", (f"{kind}:{key}",)).fetchone()
        return json.loads(row[0]) if row else None

    def last(self, kind: str) -> Event | None:
        """The latest event of a kind."""
        row = self._db.execute(
            "SELECT seq, id, experiment, at, body FROM events WHERE kind = ? ORDER BY seq DESC LIMIT 1", (kind,)
        ).fetchone()
        return Event(kind, row[1].partition(":")[2], json.loads(row[4]), row[2], row[3], row[0]) if row else None

    def study(self) -> Mapping[str, Any] | None:
        """What the study was started with, or in which weaker jail it went on; None before it was."""
        event = self.last("study")
        return event.body if event else None

    def experiments(
        self, *, limit: int | None = None, newest: bool = False, status: Status | None = None
    ) -> list[Experiment]:
        """Experiments in order of their numbers; `newest` takes the last ones (still in rising order)."""
        where = "WHERE e.status = :status" if status else ""
        order = f"ORDER BY e.id {'DESC' if newest else ''} LIMIT :limit"
        rows = self._db.execute(
            f"{_SELECT} {where} {order}", {"status": status, "limit": -1 if limit is None else min(limit, _LARGEST - 1)}
        )
        found = [_experiment(row) for row in rows]
        return found[::-1] if newest else found

    def decided_experiments(self) -> list[Experiment]:
        """Experiments that ran, in the order in which they were decided."""
        where = "WHERE e.decided IS NOT NULL AND e.status != 'rejected' ORDER BY e.decided"
        return [_experiment(row) for row in self._db.execute(f"{_SELECT} {where}")]

    def open_experiments(self) -> list[Experiment]:
        """Experiments that are owed a decision."""
        rows = self._db.execute(f"{_SELECT} WHERE e.status IN ('proposed', 'measured', 'racing') ORDER BY e.id")
        return [_experiment(row) for row in rows]

    def experiment(self, number: int) -> Experiment:
        """One experiment; NotFound when there is none of that number."""
        is_number = -_LARGEST <= number < _LARGEST
        row = self._db.execute(f"{_SELECT} WHERE e.id = ?", (number,)).fetchone() if is_number else None
        if row is None:
            raise NotFound(f"there is no experiment {number}; nightlab log lists them")
        return _experiment(row)

    def first(self) -> Experiment | None:
        """The baseline; None before the study began."""
        row = self._db.execute(f"{_SELECT} ORDER BY e.id LIMIT 1").fetchone()
        return _experiment(row) if row else None

    def incumbent(self) -> Experiment | None:
        """The experiment that was kept last; None before the baseline is measured."""
        row = self._db.execute(f"{_SELECT} WHERE e.status = 'kept' ORDER BY e.decided DESC LIMIT 1").fetchone()
        return _experiment(row) if row else None

    def lineage(self, number: int) -> list[Experiment]:
        """From the baseline to this experiment, parent by parent."""
        line = [self.experiment(number)]
        while (parent := line[-1].parent) is not None:
            line.append(self.experiment(parent))
        return line[::-1]

    def counts(self) -> dict[str, int]:
        """How many experiments stand at each status."""
        return dict(self._db.execute("SELECT status, count(*) FROM experiments GROUP BY status").fetchall())

    def proposers(self) -> list[dict[str, Any]]:
        """Who proposed: experiments, how many of them stand, what thinking cost; whoever began first in front."""
        rows = self._db.execute(
            "SELECT proposer, count(*), sum(status = 'kept'), sum(money), sum(tokens) FROM experiments WHERE id > 0 "
            "GROUP BY proposer ORDER BY min(id)"
        )
        names = ("proposer", "experiments", "kept", "money", "tokens")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def count(self, kind: str) -> int:
        """How many events of a kind there are."""
        return int(self._db.execute("SELECT count(*) FROM events WHERE kind = ?", (kind,)).fetchone()[0])

    def runs_made(self) -> int:
        """How many runs the search has made."""
        return int(self._db.execute("SELECT coalesce(sum(runs), 0) FROM experiments").fetchone()[0])

    def last_seq(self) -> int:
        """The sequence number of the latest event."""
        return int(self._db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0])

    def next_number(self) -> int:
        """The number of the next experiment."""
        return int(self._db.execute("SELECT coalesce(max(id), -1) + 1 FROM experiments").fetchone()[0])

    def was_tried(self, tree: str) -> int | None:
        """The first experiment that tried this very tree, if any did."""
        row = self._db.execute("SELECT min(id) FROM experiments WHERE tree = ?", (tree,)).fetchone()
        return None if row is None else row[0]

    def standing_on(self, tree: str) -> int | None:
        """An experiment that is committed with this very tree, so that others can be raced against it."""
        row = self._db.execute('SELECT id FROM experiments WHERE tree = ? AND "commit" IS NOT NULL', (tree,)).fetchone()
        return row and int(row[0])

    def recent_gains(self, count: int) -> list[float]:
        """The estimated gains of the last proposals that ran, oldest first; 0 where not kept."""
        rows = self._db.execute(
            "SELECT CASE status WHEN 'kept' THEN coalesce(gain, 0) ELSE 0 END FROM experiments "
            "WHERE decided IS NOT NULL AND id > 0 AND status != 'rejected' ORDER BY decided DESC LIMIT ?",
            (count,),
        )
        return [gain for (gain,) in rows][::-1]

    def samples(self, experiment: int, *purposes: str) -> list[tuple[str, int, float]]:
        """Run, seed and value of an experiment's measured runs of these purposes, in the order they ended."""
        marks = ", ".join("?" * len(purposes))
        return self._db.execute(
            f"SELECT r.id, r.seed, r.value FROM runs r JOIN events e ON e.id = 'ran:' || r.id WHERE r.experiment = ? "
            f"AND r.purpose IN ({marks}) AND r.value IS NOT NULL ORDER BY e.seq",
            (experiment, *purposes),
        ).fetchall()

    def pool(self, experiment: int) -> list[tuple[str, int, float]]:
        """The unselected runs of an incumbent, as samples: what its rivals are raced against."""
        chosen = (self.find("decided", experiment) or {}).get("pool") or []
        row = "SELECT id, seed, value FROM runs WHERE id = ?"
        rows = [self._db.execute(row, (run,)).fetchone() or ("", 0, run) for run in chosen]  # version 1 kept values
        return [*rows, *self.samples(experiment, "incumbent")]

    def shared_gains(self) -> list[tuple[int, float]]:
        """Experiment and gain for each pair of runs under one seed that decided, in the order of the decisions."""
        rows = self._db.execute(
            "SELECT experiment, json_extract(body, '$.paired') FROM events WHERE kind = 'decided' "
            "AND json_extract(body, '$.paired') IS NOT NULL ORDER BY seq"
        )
        return [(number, gain) for number, gains in rows for gain in json.loads(gains)]

    def between(self) -> list[float]:
        """What one example varied by between the two sides of each race that could tell."""
        rows = self._db.execute(
            "SELECT json_extract(body, '$.between') FROM events WHERE kind = 'decided' "
            "AND json_extract(body, '$.between') IS NOT NULL"
        )
        return [noise for (noise,) in rows]

    def hardware(self) -> dict[str, str]:
        """The class of hardware that each measured run ran on."""
        rows = self._db.execute(
            "SELECT substr(id, 5), coalesce(json_extract(body, '$.facts.hardware'), '') FROM events WHERE kind = 'ran'"
        )
        return dict(rows.fetchall())

    def repeats(self) -> list[tuple[int, str, float]]:
        """Experiment, run and value of every run that repeats an incumbent, in the order they ended."""
        return self._db.execute(
            "SELECT r.experiment, r.id, r.value FROM runs r JOIN events e ON e.id = 'ran:' || r.id "
            "WHERE r.purpose = 'incumbent' AND r.value IS NOT NULL ORDER BY e.seq"
        ).fetchall()

    def unfinished(self) -> list[dict[str, Any]]:
        """Runs that were started and of which no end is recorded, in order."""
        rows = self._db.execute(
            "SELECT id, experiment, purpose, seed, asked_by, again FROM runs WHERE outcome IS NULL ORDER BY rowid"
        )
        names = ("run", "experiment", "purpose", "seed", "asked_by", "again")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def has_refreshed(self, experiment: int) -> bool:
        """Whether this experiment has asked for a run of its incumbent."""
        row = self._db.execute(
            "SELECT 1 FROM runs WHERE asked_by = ? AND purpose = 'incumbent' AND outcome IS NOT NULL", (experiment,)
        )
        return row.fetchone() is not None

    def runs(self, experiment: int) -> list[dict[str, Any]]:
        """Every run of an experiment, as recorded."""
        rows = self._db.execute("SELECT * FROM runs WHERE experiment = ? ORDER BY rowid", (experiment,))
        names = [column[0] for column in rows.description]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def last_run(self, experiment: int) -> Mapping[str, Any]:
        """What is recorded of an experiment's latest run; nothing where none has ended."""
        row = self._db.execute(
            "SELECT body FROM events WHERE kind = 'ran' AND id IN (SELECT 'ran:' || id FROM runs WHERE experiment = ?) "
            "ORDER BY seq DESC LIMIT 1",
            (experiment,),
        ).fetchone()
        return json.loads(row[0]) if row else {}

    def opened_drafts(self) -> set[int]:
        """The calls whose answer has become an experiment."""
        rows = self._db.execute(
            "SELECT json_extract(body, '$.draft') FROM events WHERE kind IN ('proposed', 'rejected')"
        )
        return {number for (number,) in rows if number is not None}

    def exposure(self) -> dict[str, int]:
        """How often the study's data were looked at: decisions made on the validation set, openings of the seal."""
        decisions = "SELECT count(*) FROM experiments WHERE id > 0 AND decided IS NOT NULL AND value IS NOT NULL"
        opened = "SELECT count(*) FROM events WHERE kind = 'opened' AND json_extract(body, '$.sealed')"
        counts = (self._db.execute(one).fetchone()[0] for one in (decisions, opened))
        return dict(zip(("decisions", "seal_opened"), counts, strict=True))

    def peaks(self) -> dict[int, float]:
        """Peak megabytes per experiment, where they are known."""
        return dict(self._db.execute("SELECT id, peak_mb FROM experiments WHERE peak_mb IS NOT NULL").fetchall())

    def spent(self) -> dict[str, float]:
        """What the study has cost so far: slot seconds, money, tokens."""
        seconds = self._db.execute("SELECT coalesce(sum(seconds), 0) FROM runs").fetchone()[0]
        money, tokens, imported = self._db.execute(
            "SELECT coalesce(sum(money), 0), coalesce(sum(tokens), 0), "
            "coalesce(sum(CASE runs WHEN 0 THEN seconds ELSE 0 END), 0) FROM experiments"
        ).fetchone()
        audits = (
            "SELECT coalesce(sum(json_extract(body, '$.seconds')), 0) FROM events "
            "WHERE kind IN ('audited', 'pruned', 'transferred')"
        )
        seconds += imported + self._db.execute(audits).fetchone()[0]
        money, tokens = map(sum, zip((money, tokens), self._db.execute(_THOUGHTS).fetchone(), strict=True))
        return {"seconds": seconds, "money": money, "tokens": tokens}

    # The control table: what people ask of a running lab

    def asked(self, verb: str) -> list[tuple[str, float, float | None]]:
        """Every wish of a kind, oldest first: its argument, when it was made, when a lab took it (None: not yet)."""
        rows = "SELECT argument, at, taken FROM control WHERE verb = ? ORDER BY seq"
        return self._db.execute(rows, (verb,)).fetchall()

    def is_paused(self) -> bool:
        """Whether the lab that holds the study was told to pause, and has heard it. One that begins is not paused."""
        row = self._db.execute(
            "SELECT verb FROM control WHERE verb IN ('pause', 'resume') AND taken >= "
            "coalesce((SELECT max(at) FROM events WHERE kind = 'began'), 0) ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        return row is not None and bool(row[0] == "pause")

    def notes(self, experiment: int) -> list[str]:
        """What was noted on an experiment, oldest first."""
        rows = "SELECT json_extract(body, '$.text') FROM events WHERE kind = 'note' AND experiment = ? ORDER BY seq"
        return [str(text) for (text,) in self._db.execute(rows, (experiment,))]

    def ask(self, verb: str, argument: str = "") -> None:
        """Leave a wish for the lab that runs this study."""
        row = verb, argument, self._clock()
        try:
            with self._transaction():
                self._db.execute("INSERT INTO control (verb, argument, at) VALUES (?, ?, ?)", row)
        except sqlite3.OperationalError as error:
            raise StudyStuck(_why(self.path, error)) from error

    def unheard(self, verb: str) -> list[str]:
        """The arguments of the wishes of one verb that nobody has taken yet."""
        rows = self._db.execute("SELECT argument FROM control WHERE taken IS NULL AND verb = ? ORDER BY seq", (verb,))
        return [argument for (argument,) in rows]

    def wishes(self, *verbs: str, most: int = -1) -> list[tuple[str, str]]:
        """Take the wishes that nobody has taken yet, oldest first: all, or those of some verbs, or only so many.

        What the human said becomes an event in the same breath, so that none of it is lost.
        """
        mine = f"taken IS NULL AND verb IN ({', '.join('?' * len(verbs))})" if verbs else "taken IS NULL"
        if not self._db.execute(f"SELECT 1 FROM control WHERE {mine} LIMIT 1", verbs).fetchone():
            return []
        with self._transaction():
            rows = self._db.execute(
                f"SELECT verb, argument, at, seq FROM control WHERE {mine} ORDER BY seq LIMIT ?", (*verbs, most)
            ).fetchall()
            for verb, argument, at, seq in rows:
                if verb == "steer":
                    self._insert(Event("steered", str(seq), {"text": argument}, at=at))
                elif verb == "note":
                    said = json.loads(argument)
                    self._insert(Event("note", f"human:{seq}", {"text": said["text"]}, said["experiment"], at))
            now = self._clock()
            self._db.executemany("UPDATE control SET taken = ? WHERE seq = ?", [(now, seq) for *_, seq in rows])
        return [(verb, argument) for verb, argument, *_ in rows]


_REDUCERS: dict[str, tuple[str, ...]] = {
    "proposed": (
        "INSERT INTO experiments (id, parent, status, hypothesis, proposer, tree, facts, money, tokens, complexity) "
        "VALUES (:experiment, :parent, 'proposed', :hypothesis, :proposer, :tree, :facts, coalesce(:money, 0), "
        "coalesce(:tokens, 0), coalesce(:complexity, 0))",
    ),
    "rejected": (
        "INSERT INTO experiments (id, parent, status, hypothesis, proposer, reason, decided, facts, money, tokens) "
        "VALUES (:experiment, :parent, 'rejected', :hypothesis, :proposer, :reason, :seq, :facts, "
        "coalesce(:money, 0), coalesce(:tokens, 0))",
    ),
    "started": (
        "INSERT INTO runs (id, experiment, purpose, seed, asked_by, again) VALUES "
        "(:run, :experiment, :purpose, :seed, :asked_by, :again) "
        "ON CONFLICT (id) DO UPDATE SET again = :again, outcome = NULL",
    ),
    "ran": (
        "UPDATE runs SET outcome = :outcome, value = :value, reason = :reason, seconds = :seconds, "
        "cpu_seconds = :cpu_seconds, peak_mb = :peak_mb WHERE id = :run",
        "UPDATE experiments SET runs = runs + 1, seconds = seconds + :seconds, "
        "peak_mb = max(coalesce(peak_mb, 0), coalesce(:peak_mb, 0)) WHERE id = :experiment",
    ),
    "rebased": ("UPDATE experiments SET parent = :parent WHERE id = :experiment",),
    "racing": ("UPDATE experiments SET status = 'racing', reason = :reason WHERE id = :experiment",),
    "decided": (
        "UPDATE experiments SET status = :status, value = :value, gain = :gain, stderr = :stderr, z = :z, "
        "reason = :reason, grade = :grade, decided = :seq, "
        "seconds = CASE WHEN runs = 0 THEN coalesce(:seconds, 0) ELSE seconds END, "
        "peak_mb = coalesce(:peak_mb, peak_mb) WHERE id = :experiment",
    ),
    "committed": ('UPDATE experiments SET "commit" = :commit WHERE id = :experiment',),
    "demoted": ("UPDATE experiments SET status = :status, reason = :reason WHERE id = :experiment",),
    "graded": ("UPDATE experiments SET grade = :grade WHERE id = :experiment",),
}
_COLUMNS = sorted({name for group in _REDUCERS.values() for one in group for name in re.findall(r":(\w+)", one)})


def _experiment(row: tuple[Any, ...]) -> Experiment:
    number, parent, status, hypothesis, proposer, *rest, diff, facts = row
    fields = ("grade", "value", "stderr", "gain", "z", "runs", "seconds", "reason", "commit", "tree", "complexity")
    known = dict(zip((*fields, "peak_mb"), rest, strict=True))
    return Experiment(
        number, parent, Status(status), hypothesis, proposer, diff=diff or "", facts=json.loads(facts), **known
    )


def _why(path: Path, error: sqlite3.Error) -> str:
    text = str(error)
    if "full" in text or ("I/O" in text and os.statvfs(path.parent).f_bavail * 4096 < _LEAST_FREE):
        return f"the disk under {path} is full; free some space, then go on with: nightlab run"
    if "readonly" in text or "unable to open" in text:
        return f"cannot write {path} ({text}); make the folder writable"
    return f"cannot use the ledger {path}: {text}; move it away to start anew, or restore a copy"
