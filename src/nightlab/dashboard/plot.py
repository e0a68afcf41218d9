"""The progress picture: every experiment, the kept ones with their hypothesis, the running best, the noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nightlab.errors import BadTask
from nightlab.values import Experiment, Status

_BLUE, _ORANGE, _GREY = "#1f5fa8", "#d9730d", "#9a9a9a"
_MOST_LABELS = 28


def plot(experiments: Sequence[Experiment], path: Path, *, metric: str, direction: str, sigma: float | None) -> None:
    """Write the picture as SVG or PNG, by the path's ending. Raises BadTask when matplotlib is missing."""
    if path.suffix not in (".svg", ".png"):
        raise BadTask(f"cannot draw {path.name}: end its name in .svg or .png")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BadTask('drawing needs matplotlib; install it with: pip install "nightlab[plots]"') from error
    measured = [one for one in experiments if one.value is not None]
    if not measured:
        raise BadTask("there is nothing to draw yet: no experiment has been measured")
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    axes = figure.add_subplot()
    kept = [one for one in measured if one.status is Status.KEPT]
    lost = [one for one in measured if one.status is not Status.KEPT]
    failed = [one for one in experiments if one.status.is_failure and one.status is not Status.REJECTED]
    ends = [*(one.id for one in kept), experiments[-1].id]
    best = [float(one.value or 0.0) for one in kept]
    axes.plot(
        [one.id for one in lost],
        [float(one.value or 0.0) for one in lost],
        "o",
        color=_GREY,
        ms=4,
        alpha=0.7,
        label="discarded",
    )
    if kept:
        axes.step(ends, [*best, best[-1]], where="post", color=_BLUE, lw=2, label="running best")
        if sigma:
            low, high = ([*(v + side * sigma for v in best), best[-1] + side * sigma] for side in (-1, 1))
            axes.fill_between(ends, low, high, step="post", color=_BLUE, alpha=0.15, label="one run's noise (1 sd)")
        axes.plot([one.id for one in kept], best, "o", color=_BLUE, ms=7, label="kept")
    _frame(axes, measured, best, direction)
    _label(axes, kept)
    if failed:
        bottom = axes.get_ylim()[0]
        axes.plot(
            [one.id for one in failed], [bottom] * len(failed), "x", color=_ORANGE, ms=7, label="failed", clip_on=False
        )
    axes.set_xlabel("experiment")
    axes.set_ylabel(f"{metric} ({direction} is better)")
    failures = f", {len(failed)} failed" if failed else ""
    axes.set_title(f"{len(experiments)} experiments, {len(kept)} kept{failures}", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")
    figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)


def _frame(axes: object, measured: Sequence[Experiment], best: Sequence[float], direction: str) -> None:
    """Show the span that matters: from a little beyond the best to where most experiments lie."""
    values = sorted(float(one.value or 0.0) for one in measured)
    low, high = values[len(values) // 20], values[-1 - len(values) // 20]
    low, high = min([low, *best]), max([high, *best])
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - room, high + 2 * room)  # type: ignore[attr-defined]


def _label(axes: object, kept: Sequence[Experiment]) -> None:
    """Name the kept changes; where there are many, the ones that gained most."""
    chosen = sorted(kept[1:], key=lambda one: -(one.gain or 0.0))[:_MOST_LABELS]
    for one in [*kept[:1], *chosen]:
        words = one.hypothesis if len(one.hypothesis) <= 42 else one.hypothesis[:39] + "..."
        # parse_math off: a dollar sign in a hypothesis is a dollar sign.
        axes.annotate(  # type: ignore[attr-defined]
            words,
            (one.id, one.value),
            xytext=(4, 5),
            textcoords="offset points",
            rotation=28,
            fontsize=7.5,
            color="#333333",
            parse_math=False,
        )
