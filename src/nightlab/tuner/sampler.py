"""The sampler: Optuna's TPE, its study rebuilt in memory for every idea from what the ledger tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from nightlab.proposer import Context
from nightlab.tuner.space import Knob, Number
from nightlab.values import Experiment

BY_CHANCE = 10
"""Optuna's own choice."""


class _Range(FloatDistribution):
    """Never changed once made, so never copied: copies were three quarters of the time an idea took."""

    def __deepcopy__(self, memo: object) -> _Range:
        return self


Ranges = dict[str, BaseDistribution]


def places(
    context: Context, knobs: Sequence[Knob], told: Sequence[Experiment], seed: int, *, by_chance: int = BY_CHANCE
) -> Iterator[dict[str, float]]:
    """Key -> place of every knob, as often as asked; drawn evenly until so many values are known."""
    ranges = ranges_of(knobs)
    study = study_of(context, knobs, told, seed, by_chance=by_chance)
    while True:
        yield study.ask(ranges).params


def ranges_of(knobs: Sequence[Knob]) -> Ranges:
    """Where it may look. Every knob is a place on its scale, so that no set of choices can change under it."""
    return {k.key: _Range(k.low, k.high) for k in knobs}


def study_of(
    context: Context, knobs: Sequence[Knob], told: Sequence[Experiment], seed: int, *, by_chance: int = BY_CHANCE
) -> optuna.Study:
    """The present values first, then what was learned; failures as failures."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=by_chance)
    study = optuna.create_study(sampler=sampler, direction="minimize" if context.direction == "lower" else "maximize")
    present, ranges = {k.key: k.value for k in knobs}, ranges_of(knobs)
    if context.value is not None:
        study.add_trial(_trial(knobs, ranges, present, context.value))
    for experiment in told:
        value = None if experiment.status.is_failure else experiment.value
        study.add_trial(_trial(knobs, ranges, {**present, **experiment.facts["constants"]}, value))
    return study


def _trial(knobs: Sequence[Knob], ranges: Ranges, values: Mapping[str, Number], value: float | None) -> FrozenTrial:
    """An experiment in the sampler's words; a knob it did not have yet counts as where it stands now."""
    return create_trial(
        state=TrialState.FAIL if value is None else TrialState.COMPLETE,
        value=value,
        params={k.key: k.place_of(values[k.key]) for k in knobs},
        distributions=ranges,
    )
