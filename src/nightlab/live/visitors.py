"""The visitors: simulated people of several audiences, with a truth that nobody in the lab gets to see."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from math import prod
from typing import NamedTuple

import numpy as np

from nightlab.live.rendering import Copy

MOST_LIKELY = 0.6
"""No copy makes more than this share of an audience sign up."""


class Visitor(NamedTuple):
    """One person who comes by once: who it is, and how easily it is won over (the lower the easier)."""

    unit: str
    audience: str
    reluctance: float


@dataclass(frozen=True, slots=True)
class Audience:
    """A part of all visitors, and the share of it that signs up when nothing moves it."""

    name: str
    share: float
    rate: float


@dataclass(frozen=True, slots=True)
class People:
    """All audiences, and what each text does to each of them."""

    audiences: tuple[Audience, ...]
    effects: Mapping[str, Mapping[str, Mapping[str, float]]]
    """Slot -> text -> audience -> what the rate is multiplied by."""

    def rate(self, audience: str, copy: Copy) -> float:
        """The true share of an audience that a copy makes sign up."""
        base = next(one.rate for one in self.audiences if one.name == audience)
        moved = prod(self.effects.get(slot, {}).get(text, {}).get(audience, 1.0) for slot, text in copy.items())
        return min(base * moved, MOST_LIKELY)

    def overall(self, copy: Copy) -> float:
        """The true share of all visitors."""
        return sum(one.share * self.rate(one.name, copy) for one in self.audiences)

    def lift(self, new: Copy, old: Copy, audience: str | None = None) -> float:
        """The true lift of one copy over another."""
        if audience is None:
            return self.overall(new) / self.overall(old) - 1
        return self.rate(audience, new) / self.rate(audience, old) - 1

    def signs_up(self, visitor: Visitor, copy: Copy) -> bool:
        """Whether this copy wins this visitor over."""
        return visitor.reluctance < self.rate(visitor.audience, copy)

    def come(self, seed: int, count: int, *, first: int = 0) -> Iterator[Visitor]:
        """So many visitors, the same for the same seed."""
        rng = np.random.default_rng((seed, first))
        shares = [one.share for one in self.audiences]
        audiences = rng.choice(len(shares), size=count, p=np.array(shares) / sum(shares))
        reluctance = rng.random(count)
        for number, (audience, reluctant) in enumerate(zip(audiences, reluctance, strict=True), first):
            yield Visitor(f"visitor-{seed}-{number}", self.audiences[audience].name, float(reluctant))


def people(text: str | None = None) -> People:
    """The people of a file; those of the landing template where none is given."""
    found = tomllib.loads((files(__package__) / "people.toml").read_text() if text is None else text)
    audiences = tuple(Audience(name, **one) for name, one in found.pop("audiences").items())
    return People(audiences, found)
