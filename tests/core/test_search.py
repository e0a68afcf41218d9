"""The search: who thinks beside the loop, what becomes of ideas that are overtaken, what a person's words do."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import TASK, git
from core.test_loop import TWO, Lab, exact, knob, summed

from nightlab import facts, search
from nightlab import loop as loops
from nightlab.bandit import Bandit
from nightlab.errors import StudyStuck
from nightlab.ledger import Event
from nightlab.loop import Stop
from nightlab.proposer import Context, Scripted
from nightlab.runner import Attempt, Finding
from nightlab.search import alike, syntax
from nightlab.task import parse
from nightlab.testing.fakes import InstantSlots
from nightlab.values import Cost, Experiment, Files, Outcome, Proposal, Run, Status
from nightlab.workspace import Tree, difference


class Thinker:
    """Answers what a function says, beside the loop."""

    name = "thinker"

    def __init__(self, answer: Callable[[Context], Proposal | None], drafts: int = 1) -> None:
        self.answer, self.drafts = answer, drafts
        self.told: list[Context] = []

    def propose(self, context: Context) -> Proposal | None:
        self.told.append(context)
        return self.answer(context)

    def learn(self, experiment: Experiment) -> None:
        """Nothing."""


def thinker(*proposals: Proposal, drafts: int = 1) -> Thinker:
    """One that goes through a list, draft by draft."""
    return Thinker(lambda context: proposals[context.draft] if context.draft < len(proposals) else None, drafts)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "study")


def statuses(lab: Lab) -> list[str]:
    return [str(one.status) for one in lab.ledger.experiments()]


# --- thinking beside the loop ---


def test_ideas_thought_out_beside_the_loop_are_tried_like_any_other(lab: Lab) -> None:
    reason = lab.loop(thinker(knob(0.5), knob(2.0))).run()

    assert reason == "no proposer has an idea left"
    assert statuses(lab) == ["kept", "kept", "discarded"]
    assert [event.body["proposer"] for event in lab.ledger.read(kind="asked")][:2] == ["thinker", "thinker"]


def test_an_instant_proposer_is_not_kept_waiting_by_one_that_thinks(lab: Lab) -> None:
    over = threading.Event()

    class Impatient(Scripted):
        def learn(self, experiment: Experiment) -> None:
            if experiment.id == 3:
                over.set()

    mind = Thinker(lambda _: None if over.wait(20) else knob("late"))
    lab.loop(mind, Impatient([knob(4), knob(3), knob(2)])).run(Stop(experiments=3))

    assert statuses(lab) == ["kept"] * 4


def test_no_more_is_thought_out_than_experiments_are_left(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "study", start=TWO)
    texts = [TWO.replace("A = 5", "A = 4"), TWO.replace("B = 5", "B = 4")]
    mind = Thinker(lambda context: Proposal(f"{context.draft}", {"train.py": texts[context.draft]}), drafts=4)

    lab.loop(mind, score=summed, slots=3).run(Stop(experiments=2))

    assert len(mind.told) == 2


def test_what_was_thought_out_and_not_tried_is_tried_after_a_resume(lab: Lab) -> None:
    lab.tell(knob(4))
    words = {"proposer": "thinker", "parent": 1, "mends": None, "is_regrown": False}
    diff = difference({"train.py": "KNOB = 4\n"}, {"train.py": "KNOB = 3\n"})
    answer: dict[str, Any] = {"hypothesis": "three", "diff": diff, "facts": {}, "expected": None}
    lab.ledger.append(Event("asked", "0", words), Event("drafted", "0", answer | {"money": 0.5, "tokens": 7}))
    mind = thinker()

    lab.loop(mind).run()

    assert (lab.ledger.experiment(2).hypothesis, lab.ledger.experiment(2).status) == ("three", Status.KEPT)
    assert [context.draft for context in mind.told] == [1]
    assert lab.ledger.spent() == pytest.approx({"seconds": 0.005, "money": 0.5, "tokens": 7}, abs=0.01)


def test_a_call_that_a_killed_lab_left_unanswered_is_asked_again_under_its_number(lab: Lab) -> None:
    lab.tell(knob(4))
    words = {"proposer": "thinker", "parent": 0, "mends": None, "is_regrown": False}
    lab.ledger.append(Event("asked", "0", words))
    mind = thinker(Proposal("unrelated", {"train.py": "KNOB = 5\n# a word\n"}))

    lab.loop(mind).run()

    assert (mind.told[0].draft, mind.told[0].incumbent) == (0, 0)
    assert [context.draft for context in mind.told[1:]] == [1]


@pytest.mark.parametrize(
    ("second", "comes_to"), [("A = 5\n\n\n\nB = 4\n", "kept"), ("A = 3\n\n\n\nB = 5\n", "rejected")]
)
def test_an_idea_that_was_overtaken_is_merged_onto_the_incumbent_or_dropped(
    tmp_path: Path, second: str, comes_to: str
) -> None:
    lab, both = Lab(tmp_path / "study", start=TWO), threading.Barrier(2)
    texts = [TWO.replace("A = 5", "A = 4"), second]

    def answer(context: Context) -> Proposal | None:
        if context.draft > 1:
            return None
        both.wait(10)  # both are made from the start
        time.sleep(0.1 * context.draft)
        return Proposal(f"idea {context.draft}", {"train.py": texts[context.draft]})

    lab.loop(Thinker(answer, drafts=2), score=summed).run()

    assert statuses(lab) == ["kept", "kept", comes_to]
    assert lab.ledger.experiment(2).reason.startswith("conflict: made from experiment 0") is (comes_to == "rejected")
    assert git(lab.folder, "show", "nightlab/main:train.py").startswith("A = 4")


@pytest.mark.slow
def test_one_that_thinks_and_fails_is_asked_more_and_more_slowly(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(loops, "_TICK", 0.01)
    mind = Thinker(lambda _: Proposal("", {}, facts={"failure": "the endpoint is down"}, cost=Cost(money=0.1)))
    loop = lab.loop(mind)
    loop.search._clock = lambda: now[0]
    asked_at: list[float] = []
    mind.answer = lambda context, old=mind.answer: asked_at.append(now[0]) or old(context)  # type: ignore[misc]

    def pass_time() -> None:
        while loop.reason is None:
            now[0] += 0.5
            time.sleep(0.0005)

    clock = threading.Thread(target=pass_time, daemon=True)
    clock.start()
    reason = loop.run()
    clock.join()

    pauses = [after - before for before, after in pairwise(asked_at)]
    assert reason == "20 failures in a row; the last: proposer: the endpoint is down"
    assert pauses[1] >= 2
    assert pauses[5] >= 32
    assert lab.ledger.spent()["money"] == pytest.approx(2.0)


def test_a_crash_is_mended_once(lab: Lab) -> None:
    def answer(context: Context) -> Proposal | None:
        if context.mends is not None:
            assert context.files["train.py"].startswith("KNOB = oops")
            assert "ValueError: oops" in context.traces[context.mends.id].tail
            return Proposal("with a number", {"train.py": "KNOB = 1\n" if context.draft == 1 else "KNOB = worse\n"})
        return knob(f"oops{context.draft}") if context.draft in (0, 2) else None

    lab.loop(Thinker(answer)).run()

    told = lab.ledger.experiments()
    assert [str(one.status) for one in told] == ["kept", "crashed", "kept", "crashed", "crashed"]
    assert told[2].facts["mends"] == 1


def test_what_is_no_python_is_refused_before_it_costs_a_run_and_may_be_mended(lab: Lab) -> None:
    def answer(context: Context) -> Proposal | None:
        if context.mends is not None:
            return Proposal("closed", {"train.py": "KNOB = 1\n"})
        return Proposal("open", {"train.py": "KNOB = (1\n"}) if context.draft == 0 else None

    loop = lab.loop(Thinker(answer))
    loop.run()

    assert statuses(lab) == ["kept", "rejected", "kept"]
    assert lab.ledger.experiment(1).reason.startswith("smoke: train.py is not valid Python")
    assert isinstance(loop.slots, InstantSlots)
    assert all(attempt.experiment != 1 for attempt in loop.slots.attempts)


def test_a_search_space_becomes_no_experiment_and_reaches_every_proposer(lab: Lab) -> None:
    knobs = [{"path": "train.py", "name": "KNOB", "low": 1, "high": 9}]
    first = Proposal("look around", {}, facts={"space": knobs}, cost=Cost(money=0.25, tokens=9))
    mind = Thinker(lambda context: first if context.draft == 0 else None)

    lab.loop(mind).run()

    assert statuses(lab) == ["kept"]
    assert mind.told[1].spaces == ({"hypothesis": "look around", "proposer": "thinker", **knobs[0]},)
    assert lab.ledger.spent()["money"] == 0.25


def test_on_a_plateau_some_ideas_are_grown_from_an_earlier_keep_and_raced_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "PLATEAU", 1)
    lab = Lab(tmp_path / "study", start=TWO)

    def answer(context: Context) -> Proposal | None:
        if context.draft == 0:
            return Proposal("A", {"train.py": TWO.replace("A = 5", "A = 4")})
        if context.incumbent == 0:
            return Proposal("regrown", {"train.py": TWO.replace("B = 5", "B = 2")})
        return Proposal("worse", {"train.py": f"A = 6\n\n\n\nB = {9 + context.draft}\n"}) if context.draft < 9 else None

    mind = Thinker(answer)
    lab.loop(mind, score=summed).run(Stop(experiments=6))

    regrown = next(one for one in lab.ledger.experiments() if one.hypothesis == "regrown")
    assert regrown.parent == 0
    assert git(lab.folder, "show", "nightlab/main:train.py") == "A = 4\n\n\n\nB = 2"
    assert any(context.is_stuck for context in mind.told)


# --- stops ---


def test_money_tokens_and_a_plateau_end_the_study_and_say_so(tmp_path: Path) -> None:
    cost = Cost(money=0.2, tokens=10)
    stops = [Stop(money=0.5), Stop(tokens=25), Stop(plateau=4)]
    reasons = []
    for number, stop in enumerate(stops):
        lab = Lab(tmp_path / f"study-{number}")
        mind = Thinker(lambda context: Proposal("worse", {"train.py": f"KNOB = {6 + context.draft}\n"}, cost=cost))
        reasons.append(lab.loop(mind).run(stop))

    assert reasons == ["0.5 US dollars are spent", "25 tokens are used", "no gain in 4 experiments"]


def test_an_agent_whose_cap_is_reached_ends_the_study_with_its_words(lab: Lab) -> None:
    words = "the cap of $0.50 leaves no room for another call"

    reason = lab.loop(thinker(Proposal("", {}, facts={"failure": words, "exhausted": words}))).run()

    assert reason == words
    assert lab.ledger.experiment(1).reason == f"proposer: {words}"


def test_what_was_paid_for_thoughts_without_an_experiment_is_in_the_books(lab: Lab) -> None:
    cost = Cost(money=0.2, tokens=10)

    class Cut(Thinker):
        """Its second call hangs until it is ended; it was paid for all the same."""

        def close(self) -> None:
            over.set()

    def answer(context: Context) -> Proposal:
        if context.draft == 1:
            assert over.wait(20)
        return Proposal(f"{context.draft}", {"train.py": f"KNOB = {4 - context.draft}\n"}, cost=cost)

    over = threading.Event()
    lab.loop(Cut(answer, drafts=2)).run(Stop(target=4.0))
    books = lab.ledger.spent()
    told = [event.body["tokens"] for event in lab.ledger.read(kind="broken_off")]

    assert (told, books["tokens"], books["money"]) == ([10], 20, pytest.approx(0.4))

    lab.loop(Cut(answer, drafts=2)).run(Stop(experiments=1))

    assert lab.ledger.experiment(2).hypothesis == "1"
    assert lab.ledger.spent()["tokens"] == 10 * lab.ledger.count("asked")


def test_a_lab_that_cannot_go_on_ends_the_calls_under_way(lab: Lab) -> None:
    class Hanging(Thinker):
        def close(self) -> None:
            over.set()

    over, began = threading.Event(), time.monotonic()
    mind = Hanging(lambda _: None if over.wait(20) else knob("late"))

    def full(attempt: Attempt, texts: Files) -> float | str:
        if attempt.experiment == 1:
            raise StudyStuck("the disk is full")
        return exact(attempt, texts)

    with pytest.raises(StudyStuck, match="full"):
        lab.loop(mind, Scripted([knob(4)]), score=full).run()

    assert over.is_set()
    assert time.monotonic() - began < 5


def test_a_stop_is_obeyed_while_a_checkpoint_waits_for_a_thought(lab: Lab) -> None:
    class Hanging(Thinker):
        def close(self) -> None:
            over.set()

    over, began = threading.Event(), time.monotonic()
    lab.tell(knob(4))
    loop = lab.loop(Hanging(lambda _: None if over.wait(20) else knob("late")), Scripted([Proposal("", {}), knob(3)]))
    threading.Timer(0.5, lambda: lab.ledger.ask("stop", "")).start()

    assert loop.run(Stop(runs=1)) == "asked to stop"
    assert time.monotonic() - began < 5


# --- answers that cannot be used ---


BAD: list[tuple[Mapping[str, str | None], Mapping[str, Any], str]] = [
    ({"train.py": "KNOB = '\ud800'\n"}, {}, "cannot be written down: UnicodeEncodeError"),
    ({"\udcff.py": "x\n"}, {}, "cannot be written down: UnicodeEncodeError"),
    ({"train.py": "KNOB = 4\n"}, {"odd": {1, 2}}, "cannot be written down: TypeError"),
    ({"train.py": "KNOB = 4\n"}, {"odd": float("nan")}, "cannot be written down: ValueError"),
    ({"./train.py": "KNOB = 4\n"}, {}, "./train.py is not editable here"),
    ({"a\tb.py": "KNOB = 4\n"}, {}, "is not editable here"),
    ({"train.py/deep.py": "x\n"}, {}, "cannot be beside train.py"),
    ({"new.py": "x\n", "new.py/deep.py": "y\n"}, {}, "cannot be beside new.py"),
    ({"parts": "x\n", "parts/a.py": "y\n"}, {}, "cannot be beside parts"),
    ({"link/outside.py": "x\n"}, {}, "cannot be beside link"),
    ({"link": "x\n"}, {}, "is a symbolic link"),
    ({}, {"failure": "it said \ud800\x1b]0;title\x07 and went"}, "it said ]0;title and went"),
]


@pytest.mark.parametrize("drafts", [0, 1])
@pytest.mark.parametrize(("files", "facts", "words"), BAD)
def test_an_answer_that_cannot_be_used_costs_one_number_and_ends_nothing(
    tmp_path: Path, files: Mapping[str, str | None], facts: Mapping[str, Any], words: str, drafts: int
) -> None:
    lab = Lab(tmp_path / "study")
    (lab.folder / "link").symlink_to(tmp_path)
    git(lab.folder, "add", "-A")
    git(lab.folder, "commit", "-q", "-m", "a link")
    study = lab.ledger.study() or {}
    lab.ledger.append(Event("study", "1", {**study, "base": lab.repository.head()}))
    loop = lab.loop(thinker(Proposal("odd \ud800", files, facts), knob(3), drafts=drafts))
    loop.task = loop.search.task = parse(TASK.replace('"train.py"', '"**"'))
    smoked: list[Files] = []
    loop.search._smoke = lambda parent, files: smoked.append(files)

    if drafts:
        loop.run()
    else:
        loop = lab.loop(Scripted([Proposal("odd", files, facts), knob(3)]))
        loop.task = loop.search.task = parse(TASK.replace('"train.py"', '"**"'))
        loop.run()

    assert statuses(lab) == ["kept", "rejected", "kept"]
    assert words in lab.ledger.experiment(1).reason
    assert all(set(files) == {"train.py"} for files in smoked)
    assert not (tmp_path / "outside.py").exists()


def test_a_smoke_test_that_cannot_be_made_blames_nobody(lab: Lab) -> None:
    loop = lab.loop(thinker(knob(4)))

    def broken(*_: object) -> str | None:
        raise OSError(28, "No space left on device")

    loop.search._smoke = broken

    loop.run()

    assert statuses(lab) == ["kept", "kept"]


def test_an_answer_that_cannot_be_read_back_is_not_raced_as_no_change(lab: Lab) -> None:
    lab.tell(knob(4))
    words = {"proposer": "thinker", "parent": 1, "mends": None, "is_regrown": False}
    answer: dict[str, Any] = {"hypothesis": "three", "diff": "torn", "facts": {}, "expected": None}
    lab.ledger.append(Event("asked", "0", words), Event("drafted", "0", answer | {"money": 0.5, "tokens": 7}))

    lab.loop(thinker()).run()

    assert lab.ledger.experiment(2).reason == "proposer: its change cannot be read back from the ledger"


# --- a person's words ---


def test_a_retry_asked_for_while_the_last_run_ends_is_tried_by_the_next_lab(lab: Lab) -> None:
    class Late(InstantSlots):
        """While its last run goes on, somebody asks for a retry."""

        def start(self, attempt: Attempt, tree: Tree, texts: Files) -> Future[Finding]:
            if attempt.experiment != 2:
                return super().start(attempt, tree, texts)
            lab.ledger.ask("retry", "1")
            lab.ledger.ask("retry", "1")
            future, ended = Future[Finding](), super().start(attempt, tree, texts)
            threading.Timer(0.6, lambda: future.set_result(ended.result())).start()
            return future

    loop = lab.loop(Scripted([knob(6), knob(7)]))
    loop.slots = Late(exact)
    loop.run(Stop(experiments=2))

    lab.loop().run()

    assert [one.facts.get("retries") for one in lab.ledger.experiments()[1:]] == [None, None, 1, 1]


def test_what_a_person_says_reaches_the_next_idea_and_outlives_the_lab(lab: Lab) -> None:
    lab.tell(knob(4))
    lab.ledger.ask("steer", "leave the optimiser alone")
    first, second = thinker(knob(3)), thinker()

    lab.loop(first).run(Stop(experiments=1))
    lab.loop(second).run()

    assert first.told[0].steering == ("leave the optimiser alone",)
    assert second.told[0].steering == ("leave the optimiser alone",)


def test_a_note_stands_beside_its_experiment(lab: Lab) -> None:
    lab.tell(knob(4))
    lab.ledger.ask("note", json.dumps({"experiment": 1, "text": "check this"}))

    lab.loop().run()

    assert [(e.experiment, e.body["text"]) for e in lab.ledger.read(kind="note")] == [(1, "check this")]


def test_a_vetoed_keep_leaves_the_branch_and_what_follows_is_raced_without_it(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "study", start=TWO)
    keeps = [TWO.replace("A = 5", "A = 4"), TWO.replace("A = 5", "A = 4").replace("B = 5", "B = 3")]
    lab.loop(Scripted([Proposal(f"keep {n}", {"train.py": text}) for n, text in enumerate(keeps)]), score=summed).run()
    lab.ledger.ask("veto", "1")

    after = Scripted([Proposal("none", {})] * 3 + [Proposal("B to 2", {"train.py": TWO.replace("B = 5", "B = 2")})] * 2)
    lab.loop(after, score=summed).run(Stop(experiments=1))

    assert lab.ledger.experiment(1).status is Status.REVERTED
    assert lab.ledger.experiment(3).hypothesis == "without experiment 1"
    assert lab.ledger.experiment(4).parent == 3
    assert lab.ledger.experiment(4).status is Status.KEPT
    assert git(lab.folder, "show", "nightlab/main:train.py") == "A = 5\n\n\n\nB = 2"


class Endless(InstantSlots):
    """Runs of experiment 1 go on until they are ended."""

    def start(self, attempt: Attempt, tree: Tree, texts: Files) -> Future[Finding]:
        if attempt.experiment != 1:
            return super().start(attempt, tree, texts)
        self.left: Future[Finding] = Future()
        self.attempt = attempt
        return self.left

    adopt = start

    def kill(self, run: str | None = None) -> None:
        assert run == self.attempt.run
        ended = Run(self.attempt.run, Outcome.KILLED, "ended", Path(), cost=Cost(3.0))
        self.left.set_result(Finding(self.attempt, ended))


def test_an_experiment_that_is_vetoed_while_it_runs_ends_at_once_and_is_not_run_again(lab: Lab) -> None:
    class Vetoed(Scripted):
        def propose(self, context: Context) -> Proposal | None:
            if context.number == 0:
                lab.ledger.ask("veto", "1")
            return super().propose(context)

    loop = lab.loop(Vetoed([knob(1), knob(4)]))
    loop.slots = Endless(exact)
    loop.run()

    one = lab.ledger.experiment(1)
    assert statuses(lab) == ["kept", "discarded", "kept"]
    assert (one.reason, one.seconds, one.value) == ("vetoed by a human", 3.0, None)
    assert lab.ledger.unfinished() == []


def test_an_experiment_that_is_vetoed_before_its_lost_run_is_taken_up_is_over(lab: Lab) -> None:
    class Killed(BaseException):
        """Stands for a kill in the middle of a run."""

    def killed(attempt: Attempt, texts: Files) -> float | str:
        if attempt.experiment == 1:
            raise Killed
        return exact(attempt, texts)

    with pytest.raises(Killed):
        lab.tell(knob(4), score=killed)
    lab.ledger.ask("veto", "1")
    lab.loop().run()

    lab.loop(Scripted([knob("none"), knob(3)])).run()

    assert statuses(lab) == ["kept", "discarded", "kept"]


def test_a_patch_is_retried_on_the_present_incumbent(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "study", start=TWO)
    first = Proposal("B to 6", {"train.py": TWO.replace("B = 5", "B = 6")})
    second = Proposal("A to 4", {"train.py": TWO.replace("A = 5", "A = 4")})
    lab.loop(Scripted([first, second]), score=summed).run()
    lab.ledger.ask("retry", "1")

    lab.loop(score=summed).run()

    again = lab.ledger.experiment(3)
    assert (again.hypothesis, again.parent, again.facts["retries"]) == ("B to 6", 2, 1)
    assert again.value == 10


# --- small things ---


def test_nearly_the_same_change_is_told_from_another_one() -> None:
    def tried(number: int, diff: str) -> Experiment:
        return Experiment(number, 0, Status.DISCARDED, "", "", diff=diff)

    diff = "--- a/x\n+++ b/x\n-rate = 1\n+rate = 2\n"

    assert alike(diff, [tried(1, diff), tried(2, diff.replace("= 2", "=  2"))]) == 2
    assert alike(diff, [tried(1, diff.replace("= 2", "= 3"))]) is None
    assert alike("", [tried(1, "")]) is None


@pytest.mark.parametrize("text", ["(" * 100_000, "x = 1\0", "def f(:\n", "if 1:\nx"])
def test_text_that_is_no_python_is_told_and_hurts_nobody(text: str) -> None:
    assert "train.py" in str(syntax({"train.py": text}))
    assert syntax({"notes.md": text, "gone.py": None}) is None


def test_curves_are_thinned_and_counters_left_out() -> None:
    log = "".join(f"step {n} | loss: {10 / (n + 1):.3f} | lr = 1e-3\nepoch: {n}\n" for n in range(100))

    found = facts.curves(log)

    assert set(found) == {"loss", "lr"} - {"lr"}
    assert (len(found["loss"]), found["loss"][0], found["loss"][-1]) == (12, 10.0, 0.1)


def test_time_to_think_is_a_cost_to_the_bandit() -> None:
    def won(number: int, who: str, thinking: float) -> Experiment:
        cost = {"thinking": thinking} if thinking else {}
        return Experiment(number, 0, Status.KEPT, "", who, gain=1.0, runs=2, facts=cost)

    bandit = Bandit(["quick", "slow"])
    for number in range(20):
        bandit.learn(won(number, "quick", 0.0))
        bandit.learn(won(number, "slow", 20.0))

    assert all(bandit.order(seed=1, number=n)[0] == "quick" for n in range(20))
