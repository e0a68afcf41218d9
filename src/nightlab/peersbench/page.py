"""The page: what the bench of peers found, as the tables of docs/benchmarks.md; made from one file of results."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from nightlab.peersbench.constants import OURS, Found, summary

BEGIN, END = "<!-- made by nightlab bench peers -->", "<!-- end -->"
IDEAL = 120.0
BAR = 0.95
Rows = Sequence[Mapping[str, Any]]


def machine() -> str:
    """What it was measured on, in words."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "cpu"
    )
    memory = next((int(line.split()[1]) >> 20 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}, {memory} GB, Python {platform.python_version()}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def markdown(results: Mapping[str, Any], constants: Sequence[Found]) -> str:
    """Every table there is something for."""
    parts = [f"Measured on {results['machine']}: {_versions(results['versions'])}."]
    if rows := results.get("grid"):
        parts.append(throughput(rows))
    if rows := results.get("alone"):
        parts.append(alone(rows))
    if constants:
        parts.append(constant(constants))
    if rows := results.get("bank"):
        parts.append(bank(rows))
    if rows := results.get("killed"):
        parts.append(killed(rows, results.get("refused", [])))
    if rows := results.get("filled"):
        parts.append(filled(rows))
    return "\n\n".join(parts) + "\n"


def _versions(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def throughput(rows: Rows) -> str:
    """Experiments a minute, and as shares of ours."""
    ours = next((row["rate"] for row in rows if row["system"] == "nightlab"), None)
    shown = [
        [
            row["system"],
            row["label"],
            _number(row["rate"], ".1f"),
            _number(row["rate"] and row["rate"] / IDEAL, ".0%"),
            _number(row["rate"] and ours and row["rate"] / ours, ".2f"),
            row["at_once"],
            row["experiments"],
        ]
        for row in rows
    ]
    heads = ["system", "as", "experiments a minute", "of the ideal 120", "ours = 1", "evaluations at once", "seen"]
    return (
        "## Slots kept busy\n"
        "The model takes 2 s to answer, an evaluation 1 s, and there are two slots: 120 experiments a "
        "minute are the most there can be. An experiment is one candidate that was evaluated; here nobody has a reason "
        "to evaluate one twice. Whoever evaluates more than two at once has more slots than the others.\n\n"
        + _table(heads, shown)
    )


def alone(rows: Rows) -> str:
    """A system's own time."""
    kind = {"nightlab": "a process of its own, in a jail", "shinka": "a process of its own"}
    shown = [
        [
            row["system"],
            row["label"],
            _number(row["gap_ms"], ".0f"),
            kind.get(row["system"], "in the system's own process"),
        ]
        for row in rows
    ]
    heads = ["system", "as", "ms from one experiment to the next", "where an evaluation runs"]
    return "## Own time\nThe model answers and the evaluation ends at once: what is left is the system.\n\n" + _table(
        heads, shown
    )


def constant(found: Sequence[Found]) -> str:
    """The tuner beside Optuna."""
    told = summary(found)
    methods = sorted({name for row in told for name in row["means"]}, key=lambda name: (name != OURS, name))
    shown = []
    for row in told:
        best = min(row["means"].values())
        cells = [
            ("**{}**" if row["means"][name] == best else "{}").format(
                _with_error(row["means"][name], row["errors"][name])
            )
            if name in row["means"]
            else ""
            for name in methods
        ]
        shown.append([row["script"], row["runs"], row["seeds"], *cells])
    optimism = {
        name: fmean(row["optimism"].get(name, 0.0) for row in told if row["script"] == "diabetes") for name in methods
    }
    more = "; ".join(f"{name} {value:+.2f}" for name, value in optimism.items())
    return (
        "## Constants\n"
        "The loss (lower is better) of what a method holds to be best after so many runs, run again under "
        "fresh seeds: mean over seeds and its standard error. Every run of ours counts: baseline, repeats, races. All "
        "have the same ranges on the same scales, and begin where the script stands.\n\n"
        + _table(["script", "runs", "seeds", *methods], shown)
        + f"\n\nHow much worse than believed it is (diabetes, mean over the marks): {more}."
    )


def bank(rows: Rows) -> str:
    """One bank of edits."""
    shown = []
    for system in dict.fromkeys(row["system"] for row in rows):
        some = [row for row in rows if row["system"] == system]
        whole = [row for row in some if row.get("true") is not None]
        shown.append(
            [
                system,
                f"{len(whole)} of {len(some)}",
                _number(whole and fmean(row["true"] / row["possible"] for row in whole), ".0%"),
                _number(whole and fmean(row["claimed"] - row["true"] for row in whole), "+.2f"),
                _number(fmean(row["evaluations"] for row in some), ".0f"),
                sum(row["survivors"] for row in some),
            ]
        )
    heads = [
        "system", "banks it came through", "of the gain there was", "claimed too much", "evaluations", "processes left",
    ]  # fmt: skip
    return (
        "## One bank of edits\n"
        "Forty edits in one order: 8 good, 18 neutral, 10 harmful, 3 broken, 1 that hangs; one run "
        "varies by 1, the good ones are worth 0.25 to 3. What each system holds to be best at the end, by its true "
        "worth. Who re-runs, makes more evaluations of the same edits. What is "
        "claimed is the search's own number, ours before an audit.\n\n" + _table(heads, shown)
    )


def killed(rows: Rows, refused: Rows) -> str:
    """Faults."""
    through = {row["system"]: row for row in refused}
    shown = [
        [
            row["system"],
            row["before"],
            row["lost"],
            row["survivors"],
            "yes" if row["goes_on"] else "no",
            through[row["system"]]["experiments"] if row["system"] in through else "",
        ]
        for row in rows
    ]
    heads = [
        "system", "experiments before kill -9", "lost", "processes left after 2 s", "goes on",
        "of 30 with every third answer an error",
    ]  # fmt: skip
    return "## Faults\n\n" + _table(heads, shown)


def filled(rows: Rows) -> str:
    """A disk that fills up."""
    shown = [
        [
            row["system"],
            row["before"],
            f"stays, {row['more']} more" if row["exit"] is None else f"ends with {row['exit']}, {row['more']} more",
            row["lost"],
            row["survivors"],
            "yes" if row["goes_on"] else "no",
        ]
        for row in rows
    ]
    heads = [
        "system", "experiments before it was full", "then, in 15 s", "lost", "processes left after 2 s",
        "goes on once there is room",
    ]  # fmt: skip
    return "## A disk that fills up\n\n" + _table(heads, shown)


def _with_error(mean: float, error: float | None) -> str:
    return f"{mean:.4g}" if error is None else f"{mean:.4g} ± {error:.2g}"


def _number(value: float | Sequence[Any] | None, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else "none"


def put(page: Path, text: str) -> None:
    """Write the tables between their marks, and leave the rest of the page as it is."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")
