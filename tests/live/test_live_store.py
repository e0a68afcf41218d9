"""The store keeps what it has acknowledged, and counts each thing once; on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from services import deployed, postgres

from nightlab.errors import BadLedger, NotFound
from nightlab.live.store import Arm, Counts, Exposure, Outcome, Rules, Side, Store, open_store
from nightlab.live.throughput import filled

DAY = 86_400.0
T0 = 1_000 * DAY


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as cluster:
        yield cluster.url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "live.sqlite")
    import psycopg

    url: str = request.getfixturevalue("server")
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("DROP SCHEMA public CASCADE")
        db.execute("CREATE SCHEMA public")
    return url


@pytest.fixture
def store(where: str) -> Iterator[Store]:
    opened, _ = deployed(where)
    with closing(opened):
        yield opened


def unit(n: int) -> bytes:
    return n.to_bytes(16, "big")


def test_arms_splits_and_notes_come_back_as_they_were_written(store: Store, where: str) -> None:
    store.put_arm(Arm(2, 1, {"headline": "Ünï <b>"}, "c", "waiting", "", T0))
    store.put_arm(Arm(2, 1, {"headline": "changed"}, "d", "waiting", "", T0))
    store.set_status(2, "rolled back", "harm")
    store.put_split({0: 0.25, 2: 0.75, 1: 0.0}, 2)
    store.note("claim", {"arm": 2, "e": 20.5})
    store.note("insight", {"of": "claim"})

    with closing(open_store(where)) as again:
        assert again.arm(2) == Arm(2, 1, {"headline": "Ünï <b>"}, "c", "rolled back", "harm", T0)
        assert [arm.number for arm in again.arms()] == [0, 1, 2]
        split = again.split()
        assert split is not None
        assert (split.version, split.weights, split.champion) == (2, {0: 0.25, 2: 0.75}, 2)
        assert [one.version for one in again.splits()] == [1, 2]
        assert [note.kind for note in again.notes()] == ["claim", "insight"]
        assert again.notes("claim")[0].body == {"arm": 2, "e": 20.5}
        with pytest.raises(NotFound):
            again.set_status(9, "ended")


def test_the_rules_a_layer_began_with_stay(store: Store) -> None:
    assert store.begin(Rules("another", 0.4)) == Rules("seed", 0.0, 3600.0, ("audience",))


def test_an_outcome_is_counted_once_however_often_it_is_told(store: Store) -> None:
    store.record([Exposure(unit(1), 1, 1, at=T0)])
    bought = Outcome("e1", unit(1), "signup", 5.0, T0 + 1)

    store.record(outcomes=[bought, bought])
    store.record(outcomes=[bought])
    store.record(outcomes=[Outcome("e2", unit(1), "signup", 7.0, T0 + 2)])

    assert store.counts(1, 0, "signup") == [Counts(1, 0.5, Side(1, 1), Side())]
    assert [value.value for value in store.values(1, 0, "signup")] == [12.0]


def test_only_what_happens_within_the_window_counts_also_when_it_is_told_late(store: Store) -> None:
    store.record([Exposure(unit(n), 1, 1, at=T0) for n in range(4)])

    store.record(outcomes=[Outcome("before", unit(0), "signup", at=T0 - 1)])
    store.record(outcomes=[Outcome("after", unit(1), "signup", at=T0 + 3601)])
    store.record(outcomes=[Outcome("late", unit(2), "signup", at=T0 + 3600)])

    assert store.counts(1, 0, "signup")[0].candidate == Side(4, 1)


def test_an_outcome_that_overtakes_its_exposure_is_counted(store: Store) -> None:
    store.record(outcomes=[Outcome("e", unit(1), "signup", at=T0 + 5)])
    assert store.counts(1, 0, "signup")[0].candidate == Side()

    store.record([Exposure(unit(1), 1, 1, at=T0)])

    assert store.counts(1, 0, "signup")[0].candidate == Side(1, 1)


def test_a_unit_stays_with_its_first_arm_while_that_is_shown(store: Store) -> None:
    first = store.record([Exposure(unit(1), 1, 1, at=T0)])
    store.put_split({0: 0.9, 1: 0.1}, 0)

    second = store.record([Exposure(unit(1), 0, 2, at=T0 + 9)])

    assert second == first
    assert store.assigned([unit(1), unit(2)]) == {unit(1): first[0]}
    assert [(c.candidate, c.other) for c in store.counts(1, 0, "signup")] == [(Side(1, 0), Side()), (Side(), Side())]


def test_a_unit_whose_arm_has_left_is_drawn_anew_and_its_outcomes_go_with_it(store: Store) -> None:
    store.record([Exposure(unit(1), 1, 1, at=T0)])
    store.put_arm(Arm(2, 0, {}, "c"))
    store.put_split({0: 0.5, 2: 0.5}, 0)

    (now,) = store.record([Exposure(unit(1), 2, 2, at=T0 + 100)])
    store.record(outcomes=[Outcome("e", unit(1), "signup", at=T0 + 101)])
    stale = store.record([Exposure(unit(1), 1, 1, at=T0 + 102)])

    assert now.arm == 2
    assert stale == [now]
    assert store.counts(1, 0, "signup")[0].candidate == Side(1, 0)
    assert store.counts(2, 0, "signup")[0].candidate == Side(1, 1)
    assert store.holdout("signup")[1] == Side(1, 1)


def test_the_holdout_is_counted_apart_and_never_drawn_anew(store: Store) -> None:
    store.record([Exposure(unit(1), 0, 1, holdout=True, at=T0), Exposure(unit(2), 0, 1, at=T0)])
    store.put_arm(Arm(2, 0, {}, "c"))
    store.put_split({2: 1.0}, 2)

    store.record([Exposure(unit(1), 2, 2, at=T0 + 9), Exposure(unit(2), 2, 2, at=T0 + 9)])
    store.record(outcomes=[Outcome("a", unit(1), "signup", at=T0 + 10), Outcome("b", unit(2), "signup", at=T0 + 10)])

    assert store.counts(1, 0, "signup")[0].other == Side(1, 0)
    assert store.holdout("signup") == (Side(1, 1), Side(1, 1))
    assert store.holdout("signup", since=T0 + DAY) == (Side(), Side())


def test_segments_and_other_outcomes_are_counted_apart(store: Store) -> None:
    store.record([Exposure(unit(n), n % 2, 1, "audience=young" if n < 4 else "audience=old", at=T0) for n in range(8)])
    store.record(outcomes=[Outcome("a", unit(1), "signup", at=T0), Outcome("b", unit(5), "complaint", at=T0)])

    assert store.counts(1, 0, "signup", segment="audience=young")[0].candidate == Side(2, 1)
    assert store.counts(1, 0, "signup", segment="audience=old")[0].candidate == Side(2, 0)
    assert store.counts(1, 0, "complaint")[0].candidate == Side(4, 1)
    assert sum(total.side.exposed for total in store.totals("signup")) == 8


def test_layers_of_one_store_know_nothing_of_each_other(store: Store, where: str) -> None:
    with closing(open_store(where, "mail")) as mail:
        mail.begin(Rules("mail"))
        mail.put_arm(Arm(0, None, {}, "x"))
        mail.put_split({0: 1.0}, 0)
        mail.record([Exposure(unit(1), 0, 1, at=T0)], [Outcome("e", unit(1), "signup", at=T0)], {"bot": 3})
        mail.suppress(unit(7))
        mail.suppress(unit(7))

        assert store.assigned([unit(1)]) == {}
        assert store.apart() == {}
        assert mail.apart() == {"bot": 3}
        assert mail.is_suppressed(unit(7))
        assert store.is_suppressed(unit(7))  # but for who wants no more mail: whatever it is about
        assert not store.is_suppressed(unit(8))


def test_a_mail_is_begun_once_unless_it_was_put_off(store: Store, where: str) -> None:
    with closing(open_store(where)) as other:
        assert [one.begin_send("spring", unit(1)) for one in (store, other)] == [True, False]
        store.settle_send("spring", unit(1), "deferred")
        assert [one.begin_send("spring", unit(1)) for one in (store, other)] == [True, False]
        store.settle_send("spring", unit(1), "taken")
        assert not other.begin_send("spring", unit(1))
        assert other.begin_send("summer", unit(1))
        assert other.sends("spring") == {unit(1): "taken"}


def test_a_batch_that_fails_leaves_nothing(store: Store) -> None:
    broken = Outcome("bad", unit(2), "signup", at="never")  # type: ignore[arg-type]

    with pytest.raises(TypeError):
        store.record([Exposure(unit(2), 1, 1, at=T0)], [broken])

    assert store.assigned([unit(2)]) == {}
    store.record([Exposure(unit(2), 1, 1, at=T0)])
    assert store.counts(1, 0, "signup")[0].candidate == Side(1, 0)


def test_counts_are_what_the_events_say_whatever_their_order(where: str, tmp_path: Path) -> None:
    import random

    dice = random.Random(5)
    exposures = [Exposure(unit(n), n % 2, 1, "", n % 10 == 0, T0 + n) for n in range(200)]
    outcomes = [
        Outcome(str(n), unit(dice.randrange(200)), "signup", 1.0, T0 + dice.randrange(4000)) for n in range(300)
    ]
    events: list[Exposure | Outcome] = [*exposures, *outcomes]
    dice.shuffle(events)
    shuffled, _ = deployed(where)
    ordered, _ = deployed(tmp_path / "ordered.sqlite")

    for begin in range(0, len(events), 37):
        part = events[begin : begin + 37]
        shuffled.record([e for e in part if isinstance(e, Exposure)], [e for e in part if isinstance(e, Outcome)])
    ordered.record(exposures, outcomes)

    read: list[Callable[[Store], object]] = [
        lambda s: s.counts(1, 0, "signup"),
        lambda s: s.totals("signup"),
        lambda s: s.holdout("signup"),
        lambda s: sorted((v.arm, v.value) for v in s.values(1, 0, "signup")),
    ]
    for one in read:
        assert one(shuffled) == one(ordered)
    first = {o.unit for o in outcomes if 0 <= o.at - exposures[int.from_bytes(o.unit, "big")].at <= 3600}
    assert sum(total.side.converted for total in ordered.totals("signup")) == len(first)
    shuffled.close()
    ordered.close()


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "live.sqlite").write_bytes(os.urandom(4096))

    with pytest.raises(BadLedger, match=r"live\.sqlite"):
        open_store(tmp_path / "live.sqlite")
    with pytest.raises(BadLedger, match="PostgreSQL"):
        open_store(f"postgresql:///postgres?host={tmp_path}")


def test_results_never_read_events(tmp_path: Path) -> None:
    with closing(filled(tmp_path / "live.sqlite", 20_000)) as store:
        assert store.counts(1, 0, "conversion") == [Counts(1, 0.5, Side(5000, 5000), Side(5000, 5000))]
        with closing(sqlite3.connect(tmp_path / "live.sqlite")) as db:
            rows = db.execute("SELECT count(*) FROM tallies").fetchone()[0]
        assert rows == 12, "two arms, three audiences, two names, one hour"
