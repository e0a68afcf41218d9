"""Who tries what: a change is one lab's at a time, and nobody tries again what somebody tried."""

from __future__ import annotations

from sets import Author, claim, named, result

from nightlab.swarm.claims import Claims
from nightlab.swarm.record import Record
from nightlab.values import Status


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def claims_of(author: Author, clock: Clock, present: set[str] | None = None) -> Claims:
    return Claims((author.id, "lab"), clock=clock, present=lambda: present or set())


def test_what_another_lab_has_under_way_is_not_taken() -> None:
    mine, other = Author("me"), Author("other")
    claims = claims_of(mine, Clock())

    claims.see([other.claims("idea")])

    assert "other has it under way" in (claims.why_not(named("idea")) or "")
    assert claims.why_not(named("another idea")) is None


def test_what_another_lab_tried_is_not_tried_again() -> None:
    mine, other = Author("me"), Author("other")
    claims = claims_of(mine, Clock())

    claims.see([other.say(result("other", "idea", patch=named("idea"), status=Status.DISCARDED))])

    assert "other tried it: discarded" in (claims.why_not(named("idea")) or "")


def test_a_claim_ends_with_its_lease_and_later_while_its_author_is_there() -> None:
    mine, other, clock, present = Author("me"), Author("other"), Clock(), set[str]()
    claims = Claims((mine.id, "lab"), clock=clock, present=lambda: present)
    claims.see([other.claims("idea")])

    clock.now = 901.0
    gone = claims.why_not(named("idea"))
    present.add(other.id)

    assert gone is None
    assert claims.why_not(named("idea")) is not None


def test_of_two_who_claim_one_change_both_see_the_same_one_have_it() -> None:
    one, two = Author("one"), Author("two")
    records = [one.claims("idea"), two.claims("idea")]
    seen: dict[str, list[tuple[int, str]]] = {}
    for author in (one, two):
        claims = claims_of(author, Clock())
        mine, theirs = sorted(records, key=lambda record: record.author != author.id)
        claims.see([mine])
        claims.take(named("idea"), 7)
        claims.see([theirs])
        seen[author.id] = claims.lost()

    loser = max(records, key=lambda record: record.id).author
    assert [number for number, _ in seen.pop(loser)] == [7]
    assert list(seen.values()) == [[]]


def test_what_is_lost_is_told_once() -> None:
    mine, theirs = tied()
    claims = claims_of(mine[0], Clock())
    claims.see([mine[1]])
    claims.take(named("idea"), 3)

    claims.see([theirs[1]])

    assert len(claims.lost()) == 1
    assert claims.lost() == []


def tied() -> tuple[tuple[Author, Record], tuple[Author, Record]]:
    """A claim of ours, and one of another lab's that goes before it."""
    found = [(author, author.claims("idea")) for author in (Author("one"), Author("two"))]
    first, second = sorted(found, key=lambda one: one[1].id)
    return second, first


def test_a_claim_that_comes_later_ends_nobodys_run() -> None:
    mine, theirs = tied()
    clock = Clock()
    claims = claims_of(mine[0], clock)
    claims.see([mine[1]])
    claims.take(named("idea"), 3)

    clock.now = 11.0
    claims.see([theirs[1]])

    assert claims.lost() == []


def test_another_lab_of_ones_own_is_another_lab() -> None:
    mine, clock = Author("me"), Clock()
    claims = Claims((mine.id, "this lab"), clock=clock, present=lambda: set())

    claims.see([mine.say(claim("me", "idea"))])

    assert claims.why_not(named("idea")) is not None
