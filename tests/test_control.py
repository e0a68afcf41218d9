"""steer, note, veto, retry: what people say to a study, and what a lab that runs makes of it."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import git, wait_for

from nightlab import control
from nightlab.errors import BadTask, NotFound
from nightlab.ledger import Event, Ledger
from nightlab.loop import Loop
from nightlab.place import Place, find

Nightlab = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A study whose ledger holds a baseline, a kept, a discarded, a running and a lab's own experiment."""
    place = find(tmp_path)
    place.home.mkdir()
    patch = "diff --git a/train.py b/train.py\n"
    stories = [
        ("baseline", "lab", "", "kept"),
        ("wider", "you", patch, "kept"),
        ("narrower", "you", patch, "discarded"),
        ("deeper", "you", patch, None),
        ("without experiment 1", "lab", patch, "kept"),
        ("nothing", "you", "", "rejected"),
    ]
    with closing(Ledger(place.ledger)) as ledger:
        for number, (hypothesis, proposer, diff, status) in enumerate(stories):
            body = {"parent": 0 if number else None, "hypothesis": hypothesis, "proposer": proposer, "diff": diff}
            ledger.append(Event("proposed", str(number), body | {"tree": str(number)}, number))
            if status:
                decided = {"status": status, "value": 1.0, "reason": "so it is", "grade": "E1"}
                ledger.append(Event("decided", str(number), decided, number))
    return place


def wishes(place: Place) -> list[tuple[str, str]]:
    with closing(place.read()) as ledger:
        return [(verb, argument) for verb, argument, *_ in ledger.wishes()]


def test_what_is_said_waits_in_the_ledger_for_the_next_lab(place: Place) -> None:
    control.ask(place, "steer", text="  look at the optimiser\n")
    control.ask(place, "note", number=2, text="lost by a hair")
    control.ask(place, "veto", number=1)
    control.ask(place, "veto", number=3)
    control.ask(place, "retry", number=2)

    assert [(one["text"], one["taken"]) for one in control.steered(place)] == [("look at the optimiser", None)]
    assert "waits for a lab  look at the optimiser" in control.lines(control.steered(place))[0]
    assert wishes(place) == [
        ("steer", "look at the optimiser"),
        ("note", '{"experiment": 2, "text": "lost by a hair"}'),
        ("veto", "1"),
        ("veto", "3"),
        ("retry", "2"),
    ]
    assert control.steered(place)[0]["taken"] is not None
    assert "taken 20" in control.lines(control.steered(place))[0]


@pytest.mark.parametrize(
    ("say", "words"),
    [
        (lambda place: control.ask(place, "steer", text=" \n"), "no words"),
        (lambda place: control.ask(place, "steer", text="\x1b\x07\udcff "), "no words"),
        (lambda place: control.ask(place, "steer", text="a" * 4001), "4001 letters, the most is 4000"),
        (lambda place: control.ask(place, "note", number=1, text=""), "no words"),
        (lambda place: control.ask(place, "veto", number=0), "the baseline"),
        (lambda place: control.ask(place, "veto", number=2), "discarded already"),
        (lambda place: control.ask(place, "veto", number=4), "the lab's own"),
        (lambda place: control.ask(place, "retry", number=0), "changed nothing"),
        (lambda place: control.ask(place, "retry", number=1), "stands"),
        (lambda place: control.ask(place, "retry", number=3), "still under way"),
        (lambda place: control.ask(place, "retry", number=4), "the lab's own"),
        (lambda place: control.ask(place, "retry", number=5), "changed nothing"),
    ],
)
def test_what_makes_no_sense_is_refused_at_the_door(place: Place, say: Callable[[Place], None], words: str) -> None:
    with pytest.raises(BadTask, match=words):
        say(place)

    assert wishes(place) == []


def test_an_experiment_that_is_not_there_is_named(place: Place) -> None:
    for say in (
        lambda place, number: control.ask(place, "veto", number=number),
        lambda place, number: control.ask(place, "retry", number=number),
        lambda place, number: control.ask(place, "note", number=number, text="words"),
    ):
        for number in (9, 10**23):
            with pytest.raises(NotFound, match=f"there is no experiment {number}"):
                say(place, number)


def test_control_letters_never_get_in(place: Place) -> None:
    control.ask(place, "steer", text="red \x1b[31m alarm")

    assert wishes(place) == [("steer", "red [31m alarm")]


def test_the_commands_say_who_will_take_it_up(nightlab: Nightlab, place: Place) -> None:
    steered = nightlab("steer", "look at the optimiser", at=place.root).stdout
    control.ask(place, "note", number=2, text="lost by a hair")
    listed = json.loads(nightlab("steer", "--json", at=place.root).stdout)
    shown = nightlab("show", "2", at=place.root).stdout
    refused = nightlab("veto", "0", at=place.root, check=False)

    assert steered == "asked study main to steer; the next takes it up: nightlab run\n"
    assert listed[0]["text"] == "look at the optimiser"
    assert "note: lost by a hair" in shown
    assert refused.returncode == 2
    assert "cannot be vetoed" in refused.stderr


def test_where_no_study_is_the_start_is_named(nightlab: Nightlab, tmp_path: Path) -> None:
    done = nightlab("steer", "look there", at=tmp_path, check=False)

    assert done.returncode == 2
    assert "start it with: nightlab run" in done.stderr


# ---- with a lab that runs ----

NAPPING = """\
import os, random, time
NAP = 0.0
KNOB = 5.0
time.sleep(NAP)
random.seed(int(os.environ["NIGHTLAB_SEED"]))
print("score:", KNOB + random.gauss(0, 0.01))
"""
PROPOSER = """\
import json, pathlib
from nightlab import Proposal

IDEAS = [("KNOB = 5.0", "KNOB = 4.0"), ("NAP = 0.0", "NAP = 60.0")]
SAID = pathlib.Path(__file__).with_name("said.json")

class Steady:
    name = "steady"
    drafts = 1

    def __init__(self):
        self.seen = set()

    def propose(self, context):
        SAID.write_text(json.dumps(list(context.steering)))
        for old, new in IDEAS:
            files = {"train.py": context.files["train.py"].replace(old, new)}
            if files["train.py"] != context.files["train.py"] and (old, new) not in self.seen:
                self.seen.add((old, new))
                return Proposal(new, files)
        return Proposal("again", {})

    def learn(self, experiment):
        for old, new in IDEAS:
            if experiment.hypothesis == new:
                self.seen.add((old, new))
"""

listens = pytest.mark.skipif(
    "veto" not in inspect.getsource(Loop._obey), reason="the loop does not take these wishes up yet"
)


@contextmanager
def running(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A lab at work; its proposer keeps the first idea, then naps for a minute."""
    (folder / "train.py").write_text(NAPPING)
    git(folder, "commit", "-qam", "it can nap")
    (folder.parent / "steady.py").write_text(PROPOSER)
    command = "import sys; sys.path.insert(0, sys.argv.pop(1)); from nightlab.cli import main; main()"
    words = [sys.executable, "-c", command, str(folder.parent), "run", "--agent", "steady:Steady", "--no-audit"]
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def rows(folder: Path) -> list[dict[str, Any]]:
    with closing(find(folder).read()) as ledger:
        return [
            {"id": one.id, "status": str(one.status), "parent": one.parent, "hypothesis": one.hypothesis}
            for one in ledger.experiments()
        ]


def has(folder: Path, number: int, *statuses: str) -> Callable[[], bool]:
    def look() -> bool:
        return find(folder).ledger.exists() and any(
            one["id"] == number and one["status"] in statuses for one in rows(folder)
        )

    return look


@listens
@pytest.mark.slow
def test_a_veto_ends_what_runs_and_the_next_thought_was_told_what_was_said(nightlab: Nightlab, folder: Path) -> None:
    with running(folder):
        wait_for((folder / ".nightlab" / "runs" / "2-1" / "log").exists)
        nightlab("steer", "leave the clock alone")
        nightlab("note", "2", "it only naps")
        nightlab("veto", "2")
        wait_for(lambda: json.loads((folder.parent / "said.json").read_text() or "[]") == ["leave the clock alone"])
        wait_for(has(folder, 2, "discarded"))

    shown = nightlab("show", "2").stdout
    assert "veto" in shown
    assert "note: it only naps" in shown
    assert json.loads(nightlab("steer", "--json").stdout)[0]["taken"] is not None


@listens
@pytest.mark.slow
def test_a_veto_takes_a_kept_change_out_by_a_revert_commit(nightlab: Nightlab, folder: Path) -> None:
    with running(folder):
        wait_for(has(folder, 1, "kept"))
        wait_for((folder / ".nightlab" / "runs" / "2-1" / "log").exists)
        nightlab("veto", "1")
        wait_for(has(folder, 1, "reverted"))

    assert "KNOB = 5.0" in git(folder, "show", "nightlab/main:train.py")
    assert len(git(folder, "log", "--format=%h", "main..nightlab/main").splitlines()) == 2


@listens
@pytest.mark.slow
def test_a_retry_proposes_the_patch_again_on_the_incumbent_of_now(nightlab: Nightlab, folder: Path) -> None:
    with running(folder):
        wait_for((folder / ".nightlab" / "runs" / "2-1" / "log").exists)
        nightlab("veto", "1")
        wait_for(has(folder, 1, "reverted"))
        nightlab("retry", "1")
        nightlab("veto", "2")
        wait_for(lambda: sum(one["hypothesis"].startswith("KNOB = 4.0") for one in rows(folder)) > 1)
