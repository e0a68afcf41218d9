"""Deploy, rollback and results as commands, against the real service."""

import json
import time
from contextlib import chdir

import pytest
from services import served
from typer.testing import CliRunner

from nightlab import tasks
from nightlab.cli import app
from nightlab.errors import BadTask, NightlabError, NotFound
from nightlab.live.rollback import roll_back
from nightlab.live.store import Arm, open_store
from nightlab.place import first_commit


@pytest.fixture
def landing(tmp_path):
    folder = tmp_path / "landing"
    tasks.write("landing", folder)
    first_commit(folder)
    return folder


def nightlab(folder, *words, code=0):
    with chdir(folder):
        done = CliRunner().invoke(app, ["live", *words])
    if isinstance(done.exception, NightlabError):
        assert done.exception.exit_code == code, done.exception
        return str(done.exception)
    assert done.exit_code == code, done.output
    return done.stdout


def test_the_start_is_deployed_and_served_before_any_lab_runs(landing):
    assert "version 0" in nightlab(landing, "deploy")

    with served(landing) as service, service.client as client:
        page = client.get("/").text
    assert "A notebook for your whole team" in page
    assert "is shown already" in nightlab(landing, "deploy", code=2)


def test_a_copy_that_breaks_a_rule_is_not_deployed(landing):
    copy = landing / "copy.toml"
    copy.write_text(copy.read_text().replace("Sign up", "Sign up, results guaranteed!"))

    said = nightlab(landing, "deploy", "--check", code=2)

    assert "guaranteed" in said
    assert "exclamation" in said
    assert "nothing is shown to anybody" in nightlab(landing, "results")


def test_a_rollback_is_in_effect_within_a_second(landing):
    nightlab(landing, "deploy")
    store = open_store(landing / ".nightlab" / "live.sqlite", layer="main")
    start = store.arm(0).content
    store.put_arm(Arm(1, 0, {**start, "headline": "A mistake that nobody should see"}, "b", "serving"))
    store.put_split({1: 1.0}, 1)
    with served(landing, version=2) as service, service.client as client:
        assert "A mistake" in client.get("/").text

        taken, split = roll_back(store)
        time.sleep(1.0)
        page = client.get("/").text

    assert (taken, split.champion) == (1, 0)
    assert "A mistake" not in page
    assert "A notebook for your whole team" in page
    store.close()


def test_a_rollback_is_one_command(landing):
    nightlab(landing, "deploy")
    store = open_store(landing / ".nightlab" / "live.sqlite", layer="main")
    store.put_arm(Arm(1, 0, store.arm(0).content, "b", "serving"))
    store.put_split({0: 0.5, 1: 0.5}, 1)

    told = json.loads(nightlab(landing, "rollback", "--json"))

    assert told == {"rolled_back": 1, "champion": 0, "split": 3}
    assert store.split().weights == {0: 1.0}
    store.close()


def test_what_cannot_be_rolled_back_is_told(landing):
    nightlab(landing, "deploy", "--check")
    store = open_store(landing / ".nightlab" / "live.sqlite", layer="main")
    with pytest.raises(NotFound, match="nothing is shown"):
        roll_back(store)
    nightlab(landing, "deploy")

    with pytest.raises(BadTask, match="the start"):
        roll_back(store)
    with pytest.raises(NotFound, match="no version 7"):
        roll_back(store, 7)
    store.close()


def test_capacity_is_told_before_anything_is_shown(landing):
    said = nightlab(landing, "capacity")

    assert "a gain of  20%" in said
    assert json.loads(nightlab(landing, "capacity", "--json"))["visitors_a_day"] == 20000
