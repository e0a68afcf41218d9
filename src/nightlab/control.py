"""Control: what people tell a study, one table for the command line, the page and agents.

A wish is checked at the door and left in the ledger; the lab that runs takes it up within a quarter of a second, also
while runs are going. What needs a lab is refused where none runs; the rest waits for the next one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nightlab.errors import BadTask, StudyStuck
from nightlab.ledger import Ledger
from nightlab.lineage import BASELINE, LAB
from nightlab.place import Place
from nightlab.values import Experiment, Status

LONGEST = 4_000
"""Letters of one thing said: more is a page, and program.md is the place for it."""


@dataclass(frozen=True, slots=True)
class Control:
    """One verb: what it does in words, what it takes (number, text), whether a lab has to run."""

    verb: str
    words: str
    takes: tuple[str, ...]
    needs_lab: bool
    wish: Callable[[Ledger, int, str], str]
    """What is left in the ledger for an experiment and a text. Raises BadTask, NotFound."""


def ask(place: Place, verb: str, *, number: int | None = None, text: str | None = None) -> bool:
    """Leave a wish for the lab; returns whether one runs that takes it up now.

    Raises BadTask where the wish makes no sense, NotFound where there is no such experiment or study, StudyStuck where
    it needs a lab and none runs.
    """
    control = CONTROLS.get(verb)
    if control is None:
        raise BadTask(f"there is no control {verb!r}; write one of: {', '.join(CONTROLS)}")
    if ("number" in control.takes) != (number is not None):
        raise BadTask(f"{verb} takes {'the number of an experiment' if number is None else 'no number'}")
    with closing(place.read()) as ledger:
        is_running = place.holder() is not None
        if control.needs_lab and not is_running:
            raise StudyStuck(
                f"study {place.name} is not running, so there is nothing to {verb}; go on with it by: nightlab run"
            )
        ledger.ask(verb, control.wish(ledger, number or 0, text or ""))
    return is_running


def _stop(ledger: Ledger, number: int, text: str) -> str:
    if text not in ("", "now"):
        raise BadTask(f"stop takes nothing, or the word now; not {text[:40]!r}")
    return text


def _plain(ledger: Ledger, number: int, text: str) -> str:
    return ""


def _steer(ledger: Ledger, number: int, text: str) -> str:
    return _words(text)


def _note(ledger: Ledger, number: int, text: str) -> str:
    one = ledger.experiment(number)
    return json.dumps({"experiment": one.id, "text": _words(text)})


def _veto(ledger: Ledger, number: int, text: str) -> str:
    one = ledger.experiment(number)
    if number == BASELINE:
        raise BadTask("experiment 0 is the baseline, which everything is compared with; it cannot be vetoed")
    if one.proposer == LAB:
        raise BadTask(f"experiment {number} is the lab's own ({one.hypothesis}); veto what was proposed instead")
    if one.status is not Status.KEPT and not one.status.is_open:
        raise BadTask(f"experiment {number} was {one.status} already; there is nothing left to veto")
    return str(number)


def _approve(ledger: Ledger, number: int, text: str) -> str:
    one = ledger.experiment(number)
    if not one.status.is_open:
        raise BadTask(f"experiment {number} was {one.status} already; it does not wait for approval")
    return str(number)


def _retry(ledger: Ledger, number: int, text: str) -> str:
    one = ledger.experiment(number)
    if not one.diff:
        raise BadTask(f"experiment {number} changed nothing ({one.hypothesis}); there is nothing to retry")
    if one.proposer == LAB:
        raise BadTask(f"experiment {number} is the lab's own ({one.hypothesis}); retry what was proposed instead")
    if one.status is Status.KEPT:
        raise BadTask(f"experiment {number} stands: it was kept, and nothing has taken it out")
    if one.status.is_open:
        raise BadTask(f"experiment {number} is still under way; see it with: nightlab show {number}")
    return str(number)


CONTROLS = {
    one.verb: one
    for one in (
        Control("pause", "Start nothing new until resume.", (), True, _plain),
        Control("resume", "Go on after pause.", (), True, _plain),
        Control("stop", "Stop when what runs has ended; with the word now: end that too.", ("text",), True, _stop),
        Control("steer", "Tell whoever proposes where to look, from the next idea on.", ("text",), False, _steer),
        Control("note", "Write a remark beside an experiment.", ("number", "text"), False, _note),
        Control("veto", "End an experiment that runs, or take a kept one out again.", ("number",), False, _veto),
        Control("approve", "Let a version that waits go out to visitors.", ("number",), False, _approve),
        Control(
            "refuse", "Keep a version that waits from visitors; its experiment ends.", ("number",), False, _approve
        ),
        Control("retry", "Try an experiment's patch again, on the incumbent of now.", ("number",), False, _retry),
    )
}


def steered(place: Place) -> list[dict[str, Any]]:
    """Everything said by steer, oldest first, and when a lab took it up; None: not yet."""
    with closing(place.read()) as ledger:
        return [{"text": text, "at": at, "taken": taken} for text, at, taken in ledger.asked("steer")]


def notes(ledger: Ledger, experiment: Experiment) -> list[str]:
    """What is noted on an experiment, those remarks included that no lab has taken up yet."""
    waiting = [json.loads(argument) for argument in ledger.unheard("note")]
    return ledger.notes(experiment.id) + [one["text"] for one in waiting if one["experiment"] == experiment.id]


def lines(said: list[dict[str, Any]]) -> list[str]:
    """What was said, in words; it has still to be made harmless."""
    return [f"{_time(one['at'])}  {_taken(one['taken'])}  {one['text']}" for one in said]


def _taken(at: float | None) -> str:
    return "waits for a lab" if at is None else f"taken {_time(at)}"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def _words(text: str) -> str:
    text = "".join(letter for letter in text if letter.isprintable() or letter in "\n\t").strip()
    if not text:
        raise BadTask("there are no words in it; say what you mean")
    if len(text) > LONGEST:
        raise BadTask(f"that is {len(text)} letters, the most is {LONGEST}; write what is longer into program.md")
    return text
