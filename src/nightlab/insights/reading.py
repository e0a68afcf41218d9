"""The insights: what works here, read from every experiment of a ledger; the same ledger gives the same words.

An effect is what the first run of a patch gained on its parent's unselected runs, over all patches that ran, kept or
not: later runs are made only of what looked good, and keeps alone are lucky. Losses beyond three standard deviations
of one run count as three, so that one accident does not hide what the others show. Intervals are Student's. Where many
groups are looked at, some look good by luck: a group "holds" only if it passes Benjamini and Hochberg's (1995) step-up
at ten per cent over all groups tried three times or more.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from nightlab.insights import changes
from nightlab.ledger import Ledger
from nightlab.lineage import LAB
from nightlab.readings import estimate
from nightlab.stats import t_cdf, t_quantile
from nightlab.values import Direction, Experiment, Status, improvement

FEWEST = 3
"""Tries of one group before anything is said of it: one experiment shows nothing."""
_FALSE, _CONFIDENCE, _WORST = 0.1, 0.95, 3.0
_MOST, _MOST_IDS, _MATCHES = 12, 12, 50
Texts = Mapping[str, str]
Finding = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Try:
    """One patch that ran, or failed to: what its first run gained, and the groups it belongs to."""

    one: Experiment
    gain: float | None
    groups: tuple[tuple[str, str], ...]


def insights(ledger: Ledger, query: str = "", *, texts: Texts | None = None) -> dict[str, Any]:
    """What works here, as JSON: findings, and what matches the words of a query.

    `texts` are the incumbent's editable files: with them functions are told apart, and what was never tried is seen.
    """
    study = ledger.study() or {}
    sigma = _sigma(ledger)
    everything = ledger.experiments()[1:]
    tries = _tries(ledger, everything, study.get("direction", "lower"), texts or {})
    findings = [
        *_effects(tries, sigma, study.get("metric", "the metric")),
        *_interactions(ledger, tries, sigma),
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
        "sigma": sigma,
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


def _sigma(ledger: Ledger) -> float | None:
    measured = ledger.last("measured")
    return measured.body["sigma"] if measured else None


def _tries(ledger: Ledger, everything: Sequence[Experiment], direction: Direction, texts: Texts) -> list[Try]:
    ran = [one for one in everything if one.proposer != LAB and one.diff and one.status is not Status.REJECTED]
    ran = [one for one in ran if not one.status.is_open]
    places, parents = changes.homes(texts), dict[int, float | None]()

    def gain(one: Experiment) -> float | None:
        """What its first run gained; where an older or a foreign loop recorded no runs, the gain it told."""
        parent = one.parent or 0
        if parent not in parents:
            parents[parent] = estimate(ledger, ledger.experiment(parent))
        first, start = ledger.samples(one.id, "candidate")[:1], parents[parent]
        return improvement(direction, first[0][2], start) if first and start is not None else one.gain

    def groups(one: Experiment) -> Iterator[tuple[str, str]]:
        yield from (("change", kind) for kind in changes.kinds(one.diff, one.facts))
        yield from (("part", part) for part in changes.parts(one.diff, places))

    return [Try(one, gain(one), tuple(groups(one))) for one in ran]


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


@dataclass(frozen=True, slots=True)
class Effect:
    """A mean gain with its interval, and how often luck alone would show one so far above nothing, or below."""

    mean: float
    low: float
    high: float
    above: float
    below: float


def effect(gains: Sequence[float], sigma: float | None) -> Effect | None:
    """The mean of first-run gains, losses beyond three sigma counted as three; None below three of them."""
    worst = -_WORST * sigma if sigma else float("-inf")
    clipped = [max(gain, worst) for gain in gains]
    if len(clipped) < FEWEST:
        return None
    mean, freedom = fmean(clipped), len(clipped) - 1
    error = stdev(clipped) / sqrt(len(clipped))
    if not error:
        return Effect(mean, mean, mean, float(mean <= 0), float(mean >= 0))
    half = t_quantile((1 + _CONFIDENCE) / 2, freedom) * error
    return Effect(mean, mean - half, mean + half, 1 - t_cdf(mean / error, freedom), t_cdf(mean / error, freedom))


def _survivors(chances: Mapping[Any, float]) -> set[Any]:
    """What is left by Benjamini and Hochberg's step-up at ten per cent."""
    ranked = sorted(chances, key=lambda name: chances[name])
    passed = [n for n, name in enumerate(ranked, 1) if chances[name] <= _FALSE * n / len(ranked)]
    return set(ranked[: max(passed, default=0)])


def _effects(tries: Sequence[Try], sigma: float | None, metric: str) -> Iterator[Finding]:
    grouped = _grouped(tries)
    seen = {name: effect([one.gain for one in group if one.gain is not None], sigma) for name, group in grouped.items()}
    known = {name: found for name, found in seen.items() if found is not None}
    helps = _survivors({name: found.above for name, found in known.items()})
    hurts = _survivors({name: found.below for name, found in known.items()})
    for name in sorted(known, key=lambda name: (name[0], -known[name].low, name[1])):
        found, group = known[name], grouped[name]
        verdict = "it works" if name in helps else "it hurts" if name in hurts else "not told apart from nothing"
        kept = sum(one.one.status is Status.KEPT for one in group)
        failed = sum(one.one.status.is_failure for one in group)
        words = (
            f"{verdict}: tried {len(group)} times, {kept} kept, {failed} failed; first runs gained {found.mean:+.3g} "
            f"{metric} on average, 95 % {found.low:+.3g} to {found.high:+.3g}"
        ) + (f", {found.mean / sigma:+.2g} standard deviations of one run" if sigma else "")
        holds = True if name in helps else False if name in hurts else None
        yield _finding(*name, words, group, effect=found.mean, low=found.low, high=found.high, holds=holds)


# What else there is to see


def _interactions(ledger: Ledger, tries: Sequence[Try], sigma: float | None) -> Iterator[Finding]:
    """Pairs that were tried together and each alone; and keeps that a prune could not do without together."""
    known = {one.one.id: one for one in tries}
    for one in tries:
        both = [known.get(number) for number in one.one.facts.get("pair", ())]
        gains = [each.gain if each else None for each in (one, *both)]
        if len(gains) != 3 or None in gains:
            continue
        together, first, second = (gain or 0.0 for gain in gains)
        more = together - first - second
        is_clear = abs(more) > 2 * sqrt(3) * (sigma or 0.0)
        words = f"together {together:+.3g}, alone {first:+.3g} and {second:+.3g}: {more:+.3g} more than the sum"
        words += "" if is_clear else ", within what luck does"
        members = [one, *(each for each in both if each)]
        subject = " with ".join(str(number) for number in one.one.facts["pair"])
        yield _finding("interaction", subject, words, members, effect=more, holds=more > 0 if is_clear else None)
    for event in ledger.read(kind="pruned"):
        if "loses" in (event.body.get("reason") or ""):
            words = "some keeps that looked idle one by one are needed together: without all of them it plainly lost"
            yield _finding("interaction", f"prune {event.key}", words)


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
            yield _finding("simplification", one.hypothesis, words, [Try(one, one.gain, ())], effect=one.gain)


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
