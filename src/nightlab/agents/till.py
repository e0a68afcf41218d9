"""The till: money and tokens under caps. What a request may cost at most is held before it goes out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from nightlab.agents.prices import Price
from nightlab.proposer import walled
from nightlab.values import Cost

USUAL_OUTPUT = 16_384
"""How long an answer may be where the agent does not say; most models can write that much."""
LEAST_OUTPUT = 256
"""Below this an answer is of no use: better none."""
WARN_AT = 0.8


@dataclass(frozen=True, slots=True)
class Caps:
    """How much a study, and one call of an agent, may spend; None: no cap. Money in US dollars."""

    money: float | None = None
    tokens: int | None = None
    call_money: float | None = None
    call_tokens: int | None = None

    @property
    def need_prices(self) -> bool:
        """Whether a model without a price cannot be used."""
        return self.money is not None or self.call_money is not None

    @property
    def are_any(self) -> bool:
        """Whether anything is capped."""
        return self.need_prices or self.tokens is not None or self.call_tokens is not None


class Exhausted(Exception):
    """A request that a cap leaves no room for; says which."""


@dataclass(slots=True)
class Purse:
    """What was spent out of one pair of caps, and what is held for requests under way."""

    of: str
    money_cap: float | None
    tokens_cap: int | None
    money: float = 0.0
    tokens: int = 0
    held_money: float = 0.0
    held_tokens: int = 0

    def affordable(self, price: Price | None, input: int, *, beside: bool) -> float:
        """How many tokens of an answer there is room for, beside what is held or if that all came back."""
        money = tokens = inf
        if self.money_cap is not None and price is not None:
            room = self.money_cap - self.money - self.held_money * beside - price.most(input, 0)
            each = price.most_per_output(input)
            money = room / each if each else (inf if room >= 0 else -1)
        if self.tokens_cap is not None:
            tokens = self.tokens_cap - self.tokens - self.held_tokens * beside - input
        return min(money, tokens)

    def hold(self, money: float, tokens: int) -> None:
        """Put aside, or bring back where negative."""
        self.held_money += money
        self.held_tokens += tokens

    def words(self) -> str:
        """How things stand."""
        parts = []
        if self.money_cap is not None:
            parts.append(f"${self.money:.4f} of ${self.money_cap:g}")
        if self.tokens_cap is not None:
            parts.append(f"{self.tokens:,} of {self.tokens_cap:,} tokens")
        return f"{' and '.join(parts)} of {self.of} are spent"


@dataclass(frozen=True, slots=True)
class Hold:
    """What is put aside for one request: its tokens and money at most."""

    purse: Purse
    price: Price | None
    input: int
    output: int

    @property
    def money(self) -> float:
        """In dollars."""
        return self.price.most(self.input, self.output) if self.price else 0.0

    @property
    def tokens(self) -> int:
        """Both ways."""
        return self.input + self.output

    @property
    def cost(self) -> Cost:
        """As a cost."""
        return Cost(money=self.money, tokens=self.tokens)


@dataclass(slots=True)
class Till:
    """Everybody's purse and each call's own. It lives in one event loop, which is its lock."""

    caps: Caps
    spent: Cost
    warn: Callable[[str], None]
    _study: Purse = field(init=False)
    _changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _under_way: int = 0
    _has_warned: bool = False

    def __post_init__(self) -> None:
        of = self.caps
        self._study = Purse("this study", of.money, of.tokens, self.spent.money, self.spent.tokens)

    def purse(self) -> Purse:
        """A purse for one call."""
        return Purse("this call", self.caps.call_money, self.caps.call_tokens)

    async def hold(self, purse: Purse, price: Price | None, input: int, wanted: int | None) -> Hold:
        """Put aside the most a request can cost, its answer shortened to what is left; Exhausted where nothing is.

        While others are under way it waits for what they bring back, rather than refuse what may be affordable soon.
        """
        wants = wanted or USUAL_OUTPUT
        while (output := self._room(purse, price, input, wants, beside=True)) < min(
            wants, self._room(purse, price, input, wants, beside=False)
        ):
            await self._changed.wait()
        if output < min(wants, LEAST_OUTPUT):
            tight = min((self._study, purse), key=lambda one: one.affordable(price, input, beside=True))
            raise Exhausted(f"the cap leaves no room for this request: {tight.words()}")
        held = Hold(purse, price, input, output)
        for one in (self._study, purse):
            one.hold(held.money, held.tokens)
        self._under_way += 1
        return held

    def _room(self, purse: Purse, price: Price | None, input: int, wants: int, *, beside: bool) -> int:
        rooms = [one.affordable(price, input, beside=beside) for one in (self._study, purse)]
        return int(max(-1, min(wants, *rooms)))

    def settle(self, held: Hold, cost: Cost) -> None:
        """Bring back what was held and book what it came to."""
        for one in (self._study, held.purse):
            one.hold(-held.money, -held.tokens)
        self._under_way -= 1
        if not self._under_way:  # so that no rounding is left over
            self._study.held_money = 0.0
        self.book(held.purse, cost)
        self._changed.set()
        self._changed = asyncio.Event()

    def book(self, purse: Purse, cost: Cost, *, again: bool = False) -> None:
        """Count what was spent, and warn once when most of it is gone; what is booked again is the call's own only."""
        for one in [purse] if again else [self._study, purse]:
            one.money += cost.money
            one.tokens += cost.tokens
        if not again:
            self.spent += cost
        if not self._has_warned and self._share() >= WARN_AT:
            self._has_warned = True
            walled(lambda: self.warn(self._study.words()))  # whoever listens may fail; the books go on

    def _share(self) -> float:
        shares = [
            spent / cap if cap else 1.0
            for spent, cap in ((self._study.money, self.caps.money), (self._study.tokens, self.caps.tokens))
            if cap is not None
        ]
        return max(shares, default=0.0)
