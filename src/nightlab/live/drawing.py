"""Drawing: what a unit is shown under the split in force, where it was shown nothing that still holds."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from nightlab.live.assignment import is_held_out, shares
from nightlab.live.store import Arm, Exposure, Rules, Split
from nightlab.live.tokens import Ticket

_BUCKETS = 10_000
_PRIME, _MASK = 0x01000193, 0xFFFFFFFF


@dataclass(frozen=True)
class Showing:
    """What is shown now: rules, split and the arms' copy. Replaced as a whole when the lab changes the split."""

    rules: Rules
    split: Split
    arms: Mapping[int, Arm]
    ends: list[int] = field(default_factory=list)
    start: int = 0

    @classmethod
    def of(cls, rules: Rules, split: Split, arms: Mapping[int, Arm]) -> Showing:
        """A showing with its arithmetic done once instead of for every visitor."""
        whole = [round(share * _BUCKETS) for share in shares(split.weights).values()]
        return cls(rules, split, arms, list(accumulate(whole)), _hashed(f"{rules.seed}:{split.version}", 0x811C9DC5))

    def holds(self, arm: int, holdout: bool) -> bool:
        """Whether a unit that was shown an arm goes on seeing it."""
        return holdout or self.split.is_live(arm)

    def drawn(self, unit: bytes, now: float) -> Ticket:
        """What a unit is given that has nothing yet.

        Each split draws under a seed of its own: those whose arm has left would otherwise all be given the same one.
        The hash is `assignment.assign`, begun from where the seed ends.
        """
        name = unit.hex()
        if is_held_out(self.rules.seed, name, self.rules.holdout):
            return Ticket(unit, 0, self.split.version, True, int(now))
        place = _hashed(str(_hashed(name, self.start)), 0x811C9DC5) % _BUCKETS
        arm = list(self.split.weights)[bisect_right(self.ends, place)]
        return Ticket(unit, arm, self.split.version, False, int(now))

    def ticket(self, unit: bytes, last: Exposure | None, now: float) -> Ticket:
        """What a unit is shown, given what it was shown last."""
        if last is not None and self.holds(last.arm, last.holdout):
            return Ticket(unit, last.arm, last.split, last.holdout, int(last.at))
        return self.drawn(unit, now)

    def copy(self, arm: int) -> Mapping[str, str]:
        """The texts of an arm; the champion's where there is no such arm."""
        return (self.arms.get(arm) or self.arms[self.split.champion]).content


def _hashed(text: str, found: int) -> int:
    for character in text.encode():
        found = ((found ^ character) * _PRIME) & _MASK
    return found
