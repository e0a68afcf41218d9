"""Observation: what a foreign loop tries, logged into a ledger of ours, so that the readings of a study open on it.

    from nightlab import observe
    night = observe("my-search", metric="val_loss", direction="lower")
    night.log(0.93, "wider layers")

Each number is the loop's own word for one run: grade E1, level printed, policy observed; nothing was raced here. Every
call opens the ledger anew under a lock: what it returns from is durable, and many processes may log into one study,
also across a fork. Not covered: file systems on which flock does not hold between machines.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from math import isfinite
from pathlib import Path
from typing import Any, Self, SupportsFloat

from nightlab.errors import BadRepository, BadTask, StudyBusy
from nightlab.ledger import Event, Ledger
from nightlab.place import MAIN, Place, find
from nightlab.values import Direction, Experiment, Status, improvement
from nightlab.words import one_line

POLICY = "observed"
_LAB = "lab"  # as the lineage has it; that one takes long to import, and a foreign script should not wait for us
_TAIL = 4_000


class Observation:
    """A study of somebody else's loop: log what it tried. Use as a context to have its end written down too."""

    def __init__(self, place: Place, metric: str, direction: Direction) -> None:
        self.place, self.metric, self.direction = place, metric, direction
        self._since = time.monotonic()

    def log(
        self,
        value: SupportsFloat | None,
        hypothesis: str = "",
        *,
        kept: bool | None = None,
        failed: bool = False,
        parent: int | None = None,
        diff: str = "",
        seconds: float | None = None,
        tokens: int = 0,
        money: float = 0.0,
        proposer: str = POLICY,
        secondary: Mapping[str, float] | None = None,
        commit: str | None = None,
        tail: str = "",
        facts: Mapping[str, Any] | None = None,
    ) -> int:
        """Write down one thing tried and return its number, when it is durable.

        Kept is what beats the best so far, unless said. A value that is no finite number is a failure, not a score.
        `seconds` is the time since the last call unless said; `tail` the end of its log. Raises BadTask where what is
        said makes no sense, NotFound where there is no such parent, StudyStuck where the disk is full.
        """
        now = time.monotonic()
        took, self._since = now - self._since if seconds is None else seconds, now
        outcome = _outcome(value, kept=kept, failed=failed)
        said = _said(hypothesis, proposer, diff, commit, facts) | _paid(money, tokens)
        ran: dict[str, Any] = {"value": outcome[0], "reason": outcome[2], "seconds": _amount("seconds", took)}
        ran |= {"tail": _clean(tail)[-_TAIL:], "secondary": _finite(secondary or {})}
        with self._open() as ledger:
            best = ledger.incumbent()
            grown = best if parent is None else ledger.experiment(parent)
            number, told = ledger.next_number(), self._decided(*outcome, best, grown)
            ledger.append(*_events(number, grown, said, ran, told))
        return number

    def _decided(
        self, value: float | None, status: Status | None, reason: str, best: Experiment | None, grown: Experiment | None
    ) -> dict[str, Any]:
        """What became of it: as it was said, else by whether it beats the best so far."""
        if value is None:
            return {"status": status, "value": None, "reason": reason}
        before = best.value if best else None
        is_better = before is None or improvement(self.direction, value, before) > 0
        if status is None:
            status = Status.KEPT if is_better else Status.DISCARDED
            reason = "observed: " + (_why(best) if is_better else f"no better than experiment {best.id if best else 0}")
        over = grown.value if grown else None
        gain = None if over is None else improvement(self.direction, value, over)
        return {"status": status, "value": value, "gain": gain, "reason": reason, "grade": "E1"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end("the observed loop ended" if kind is None else f"the observed loop ended by {kind.__name__}")

    def end(self, reason: str) -> None:
        """Write down why the loop ended; it may be taken up again."""
        with self._open() as ledger:
            ledger.append(Event("stopped", str(ledger.count("stopped")), {"reason": one_line(reason)}))

    @contextmanager
    def _open(self) -> Iterator[Ledger]:
        with _alone(self.place), closing(Ledger(self.place.ledger)) as ledger:
            yield ledger


def observe(
    name: str = MAIN,
    *,
    metric: str | None = None,
    direction: Direction | None = None,
    folder: Path | str | None = None,
) -> Observation:
    """The study of this name around a folder (the current one), to log a loop of your own into; begun where it is new.

    A new study has to be told its metric; the direction is lower unless said. Raises BadTask where the study is not one
    that is observed, or was begun with another metric or direction.
    """
    place = find(Path(folder or Path.cwd()), name)
    if direction not in (None, "lower", "higher"):
        raise BadTask(f"direction {direction!r} is neither 'lower' nor 'higher'; say which way is better")
    _make(place)
    with _alone(place):
        known = _known(place)
        if known is None and (holder := place.holder()):
            raise StudyBusy(f"study {name} is held by {holder}; log into another: --study NAME, observe('NAME')")
        if known is None:
            return Observation(place, *_begin(place, metric, direction or "lower"))
    if known.get("policy") != POLICY:
        raise BadTask(f"study {name} is not one that is observed; log into another: --study NAME, observe('NAME')")
    for word, asked in (("metric", metric), ("direction", direction)):
        if asked is not None and asked != known[word]:
            raise BadTask(f"study {name} was begun with {word} {known[word]!r}, not {asked!r}; name another study")
    return Observation(place, known["metric"], known["direction"])


def _make(place: Place) -> None:
    try:
        place.home.mkdir(parents=True, exist_ok=True)
        if (place.root / ".git").exists():
            place.repository.ignore("/.nightlab/")
    except OSError as error:
        raise BadRepository(f"cannot make {place.home} ({error.strerror}); make the folder writable") from error


def _known(place: Place) -> Mapping[str, Any] | None:
    """What a study was begun with; nothing where there is none, and none is made by looking."""
    if not place.ledger.exists():
        return None
    with closing(Ledger(place.ledger)) as ledger:
        return ledger.study()


def _begin(place: Place, metric: str | None, direction: Direction) -> tuple[str, Direction]:
    metric = one_line(metric or "")
    if not metric:
        raise BadTask(f"study {place.name} is new; say what it measures: --metric NAME, observe(metric='NAME')")
    facts = {"study": place.name, "seed": 0, "policy": POLICY, "metric": metric, "direction": direction}
    with closing(Ledger(place.ledger)) as ledger:
        ledger.append(Event("study", "0", facts | {"level": "printed"}))
    return metric, direction


@contextmanager
def _alone(place: Place) -> Iterator[None]:
    """One writer at a time, also between threads; a writer that is killed lets go."""
    lock = os.open(place.home / "observed.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _outcome(
    value: SupportsFloat | None, *, kept: bool | None, failed: bool
) -> tuple[float | None, Status | None, str]:
    """The value as a finite number, the status where it is settled, the reason."""
    try:
        number = None if value is None else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadTask(f"the value {value!r} is not a number; log None with failed=True where there is none") from error
    if failed or number is None:
        if kept:
            raise BadTask("what failed cannot be kept; leave kept= out, or failed=")
        return None, Status.CRASHED, "observed: it failed"
    if not isfinite(number):
        return None, Status.INVALID, f"observed: {number} is no number to compare with"
    if kept is None:
        return number, None, ""
    word = Status.KEPT if kept else Status.DISCARDED
    return number, word, f"observed: {word}, as the loop said"


def _said(
    hypothesis: str, proposer: str, diff: str, commit: str | None, facts: Mapping[str, Any] | None
) -> dict[str, Any]:
    if proposer == _LAB:
        raise BadTask(f"{_LAB!r} is the lab's own name; say who proposed with proposer=")
    said: dict[str, Any] = {
        "hypothesis": one_line(hypothesis) or "(nothing said)",
        "proposer": one_line(proposer) or POLICY,
    }
    return said | {"diff": _clean(diff), "tree": one_line(commit or ""), "facts": _facts(facts or {})}


def _paid(money: float, tokens: int) -> dict[str, Any]:
    return {"money": _amount("money", money), "tokens": int(_amount("tokens", tokens))}


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {one_line(name): float(one) for name, one in values.items() if isfinite(one)}


def _amount(name: str, value: float) -> float:
    if not isfinite(value) or value < 0:
        raise BadTask(f"{name} {value} is no amount; say how much, or leave it out")
    return float(value)


def _facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(json.loads(json.dumps(dict(facts), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise BadTask(f"the facts cannot be written as JSON ({error}); leave out what is not JSON") from error


def _why(best: Experiment | None) -> str:
    return "the first" if best is None else f"better than experiment {best.id} by its own word"


def _events(
    number: int,
    parent: Experiment | None,
    said: Mapping[str, Any],
    ran: Mapping[str, Any],
    told: Mapping[str, Any],
) -> Iterator[Event]:
    """One experiment of one run, as a ledger has it."""
    key, run = str(number), f"{number}-0"
    outcome = "finished" if told["value"] is not None else "crashed"
    yield Event("proposed", key, {**said, "parent": parent.id if parent else None}, number)
    started = {"run": run, "purpose": "candidate", "seed": 0, "asked_by": number, "again": 0}
    yield Event("started", run, started, number)
    yield Event("ran", run, {**ran, "run": run, "outcome": outcome}, number)
    yield Event("decided", key, told, number)
    if said["tree"] and told["status"] is Status.KEPT:
        yield Event("committed", key, {"commit": said["tree"]}, number)


def _clean(text: str) -> str:
    """Text that can be written down: what is no letter of any script becomes a question mark."""
    return str(text).encode("utf-8", "replace").decode()
