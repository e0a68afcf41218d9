"""`nightlab init --agents`: the page for agents in a session, which never replaces anything of the user's."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from conftest import TASK
from typer.main import get_command

from nightlab.agents.instructions import instructions, write
from nightlab.cli import app
from nightlab.task import parse

Nightlab = Callable[..., subprocess.CompletedProcess[str]]


def test_the_page_is_made_from_the_task(tmp_path: Path) -> None:
    task = parse(TASK.replace('["train.py"]', '["train.py", "model/*.py"]').replace("lower", "higher"))

    page = instructions(task)

    assert "make `score` higher, by changing `train.py`, `model/*.py` and nothing else" in page
    assert "Never run `python train.py` to measure" in page
    assert "measured elsewhere" in page
    assert len(page.split()) < 300


def test_every_command_that_the_page_names_is_there() -> None:
    known = get_command(app).commands  # type: ignore[attr-defined]
    named = set(re.findall(r"`nightlab (\w+)", instructions(parse(TASK))))

    assert {"try", "context", "steer", "show"} == named
    assert named <= set(known)


def test_what_the_user_wrote_stays_and_the_section_comes_once(tmp_path: Path) -> None:
    (tmp_path / "AGENTS.md").write_text("# Mine\nUse tabs.")
    (tmp_path / "CLAUDE.md").write_text("Be brief.\n")

    first = write(tmp_path, parse(TASK))
    second = write(tmp_path, parse(TASK))

    text = (tmp_path / "AGENTS.md").read_text()
    assert text.startswith("# Mine\nUse tabs.\n\n<!-- nightlab: begin -->\n")
    assert text.count("nightlab: begin") == 1
    assert (tmp_path / "CLAUDE.md").read_text() == "Be brief.\n"
    assert first[0] == ["AGENTS.md"]
    assert "add the line: @AGENTS.md" in first[1][0]
    assert second[0] == []
    assert "already" in second[1][0]


def test_a_task_gets_both_files_and_keeps_its_own(nightlab: Nightlab, folder: Path) -> None:
    found = json.loads(nightlab("init", "--agents", "--json").stdout)
    again = nightlab("init", "--agents")

    assert found == {"written": ["AGENTS.md", "CLAUDE.md"]}
    assert (folder / "CLAUDE.md").read_text() == "@AGENTS.md\n"
    assert (folder / "nightlab.toml").read_text() == TASK
    assert "nothing had to be written" in again.stdout


def test_a_folder_that_is_no_task_becomes_one_first(nightlab: Nightlab, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text('print(f"val_loss: {1.0}")\n')

    nightlab("init", "--agents", at=tmp_path)

    assert {path.name for path in tmp_path.iterdir()} >= {"AGENTS.md", "CLAUDE.md", "nightlab.toml", "program.md"}
