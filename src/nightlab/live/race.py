"""The race: several challengers share one champion, and those that fall behind hand on their visitors.

The champion gets the square root of as many shares as there are challengers, which makes the k comparisons with it most
precise together (Dunnett 1955). A challenger's log likelihood ratio L is that of "this one has the effect" against
"none has". Two reciprocal tests thin the field: L far below 0 says that it does not have the effect, L far below the
leader's that the leader is rather the one. A winner has to reach k / alpha, so that of k challengers without effect
any wins with probability alpha at most, however the field was thinned.

Only those that started together are thinned by each other: where challengers come and go, each is judged by itself
(`labels.verdict`), since one that came later has seen other visitors than the leader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log, sqrt

from nightlab.live import labels
from nightlab.live.assignment import shares
from nightlab.live.labels import ALPHA, Tally, log_ratio

DROP = 0.06


@dataclass(frozen=True, slots=True)
class Standing:
    """How a race stands: its winner or None, who is still in it, and whether it is over."""

    winner: int | None
    left: tuple[int, ...]
    is_over: bool


def split(champion: int, challengers: Sequence[int]) -> dict[int, float]:
    """Each arm's share: the champion's is the square root of k where a challenger's is 1, in whole buckets."""
    return shares({champion: sqrt(max(len(challengers), 1)), **dict.fromkeys(challengers, 1.0)})


def share_of_two(split: Mapping[int, float], candidate: int, champion: int) -> float:
    """The candidate's share of the units that see one of the two: what belongs into a tally."""
    return split[candidate] / (split[candidate] + split[champion])


def horizon(challengers: int, rate: float, effect: float) -> int:
    """Visitors after which a race ends undecided: as many as each pair would need if nobody were dropped."""
    champion = sqrt(challengers)
    pair = labels.horizon(rate, effect, 1 / (1 + champion))
    return ceil(pair * (challengers + champion) / (1 + champion))


def standing(
    tallies: Mapping[int, Sequence[Tally]],
    left: Sequence[int],
    effect: float,
    *,
    is_at_end: bool = False,
    alpha: float = ALPHA,
    drop: float = DROP,
) -> Standing:
    """Judge a race by the tallies of all who started it; `left`: who had not been dropped before.

    A dropped challenger stays dropped, and still counts among those by whom the winner's bar is raised.
    """
    ratios = {arm: log_ratio(tallies[arm], effect) for arm in left}
    leader = max(ratios, key=lambda arm: ratios[arm], default=None)
    if leader is None:
        return Standing(None, (), is_over=True)
    if ratios[leader] >= log(len(tallies) / alpha):
        return Standing(leader, (leader,), is_over=True)
    bar = max(ratios[leader], 0.0) + log(drop)
    still = tuple(arm for arm in left if ratios[arm] > bar)
    return Standing(None, still, is_over=is_at_end or not still)
