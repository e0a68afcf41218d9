from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sets import SWARM, TASK, Author, authors, lab, named

from nightlab.swarm.board import Board
from nightlab.swarm.gossip import LARGEST_MESSAGE, Gossip
from nightlab.swarm.record import Record, blob_hash, write
from nightlab.swarm.store import LARGEST_BLOB, Memory

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda one: st.lists(one, max_size=4) | st.dictionaries(st.text(max_size=8), one, max_size=4),
    max_leaves=10,
)
QUESTIONS = ["digest", "vector_of", "lacking", "among", "records", "blob", "buckets", "vector", "text"]


def digest(gossip: Gossip) -> str:
    return gossip.store.log.digest()


def ada_and_others() -> list[Record]:
    ada, bob, eve = authors(["ada", "bob", "eve"])
    win = ada.wins(5.0)
    return [win, ada.claims(1), bob.runs(win, 4.0), bob.claims(2), eve.wins(1.0), eve.claims(3), ada.wins(2.0)]


SAID = ada_and_others()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_was_lost_twice_or_out_of_order_all_know_the_same_in_the_end(seed: int) -> None:
    dice = Random(seed)
    labs = [lab() for _ in range(4)]
    for record in dice.choices(SAID, k=15):
        labs[dice.randrange(4)].heard(labs[0].push([record]))
    for record in SAID:
        labs[dice.randrange(4)].heard(labs[0].push([record]))

    for _ in range(2):
        for one, other in zip(labs, [*labs[1:], labs[0]], strict=True):
            one.sync(other.answer)
    for one in labs:
        one.sync(labs[0].answer)

    assert len({digest(one) for one in labs}) == 1
    assert digest(labs[0]) == digest(lab(*SAID))
    boards = [Board(one.store.log, TASK).told("swarm") for one in labs]
    assert all(board == boards[0] for board in boards)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | st.dictionaries(st.sampled_from(QUESTIONS), JSON, max_size=3))
def test_no_message_is_ever_more_than_a_waste_of_breath(message: bytes | dict[str, Any]) -> None:
    gossip = lab(*SAID)
    before = digest(gossip)
    said = message if isinstance(message, bytes) else json.dumps(message).encode()

    assert gossip.heard(said) == []
    assert isinstance(json.loads(gossip.answer(said)), dict)
    gossip.sync(lambda _: said)
    assert gossip.fetch_blob(lambda _: said, named("blob")) is None

    assert digest(gossip) == before


@pytest.mark.parametrize(
    "message",
    [
        {"blob": "\ud800"},
        {"lacking": {"\ud800": [1, "\ud800"]}, "among": ["\ud800", None, []]},
        {"vector_of": ["\ud800", {}, 10**400]},
        {"records": ["\ud800", 1, None, "{}", "[" * 3000]},
        {"lacking": {SAID[0].author: [-1, ""]}, "among": [SAID[0].author[:2]]},
        {"lacking": {SAID[0].author: [10**300, "x"]}, "among": [SAID[0].author[:2]]},
        {"buckets": {str(one): "x" for one in range(40_000)}},
        {"buckets": {"\ud800": "x"}, "vector": {"a": [1]}, "text": "\ud800"},
    ],
    ids=lambda one: str(one)[:24].encode("ascii", "replace").decode(),
)
def test_hostile_messages_are_dropped(message: dict[str, Any]) -> None:
    gossip, asked = lab(*SAID), []

    def peer(question: bytes) -> bytes:
        asked.append(question)
        return json.dumps(message).encode()

    gossip.heard(peer(b""))
    gossip.answer(peer(b""))
    gossip.sync(peer)
    gossip.fetch_blob(peer, named("blob"))

    assert digest(gossip) == digest(lab(*SAID))
    assert len(asked) < 50


def test_a_message_of_more_than_a_mebibyte_is_not_read() -> None:
    gossip = lab()

    gossip.heard(json.dumps({"records": [SAID[0].data.decode()], "more": "x" * LARGEST_MESSAGE}).encode())

    assert len(gossip.store.log) == 0
    assert gossip.refused["no message"] == 1


def test_nothing_forged_altered_replayed_or_oversized_is_taken() -> None:
    gossip, eve = lab(*SAID), Author("eve")
    line = SAID[0].data.decode()
    foreign = eve.say(SAID[0].body, swarm="66" * 16)
    lines = [
        *(line[:place] + "0" + line[place + 1 :] for place in range(len(line)) if line[place] != "0"),
        foreign.data.decode(),
        line.replace(SAID[0].author, eve.id),
        line + " " * 3000,
        *[one.data.decode() for one in SAID],
    ]

    for start in range(0, len(lines), 100):
        assert gossip.heard(json.dumps({"records": lines[start : start + 100]}).encode()) == []

    assert digest(gossip) == digest(lab(*SAID))
    assert len(gossip.refused) <= 101


def test_a_fork_mutes_its_author_everywhere_whoever_learns_what_first() -> None:
    ada = Author("ada")
    said = [ada.claims(number) for number in range(4)]
    twin = ada.forked(2)
    other = [twin.claims("something else"), twin.claims("more"), twin.claims("and more")]
    others = Author("bob").claims(1)

    for mine, theirs in ((said, [*said[:2], *other]), ([*said[:2], *other], said), (said[:3], [*said[:2], *other])):
        one, two, three = lab(*mine, others), lab(*theirs), lab(others)
        one.sync(two.answer)
        three.sync(one.answer)
        two.sync(three.answer)

        assert {digest(one), digest(two), digest(three)} == {digest(three)}
        assert all(ada.id in each.store.log.forks for each in (one, two, three))


def test_a_fork_at_equal_counts_is_found_by_comparing() -> None:
    ada = Author("ada")
    twin = ada.forked(0)
    one, two = lab(ada.claims("this")), lab(twin.claims("that"))

    one.sync(two.answer)

    assert ada.id in one.store.log.forks
    assert ada.id in two.store.log.forks
    assert digest(one) == digest(two)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_forks_and_losses_of_any_shape_end_in_one_digest(seed: int) -> None:
    dice = Random(seed)
    records: list[Record] = []
    for name in ("ada", "bob", "eve"):
        author = Author(name)
        records += [author.claims(number) for number in range(dice.randrange(1, 6))]
        if dice.random() < 0.6:
            twin = author.forked(dice.randrange(len(author.said)))
            records += [twin.claims(f"other {number}") for number in range(dice.randrange(1, 6))]
    labs = [lab(*dice.sample(records, dice.randrange(len(records) + 1))) for _ in range(3)]
    labs.append(lab(*records))

    for _ in range(3):
        for one in labs:
            for other in labs:
                one.sync(other.answer)

    assert len({digest(one) for one in labs}) == 1
    assert set(labs[0].store.log.forks) == set(labs[-1].store.log.forks)


def test_a_flood_keeps_nobody_else_from_being_heard_and_comes_in_later() -> None:
    now = [0.0]
    gossip = Gossip(Memory(SWARM), clock=lambda: now[0])
    flooder, ada = Author("eve"), Author("ada")
    flood, said = [flooder.claims(number) for number in range(500)], [ada.claims(1), ada.claims(2)]

    for record in flood:
        gossip.heard(gossip.push([record]))
    gossip.heard(gossip.push(said))

    assert gossip.store.log.known(ada.id)[0] == 2
    assert gossip.store.log.known(flooder.id)[0] == 200
    assert gossip.refused["over its quota"] == 300

    other = lab(*flood)
    gossip.sync(other.answer)

    assert gossip.store.log.known(flooder.id)[0] == 500


def test_who_is_said_again_by_others_has_not_spoken() -> None:
    gossip, ada = lab(), Author("ada")
    old = [ada.claims(number) for number in range(10)]
    for _ in range(60):
        gossip.heard(gossip.push(old))

    assert gossip.heard(gossip.push([ada.claims("new")])) != []


def test_a_chain_longer_than_one_message_comes_in_several() -> None:
    ada = Author("ada")
    said = [ada.claims(number) for number in range(1000)]
    one, two = lab(), lab(*said)

    new = one.sync(two.answer)

    assert new == said
    assert digest(one) == digest(two)


def test_where_no_answer_comes_what_came_so_far_is_kept() -> None:
    ada = Author("ada")
    two = lab(*[ada.claims(number) for number in range(900)])
    left = [3]

    def tired(question: bytes) -> bytes | None:
        left[0] -= 1
        return two.answer(question) if left[0] >= 0 else None

    one = lab()
    one.sync(tired)

    assert 0 < len(one.store.log) < 900
    one.sync(two.answer)
    assert digest(one) == digest(two)


def test_a_patch_is_taken_only_under_its_own_name_and_size() -> None:
    def answering(text: str) -> Callable[[bytes], bytes]:
        return lambda _: json.dumps({"text": text}).encode()

    gossip = lab()
    large = "x" * (LARGEST_BLOB + 1)

    assert gossip.fetch_blob(answering("a patch"), blob_hash("a patch")) == "a patch"
    assert gossip.fetch_blob(answering("another"), blob_hash("a patch")) is None
    assert gossip.fetch_blob(answering(large), blob_hash(large)) is None
    assert gossip.store.blob(blob_hash("a patch")) == "a patch"


def test_a_late_joiner_learns_all_from_one_peer_authors_long_gone_included() -> None:
    said = [author.claims(number) for author in authors(f"lab {one}" for one in range(40)) for number in range(12)]
    one, two = lab(), lab(*said)

    one.sync(two.answer)

    assert digest(one) == digest(two)
    assert len(one.store.log) == len(said)


def test_a_record_that_does_not_follow_from_the_start_is_kept_waiting() -> None:
    ada = Author("ada")
    stray = write(ada.claims(1).body, ada.identity, swarm=SWARM, seq=7, prev=named("nothing"))
    gossip = lab()

    assert gossip.heard(gossip.push([stray])) == []
    assert len(gossip.store.log) == 0
