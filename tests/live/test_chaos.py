"""The lab is killed at random while visitors use the real service: nothing acknowledged is lost or counted twice."""

import json
import os
import random
import subprocess
import sys
import time
from contextlib import closing

import pytest
from services import served

from nightlab import tasks
from nightlab.ledger import Ledger
from nightlab.live.clock import CLOCK, clock
from nightlab.live.load import Line, Load
from nightlab.live.store import open_store
from nightlab.live.visitors import people
from nightlab.place import Place, first_commit

KILLS = int(os.environ.get("NIGHTLAB_LIVE_KILLS", "12"))
SPEED = 40_000


class Watched(Load):
    """A load that remembers what each visitor was told to see under which split."""

    def events(self, visitors, said, at):
        self.seen = getattr(self, "seen", {})
        self.seen |= {one.unit: told["arm"] for one, told in zip(visitors, said["assignments"], strict=True)}
        return super().events(visitors, said, at)


def lab(folder, *words):
    command = [sys.executable, "-m", "nightlab", "-C", str(folder), "run", "--workers", "4", "--json", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def landing(tmp_path, monkeypatch):
    monkeypatch.setenv(CLOCK, f"{time.time()}:{SPEED}")
    folder = tmp_path / "landing"
    tasks.write("landing", folder)
    first_commit(folder)
    return folder


@pytest.mark.slow
def test_a_lab_killed_at_any_moment_loses_nothing_that_visitors_did(landing):
    place, chance = Place(landing), random.Random(5)
    with served(landing, version=None) as service, Watched(service.url, service.key, people(), clock=clock()) as load:
        for _ in range(KILLS):
            process = lab(landing)
            time.sleep(chance.uniform(0.6, 2.5))
            process.kill()
            process.wait()
        last = lab(landing, "--experiments", "3")
        _, errors = last.communicate(timeout=300)
        assert last.returncode == 0, errors
        load.over.set()
        load._thread.join()
        again = assigned_again(service, load)

    with closing(open_store(place.home / "live.sqlite", layer="main")) as store:
        totals = store.totals("signup")
        shown, acted = sum(one.side.exposed for one in totals), sum(one.side.converted for one in totals)
        split = store.split()
        notes = [note.body["token"] for note in store.notes("ended")]
    assert shown == load.tally.shown
    assert acted == load.tally.acknowledged
    stays = {unit: arm for unit, arm in load.seen.items() if split.is_live(arm) and unit in again}
    assert stays, "some visitors still see what they saw"
    assert {unit: again[unit] for unit in stays} == stays
    assert len(notes) == len(set(notes)), "an experiment ends once"
    with closing(Ledger(place.ledger)) as ledger:
        tried = ledger.experiments()
        assert not [one for one in tried if one.status.is_open]
        assert len(tried) > 3
    print(json.dumps({"kills": KILLS, "shown": shown, "acted": acted, "experiments": len(tried), "same": len(stays)}))


def assigned_again(service, load):
    """What visitors are told to see who come back; the last to come, and some of all."""
    names = list(load.seen)
    names = names[:: max(1, len(names) // 900)][:900]
    line = Line(service.url, service.key)
    with closing(line):
        said = line.post("/v1/assign", {"units": names})
    return {name: one["arm"] for name, one in zip(names, said["assignments"], strict=True)}
