"""Control: what people tell a study."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from nightlab.cli.base import Id, Json, StudyName, app, place_of, print_json
from nightlab.errors import StudyStuck
from nightlab.words import harmless


@app.command()
def stop(
    now: Annotated[bool, typer.Option("--now", help="End what is running too; it is run again later.")] = False,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Stop the study when what runs has ended; nightlab run goes on with it."""
    _ask(study, "stop", as_json, text="now" if now else None)
    if now:
        _wait_until_free(study, 10.0)


@app.command()
def pause(study: StudyName = "main", as_json: Json = False) -> None:
    """Start nothing new until resume."""
    _ask(study, "pause", as_json)


@app.command()
def resume(study: StudyName = "main", as_json: Json = False) -> None:
    """Go on after pause."""
    _ask(study, "resume", as_json)


@app.command()
def steer(
    text: Annotated[str | None, typer.Argument(help="Where to look next; without it: what was said so far.")] = None,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Tell whoever proposes where to look, from the next proposal on; or list what was said."""
    from nightlab import control

    if text is not None:
        _ask(study, "steer", as_json, text=text)
        return
    said = control.steered(place_of(study))
    if as_json:
        print_json(said)
        return
    print("\n".join(map(harmless, control.lines(said))) or "nothing was said; say it with: nightlab steer TEXT")


@app.command()
def note(
    number: Id,
    text: Annotated[str, typer.Argument(help="The remark.")],
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Write a remark beside an experiment; show prints it."""
    _ask(study, "note", as_json, number=number, text=text)


@app.command()
def veto(number: Id, study: StudyName = "main", as_json: Json = False) -> None:
    """End an experiment that runs, or take a kept one out of the branch by a revert commit."""
    _ask(study, "veto", as_json, number=number)


@app.command()
def approve(number: Id, study: StudyName = "main", as_json: Json = False) -> None:
    """Let a version of a live study that waits for approval go out to visitors."""
    _ask(study, "approve", as_json, number=number)


@app.command()
def refuse(number: Id, study: StudyName = "main", as_json: Json = False) -> None:
    """Keep a version of a live study that waits for approval from visitors."""
    _ask(study, "refuse", as_json, number=number)


@app.command()
def retry(number: Id, study: StudyName = "main", as_json: Json = False) -> None:
    """Try an experiment's patch again, on the incumbent of now."""
    _ask(study, "retry", as_json, number=number)


def _ask(name: str, verb: str, as_json: bool, *, number: int | None = None, text: str | None = None) -> None:
    """Leave the wish, and say who will take it up."""
    from nightlab import control

    is_running = control.ask(place_of(name), verb, number=number, text=text)
    if as_json:
        print_json({"asked": verb, "running": is_running})
        return
    when = "the lab that runs takes it up now" if is_running else "the next takes it up: nightlab run"
    print(f"asked study {name} to {verb}; {when}")


def _wait_until_free(name: str, patience: float) -> None:
    deadline = time.monotonic() + patience
    while (holder := place_of(name).holder()) is not None:
        if time.monotonic() > deadline:
            raise StudyStuck(f"study {name} is still held by {holder} after {patience:g} s")
        time.sleep(0.05)
