"""The truth beside what the lab says, where visitors are simulated: for the demonstration and the tests."""

from __future__ import annotations

from typing import Any

from nightlab.live import claims
from nightlab.live.comparison import Snapshot
from nightlab.live.store import Store
from nightlab.live.visitors import People
from nightlab.task import Live


def truth(store: Store, live: Live, crowd: People, *, now: float) -> dict[str, Any]:
    """Each claim with what is true of it, and the champion's true lift over the start."""
    snapshot = Snapshot.of(store, live.outcome)
    arms, split = {arm.number: arm.content for arm in store.arms()}, store.split()
    told = []
    for one in claims.insights(store, snapshot, live, now=now):
        new, old = arms[one.question.arm], arms[one.question.other]
        lifts = {audience.name: crowd.lift(new, old, audience.name) for audience in crowd.audiences}
        overall = crowd.lift(new, old)
        is_true = overall > 0 if one.question.kind == "helps" else len({round(lift, 6) for lift in lifts.values()}) > 1
        told.append({"words": one.words(), "kind": one.question.kind, "arm": one.question.arm, "is_true": is_true})
        told[-1] |= {"lift": overall, "audiences": lifts, "signs": _agree(one, lifts)}
    champion = arms[split.champion] if split else arms[0]
    return {"claims": told, "lift": crowd.lift(champion, arms[0])}


def _agree(one: claims.Insight, lifts: dict[str, float]) -> bool:
    """Whether the audience said to gain most truly gains more than the one said to gain least."""
    seen = {name.rpartition("=")[2]: segment.shrunk.lift for name, segment in one.segments.items()}
    if len(seen) < 2:
        return False
    best, worst = max(seen, key=lambda name: seen[name]), min(seen, key=lambda name: seen[name])
    return lifts[best] > lifts[worst]


def lines(told: dict[str, Any]) -> list[str]:
    """The truth for people."""
    said = []
    for one in told["claims"]:
        each = ", ".join(f"{name} {lift:+.0%}" for name, lift in one["audiences"].items())
        said.append(f"{'true ' if one['is_true'] else 'FALSE'} {one['words']}")
        said.append(f"      the truth: {one['lift']:+.1%} over all; {each}")
    return [*said, f"the champion's true lift over the start: {told['lift']:+.1%}"]
