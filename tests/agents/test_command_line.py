"""A coding agent as a proposer: what it is given, what is taken from it, and what stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from standins import standin
from workrooms import TREE, Room, asked, context, room

from nightlab import sandbox
from nightlab.agents import detect, template
from nightlab.errors import NightlabError
from nightlab.values import Experiment, Status

KEY = {"STANDIN_KEY": "sk-real-0123456789"}
BETTER = TREE["train.py"].replace("5", "4")
LOWER = f"open('train.py', 'w').write({BETTER!r})\nprint('HYPOTHESIS: lower')\n"


@pytest.mark.parametrize("level", ["bubblewrap", "landlock", "process"])
def test_an_agents_edit_becomes_a_proposal_at_every_level_that_carries_it(
    room: Room, tmp_path: Path, level: str
) -> None:
    trouble = sandbox.why_not(level)
    if trouble and os.environ.get("NIGHTLAB_REQUIRE_ALL") != "1":
        pytest.skip(trouble)
    spec = standin(tmp_path / "a é place", LOWER)

    proposal = asked(spec, room(level, environ=KEY)).propose(context(draft=7))

    assert proposal.files == {"train.py": BETTER}
    assert proposal.hypothesis == "lower"
    assert proposal.facts == {"draft": 7, "agent": spec, "model": "m"}
    assert proposal.cost.seconds > 0


def test_a_level_without_a_loopback_is_refused_at_the_door(room: Room, tmp_path: Path) -> None:
    with pytest.raises(NightlabError, match="level landlock-only has none; install bubblewrap"):
        asked(standin(tmp_path / "bin", LOWER), room("landlock-only", environ=KEY))


def test_an_agent_that_is_not_installed_is_refused_at_the_door(room: Room) -> None:
    with pytest.raises(NightlabError, match="claude is not installed, or not on PATH; see: nightlab doctor"):
        asked("claude", room(environ={"PATH": "/nowhere", "ANTHROPIC_API_KEY": "k"}))


def test_what_a_call_was_stays_and_its_tree_does_not(room: Room, tmp_path: Path) -> None:
    workroom = room(environ=KEY)

    asked(standin(tmp_path / "bin", LOWER), workroom).propose(context())

    folder = workroom.home / "draft-0"
    assert "Make the score lower." in (folder / "prompt.md").read_text()
    assert "HYPOTHESIS: lower" in (folder / "answer.md").read_text()
    assert "+KNOB = 4" in (folder / "diff.patch").read_text()
    assert "HYPOTHESIS: lower" in (folder / "call" / "log").read_text()
    assert not (folder / "tree").exists()


def test_new_files_count_where_they_are_editable_and_stay_behind_elsewhere(room: Room, tmp_path: Path) -> None:
    deed = (
        "os.makedirs('parts'); open('parts/new.py', 'w').write('A = 1\\n'); open('notes.md', 'w').write('hm')\n"
        "os.remove('train.py'); os.makedirs('__pycache__'); open('__pycache__/a.pyc', 'w'); open('.standin.log', 'w')"
    )

    proposal = asked(standin(tmp_path / "bin", deed), room(environ=KEY)).propose(context())

    assert proposal.files == {"parts/new.py": "A = 1\n", "train.py": None}
    assert proposal.facts["left_out"] == ["notes.md"]
    assert proposal.hypothesis == "a change to parts/new.py, train.py, unexplained"


def test_a_file_that_was_only_touched_is_no_change(room: Room, tmp_path: Path) -> None:
    deed = (
        "for name in ('train.py', 'frozen.py'):\n"
        "    text = open(name).read(); os.remove(name); open(name, 'w').write(text)"
    )

    proposal = asked(standin(tmp_path / "bin", deed), room(environ=KEY)).propose(context())

    assert proposal.facts["failure"] == "made no change; it said nothing"


def test_the_exit_code_is_no_witness(room: Room, tmp_path: Path) -> None:
    proposal = asked(standin(tmp_path / "bin", LOWER + "sys.exit(7)"), room(environ=KEY)).propose(context())

    assert proposal.files == {"train.py": BETTER}


def test_the_prompt_may_be_what_an_agent_reads(room: Room, tmp_path: Path) -> None:
    spec = standin(tmp_path / "bin", "print(sys.stdin.readline())", stdin=True)

    proposal = asked(spec, room(environ=KEY)).propose(context())

    assert "“Make the score lower.”" in str(proposal.facts["failure"])


def test_a_repair_goes_on_in_the_home_of_the_call_that_it_mends(room: Room, tmp_path: Path) -> None:
    body = (
        "place = os.environ['HOME'] + '/seen'\n"
        "print('before' if os.path.exists(place) else 'new', end='')\n"
        "open(place, 'w')"
    )
    agent = asked(standin(tmp_path / "bin", body), room(environ=KEY))
    agent.propose(context(draft=1))
    failed = Experiment(5, 0, Status.CRASHED, "h", agent.name, facts={"draft": 1, "session": "s1"})

    mended = agent.propose(context(draft=2, mends=failed))
    another = agent.propose(context(draft=1))

    assert "“before”" in str(mended.facts["failure"])
    assert "“new”" in str(another.facts["failure"])


# ---- detection ----


def program(folder: Path, body: str) -> dict[str, str]:
    folder.mkdir()
    for name in ("claude", "aider"):
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.defpath}", "ANTHROPIC_API_KEY": "k"}


def test_what_is_installed_is_found_with_its_version_and_key(tmp_path: Path) -> None:
    found = {one.name: one for one in detect.installed(program(tmp_path / "bin", "echo 'it is 1.2.3 (x)'"))}

    assert found["claude"].version == "1.2.3"
    assert found["claude"].problem == ""
    assert found["aider"].problem == "no key; export OPENAI_API_KEY"
    assert found.keys() == set(template.names()) - {"acp"}


def test_what_is_not_there_or_does_not_start_says_what_to_do(tmp_path: Path) -> None:
    broken = {one.name: one for one in detect.installed(program(tmp_path / "a", "echo no node; exit 3"))}
    slow = {one.name: one for one in detect.installed(program(tmp_path / "b", "sleep 30"), seconds=0.3)}

    assert "exit code 3, it said 'no node'" in broken["claude"].problem
    assert "said nothing of its version in 0.3 s" in slow["claude"].problem
    assert broken["qwen"].problem == "not installed; the mend: npm install -g @qwen-code/qwen-code"
