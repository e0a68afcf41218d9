"""The report: what came of a night, the number that was audited first, and beside it what the search itself claimed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from nightlab.ledger import Event, Ledger
from nightlab.readings import estimate, frontier, noise, row, status
from nightlab.values import Direction, Experiment, Status, improvement

_GREEDY = ": one lucky run is enough, so this is 1.4 to 3 standard deviations too good"
_NAMED = 8
"""Experiments named beside a group of failures: enough to look one up."""
_WARN = 0.8
_RUNS = ("ran", "audited", "pruned", "transferred")


def report(ledger: Ledger, *, name: str, is_running: bool) -> dict[str, Any]:
    """Everything that the end report says, as JSON; what is not known is None."""
    facts, tried = status(ledger, name=name, is_running=is_running), ledger.experiments()
    study, best, start = ledger.study() or {}, ledger.incumbent(), ledger.first()
    line = ledger.lineage(best.id) if best else []
    gone = [one for one in tried if one.status in (Status.PRUNED, Status.REVERTED)]
    stands = [one for one in line[1:] if one.status is Status.KEPT and one.proposer != "lab"]
    audited, lines_of = facts["audited"], {one.id: one.complexity for one in tried}
    told = {
        "study": name,
        **{one: facts[one] for one in ("metric", "direction", "level", "policy", "jail", "baseline", "incumbent")},
        "counts": {one: facts[one] for one in ("experiments", "kept", "discarded", "crashed", "rejected")},
        "began": event.at if (event := next(ledger.read(), None)) else None,
        "ended": ended_at(ledger),
        "is_sealed": bool(audited and audited["sealed"]),
        "audited": audited and audited | {"grade": "E3" if audited["low"] > 0 and audited["sealed"] else "E2"},
        "is_current": bool(audited and best and audited["experiment"] == best.id),
        "claim": _claim(ledger, study.get("direction", "lower"), start, best),
        "cost": facts["cost"] | _each(facts["cost"], stands, audited),
        "caps": _caps(ledger, facts["cost"]),
        "stands": [_stands(ledger, one, lines_of) for one in stands],
        "fell_away": [row(one) for one in gone],
        "not_kept": _not_kept(tried),
        "simplicity": _simplicity(lines_of, stands, gone, best),
        "transferred": [dict(event.body) for event in ledger.read(kind="transferred")],
        "pruned": dict(event.body) if (event := ledger.last("pruned")) else None,
        "proposers": ledger.proposers(),
        "failed": _failed(ledger),
        "failures": _failures(tried),
        "mended": [row(one) | {"mends": one.facts["mends"]} for one in tried if _has_mended(one)],
        "steered": [str(event.body["text"]) for event in ledger.read(kind="steered")],
        "stopped": last.body["reason"] if (last := ledger.last("stopped")) else None,
        "utilisation": utilisation(ledger),
        "exposure": facts["exposure"],
        "noise": noise(ledger),
        "frontier": frontier(ledger),
    }
    return told | {"caveats": caveats(told)}


def ended_at(ledger: Ledger) -> float | None:
    """When the last thing happened that was recorded."""
    return next((event.at for event in ledger.read(ledger.last_seq() - 1)), None)


def _has_mended(one: Experiment) -> bool:
    return "mends" in one.facts and one.value is not None


def _stands(ledger: Ledger, one: Experiment, lines_of: Mapping[int, float]) -> dict[str, Any]:
    """A keep with the grade it was decided at: what the audit grades later is the whole tree, not its last change."""
    grade = (ledger.find("decided", one.id) or {}).get("grade")
    return row(one) | {"decided_grade": grade, "lines": one.complexity - lines_of.get(one.parent or 0, 0.0)}


def _claim(
    ledger: Ledger, direction: Direction, start: Experiment | None, best: Experiment | None
) -> dict[str, Any] | None:
    """What the search believes of itself, on the data it decided with."""
    before, after = estimate(ledger, start), estimate(ledger, best)
    if before is None or after is None or best is None:
        return None
    gain = improvement(direction, after, before)
    percent = 100 * gain / abs(before) if before else None
    grade = (ledger.find("decided", best.id) or {}).get("grade")  # what it was worth before anybody audited it
    return {"start": before, "now": after, "gain": gain, "percent": percent, "grade": grade}


def _failed(ledger: Ledger) -> dict[str, int]:
    return {name: count for name, count in ledger.counts().items() if Status(name).is_failure}


def _each(cost: dict[str, float], stands: list[Experiment], audited: dict[str, Any] | None) -> dict[str, float | None]:
    """What a confirmed gain has cost: per keep that stands, and per percent; None where nothing was confirmed."""
    is_confirmed = audited is not None and audited["low"] > 0
    percent = audited["percent"] if audited and is_confirmed else None
    each: dict[str, float | None] = {}
    for name in ("seconds", "money"):
        each[f"{name}_per_keep"] = cost[name] / len(stands) if stands and is_confirmed else None
        each[f"{name}_per_percent"] = cost[name] / percent if percent else None
    return each


def _simplicity(
    before: Mapping[int, float], stands: list[Experiment], gone: list[Experiment], best: Experiment | None
) -> dict[str, Any]:
    """How much more there is to read than at the start, in lines; what simplified, and what the prune took away."""

    def added(one: Experiment) -> float:
        return one.complexity - before.get(one.parent or 0, 0.0)

    return {
        "lines": best.complexity if best else 0.0,
        "simplified_by": [one.id for one in stands if added(one) < 0],
        "lines_taken_out": sum(added(one) for one in gone),
    }


def _not_kept(tried: Sequence[Experiment]) -> dict[str, int]:
    """Why measured changes were not kept: clearly worse (2 standard errors), too close to tell, better but not by
    enough for what they add."""
    counts = {"worse": 0, "close": 0, "better": 0}
    for one in tried:
        if one.status in (Status.DISCARDED, Status.SHELVED) and one.gain is not None:
            away = 2 * (one.stderr or 0.0)
            is_far = abs(one.gain) > away
            counts["close" if not is_far else "better" if one.gain > 0 else "worse"] += 1
    return counts


def _failures(tried: Sequence[Experiment]) -> list[dict[str, Any]]:
    """What ended without a number, alike ones together, the most frequent first; one reason stands for all."""
    groups: dict[tuple[str, str], list[Experiment]] = {}
    for one in tried:
        if one.status.is_failure:
            groups.setdefault((one.status.value, re.sub(r"\d+(\.\d+)?", "#", one.reason)), []).append(one)
    found = [
        {"status": name, "reason": ones[0].reason, "count": len(ones), "experiments": [one.id for one in ones[:_NAMED]]}
        for (name, _), ones in groups.items()
    ]
    return sorted(found, key=lambda one: -one["count"])


def _caps(ledger: Ledger, cost: dict[str, float]) -> dict[str, Any] | None:
    """The caps the last session ran under, and which share of them is spent; None where there was none."""
    event = ledger.last("capped")
    if event is None:
        return None
    caps = {name: event.body.get(name) for name in ("money", "tokens")}
    shares = [cost[name] / cap for name, cap in caps.items() if cap]
    return caps | {"share": max(shares, default=None)} if any(caps.values()) else None


def utilisation(ledger: Ledger) -> float | None:
    """The share of their time for which the slots ran something, over all sessions; None before anything ran."""
    events = list(ledger.read())
    starts = [place for place, event in enumerate(events) if event.kind == "began"]
    sessions = [events[a:b] for a, b in pairwise([*starts, len(events)])]
    busy = sum(event.body.get("seconds") or 0.0 for session in sessions for event in session if event.kind in _RUNS)
    there = sum(_span(session) * session[0].body["slots"] for session in sessions)
    return min(1.0, busy / there) if there > 0 and busy else None


def _span(session: list[Event]) -> float:
    """Seconds from the start of a session to the last thing that happened in it."""
    return session[-1].at - session[0].at


def lines(told: dict[str, Any]) -> list[str]:
    """The report for people: the audited number first."""
    said = [headline(told)]
    if claim := told["claim"]:
        said.append(
            f"the loop's own claim, for comparison: {told['metric']} {claim['start']:.6g} -> {claim['now']:.6g}, "
            f"gain {claim['gain']:.4g}{_percent(claim)} ({claim['grade']}, on the data it decided with; "
            f"policy {told['policy']}{_GREEDY if told['policy'] == 'greedy' else ''})"
        )
    cost = told["cost"]
    each = cost["seconds_per_keep"]
    said.append(
        f"cost: {cost['seconds']:.0f} slot seconds, {cost['money']:.2f} USD, {cost['tokens']:.0f} tokens"
        + ("; nothing confirmed" if each is None else f"; {each:.0f} s for each keep that stands")
        + ("" if cost["seconds_per_percent"] is None else f", {cost['seconds_per_percent']:.0f} s for each percent")
    )
    if (caps := told["caps"]) and caps["share"] is not None and caps["share"] >= _WARN:
        said.append(f"warning: {100 * caps['share']:.0f} % of the cap is spent ({cap_words(caps)})")
    said += _proposers(told) + _kept(told) + _transfers(told)
    front = ", ".join(f"{one['id']} ({one['grade']})" for one in told["frontier"][-12:])
    if front:
        said.append(f"best in metric, simplicity, memory or time, nobody better in all: experiments {front}")
    if told["noise"] and told["noise"]["drifted"]:
        said.append("drift: the runs of an incumbent moved in time; only its last four were compared with")
    if told["stopped"]:
        said.append(f"the search stopped: {told['stopped']}")
    use, looks = told["utilisation"], told["exposure"]
    said.append(f"slots busy: {100 * use:.0f} % of the time" if use is not None else "slots busy: not known")
    said.append(
        f"exposure: {looks['decisions']} decisions on the search's data{_good_for(told)}, the seal opened "
        f"{looks['seal_opened']} times; level {told['level']}, jail {told['jail']}"
    )
    return said


def cap_words(caps: dict[str, Any]) -> str:
    """What a study may spend on agents."""
    words = [f"{caps['money']:.2f} USD"] if caps["money"] else []
    return " and ".join([*words, f"{caps['tokens']:,} tokens"] if caps["tokens"] else words)


def headline(told: dict[str, Any]) -> str:
    """The audited gain with its interval and grade, or that there is none."""
    found = told["audited"]
    if found is None and told["policy"] == "observed":
        return "observed: every number is the foreign loop's own word for one run; nothing was raced or audited here"
    if found is None and told["level"] == "live":
        return "not held against the holdout yet: nightlab live results says what there is"
    if found is None:
        return "not audited: run nightlab audit for a number to believe"
    where = "on fresh seeds and sealed data" if told["is_sealed"] else "on fresh seeds, not sealed"
    where = "against visitors who saw the start all the while" if told["level"] == "live" else where
    held = "" if found["low"] > 0 else ", no gain that holds"
    old = "" if told["is_current"] else "; another tree stands now, so audit again"
    return (
        f"audited {where}: gain {found['gain']:.4g}{_percent(found)}, 95 % interval {found['low']:.4g} to "
        f"{found['high']:.4g} ({found['grade']}){held}{old}"
    )


def caveats(told: dict[str, Any]) -> list[str]:
    """What the headline does not say, the weightiest first: for whoever has to believe it."""
    found, said = told["audited"], []
    if found is None:
        said.append("Nothing was audited: every number here is the search's own, on the data it decided with.")
    if told["level"] == "printed":
        said.append(
            "The runs report this number themselves (level printed): a script that prints what it likes is believed "
            "within the bounds. Level artifact or predictions lets a judge of yours score them."
        )
    if told["jail"] == "process":
        said.append("The runs were not jailed (--unsafe): nothing kept one from reading what judges it.")
    if found and not found["sealed"]:
        said.append(
            "The audit had fresh seeds but no sealed data: what only fits the data that the search decided with still "
            "counts as gain."
        )
    if found and not told["is_current"]:
        said.append("It was measured on another tree than the one that stands now; audit again.")
    if told["level"] == "live":
        return said + _of_visitors(told)
    return said + _of_chance(told) + _of_scale(told)


def _of_visitors(told: dict[str, Any]) -> list[str]:
    """What a live headline does not say."""
    found = told["audited"]
    said = [
        "What is served is no claim: serving needs e >= 20, a claim needs its level in the stream of all questions."
    ]
    if found and "naive" in found:
        said.append(
            f"The search's own lifts come to {found['naive']:+.1%} naive and {found['shrunk']:+.1%} shrunk. The "
            f"headline is of {found['exposed'][0]:,} visitors shown the champion and {found['exposed'][1]:,} held out, "
            "first seen after it was chosen."
        )
    return [*said, "It holds for the visitors who came while it was measured; other seasons bring others."]


def _of_chance(told: dict[str, Any]) -> list[str]:
    found, noise_, looks, said = told["audited"], told["noise"], told["exposure"], list[str]()
    if found and found["low"] == found["high"]:
        said.append("Runs repeat exactly, so the interval holds no chance; on other data the gain will be another.")
    elif found:
        said.append(
            f"The interval rests on {len(found['seeds'])} seeds a side. It covers the chance of the runs, not that of "
            "having picked this task, this data and this budget."
        )
    claim = told["claim"]
    if found and claim and told["is_current"] and claim["gain"] > found["high"]:
        said.append("The loop's own claim lies above the whole interval: the search flattered itself.")
    good_for = noise_ and noise_["good_for"]
    if good_for and looks["decisions"] > good_for:
        said.append(
            f"The search's data have served {looks['decisions']} decisions and are good for about {good_for:,}: the "
            "loop's own claim is likely too good."
        )
    if looks["seal_opened"] > 1:
        said.append(f"The seal was opened {looks['seal_opened']} times; with each look it is a little less of a seal.")
    if noise_ and noise_["drifted"]:
        said.append("The runs of an incumbent moved in time, so this machine was not the same all night.")
    if told["stands"]:
        single = sum(one["decided_grade"] == "E1" for one in told["stands"])
        said.append(
            f"The grade is that of the whole. A single change is worth the grade beside it: {single} of "
            f"{len(told['stands'])} were decided by one run (E1)."
        )
    return said


def _of_scale(told: dict[str, Any]) -> list[str]:
    tried = told["transferred"]
    if not tried:
        return ["It says nothing about larger scales: none was tried."] if told["stands"] else []
    return [
        f"At the larger rung {one['rung']} the gain does not hold: 80 % interval {one['low']:.3g} to {one['high']:.3g}."
        for one in tried
        if one["low"] <= 0
    ]


def _percent(found: dict[str, Any]) -> str:
    return "" if found["percent"] is None else f" ({found['percent']:.1f} % of the start)"


def _good_for(told: dict[str, Any]) -> str:
    found = told["noise"]
    if not found or not found["examples"]:
        return ""
    known = "a number not known yet" if found["good_for"] is None else f"{found['good_for']:,}"
    return f" (good for {known})"


def _proposers(told: dict[str, Any]) -> list[str]:
    """Who proposed, where it was more than the tuner alone; what failed, and what was repaired."""
    said = [
        f"{one['proposer']}: {one['experiments']} experiments, {one['kept']} kept, {one['money']:.2f} USD, "
        f"{one['tokens']} tokens"
        for one in told["proposers"]
        if one["tokens"] or one["money"]
    ]
    failed = ", ".join(f"{count} {name}" for name, count in sorted(told["failed"].items()))
    repaired = ", ".join(f"{one['id']} repaired {one['mends']}" for one in told["mended"])
    if failed:
        said.append(f"failed: {failed}" + (f"; experiment {repaired}" if repaired else ""))
    return said


def _kept(told: dict[str, Any]) -> list[str]:
    stands, gone, size = told["stands"], told["fell_away"], told["simplicity"]
    said = [f"{len(stands)} kept changes stand, {len(gone)} fell away"]
    said += [f"  fell away: {one['id']} {one['hypothesis']} ({one['reason']})" for one in gone]
    if told["pruned"]:
        dropped = told["pruned"]["dropped"]
        said.append(
            f"pruned: {len(dropped)} keeps, {size['lines_taken_out'] + 0.0:.3g} lines to read"
            if dropped
            else "pruned: nothing"
        )
    more = "more" if size["lines"] > 0 else "less"
    words = f"{abs(size['lines']):.1f} lines {more} to read than at the start" if size["lines"] else "as much to read"
    simpler = f"; simplified by {', '.join(map(str, size['simplified_by']))}" if size["simplified_by"] else ""
    return [*said, words + simpler]


def _transfers(told: dict[str, Any]) -> list[str]:
    return [_transfer(one) for one in told["transferred"]] or ["transfer: no larger rung was tried"]


def _transfer(one: dict[str, Any]) -> str:
    ends = "" if one["ratio"] is None else f"80 % interval {one['ratio_low']:.2f} to {one['ratio_high']:.2f}"
    ratio = f", {one['ratio']:.2f} of the gain here ({ends})" if ends else ""
    grade = "E4" if one["low"] > 0 else "does not hold"
    carried = f"; carried by {one['carried_by']}" if "carried_by" in one else ""
    return f"at the larger rung {one['rung']}: gain {one['gain']:.4g}{ratio} ({grade}){carried}"
