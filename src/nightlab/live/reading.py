"""Readings of a live study, as the command line, the page and the report show them; the keys are stable."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from nightlab import task
from nightlab.live import claims, labels
from nightlab.live.adapters import files
from nightlab.live.clock import clock
from nightlab.live.comparison import Snapshot, lifts
from nightlab.live.holdout import Three, three
from nightlab.live.opening import where
from nightlab.live.shrink import is_calibrated
from nightlab.live.store import Arm, Side, Store, open_store
from nightlab.place import Place
from nightlab.task import Live


def results(store: Store, live: Live, *, now: float) -> dict[str, Any]:
    """Everything that visitors have said so far."""
    snapshot = Snapshot.of(store, live.outcome, live.guardrails)
    split, arms = store.split(), {arm.number: arm for arm in store.arms()}
    asked, known = claims.asked(store), claims.channel(store, snapshot, live.effect)
    found, claimed = three(store, snapshot, live), claims.insights(store, snapshot, live, now=now)
    return {
        "champion": split.champion if split else None,
        "split": split.version if split else None,
        "weights": {str(arm): weight for arm, weight in split.weights.items()} if split else {},
        "outcome": live.outcome,
        "arms": [_arm(arm, arms, snapshot, known, live) for arm in arms.values()],
        "waiting": [_waits(arm, arms) for arm in arms.values() if arm.status == "waiting"],
        "claims": [one.told() for one in claimed],
        "findings": _findings(claimed, None if found is None else lift(found)),
        "questions": {"asked": len(asked), "open": sum(one.ended is None for one in asked)},
        "lift": None if found is None else lift(found),
        "apart": store.apart(),
        "observed": files.observed(store),
        "is_calibrated": is_calibrated(known.lifts, live.effect),
    }


def of_place(place: Place) -> dict[str, Any] | None:
    """The results of a study, as the page shows them; None where its task has no visitors."""
    live = task.load(place.root).live
    if live is None:
        return None
    with closing(open_store(where(place), layer=place.name)) as store:
        return results(store, live, now=clock()())


def _findings(claimed: Sequence[claims.Insight], lift: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The lift and the claims in the form of the report's other insights."""
    blank = {"effect": None, "low": None, "high": None, "count": 0, "kept": 0, "failed": 0, "grade": None}
    found: list[dict[str, Any]] = []
    if lift:
        found.append({"subject": "all changes together", "words": lift["words"], "holds": None, "experiments": []})
    for one in claimed:
        arm = one.question.arm
        found.append({"subject": f"version {arm}", "words": one.words(), "holds": True, "experiments": [arm]})
    return [{"kind": "claim", **blank, **one} for one in found]


def lift(found: Three) -> dict[str, Any]:
    """The three numbers."""
    return {
        "champion": found.champion,
        "naive": found.naive,
        "shrunk": found.shrunk,
        "holdout": found.holdout,
        "low": found.low,
        "high": found.high,
        "served": found.served.exposed,
        "held_out": found.held_out.exposed,
        "words": found.words(),
    }


def _arm(arm: Arm, arms: dict[int, Arm], snapshot: Snapshot, known: claims.Channel, live: Live) -> dict[str, Any]:
    side = snapshot.side(arm.number)
    told: dict[str, Any] = {"number": arm.number, "parent": arm.parent, "status": arm.status, "reason": arm.reason}
    told |= {"exposed": side.exposed, "converted": side.converted, "rate": _rate(side)}
    blank: dict[str, Any] = {"changes": {}, "naive": None, "shrunk": None, "better": None, "segments": {}}
    if arm.parent is None or arm.parent not in arms:
        return told | blank
    tallies = snapshot.tallies(arm.number, arm.parent)
    naive = labels.lift(tallies)
    test = labels.label_test(tallies, live.effect)
    segments = {name: one.lift for name, one in lifts(snapshot.by_segment(arm.number, arm.parent)).items()}
    return told | {
        "changes": {slot: list(texts) for slot, texts in claims.changes(arms[arm.parent], arm).items()},
        "naive": naive.lift if naive else None,
        "shrunk": known.prior.posterior(naive).lift if naive else None,
        "better": test.better,
        "segments": segments,
    }


def _waits(arm: Arm, arms: dict[int, Arm]) -> dict[str, Any]:
    before = arms.get(arm.parent) if arm.parent is not None else None
    changes = claims.changes(before, arm) if before else {slot: ("", text) for slot, text in arm.content.items()}
    return {"number": arm.number, "changes": {slot: list(texts) for slot, texts in changes.items()}}


def _rate(side: Side) -> float | None:
    return side.converted / side.exposed if side.exposed else None


def lines(told: dict[str, Any]) -> list[str]:
    """The results for people."""
    if told["champion"] is None:
        return ["nothing is shown to anybody yet; nightlab live deploy shows the start, nightlab run improves it"]
    said = [f"champion: version {told['champion']} (split {told['split']}); outcome: {told['outcome']}"]
    said += [_line(one) for one in told["arms"]]
    said += [f"waits for approval: version {one['number']}: {_changed(one['changes'])}" for one in told["waiting"]]
    said += [one["words"] for one in told["claims"]] or ["no claim stands yet"]
    if told["lift"]:
        said.append(told["lift"]["words"])
    said += files.lines(told["observed"])
    apart = ", ".join(f"{count} {reason}" for reason, count in told["apart"].items())
    return [*said, f"counted apart: {apart}"] if apart else said


def _line(one: dict[str, Any]) -> str:
    rate = "-" if one["rate"] is None else f"{one['rate']:.2%}"
    said = f"  {one['number']:>3} {one['status']:<11} {one['exposed']:>8} shown, {rate:>7}"
    if one["naive"] is None:
        return said
    return f"{said}, lift {one['naive']:+.0%} naive, {one['shrunk']:+.0%} shrunk, e {one['better']:.3g}: " + _changed(
        one["changes"]
    )


def _changed(changes: dict[str, list[str]]) -> str:
    return "; ".join(f"{slot} {new!r}" for slot, (_, new) in changes.items())
