"""The evidence for a kept change, as the message of the commit that hands it over.

A change may come from several experiments: a constant that was tuned five times is one change. Hypotheses are other
people's words: one line each, never the first of a paragraph, so that none can forge a trailer or a patch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from textwrap import wrap
from typing import Any

from nightlab.ledger import Ledger
from nightlab.report import headline, report
from nightlab.values import Experiment, Files
from nightlab.words import one_line

TRAILER = "Nightlab-Experiment"
_LONGEST = 70
_ASSIGNED = re.compile(r"\s*([\w.]+)\s*(?::[^=]+)?=\s*([^=].*?)\s*(?:#.*)?")


def subject(experiments: Sequence[Experiment], before: Files, after: Files) -> str:
    """What the change does, in one line: where several experiments only set constants, from what to what."""
    if len(experiments) == 1:
        return _cut(experiments[0].hypothesis)
    if turned := _turned(before, after):
        return _cut(", ".join(f"{name} {old} -> {new}" for name, (old, new) in turned.items()))
    if not experiments:
        return "What is left of changes that were taken out again"
    most = max(experiments, key=lambda one: one.gain or 0.0)
    more = f" (and {len(experiments) - 1} more)"
    return _cut(most.hypothesis, _LONGEST - len(more)) + more


def _cut(text: str, most: int = _LONGEST) -> str:
    text = one_line(text) or "a change that nobody named"
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."


def _turned(before: Files, after: Files) -> dict[str, tuple[str, str]]:
    """The constants that changed, old and new; nothing where anything else did, or one name stands for two."""
    found: dict[str, tuple[str, str]] = {}
    for path in after:
        old, new = ((side.get(path) or "").splitlines() for side in (before, after))
        for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
            pairs = [] if kind == "equal" else [*zip(old[a:b], new[c:d], strict=False)]
            if kind != "equal" and (kind != "replace" or b - a != d - c):
                return {}
            for one, two in (pair for pair in pairs if pair[0] != pair[1]):
                was, now = _ASSIGNED.fullmatch(one), _ASSIGNED.fullmatch(two)
                if not (was and now and was[1] == now[1] and was[1] not in found):
                    return {}
                found[was[1]] = was[2], now[2]
    return found


def told(ledger: Ledger, experiments: Sequence[Experiment]) -> dict[str, Any]:
    """What is known of one change, as JSON: by its own races, by the prune, at a larger rung, and what it cost.

    Gains of several experiments are added up, each over its own parent.
    """
    gains = [one.gain for one in experiments if one.gain is not None]
    errors = [one.stderr for one in experiments if one.stderr is not None]
    seeds = {run["seed"] for one in experiments for run in ledger.runs(one.id) if run["purpose"] == "candidate"}
    paid = [ledger.find("proposed", one.id) or {} for one in experiments]
    return {
        "experiments": [one.id for one in experiments],
        "gain": sum(gains) if gains else None,
        "stderr": sum(error**2 for error in errors) ** 0.5 if errors and len(errors) == len(gains) else None,
        "grade": min((grade for one in experiments if (grade := _grade(ledger, one))), default=None),
        "runs": sum(one.runs for one in experiments),
        "seeds": len(seeds),
        "pruned": _pruned(ledger, {one.id for one in experiments}),
        "carried": _carried(ledger, {one.id for one in experiments}),
        "proposers": sorted({one.proposer for one in experiments}),
        "seconds": sum(one.seconds for one in experiments),
        "money": sum(one.get("money") or 0.0 for one in paid),
        "tokens": sum(one.get("tokens") or 0 for one in paid),
    }


def _grade(ledger: Ledger, one: Experiment) -> str | None:
    """What it was worth when it was kept: a later audit grades the incumbent for all that came before it, too."""
    return (ledger.find("decided", one.id) or {}).get("grade")


def _pruned(ledger: Ledger, numbers: set[int]) -> dict[str, Any] | None:
    """What the last prune found the change to be worth, everything else on; None where it did not look at it."""
    event = ledger.last("pruned")
    rows = zip(*(event.body[name] for name in ("units", "gains", "stderrs")), strict=True) if event else []
    found = (one for one in rows if set(one[0]) == numbers)
    return next(({"gain": gain, "stderr": stderr} for _, gain, stderr in found), None)


def _carried(ledger: Ledger, numbers: set[int]) -> bool | None:
    """Whether it plainly pays at a larger rung; None where that was not asked of each change."""
    event = ledger.last("transferred")
    return numbers <= set(event.body["carried_by"]) if event and numbers and "carried_by" in event.body else None


def whole(ledger: Ledger, *, name: str, is_only: bool) -> list[str]:
    """What is known of all changes together, in words: the audit and the larger rungs."""
    found = report(ledger, name=name, is_running=False)
    what = f"All that study {name} kept" if is_only else f"All changes of study {name} together, not this one alone"
    held = [
        f"At the larger rung {one['rung']}, together: gain {one['gain']:.4g}"
        + (f", {one['ratio']:.2f} of the gain here." if one["ratio"] is not None else ".")
        for one in found["transferred"]
    ]
    return [f"{what}: {headline(found)}.", *held]


def message(
    title: str, experiments: Sequence[Experiment], facts: Mapping[str, Any], *, metric: str, about: Sequence[str]
) -> str:
    """A commit message: what it does, what it brings by its own races, what the whole is worth, where it comes from."""
    said = [*_own(facts, metric), *about, _cost(facts)]
    origin = ["From these experiments, the first one first:" if len(experiments) > 1 else "From this experiment:"]
    origin += [_origin(one) for one in experiments]
    trailers = [f"{TRAILER}: {one.id}" for one in experiments] or [f"{TRAILER}: none"]
    trailers += [f"Proposer: {one_line(proposer)}" for proposer in facts["proposers"]]
    paragraphs = [[title], said, origin if experiments else [], trailers]
    paragraphs[1:3] = [[wrapped for line in lines for wrapped in _wrapped(line)] for lines in paragraphs[1:3]]
    return "\n\n".join("\n".join(lines) for lines in paragraphs if lines) + "\n"


def _wrapped(line: str) -> list[str]:
    # Indented, so that no word of a hypothesis begins a line: git am takes some for the start of the patch.
    return wrap(line, 72, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _own(facts: Mapping[str, Any], metric: str) -> list[str]:
    if facts["gain"] is None:
        return [f"Its gain in {metric} was not measured by itself."]
    noise = f" +- {facts['stderr']:.2g}" if facts["stderr"] else ""
    several = ", added up over its experiments" if len(facts["experiments"]) > 1 else ""
    lines = [
        f"Gain in {metric} when it was kept: {facts['gain']:.4g}{noise} ({facts['grade'] or 'no grade'}{several}; "
        f"{_counted(facts['runs'], 'run')} under {_counted(facts['seeds'], 'seed')})."
    ]
    if pruned := facts["pruned"]:
        worth = "it does not run without it" if pruned["gain"] is None else f"{pruned['gain']:.4g} +- "
        worth += "" if pruned["gain"] is None else f"{pruned['stderr']:.2g}"
        lines.append(f"Turned off with all others on, by the prune: {worth}.")
    if facts["carried"] is not None:
        lines.append(f"By itself it {'pays' if facts['carried'] else 'does not plainly pay'} at the larger rung.")
    return lines


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _cost(facts: Mapping[str, Any]) -> str:
    thought = f", {facts['money']:.2f} USD, {facts['tokens']} tokens" if facts["money"] or facts["tokens"] else ""
    return f"Cost: {facts['seconds']:.0f} s of runs{thought}."


def _origin(one: Experiment) -> str:
    gain = "" if one.gain is None else f", gain {one.gain:.4g}"
    noise = f" +- {one.stderr:.2g}" if one.stderr else ""
    raced = "" if one.parent is None else f", raced against {one.parent}"
    return f"- {one.id}{gain}{noise}{raced}: {one_line(one.hypothesis)}"
