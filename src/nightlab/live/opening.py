"""The opening: a study's live side put together, and where its store is."""

from __future__ import annotations

import os
from pathlib import Path

from nightlab.live.claims import insights
from nightlab.live.clock import clock
from nightlab.live.comparison import Snapshot
from nightlab.live.desk import LedgerDesk
from nightlab.live.executor import LiveExecutor
from nightlab.live.holdout import Three, three
from nightlab.live.store import Rules, Store, open_store
from nightlab.place import Place
from nightlab.task import Live, Task
from nightlab.values import derived_seed

STORE = "NIGHTLAB_LIVE_STORE"
"""A variable: the postgresql:// address of the store, where it is not beside the ledger."""


def where(place: Place) -> str | Path:
    """Where a study's store is: beside its ledger, unless an address is given."""
    return os.environ.get(STORE) or place.home / "live.sqlite"


def store_of(place: Place, live: Live, seed: int) -> Store:
    """The store of a study, begun with the rules of its task."""
    store = open_store(where(place), layer=place.name)
    store.begin(
        Rules(
            seed=f"{place.name}-{derived_seed(seed, 'layer')}",
            holdout=live.holdout,
            window=live.window_hours * 3600,
            segments=live.segments,
        )
    )
    return store


def executor(place: Place, task: Task, *, slots: int, seed: int, approve: bool = False) -> LiveExecutor:
    """Whoever shows a study's versions to visitors."""
    assert task.live is not None
    store = store_of(place, task.live, seed)
    return LiveExecutor(slots, task=task, store=store, desk=LedgerDesk(place, task), clock=clock(), approve=approve)


def said(store: Store, live: Live) -> list[str]:
    """What may be claimed so far, for whoever has the next idea."""
    found = insights(store, Snapshot.of(store, live.outcome), live, now=clock()())
    return [one.words() for one in found]


def lifts(store: Store, live: Live) -> Three | None:
    """The champion's lift over the start, three times."""
    return three(store, Snapshot.of(store, live.outcome), live)
