"""What the page says of one study, read from its ledger at one moment: plain values for the templates."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

from nightlab.dashboard.page import readings
from nightlab.lineage import LAB
from nightlab.place import Place
from nightlab.readings import status
from nightlab.values import Experiment, Status, improvement

STATES = {
    "unbegun": "not begun yet",
    "running": "running",
    "paused": "paused",
    "idle": "not running",
}


def unbegun(place: Place, seq: int = -1) -> dict[str, Any]:
    """A study of which there is no ledger yet, or nothing in it; with the same keys as one that has begun."""
    nothing: dict[str, Any] = dict.fromkeys(("facts", "gain", "audited", "session", "stopped", "spent", "left"))
    nothing |= {"slots": [], "thoughts": [], "proposers": [], "left_over": 0, "pace": {"run": None, "experiment": None}}
    state = {"study": place.name, "state": "unbegun", "words": STATES["unbegun"], "seq": seq, "now": time.time()}
    return state | nothing


def glance(place: Place) -> dict[str, Any]:
    """A study as the overview shows it: how it stands, what runs, what it has cost."""
    if not place.ledger.exists():
        return unbegun(place)
    holder = place.holder()
    with readings.reading(place.ledger) as db:
        seq = readings.last_seq(db)
        slots, thoughts = readings.slots(db), readings.thoughts(db)
        pace, session = readings.pace(db), readings.session(db)
    with closing(place.read()) as ledger:
        facts = status(ledger, name=place.name, is_running=holder is not None)
        is_paused = holder is not None and ledger.is_paused()
        stopped = ledger.last("stopped")
        proposers = [one for one in ledger.proposers() if one["proposer"] != LAB]
    state = "idle" if holder is None else "paused" if is_paused else "running"
    if facts["metric"] is None and holder is None:
        return unbegun(place, seq)
    return {
        "study": place.name,
        "state": state,
        "words": STATES[state],
        "seq": seq,
        "now": time.time(),
        "facts": facts,
        "gain": gain(facts),
        "audited": audited(facts),
        "slots": slots if holder else [],
        "thoughts": thoughts if holder else [],
        "left_over": 0 if holder else len(slots),
        "pace": pace,
        "spent": spent(facts["cost"], session),
        "left": left(session, pace, state),
        "session": session,
        "proposers": proposers,
        "stopped": stopped.body.get("reason") if stopped and holder is None else None,
    }


def gain(facts: dict[str, Any]) -> dict[str, float] | None:
    """What the search claims of itself: from the start to now, in the metric's units and in percent."""
    start, now = facts["baseline"]["value"], facts["incumbent"]["estimate"]
    if start is None or now is None or facts["direction"] is None:
        return None
    found = improvement(facts["direction"], now, start)
    return {"start": start, "now": now, "gain": found} | ({"percent": 100 * found / abs(start)} if start else {})


def audited(facts: dict[str, Any]) -> dict[str, Any] | None:
    """The audited gain, as the report says it: sealed and held is E3."""
    found: dict[str, Any] | None = facts["audited"]
    if not found or "gain" not in found:
        return None
    is_held, is_sealed = found["low"] > 0, bool(found.get("sealed"))
    is_current = found.get("experiment") == facts["incumbent"]["id"]
    grade = "E3" if is_held and is_sealed else "E2"
    return found | {"grade": grade, "is_held": is_held, "is_sealed": is_sealed, "is_current": is_current}


def spent(cost: dict[str, float], session: dict[str, Any] | None) -> float | None:
    """The share of its caps that the study has spent, of money or tokens whichever is nearer; None without a cap."""
    caps = session["caps"] if session else {}
    return max((cost[name] / caps[name] for name in ("money", "tokens") if caps.get(name)), default=None)


def left(session: dict[str, Any] | None, pace: dict[str, float | None], state: str) -> float | None:
    """Seconds until it stops by itself, by the pace of the last experiments; None where nothing says when."""
    if session is None or state != "running":
        return None
    caps, each = session["caps"], pace["experiment"]
    found = [max(0.0, session["at"] + caps["seconds"] - time.time())] if caps.get("seconds") else []
    if caps.get("experiments") and each is not None:
        found.append(max(0, caps["experiments"] - session["done"]) * each)
    return min(found, default=None)


def told_in_words(seen: dict[str, Any]) -> str:
    """One study in one line, for those who listen."""
    if seen["state"] == "unbegun":
        return f"Study {seen['study']} has not begun yet."
    facts, best = seen["facts"], seen["gain"]
    now = "" if best is None else f" {facts['metric']} {best['now']:.5g}, from {best['start']:.5g} at the start."
    return (
        f"Study {seen['study']} is {seen['words']}: {facts['experiments']} experiments, {facts['kept']} kept, "
        f"{facts['crashed']} failed.{now}"
    )


def summary(place: Place) -> dict[str, Any]:
    """What `nightlab status --json` prints."""
    with closing(place.read()) as ledger:
        return status(ledger, name=place.name, is_running=place.holder() is not None)


def may(one: Experiment, *, is_baseline: bool) -> dict[str, bool]:
    """Which controls make sense for an experiment now; the control table has the last word."""
    is_ours = one.proposer == LAB or is_baseline
    is_open = one.status.is_open
    return {
        "veto": not is_ours and (is_open or one.status is Status.KEPT),
        "retry": not is_ours and bool(one.diff) and not is_open and one.status is not Status.KEPT,
    }
