"""The stream of claims: of all that is ever claimed, a tenth at most is false in expectation.

This is e-LORD (arXiv 2506.01452), levels that follow what was claimed, with e-values in the place of p-values.

Each experiment gets its level when it begins: a part of the error budget that is not spent yet, times one more than
the claims that stood then. Its claim stands once its e-value reaches 1 / level. Why this holds, also where experiments
overlap and share visitors: the level depends only on what had ended before, and given that, the e-value's expectation
is at most 1 without an effect, at whatever moment one stops. So P(false claim) / (claims in the end) is at most
level / (claims at its beginning + 1), which is what the budget is charged with; and these charges never exceed alpha.

An experiment that is still under way counts as no claim to those that begin meanwhile: that costs power, not validity.
What it does *not* cover: an experiment left out of the list. Every one that began belongs into it, re-tests too.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

ALPHA = 0.10
_FIRST = 0.1


@dataclass(frozen=True, slots=True)
class Question:
    """One hypothesis of the stream: "this helps", "this differs by segment"; `ended` is None while it is under way.

    `evidence` is its e-value when it ended: the first moment at which it sufficed, or the last one there was.
    """

    name: str
    began: float
    ended: float | None
    evidence: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What the stream says of a question; `level` is fixed when it begins, 1 / level is the e-value that it needs."""

    name: str
    level: float
    is_claimed: bool

    @property
    def needed(self) -> float:
        """The e-value from which on the claim stands."""
        return 1 / self.level if self.level > 0 else inf


class Budget:
    """What is left of the error budget: `begin` gives each question its level, in order; `claim` is told of claims."""

    def __init__(self, alpha: float = ALPHA) -> None:
        self._left, self._number, self._ends = alpha, 0, list[float]()

    def begin(self, now: float) -> float:
        """The level of a question that begins now.

        The t-th question is given 1 / (10 t) of what is left. So the budget is never used up, and the levels stay
        where they are as long as ideas are as good as they were: what is left falls with t to the power of -0.1.
        """
        self._number += 1
        charge = self._left * _FIRST / self._number
        self._left -= charge
        return charge * (bisect_right(self._ends, now) + 1)

    def claim(self, ended: float) -> None:
        """A claim that stands since `ended` raises the level of all questions that begin later."""
        insort(self._ends, ended)


def answers(questions: Iterable[Question], *, alpha: float = ALPHA) -> list[Answer]:
    """All answers, in the order in which the questions began; the same list always gives the same answers."""
    budget, found = Budget(alpha), list[Answer]()
    for one in sorted(questions, key=lambda one: one.began):
        level = budget.begin(one.began)
        is_claimed = one.ended is not None and one.evidence * level >= 1
        if is_claimed and one.ended is not None:
            budget.claim(one.ended)
        found.append(Answer(one.name, level, is_claimed))
    return found


def next_level(questions: Iterable[Question], *, now: float, alpha: float = ALPHA) -> float:
    """The level of a question that would begin now."""
    asked = [one for one in questions if one.began <= now]
    return answers([*asked, Question("", now, None, 0.0)], alpha=alpha)[-1].level
