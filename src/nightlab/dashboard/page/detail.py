"""One experiment in full: its evidence, its patch line by line, the end of its log while it is written, its kin."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightlab import control
from nightlab.dashboard.page import readings, studies
from nightlab.ledger import Ledger
from nightlab.lineage import BASELINE
from nightlab.place import Place
from nightlab.readings import row
from nightlab.values import Experiment

_MOST_LINES = 1_500
_LONGEST_LINE = 1_000
_TAIL = 16 * 1024
_LINKS = {"mends": "repairs", "retries": "tries again", "like": "is nearly the same change as"}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a patch: what kind of line it is, its sign, and the rest."""

    kind: str
    sign: str
    text: str


def change(diff: str) -> tuple[list[Line], int]:
    """A patch, line by line, and how many lines of it are left out."""
    lines = diff.split("\n")
    lines = lines[:-1] if lines and not lines[-1] else lines
    shown = [_line(one[:_LONGEST_LINE]) for one in lines[:_MOST_LINES]]
    return shown, len(lines) - len(shown)


def _line(text: str) -> Line:
    if text.startswith(("+++ ", "--- ", "diff ", "index ", "new file", "deleted file")):
        return Line("file", "", text)
    if text.startswith("@@"):
        return Line("hunk", "", text)
    kind = {"+": "added", "-": "removed"}.get(text[:1])
    return Line(kind, text[0], text[1:]) if kind else Line("same", "", text[1:] if text[:1] == " " else text)


def experiment_page(place: Place, number: int) -> dict[str, Any]:
    """Everything the page of an experiment shows. Raises NotFound."""
    with closing(place.read()) as ledger:
        one = ledger.experiment(number)
        study, incumbent = ledger.study() or {}, ledger.incumbent()
        lines, left_out = change(one.diff)
        found = {
            "one": row(one) | {"peak_mb": one.peak_mb},
            "metric": study.get("metric"),
            "runs": ledger.runs(number),
            "against": _against(ledger, one),
            "lines": lines,
            "lines_left_out": left_out,
            "notes": control.notes(ledger, one),
            "may": studies.may(one, is_baseline=number == BASELINE),
            "is_incumbent": incumbent is not None and incumbent.id == number,
            "log": _log(place, ledger, number),
            "seq": ledger.last_seq(),
        }
    with readings.reading(place.ledger) as db:
        links = [(words, one.facts[fact]) for fact, words in _LINKS.items() if fact in one.facts]
        kin = [number for number in (one.parent, *(other for _, other in links)) if isinstance(number, int)]
        found |= {
            "kin": {other["id"]: other for other in readings.rows_of(db, kin)},
            "links": [(words, other) for words, other in links if isinstance(other, int)],
            "linked": readings.linked(db, number),
            "brood": readings.family(db, number),
            "older": readings.beside(db, number, is_newer=False),
            "newer": readings.beside(db, number, is_newer=True),
        }
    return found


def _against(ledger: Ledger, one: Experiment) -> list[dict[str, Any]]:
    """The runs of the other side that its decision stands on."""
    if one.parent is None:
        return []
    return [{"run": run, "seed": seed, "value": value} for run, seed, value in ledger.pool(one.parent)][-20:]


def log_page(place: Place, number: int) -> dict[str, Any]:
    """The end of its log. Raises NotFound."""
    with closing(place.read()) as ledger:
        one = ledger.experiment(number)
        return {"one": row(one), "log": _log(place, ledger, number)}


def _log(place: Place, ledger: Ledger, number: int) -> dict[str, Any]:
    """The end of the latest run's log: from its file where it is there, else what the ledger kept of it."""
    runs = ledger.runs(number)
    is_live = place.holder() is not None and any(run["outcome"] is None for run in runs)
    for run in reversed(runs):
        text = _tail(place.home / "runs" / str(run["id"]) / "log")
        if text is not None:
            return {"text": _lines(text), "run": run["id"], "is_live": is_live}
        told = (ledger.find("ran", run["id"]) or {}).get("tail")
        if told:
            return {"text": _lines(str(told)[-_TAIL:]), "run": run["id"], "is_live": is_live}
    return {"text": "", "run": None, "is_live": is_live}


def _lines(text: str) -> str:
    """A log whose progress bars, which go back to the start of their line, stand one below the other."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _tail(path: Path) -> str | None:
    """The last kilobytes of a log; None where there is none. A link is not followed: a run could lay one."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        size = os.fstat(file).st_size
        return os.pread(file, _TAIL, max(0, size - _TAIL)).decode("utf-8", "replace")
    except OSError:
        return None
    finally:
        os.close(file)
