import time
from contextlib import closing

import pytest
from streets import Street

from nightlab import tasks
from nightlab.live.clock import CLOCK, clock
from nightlab.loop import Stop
from nightlab.place import Place, first_commit, held
from nightlab.plugins import proposers
from nightlab.study import Study
from nightlab.values import Status

DAYS = 60_000
"""A day in one and a half seconds."""


@pytest.fixture
def landing(tmp_path, monkeypatch):
    monkeypatch.setenv(CLOCK, f"{time.time()}:{DAYS}")
    folder = tmp_path / "landing"
    tasks.write("landing", folder)
    first_commit(folder)
    return folder


def test_a_live_experiment_goes_from_a_proposal_to_a_decision(landing):
    place = Place(landing)

    with held(place), closing(Study(place, slots=3)) as study, Street(place.home / "live.sqlite", clock=clock()):
        reason = study.loop(proposers("tuner")).run(Stop(experiments=3))
        tried = study.ledger.experiments()

    assert reason == "3 experiments"
    assert tried[0].status is Status.KEPT
    assert 0.05 < tried[0].value < 0.15
    assert all(not one.status.is_open for one in tried)
    assert all(one.value is not None for one in tried if not one.status.is_failure)
