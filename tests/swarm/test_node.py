"""One lab's part in a swarm: real studies, which share a store and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TASK, make_repository
from sets import Author, key

from nightlab.loop import Stop
from nightlab.place import find, held
from nightlab.proposer import Scripted
from nightlab.study import Study
from nightlab.swarm import membership
from nightlab.swarm.board import Board
from nightlab.swarm.membership import Membership
from nightlab.swarm.node import Node, Seat
from nightlab.swarm.record import Claim, Result, Retraction, Verification, patch_key
from nightlab.values import Experiment, Files, Proposal, Status
from nightlab.workspace import difference

START = "KNOB = 5.0\nOTHER = 1.0\n\n\nPAD = 0\n\n\nSLOPE = 0.0\nprint('score:', KNOB + OTHER + SLOPE)\n"
FROZEN = "x = 1\n"


def turned(**knobs: float) -> Files:
    text = START
    for name, value in knobs.items():
        text = "\n".join(f"{name} = {value}" if line.startswith(f"{name} = ") else line for line in text.split("\n"))
    return {"train.py": text}


def proposal(words: str, **knobs: float) -> Proposal:
    return Proposal(words, turned(**knobs))


class Lab:
    """A study in a swarm, which tries what it is told to."""

    def __init__(self, study: Study, node: Node) -> None:
        self.study, self.node = study, node
        study.peers = node

    def tries(self, *proposals: Proposal) -> list[Experiment]:
        """What became of these, and of whatever the swarm wanted raced here."""
        before = self.study.ledger.next_number()
        self.study.loop([Scripted(_after(before, proposals))]).run(Stop(experiments=None))
        self.node.teller.tell()
        return [one for one in self.study.ledger.experiments() if one.id >= max(1, before)]


def _after(number: int, proposals: tuple[Proposal, ...]) -> list[Proposal]:
    """A script is read by how many ideas were asked for; what was told before is not told again."""
    return [Proposal("nothing", {})] * max(0, number - 1) + list(proposals)


@pytest.fixture
def joined(tmp_path: Path) -> Membership:
    return membership.create(tmp_path / "home", "pals", label="here", setting="machine")


@contextmanager
def lab(tmp_path: Path, joined: Membership, name: str) -> Iterator[Lab]:
    files = {"train.py": START, "frozen.py": FROZEN, "nightlab.toml": TASK, "program.md": "Lower it."}
    folder = tmp_path / name
    place = find(folder if folder.exists() else make_repository(folder, files))
    with ExitStack() as stack:
        stack.enter_context(held(place))
        study = stack.enter_context(closing(Study(place, unsafe=True, jail="process")))
        seat = Seat(replace(joined, label=name), key(name))
        yield Lab(study, stack.enter_context(Node(place, study.task, study.facts["base"], seat)))


def told(node: Node, kind: type) -> list[object]:
    node.store.refresh()
    return [record.body for record in node.store.log if isinstance(record.body, kind)]


def test_what_a_lab_tries_is_claimed_before_and_told_after(tmp_path: Path, joined: Membership) -> None:
    with lab(tmp_path, joined, "one") as one:
        one.tries(proposal("turn it down", KNOB=3.0), proposal("turn it up", KNOB=9.0))

        claims, results = told(one.node, Claim), told(one.node, Result)

    assert len(claims) == len(results) == 2
    assert [result.status for result in results] == [Status.KEPT, Status.DISCARDED]  # type: ignore[attr-defined]
    assert results[0].total == pytest.approx(2 / 6)  # type: ignore[attr-defined]


def test_what_another_lab_tried_is_not_run_here(tmp_path: Path, joined: Membership) -> None:
    with lab(tmp_path, joined, "one") as one:
        one.tries(proposal("turn it up", KNOB=9.0))
    with lab(tmp_path, joined, "two") as two:
        (experiment,) = two.tries(proposal("turn it up too", KNOB=9.0))

        assert experiment.status is Status.REJECTED
        assert "one tried it: discarded" in experiment.reason
        assert two.study.ledger.runs(experiment.id) == []


def test_each_thing_is_told_once_however_often_the_lab_begins(tmp_path: Path, joined: Membership) -> None:
    with lab(tmp_path, joined, "one") as one:
        one.tries(proposal("turn it down", KNOB=3.0))
    with lab(tmp_path, joined, "one") as again:
        again.node.teller.tell()

        assert len(told(again.node, Result)) == 1


def test_a_win_is_run_again_by_a_lab_that_was_drawn_and_taken_over(tmp_path: Path, joined: Membership) -> None:
    with lab(tmp_path, joined, "one") as one:
        one.tries(proposal("turn it down", KNOB=3.0))
    with lab(tmp_path, joined, "two") as two:
        two.tries(proposal("turn it up", KNOB=9.0))
        two.node.look()
        two.tries()
        (run,) = told(two.node, Verification)
        best = two.study.ledger.incumbent()
        board = Board(two.node.store.log, two.node.teller.name).told("pals")

    assert (run.has_same_parent, run.adopted) == (True, True)  # type: ignore[attr-defined]
    assert best is not None
    assert best.hypothesis == "turn it down"
    assert best.facts["peer"] == board["wins"][0]["id"]
    assert (board["wins"][0]["state"], board["wins"][0]["replicated"]) == ("confirmed", 1)
    assert [one["label"] for one in board["wins"][0]["adopted_by"]] == ["two"]


def test_a_win_is_run_on_its_authors_own_tree_and_then_put_onto_ours(tmp_path: Path, joined: Membership) -> None:
    with lab(tmp_path, joined, "one") as one:
        one.tries(proposal("turn it down", KNOB=3.0))
    with lab(tmp_path, joined, "two") as two:
        two.tries(proposal("slope", SLOPE=-0.5))
        two.node.look()
        two.tries()
        runs = told(two.node, Verification)
        best = two.study.ledger.incumbent()
        texts = two.study.place.repository.text(two.study.place.repository.tree(str(best and best.commit)), "train.py")

    assert {(run.has_same_parent, run.adopted) for run in runs} == {(True, False), (False, True)}  # type: ignore[attr-defined]
    assert "KNOB = 3.0" in str(texts)
    assert "SLOPE = -0.5" in str(texts)


def test_the_ground_of_another_lab_is_a_tree_and_no_experiment_of_ours(tmp_path: Path, joined: Membership) -> None:
    with lab(tmp_path, joined, "one") as one:
        one.tries(proposal("slope", SLOPE=-0.5), Proposal("and down", turned(SLOPE=-0.5, KNOB=3.0)))
    with lab(tmp_path, joined, "two") as two:
        two.tries(proposal("up", OTHER=9.0))
        two.node.look()
        two.tries()
        found = two.study.ledger.experiments()
        runs = told(two.node, Verification)

    ground = next(one for one in found if "ground" in one.facts)
    raced = next(one for one in found if one.parent == ground.id)
    assert ground.runs == 0 or ground.proposer == "lab"
    assert raced.gain == pytest.approx(2.0)
    assert any(run.has_same_parent and run.gain == pytest.approx(2.0) for run in runs)  # type: ignore[attr-defined]


def test_a_false_win_is_disputed_and_three_of_them_cost_all_trust(tmp_path: Path, joined: Membership) -> None:
    with lab(tmp_path, joined, "two") as two:
        two.tries(proposal("up", KNOB=9.0))
        liar = Author("liar")
        for number in range(3):
            said = false_win(two.node, number)
            two.node.store.add([liar.say(said, swarm=two.node.store.swarm)])
            two.node.look()
            two.tries()
        board = Board(two.node.store.log, two.node.teller.name)

        assert {win.state(board.drawn(name)) for name, win in board.wins.items()} == {"disputed"}
        assert board.reputation(liar.id) == 0.0
        assert not [one for one in told(two.node, Verification) if one.adopted]  # type: ignore[attr-defined]


def false_win(node: Node, number: int) -> Result:
    """A comment, sold as a gain of a half."""
    return win_by(node, difference({"train.py": START}, {"train.py": f"{START}# {number}\n"}), number)


def win_by(node: Node, diff: str, number: int = 0) -> Result:
    change = node.store.keep(diff)
    return Result(
        task=node.teller.name,
        evaluator=node.teller.evaluator,
        patch=patch_key(node.teller.name, diff),
        change=change,
        parent="",
        label="liar",
        hypothesis=f"idea {number}",
        status=Status.KEPT,
        direction="lower",
        budget=["work", "0"],
        hardware="fast",
        environment="e",
        at=float(number),
        values=[3.0] * 3,
        against=[6.0] * 3,
        gain=3.0,
        stderr=0.001,
        total=0.5,
    )


@pytest.mark.parametrize("path", ["frozen.py", "nightlab.toml", "../out.py", ".git/hooks/post-checkout"])
def test_a_patch_that_goes_further_than_the_task_is_not_even_raced(
    tmp_path: Path, joined: Membership, path: str
) -> None:
    with lab(tmp_path, joined, "two") as two:
        two.tries(proposal("up", KNOB=9.0))
        win = win_by(two.node, difference({path: FROZEN}, {path: "import os\n"}))
        two.node.store.add([Author("evil").say(win, swarm=two.node.store.swarm)])

        two.node.look()

        assert two.study.ledger.asked("try") == []


def test_a_keep_that_leaves_the_branch_is_taken_back(tmp_path: Path, joined: Membership) -> None:
    with lab(tmp_path, joined, "one") as one:
        one.tries(proposal("turn it down", KNOB=3.0))
        one.study.ledger.ask("veto", "1")
        one.tries()

        (back,) = told(one.node, Retraction)
        board = Board(one.node.store.log, one.node.teller.name)

    assert "vetoed" in back.reason  # type: ignore[attr-defined]
    assert board.wins == {}
