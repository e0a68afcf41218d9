"""`nightlab mcp`, spoken to by the protocol's own client over a real process's standard input and output."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import anyio
import pytest
from conftest import SCRIPT, git
from mcp import Client, StdioServerParameters

from nightlab.mcp_server import settings
from nightlab.place import find

Nightlab = Callable[..., CompletedProcess[str]]


@asynccontextmanager
async def client(folder: Path, *words: str) -> AsyncIterator[Client]:
    parameters = StdioServerParameters(command=sys.executable, args=["-m", "nightlab", "mcp", *words], cwd=folder)
    async with Client(parameters, read_timeout_seconds=60) as one:
        yield one


async def call(one: Client, tool: str, **arguments: Any) -> str:
    result = await one.call_tool(tool, arguments)
    text = "".join(getattr(part, "text", "") for part in result.content)
    assert not result.is_error, text
    return text


async def refusal(one: Client, tool: str, **arguments: Any) -> str:
    result = await one.call_tool(tool, arguments)
    assert result.is_error
    return "".join(getattr(part, "text", "") for part in result.content)


def knob(value: str) -> str:
    return SCRIPT.replace("KNOB = 5.0", f"KNOB = {value}")


@pytest.mark.slow
def test_an_agent_is_told_tries_and_reads_what_became_of_it(folder: Path) -> None:
    async def session() -> None:
        async with client(folder) as one:
            tools = {tool.name: tool for tool in (await one.list_tools()).tools}
            told = await call(one, "context")
            (folder / "train.py").write_text(knob("4.0"))
            progress: list[str | None] = []

            async def note(done: float, total: float | None, message: str | None) -> None:
                progress.append(message)

            result = await one.call_tool("try", {"hypothesis": "a smaller knob"}, progress_callback=note)
            found = json.loads(result.content[0].text)  # type: ignore[union-attr]
            await call(one, "steer", text="look at the seed")
            rows = [json.loads(line) for line in (await call(one, "history", last=1)).splitlines()]
            status = json.loads(await call(one, "status"))
            shown = json.loads(await call(one, "show", experiment=1))
            briefed = await call(one, "context")

        assert tools.keys() == {"context", "try", "status", "history", "show", "steer"}
        assert all(len(tool.description or "") > 60 for tool in tools.values())
        assert tools["try"].input_schema["required"] == ["hypothesis"]
        assert told.startswith("Lower it.")
        assert "Nothing was tried yet" in told
        assert "a smaller knob" in briefed
        assert "look at the seed" in briefed
        assert f"Edit: train.py in {folder}. Then call try." in told
        assert (found["decision"], found["proposer"]) == ("kept", "agent")
        assert "the baseline: run 0-1 begins" in progress
        assert "experiment 1: kept" in progress
        assert [row["id"] for row in rows] == [1]
        assert status["kept"] == 2
        assert "+KNOB = 4.0" in shown["diff"]

    anyio.run(session)


@pytest.mark.slow
def test_what_the_lab_refuses_is_the_tools_error_in_its_own_words(folder: Path) -> None:
    async def session() -> None:
        async with client(folder) as one:
            nothing = await refusal(one, "try", hypothesis="an idea")
            wordless = await refusal(one, "try", hypothesis=" ")
            early = await refusal(one, "status")
            absent = await refusal(one, "show", experiment=-1)

        assert nothing.endswith(": nothing to try: nothing was changed; editable: train.py")
        assert "say what you expect" in wordless
        assert "no study called main" in early
        assert "no study called main" in absent

    anyio.run(session)


@pytest.mark.slow
def test_changes_are_made_in_a_folder_or_sent_as_a_patch(folder: Path, tmp_path: Path) -> None:
    elbow = tmp_path / "elbow"
    seeded = ' random.seed(int(os.environ["NIGHTLAB_SEED"]))\n'
    patch = f"--- a/train.py\n+++ b/train.py\n@@ -1,3 +1,3 @@\n import os, random\n-KNOB = 4.0\n+KNOB = 3.0\n{seeded}"

    async def session() -> None:
        async with client(folder, "--in", str(elbow), "--as", "Ada") as one:
            told = await call(one, "context")
            (elbow / "train.py").write_text(knob("4.0"))
            first = json.loads(await call(one, "try", hypothesis="a smaller knob"))
            second = json.loads(await call(one, "try", hypothesis="smaller still", patch=patch))

        assert f"in {elbow}. Then call try." in told
        assert (first["decision"], first["proposer"], first["edit"]) == ("kept", "Ada", str(elbow))
        assert (second["decision"], second["parent"]) == ("kept", 1)

    anyio.run(session)
    assert git(folder, "status", "--porcelain") == ""


@pytest.mark.slow
def test_a_call_that_is_cancelled_ends_the_run_and_the_next_try_goes_on(nightlab: Nightlab, folder: Path) -> None:
    (folder / "train.py").write_text("import time\nNAP = 0.0\ntime.sleep(NAP)\n" + SCRIPT)
    git(folder, "commit", "-qam", "it can nap")
    (folder / "train.py").write_text((folder / "train.py").read_text().replace("NAP = 0.0", "NAP = 60.0"))
    log = folder / ".nightlab" / "runs" / "1-1" / "log"

    async def session() -> None:
        async with client(folder) as one, anyio.create_task_group() as tasks:
            tasks.start_soon(one.call_tool, "try", {"hypothesis": "a nap"})
            with anyio.fail_after(30):
                while not log.exists():
                    await anyio.sleep(0.05)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(10):
            while find(folder).holder() is not None:
                await anyio.sleep(0.05)

    anyio.run(session)

    rows = [json.loads(line) for line in nightlab("log", "--json").stdout.splitlines()]
    assert [(row["id"], row["status"]) for row in rows] == [(0, "kept"), (1, "proposed")]


def test_the_settings_start_this_very_server(folder: Path, tmp_path: Path) -> None:
    entry = settings(find(folder), tmp_path)["mcpServers"]["nightlab"]

    assert entry["command"] == sys.executable
    assert entry["args"][:4] == ["-m", "nightlab", "-C", str(folder)]
    assert entry["args"][4:] == ["mcp", "--study", "main", "--in", str(tmp_path)]


def test_words_that_no_command_can_be_given_are_refused_in_words(folder: Path) -> None:
    async def session() -> None:
        async with client(folder) as one:
            for words in ("a\0b", "long " * 100_000):
                assert "shorter, in plain letters" in await refusal(one, "try", hypothesis=words, patch="x")
            # It is refused before its patch is read to the end.
            assert "say what you expect" in await refusal(one, "try", hypothesis="", patch="x" * 5_000_000)

    anyio.run(session)
