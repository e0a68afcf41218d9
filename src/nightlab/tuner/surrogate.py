"""The surrogate: a Gaussian process that says what any setting of the knobs would come to, and how sure it is.

Matern 5/2 with a length for each knob; lengths and noise are the most probable ones under wide priors (Rasmussen and
Williams 2006, chapters 2 and 5). numpy alone: the libraries that have it bring scipy or torch along for a hundred runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LENGTH, _LENGTH_SD = 0.5, 0.8
"""Of the range of one knob, times the square root of their number; standard deviation of the logarithm."""
_NOISE, _NOISE_SD = 0.02, 1.5
"""Of the variance of all values, for one run; standard deviation of the logarithm."""
_LOOKS, _JITTER = 30, 1e-8


@dataclass(frozen=True, slots=True)
class Shape:
    """How far a change of each knob reaches, float[d] of its range, and the share of one run that is noise."""

    lengths: Floats
    noise: float


class Surrogate:
    """What is believed once values[n] are known at places[n, d] between 0 and 1, each the mean of runs[n] runs."""

    def __init__(self, places: Floats, values: Floats, runs: Floats, shape: Shape) -> None:
        self.shape, self._places = shape, places
        self._middle, self._scale = float(values.mean()), float(values.std()) or 1.0
        told = (values - self._middle) / self._scale
        noisy = _correlation(_apart(places, places), shape.lengths)[0] + np.diag(shape.noise / runs + _JITTER)
        self._inverse = np.asarray(np.linalg.inv(noisy), dtype=float)
        self._level, self._weights, self._variance = _levelled(self._inverse, told)

    def at(self, places: Floats) -> tuple[Floats, Floats]:
        """The expected value at places[m, d] and its standard deviation, without the noise of a run."""
        near = _correlation(_apart(places, self._places), self.shape.lengths)[0]
        left = 1 - np.einsum("ij,ij->i", near @ self._inverse, near)
        sd = np.sqrt(self._variance * np.maximum(left, _JITTER))
        return self._middle + self._scale * (self._level + near @ self._weights), self._scale * sd

    def improvement(self, places: Floats, best: float) -> Floats:
        """How far below `best` each place is expected to come, where rising above it counts as nothing."""
        mean, sd = self.at(places)
        z = (best - mean) / sd
        below = np.array([0.5 * math.erfc(-one / math.sqrt(2)) for one in z])
        return np.asarray(sd * (z * below + np.exp(-z * z / 2) / math.sqrt(2 * math.pi)))


def shaped(places: Floats, values: Floats, runs: Floats) -> Shape:
    """The most probable shape: steps that grow while the slope keeps its sign and shrink where it turns (Rprop)."""
    told, apart = (values - values.mean()) / (float(values.std()) or 1.0), _apart(places, places)
    knobs = places.shape[1]
    prior = np.log([*[_LENGTH * math.sqrt(knobs)] * knobs, _NOISE])
    width = np.array([*[_LENGTH_SD] * knobs, _NOISE_SD])
    at, step, before = prior.copy(), np.full(knobs + 1, 0.25), np.zeros(knobs + 1)
    best, found = math.inf, at
    for _ in range(_LOOKS):
        height, slope = _height(apart, told, runs, at)
        height += float((((at - prior) / width) ** 2).sum()) / 2
        if height < best:
            best, found = height, at
        sign = np.sign(slope + (at - prior) / width**2)
        step = np.clip(step * np.where(sign * before > 0, 1.3, np.where(sign * before < 0, 0.5, 1.0)), 1e-3, 0.6)
        at, before = at - step * sign, sign
    return Shape(np.exp(found[:-1]), float(np.exp(found[-1])))


def _height(apart: Floats, told: Floats, runs: Floats, at: Floats) -> tuple[float, Floats]:
    """Less the logarithm of how probable the values are, level and variance at their best, and its slope."""
    lengths, noise = np.exp(at[:-1]), math.exp(at[-1])
    near, slope = _correlation(apart, lengths)
    noisy = near + np.diag(noise / runs + _JITTER)
    inverse = np.asarray(np.linalg.inv(noisy), dtype=float)
    _, weights, variance = _levelled(inverse, told)
    height = len(told) / 2 * math.log(variance) + float(np.linalg.slogdet(noisy)[1]) / 2
    pull = (inverse - np.outer(weights, weights) / variance) / 2
    return height, np.append(np.tensordot(apart, pull * slope, 2) / lengths**2, (np.diag(pull) / runs).sum() * noise)


def _levelled(inverse: Floats, told: Floats) -> tuple[float, Floats, float]:
    """The level far from all that is known, the weight of each value, and the variance of the whole."""
    level = float((inverse @ told).sum() / inverse.sum())
    weights = inverse @ (told - level)
    return level, weights, max(float((told - level) @ weights) / len(told), 1e-9)


def _apart(one: Floats, other: Floats) -> Floats:
    """Squared distances along each knob, [d, n, m]."""
    return (one.T[:, :, None] - other.T[:, None, :]) ** 2


def _correlation(apart: Floats, lengths: Floats) -> tuple[Floats, Floats]:
    """How alike two places are, [n, m], and how that grows with the logarithm of a length, per squared distance."""
    r = np.sqrt(5 * np.tensordot(lengths**-2, apart, 1))
    fall = np.exp(-r)
    return (1 + r + r * r / 3) * fall, (1 + r) * fall * (5 / 3)
