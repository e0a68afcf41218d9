from __future__ import annotations

from itertools import permutations
from threading import Thread

from hypothesis import given, settings
from hypothesis import strategies as st
from sets import Author

from nightlab.swarm.log import MUTED, Log
from nightlab.swarm.record import Record


def log_of(records: list[Record]) -> Log:
    log = Log()
    for record in records:
        log.add(record)
    return log


def chain(name: str, length: int) -> list[Record]:
    author = Author(name)
    return [author.claims(number) for number in range(length)]


SAID = [*chain("ada", 5), *chain("bob", 3), *chain("eve", 1)]


@settings(deadline=None)
@given(st.permutations([*SAID, *SAID[::2]]))
def test_order_and_repetition_do_not_matter(delivered: list[Record]) -> None:
    log = log_of(delivered)

    assert log.digest() == log_of(SAID).digest()
    assert list(log) == list(log_of(SAID))


def test_a_record_waits_for_the_one_before_it() -> None:
    first, second, third = chain("ada", 3)
    log = log_of([third, second])

    assert len(log) == 0
    assert log.add(first) == [first, second, third]
    assert log.holds(third)


def test_two_records_under_one_number_mute_their_author_in_any_order() -> None:
    ada = Author("ada")
    said = [ada.claims(number) for number in range(3)]
    twin = ada.forked(1)
    other = [twin.claims("something else"), twin.claims("and more")]

    digests = {log_of(list(order)).digest() for order in permutations([*said, *other])}

    assert len(digests) == 1
    log = log_of([*said, *other])
    assert log.known(ada.id) == MUTED
    assert len(log) == 0
    assert log.add(said[0]) == []


def test_a_record_whose_past_is_another_does_not_join_the_chain() -> None:
    ada = Author("ada")
    first = ada.claims(1)
    twin = ada.forked(0)
    twin.claims("another first")
    stray = twin.claims("its second")

    log = log_of([first, stray])

    assert log.known(ada.id) == (1, first.id)


def test_a_proof_is_heard_though_the_waiting_room_is_full() -> None:
    ada = Author("ada")
    said = [ada.claims(number) for number in range(80)]
    twin = ada.forked(79)
    log = log_of([said[0], *said[2:75]])

    found = log.add(said[79]) + log.add(twin.claims("something else"))

    assert len(found) == 2
    assert log.known(ada.id) == MUTED


def test_what_is_lacking_comes_a_few_of_each_author_in_turn() -> None:
    much, little = chain("ada", 200), chain("bob", 2)
    log = log_of([*much, *little])

    first = [one for one, _ in zip(log.lacking({}), range(30), strict=False)]

    assert set(little) <= set(first)
    assert list(log.lacking(log.vector())) == []


def test_digests_made_while_records_come_in_are_right_in_the_end() -> None:
    records = [one for name in range(60) for one in chain(f"author {name}", 8)]
    log = Log()
    readers = [Thread(target=lambda: [log.digest() for _ in range(60)]) for _ in range(2)]
    writers = [
        Thread(target=lambda part=part: [log.add(one) for one in part]) for part in (records[::2], records[1::2])
    ]

    for thread in [*readers, *writers]:
        thread.start()
    for thread in [*readers, *writers]:
        thread.join()

    assert log.digest() == log_of(records).digest()
