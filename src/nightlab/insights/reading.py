"""The insights: what works here, read from every experiment of a ledger; the same ledger gives the same words.

An effect is what the first run of a patch gained on runs of its parent that were made after that was kept, over all
patches that ran, kept or not: later runs are made only of what looked good, and keeps alone are lucky. Losses beyond
three times what gains vary by count as three, so that one accident does not hide what the others show. Intervals
are Student's, and hold the doubt about the parents' runs. Where many groups are looked at, some look good by luck: a
group "holds" only if it passes Benjamini and Hochberg's (1995) step-up at ten per cent over all groups with three such
gains or more.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import Any

from nightlab.insights import changes
from nightlab.insights.effects import FEWEST, GUESS, Effect, Gain, clipped, effect, survivors, typical
from nightlab.insights.gains import Yardstick, first_gains, yardstick
from nightlab.ledger import Ledger
from nightlab.lineage import LAB
from nightlab.stats import t_cdf
from nightlab.values import Direction, Experiment, Status

_MOST, _MOST_IDS, _MATCHES = 12, 12, 50
_LOSES, _OPEN = "it loses on average, and paid now and then", "not told apart from nothing"
Texts = Mapping[str, str]
Finding = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Try:
    """One patch that ran, or failed to: what its first run gained, and the groups it belongs to."""

    one: Experiment
    gain: Gain | None
    groups: tuple[tuple[str, str], ...]


def insights(ledger: Ledger, query: str = "", *, texts: Texts | None = None) -> dict[str, Any]:
    """What works here, as JSON: findings, and what matches the words of a query.

    `texts` are the incumbent's editable files: with them functions are told apart, and what was never tried is seen.
    """
    study = ledger.study() or {}
    direction: Direction = study.get("direction", "lower")
    noise, everything = yardstick(ledger, direction), ledger.experiments()[1:]
    tries = _tries(ledger, everything, direction, noise=noise, texts=texts or {})
    findings = [
        *_effects(tries, noise, study.get("metric", "the metric")),
        *_pairs(tries, noise),
        *_pruned(ledger),
        *_dead_ends(tries),
        *_untried(texts or {}, everything),
        *_simpler(ledger, everything),
        *_proposers(ledger),
        *_trend(tries),
        *_notes(ledger),
    ]
    return {
        "study": study.get("study"),
        "metric": study.get("metric"),
        "sigma": noise.sigma,
        "experiments": len(tries),
        "query": query,
        "findings": [one for one in findings if _fits(query, one["subject"], one["words"])],
        "matches": _matches(query, everything, findings) if query.strip() else [],
    }


def lines(told: Mapping[str, Any], *, most: int = 24) -> list[str]:
    """The findings in words, the most useful first: what holds, what hurts, dead ends, what was never tried."""
    rank = {True: 0, False: 1, None: 2}
    order = ("change", "part", "interaction", "dead_end", "untried", "simplification", "trend", "note", "proposer")
    found = sorted(told["findings"], key=lambda one: (rank[one["holds"]], order.index(one["kind"])))
    return [f"{one['subject']}: {one['words']}" for one in found[:most]]


# What is known of each patch


def _tries(
    ledger: Ledger, everything: Sequence[Experiment], direction: Direction, *, noise: Yardstick, texts: Texts
) -> list[Try]:
    ran = [one for one in everything if one.proposer != LAB and one.diff and one.status is not Status.REJECTED]
    ran = [one for one in ran if not one.status.is_open]
    places, gains = changes.homes(texts), first_gains(ledger, ran, direction, noise)

    def groups(one: Experiment) -> Iterator[tuple[str, str]]:
        yield from (("change", kind) for kind in changes.kinds(one.diff, one.facts))
        yield from (("part", part) for part in changes.parts(one.diff, places))

    tries = [Try(one, gains.get(one.id), tuple(groups(one))) for one in ran]
    wider = noise.doubted(_spread(tries, noise))
    return [replace(one, gain=one.gain and one.gain._replace(doubt=one.gain.doubt * wider)) for one in tries]


def _spread(tries: Sequence[Try], noise: Yardstick) -> float:
    """What gains of one group vary by from try to try: one run's noise at least."""
    return max(typical(_gains(group) for group in _grouped(tries).values()), noise.sigma or 0.0)


def _gains(group: Sequence[Try]) -> list[Gain]:
    return [one.gain for one in group if one.gain is not None]


def _grouped(tries: Sequence[Try]) -> dict[tuple[str, str], list[Try]]:
    found: dict[tuple[str, str], list[Try]] = {}
    for one in tries:
        for group in one.groups:
            found.setdefault(group, []).append(one)
    return dict(sorted(found.items(), key=lambda item: (item[0][0], -len(item[1]), item[0][1])))


def _finding(kind: str, subject: str, words: str, tries: Sequence[Try] = (), **more: Any) -> Finding:
    """One thing seen. `holds`: true where it works, false where it hurts, null where luck would do as well."""
    kept = sum(one.one.status is Status.KEPT for one in tries)
    grades = [one.one.grade for one in tries if one.one.grade]
    blank: Finding = {"effect": None, "low": None, "high": None, "holds": None}
    return {
        "kind": kind,
        "subject": subject,
        "words": words,
        **blank,
        "count": len(tries),
        "kept": kept,
        "failed": sum(one.one.status.is_failure for one in tries),
        "grade": min(grades, default=None),
        "experiments": [one.one.id for one in tries[-_MOST_IDS:]],
        **more,
    }


# Effects


def _effects(tries: Sequence[Try], noise: Yardstick, metric: str) -> Iterator[Finding]:
    sigma = noise.sigma
    grouped, known = _grouped(tries), _means(tries, noise)
    helps = {name for name in survivors({n: one.above for n, one in known.items()}) if _low(known[name]) > 0}
    loses = {name for name in survivors({n: one.below for n, one in known.items()}) if (known[name].high or 0.0) < 0}
    for name in sorted(known, key=lambda name: (name[0], -_low(known[name]), name[1])):
        found, group = known[name], grouped[name]
        hurts = name in loses and not any(one.one.status is Status.KEPT for one in group)
        verdict = "it works" if name in helps else "it hurts" if hurts else _LOSES if name in loses else _OPEN
        words = f"{verdict}: {_came_to(group)}; first runs gained {found.mean:+.3g} {metric} on average"
        words += "" if found.low is None else f", 95 % {found.low:+.3g} to {found.high:+.3g}"
        words += f", {found.mean / sigma:+.2g} standard deviations of one run" if sigma else ""
        holds = True if name in helps else False if hurts else None
        yield _finding(*name, words, group, effect=found.mean, low=found.low, high=found.high, holds=holds)


def _means(tries: Sequence[Try], noise: Yardstick) -> dict[tuple[str, str], Effect]:
    """The mean gain of each group that is large enough; without an interval where the noise is not known."""
    spread = _spread(tries, noise)
    found: dict[tuple[str, str], Effect] = {}
    for name, group in _grouped(tries).items():
        gains = clipped(_gains(group), spread)
        if (seen := effect(gains, spread=spread, freedom=noise.freedom + GUESS)) is not None:
            found[name] = seen if noise.sigma is not None else Effect(seen.mean)
    return found


def _low(found: Effect) -> float:
    return -inf if found.low is None else found.low


def _came_to(group: Sequence[Try]) -> str:
    kept = sum(one.one.status is Status.KEPT for one in group)
    failed = sum(one.one.status.is_failure for one in group)
    return f"tried {len(group)} times, {kept} kept, {failed} failed"


# What else there is to see


def _pairs(tries: Sequence[Try], noise: Yardstick) -> Iterator[Finding]:
    """Pairs that were tried together and each alone.

    The halves were picked for being good, so that a pair which falls short of their sum shows nothing. One that goes
    beyond it does, if it is more than luck among all pairs, and the pair itself pays: two that break the same thing
    lose less than the sum, too.
    """
    known = {one.one.id: one for one in tries}
    found: dict[int, tuple[float, float, Sequence[Try]]] = {}
    for one in tries:
        members = [one, *(half for number in _halves(one.one) if (half := known.get(number)))]
        gains = [each.gain for each in members if each.gain]
        if len(gains) == 3:
            more = gains[0].value - gains[1].value - gains[2].value
            error = sqrt(sum(noise.shared**2 + gain.doubt for gain in gains))
            found[one.one.id] = more, (more / error if error else inf * (more or -1.0)), members
    chances = {number: 1 - t_cdf(z, noise.freedom + GUESS) if z < inf else 0.0 for number, (_, z, _) in found.items()}
    paying = {number for number, (_, _, three) in found.items() if three[0].gain and three[0].gain.value > 0}
    beyond = survivors(chances) & paying if noise.sigma is not None else set()
    for number, (more, _, three) in found.items():
        together, first, second = (each.gain.value if each.gain else 0.0 for each in three)
        words = f"together {together:+.3g}, alone {first:+.3g} and {second:+.3g}: {more:+.3g} more than the sum"
        words += "" if number in beyond else ", within what luck and picking do"
        subject = " with ".join(str(each.one.id) for each in three[1:])
        yield _finding("interaction", subject, words, three, effect=more, holds=True if number in beyond else None)


def _halves(one: Experiment) -> list[int]:
    """The experiments that a pair was made of, as its proposer says."""
    said = one.facts.get("pair")
    return [half for half in said if isinstance(half, int)] if isinstance(said, list) and len(said) == 2 else []


def _pruned(ledger: Ledger) -> Iterator[Finding]:
    """Keeps that a prune could not do without together, and those worth another sum among the rest than when kept."""
    for event in ledger.read(kind="pruned"):
        if "loses" in (event.body.get("reason") or ""):
            words = "some keeps that looked idle one by one are needed together: without all of them it plainly lost"
            yield _finding("interaction", f"prune {event.key}", words)
        rows = zip(event.body["units"], event.body["gains"], event.body["stderrs"], strict=False)
        for numbers, worth, stderr in rows:
            unit = [ledger.experiment(number) for number in numbers]
            then = sum(one.gain or 0.0 for one in unit)
            if worth is not None and abs(worth - then) > 2 * sqrt(
                stderr**2 + sum((one.stderr or 0) ** 2 for one in unit)
            ):
                names = ", ".join(map(str, numbers))
                words = f"gained {then:+.3g} when kept, {worth:+.3g} beside the others later: luck, or they overlap"
                members = [Try(one, None, ()) for one in unit]
                yield _finding("interaction", f"keep {names}", words, members, effect=worth - then)


def _dead_ends(tries: Sequence[Try]) -> Iterator[Finding]:
    """What was tried three times or more and never kept; and the failures that came again."""
    for (_, subject), group in _grouped(tries).items():
        if len(group) >= FEWEST and not any(one.one.status is Status.KEPT for one in group):
            failed = [one.one.reason for one in group if one.one.status.is_failure]
            often = Counter(map(_normal, failed)).most_common(1)
            words = f"tried {len(group)} times, never kept" + (
                f"; {len(failed)} failed: {often[0][0]}" if often else ""
            )
            yield _finding("dead_end", subject, words, group)
    reasons: dict[str, list[Try]] = {}
    for one in tries:
        if one.one.status.is_failure:
            reasons.setdefault(_normal(one.one.reason), []).append(one)
    for reason, group in sorted(reasons.items(), key=lambda item: -len(item[1]))[:_MOST]:
        if len(group) >= FEWEST:
            yield _finding("dead_end", "a failure", f"{len(group)} times: {reason}", group)


def _normal(reason: str) -> str:
    """A reason without its numbers and names, so that one mistake counts as one."""
    return re.sub(r"'[^']{0,60}'", "'…'", re.sub(r"\d[\d.,e+-]*", "#", reason))[:90].strip()


def _untried(texts: Texts, everything: Sequence[Experiment]) -> Iterator[Finding]:
    diffs = [one.diff for one in everything if one.diff and one.status is not Status.REJECTED]
    for path, names in changes.untouched(texts, diffs).items():
        more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
        yield _finding("untried", path, f"no experiment has changed {', '.join(names[:_MOST])}{more}")


def _simpler(ledger: Ledger, everything: Sequence[Experiment]) -> Iterator[Finding]:
    """Keeps that stand and leave less to read."""
    before = {one.id: one.complexity for one in everything}
    for one in everything:
        less = before.get(one.parent or 0, 0.0) - one.complexity
        if one.status is Status.KEPT and one.proposer != LAB and less >= 1:
            gain = "" if one.gain is None else f", gain {one.gain:+.3g}"
            words = f"{less:.3g} lines less to read{gain} ({one.grade})"
            yield _finding("simplification", one.hypothesis, words, [Try(one, None, ())], effect=one.gain)


def _proposers(ledger: Ledger) -> Iterator[Finding]:
    for one in ledger.proposers():
        if one["proposer"] == LAB:
            continue
        cost = f", {one['money']:.2f} US dollars, {one['tokens']} tokens" if one["tokens"] or one["money"] else ""
        words = f"{one['experiments']} experiments, {one['kept']} stand{cost}"
        yield _finding("proposer", one["proposer"], words) | {"count": one["experiments"], "kept": one["kept"]}


def _trend(tries: Sequence[Try]) -> Iterator[Finding]:
    """Whether the vein dries up: the first third of the tries beside the last."""
    third = len(tries) // 3
    if third < 5:
        return
    early, late = ([one for one in side if one.one.status is Status.KEPT] for side in (tries[:third], tries[-third:]))
    found, left = (sum(one.one.gain or 0.0 for one in side) for side in (early, late))
    words = (
        f"of the first {third} tries {len(early)} stand, gaining {found:.3g}; of the last {third} {len(late)}, "
        f"gaining {left:.3g}"
    )
    yield _finding("trend", "returns", words) | {"count": len(tries)}


def _notes(ledger: Ledger) -> Iterator[Finding]:
    """What the human said: remarks beside experiments, and steering."""
    for event in ledger.read(kind="note"):
        if event.key.startswith("human"):
            found = _finding("note", f"experiment {event.experiment}", str(event.body["text"]))
            yield found | {"experiments": [event.experiment]}
    for event in ledger.read(kind="steered"):
        yield _finding("note", "steering", str(event.body["text"]))


# Searching


def _fits(query: str, *texts: str) -> bool:
    said = " ".join(texts).casefold()
    return all(word in said for word in query.casefold().split())


def _matches(query: str, everything: Sequence[Experiment], findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """The latest experiments that a query's words fit, by what was said of them, changed in them, or noted."""
    noted: dict[int, str] = {}
    for one in findings:
        if one["kind"] == "note":
            noted |= {number: f"{noted.get(number, '')} {one['words']}" for number in one["experiments"]}
    fit: Callable[[Experiment], bool] = lambda one: _fits(  # noqa: E731
        query, one.hypothesis, one.reason, one.proposer, one.status, noted.get(one.id, ""), *_changed(one)
    )
    found = [one for one in reversed(everything) if fit(one)][:_MATCHES]
    return [
        {"id": one.id, "status": one.status.value, "hypothesis": one.hypothesis, "gain": one.gain, "grade": one.grade}
        for one in found
    ]


def _changed(one: Experiment) -> Iterable[str]:
    return [*changes.parts(one.diff, {}), *changes.kinds(one.diff, one.facts)] if one.diff else ()
