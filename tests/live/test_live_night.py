import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from conftest import git, make_repository
from streets import Street

from nightlab import tasks
from nightlab.errors import BadTask
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


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_left(landing):
    place = Place(landing)
    with Street(place.home / "live.sqlite", clock=clock()):
        for count in (1, 2):
            with held(place), closing(Study(place, slots=3)) as study:
                study.loop(proposers("tuner")).run(Stop(experiments=count))
                tried = study.ledger.experiments()
                study.finish(lambda _: None)

    assert len(tried) >= 4
    assert all(not one.status.is_open for one in tried)


def test_too_little_traffic_is_refused_unless_one_explores(landing):
    file = landing / "nightlab.toml"
    file.write_text(file.read_text().replace("visitors_a_day = 20000", "visitors_a_day = 20"))

    place = Place(landing)
    with held(place), pytest.raises(BadTask, match="of this traffic"):
        Study(place)
    with held(place):
        Study(place, explore=True).close()


@pytest.mark.parametrize("verb", ["auditor", "pruner"])
def test_a_live_study_is_looked_back_on_by_its_holdout_alone(landing, verb):
    place = Place(landing)
    with held(place), closing(Study(place)) as study, pytest.raises(BadTask, match="held out"):
        getattr(study, verb)()


def test_a_task_with_visitors_is_refused_another_executor(
    nightlab: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    nightlab("init", "landing", at=make_repository(tmp_path / "page", {"README": "x\n"}))
    git(tmp_path / "page", "add", "-A")
    git(tmp_path / "page", "commit", "-qm", "a task")

    done = nightlab("run", "--executor", "moon", at=tmp_path / "page", check=False)

    assert done.returncode == 2
    assert "runs with visitors, not on 'moon'" in done.stderr
