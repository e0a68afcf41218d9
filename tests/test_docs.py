"""What the documents show is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

from conftest import need_program
from typer.main import get_command

from nightlab.cli import app
from nightlab.task import Budget, Caps, Judge, Metric, Rung, What, parse

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


def test_the_readmes_commands_run(tmp_path: Path) -> None:
    need_program("git")

    done = run_all("README.md", tmp_path)

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert (tmp_path / "tour" / "progress.svg").exists()


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

    assert sections.keys() == models.keys()
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
        assert name == "bench" or "--json" in options, name


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
    del extras["torch"]  # never locked: a build for CUDA brings gigabytes
    asked = [*project["dependencies"], *(one for extra in extras.values() for one in extra)]
    for text in asked:
        wanted = Requirement(text)
        version = next(iter(locked[wanted.name].specifier)).version
        assert wanted.specifier.contains(version), f"{wanted} but {version} is locked: run make lock"
