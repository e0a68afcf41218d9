"""A street: simulated visitors who walk past a store as the service would have them, in a thread; no HTTP."""

from __future__ import annotations

import hashlib
import threading
from itertools import count

from nightlab.errors import NightlabError
from nightlab.live.assignment import assign, is_held_out
from nightlab.live.store import Exposure, Outcome, open_store
from nightlab.live.visitors import people


class Street:
    """Visitors come in batches for as long as the block lasts."""

    def __init__(self, path, layer="main", *, clock, crowd=None, seed=1, batch=400, pause=0.0):
        self.path, self.layer, self.clock, self.seed, self.batch, self.pause = path, layer, clock, seed, batch, pause
        self.crowd = crowd or people()
        self.over = threading.Event()
        self.came = 0
        self.trouble = None
        self.thread = threading.Thread(target=self._open, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        if self.trouble:
            raise self.trouble

    def _open(self):
        try:
            store = open_store(self.path, layer=self.layer)
            for number in count():
                if self.over.wait(self.pause):
                    break
                walk_past(store, self.crowd.come(self.seed, self.batch, first=number * self.batch), self)
            store.close()
        except NightlabError as error:
            self.trouble = error


def walk_past(store, visitors, street):
    """Each is shown an arm and signs up, or does not."""
    split, rules, now = store.split(), store.rules(), street.clock()
    if split is None:
        return
    arms = {arm.number: arm.content for arm in store.arms()}
    exposures, outcomes = [], []
    for one in visitors:
        unit = hashlib.blake2b(one.unit.encode(), digest_size=16).digest()
        held = is_held_out(rules.seed, one.unit, rules.holdout)
        arm = 0 if held else assign(f"{rules.seed}:{split.version}", one.unit, split.weights)
        exposures.append(Exposure(unit, arm, split.version, one.audience, held, now))
        if street.crowd.signs_up(one, arms[arm]):
            outcomes.append(Outcome(f"signup-{one.unit}", unit, "signup", 0.0, now + 1.0))
    store.record(exposures, outcomes)
    street.came += len(exposures)
