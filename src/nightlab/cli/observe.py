"""Observing: a foreign loop, logged into a ledger that every reading opens."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from nightlab.cli.base import Json, StudyName, app, print_json, status_of
from nightlab.errors import BadTask
from nightlab.words import harmless

if TYPE_CHECKING:
    from nightlab.observation import Observation

_COMMAND = "command-line"

MetricName = Annotated[str | None, typer.Option("--metric", help="What is measured; a study that exists knows it.")]
DirectionName = Annotated[str | None, typer.Option("--direction", help="lower (unless said) or higher.")]


class _Watching(TyperGroup):
    """What is no subcommand is the command to run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] == "log" else [_COMMAND, *args])


observe_app = typer.Typer(cls=_Watching, invoke_without_command=True)
app.add_typer(observe_app, name="observe")


@observe_app.callback()
def observe(
    ctx: typer.Context,
    metric: MetricName = None,
    direction: DirectionName = None,
    follow: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Read a results.tsv as it grows, not what is printed.")
    ] = None,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Log a loop that is not ours: nightlab observe --metric NAME -- COMMAND. It runs unjailed, as you would run it.

    Each line `NAME: number`, or JSON line with "value" and "hypothesis", is an experiment. nightlab observe log writes
    down one by hand.
    """
    ctx.obj = {"metric": metric, "direction": direction, "follow": follow, "study": study, "as_json": as_json}
    if ctx.invoked_subcommand is None:
        if follow is None:
            raise BadTask("there is nothing to observe; write a command after --, or --follow results.tsv")
        _follow(follow, study, _open(study, metric, direction), as_json=as_json)


def _open(study: str, metric: str | None, direction: str | None) -> Observation:
    from nightlab.observation import observe as begin

    return begin(study, metric=metric, direction=direction)  # type: ignore[arg-type]  # it checks the words itself


def _say(text: str) -> None:
    print(f"nightlab: {harmless(text)}", file=sys.stderr, flush=True)


def _follow(path: Path, study: str, night: Observation, *, as_json: bool) -> None:
    from nightlab import transcript

    scribe = transcript.Scribe(night, _say)
    _say(f"following {path}; Ctrl-C ends it")
    transcript.follow(transcript.Table(path, night), scribe, _say)
    scribe.end("interrupted")
    _end(study, len(scribe.numbers), 0, as_json=as_json)


@observe_app.command(_COMMAND, hidden=True, context_settings={"ignore_unknown_options": True, "help_option_names": []})
def command_line(
    ctx: typer.Context,
    words: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="What is run.")],
) -> None:
    """Run a command and log what it prints."""
    from nightlab import transcript

    asked = ctx.obj
    night = _open(asked["study"], asked["metric"], asked["direction"])
    out = (sys.stderr if asked["as_json"] else sys.stdout).buffer
    code, count = transcript.run(words, night, out, _say, asked["follow"])
    _end(asked["study"], count, code, as_json=asked["as_json"])


def _end(study: str, count: int, code: int, *, as_json: bool) -> None:
    if as_json:
        print_json(status_of(study) | {"logged": count, "exit_code": code})
    else:
        _say(
            f"{count} experiment{'' if count == 1 else 's'} logged into study {study}; see nightlab status, log, report"
        )
    raise typer.Exit(code)


@observe_app.command()
def log(
    value: Annotated[float | None, typer.Option(help="What it came to.")] = None,
    message: Annotated[str, typer.Option("-m", "--message", help="What was tried.")] = "",
    kept: Annotated[
        bool | None, typer.Option("--kept/--discarded", help="What became of it; by the best so far unless said.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="It gave no number.")] = False,
    parent: Annotated[int | None, typer.Option(metavar="ID", help="The experiment it grew from.")] = None,
    diff: Annotated[Path | None, typer.Option(metavar="FILE", help="Its patch; - reads standard input.")] = None,
    seconds: Annotated[float, typer.Option(min=0, help="How long it ran.")] = 0.0,
    tokens: Annotated[int, typer.Option(min=0, help="What its idea cost, in tokens.")] = 0,
    money: Annotated[float, typer.Option(min=0, help="The same in US dollars.")] = 0.0,
    proposer: Annotated[str, typer.Option(help="Whose idea it was.")] = "observed",
    metric: MetricName = None,
    direction: DirectionName = None,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Write down one experiment of a loop that is not ours, for shell scripts."""
    if value is None and not failed:
        raise BadTask("there is nothing to log; say --value NUMBER, or --failed")
    night = _open(study, metric, direction)
    said: dict[str, Any] = {"kept": kept, "failed": failed, "parent": parent, "proposer": proposer}
    said |= {"seconds": seconds, "tokens": tokens, "money": money, "diff": _text(diff) if diff else ""}
    number = night.log(value, message, **said)
    with closing(night.place.read()) as ledger:
        one = ledger.experiment(number)
    print_json({"study": study, "id": number, "status": one.status, "reason": one.reason}) if as_json else print(
        f"experiment {number} of study {study}: {one.status} ({one.reason})"
    )


def _text(path: Path) -> str:
    try:
        raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise BadTask(f"cannot read {path}: {error.strerror}") from error
    return raw.decode("utf-8", "replace")
