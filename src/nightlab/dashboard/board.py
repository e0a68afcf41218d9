"""A swarm's board for people: what is shown of it and in which order, who adopted what, when ideas were found again.

Plain values for the page and the report. All words in it are of strangers: whoever prints them escapes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

MARKS = {"confirmed": "▲", "replicated": "△", "claimed": "○", "disputed": "✕"}
"""Beside the word for what a win has come to; no state is said by colour alone."""
FAMILIES = {"confirmed": "kept", "replicated": "open", "claimed": "open", "disputed": "failed"}
CELLS = {"own": ("◆", "found it"), "adopted": ("●", "adopted it")}
_WINS, _AUTHORS, _CLAIMS, _INSIGHTS = 50, 60, 30, 20
_ACROSS, _DOWN = 30, 40  # of the map: as much as a screen shows
_STEPS = 12  # labs named with one milestone
_BEST = 3  # wins named with one class of hardware

Told = Mapping[str, Any]


def shown(told: Told) -> dict[str, Any]:
    """What is shown of a board, and how much of each list is left out; {"error": words} stays what it is."""
    if "error" in told:
        return dict(told)
    lists = {"wins": _WINS, "authors": _AUTHORS, "claims": _CLAIMS, "insights": _INSIGHTS}
    wins = [dict(one) | {"rank": rank} for rank, one in enumerate(told["wins"], 1)]
    found = dict(told) | {"wins": wins, "authors": sorted(told["authors"], key=lambda one: -one["results"])}
    return {
        **{name: found[name] for name in ("swarm", "digest", "records", "totals")},
        **{name: found[name][:most] for name, most in lists.items()},
        "left": {name: max(0, len(found[name]) - most) for name, most in lists.items()},
        "ranks": {one["id"]: one["rank"] for one in wins[:_WINS]},
        "map": adoption(wins, found["authors"]),
        "milestones": milestones(told["milestones"]),
        "hardware": by_hardware(wins, found["authors"]),
    }


def adoption(wins: Sequence[Told], authors: Sequence[Told]) -> dict[str, Any]:
    """Who adopted what: a row for each lab that found or adopted something, a column for each win, best first."""
    columns = wins[:_ACROSS]
    cells: dict[str, dict[int, str]] = {}
    for win in columns:
        for one in win["adopted_by"]:
            cells.setdefault(one["author"], {})[win["rank"]] = "adopted"
        cells.setdefault(win["author"], {})[win["rank"]] = "own"
    rows = sorted((one for one in authors if one["author"] in cells), key=lambda one: -len(cells[one["author"]]))
    return {
        "wins": columns,
        "rows": [
            {
                "author": one["author"],
                "label": one["label"],
                "cells": [cells[one["author"]].get(n["rank"]) for n in columns],
            }
            for one in rows[:_DOWN]
        ],
        "wins_left": len(wins) - len(columns),
        "rows_left": max(0, len(rows) - _DOWN),
    }


def milestones(told: Sequence[Told]) -> list[dict[str, Any]]:
    """Known ideas by when they were found again, each with who took it up how much later and where that stands, in
    percent, on one scale for all. Times are the labs' own."""
    known = sorted((one for one in told if one["at"] is not None), key=lambda one: (one["at"], one["name"]))
    times = [at for one in known for at in (one["at"], *(step["at"] for step in one["spread"]))]
    first, width = min(times, default=0.0), (max(times, default=0.0) - min(times, default=0.0)) or 1.0

    def place(at: float) -> float:
        return round(2 + 96 * (at - first) / width, 2)

    return [
        dict(one)
        | {
            "dot": place(one["at"]),
            "steps": [dict(step) | {"after": step["at"] - one["at"]} for step in one["spread"][:_STEPS]],
            "dots": [place(step["at"]) for step in one["spread"]],
            "left": max(0, len(one["spread"]) - _STEPS),
        }
        for one in known
    ]


def by_hardware(wins: Sequence[Told], authors: Sequence[Told]) -> list[dict[str, Any]]:
    """What was found on which class of hardware, the one with most experiments first."""
    kinds: dict[str, list[Told]] = {}
    for one in authors:
        if not one["muted"]:
            kinds.setdefault(one["hardware"], []).append(one)
    for one in wins:
        kinds.setdefault(one["hardware"], [])
    found = [_class(kind, labs, [one for one in wins if one["hardware"] == kind]) for kind, labs in kinds.items()]
    return sorted(found, key=lambda one: (-one["experiments"], one["hardware"]))


def labs(hardware: Sequence[Told]) -> str:
    """How many labs there are, in words."""
    count = sum(one["labs"] for one in hardware)
    return "one lab" if count == 1 else f"{count} labs"


def _class(kind: str, labs: Sequence[Told], wins: Sequence[Told]) -> dict[str, Any]:
    paces = [one["per_hour"] for one in labs if one["per_hour"] is not None]
    return {
        "hardware": kind,
        "labs": len(labs),
        "experiments": sum(one["results"] for one in labs),
        "kept": sum(one["kept"] for one in labs),
        "per_hour": median(paces) if paces else None,
        "wins": len(wins),
        "confirmed": sum(one["state"] == "confirmed" for one in wins),
        "best": [one for one in wins if one["state"] != "disputed"][:_BEST],
    }
