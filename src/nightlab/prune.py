"""Prune: which of the kept changes still pay? Pure functions on runs with some of them turned off.

Each design run turns half of the keeps off at random. A ridge reads every keep's gain out of all runs at once, those
that the search made of its incumbents with them (`staircase`), and learns from the keeps themselves how much a keep of
this night is worth: after a night of pure noise every gain is drawn to zero and nearly everything goes. What is not
worth its place is dropped. Effects are taken to add up: two keeps that only pay together may both look small, which is
why the pruned whole is run against the full one, and refused where its loss is plain.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from nightlab.values import Direction, improvement

CONFIRM_RUNS = 3
"""Fresh runs on either side, pruned and full, before the drop is accepted; they count as design runs too."""
_RUNS_PER_KEEP, _FEWEST, _OFF = 1.25, 8, 0.5
_PRIOR_GAIN, _PRIOR_SD = 0.5, 1.0
_ROUNDS, _GUESS = 25, 4
WORTH, WORTH_ALONE = 0.1, 0.2
"""In sigma, what a keep has to bring to stay: by the ridge, which draws towards what keeps are worth, and by itself."""
_PLAIN = 1.5


def runs_needed(keeps: int) -> int:
    """How many design runs the prune of so many keeps takes: five for every four."""
    return max(int(_RUNS_PER_KEEP * keeps), _FEWEST) if keeps else 0


def design(keeps: int, runs: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """One row per run, one column per keep, true where the keep is on; each is off in half of the runs."""
    is_on = np.arange(runs) >= round(_OFF * runs)
    return rng.permuted(np.tile(is_on[:, None], keeps), axis=0)


def one_by_one(keeps: int) -> NDArray[np.bool_]:
    """One row with all keeps on, and one for each with that keep off: for where runs under one seed hardly vary.

    What a keep is worth beside the others is then seen at once, also where effects do not add up.
    """
    return np.vstack([np.ones(keeps, bool), ~np.eye(keeps, dtype=bool)])


def staircase(keeps: int, on: Sequence[int]) -> NDArray[np.bool_]:
    """Rows for runs that the search made of its incumbents: in each the first so many keeps were on.

    Only unselected runs belong here (the baseline's, re-runs, a race's runs after the first), and no run of a metric
    that drifts through the night: the ridge would take the drift for gains.
    """
    return np.arange(keeps) < np.array(on, dtype=int).reshape(-1, 1)


def estimate(
    matrix: NDArray[np.bool_],
    values: Sequence[float],
    sigma: float,
    direction: Direction,
    *,
    blocks: Sequence[int] | None = None,
    noise: float | None = None,
) -> tuple[list[float], list[float]]:
    """Every keep's gain and its standard error, by ridge.

    What a keep is worth beforehand (mean and spread) comes out of the keeps themselves, by expectation maximisation
    from half a sigma and one, which count as one keep more. The errors do not hold the doubt about that prior.
    Runs of one block share a seed, and with it what the seed adds to all of them.
    """
    gains = np.array([improvement(direction, value, values[0]) for value in values]) / sigma
    centred = _centred(matrix, blocks)
    known, turn = np.linalg.eigh(centred.T @ centred)
    pulled, flat = turn.T @ (centred.T @ gains), turn.sum(axis=0)
    prior, variance, count = _PRIOR_GAIN, _PRIOR_SD**2, matrix.shape[1] + 1
    for _ in range(_ROUNDS):
        doubt = 1 / (np.maximum(known, 0) + 1 / variance)
        means = turn @ (doubt * (pulled + flat * prior / variance))
        prior = (means.sum() + _PRIOR_GAIN) / count
        variance = (((means - prior) ** 2).sum() + doubt.sum() + _PRIOR_SD**2) / count
    return list(map(float, sigma * means)), list(map(float, sigma * np.sqrt(turn**2 @ doubt)))


def _centred(matrix: NDArray[np.bool_], blocks: Sequence[int] | None) -> NDArray[np.float64]:
    """Each column less its mean over the block."""
    numbers = np.array(blocks if blocks is not None else [0] * len(matrix))
    centred = matrix.astype(float)
    for block in set(numbers.tolist()):
        centred[numbers == block] -= centred[numbers == block].mean(axis=0)
    return centred


def scatter(matrix: NDArray[np.bool_], values: Sequence[float], blocks: Sequence[int], guess: float) -> float:
    """What one run varies by once its keeps and its block are known: a guess that counts like four degrees of freedom,
    and what the runs themselves leave unexplained."""
    columns = np.column_stack([np.equal.outer(blocks, sorted(set(blocks))), matrix]).astype(float)
    fitted = np.linalg.lstsq(columns, np.array(values), rcond=None)
    left = float(((np.array(values) - columns @ fitted[0]) ** 2).sum())
    freedom = len(values) - int(fitted[2])
    return float(np.sqrt((_GUESS * guess**2 + left) / (_GUESS + freedom)))


def to_drop(means: Sequence[float], sigma: float) -> list[int]:
    """The keeps that are worth less than 0.1 sigma, by their place."""
    return [place for place, mean in enumerate(means) if mean < WORTH * sigma]


def is_accepted(
    pruned: Sequence[float], full: Sequence[float], sigma: float, direction: Direction, *, noise: float | None = None
) -> bool:
    """Whether the pruned whole, on fresh runs, does not plainly lose against the full one.

    It may lose 1.5 sigma, about two standard errors of three runs against three: half of that would refuse a harmless
    drop by chance a quarter of the time, and a smaller loss shows in the next estimate, where these runs count. Where
    seeds are shared it may lose 1.5 times what one run then varies by (`noise`), or 0.2 sigma where that is more.
    """
    most = _PLAIN * sigma if noise is None else max(WORTH_ALONE * sigma, _PLAIN * noise)
    return improvement(direction, fmean(pruned), fmean(full)) > -most
