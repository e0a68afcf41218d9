"""The saying: what people tell a study, checked at the door and left in the ledger for the lab that runs it next."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from nightlab.errors import BadTask
from nightlab.ledger import Ledger
from nightlab.lineage import BASELINE, LAB
from nightlab.place import Place
from nightlab.values import Experiment, Status

LONGEST = 4_000
"""Letters of one thing said: more is a page, and program.md is the place for it."""


def steer(place: Place, text: str) -> None:
    """Tell whoever proposes next where to look. Raises BadTask, NotFound."""
    with closing(place.read()) as ledger:
        ledger.ask("steer", _words(text))


def note(place: Place, number: int, text: str) -> None:
    """Write a remark beside an experiment. Raises BadTask, NotFound."""
    with closing(place.read()) as ledger:
        one = ledger.experiment(number)
        ledger.ask("note", json.dumps({"experiment": one.id, "text": _words(text)}))


def veto(place: Place, number: int) -> None:
    """End an experiment that runs, or take a kept one out of the branch. Raises BadTask, NotFound."""
    with closing(place.read()) as ledger:
        one = ledger.experiment(number)
        if number == BASELINE:
            raise BadTask("experiment 0 is the baseline, which everything is compared with; it cannot be vetoed")
        if one.proposer == LAB:
            raise BadTask(f"experiment {number} is the lab's own ({one.hypothesis}); veto what was proposed instead")
        if one.status is not Status.KEPT and not one.status.is_open:
            raise BadTask(f"experiment {number} was {one.status} already; there is nothing left to veto")
        ledger.ask("veto", str(number))


def retry(place: Place, number: int) -> None:
    """Have an experiment's patch proposed again on the incumbent of that time. Raises BadTask, NotFound."""
    with closing(place.read()) as ledger:
        one = ledger.experiment(number)
        if not one.diff:
            raise BadTask(f"experiment {number} changed nothing ({one.hypothesis}); there is nothing to retry")
        if one.proposer == LAB:
            raise BadTask(f"experiment {number} is the lab's own ({one.hypothesis}); retry what was proposed instead")
        if one.status is Status.KEPT:
            raise BadTask(f"experiment {number} stands: it was kept, and nothing has taken it out")
        if one.status.is_open:
            raise BadTask(f"experiment {number} is still under way; see it with: nightlab show {number}")
        ledger.ask("retry", str(number))


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
