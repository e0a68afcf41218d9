"""The progress picture: every experiment, the kept ones with their hypothesis, the running best, the noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightlab.errors import BadTask
from nightlab.values import Experiment, Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = tuple[int, Experiment, float]
"""Where on the axis, which experiment, its value."""
_BLUE, _ORANGE, _GREY = "#1f5fa8", "#d9730d", "#9a9a9a"
_MOST_LABELS = 28


class NoPlots(BadTask, ImportError):
    """The extra that draws is not installed."""


def plot(experiments: Sequence[Experiment], path: Path, *, metric: str, direction: str, sigma: float | None) -> None:
    """Write the picture as SVG or PNG, by the path's ending; experiments come in the order they were decided.

    Raises BadTask when there is nothing to draw, or nothing to draw with.
    """
    if path.suffix not in (".svg", ".png"):
        raise BadTask(f"cannot draw {path.name}: end its name in .svg or .png")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NoPlots('drawing needs matplotlib; install it with: pip install "nightlab[plots]"') from error
    points = [(n, one, one.value) for n, one in enumerate(experiments) if one.value is not None]
    if not points:
        raise BadTask("there is nothing to draw yet: no experiment has been measured")
    kept = [point for point in points if point[1].status is Status.KEPT]
    failed = [n for n, one in enumerate(experiments) if one.status.is_failure]
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    axes = figure.add_subplot()
    lost = [point for point in points if point not in kept]
    axes.plot([n for n, *_ in lost], [v for *_, v in lost], "o", color=_GREY, ms=4, alpha=0.7, label="discarded")
    _running_best(axes, kept, len(experiments) - 1, sigma)
    _frame(axes, [value for *_, value in points], [value for *_, value in kept])
    _label(axes, kept)
    if failed:
        marks: dict[str, Any] = {"color": _ORANGE, "ms": 7, "label": "failed", "clip_on": False}
        axes.plot(failed, [axes.get_ylim()[0]] * len(failed), "x", **marks)
    axes.set_xlabel("experiments, in the order they were decided")
    axes.set_ylabel(f"{metric} ({direction} is better)")
    failures = f", {len(failed)} failed" if failed else ""
    axes.set_title(f"{len(experiments)} experiments, {len(kept)} kept{failures}", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")
    figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)


def _running_best(axes: Axes, kept: Sequence[Point], last: int, sigma: float | None) -> None:
    """The incumbent's value over time, with the noise of one run around it."""
    if not kept:
        return
    places, best = [n for n, *_ in kept], [value for *_, value in kept]
    ends, values = [*places, last], [*best, best[-1]]
    axes.step(ends, values, where="post", color=_BLUE, lw=2, label="running best")
    if sigma:
        low, high = ([value + side * sigma for value in values] for side in (-1, 1))
        axes.fill_between(ends, low, high, step="post", color=_BLUE, alpha=0.15, label="one run's noise (1 sd)")
    axes.plot(places, best, "o", color=_BLUE, ms=7, label="kept")


def _frame(axes: Axes, values: Sequence[float], best: Sequence[float]) -> None:
    """Show the span that matters: from a little beyond the best to where most experiments lie."""
    ranked = sorted(values)
    low, high = ranked[len(ranked) // 20], ranked[-1 - len(ranked) // 20]
    low, high = min([low, *best]), max([high, *best])
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - room, high + 2 * room)


def _label(axes: Axes, kept: Sequence[Point]) -> None:
    """Name the kept changes; where there are many, the ones that gained most."""
    chosen = sorted(kept[1:], key=lambda point: -(point[1].gain or 0.0))[:_MOST_LABELS]
    for place, one, value in [*kept[:1], *chosen]:
        words = one.hypothesis if len(one.hypothesis) <= 42 else one.hypothesis[:39] + "..."
        words += f" ({one.grade})" if one.grade else ""
        looks: dict[str, Any] = {"rotation": 28, "fontsize": 7.5, "color": "#333333"}
        # parse_math off: a dollar sign in a hypothesis is a dollar sign.
        axes.annotate(words, (place, value), xytext=(4, 5), textcoords="offset points", parse_math=False, **looks)
