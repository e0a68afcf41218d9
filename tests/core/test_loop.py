"""The loop over slots that end at once: every rule, no process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from conftest import TASK, git, make_repository

from nightlab.decide import Greedy, Policy, Race
from nightlab.errors import StudyStuck
from nightlab.ledger import Event, Ledger
from nightlab.lineage import commit_message
from nightlab.loop import Loop, Stop
from nightlab.proposer import Context, Proposer, Scripted, Unchanged
from nightlab.runner import Attempt, Finding
from nightlab.task import parse
from nightlab.testing.fakes import InstantSlots, Score, TimedSlots, noise
from nightlab.values import Experiment, Files, Measurement, Proposal, Status
from nightlab.workspace import Repository, Tree

START = "KNOB = 5\n"


def knob(value: object, words: str = "") -> Proposal:
    return Proposal(words or f"knob to {value}", {"train.py": f"KNOB = {value}\n"})


def exact(attempt: Attempt, texts: Files) -> float | str:
    """The knob itself is the score; what is no number crashes."""
    text = (texts.get("train.py") or START).removeprefix("KNOB = ").strip()
    try:
        return float(text)
    except ValueError:
        return f"ValueError: {text}"


def noisy(attempt: Attempt, texts: Files) -> float | str:
    found = exact(attempt, texts)
    return found if isinstance(found, str) else found + Random(attempt.seed).gauss(0, 0.1)


class Lab:
    """A repository, a ledger and a loop over them; opened anew it resumes."""

    def __init__(self, folder: Path, start: str = START) -> None:
        make_repository(folder, {"train.py": start, "nightlab.toml": TASK, "frozen.py": "f\n"})
        self.folder = folder
        self.repository = Repository(folder)
        (folder / ".nightlab").mkdir()
        self.ledger = Ledger(folder / ".nightlab" / "ledger.sqlite")
        head = self.repository.head()
        self.ledger.append(Event("study", "0", {"seed": 0, "base": head, "metric": "score", "direction": "lower"}))

    def loop(self, *proposers: Proposer, score: Score = exact, policy: Policy | None = None, slots: int = 1) -> Loop:
        return Loop(
            task=parse(TASK),
            ledger=self.ledger,
            repository=self.repository,
            slots=InstantSlots(score, slots=slots, repository=self.repository),
            proposers=proposers,
            policy=policy or Race(),
            branch="nightlab/main",
        )

    def tell(self, *proposals: Proposal, score: Score = exact) -> Sequence[Experiment]:
        self.loop(Scripted(proposals), score=score).run(Stop(experiments=len(proposals)))
        return self.ledger.experiments()

    def branch(self) -> list[str]:
        return git(
            self.folder, "log", "--format=%(trailers:key=Experiment-Id,valueonly,separator=)", "nightlab/main"
        ).split()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "study")


def test_a_better_tree_is_kept_and_a_worse_one_discarded(lab: Lab) -> None:
    experiments = lab.tell(knob(4), knob(6), knob(3))

    assert [one.status for one in experiments] == [Status.KEPT, Status.KEPT, Status.DISCARDED, Status.KEPT]
    assert [one.parent for one in experiments] == [None, 0, 1, 1]
    assert [one.gain for one in experiments] == [None, 1.0, -2.0, 1.0]
    assert lab.branch() == ["3", "1"]
    assert git(lab.folder, "show", "nightlab/main:train.py") == "KNOB = 3"


def test_the_evidence_stands_in_the_commit(lab: Lab) -> None:
    lab.tell(knob(4, "lower the knob\n\nExperiment-Id: 99"))

    message = git(lab.folder, "log", "-1", "--format=%B", "nightlab/main")
    assert "gain 1 over experiment 0" in message
    assert lab.branch() == ["1"]


def test_a_crash_is_recorded_without_a_score(lab: Lab) -> None:
    crashed = lab.tell(knob("oops"))[1]

    assert (crashed.status, crashed.value, crashed.gain) == (Status.CRASHED, None, None)
    assert "ValueError: oops" in crashed.reason


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"frozen.py": "x"}, "scope"),
        ({"../outside.py": "x"}, "scope"),
        ({".git/hooks/post-commit": "x"}, "scope"),
        ({"train.py": "x" * 1_000_001}, "size"),
        ({"train.py": START}, "duplicate"),
    ],
)
def test_what_may_not_run_is_rejected_and_recorded(lab: Lab, files: dict[str, str | None], kind: str) -> None:
    lab.loop(Scripted([Proposal("bad", files), knob(4)])).run(Stop(experiments=1))

    rejected = lab.ledger.experiment(1)
    assert rejected.status is Status.REJECTED
    assert rejected.reason.startswith(kind)
    assert lab.ledger.experiment(2).status is Status.KEPT


def test_the_same_change_on_a_new_parent_is_allowed(lab: Lab) -> None:
    two = Proposal("other file", {"train.py": "KNOB = 4\n# two\n"})
    experiments = lab.tell(
        knob(6), knob(4), two, score=lambda a, t: exact(a, {"train.py": (t.get("train.py") or START).split("\n")[0]})
    )

    assert [one.status for one in experiments[1:]] == [Status.DISCARDED, Status.KEPT, Status.DISCARDED]


def test_a_study_of_noise_runs_both_sides_and_says_why(lab: Lab) -> None:
    lab.loop(Unchanged(), score=noise).run(Stop(experiments=40))

    experiments = lab.ledger.experiments()[1:]
    assert len(experiments) == 40
    assert max(one.runs for one in experiments) >= 2
    assert all(one.reason.startswith("z ") for one in experiments)
    assert any(run["purpose"] == "incumbent" for run in lab.ledger.runs(lab.ledger.incumbent().id))  # type: ignore[union-attr]


def test_the_incumbent_is_refreshed_every_sixth_proposal(lab: Lab) -> None:
    lab.tell(*(knob(10 + n) for n in range(13)), score=noisy)

    again = [run["asked_by"] for run in lab.ledger.runs(0) if run["purpose"] == "incumbent"]
    assert again == [0, 0, 0, 7, 13]


def test_a_new_incumbent_starts_with_its_unselected_runs(lab: Lab) -> None:
    lab.tell(knob(4), score=noisy)

    kept = lab.ledger.experiment(1)
    assert kept.status is Status.KEPT
    samples = lab.ledger.samples(1, "candidate")
    assert lab.ledger.pool(1) == (samples[1:] or samples)


def test_a_resumed_study_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    proposals = [knob(5 - 0.01 * n + (n % 3)) for n in range(30)]
    whole, parts = Lab(tmp_path / "whole"), Lab(tmp_path / "parts")

    whole.tell(*proposals, score=noisy)
    for _ in range(10):
        parts.loop(Scripted(proposals), score=noisy).run(Stop(experiments=3))

    def told(lab: Lab) -> list[tuple[object, ...]]:
        return [
            (e.id, e.parent, e.status, e.value, e.gain, e.z, e.runs, e.reason, e.tree) for e in lab.ledger.experiments()
        ]

    assert told(parts) == told(whole)


def test_a_keep_whose_commit_was_interrupted_is_committed_on_resume(lab: Lab) -> None:
    loop = lab.loop(Scripted([knob(4), knob(3)]))
    loop.repository.keep = _die  # type: ignore[method-assign, assignment]
    with pytest.raises(SystemExit):
        loop.run(Stop(experiments=1))
    assert lab.ledger.experiment(1).commit is None
    del loop.repository.keep

    lab.loop(Scripted([knob(4), knob(3)])).run(Stop(experiments=1))

    assert lab.branch() == ["2", "1"]
    assert [one.status for one in lab.ledger.experiments()] == [Status.KEPT] * 3


def test_a_commit_that_was_made_but_not_recorded_is_not_made_twice(lab: Lab) -> None:
    lab.tell(knob(4))
    lab.ledger._db.execute("DELETE FROM events WHERE kind = 'committed' AND experiment = 1")
    lab.ledger.rebuild()

    lab.loop(Scripted([])).run(Stop(experiments=0))

    assert lab.branch() == ["1"]
    assert lab.ledger.experiment(1).commit == git(lab.folder, "rev-parse", "nightlab/main")


def test_a_branch_that_was_moved_or_deleted_is_put_back(lab: Lab) -> None:
    lab.tell(knob(4))
    git(lab.folder, "branch", "-D", "nightlab/main")

    lab.loop(Scripted([])).run(Stop(experiments=0))

    assert lab.branch() == ["1"]


TWO = "A = 5\n\n\n\nB = 5\n"


def summed(attempt: Attempt, texts: Files) -> float:
    lines = (texts.get("train.py") or TWO).split("\n")
    return float(lines[0].removeprefix("A = ")) + float(lines[4].removeprefix("B = "))


@pytest.mark.parametrize(("second", "merges"), [("A = 5\n\n\n\nB = 4\n", True), ("A = 3\n\n\n\nB = 5\n", False)])
def test_a_win_whose_parent_was_replaced_is_merged_and_raced_again(tmp_path: Path, second: str, merges: bool) -> None:
    lab = Lab(tmp_path / "study", start=TWO)
    proposals = [
        Proposal("A to 4", {"train.py": TWO.replace("A = 5", "A = 4")}),
        Proposal("other", {"train.py": second}),
    ]
    lab.loop(Scripted(proposals), score=summed, slots=2).run()

    statuses = [one.status for one in lab.ledger.experiments()[1:]]
    if merges:
        assert statuses == [Status.KEPT, Status.SHELVED, Status.KEPT]
        assert git(lab.folder, "show", "nightlab/main:train.py") == "A = 4\n\n\n\nB = 4"
    else:
        assert statuses == [Status.KEPT, Status.KEPT]
        assert lab.ledger.experiment(2).parent == 1
        assert lab.ledger.experiment(2).gain == 1.0
        assert git(lab.folder, "show", "nightlab/main:train.py") == "A = 3\n\n\n\nB = 5"
        lab.loop(Scripted(proposals), score=summed, slots=2).run()
        assert lab.branch() == ["2", "1"]


def _die(*_: object, **__: object) -> str:
    raise SystemExit


def test_a_baseline_without_a_number_stops_the_study_with_the_end_of_its_log(lab: Lab) -> None:
    with pytest.raises(StudyStuck, match=r"the baseline gives no number(.|\n)*no such module"):
        lab.loop(Scripted([]), score=lambda a, t: "no such module").run()


def test_twenty_failures_in_a_row_stop_the_study_with_the_reason(lab: Lab) -> None:
    reason = lab.loop(Scripted([knob(f"bad{n}") for n in range(50)])).run()

    assert reason.startswith("20 failures in a row")
    assert "bad19" in reason
    assert len(lab.ledger.experiments()) == 21


def test_a_proposer_without_ideas_ends_the_study(lab: Lab) -> None:
    assert lab.loop(Scripted([knob(4)])).run() == "no proposer has an idea left"


def test_the_target_ends_the_study(lab: Lab) -> None:
    reason = lab.loop(Scripted([knob(4), knob(3), knob(2)])).run(Stop(target=3.5))

    assert reason == "target 3.5 reached"
    assert len(lab.ledger.experiments()) == 3


def test_time_ends_the_study(lab: Lab) -> None:
    ticks = iter(range(10_000))
    loop = lab.loop(Unchanged(), score=noise)
    loop._clock = lambda: float(next(ticks))

    assert loop.run(Stop(seconds=20)) == "20 seconds"


def test_a_wish_to_stop_is_obeyed(lab: Lab) -> None:
    class Asking(Unchanged):
        def propose(self, context: Context) -> Proposal:
            if context.number == 3:
                lab.ledger.ask("stop")
            return super().propose(context)

    assert lab.loop(Asking(), score=noise).run() == "asked to stop"


def test_greedy_believes_its_records(lab: Lab) -> None:
    lab.loop(Unchanged(), score=noise, policy=Greedy()).run(Stop(experiments=30))

    kept = [one for one in lab.ledger.experiments() if one.status is Status.KEPT]
    assert len(kept) > 1
    assert [one.value for one in kept] == sorted((one.value or 0.0 for one in kept), reverse=True)


def test_a_proposer_that_raises_costs_one_number_and_ends_nothing(lab: Lab) -> None:
    class Broken(Scripted):
        def propose(self, context: Context) -> Proposal | None:
            if context.number == 1:
                raise ZeroDivisionError("no idea why")
            return super().propose(context)

        def learn(self, experiment: Experiment) -> None:
            raise KeyError(experiment.id)

    lab.loop(Broken([knob(4), knob(9), knob(3)])).run()

    experiments = lab.ledger.experiments()[1:]
    assert [one.status for one in experiments] == [Status.KEPT, Status.REJECTED, Status.KEPT]
    assert experiments[1].reason.startswith("proposer: ZeroDivisionError: no idea why (")
    assert "test_loop.py, line" in experiments[1].reason
    assert lab.ledger.count("note") == 3


def test_an_incumbent_that_fails_once_holds_up_nobody(lab: Lab) -> None:
    def flaky(attempt: Attempt, texts: Files) -> float | str:
        return "out of luck" if attempt.run == "0-4" else noisy(attempt, texts)

    lab.loop(Scripted([knob(10 + n) for n in range(8)]), score=flaky).run(Stop(experiments=8))

    runs = {run["id"]: run["outcome"] for run in lab.ledger.runs(0) if run["purpose"] == "incumbent"}
    assert runs == {"0-1": "finished", "0-2": "finished", "0-3": "finished", "0-4": "crashed"}
    assert all(one.status is Status.DISCARDED for one in lab.ledger.experiments()[1:])


def test_an_incumbent_that_fails_three_times_stops_the_study(lab: Lab) -> None:
    def broken(attempt: Attempt, texts: Files) -> float | str:
        is_late = attempt.purpose == "incumbent" and int(attempt.run.split("-")[1]) > 3
        return "the disk is gone" if is_late else noisy(attempt, texts)

    with pytest.raises(StudyStuck, match=r"the baseline gives no number(.|\n)*the disk is gone"):
        lab.loop(Scripted([knob(10 + n) for n in range(40)]), score=broken).run()


def test_every_proposer_learns_of_every_experiment_also_of_earlier_nights(lab: Lab) -> None:
    class Note(Scripted):
        def __init__(self, proposals: Sequence[Proposal]) -> None:
            super().__init__(proposals)
            self.learned: list[int] = []

        def learn(self, experiment: Experiment) -> None:
            self.learned.append(experiment.id)

    proposals = [knob(4), knob("x"), knob(3)]
    lab.loop(Note(proposals)).run(Stop(experiments=2))
    again = Note(proposals)
    lab.loop(again).run(Stop(experiments=1))

    assert again.learned == [1, 2, 3]


def test_a_hypothesis_cannot_forge_a_trailer() -> None:
    one = Experiment(7, 3, Status.KEPT, "a" * 100, "p", value=1.0, gain=0.1, stderr=0.01, z=10.0, reason="r", runs=2)

    lines = commit_message(one, "loss").splitlines()
    assert len(lines[0]) == 70
    assert lines[-2:] == ["Experiment-Id: 7", "Proposer: p"]


def test_nothing_is_asked_while_an_ended_run_has_not_been_told_of(lab: Lab) -> None:
    """An adopted run can end before the lab looks again; its slot is not free until it was judged."""
    parents = [one.parent for one in lab.tell(*(knob(4 - n) for n in range(4)))]

    assert parents == [None, 0, 1, 2, 3]


def test_a_lab_killed_before_it_repeated_a_seed_repeats_it_on_resume(tmp_path: Path) -> None:
    whole, broken = Lab(tmp_path / "whole"), Lab(tmp_path / "broken")
    whole.loop(Scripted([]), score=noisy).run()
    tree = broken.repository.tree(broken.repository.head()).id
    first = next(event for event in whole.ledger.read(kind="ran") if event.key == "0-1")
    started = next(event for event in whole.ledger.read(kind="started") if event.body["run"] == "0-1")
    body = {"parent": None, "hypothesis": "baseline", "proposer": "lab", "tree": tree, "diff": ""}
    commit = Event("committed", "0", {"commit": broken.repository.head()}, 0)
    broken.ledger.append(Event("proposed", "0", body, 0), commit, started, first)

    broken.loop(Scripted([]), score=noisy).run()

    assert sorted(run["id"] for run in broken.ledger.runs(0)) == ["0-1", "0-2", "0-3", "0-repeat"]


def test_many_slots_repeat_what_is_under_way_and_end_what_is_not_needed(lab: Lab) -> None:
    class Slow(Scripted):
        drafts = 1

        def propose(self, context: Context) -> Proposal | None:
            time.sleep(0.2)
            return knob(5.2 + context.draft / 100)

    slots = TimedSlots(lambda attempt, texts: noisy(attempt, texts), slots=12, seconds=0.1)
    loop = lab.loop(Slow([]), slots=12)
    loop.slots = slots

    loop.run(Stop(experiments=4))

    runs = [run for number in range(1, 5) for run in lab.ledger.runs(number)]
    assert len(lab.ledger.pool(0)) > 3, "the incumbent is repeated while nothing else is at hand"
    assert len(runs) > 4, "so is a candidate"
    assert {run["outcome"] for run in runs} <= {"finished", "killed"}
    assert all(run["value"] is None for run in runs if run["outcome"] == "killed")
    assert len({run["seed"] for run in lab.ledger.runs(1)}) == len(lab.ledger.runs(1))
    assert not lab.ledger.unfinished()


def test_few_slots_wait_for_an_idea_instead(lab: Lab) -> None:
    loop = lab.loop(Scripted([knob(5.5)]), score=noisy, slots=4)

    loop.run(Stop(experiments=1))

    assert all(run["purpose"] != "incumbent" or run["asked_by"] == 0 for run in lab.ledger.runs(0))


def test_under_a_wall_budget_runs_are_compared_on_one_class_of_hardware_only(lab: Lab) -> None:
    """The fast card is ten better, whatever the change: an A/A test on two cards that keeps nothing."""

    class Mixed(InstantSlots):
        def start(self, attempt: Attempt, tree: Tree, texts: Files) -> Future[Finding]:
            card = attempt.hardware or ("fast" if attempt.seed % 2 else "slow")
            found = super().start(attempt, tree, texts).result()
            better = 10.0 if card == "fast" else 0.0
            value = found.measurement.value - better if found.measurement else 0.0
            done: Future[Finding] = Future()
            done.set_result(replace(found, measurement=Measurement(value), facts={"hardware": card}))
            return done

    loop = lab.loop(Scripted([knob(5 + n / 1000) for n in range(1, 30)]))
    wall = parse(TASK + '[budget]\nkind = "wall"\namount = 1.0\n')
    loop = Loop(
        task=wall,
        ledger=lab.ledger,
        repository=lab.repository,
        slots=Mixed(noisy, repository=lab.repository),
        proposers=[Scripted([knob(5 + n / 1000) for n in range(1, 30)])],
        policy=Race("lean"),
        branch="nightlab/main",
    )

    loop.run(Stop(experiments=25))

    gains = [abs(one.gain) for one in lab.ledger.experiments()[1:] if one.gain is not None]
    assert gains
    assert max(gains) < 1.0
    assert loop.sigma is not None
    assert loop.sigma < 1.0
    assert {lab.ledger.hardware()[run["id"]] for run in lab.ledger.runs(0)} == {"fast", "slow"}


def test_who_has_ideas_is_told_what_is_being_tried(lab: Lab) -> None:
    told: list[list[object]] = []

    class Watching(Scripted):
        def propose(self, context: Context) -> Proposal | None:
            told.append([facts["number"] for facts in context.racing])
            return Proposal("x", {"train.py": f"KNOB = {6 + context.number}\n"}, {"number": context.number})

    lab.loop(Watching([]), slots=3).run(Stop(experiments=3))

    assert told == [[], [0], [0, 1]]
