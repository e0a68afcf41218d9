"""A small study to mirror, written straight into a ledger."""

from __future__ import annotations

from pathlib import Path

from conftest import make_repository

from nightlab.ledger import Event, Ledger
from nightlab.place import Place

HOSTILE = "=cmd()<script>alert(1)</script>\x1b[31m @everyone"


def place(folder: Path, experiments: int) -> Place:
    """A repository with a study of so many experiments, the baseline included: every fourth is kept, 3 crashed."""
    make_repository(folder, {"train.py": ""})
    found = Place(folder)
    found.home.mkdir()
    ledger = Ledger(found.ledger)
    facts = {"metric": "loss", "direction": "lower", "seed": 0, "policy": "race", "level": "printed"}
    ledger.append(Event("study", "0", facts))
    ledger.close()
    grow(found, experiments)
    return found


def grow(place: Place, experiments: int) -> None:
    """Let so many more experiments come to an end."""
    ledger = Ledger(place.ledger)
    first, events = ledger.next_number(), list[Event]()
    for number in range(first, first + experiments):
        is_kept, value = number % 4 == 0, 10.0 / (number + 1)
        proposed = {"parent": 0 if number else None, "hypothesis": f"idea {number} {HOSTILE}", "proposer": "tuner"}
        told = {
            "status": "kept" if is_kept else "discarded",
            "value": value,
            "gain": 0.5,
            "reason": "so",
            "grade": "E2",
        }
        if number == 3:
            told = {"status": "crashed", "value": None, "reason": "it crashed"}
        events.append(Event("proposed", str(number), proposed | {"money": 0.25, "tree": f"t{number}"}, number))
        events.append(Event("decided", str(number), told, number))
    ledger.append(*events)
    ledger.close()


def audit(place: Place, gain: float) -> None:
    """Let the study be audited."""
    ledger = Ledger(place.ledger)
    incumbent = ledger.incumbent()
    assert incumbent is not None
    found = {"experiment": incumbent.id, "gain": gain, "low": gain / 2, "high": gain * 2, "percent": 10 * gain}
    ledger.append(
        Event("audited", str(ledger.count("audited")), found | {"sealed": True, "seconds": 1.0, "seeds": [1, 2]})
    )
    ledger.close()
