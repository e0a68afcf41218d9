"""The recipes: every file a stranger would copy is written down, and every command of the page is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import need_program

from nightlab.testing.modelserver import Asked, ModelServer, Reply

RECIPES = Path(__file__).parents[1] / "docs" / "recipes"
PAGES = sorted(page.stem for page in RECIPES.glob("*.md") if page.stem != "README")
LONG = set(PAGES) - {"prices"}
"""What starts many processes. The contracts that they stand on are kept by our own in the quick suite too."""
_BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_WHO = {f"GIT_{role}_{what}": "x@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def script(page: Path) -> str:
    """The commands of a page."""
    found = [text for language, name, text in _BLOCK.findall(page.read_text()) if language == "sh" and not name]
    return "set -eu -o pipefail\n" + "\n".join(found)


def write_files(page: Path, folder: Path) -> None:
    """Every block that names a file becomes that file."""
    for _, name, text in _BLOCK.findall(page.read_text()):
        if name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


def run(commands: str, folder: Path, more: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | _WHO | {"PATH": _PATH, "PYTEST_ADDOPTS": _options(folder)} | more
    return subprocess.run(["bash", "-c", commands], cwd=folder, env=environment, capture_output=True, text=True)


def _options(folder: Path) -> str:
    """The pytest of a page leaves nothing in the page's folder, and does not sweep the folders of others'."""
    return f"-p no:cacheprovider --basetemp={folder.parent / 'inner'}"


@contextmanager
def what_it_needs(name: str) -> Iterator[dict[str, str]]:
    """What a page is run beside: a scripted model for an agent to ask."""
    if name != "agent":
        yield {}
        return

    def answer(asked: Asked) -> Reply:
        text = asked.prompt.partition("train.py is:\n")[2].partition("\nAnswer with")[0]
        rate = float(re.search(r"^RATE = ([\d.]+)$", text, re.MULTILINE)[1])  # type: ignore[index]
        return Reply(re.sub(r"^RATE = .*$", f"RATE = {rate / 2:g}", text, flags=re.MULTILINE))

    with ModelServer(answer) as server:
        yield {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": ""}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in PAGES])
def test_a_recipe_works_as_it_is_written(name: str, tmp_path: Path) -> None:
    page = RECIPES / f"{name}.md"
    for program in ("git", *(program for program in ("jq", "sqlite3") if f"\n{program} " in script(page))):
        need_program(program)

    with what_it_needs(name) as more:
        start = run(script(RECIPES / "README.md"), tmp_path, more)
        write_files(page, tmp_path)
        done = run(script(page), tmp_path, more)

    assert start.returncode == 0, start.stderr
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    for words in SAID.get(name, ()):
        assert words in done.stdout, done.stdout[-3000:]


SAID: Mapping[str, tuple[str, ...]] = {
    "proposer": ("5 passed", "a smaller step: RATE = 0.4"),
    "agent": ("the model thought that this would help",),
    "prices": ("0.52 USD",),
    "ideas": ("The older log has no good run",),
    "policy": ("2 passed", '"policy": "twice:Twice"'),
    "judge-artifact": ("4 passed",),
    "template": ("One run varies by", "no change (A/A)"),
    "executor": ("19 passed",),
    "reading": ("best in something:",),
}
"""What a page's commands say besides."""


def test_the_list_of_recipes_names_each_page() -> None:
    listed = re.findall(r"\]\(([\w-]+)\.md\)", (RECIPES / "README.md").read_text())

    assert sorted(listed) == PAGES


def test_no_line_of_a_recipes_code_is_too_long() -> None:
    for page in RECIPES.glob("*.md"):
        for _, name, text in _BLOCK.findall(page.read_text()):
            assert max(map(len, text.splitlines())) <= 120, f"{page.name}: {name}"
