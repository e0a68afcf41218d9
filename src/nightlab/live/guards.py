"""Guards: what stops an experiment whatever it gains, each an e-value that may be looked at after every visitor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import exp, lgamma, log

from nightlab.live.labels import LabelTest, Tally, label_test

FREEZE, ROLL_BACK = 1000.0, 100.0
_CONCENTRATION, _MOST = 100.0, 700.0


def sample_ratio(
    splits: Iterable[tuple[Mapping[int, float], Mapping[int, int]]], *, k: float = _CONCENTRATION
) -> float:
    """How strongly the units seen speak against their split: for each split the shares, and how many each arm got.

    Under each split the counts' likelihood under a Dirichlet mixture around the shares is divided by that under the
    shares themselves (Lindon & Malek, arXiv 2011.03567), which is a martingale while the split is kept. From 1,000 on
    the experiment is frozen: who is missing from one arm is not missing at random, and no number of it can be believed.
    """
    return exp(min(sum(_against(shares, counts, k) for shares, counts in splits), _MOST))


def _against(shares: Mapping[int, float], counts: Mapping[int, int], k: float) -> float:
    """The logarithm of the evidence against one split."""
    total = sum(shares.values())
    found = lgamma(k) - lgamma(k + sum(counts.get(arm, 0) for arm in shares))
    for arm, share in shares.items():
        if share > 0:
            prior, count = k * share / total, counts.get(arm, 0)
            found += lgamma(prior + count) - lgamma(prior) - count * log(share / total)
    return found


def guardrail(tallies: Sequence[Tally], effect: float) -> float:
    """How strongly the labels of an unwanted event, such as a complaint, say that the candidate brings more."""
    return label_test(tallies, effect, mixture=True).better


def must_freeze(ratio: float) -> bool:
    """Whether the split is so plainly not kept that the experiment is frozen."""
    return ratio >= FREEZE


def must_roll_back(test: LabelTest, guardrails: Iterable[float] = ()) -> bool:
    """Whether the candidate does so plainly harm, in the outcome or in a guardrail, that it is taken down at once."""
    return max([test.worse, *guardrails]) >= ROLL_BACK
