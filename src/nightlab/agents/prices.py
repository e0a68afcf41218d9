"""What models cost: the user's `prices.toml`, and behind it the table of genai-prices where that is installed."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nightlab.errors import BadTask

MILLION = 1_000_000
DEAREST = 1e9
"""Dollars per million tokens; what is above is a slip."""
RATES = ("input", "output", "cached_input", "cache_write")


class Unpriced(Exception):
    """A model that nobody knows the price of; says what to write where."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a model read and wrote. `input` is all that was read; `cached` and `written` are parts of it."""

    input: int = 0
    output: int = 0
    cached: int = 0
    """Read from a cache."""
    written: int = 0
    """Put into a cache."""

    @property
    def total(self) -> int:
        """Read and written together."""
        return self.input + self.output


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per million tokens; a dearer price may hold for requests from so many input tokens on."""

    input: float
    output: float
    cached_input: float
    cache_write: float
    dearer: tuple[tuple[int, Price], ...] = ()

    def money(self, tokens: Tokens) -> float:
        """What these tokens cost."""
        rate = self._at(tokens.input)
        plain = max(0, tokens.input - tokens.cached - tokens.written)
        read = plain * rate.input + tokens.cached * rate.cached_input + tokens.written * rate.cache_write
        return (read + tokens.output * rate.output) / MILLION

    def most(self, input: int, output: int) -> float:
        """The most that a request of at most so many tokens can cost, however they are cached."""
        read = max(max(rate.input, rate.cached_input, rate.cache_write) for rate in self._possible(input))
        return input * read / MILLION + output * self.most_per_output(input)

    def most_per_output(self, input: int) -> float:
        """The most that one token of the answer can cost."""
        return max(rate.output for rate in self._possible(input)) / MILLION

    def _at(self, input: int) -> Price:
        return self._possible(input)[-1]

    def _possible(self, input: int) -> list[Price]:
        return [self, *(price for start, price in self.dearer if input > start)]


@dataclass(frozen=True, slots=True)
class Prices:
    """A price list; what it does not know it does not guess."""

    own: Mapping[str, Price] = field(default_factory=dict)

    @classmethod
    def load(cls, file: Path | None = None) -> Prices:
        """The user's own prices; none where no file is named. Raises BadTask where it cannot be used."""
        if file is None:
            return cls()
        try:
            tables = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadTask(f"{file} cannot be read: {error}") from None
        return cls({model: _price(file, model, table) for model, table in tables.items()})

    def of(self, model: str, url: str = "") -> Price | None:
        """The price of a model at an endpoint, or None where nobody knows it."""
        return self.own.get(model) or _listed(model, url)

    def unknown(self, model: str) -> str:
        """What to say of a model that has no price."""
        return (
            f"no price is known for {model}, so a cap on money cannot be kept; write it into prices.toml "
            f'(dollars per million tokens): ["{model}"] input = 1.0, output = 4.0; or cap tokens instead'
        )


def _price(file: Path, model: str, table: Any) -> Price:
    where = f"{file}: the price of {model}"
    if not isinstance(table, dict) or not {"input", "output"} <= table.keys():
        raise BadTask(f'{where} needs input and output, in dollars per million tokens: ["{model}"] input = 1.0 ...')
    for name, value in table.items():
        if name not in RATES:
            raise BadTask(f"{where} has an unknown key {name}; known are {', '.join(RATES)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= DEAREST:
            raise BadTask(f"{where} says {name} = {value!r}; write a number of dollars, 0 where it is free")
    return _filled(table)


def _listed(model: str, url: str) -> Price | None:
    """The price in genai-prices, by the endpoint's own provider, else by whoever is best known for the model."""
    try:
        from genai_prices import Usage, calc_price
    except ImportError:
        return None
    for place in ({"provider_api_url": url}, {}):
        try:
            found = calc_price(Usage(input_tokens=1, output_tokens=1), model, **place)  # type: ignore[call-overload]
        except LookupError:
            continue
        return _from_table(found.model_price)
    return None


def _from_table(listed: Any) -> Price | None:
    """Its price, by tier; None where it is not told per token for both reading and writing."""
    rates = {name: getattr(listed, f"{key}_mtok", None) for name, key in zip(RATES, KEYS, strict=True)}
    if rates["input"] is None or rates["output"] is None:
        return None
    starts = sorted({tier.start for rate in rates.values() for tier in getattr(rate, "tiers", ())})
    first, *others = [_filled(_rates(rates, start)) for start in (-1, *starts)]
    return replace(first, dearer=tuple(zip(starts, others, strict=True)))


KEYS = ("input", "output", "cache_read", "cache_write")
"""How genai-prices calls what RATES names, in the same order."""


def _rates(rates: Mapping[str, Any], start: int) -> dict[str, float]:
    return {name: _tier(rate, start) for name, rate in rates.items() if rate is not None}


def _filled(rates: Mapping[str, float]) -> Price:
    """Where nothing is said of a cache, what passes through it costs what reading costs."""
    read = rates["input"]
    return Price(read, rates["output"], rates.get("cached_input", read), rates.get("cache_write", read))


def _tier(rate: Any, start: int) -> float:
    tiers = [tier.price for tier in getattr(rate, "tiers", ()) if tier.start <= start]
    return float(tiers[-1] if tiers else getattr(rate, "base", rate))
