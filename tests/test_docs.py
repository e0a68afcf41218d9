"""What the documents show is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path
from typing import get_args

import pytest
from conftest import need_program
from typer.main import get_command

from nightlab.cli import app
from nightlab.place import find
from nightlab.task import Budget, Caps, Judge, Live, Metric, Rung, What, parse

TOP = Path(__file__).parents[1]


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (TOP / name).read_text(), re.MULTILINE | re.DOTALL)


def headings(page: Path) -> set[str]:
    """The places of a page that a link can lead to."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", words).strip().lower().replace(" ", "-") for words in found}


def run_all(page: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Every command that a page shows, in its order."""
    script = "set -eu\n" + "\n".join(blocks(page, "sh"))
    who = {f"GIT_{role}_{what}": "x@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=os.environ | who | {"PATH": path}, capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_readmes_commands_run(tmp_path: Path) -> None:
    need_program("git")

    done = run_all("README.md", tmp_path)

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert (tmp_path / "tour" / "progress.svg").exists()


@pytest.mark.slow
def test_the_tours_commands_run(tmp_path: Path) -> None:
    need_program("git")

    done = run_all("docs/tour.md", tmp_path)

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    left = {path.name for path in (tmp_path / "tour").iterdir()}
    assert {"night.svg", "night.patch", "night.jsonl"} <= left
    assert ".nightlab" not in left
    assert "this is what the paper did too" in done.stdout


def test_the_readmes_task_is_a_task() -> None:
    (text,) = blocks("README.md", "toml")

    assert parse(text).metric.name == "val_loss"


def test_the_pages_that_are_made_are_as_the_code_has_it() -> None:
    done = subprocess.run(
        [sys.executable, TOP / "docs" / "reference.py", "--check"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, f"{done.stderr}: run make docs"


def test_every_key_and_every_level_of_the_task_file_is_on_its_page() -> None:
    page = (TOP / "docs" / "task.md").read_text()
    sections = dict(re.findall(r"^## \[([\w.]+)\]\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    models = {"task": What, "metric": Metric, "budget": Budget, "judge": Judge, "limits": Caps, "scale.NAME": Rung}
    models |= {"live": Live}

    assert sections.keys() == {*models, "milestones"}
    for name, model in models.items():
        assert re.findall(r"^\| `(\w+)` \| .+ \| .+ \| .+\. \|$", sections[name], re.MULTILINE) == list(
            model.model_fields
        )
    for level in get_args(Metric.model_fields["level"].annotation):
        assert re.search(rf"^\| `{level}` \|", sections["metric"], re.MULTILINE)


def test_every_command_says_what_it_does_and_takes_json() -> None:
    command = get_command(app)
    for name, one in command.commands.items():  # type: ignore[attr-defined]
        assert one.help, name
        options = {option for parameter in one.params for option in parameter.opts}
        assert hasattr(one, "commands") or "--json" in options, name


def test_links_between_documents_lead_somewhere() -> None:
    pages = [*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md")]
    assert len(pages) > 10
    for page in pages:
        for target, place in re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", page.read_text()):
            found = page.parent / target if target else page
            assert found.exists(), f"{page.name} -> {target}"
            assert not place or place[1:] in headings(found), f"{page.name} -> {target}{place}"


def test_the_lock_satisfies_what_the_project_asks_for() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    locked = {one.name: one for one in map(Requirement, (TOP / "requirements.lock").read_text().splitlines())}
    extras = project["optional-dependencies"]
    for heavy in ("torch", "wandb", "mlflow", "trackio", "parquet", "ray"):  # never locked: they bring up to gigabytes
        del extras[heavy]
    asked = [*project["dependencies"], *(one for extra in extras.values() for one in extra)]
    for text in asked:
        wanted = Requirement(text)
        version = next(iter(locked[wanted.name].specifier)).version
        assert wanted.specifier.contains(version), f"{wanted} but {version} is locked: run make lock"


def test_what_the_documents_say_is_shown_by_a_test_is() -> None:
    written = {
        name for file in (TOP / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    named = re.findall(r"`(test_\w+)`", (TOP / "docs" / "protect.md").read_text())

    assert len(named) > 25
    assert set(named) <= written, sorted(set(named) - written)


def test_the_figures_of_why_are_those_that_were_measured() -> None:
    measured = (TOP / "docs" / "judge.md").read_text().splitlines()
    lines = [line for block in blocks("docs/why.md", "") for line in block.splitlines()]

    assert len(lines) > 4
    assert [line for line in lines if line not in measured] == []


def test_every_document_is_in_the_list() -> None:
    listed = re.findall(r"\]\(([\w/.-]+)\)", (TOP / "docs" / "README.md").read_text())
    pages = {page.name for page in (TOP / "docs").glob("*.md")} - {"README.md"}

    assert pages <= set(listed), sorted(pages - set(listed))


def test_every_command_that_a_document_names_is_there() -> None:
    command = get_command(app)
    known = set(command.commands)  # type: ignore[attr-defined]
    for page in [*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md")]:
        text = re.sub(r"^```(?!sh).*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        named = set(re.findall(r"(?:^|`)nightlab ([a-z]+)\b", text, re.MULTILINE))
        assert named <= known, f"{page.name}: {sorted(named - known)}"


def test_the_readmes_three_lines_log_a_loop_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = blocks("README.md", "python")

    exec(text, {})

    with closing(find(tmp_path, "my-search").read()) as ledger:
        assert [(one.hypothesis, one.value) for one in ledger.experiments()] == [("wider layers", 0.93)]
