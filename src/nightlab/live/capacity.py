"""Capacity: what this traffic can honestly tell, said before anything is shown to anyone."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from nightlab.errors import BadTask
from nightlab.live.labels import fixed_sample

AVERAGE = 0.55
"""What an experiment takes on average, in fixed samples: most ideas have no effect, and end at 0.54 (`bench live`)."""
EFFECTS = (0.5, 0.2, 0.1, 0.05, 0.02)
LONGEST = 90.0
"""What takes longer to find out than a claim holds is not worth finding out."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a year of this traffic buys at one effect; `days`: how long one experiment takes with all of the traffic."""

    effect: float
    visitors: int
    days: float
    a_year: int


def visitors_a_day(rate: float, effect: float, *, experiments_a_day: float = 100.0, layers: int = 20) -> float:
    """Visitors a day that so many experiments a day need, in layers that overlap: a visitor is in one of each layer."""
    return experiments_a_day / layers * AVERAGE * fixed_sample(rate, effect)


def capacity(
    rate: float,
    effect: float,
    visitors_a_day: float,
    *,
    layers: int = 1,
    holdout: float = 0.05,
    least_days: float = 1.0,
) -> Capacity:
    """What can be finished in a year; each takes a whole day at least, since mornings differ from evenings."""
    each = AVERAGE * fixed_sample(rate, effect)
    days = max(each / (visitors_a_day * (1 - holdout)), least_days)
    return Capacity(effect, ceil(each), days, int(365 / days) * layers)


def table(rate: float, visitors_a_day: float, *, layers: int = 1, holdout: float = 0.05) -> list[Capacity]:
    """The same for effects from large to small, as far as the rate allows."""
    effects = [effect for effect in EFFECTS if rate * (1 + effect) < 1]
    return [capacity(rate, effect, visitors_a_day, layers=layers, holdout=holdout) for effect in effects]


def smallest_effect(rate: float, visitors_a_day: float, *, days: float = LONGEST, holdout: float = 0.05) -> float:
    """The smallest effect for which a whole experiment, up to its horizon, fits into so many days."""
    low, high = 0.0, (1 - rate) / rate * 0.999
    for _ in range(60):
        middle = (low + high) / 2
        needs = 2 * fixed_sample(rate, middle)
        low, high = (low, middle) if needs <= days * visitors_a_day * (1 - holdout) else (middle, high)
    return high


def require_power(
    rate: float,
    effect: float,
    visitors_a_day: float,
    *,
    holdout: float = 0.05,
    longest: float = LONGEST,
    explore: bool = False,
) -> None:
    """Refuse a plan whose experiments may not end within so many days, unless one only wants to explore."""
    needs = 2 * fixed_sample(rate, effect)
    days = needs / (visitors_a_day * (1 - holdout))
    if days > longest and not explore:
        seen = smallest_effect(rate, visitors_a_day, days=longest, holdout=holdout)
        raise BadTask(
            f"an effect of {effect:.0%} on a rate of {rate:.1%} needs up to {ceil(needs):,} visitors, {days:.0f} days "
            f"of this traffic; {longest:.0f} days can tell {seen:.0%} or more: test a larger change ([live] effect), "
            "count an outcome that is more frequent, or say --explore and claim nothing"
        )
