"""From inside an agent: what it is told, and a change of its own tried."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightlab.cli.base import Json, StudyName, Unsafe, Workers, app, open_study, place_of, print_json
from nightlab.cli.night import watched
from nightlab.errors import BadChange, BadPlugin
from nightlab.words import harmless

if TYPE_CHECKING:
    from nightlab.trial import Asked, Folder


@app.command()
def context(
    files: Annotated[bool, typer.Option("--files", help="With the files, as the built-in agent is told.")] = False,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """What an agent would be told if it were asked for an idea now."""
    from nightlab.agents.briefing import briefing, with_files
    from nightlab.study import context_of

    told, task = context_of(place_of(study))
    text = briefing(told, task=task)
    text = with_files(text, told) if files else text
    print_json({"incumbent": told.incumbent, "text": text}) if as_json else print(text)


@app.command("try")
def try_(
    hypothesis: Annotated[str | None, typer.Option("-m", "--message", help="What you expect, and why.")] = None,
    begin: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Lay the incumbent out there, to edit.")] = None,
    in_: Annotated[
        Path | None, typer.Option("--in", metavar="FOLDER", help="Try what was edited in a folder of --begin.")
    ] = None,
    patch: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Try a unified diff against the incumbent; - reads it.")
    ] = None,
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="Who proposes.")] = "you",
    workers: Workers = 1,
    unsafe: Unsafe = False,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Try one change: the lab runs and judges it, keeps or reverts it, and says why. Without --in or --patch it is
    what your checkout changed in the editable files; your checkout itself is never touched.

    Exit code 0: it was judged, whatever the verdict.
    """
    from nightlab import trial

    if begin is not None:
        folder = trial.begin(place_of(study), begin)
        facts = {"folder": str(folder.path), "experiment": folder.number}
        print_json(facts) if as_json else print(
            f"{folder.path} holds experiment {folder.number}; edit it, then: nightlab try --in {begin} -m HYPOTHESIS"
        )
        return
    if not (hypothesis or "").strip():
        raise BadChange('say what you expect, and why: nightlab try -m "a smaller step, since the loss jumps"')
    asked = trial.Asked(hypothesis or "", trial.checked_name(name), _diff(patch), _folder(in_, patch))
    if asked.folder is not None:  # whoever sits in such a folder may be far from the repository
        os.chdir(asked.folder.place.root)
        study = asked.folder.place.name
    found = _visited(asked, study, workers=workers, unsafe=unsafe, is_quiet=as_json)
    if as_json:
        print_json(found)
        return
    print("\n".join(map(harmless, trial.lines(found))))


@app.command()
def mcp(
    in_: Annotated[
        Path | None, typer.Option("--in", metavar="FOLDER", help="Where changes are made; your checkout unless said.")
    ] = None,
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="Who proposes.")] = "agent",
    study: StudyName = "main",
    as_json: Annotated[bool, typer.Option("--json", help="Print the entry for an agent's settings, and end.")] = False,
) -> None:
    """Serve an agent: context, try, status, history, show, steer over the Model Context Protocol (the extra mcp)."""
    try:
        from nightlab.mcp_server import serve, settings
    except ImportError as error:
        raise BadPlugin("the server needs the extra mcp; install it with: pip install 'nightlab[mcp]'") from error
    from nightlab.trial import checked_name

    if as_json:
        print_json(settings(place_of(study), in_))
    else:
        serve(place_of(study), in_, name=checked_name(name))


def _visited(asked: Asked, name: str, *, workers: int, unsafe: bool, is_quiet: bool) -> dict[str, Any]:
    """Check what is asked, then let the lab run and judge it."""
    from nightlab import trial
    from nightlab.loop import Stop

    place = place_of(name)
    change = trial.read(place, asked)
    if (holder := place.holder()) is not None:
        if not is_quiet:
            print(f"handed to the lab that runs ({holder}); waiting for its decision")
        return trial.hand_in(place, asked, change)
    with open_study(name, workers=workers, unsafe=unsafe) as study:
        return trial.visit(study, asked, change, watched(study, Stop(), is_quiet=is_quiet))


def _folder(in_: Path | None, patch: Path | None) -> Folder | None:
    """The folder of --begin that is meant: the one named, or the one that one sits in."""
    from nightlab import trial

    if in_ is not None and patch is not None:
        raise BadChange("--in and --patch are two places for one change; give one of them")
    is_inside = patch is None and (Path.cwd() / trial.MARKER).is_file()
    return trial.opened(in_ or Path.cwd()) if in_ or is_inside else None


def _diff(patch: Path | None) -> str | None:
    if patch is None:
        return None
    try:
        return sys.stdin.read() if str(patch) == "-" else patch.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadChange(f"cannot read the patch {patch}: {error}") from error
