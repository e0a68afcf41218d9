"""What the commands share: the app, its options, how a study is opened, how things are said."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightlab.errors import BadTask, NightlabError
from nightlab.words import harmless

if TYPE_CHECKING:
    from nightlab.place import Place
    from nightlab.study import Study

app = typer.Typer(
    help="An honest, autonomous research loop for anything that can be scored.",
    epilog="Exit codes: 0 done, 2 a mistake in what was asked, 3 the study is held by another lab, 4 the study is "
    "stuck and says why, 5 the ledger cannot be read, 130 stopped by a second Ctrl-C.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich takes longer to import than all of our own
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench_app = typer.Typer(help="Measure the lab itself.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StudyName = Annotated[str, typer.Option("--study", help="The study's name.")]
Workers = Annotated[int, typer.Option(min=1, help="How many runs at a time.")]
Unsafe = Annotated[bool, typer.Option("--unsafe", help="Where no jail works, run without one; or in a weaker one.")]
_PICTURED = 8
"""Experiments that are worth a picture at the end of a run: it takes half a second to draw."""
Id = Annotated[int, typer.Argument(metavar="ID", help="The experiment's number.")]


def main() -> None:
    """The entry point: errors become one clear message and an exit code."""
    try:
        app()
    except NightlabError as error:
        print("\n".join(map(harmless, f"nightlab: {error}".split("\n"))), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("nightlab: interrupted; what was recorded is safe", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from nightlab import __version__

        print(f"nightlab {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    folder: Annotated[Path | None, typer.Option("-C", "--folder", help="Work in this folder.")] = None,
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    if folder is not None:
        if not folder.is_dir():
            raise BadTask(f"{folder} is not a folder")
        os.chdir(folder)


def seconds(text: str) -> float:
    """A time as people write it: 8h, 90m, 30s, 1h30m, or plain seconds."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text)
    if not text or parts is None:
        raise BadTask(f"{text!r} is not a time; write for example 8h, 90m, 1h30m or 45s")
    return sum(float(part or 0) * unit for part, unit in zip(parts.groups(), (3600, 60, 1), strict=True))


def place_of(name: str) -> Place:
    """The study of this name, of the repository one is in."""
    from nightlab.place import find

    return find(Path.cwd(), name)


@contextmanager
def open_study(
    name: str,
    seed: int | None = None,
    policy: str | None = None,
    workers: int = 1,
    *,
    must_exist: bool = False,
    unsafe: bool = False,
    executor: str = "local",
    options: Mapping[str, Any] | None = None,
    approve: bool = False,
    explore: bool = False,
) -> Iterator[Study]:
    """A study held by this process, until the block ends. Raises StudyBusy where another holds it."""
    from nightlab.place import held
    from nightlab.study import Study

    place = place_of(name)
    if must_exist:
        place.read().close()
    with held(place):
        where: dict[str, Any] = {"executor": executor, "options": options, "approve": approve, "explore": explore}
        study = Study(place, seed=seed, policy=policy, slots=workers, unsafe=unsafe, **where)
        try:
            yield study
        finally:
            study.close()


def speaker(is_quiet: bool) -> Callable[[str], None]:
    """Where lines for people go: nowhere, where JSON is asked for."""
    return (lambda _: None) if is_quiet else print


def status_of(name: str) -> dict[str, Any]:
    """The study at a glance, as JSON shows it."""
    from nightlab.readings import status

    place = place_of(name)
    with closing(place.read()) as ledger:
        return status(ledger, name=name, is_running=place.holder() is not None)


def report_of(name: str) -> dict[str, Any]:
    """The report, as JSON shows it."""
    from nightlab.report import report

    place = place_of(name)
    with closing(place.read()) as ledger:
        return report(ledger, name=name, is_running=place.holder() is not None)


def print_report(name: str) -> None:
    """The report for people."""
    from nightlab.report import lines

    facts = status_of(name)
    print(
        f"\n{facts['experiments']} experiments, {facts['kept']} kept, {facts['discarded']} discarded, "
        f"{facts['crashed']} failed."
    )
    say_if_unjailed(facts)
    print("\n".join(map(harmless, lines(report_of(name)))))


def write_report(name: str, path: Path) -> None:
    """Write the report of a study as a file: a page, Markdown or JSON, by its ending; whole or not at all."""
    from nightlab import insights
    from nightlab.dashboard.morning import FORMS
    from nightlab.exports import write_whole
    from nightlab.swarm.reading import board_of

    form = FORMS.get(path.suffix)
    if form is None:
        raise BadTask(f"cannot write a report called {path.name}: end its name in {', '.join(FORMS)}")
    place = place_of(name)
    with closing(place.read()) as ledger:
        seen = insights.insights(ledger, texts=insights.texts_of(place, ledger))
        seen["findings"] = [*_of_visitors(place), *seen["findings"]]
        is_running = place.holder() is not None
        text = form(ledger, name=name, is_running=is_running, insights=seen, swarm=board_of(place))
    try:
        write_whole(path, text)
    except OSError as error:
        raise BadTask(f"cannot write {path}: {error.strerror}; name a file in a folder that is there") from error


def _of_visitors(place: Place) -> list[dict[str, Any]]:
    """What may be said of a study's visitors, as findings; nothing where it has none."""
    if not (place.home / "live.sqlite").exists():
        return []
    from nightlab.live.reading import of_place

    told = of_place(place)
    return told["findings"] if told else []


def leave_report(name: str) -> str:
    """Write the report and the picture beside the ledger, and say where; a copy that cannot be made ends nothing."""
    import sqlite3

    home = place_of(name).home
    page, left = home / "report.html", ["report.md"]
    try:
        write_report(name, page)
        write_report(name, home / "report.md")
        with closing(place_of(name).read()) as ledger:
            is_worth_a_picture = len(ledger.experiments(limit=_PICTURED)) == _PICTURED
        with suppress(BadTask):  # what draws is an extra, and there may be nothing to draw
            if is_worth_a_picture:
                draw(name, home / ".progress.svg")
                (home / ".progress.svg").replace(home / "progress.svg")
                left.append("progress.svg")
    except (NightlabError, OSError, sqlite3.Error) as error:
        return f"the report could not be left in {home} ({error}); the ledger has it all: nightlab report"
    return f"The report: {page} (beside it {', '.join(left)})"


def draw(name: str, path: Path) -> None:
    """Draw the progress picture of a study."""
    from nightlab.dashboard.plot import plot
    from nightlab.stats import spread

    with closing(place_of(name).read()) as ledger:
        study = ledger.study() or {}
        sigma = spread([value for *_, value in ledger.pool(0)]) if ledger.first() else None
        plot(
            ledger.decided_experiments(),
            path,
            metric=str(study.get("metric")),
            direction=str(study.get("direction")),
            sigma=sigma,
        )


def say_if_unjailed(facts: dict[str, Any]) -> None:
    """Say so where the runs of a study are not jailed."""
    if facts["jail"] == "process":
        from nightlab.doctor import jail_in_words

        print(f"not jailed, by --unsafe: {jail_in_words('process')}")


def shown(value: float | None) -> str:
    """A number for people; a dash where there is none."""
    return "-" if value is None else f"{value:.6g}"


def print_json(value: object) -> None:
    """One JSON value on a line."""
    print(json.dumps(value, default=str))
