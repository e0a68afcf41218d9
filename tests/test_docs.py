"""What the documents show is run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from conftest import need_program
from typer.main import get_command

from nightlab.cli import app
from nightlab.task import Budget, Caps, Judge, Metric, Rung, What, parse

TOP = Path(__file__).parents[1]


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (TOP / name).read_text(), re.MULTILINE | re.DOTALL)


def test_the_readmes_commands_run(tmp_path: Path) -> None:
    need_program("git")
    script = "set -eu\n" + "\n".join(blocks("README.md", "sh"))
    who = {f"GIT_{role}_{what}": "x@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=os.environ | who | {"PATH": path}, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert (tmp_path / "tour" / "progress.svg").exists()


def test_the_readmes_task_is_a_task() -> None:
    (text,) = blocks("README.md", "toml")

    assert parse(text).metric.name == "val_loss"


def test_every_key_of_the_task_file_is_explained_with_its_default() -> None:
    page = (TOP / "docs" / "task.md").read_text()
    sections = dict(re.findall(r"^## \[([\w.]+)\]\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    models = {"task": What, "metric": Metric, "budget": Budget, "judge": Judge, "limits": Caps, "scale.NAME": Rung}

    assert sections.keys() == models.keys()
    for name, model in models.items():
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+\.) \|$", sections[name], re.MULTILINE)
        assert [key for key, _, _ in rows] == list(model.model_fields), name
        for key, default, _ in rows:
            field = model.model_fields[key]
            means = "required" if field.is_required() else field.get_default(call_default_factory=True)
            words = {"required": "required", None: "none", (): "`[]`"}.get(means, f"`{json.dumps(means)}`")
            assert default in (words, "by level"), key


def test_the_contributors_proposer_proposes() -> None:
    from nightlab.proposer import Context, Proposer

    (text,) = blocks("CONTRIBUTING.md", "python")
    room: dict[str, object] = {}
    exec(text, room)
    proposer = room["Halver"]()  # type: ignore[operator]
    assert isinstance(proposer, Proposer)

    context = Context(files={"train.py": "RATE = 0.1\n"}, metric="m", direction="lower", number=0, seed=0)
    idea = proposer.propose(context)

    assert idea is not None
    assert idea.files == {"train.py": "RATE = 0.05\n"}


def test_every_command_says_what_it_does_and_takes_json() -> None:
    command = get_command(app)
    for name, one in command.commands.items():  # type: ignore[attr-defined]
        assert one.help, name
        options = {option for parameter in one.params for option in parameter.opts}
        assert name == "bench" or "--json" in options, name


def test_links_between_documents_lead_somewhere() -> None:
    for page in TOP.glob("*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"


def test_the_lock_satisfies_what_the_project_asks_for() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    locked = {one.name: one for one in map(Requirement, (TOP / "requirements.lock").read_text().splitlines())}
    extras = project["optional-dependencies"]
    for heavy in ("torch", "wandb", "mlflow", "trackio", "parquet"):  # never locked: they bring up to gigabytes
        del extras[heavy]
    asked = [*project["dependencies"], *(one for extra in extras.values() for one in extra)]
    for text in asked:
        wanted = Requirement(text)
        version = next(iter(locked[wanted.name].specifier)).version
        assert wanted.specifier.contains(version), f"{wanted} but {version} is locked: run make lock"
