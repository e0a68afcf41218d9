"""The claims: what may be said of visitors, admitted one by one over the whole stream of questions (see `stream`).

Each experiment asks two questions the moment it is shown: does it help, and does it do different things to different
segments? Both go into one stream, answered or not. They stay open after the champion was chosen, for as long as more
visitors may settle them, and are closed with the evidence that there is then.

Notes in the store:  question  name, arm, other, kind, began
                     answer    name, ended, evidence: the last or, where it sufficed, the first that did
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nightlab.live import labels
from nightlab.live.comparison import Snapshot, differs, lifts
from nightlab.live.labels import Lift
from nightlab.live.shrink import Prior, Segment, Shrunk, learn, shrink_segments, spread_of_segments
from nightlab.live.store import Arm, Store
from nightlab.live.stream import Question, answers
from nightlab.task import Live

Kind = Literal["helps", "differs"]
KINDS: tuple[Kind, ...] = ("helps", "differs")
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One question of the stream, as the store knows it; `ended` is None while it is open."""

    name: str
    kind: Kind
    arm: int
    other: int
    began: float
    ended: float | None = None
    evidence: float = 0.0
    level: float = 0.0
    is_claimed: bool = False

    @property
    def needed(self) -> float:
        """The e-value from which on the claim stands."""
        return 1 / self.level if self.level > 0 else float("inf")


def ask(store: Store, arm: int, other: int, now: float) -> None:
    """Put an experiment's questions into the stream, once."""
    known = {str(note.body["name"]) for note in store.notes("question")}
    for kind in KINDS:
        name = f"{kind}:{arm}:{other}"
        if name not in known:
            store.note("question", {"name": name, "kind": kind, "arm": arm, "other": other, "began": now})


def asked(store: Store) -> list[Asked]:
    """All questions with what the stream says of them, in the order in which they were asked."""
    ended = {str(note.body["name"]): note.body for note in store.notes("answer")}
    found = [dict(note.body) for note in store.notes("question")]
    questions = [Question(one["name"], one["began"], *_end(ended.get(one["name"]))) for one in found]
    said = {one.name: one for one in answers(questions)}
    return [
        Asked(
            **one,
            ended=question.ended,
            evidence=question.evidence,
            level=said[question.name].level,
            is_claimed=said[question.name].is_claimed,
        )
        for one, question in zip(found, questions, strict=True)
    ]


def _end(body: Mapping[str, Any] | None) -> tuple[float | None, float]:
    return (None, 0.0) if body is None else (float(body["ended"]), float(body["evidence"]))


def answer(store: Store, one: Asked, evidence: float, now: float) -> None:
    """Close a question with the evidence that there is."""
    store.note("answer", {"name": one.name, "ended": now, "evidence": min(evidence, 1e300)})


def evidence(snapshot: Snapshot, one: Asked, effect: float) -> float:
    """The e-value of a question as things stand."""
    if one.kind == "differs":
        return differs(snapshot.by_segment(one.arm, one.other))
    return labels.label_test(snapshot.tallies(one.arm, one.other), effect, mixture=True).better


@dataclass(frozen=True, slots=True)
class Channel:
    """What all finished experiments of a channel say together: how lifts are spread, and how segments differ."""

    prior: Prior
    spread: float
    lifts: tuple[Lift, ...]


def channel(store: Store, snapshot: Snapshot, effect: float, *, leave_out: int | None = None) -> Channel:
    """Learned from every experiment that has ended, winners and losers alike."""
    pairs = {(int(note.body["arm"]), int(note.body["other"])) for note in store.notes("ended")}
    pairs = {pair for pair in pairs if pair[0] != leave_out}
    seen = [found for pair in sorted(pairs) if (found := labels.lift(snapshot.tallies(*pair))) is not None]
    apart = [list(lifts(snapshot.by_segment(*pair)).values()) for pair in sorted(pairs)]
    return Channel(learn(seen, effect), spread_of_segments(apart), tuple(seen))


@dataclass(frozen=True, slots=True)
class Insight:
    """A claim as people and proposers read it: what was changed, what it did, to whom, until when it holds."""

    question: Asked
    changes: Mapping[str, tuple[str, str]]
    """Slot -> the text before and after."""
    naive: Lift
    shrunk: Shrunk
    segments: Mapping[str, Segment]
    expires: float
    is_expired: bool

    def words(self) -> str:
        """One line."""
        what = "; ".join(f"{slot} {after!r} instead of {before!r}" for slot, (before, after) in self.changes.items())
        until = " (expired: to be tested again)" if self.is_expired else ""
        strength = f"e {self.question.evidence:.3g} of {self.question.needed:.3g} needed{until}"
        if self.question.kind == "helps":
            seen = f"{self.shrunk.lift:+.0%} shrunk, {self.shrunk.low:+.0%} to {self.shrunk.high:+.0%}"
            return f"claim: {what}: helps over all visitors, {seen}; naive {self.naive.lift:+.0%}; {strength}"
        each = ", ".join(f"{name} {one.shrunk.lift:+.0%}" for name, one in self.segments.items())
        return f"claim: {what}: differs by segment, {each} (shrunk); {strength}"

    def told(self) -> dict[str, Any]:
        """As JSON shows it."""
        one = self.question
        return {
            "kind": one.kind,
            "arm": one.arm,
            "other": one.other,
            "changes": {slot: list(texts) for slot, texts in self.changes.items()},
            "scope": "all visitors" if one.kind == "helps" else sorted(self.segments),
            "naive": self.naive.lift,
            "shrunk": self.shrunk.lift,
            "low": self.shrunk.low,
            "high": self.shrunk.high,
            "segments": {name: segment.shrunk.lift for name, segment in self.segments.items()},
            "evidence": one.evidence,
            "needed": one.needed,
            "expires": self.expires,
            "is_expired": self.is_expired,
            "words": self.words(),
        }


def insights(store: Store, snapshot: Snapshot, live: Live, *, now: float, query: str = "") -> list[Insight]:
    """Every claim that was admitted, the strongest first; only those that hold all words of a query."""
    claimed = [one for one in asked(store) if one.is_claimed]
    if not claimed:
        return []
    known, arms = channel(store, snapshot, live.effect), {arm.number: arm for arm in store.arms()}
    found = [one for question in claimed if (one := _insight(question, snapshot, known, arms, live, now)) is not None]
    found = [one for one in found if all(word in one.words().casefold() for word in query.casefold().split())]
    return sorted(found, key=lambda one: (one.is_expired, -one.question.evidence))


def _insight(
    question: Asked, snapshot: Snapshot, known: Channel, arms: Mapping[int, Arm], live: Live, now: float
) -> Insight | None:
    naive = labels.lift(snapshot.tallies(question.arm, question.other))
    if naive is None or question.ended is None:
        return None
    segments = lifts(snapshot.by_segment(question.arm, question.other))
    expires = question.ended + live.expires_days * 24 * HOUR
    return Insight(
        question,
        changes(arms[question.other], arms[question.arm]),
        naive,
        known.prior.posterior(naive),
        shrink_segments(segments, known.prior, known.spread),
        expires,
        is_expired=expires < now,
    )


def changes(before: Arm, after: Arm) -> dict[str, tuple[str, str]]:
    """Slot -> what it said before and says now, where that differs."""
    slots = {**before.content, **after.content}
    pairs = {slot: (before.content.get(slot, ""), after.content.get(slot, "")) for slot in slots}
    return {slot: (old, new) for slot, (old, new) in pairs.items() if old != new}


def lines(found: Sequence[Insight]) -> list[str]:
    """The insights in words."""
    return [one.words() for one in found]
