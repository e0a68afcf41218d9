"""Templates: what ships is whole, what is wrong is told, and a command line is what it should be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nightlab.agents import template
from nightlab.agents.bridge import render
from nightlab.errors import BadPlugin

MINE = """
name = "mine"
argv = ["mine", "--model", "{model}", ["--resume", "{session}"]]
[[provider]]
wire = "chat"
key = "MINE_KEY"
url = "MINE_URL"
address = "http://127.0.0.1:1"
"""
KEYS = {"ANTHROPIC_API_KEY": "a", "OPENAI_API_KEY": "o", "GEMINI_API_KEY": "g"}


def test_every_template_that_ships_can_be_hired() -> None:
    for name in template.names():
        hired = template.hire(f"{name}:m:run it" if name == "acp" else f"{name}:m", KEYS)

        assert hired.upstream.model == "m"
        assert hired.upstream.key in KEYS.values()
        assert hired.program


def test_the_documents_name_every_agent_with_its_variables() -> None:
    page = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()

    for name in template.names():
        found = template.load(name)
        (row,) = re.findall(rf"^\| `{name}[`:].*$", page, re.MULTILINE)
        assert found.install in row
        if name != "acp":
            assert all(word in row for provider in found.provider for word in (provider.key, provider.url))
            assert all(f"`{provider.model}`" in row for provider in found.provider if provider.model)


def test_the_template_in_the_documents_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()
    (text,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.toml").write_text(text)

    assert template.load(str(tmp_path / "mine.toml")).name == "mine"


@pytest.mark.parametrize(
    ("spec", "environ", "words"),
    [
        ("claud", {}, "did you mean claude? There are: acp, aider, claude, codex,"),
        ("claude", {}, "ANTHROPIC_API_KEY is not set; export ANTHROPIC_API_KEY=..."),
        ("pi", KEYS, "pi has to be told its model; write --agent pi:MODEL"),
        ("acp:m:", KEYS, "--agent 'acp:MODEL:COMMAND'"),
        ("acp:m:a 'b", KEYS, "mend its quotation marks"),
        ("acp:only-a-command", KEYS, "has to be told its model"),
        ("nowhere.toml", KEYS, "cannot read the agent's template nowhere.toml"),
    ],
)
def test_a_name_that_cannot_be_hired_says_what_is_missing(spec: str, environ: dict[str, str], words: str) -> None:
    with pytest.raises(BadPlugin, match=re.escape(words)):
        template.hire(spec, environ)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"{model}"', '"{mode}"'), "{mode} is not known; there are {command}, {files}, {home}, {model}"),
        (('name = "mine"', 'name = "mine"\nleave = []'), "did you mean leaves?"),
        (('wire = "chat"', 'wire = "soap"'), "provider.0.wire"),
        (('name = "mine"', "name = mine"), "mend that line"),
        (('name = "mine"', 'like = "mine"'), "like = 'mine' names no agent"),
    ],
)
def test_a_template_that_is_wrong_says_where(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE.replace(*change))

    with pytest.raises(BadPlugin, match=re.escape(words)):
        template.load(str(path))


def test_a_template_may_start_from_another(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('like = "claude"\nname = "mine"\n[env]\nMORE = "1"\n')

    found = template.load(str(path))

    assert found.argv[0] == "claude"
    assert {"MORE", "DISABLE_AUTOUPDATER"} <= found.env.keys()


def test_an_address_of_ones_own_needs_no_key() -> None:
    hired = template.hire("qwen:m", {"OPENAI_BASE_URL": "http://127.0.0.1:8000/v1"})

    assert (hired.upstream.url, hired.upstream.key) == ("http://127.0.0.1:8000/v1", "")
    assert "real" not in repr(template.hire("qwen:m", {"OPENAI_API_KEY": "real"}))


def test_a_model_and_a_path_may_have_colons_and_dots() -> None:
    assert template.split("opencode:qwen3:8b") == ("opencode", "qwen3:8b")
    assert template.split("./a.b/mine.toml:x:y") == ("./a.b/mine.toml", "x:y")
    assert template.split("claude") == ("claude", "")


def test_what_names_something_empty_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(MINE)
    found = template.load(str(tmp_path / "mine.toml"))

    assert found.command({"model": "m", "session": ""}) == ["mine", "--model", "{model}"]
    assert found.command({"model": "m", "session": "s"})[-2:] == ["--resume", "{session}"]


def test_what_is_filled_in_is_never_read_as_a_template() -> None:
    assert render('{"a": "{prompt}", {url}}', {"prompt": "use {url}", "url": "U"}) == '{"a": "use {url}", U}'
