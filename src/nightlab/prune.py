"""Prune: which of the kept changes still pay? Pure functions on runs with some of them turned off.

Each design run turns a quarter of the keeps off at random; a Bayesian ridge reads every keep's gain out of all runs at
once, and what is not worth its place goes. Effects are taken to add up: two keeps that only pay together may both look
small, which is why the pruned whole is measured against the full one before it is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from nightlab.values import Direction, improvement

CONFIRM_RUNS, LOOKS = 3, 2
"""Fresh runs on either side, pruned and full, before the drop is accepted; what is refused has a second look with as
many more, as three against three refuse a harmless drop by chance a quarter of the time."""
_OFF, _GUESS = 0.25, 4
_FEWEST = 8
_PRIOR_GAIN, _PRIOR_SD = 1.0, 1.5
WORTH, _LOSS = 0.2, 0.5
"""In sigma: what a keep has to bring to stay, and what the pruned whole may lose."""


def runs_needed(keeps: int) -> int:
    """How many design runs the prune of so many keeps takes: about two for each."""
    return max(2 * keeps, _FEWEST) if keeps else 0


def design(keeps: int, runs: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """One row per run, one column per keep, true where the keep is on; each is off in a quarter of the runs."""
    is_on = np.arange(runs) >= round(_OFF * runs)
    return rng.permuted(np.tile(is_on[:, None], keeps), axis=0)


def estimate(
    matrix: NDArray[np.bool_],
    values: Sequence[float],
    sigma: float,
    direction: Direction,
    *,
    blocks: Sequence[int] | None = None,
    noise: float | None = None,
) -> tuple[list[float], list[float]]:
    """Every keep's gain and its standard error: Bayesian ridge, each gain about 1 sigma beforehand (sd 1.5 sigma).

    Runs of one block share a seed, and with it what the seed adds to all of them; `noise` is then what one run still
    varies by (sigma unless said).
    """
    keeps = matrix.shape[1]
    gains = np.array([improvement(direction, value, values[0]) for value in values]) / sigma
    columns = _columns(matrix, blocks)
    seeds = columns.shape[1] - keeps
    scale = 1.0 if noise is None else noise / sigma
    weight = np.array([*[1e-9] * seeds, *[(scale / _PRIOR_SD) ** 2] * keeps])
    covariance = np.linalg.inv(columns.T @ columns + np.diag(weight))
    means = covariance @ (columns.T @ gains + weight * _PRIOR_GAIN)
    effects = slice(seeds, None)
    return list(map(float, sigma * means[effects])), list(
        map(float, scale * sigma * np.sqrt(np.diag(covariance))[effects])
    )


def _columns(matrix: NDArray[np.bool_], blocks: Sequence[int] | None) -> NDArray[np.float64]:
    """A column for each block, then one for each keep."""
    numbers = list(blocks or [0] * len(matrix))
    return np.column_stack([np.equal.outer(numbers, sorted(set(numbers))), matrix]).astype(float)


def scatter(matrix: NDArray[np.bool_], values: Sequence[float], blocks: Sequence[int] | None, guess: float) -> float:
    """What one run varies by once its keeps and its block are known: a guess that counts like four degrees of freedom,
    and what the runs themselves leave unexplained."""
    columns = _columns(matrix, blocks)
    fitted = np.linalg.lstsq(columns, np.array(values), rcond=None)
    left = float(((np.array(values) - columns @ fitted[0]) ** 2).sum())
    freedom = len(values) - int(fitted[2])
    return float(np.sqrt((_GUESS * guess**2 + left) / (_GUESS + freedom)))


def to_drop(means: Sequence[float], sigma: float) -> list[int]:
    """The keeps that are worth less than 0.2 sigma, by their place."""
    return [place for place, mean in enumerate(means) if mean < WORTH * sigma]


def is_accepted(pruned: Sequence[float], full: Sequence[float], sigma: float, direction: Direction) -> bool:
    """Whether the pruned whole, on fresh runs, loses less than half a sigma against the full one."""
    return improvement(direction, fmean(pruned), fmean(full)) > -_LOSS * sigma
