"""The board: who found what and what it came to elsewhere; a pure function of the records, the same on every machine.

A win is *claimed* until somebody else has run it, *replicated* by as many labs as have, *confirmed* where one of the
labs that its hash drew has run it and all of them together see a gain, *disputed* where their runs contradict the
author's by more than three standard errors. Gains travel as shares of what they were raced against: across hardware
nothing else compares. No clock decides anything; where one is shown, it is the author's own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from math import sqrt
from statistics import fmean, median
from typing import Any

from nightlab.swarm.log import Log
from nightlab.swarm.record import Claim, Insight, Record, Result, Retraction, Verification
from nightlab.values import Status
from nightlab.words import one_line

DRAWN = 3
"""So many labs are drawn, by hash, to run a win again; the author chooses none of them."""
CALIBRATED = 3.0
"""Standard errors between what was reported and what came out that still count as chance."""
_STRIKES = 3
_CONFIRMED = 1.64
_MOST_SHARE = 1e6
_OWN_DOUBT = 2.0
_TRANSFER = 0.1
_INTERVAL = 1.96
_FINEST = 1e-6
"""The least error of a share: runs that repeat exactly still differ in the last digit elsewhere."""
_FAILED = (Status.CRASHED, Status.TIMEOUT, Status.INVALID)


@dataclass(slots=True)
class Standing:
    """One win and what others made of it."""

    record: Record
    result: Result
    runs: dict[str, Verification] = field(default_factory=dict)
    """By author, the latest run on the very tree that the win's author had it on; never that author's own."""
    adopted: dict[str, Verification] = field(default_factory=dict)
    """By author, the run after which it was kept there."""

    def add(self, author: str, run: Verification) -> None:
        """Take in what somebody else found."""
        if run.adopted:
            self.adopted[author] = run
        if run.has_same_parent:  # on another tree it is another question
            self.runs[author] = run

    def gain(self, drawn: Sequence[str] = ()) -> tuple[float, float] | None:
        """What it came to elsewhere as a share, and its standard error; None where nobody has run it.

        Where labs that were drawn have run it, they alone speak, for anybody can make keys and choose itself. Middle
        values, and no weights: whoever says that it is sure of itself counts no more.
        """
        whose = [author for author in drawn if author in self.runs] or list(self.runs)
        found = [one for author in whose if (one := share(self.runs[author])) is not None]
        if not found:
            return None
        return median(gain for gain, _ in found), median(error for _, error in found) / sqrt(len(found))

    def discrepancy(self, whose: Iterable[str]) -> float | None:
        """By how many standard errors, at the least, the report was above what more than half of these labs found on
        the same tree; None where half or fewer have run it there."""
        told, asked = share(self.result), list(whose)
        seen = [self.runs[author] for author in asked if author in self.runs]
        found = [one for run in seen if (one := share(run)) is not None]
        if told is None or 2 * len(found) <= len(asked):
            return None
        return sorted(_excess(told, one) for one in found)[len(found) - len(asked) // 2 - 1]

    def state(self, drawn: Sequence[str]) -> str:
        """One of: claimed, replicated, confirmed, disputed."""
        off = self.discrepancy(drawn)
        if off is not None and off > CALIBRATED:
            return "disputed"
        found = self.gain(drawn)
        if found is None:
            return "claimed"
        is_drawn = any(author in self.runs for author in drawn)
        return "confirmed" if is_drawn and found[0] > _CONFIRMED * found[1] else "replicated"


_Reached = tuple[bool, float, bool, str, str]
"""Whether nobody ran it again, when, whether it was taken over from another, by whom, which win."""


def share(said: Result | Verification) -> tuple[float, float] | None:
    """A gain and its standard error as shares of what it was raced against; None where there was none."""
    if said.gain is None or not said.against:
        return None
    scale = abs(fmean(said.against)) or 1.0
    error = abs(said.gain) if said.stderr is None else said.stderr
    gain, error = said.gain / scale, max(error / scale, _FINEST)
    return (gain, error) if max(abs(gain), error) < _MOST_SHARE else None


def _excess(told: tuple[float, float], found: tuple[float, float]) -> float:
    """How many standard errors too much was told. Nobody is excused by a doubt far above that of who ran it again;
    a tenth of what was found is allowed for another machine."""
    doubt = min(told[1], _OWN_DOUBT * found[1])
    return (told[0] - found[0]) / sqrt(doubt**2 + found[1] ** 2 + (_TRANSFER * found[0]) ** 2)


def drawn(win: str, authors: Iterable[str], author: str) -> list[str]:
    """The labs that a win's hash draws to run it again."""
    others = (one for one in authors if one != author)
    return sorted(others, key=lambda one: sha256(f"{win}{one}".encode()).digest())[:DRAWN]


def tasks(log: Log) -> list[str]:
    """The tasks that were spoken of, the busiest first."""
    counts = Counter(record.body.task for record in log)
    return sorted(counts, key=lambda one: (-counts[one], one))


class Board:
    """What one log says of one task."""

    def __init__(self, log: Log, task: str) -> None:
        self.log, self.task = log, task
        self.results: list[tuple[Record, Result]] = []
        self.claims: list[tuple[Record, Claim]] = []
        self.insights: list[tuple[Record, Insight]] = []
        self.wins: dict[str, Standing] = {}
        self.said: dict[str, Standing] = {}
        """All that was ever told as a win, also what was taken back or had been told by another: what others found of
        it counts for its author's name all the same."""
        self._labels: dict[str, str] = {}
        self._hardware: dict[str, str] = {}
        self._draws: dict[str, list[str]] = {}
        self._liars: frozenset[str] = frozenset()
        self._told_by = defaultdict[str, list[str]](list)
        self._since: dict[str, float] = {}
        retracted, runs = set[tuple[str, str]](), list[tuple[Record, Verification]]()
        latest: dict[str, float] = {}
        for record in log:
            latest[record.author] = self._since[record.id] = max(latest.get(record.author, 0.0), record.body.at)
            if record.body.task != task:
                continue
            self._labels[record.author] = one_line(record.body.label, 60)
            if isinstance(record.body, Result | Verification):
                self._hardware[record.author] = one_line(record.body.hardware, 60)
            match record.body:
                case Result() as body:
                    self.results.append((record, body))
                case Claim() as body:
                    self.claims.append((record, body))
                case Insight() as body:
                    self.insights.append((record, body))
                case Verification() as body:
                    runs.append((record, body))
                case Retraction() as body:
                    retracted.add((record.author, body.of))
        self._place(retracted, runs)

    def _place(self, retracted: set[tuple[str, str]], runs: list[tuple[Record, Verification]]) -> None:
        self.authors = sorted({record.author for record, _ in [*self.results, *self.claims, *runs]})
        for record, body in self.results:
            if body.status is Status.KEPT and body.change and share(body) is not None:
                self.said[record.id] = Standing(record, body)
                self._told_by[record.author].append(record.id)
        for record, run in runs:
            if run.of in self.said and record.author != self.said[run.of].record.author:
                self.said[run.of].add(record.author, run)
        liars = frozenset(author for author in self._told_by if self.reputation(author) == 0.0)
        self._liars, self._draws = liars, {}  # judged by all who were drawn; from here on they judge nobody
        self.results = [(one, body) for one, body in self.results if (one.author, one.id) not in retracted]
        told: set[tuple[str, str]] = set()
        for name in sorted(self.said.keys() & {one.id for one, _ in self.results}, key=self._priority):
            body = self.said[name].result
            mine = {(body.patch, body.parent), (body.change, body.parent)}
            if not mine & told:  # who only repeats it found nothing
                self.wins[name] = self.said[name]
            told |= mine

    def _priority(self, name: str) -> tuple[int, float, str]:
        """Who found it, of all who say so: whose win more of the labs that it drew have run; else by the authors'
        clocks, which may not run backwards within a chain. A thief is first only where it is faster than all of them.
        """
        return -sum(one in self.said[name].runs for one in self.drawn(name)), self._since[name], name

    def best(self) -> float:
        """The most that a confirmed win's whole tree has gained over the start, as a share; 0 where none is."""
        found = [
            win.result.total or 0.0 for name, win in self.wins.items() if win.state(self.drawn(name)) == "confirmed"
        ]
        return max(found, default=0.0)

    def drawn(self, win: str) -> list[str]:
        """The labs that are to run this win again, and whose runs decide; those whose name is worth nothing only until
        the others among them have."""
        if win not in self._draws:
            self._draws[win] = self._draw(self.said[win])
        return self._draws[win]

    def _draw(self, win: Standing) -> list[str]:
        name, author = win.record.id, win.record.author
        all_of_them = drawn(name, self.authors, author)
        others = [one for one in all_of_them if one not in self._liars]
        if not others:
            return drawn(name, (one for one in self.authors if one not in self._liars), author)
        return all_of_them if win.discrepancy(others) is None else others

    def reputation(self, author: str, *, mine: str | None = None) -> float | None:
        """How well an author's reports hold when others run them, from 0 to 1; None where nobody has.

        Three reports that turn out false bring it to 0; twenty that hold make up for one. Only runs by labs that were
        drawn count, and those of `mine`: one's own eyes.
        """
        seen: list[float] = []
        for name in self._told_by.get(author, ()):
            win = self.said[name]
            off = win.discrepancy([mine] if mine in win.runs else self.drawn(name))
            seen += [] if off is None else [off]
        if not seen:
            return None
        bad = sum(off > CALIBRATED for off in seen)
        return max(0.0, 1 - max(0.0, bad - (len(seen) - bad) // 20) / _STRIKES)

    # As people and programs read it

    def told(self, name: str) -> dict[str, Any]:
        """All of it; the keys are stable."""
        return {
            "swarm": name,
            "task": self.task,
            "digest": self.log.digest(),
            "records": len(self.log),
            "authors": [self._author(author) for author in self.authors] + self._muted(),
            "wins": self._wins(),
            "claims": self._open_claims(),
            "insights": [
                self._said(record) | {"text": one_line(body.text, 600), "evidence": body.evidence}
                for record, body in self.insights
            ],
            "milestones": self._milestones(),
            "totals": self._totals(),
        }

    def _label(self, author: str) -> str:
        return self._labels.get(author) or author[:8]

    def _said(self, record: Record) -> dict[str, Any]:
        return {"id": record.id, "author": record.author, "label": self._label(record.author)}

    def _author(self, author: str) -> dict[str, Any]:
        mine = [body for record, body in self.results if record.author == author]
        wins = [win for win in self.wins.values() if win.record.author == author]
        latest = mine[-1] if mine else None
        return {
            "author": author,
            "label": self._label(author),
            "hardware": self._hardware.get(author, ""),
            "results": len(mine),
            "kept": sum(body.status is Status.KEPT for body in mine),
            "replicated": sum(bool(win.runs) for win in wins),
            "reputation": self.reputation(author),
            "muted": False,
            "per_hour": latest.per_hour if latest else None,
        }

    def _muted(self) -> list[dict[str, Any]]:
        nothing = {"hardware": "", "results": 0, "kept": 0, "replicated": 0, "reputation": 0.0, "per_hour": None}
        return [
            {"author": author, "label": self._label(author), "muted": True, **nothing}
            for author in sorted(self.log.forks)
        ]

    def _wins(self) -> list[dict[str, Any]]:
        told = [self._win(win_id, win) for win_id, win in self.wins.items()]
        order = {"confirmed": 0, "replicated": 1, "claimed": 2, "disputed": 3}
        return sorted(told, key=lambda one: (order[one["state"]], -(one["low"] or one["relative"] or 0.0), one["id"]))

    def _win(self, win_id: str, win: Standing) -> dict[str, Any]:
        whose = self.drawn(win_id)
        told, found = share(win.result), win.gain(whose)
        relative, error = found or told or (None, 0.0)
        return self._said(win.record) | {
            "hardware": one_line(win.result.hardware, 60),
            "hypothesis": one_line(win.result.hypothesis),
            "state": win.state(whose),
            "replicated": len(win.runs),
            "gain": win.result.gain,
            "relative": relative,
            "low": relative - _INTERVAL * error if relative is not None and found else None,
            "high": relative + _INTERVAL * error if relative is not None and found else None,
            "grade": win.result.grade,
            "value": fmean(win.result.values) if win.result.values else None,
            "adopted_by": [
                {"author": one, "label": self._label(one), "at": run.at} for one, run in sorted(win.adopted.items())
            ],
            "inspired_by": win.result.inspired_by,
            "milestones": [one_line(name, 60) for name in win.result.milestones],
            "at": win.result.at,
        }

    def _open_claims(self) -> list[dict[str, Any]]:
        ended = {(record.author, body.patch) for record, body in self.results}
        return [
            self._said(record) | {"hypothesis": one_line(body.hypothesis), "at": body.at}
            for record, body in self.claims
            if (record.author, body.patch) not in ended
        ]

    def _milestones(self) -> list[dict[str, Any]]:
        """When each known idea was found again and by whom, and who took it up: by a win that carries it, or adopting
        one. A disputed win counts for nothing, and one that nobody ran again only where there is no other."""
        reached = defaultdict[str, list[_Reached]](list)
        for win_id, win in self.wins.items():
            state, since = win.state(self.drawn(win_id)), self._since[win_id]
            for name in win.result.milestones if state != "disputed" else ():
                reached[name].append((state == "claimed", since, False, win.record.author, win_id))
                for author, run in win.adopted.items():
                    reached[name].append((state == "claimed", max(since, run.at), True, author, win_id))
        return [self._milestone(one_line(name, 60), sorted(found)) for name, found in sorted(reached.items())]

    def _milestone(self, name: str, found: list[_Reached]) -> dict[str, Any]:
        spread: dict[str, float] = {}
        for _, at, _, author, _ in found:
            spread.setdefault(author, at)
        _, at, _, author, win_id = found[0]
        others = [{"author": one, "label": self._label(one), "at": when} for one, when in spread.items()]
        first = {"name": name, "first": win_id, "author": author, "label": self._label(author), "at": at}
        return first | {"spread": [one for one in others if one["author"] != author]}

    def _totals(self) -> dict[str, int]:
        counts = Counter(body.status for _, body in self.results)
        ran = {
            (body.patch, record.author) for record, body in self.results
        }  # one's own win on a newer tree is no repeat
        adopted = [win_id for win_id, win in self.wins.items() for _ in win.adopted]
        disputed = {win_id for win_id, win in self.wins.items() if win.state(self.drawn(win_id)) == "disputed"}
        return {
            "experiments": len(self.results),
            "kept": counts[Status.KEPT],
            "discarded": len(self.results) - counts[Status.KEPT] - sum(counts[one] for one in _FAILED),
            "crashed": sum(counts[one] for one in _FAILED),
            "duplicates": len(ran) - len({patch for patch, _ in ran}),
            "verifications": sum(len(win.runs) for win in self.wins.values()),
            "adoptions": len(adopted),
            "false_adoptions": sum(win_id in disputed for win_id in adopted),
        }
