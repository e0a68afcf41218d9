"""The report to read in the morning: one HTML file that opens from disk with no network, and the same as Markdown.

Whatever an agent wrote (hypotheses, reasons, patches) is text here: escaped by the template in HTML, by `plain` in
Markdown. The page allows its own two scripts by their hashes and nothing else, so that a slip there could not run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from nightlab.dashboard import board, chart
from nightlab.dashboard.terminal import duration, number
from nightlab.ledger import Ledger
from nightlab.report import cap_words, headline, report
from nightlab.words import harmless

STATIC = Path(__file__).parent / "static"
TEMPLATES = Path(__file__).parent / "templates"
_MOST = 40
"""Entries of one list: a morning's reading. What is left out is said, and how to see it."""
_MOST_LINES = 150  # of one patch
_MOST_PATCHES = 25
_LONGEST = 400  # letters of one line or reason
_KINDS = {
    "claim": "What may be said of visitors",
    "change": "Kinds of change",
    "part": "Parts of the code",
    "interaction": "Together",
    "dead_end": "Dead ends",
    "untried": "Never tried",
    "simplification": "Simpler",
    "proposer": "Proposers",
    "trend": "Trend",
    "note": "Notes",
}
_MOST_OF_A_KIND = 6
_BEST_WINS = 10


class Form(Protocol):
    """The report as a text of one kind."""

    def __call__(
        self,
        ledger: Ledger,
        *,
        name: str,
        is_running: bool,
        insights: Mapping[str, Any] | None,
        swarm: Mapping[str, Any] | None,
    ) -> str:
        """The report of a study; `swarm` is the board of the one that it has joined, or {"error": words}."""
        ...


class Headline(NamedTuple):
    """The first thing one reads: the number, what it is of, its interval, its grade, and whether it holds."""

    number: str
    words: str
    interval: str
    grade: str
    holds: bool


class Strip(NamedTuple):
    """Where, in percent of its width, the audited interval and the loop's claim stand on one scale."""

    zero: float
    low: float
    gain: float
    high: float
    claim: float | None


def html(
    ledger: Ledger,
    *,
    name: str,
    is_running: bool = False,
    insights: Mapping[str, Any] | None = None,
    swarm: Mapping[str, Any] | None = None,
) -> str:
    """The whole report as one self-contained page; bounded in size however long the night was."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    told = report(ledger, name=name, is_running=is_running)
    scripts = [_static("uPlot.iife.min.js"), _static("chart.js")]
    style = _static("uPlot.min.css") + _static("chart.css") + _static("report.css")
    charts = {"progress": chart.progress(ledger, most=600), "frontier": chart.frontier(ledger, most=400)}
    rooms = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    rooms.filters |= {
        "number": number, "duration": duration, "when": when, "harmless": harmless, "short": short, "cap": cap_words,
        "signed": signed, "span": span, "share": share,
        "labs": board.labs,
    }  # fmt: skip
    return rooms.get_template("report.html").render(
        told=told,
        headline=first(told),
        headline_in_words=headline(told),
        strip=strip(told),
        patches=_patches(ledger, told["stands"]),
        insights=_findings(insights),
        swarm=None if swarm is None else board.shown(swarm),
        is_running=is_running,
        most=_MOST,
        charts=charts,
        data={one: Markup(_json(value)) for one, value in charts.items()},
        scripts=[Markup(one) for one in scripts],
        style=Markup(style),
        policy=_policy(scripts, style),
    )


def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _json(value: object) -> str:
    """JSON that can stand inside a script element: no `<` can end it, whatever the words in it say."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(scripts: Sequence[str], style: str) -> str:
    """The content security policy: these very scripts and this very style; no address at all."""
    hashes = " ".join(map(_hash, scripts))
    return f"default-src 'none'; script-src {hashes}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def first(told: Mapping[str, Any]) -> Headline:
    """The audited gain, its interval and grade; or, in so many words, that there is none."""
    found, metric = told["audited"], told["metric"]
    if found is None:
        return Headline("Not audited", "no number to believe yet", "", "", False)
    share = found["percent"] / found["gain"] if found["percent"] is not None and found["gain"] else None
    scale, unit = (share, "\u00a0%") if share else (1.0, "")
    gain, low, high = (scale * found[one] for one in ("gain", "low", "high"))
    holds = found["low"] > 0
    which = "lower" if told["direction"] == "lower" else "higher"
    words = f"{which} {metric}" if holds and unit else f"gain in {metric}"
    interval = f"95 % interval {_tidy(low, unit)} to {_tidy(high, unit)}{unit}"
    return Headline(
        _tidy(gain, unit) + unit, words if holds else f"{words}: none that holds", interval, found["grade"], holds
    )


def _tidy(value: float, unit: str) -> str:
    return f"{value:.1f}" if unit else f"{value:.4g}"


def strip(told: Mapping[str, Any]) -> Strip | None:
    """The audited interval and the claim on one scale that begins at no gain; None where nothing was audited."""
    found, claim = told["audited"], told["claim"]
    if found is None:
        return None
    claimed = claim["gain"] if claim else None
    there = [0.0, found["low"], found["high"], found["gain"], *([] if claimed is None else [claimed])]
    low = float(min(there))
    width = float(max(there)) - low or 1.0

    def at(value: float) -> float:
        return 4 + round(92 * (value - low) / width, 2)

    return Strip(
        zero=at(0.0),
        low=at(found["low"]),
        gain=at(found["gain"]),
        high=at(found["high"]),
        claim=None if claimed is None else at(claimed),
    )


def _as_markdown(
    ledger: Ledger,
    *,
    name: str,
    is_running: bool,
    insights: Mapping[str, Any] | None = None,
    swarm: Mapping[str, Any] | None = None,
) -> str:
    said = markdown(report(ledger, name=name, is_running=is_running)).splitlines()
    known = [f"{plain(one['subject'])}: {plain(one['words'])}" for _, ones, _ in _findings(insights) for one in ones]
    return "\n".join([*said, *_section("What works here", known), *_section("The swarm", _swarm(swarm))]) + "\n"


def _as_json(
    ledger: Ledger,
    *,
    name: str,
    is_running: bool,
    insights: Mapping[str, Any] | None = None,
    swarm: Mapping[str, Any] | None = None,
) -> str:
    told = report(ledger, name=name, is_running=is_running) | {"insights": insights, "swarm": swarm}
    return json.dumps(told, indent=1, default=str) + "\n"


FORMS: dict[str, Form] = {".html": html, ".md": _as_markdown, ".json": _as_json}
"""What a report can be written as, by the ending of its file."""


def when(seconds: float | None) -> str:
    """A moment as people write it, in the zone of this machine."""
    return "-" if seconds is None else datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def short(text: str, most: int = _LONGEST) -> str:
    """Words from outside on one line, harmless and of bounded length."""
    line = " ".join(harmless(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def span(began: float | None, ended: float | None) -> str:
    """From when to when, the day said once where it is one day."""
    first_, last = when(began), when(ended)
    return f"{first_} to {last[11:] if first_[:10] == last[:10] else last}"


def share(value: float | None) -> str:
    """A gain as a share of what it was raced against, in percent."""
    return "-" if value is None else f"{100 * value:+.3g}\u00a0%"


def signed(value: float | None) -> str:
    """A number with its sign."""
    return "-" if value is None else f"{value:+.3g}"


def _patches(ledger: Ledger, stands: Sequence[Mapping[str, Any]]) -> dict[int, list[tuple[str, str]]]:
    """The patch of each of the first keeps, as lines with what each is: added, removed, a place, or context."""
    return {one["id"]: list(_lines(ledger.experiment(one["id"]).diff)) for one in stands[:_MOST_PATCHES]}


def _lines(diff: str) -> Iterator[tuple[str, str]]:
    kinds = {"+": "add", "-": "del", "@": "hunk"}
    lines = diff.splitlines()
    for line in lines[:_MOST_LINES]:
        kind = "file" if line.startswith(("+++", "---", "diff ")) else kinds.get(line[:1], "same")
        text = harmless(line.expandtabs(4))
        yield kind, text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    if len(lines) > _MOST_LINES:
        yield "hunk", f"({len(lines) - _MOST_LINES} more lines)"


def _findings(insights: Mapping[str, Any] | None) -> list[tuple[str, list[Mapping[str, Any]], int]]:
    """What was learned, by kind: title, the first findings, and how many more there are."""
    groups = by_kind(insights["findings"]) if insights else []
    return [(title, ones[:_MOST_OF_A_KIND], max(0, len(ones) - _MOST_OF_A_KIND)) for title, ones in groups]


def by_kind(findings: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Findings of one kind together, under its title."""
    groups = [(title, [one for one in findings if one["kind"] == kind]) for kind, title in _KINDS.items()]
    return [(title, ones) for title, ones in groups if ones]


def _swarm(told: Mapping[str, Any] | None) -> list[str]:
    """What the swarm came to, line by line; nothing where none was joined."""
    if told is None:
        return []
    found = board.shown(told)
    if "error" in found:
        return [plain(found["error"])]
    totals, best = found["totals"], [one for one in found["wins"] if one["state"] == "confirmed"][:_BEST_WINS]
    return [
        f"{plain(found['swarm'])}: {totals['experiments']} experiments by {board.labs(found['hardware'])}, "
        f"{totals['duplicates']} of them tried twice",
        f"{totals['verifications']} runs of others' wins, {totals['adoptions']} adopted, "
        f"{totals['false_adoptions']} of them falsely",
        *(
            f"{plain(one['hardware'] or 'hardware not said')}: {one['labs']} labs, {one['experiments']} experiments, "
            f"{one['confirmed']} confirmed wins"
            for one in found["hardware"]
        ),
        *(
            f"confirmed: {plain(one['hypothesis'])}, {share(one['relative'])} ({plain(one['label'])} on "
            f"{plain(one['hardware'] or 'hardware not said')}, adopted by {len(one['adopted_by'])})"
            for one in best
        ),
        *(f"found again: {_spread(one)}" for one in found["milestones"]),
    ]


def _spread(one: Mapping[str, Any]) -> str:
    others = ", ".join(f"{plain(step['label'])} after {duration(step['after'])}" for step in one["steps"])
    more = f" and {one['left']} more labs" if one["left"] else ""
    return f"{plain(one['name'])} first by {plain(one['label'])}, {when(one['at'])}; then {others or 'nobody'}{more}"


def markdown(told: Mapping[str, Any]) -> str:
    """The report in short: what `report` says, as Markdown that shows the words of others and does nothing else."""
    top, counts, cost = first(told), told["counts"], told["cost"]
    line = f"# {plain(top.number)} {plain(top.words)}" + (f" ({top.grade})" if top.grade else "")
    said = [line, "", plain(headline(dict(told))) + ".", ""]
    if claim := told["claim"]:
        percent = "" if claim["percent"] is None else f", {claim['percent']:.1f} %"
        said += [
            f"The loop's own claim, for comparison: {plain(str(told['metric']))} {claim['start']:.6g} to "
            f"{claim['now']:.6g}{percent} ({claim['grade']}, on the data it decided with).",
            "",
        ]
    said.append(
        f"{counts['experiments']} experiments, {counts['kept']} kept (the baseline too), {counts['discarded']} "
        f"discarded, {counts['crashed']} failed. {cost['seconds']:.0f} slot seconds, {cost['tokens']:.0f} tokens, "
        f"{cost['money']:.2f} USD."
    )
    said += _section("What this number does not say", [plain(one) for one in told["caveats"]])
    said += _section("What stands", [_kept(one) for one in told["stands"]])
    said += _section("What fell away", [f"{one['id']}: {_words(one)}" for one in told["fell_away"]])
    said += _section("What failed", [f"{one['count']} {one['status']}: {_reason(one)}" for one in told["failures"]])
    said += _section("At a larger scale", [_rung(one) for one in told["transferred"]])
    return "\n".join(said) + "\n"


def _section(title: str, entries: Sequence[str]) -> list[str]:
    if not entries:
        return []
    more = [f"- and {len(entries) - _MOST} more: `nightlab log`"] if len(entries) > _MOST else []
    return ["", f"## {title}", "", *(f"- {one}" for one in entries[:_MOST]), *more]


def _kept(one: Mapping[str, Any]) -> str:
    gain = "" if one["gain"] is None else f", gain {one['gain']:.3g}"
    noise = f" ± {one['stderr']:.2g}" if one["stderr"] else ""
    return f"{one['id']} ({one['decided_grade']}{gain}{noise}, {one['lines']:+.1f} lines): {plain(one['hypothesis'])}"


def _words(one: Mapping[str, Any]) -> str:
    return f"{plain(one['hypothesis'])} ({plain(one['reason'])})"


def _reason(one: Mapping[str, Any]) -> str:
    return f"{plain(one['reason'])} (experiment {', '.join(map(str, one['experiments']))})"


def _rung(one: Mapping[str, Any]) -> str:
    ratio = "" if one["ratio"] is None else f", {one['ratio']:.2f} of the gain here"
    return f"{plain(one['rung'])}: gain {one['gain']:.4g}{ratio} ({'E4' if one['low'] > 0 else 'does not hold'})"


def plain(text: str) -> str:
    """Words from outside as Markdown that only shows them: no markup, no HTML, no link, nobody is mentioned."""
    safe = re.sub(r"([\\`*_{}\[\]<>|~$&])", r"\\\1", short(text))
    return safe.replace("://", "\\://").replace("www.", "www\\.").replace("@", "`@`")
