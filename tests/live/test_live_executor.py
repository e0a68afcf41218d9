"""The live executor on a real store; the tests themselves are the visitors."""

import json
import os
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import count

import pytest

from nightlab import task, tasks
from nightlab.errors import Invalid, StudyBusy
from nightlab.executor import Executor
from nightlab.live import claims
from nightlab.live.evaluator import LiveEvaluator
from nightlab.live.executor import LiveExecutor, Wanted
from nightlab.live.rollback import roll_back
from nightlab.live.store import Exposure, Outcome, Rules, open_store
from nightlab.values import Job
from nightlab.values import Outcome as Ended

HOUR = 3600.0
PATIENCE = 20.0


@dataclass
class Desk:
    """A study that says what a test wants it to."""

    kept: int | None = None
    said: list = field(default_factory=list)

    def wanted(self, run):
        number = int(run.partition("-")[0])
        return Wanted(number, None if number == 0 else 0)

    def champion(self):
        return self.kept

    def copy(self, number):
        raise AssertionError("every arm of these tests is in the store")

    def approvals(self):
        said, self.said = self.said, []
        return said


@dataclass
class Lab:
    """An executor, its store, its clock, and a folder for jobs."""

    folder: object
    approve: bool = False
    now: float = 1_000_000.0
    desk: Desk = field(default_factory=Desk)
    numbers: object = field(default_factory=count)

    def __post_init__(self):
        self.tree = self.folder / "tree"
        tasks.write("landing", self.tree)
        self.task = task.load(self.tree)
        self.store = open_store(self.folder / "live.sqlite")
        self.store.begin(Rules("seed", holdout=0.0, window=24 * HOUR, segments=("audience",)))
        self.executor = self.opened()

    def opened(self):
        return LiveExecutor(
            3,
            task=self.task,
            store=self.store,
            desk=self.desk,
            clock=lambda: self.now,
            approve=self.approve,
            tick=0.005,
        )

    def job(self, number, *, headline=None, run=1):
        tree = self.folder / f"tree-{number}"
        if not tree.exists():
            tasks.write("landing", tree)
        if headline:
            text = (tree / "copy.toml").read_text()
            (tree / "copy.toml").write_text(text.replace("A notebook for your whole team", headline))
        name = f"{number}-{run}"
        return Job(name, ("page.html",), tree, self.folder / "runs" / name, f"{name}.0")

    def visit(self, arm, people, conversions, *, segment="audience=teams", split=None):
        """So many people are shown an arm, and so many of them sign up."""
        split = split or self.store.split().version
        units = [next(self.numbers).to_bytes(16, "big") for _ in range(people)]
        self.store.record(
            [Exposure(unit, arm, split, segment, False, self.now) for unit in units],
            [Outcome(unit.hex(), unit, "signup", 0.0, self.now) for unit in units[:conversions]],
        )

    def both(self, people, mine, theirs, *, others=None):
        """People are shown either side of arms 1 and 0, at one moment."""
        split, sides = self.store.split().version, [(1, people, mine), (0, others or people, theirs)]
        exposures, outcomes = [], []
        for arm, shown, conversions in sides:
            units = [next(self.numbers).to_bytes(16, "big") for _ in range(shown)]
            exposures += [Exposure(unit, arm, split, "audience=teams", False, self.now) for unit in units]
            outcomes += [Outcome(unit.hex(), unit, "signup", 0.0, self.now) for unit in units[:conversions]]
        self.store.record(exposures, outcomes)

    def start(self):
        """The champion is known."""
        future = self.executor.submit(self.job(0))
        self.visit(0, 1000, 100)
        run = future.result(PATIENCE)
        self.desk.kept = 0
        return run

    def race(self, number=1, **more):
        future = self.executor.submit(self.job(number, **more))
        self.until(lambda: self.store.split().is_live(number))
        return future

    def until(self, is_so):
        end = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < end
            time.sleep(0.005)


@pytest.fixture
def lab(tmp_path):
    found = Lab(tmp_path)
    yield found
    found.executor.close()
    found.store.close()


def measured(run):
    return LiveEvaluator().evaluate(run, None, seed=0)


def test_it_is_an_executor(lab):
    assert isinstance(lab.executor, Executor)
    assert lab.executor.slots == 3


def test_the_start_is_shown_to_all_until_its_rate_is_known(lab):
    run = lab.start()

    assert run.outcome is Ended.FINISHED
    assert measured(run).value == pytest.approx(0.1)
    assert lab.store.split().weights == {0: 1.0}


def test_a_copy_that_breaks_a_rule_is_shown_to_nobody(lab):
    lab.start()

    run = lab.executor.submit(lab.job(1, headline="Results guaranteed for all")).result(PATIENCE)

    with pytest.raises(Invalid, match=r"brand guard.*guaranteed"):
        measured(run)
    assert [arm.number for arm in lab.store.arms()] == [0]
    assert lab.store.split().weights == {0: 1.0}


def test_a_winner_stays_a_day_before_it_is_served(lab):
    lab.start()
    future = lab.race(headline="Decisions your team can find again")
    lab.both(2000, 300, 200)
    time.sleep(0.1)
    assert not future.done()

    lab.now += 24 * HOUR
    found = measured(future.result(PATIENCE))

    assert found.value == pytest.approx(0.15)
    assert found.contrast.better >= 20
    assert found.contrast.gain == pytest.approx(0.05, abs=0.005)


def test_what_does_nothing_is_taken_down(lab):
    lab.start()
    future = lab.race(headline="Your notes, finally in order")
    lab.both(3000, 295, 300)

    assert measured(future.result(PATIENCE)).contrast.better < 1
    lab.until(lambda: lab.store.split().weights == {0: 1.0})
    assert lab.store.arm(1).status == "ended"


def test_what_does_harm_is_rolled_back_at_once(lab):
    lab.start()
    future = lab.race(headline="Your notes, finally in order")
    lab.both(2000, 100, 240)

    assert measured(future.result(PATIENCE)).contrast.worse >= 100
    assert lab.store.arm(1).status == "rolled back"


def test_a_split_that_is_not_kept_freezes_the_experiment(lab):
    lab.start()
    future = lab.race(headline="Your notes, finally in order")
    lab.both(1500, 150, 100, others=1000)

    run = future.result(PATIENCE)

    with pytest.raises(Invalid, match="the split was not kept"):
        measured(run)
    assert lab.store.arm(1).status == "frozen"


def test_a_killed_run_is_taken_from_the_visitors(lab):
    lab.start()
    future = lab.race(headline="Your notes, finally in order")

    lab.executor.kill("1-1")

    assert future.result(PATIENCE).outcome is Ended.KILLED
    lab.until(lambda: lab.store.split().weights == {0: 1.0})
    assert lab.executor.recover(lab.job(1)) is None


def test_a_finished_run_is_recovered(lab):
    run = lab.start()

    assert lab.executor.recover(lab.job(0)) == run
    assert lab.executor.recover(replace(lab.job(0), token="0-1.1")) is None
    assert lab.executor.recover(lab.job(7)) is None


def test_what_is_shown_stays_while_the_lab_is_down_and_is_taken_up_again(lab):
    lab.start()
    future = lab.race(headline="Decisions your team can find again")
    lab.executor.close()
    assert future.result(PATIENCE).outcome is Ended.KILLED
    assert lab.store.split().is_live(1)
    lab.both(2000, 300, 200)
    lab.now += 30 * HOUR

    with closing(lab.opened()) as another:
        run = another.recover(lab.job(1))

    assert measured(run).value == pytest.approx(0.15)


def test_a_lab_that_died_after_the_verdict_says_the_same(lab):
    lab.start()
    future = lab.race(headline="Decisions your team can find again")
    lab.both(2000, 300, 200)
    lab.now += 30 * HOUR
    run = future.result(PATIENCE)
    os.remove(run.folder / "result.json")
    os.remove(run.out / "live.json")

    again = lab.executor.recover(lab.job(1))

    assert measured(again) == measured(run)


def test_a_folder_in_use_is_refused(lab):
    lab.start()
    lab.race(headline="Your notes, finally in order")

    with pytest.raises(StudyBusy):
        lab.executor.submit(lab.job(1))


def test_nothing_goes_out_before_a_human_says_so(tmp_path):
    lab = Lab(tmp_path, approve=True)
    lab.start()
    future = lab.executor.submit(lab.job(1, headline="Your notes, finally in order"))
    refused = lab.executor.submit(lab.job(2, headline="The notebook that remembers for you"))
    time.sleep(0.1)
    assert lab.store.split().weights == {0: 1.0}
    assert lab.store.arm(1).status == "waiting"

    lab.desk.said = [(1, True), (2, False)]

    lab.until(lambda: lab.store.split().is_live(1))
    with pytest.raises(Invalid, match="refused by a human"):
        measured(refused.result(PATIENCE))
    assert not lab.store.split().is_live(2)
    lab.executor.close()
    assert future.result(PATIENCE).outcome is Ended.KILLED


def test_a_rollback_by_a_human_ends_the_run_and_stays(lab):
    lab.start()
    future = lab.race(headline="Your notes, finally in order")

    taken, split = roll_back(lab.store, 1)

    assert (taken, split.champion, split.is_live(1)) == (1, 0, False)
    with pytest.raises(Invalid, match="rolled back by a human"):
        measured(future.result(PATIENCE))
    time.sleep(0.1)
    assert lab.store.split().weights == {0: 1.0}


def test_a_champion_that_is_rolled_back_gives_way_to_what_it_grew_from(lab):
    lab.start()
    future = lab.race(headline="Decisions your team can find again")
    lab.both(2000, 300, 200)
    lab.now += 24 * HOUR
    future.result(PATIENCE)
    lab.desk.kept = 1
    lab.until(lambda: lab.store.split().champion == 1)

    taken, split = roll_back(lab.store)

    assert (taken, split.champion) == (1, 0)
    time.sleep(0.1)
    assert (lab.store.split().champion, lab.store.split().is_live(1)) == (0, False)


def test_a_claim_needs_a_week_and_its_level_in_the_stream(lab):
    lab.start()
    future = lab.race(headline="Decisions your team can find again")
    lab.both(4000, 600, 400)
    lab.now += 24 * HOUR
    future.result(PATIENCE)
    lab.desk.kept = 1
    lab.until(lambda: lab.store.split().champion == 1)
    time.sleep(0.1)
    assert not [one for one in claims.asked(lab.store) if one.is_claimed]
    assert lab.store.split().is_live(0), "it is compared further, for the claim"

    lab.now += 7 * 24 * HOUR

    lab.until(lambda: [one for one in claims.asked(lab.store) if one.is_claimed])
    found = [one for one in claims.asked(lab.store) if one.is_claimed]
    assert [(one.kind, one.arm) for one in found] == [("helps", 1)]
    assert found[0].evidence >= found[0].needed


def test_what_a_run_leaves_can_be_read_by_people(lab):
    run = lab.start()

    assert "exposed: 1000" in run.log()
    assert json.loads((run.out / "live.json").read_text())["converted"] == 100
