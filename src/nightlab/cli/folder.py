"""The folder: make it a task; what is missing on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from nightlab.cli.base import Json, app, print_json, seconds
from nightlab.errors import BadTask


@app.command()
def init(
    template: Annotated[
        str | None, typer.Argument(help="tinylm, gpt, prompt, compress or speed; without it, a task for this folder.")
    ] = None,
    run: Annotated[str | None, typer.Option(help='What is run, e.g. "python train.py".')] = None,
    metric: Annotated[str | None, typer.Option(help="The name that the script prints before its number.")] = None,
    direction: Annotated[str | None, typer.Option(help="lower or higher.")] = None,
    editable: Annotated[list[str] | None, typer.Option(help="What may change; may be given again.")] = None,
    agents: Annotated[
        bool, typer.Option("--agents", help="Write the instructions that agents in a session here read; keeps yours.")
    ] = False,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="DIR", help="Another system's task (OpenEvolve, ShinkaEvolve, GEPA), made ours."
        ),
    ] = None,
    form: Annotated[str | None, typer.Option(help="With --from: openevolve, shinka or gepa.")] = None,
    program: Annotated[str | None, typer.Option(help="With --from: the file to begin with.")] = None,
    evaluator: Annotated[
        str | None, typer.Option(metavar="FILE[:FUNCTION]", help="With --from: what evaluates.")
    ] = None,
    timeout: Annotated[str, typer.Option(help="With --from: how long one evaluation may take.")] = "5m",
    as_json: Json = False,
) -> None:
    """Make this folder a task: from a template, from the script that is here, or from another system's task."""
    from nightlab import tasks

    if source is not None:
        from nightlab.foreign.laying import Wanted, lay

        _refuse_mixtures(template=template, run=run, editable=editable)
        wanted = Wanted(source, form, program, evaluator, metric, direction, seconds(timeout))
        written = lay(Path.cwd(), wanted, typer.prompt if sys.stdin.isatty() and not as_json else None)
    elif template is not None:
        written = tasks.write(template, Path.cwd())
    elif agents and _is_task(Path.cwd()):
        written = []
    else:
        from nightlab.setup import setup

        ask = typer.prompt if sys.stdin.isatty() and not as_json else None
        written = setup(Path.cwd(), run=run, metric=metric, direction=direction, editable=editable, ask=ask)
    if agents:
        written += _instruct(Path.cwd(), is_quiet=as_json)
    if as_json:
        print_json({"written": written})
        return
    print("wrote " + ", ".join(written) if written else "nothing had to be written")
    print("next: git add -A && git commit -m 'a task for Nightlab', then: nightlab check, nightlab run")


def _refuse_mixtures(**others: object) -> None:
    for name, value in others.items():
        if value:
            raise BadTask(f"--from makes a task of its own: leave out {name}, or leave out --from")


def _is_task(folder: Path) -> bool:
    from nightlab.task import KARPATHY_FILES, TASK_FILE

    return (folder / TASK_FILE).exists() or all((folder / name).exists() for name in KARPATHY_FILES)


def _instruct(folder: Path, *, is_quiet: bool) -> list[str]:
    from nightlab.agents.instructions import write
    from nightlab.task import load

    written, words = write(folder, load(folder))
    if not is_quiet:
        print("".join(f"{line}\n" for line in words), end="")
    return written


@app.command()
def doctor(as_json: Json = False) -> None:
    """What is missing on this machine, and the exact line that mends it."""
    from dataclasses import asdict

    from nightlab.agents import detect
    from nightlab.doctor import Finding, examine

    findings = examine(Path.cwd())
    for agent in detect.installed(os.environ):  # none is needed, so one that is not installed is well
        seen = f"{agent.version} ({agent.path})" if agent.path else "not installed"
        is_well = agent.path is None or not agent.problem
        findings.append(Finding(f"agent {agent.name}", is_well, seen, agent.problem))
    if as_json:
        print_json([asdict(one) for one in findings])
        return
    for one in findings:
        print(
            f"{'ok     ' if one.is_well else 'missing'} {one.name}: {one.seen}"
            + ("" if one.is_well else f"; {one.mend}")
        )
