"""A coding agent on the command line as a proposer: one fresh call per idea, in the jail; only its diff counts."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightlab.agents import acp, bridge, stream
from nightlab.agents.changes import Changes, Marks, changes, look
from nightlab.agents.relay import Line
from nightlab.agents.template import Hire, hire
from nightlab.agents.workroom import Workroom
from nightlab.errors import NightlabError
from nightlab.proposer import Context, walled
from nightlab.values import Cost, Experiment, Job, Limits, Outcome, Proposal, Run
from nightlab.workspace import difference, remove

Briefing = Callable[[Context], str]
"""What an agent is told."""

MEMORY_MB = 6144.0
_ENDED_BY_ITSELF = ("exit code", "killed by signal")
_KEPT_HOMES = 8
_DUTIES = """
---
How to answer: edit the files in place, in {worktree}. Only these count: {files}. Change nothing else: a change to any
other file spoils the whole answer. Do not run the experiment or measure anything; it is run and measured elsewhere.
Nobody can answer a question. You have {minutes} at most. Make one change for one reason, and end your last message
with one line that says why it should help:
HYPOTHESIS: <one sentence>
"""


@dataclass(frozen=True, slots=True)
class _Call:
    """One call's places. All of it is kept but `place`, where an agent works and what it may write."""

    folder: Path
    place: Path
    """The call's own folder, or that of the call it goes on with."""

    @property
    def tree(self) -> Path:
        return self.place / "tree"

    @property
    def home(self) -> Path:
        return self.place / "home"


class CommandLineAgent:
    """Asks one coding agent: lays a tree, starts it in the jail, and takes what it changed."""

    drafts = 2

    def __init__(self, hire: Hire, workroom: Workroom, briefing: Briefing, *, name: str = "") -> None:
        """Raises NightlabError where its program or its way to the model is missing."""
        self.name = name or f"{hire.template.name}:{hire.upstream.model}"
        self._hire, self._room, self._briefing = hire, workroom, briefing
        if getattr(workroom.executor, "level", "") == "landlock-only":
            raise NightlabError(
                "agents on the command line need a loopback of their own, and the jail's level landlock-only has none; "
                "install bubblewrap (see: nightlab doctor), or use --agent openai:MODEL or anthropic:MODEL"
            )
        _program(hire.program, workroom.environ)

    def propose(self, context: Context) -> Proposal:
        """One call: a proposal with its cost, or what went wrong in the words of `facts["failure"]`."""
        folder = self._room.home / f"draft-{context.draft}"
        session, place = self._session(context)
        call = _Call(folder, place or folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._forget_old_homes(context.draft)
        checkout = self._room.lay(call.tree, context)
        try:
            if place is None:  # what a killed attempt left there would be found by the next
                remove(call.home)
            call.home.mkdir(exist_ok=True)
            before = look(call.tree)
            with self._room.relay.line(self._hire.upstream, folder) as line:
                run = self._run(self._job(call, context, session, line))
            found = self._changes(call.tree, before, context)
        finally:
            checkout.clear()
        return self._proposal(context, folder, run, line, found)

    def _changes(self, tree: Path, before: Marks, context: Context) -> Changes:
        """What the agent did to its tree; where even that cannot be found out, the call was paid for all the same."""
        found, trouble = walled(
            lambda: changes(
                tree,
                before,
                context.files,
                is_editable=self._room.task.is_editable,
                leaves=self._hire.template.leaves,
            )
        )
        return found or Changes({}, f"what it left cannot be read: {trouble}")

    def learn(self, experiment: Experiment) -> None:
        """Nothing to remember: each call is told the history anew."""

    def close(self) -> None:
        """End every call under way."""
        self._room.executor.close()

    def _session(self, context: Context) -> tuple[str, Path | None]:
        """What the agent called its session when it made what is to be mended, and where its home still is."""
        facts: Mapping[str, Any] = context.mends.facts if context.mends else {}
        draft, session = facts.get("draft"), facts.get("session")
        if not isinstance(draft, int) or not isinstance(session, str) or not session:
            return "", None
        place = self._room.home / f"draft-{draft}"
        return (session, place) if (place / "home").is_dir() else ("", None)

    def _forget_old_homes(self, draft: int) -> None:
        """A home is kept for as long as its call may be gone on with; some agents leave 50 MB in it."""
        for place in self._room.home.glob("draft-*/home"):
            number = place.parent.name.removeprefix("draft-")
            if number.isdigit() and int(number) < draft - _KEPT_HOMES - self.drafts:
                remove(place)

    def _prompt(self, call: _Call, context: Context) -> str:
        """What the agent is told: what it was told before, where a lab that was killed had asked already."""
        path = call.folder / "prompt.md"
        if path.is_file():
            return path.read_text(encoding="utf-8")
        minutes = f"{max(1, round(self._room.seconds / 60))} minutes"
        duties = _DUTIES.format(worktree=call.tree, files=", ".join(self._room.task.task.editable), minutes=minutes)
        text = self._briefing(context).rstrip() + "\n" + duties
        temporary = path.with_suffix(".new")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
        return text

    def _job(self, call: _Call, context: Context, session: str, line: Line) -> Job:
        template, plan = self._hire.template, call.folder / "plan.json"
        program = _program(self._hire.program, self._room.environ)
        prompt = self._prompt(call, context)
        files = [name for name in sorted(context.files) if (call.tree / name).is_file()]
        values = {
            "prompt": prompt,
            "prompt_file": str(call.folder / "prompt.md"),
            "worktree": str(call.tree),
            "home": str(call.home),
            "model": self._hire.upstream.model,
            "session": session,
        }
        plan.write_text(json.dumps(_plan(self._hire, program, values, files)), encoding="utf-8")
        shown = (
            plan,
            call.folder / "prompt.md",
            Path(bridge.__file__),
            Path(acp.__file__),
            *_needed(program, self._room.environ),
        )
        return Job(
            id=f"draft-{context.draft}",
            argv=(sys.executable, "-I", "-S", bridge.__file__, str(plan)),
            tree=call.tree,
            folder=call.folder / "call",
            token=secrets.token_hex(8),
            env={"HOME": str(call.home), "PATH": _path(program, self._room.environ), "PYTHONHASHSEED": "random"},
            limits=Limits(wall=self._room.seconds, silence=template.silence, memory_mb=MEMORY_MB, log_mb=16.0),
            readable=(*shown, *(Path(name).expanduser() for name in template.readable)),
            writable=(call.home,),
            relay=line.socket,
        )

    def _run(self, job: Job) -> Run:
        # What a killed lab left behind may still be ending; nothing of it is taken, for its tree is laid anew.
        self._room.executor.recover(job)
        return self._room.executor.submit(job).result()

    def _proposal(self, context: Context, folder: Path, run: Run, line: Line, found: Changes) -> Proposal:
        said = stream.read(run.log(), self._hire.template.prints)
        patch = difference(context.files, found.files)
        for name, text in (("answer.md", said.last_words), ("diff.patch", patch)):
            with suppress(OSError):  # they are for people to look at; what the call cost is not lost with them
                (folder / name).write_text(text, encoding="utf-8", errors="replace")
        facts: dict[str, Any] = {"draft": context.draft, "agent": self.name, "model": self._hire.upstream.model}
        facts |= {"session": said.session} if said.session else {}
        facts |= {"left_out": list(found.left_out)} if found.left_out else {}
        cost = Cost(seconds=run.cost.seconds, money=line.cost.money, tokens=line.cost.tokens)
        if words := _failure(run, line, found, said):
            facts |= {"failure": words} | ({"exhausted": line.refusal} if line.refusal else {})
            return Proposal(f"{self.name} had no answer", {}, facts, cost=cost)
        words = stream.hypothesis(said) or _summary(found.files)
        return Proposal(words, found.files, facts, cost=cost)


def agent(spec: str, workroom: Workroom, briefing: Briefing) -> CommandLineAgent:
    """What `--agent NAME[:MODEL]` names, ready to be asked; raises an error that says what is missing."""
    return CommandLineAgent(hire(spec, workroom.environ), workroom, briefing, name=spec)


def _failure(run: Run, line: Line, found: Changes, said: stream.Said) -> str:
    """Why a call came to nothing, in words; empty where it came to something. The exit code is no witness."""
    last = f"; its last words: {stream.quoted(said.last_words)}" if said.last_words else "; it said nothing"
    trouble = f"; {line.trouble}" if line.trouble else ""
    if line.refusal:
        return f"out of budget: {line.refusal}"
    if run.outcome is Outcome.KILLED or not run.reason.startswith(_ENDED_BY_ITSELF):
        return f"the call was ended: {run.reason}{trouble}{last}"
    if found.trouble:
        return found.trouble
    if not found.files:
        end = "" if run.exit_code == 0 else f" and ended with {run.reason}"
        left = f" (left behind: {', '.join(found.left_out[:5])})" if found.left_out else ""
        return f"made no change{end}{left}{trouble}{last}"
    return ""


def _summary(files: Mapping[str, str | None]) -> str:
    return f"a change to {', '.join(sorted(files))}, unexplained"


def _plan(hired: Hire, program: Path, values: Mapping[str, str], files: list[str]) -> dict[str, Any]:
    """What the bridge is told: templates, and what to fill into them."""
    template, provider = hired.template, hired.provider
    argv: list[str] = []
    for word in template.command(values):
        argv += files if word == "{files}" else hired.command if word == "{command}" else [word]
    argv[0] = str(program)
    if template.speaks_acp:
        argv = [sys.executable, "-I", "-S", acp.__file__, "{prompt_file}", "{worktree}", *argv]
    return {
        "argv": argv,
        "env": {**template.env, **provider.env},
        "files": {**template.files, **provider.files},
        "stdin": values["prompt_file"] if template.stdin else None,
        "values": dict(values),
    }


# ---- the agent's program, as it is installed ----


def _program(name: str, environ: Mapping[str, str]) -> Path:
    found = shutil.which(name, path=environ.get("PATH", os.defpath))
    if found is None:
        raise NightlabError(f"{name} is not installed, or not on PATH; see: nightlab doctor")
    # Where it really is: a script of Node looks for its modules beside the real file, and the way there is not shown.
    return Path(os.path.realpath(found))


def _path(program: Path, environ: Mapping[str, str]) -> str:
    """The user's PATH, with the folder of the agent's own Node before it."""
    path = environ.get("PATH", os.defpath)
    node = _node(program, path)
    return f"{node.parent}:{path}" if node else path


def _node(program: Path, path: str) -> Path | None:
    """The Node that came with a program, beside its modules or at the top of their prefix; else the one on PATH."""
    modules = _modules(program)
    if modules is None:
        return None
    own = [str(modules / ".bin"), *([str(modules.parent.parent / "bin")] if modules.parent.name == "lib" else [])]
    found = shutil.which("node", path=":".join([*own, path]))
    return Path(os.path.realpath(found)) if found else None


def _modules(program: Path) -> Path | None:
    """The outermost node_modules that a program lies in."""
    return next((folder for folder in reversed(program.parents) if folder.name == "node_modules"), None)


def _needed(program: Path, environ: Mapping[str, str]) -> list[Path]:
    """What has to be shown for a program to start: its modules or its environment, and the interpreter."""
    places = [_modules(program) or program]
    if interpreter := _interpreter(program):
        prefix = interpreter.parent.parent
        places += [
            Path(os.path.realpath(interpreter)).parent.parent,
            *([prefix] if (prefix / "pyvenv.cfg").exists() else []),
        ]
    if node := _node(program, environ.get("PATH", os.defpath)):
        places.append(node)
    return [place for place in places if not place.is_relative_to("/usr") and place != Path("/")]


def _interpreter(program: Path) -> Path | None:
    """The Python that a script names in its first line."""
    with open(program, "rb") as file:
        line = file.readline(512)
    if not line.startswith(b"#!") or b"python" not in line:
        return None
    path = Path(os.fsdecode(line[2:].split()[0]))
    return path if path.is_absolute() and path.name.startswith("python") else None
