"""The server: the lab at an agent's elbow over the Model Context Protocol, by its standard input and output.

Each tool is the command of the same name, started as a process of its own: what an agent gets here is what a person
gets at the prompt, a broken study never takes the server with it, and the study is held only while something is tried.
"""

from __future__ import annotations

import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

from nightlab import __version__, trial
from nightlab.agents.briefing import briefing
from nightlab.errors import NotFound
from nightlab.ledger import Event
from nightlab.place import Place
from nightlab.study import context_of, instructions, load_task

_TICK = 0.5
_PATIENCE = 5.0
_OFTEN = 20
"""Ticks after which a client hears that a try still goes on: many give up on a tool that says nothing for a minute."""
_INSTRUCTIONS = """\
Nightlab is a research loop: you propose a change, the lab runs it, measures it against noise and keeps or reverts it.
Call context first. Edit only the files it names, then call try with your hypothesis, and read the decision and its \
reason. Never run the script to measure, and never edit the judge: what you measure yourself is worth nothing here."""


def settings(place: Place, folder: Path | None) -> dict[str, Any]:
    """What a client's settings need to start this server: the usual `mcpServers` entry."""
    words = ["-C", str(place.root), "mcp", "--study", place.name, *(["--in", str(folder)] if folder else [])]
    return {"mcpServers": {"nightlab": {"command": sys.executable, "args": ["-m", "nightlab", *words]}}}


def serve(place: Place, folder: Path | None = None, *, name: str = "agent") -> None:
    """Serve until standard input closes. With a folder, changes are made there; it is laid out where it is not yet."""
    if folder is not None:
        found = trial.opened(folder) if (folder / trial.MARKER).exists() else trial.begin(place, folder)
        place, folder = found.place, found.path
    server: MCPServer[Any] = MCPServer("nightlab", version=__version__, instructions=_INSTRUCTIONS, log_level="WARNING")
    desk = Desk(place, folder, name)
    for tool in (desk.context, desk.try_, desk.status, desk.history, desk.show, desk.steer):
        server.add_tool(tool, name=tool.__name__.rstrip("_"), structured_output=False)
    server.run("stdio")


class Desk:
    """The tools, at one study; their docstrings are what an agent reads of them."""

    def __init__(self, place: Place, folder: Path | None, name: str) -> None:
        self._place, self._folder, self._name = place, folder, name

    async def context(self) -> str:
        """What the lab is for, how the study stands, what was tried and why it was kept or not, and where to edit.

        Call it before the first change, and again after a few tries: what the human has said since stands there.
        """
        told = self._told()
        globs = ", ".join(load_task(self._place).task.editable)
        return f"{told}\nEdit: {globs} in {self._folder or self._place.repository.root}. Then call try.\n"

    async def try_(self, hypothesis: str, context: Context, patch: str = "") -> str:
        """Have your change run, judged, and kept or reverted. Returns the decision with its reason, as JSON.

        First edit the files that the context tool names, one change for one reason. `hypothesis` says in one sentence
        what you expect and why. `patch` is for agents that cannot edit files: a unified diff against the incumbent, in
        place of what you edited. It may take as long as several runs of the task. "decision" is kept, discarded, failed
        (no number: the end of the log is in "tail") or rejected; "next" says what to do now.
        """
        words = ["--json", f"--message={hypothesis}", f"--as={self._name}"]
        if patch:
            words.append("--patch=-")
        elif self._folder:
            words.append(f"--in={self._folder}")
        return await self._nightlab("try", *words, said=patch, context=context)

    async def status(self) -> str:
        """The study at a glance, as JSON: experiments so far, the baseline, the incumbent, the noise of one run."""
        return await self._nightlab("status", "--json")

    async def history(self, last: int = 20) -> str:
        """The latest experiments, oldest first, one JSON object a line: hypothesis, status, value, gain, reason."""
        return await self._nightlab("log", "--json", f"--limit={max(1, last)}")

    async def show(self, experiment: int) -> str:
        """One experiment as JSON: its patch, its runs, the end of its log, and what people noted on it."""
        return await self._nightlab("show", "--json", "--", str(experiment))

    async def steer(self, text: str) -> str:
        """Tell whoever proposes next where to look, in words; for what you noticed and will not try yourself."""
        return await self._nightlab("steer", "--json", "--", text)

    async def _nightlab(self, verb: str, *words: str, said: str = "", context: Context | None = None) -> str:
        """What a command prints. What it refuses becomes the tool's error, in its own words."""
        command = [sys.executable, "-m", "nightlab", verb, f"--study={self._place.name}", *words]
        try:
            started = await anyio.open_process(command, cwd=self._place.root)
        except (OSError, ValueError) as error:
            raise ToolError(
                f"nightlab {verb} cannot be given this ({error}); say it shorter, in plain letters"
            ) from error
        async with started as process:
            out, err = list[bytes](), list[bytes]()
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_feed, process.stdin, said)
                    tasks.start_soon(_drain, process.stdout, out)
                    tasks.start_soon(_drain, process.stderr, err)
                    if context is not None:
                        tasks.start_soon(self._report, process, context)
            except anyio.get_cancelled_exc_class():  # end what runs; the next try goes on with it
                process.terminate()
                with anyio.move_on_after(_PATIENCE, shield=True):
                    await process.wait()
                raise
            code = await process.wait()
        if code:
            words_of_it = b"".join(err).decode(errors="replace").strip().removeprefix("nightlab: ")
            raise ToolError(words_of_it or f"nightlab {verb} ended with exit code {code}")
        return b"".join(out).decode(errors="replace")

    def _told(self) -> str:
        """What any agent would be told now; before there is a baseline, the human's own words."""
        try:
            context, task = context_of(self._place)
        except NotFound as error:
            return f"{instructions(self._place)}\nNothing was tried yet: {error}. The first try does it too."
        return briefing(context, task=task)

    async def _report(self, process: Any, context: Context) -> None:
        """Tell the client how far a try is: of each run that begins or ends, else now and then that it goes on."""
        seen, done, quiet, is_over = self._last(), 0, 0, False
        while not is_over:
            is_over, quiet = process.returncode is not None, quiet + 1  # a last look after its end
            for event in self._since(seen):
                seen, line = event.seq, _line(event)
                if line:
                    done, quiet = done + 1, 0
                    await context.report_progress(done, message=line)
            if quiet >= _OFTEN:
                done, quiet = done + 1, 0
                await context.report_progress(done, message="still running")
            await anyio.sleep(0 if is_over else _TICK)

    def _last(self) -> int:
        if not self._place.ledger.exists():
            return 0
        with closing(self._place.read()) as ledger:
            return ledger.last_seq()

    def _since(self, seen: int) -> list[Event]:
        if not self._place.ledger.exists():
            return []
        with closing(self._place.read()) as ledger:
            return list(ledger.read(seen))


async def _feed(stream: Any, text: str) -> None:
    with suppress(anyio.BrokenResourceError):  # it has its reason not to read it, and says it
        async with stream:
            if text:
                await stream.send(text.encode("utf-8", "replace"))


async def _drain(stream: Any, into: list[bytes]) -> None:
    async for part in stream:
        into.append(part)


def _line(event: Event) -> str:
    """What a client is told of an event; nothing of most."""
    match event.kind:
        case "started":
            what = "the baseline" if event.experiment == 0 else f"experiment {event.experiment}"
            return f"{what}: run {event.body['run']} begins"
        case "ran":
            return f"run {event.body['run']} {event.body['outcome']}"
        case "racing":
            return f"experiment {event.experiment}: {event.body['reason']}"
        case "decided":
            return f"experiment {event.experiment}: {event.body['status']}"
    return ""
