"""The page's own readings: lean questions to a ledger, so that 10,000 experiments cost as little as fifty.

They go past the Ledger, which hands out whole experiments with their patches, over a connection that cannot write.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

from nightlab.errors import BadLedger
from nightlab.ledger import SCHEMA_VERSION

PAGE = 50
"""Experiments on one page of a list."""
_LARGEST = 2**63 - 1
_ROW = """id, parent, status, grade, hypothesis, value, stderr, gain, z, runs, seconds, proposer, reason, "commit",
tree, complexity"""
_SHORT_ROW = """id, parent, status, grade, substr(hypothesis, 1, 1200) AS hypothesis, value, stderr, gain, z, runs,
seconds, proposer, substr(reason, 1, 600) AS reason"""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which experiments a list shows; as it stands in the url."""

    status: str = ""
    proposer: str = ""
    q: str = ""
    before: int | None = None
    parent: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether everything passes, from the newest on."""
        return self == Filter()


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a ledger that cannot write. Raises BadLedger where it is not one that we can read."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=5.0)) as db:
            db.execute("PRAGMA query_only = ON")
            db.execute("PRAGMA cache_size = -1024")  # 20 pages open at once must stay small
            db.row_factory = sqlite3.Row
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version != SCHEMA_VERSION:
                raise BadLedger(f"{path} is of version {version}, not {SCHEMA_VERSION}; see nightlab status")
            yield db
    except sqlite3.DatabaseError as error:
        raise BadLedger(f"cannot read the ledger {path} ({error}); see nightlab status") from error


def last_seq(db: sqlite3.Connection) -> int:
    """The number of the latest event."""
    return int(db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0])


def table(db: sqlite3.Connection, wanted: Filter, *, most: int = PAGE) -> tuple[list[dict[str, Any]], bool]:
    """A page of experiments, newest first, and whether there are older ones."""
    where, values = _where(wanted)
    rows = db.execute(
        f"SELECT {_SHORT_ROW} FROM experiments {where} ORDER BY id DESC LIMIT :most", values | {"most": most + 1}
    ).fetchall()
    return [dict(row) for row in rows[:most]], len(rows) > most


def count(db: sqlite3.Connection, wanted: Filter) -> int:
    """How many experiments pass a filter, on all its pages."""
    where, values = _where(Filter(wanted.status, wanted.proposer, wanted.q, parent=wanted.parent))
    return int(db.execute(f"SELECT count(*) FROM experiments {where}", values).fetchone()[0])


def _where(wanted: Filter) -> tuple[str, dict[str, Any]]:
    tests = {
        "status": "status = :status",
        "proposer": "proposer = :proposer",
        "q": "(instr(lower(hypothesis), lower(:q)) OR instr(lower(reason), lower(:q)))",
        "before": "id < :before",
        "parent": "parent = :parent",
    }
    values = {name: getattr(wanted, name) for name in tests}
    asked = {name: value for name, value in values.items() if value not in ("", None)}
    for name in ("before", "parent"):
        if name in asked:
            asked[name] = max(-_LARGEST, min(asked[name], _LARGEST))
    return ("WHERE " + " AND ".join(tests[name] for name in asked)) if asked else "", asked


def rows_since(db: sqlite3.Connection, number: int, *, most: int = 1000) -> list[dict[str, Any]]:
    """Experiments after this number, in order, with the keys of `nightlab log --json`."""
    number = max(-_LARGEST, min(number, _LARGEST))
    rows = db.execute(f"SELECT {_ROW} FROM experiments WHERE id > ? ORDER BY id LIMIT ?", (number, most))
    return [dict(row) for row in rows]


def touched(db: sqlite3.Connection, since: int, *, most: int) -> list[tuple[int, dict[str, Any]]]:
    """The experiments that events after a sequence number were about, each with its latest such event, in that order;
    the last `most` of them."""
    rows = db.execute(
        f"SELECT t.seq AS seq, {_SHORT_ROW} FROM experiments JOIN (SELECT experiment, max(seq) AS seq FROM events "
        "WHERE seq > ? AND experiment IS NOT NULL GROUP BY experiment ORDER BY max(seq) DESC LIMIT ?) t "
        "ON t.experiment = experiments.id ORDER BY t.seq",
        (max(-_LARGEST, min(since, _LARGEST)), most),
    )
    return [(row["seq"], {name: row[name] for name in row.keys() if name != "seq"}) for row in rows]  # noqa: SIM118


def slots(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """The runs that have begun and not ended: whose, what for, since when."""
    rows = db.execute(
        "SELECT r.id AS run, r.experiment, r.purpose, r.seed, r.asked_by, e.at AS since, "
        "substr(x.hypothesis, 1, 300) AS hypothesis FROM runs r "
        "LEFT JOIN events e ON e.id = 'started:' || r.id || '.' || r.again "
        "LEFT JOIN experiments x ON x.id = r.asked_by WHERE r.outcome IS NULL ORDER BY r.rowid LIMIT 256"
    )
    return [dict(row) for row in rows]


def thoughts(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """The ideas that were asked for in this session and have not come yet."""
    rows = db.execute(
        "SELECT json_extract(a.body, '$.proposer') AS proposer, a.at AS since FROM events a WHERE a.kind = 'asked' "
        "AND a.seq > (SELECT coalesce(max(seq), 0) FROM events WHERE kind = 'began') AND NOT EXISTS "
        "(SELECT 1 FROM events d WHERE d.id = 'drafted:' || substr(a.id, 7)) ORDER BY a.seq LIMIT 64"
    )
    return [dict(row) for row in rows]


def pace(db: sqlite3.Connection) -> dict[str, float | None]:
    """What the last twenty took: the median run, and the median time from one decision to the next."""
    times = [s for (s,) in db.execute("SELECT seconds FROM runs WHERE seconds > 0 ORDER BY rowid DESC LIMIT 20")]
    moments = db.execute(
        "SELECT at FROM events WHERE kind IN ('decided', 'rejected') AND seq > "
        "(SELECT coalesce(max(seq), 0) FROM events WHERE kind = 'began') ORDER BY seq DESC LIMIT 21"
    ).fetchall()
    steps = [later[0] - earlier[0] for later, earlier in pairwise(moments)]
    return {"run": median(times) if times else None, "experiment": median(steps) if steps else None}


def proposers(db: sqlite3.Connection) -> list[str]:
    """The names of all who proposed."""
    return [name for (name,) in db.execute("SELECT DISTINCT proposer FROM experiments ORDER BY proposer LIMIT 100")]


def family(db: sqlite3.Connection, number: int) -> list[dict[str, Any]]:
    """The children of an experiment, counted by what became of them."""
    rows = db.execute(
        "SELECT status, count(*) AS count FROM experiments WHERE parent = ? GROUP BY status ORDER BY count(*) DESC",
        (number,),
    )
    return [dict(row) for row in rows]


def kept_line(
    db: sqlite3.Connection, *, most: int = PAGE, before: int | None = None
) -> tuple[list[dict[str, Any]], bool]:
    """The line from the incumbent back to the baseline, newest first, and whether it goes on."""
    rows = db.execute(
        "WITH RECURSIVE line(id, depth) AS (SELECT id, 0 FROM (SELECT id FROM experiments WHERE status = 'kept' "
        "ORDER BY decided DESC LIMIT 1) UNION SELECT e.parent, depth + 1 FROM line "
        "JOIN experiments e ON e.id = line.id WHERE e.parent IS NOT NULL AND depth < 100000) "
        f"SELECT {_SHORT_ROW} FROM experiments JOIN line USING (id) WHERE :before IS NULL OR id < :before "
        "ORDER BY depth LIMIT :most",
        {"before": before, "most": most + 1},
    ).fetchall()
    return [dict(row) for row in rows[:most]], len(rows) > most


def broods(db: sqlite3.Connection, parents: list[int]) -> dict[int, dict[str, int]]:
    """How many children each of these experiments has, by status."""
    marks = ", ".join("?" * len(parents))
    found: dict[int, dict[str, int]] = {number: {} for number in parents}
    rows = db.execute(
        f"SELECT parent, status, count(*) FROM experiments WHERE parent IN ({marks}) GROUP BY parent, status", parents
    )
    for parent, status, how_many in rows:
        found[parent][status] = how_many
    return found


def wishes(db: sqlite3.Connection, *, most: int = PAGE) -> list[dict[str, Any]]:
    """What people asked of this study, newest first, and when a lab took it up (None: not yet)."""
    rows = db.execute(
        "SELECT verb, substr(argument, 1, 5000) AS argument, at, taken FROM control ORDER BY seq DESC LIMIT ?", (most,)
    )
    return [dict(row) | _told(row["verb"], row["argument"]) for row in rows]


def _told(verb: str, argument: str) -> dict[str, Any]:
    """The number and the text in a wish."""
    if verb == "note":
        said = json.loads(argument) if argument.endswith("}") else {}
        return {"number": said.get("experiment"), "text": said.get("text", "")}
    is_number = verb in ("veto", "retry")
    return {"number": int(argument) if is_number else None, "text": "" if is_number else argument}


def front(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """What was measured, as points: value, lines to read, memory and time of a run."""
    rows = db.execute(
        "SELECT id, value, complexity, coalesce(peak_mb, 0) AS peak_mb, nullif(seconds, 0) / runs AS seconds "
        "FROM experiments WHERE value IS NOT NULL AND runs > 0"
    )
    return [dict(row) for row in rows]


def rows_of(db: sqlite3.Connection, numbers: list[int]) -> list[dict[str, Any]]:
    """These experiments, in the order of their numbers."""
    marks = ", ".join("?" * len(numbers))
    return [
        dict(r) for r in db.execute(f"SELECT {_SHORT_ROW} FROM experiments WHERE id IN ({marks}) ORDER BY id", numbers)
    ]


def linked(db: sqlite3.Connection, number: int) -> list[dict[str, Any]]:
    """Experiments that say they repair, repeat or resemble this one."""
    found = []
    for fact in ("mends", "retries", "like"):
        rows = db.execute(
            f"SELECT id, substr(hypothesis, 1, 300) AS hypothesis, status FROM experiments "
            f"WHERE json_extract(facts, '$.{fact}') = ? ORDER BY id LIMIT 20",
            (number,),
        )
        found += [dict(row) | {"fact": fact} for row in rows]
    return found


def session(db: sqlite3.Connection) -> dict[str, Any] | None:
    """The lab that took the study up last: when, with how many slots, in which jail, what it has done and may spend."""
    row = db.execute("SELECT seq, at, body FROM events WHERE kind = 'began' ORDER BY seq DESC LIMIT 1").fetchone()
    if row is None:
        return None
    caps = db.execute("SELECT body FROM events WHERE kind = 'capped' ORDER BY seq DESC LIMIT 1").fetchone()
    done = db.execute("SELECT count(*) FROM events WHERE kind IN ('decided', 'rejected') AND seq > ?", (row["seq"],))
    told = {"at": row["at"], "done": done.fetchone()[0], "caps": json.loads(caps["body"]) if caps else {}}
    found: dict[str, Any] = json.loads(row["body"])
    return found | told


def beside(db: sqlite3.Connection, number: int, *, is_newer: bool) -> int | None:
    """The number of the experiment after this one, or before it."""
    ask = "SELECT min(id) FROM experiments WHERE id > ?" if is_newer else "SELECT max(id) FROM experiments WHERE id < ?"
    found = db.execute(ask, (number,)).fetchone()[0]
    return None if found is None else int(found)
