"""Looking: readings of a ledger, for people and as JSON; exports and imports."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from nightlab.cli.base import (
    Id,
    Json,
    StudyName,
    app,
    draw,
    place_of,
    print_json,
    print_report,
    report_of,
    say_if_unjailed,
    shown,
    status_of,
    write_report,
)
from nightlab.errors import BadTask
from nightlab.words import harmless


@app.command()
def status(study: StudyName = "main", as_json: Json = False) -> None:
    """The study at a glance."""
    facts = status_of(study)
    if as_json:
        print_json(facts)
        return
    start, best, cost = facts["baseline"], facts["incumbent"], facts["cost"]
    state = f"{facts['running']} running" if place_of(study).holder() else "not running"
    print(f"study {facts['study']}: {state}")
    print(
        f"{facts['experiments']} experiments: {facts['kept']} kept (the baseline too), {facts['discarded']} discarded, "
        f"{facts['crashed']} failed, {facts['rejected']} rejected"
    )
    if facts["metric"] is None:
        print("it has not begun yet")
        return
    say_if_unjailed(facts)
    print(
        f"{facts['metric']}: {shown(start['value'])} at the start ({start['grade']}), "
        f"{shown(best['estimate'])} now ({best['grade']})"
    )
    if facts["audited"]:
        from nightlab.report import headline

        print(headline(report_of(study)))
    looks = facts["exposure"]
    print(
        f"exposure: {looks['decisions']} decisions on the search's data, the seal opened {looks['seal_opened']} times"
    )
    print(f"spent: {cost['seconds']:.0f} slot seconds, {cost['money']:.2f} USD, {cost['tokens']} tokens")


@app.command()
def report(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A page to open from disk (.html), .md or .json.")
    ] = None,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """What came of it: the audited gain first, what it cost, what fell away, what transferred."""
    if output is not None:
        write_report(study, output)
        print_json({"file": str(output)}) if as_json else print(output)
        return
    print_json(report_of(study)) if as_json else print_report(study)


@app.command()
def log(
    limit: Annotated[int | None, typer.Option(min=1, help="Only the last so many.")] = None,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Every experiment: one line each, or one JSON object each."""
    from nightlab.readings import row

    with closing(place_of(study).read()) as ledger:
        experiments = ledger.experiments(limit=limit, newest=limit is not None)
    if as_json:
        for one in experiments:
            print(json.dumps(row(one)))
        return
    from nightlab.dashboard.terminal import decision_line

    for one in experiments:
        print(decision_line(one))


@app.command()
def show(number: Id, study: StudyName = "main", as_json: Json = False) -> None:
    """One experiment: hypothesis, evidence, runs, notes, patch, the end of its log."""
    from nightlab import control
    from nightlab.readings import row

    with closing(place_of(study).read()) as ledger:
        one, runs = ledger.experiment(number), ledger.runs(number)
        tails = [(ledger.find("ran", run["id"]) or {}).get("tail", "") for run in runs]
        notes = control.notes(ledger, one)
    if as_json:
        more = {"diff": one.diff, "facts": dict(one.facts), "runs": runs, "notes": notes}
        print_json(row(one) | more | {"tail": tails[-1] if tails else ""})
        return
    from nightlab.dashboard.terminal import decision_line

    print(decision_line(one))
    print(
        f"parent {one.parent}, proposed by {one.proposer}, grade {one.grade}, commit {one.commit or '-'}, "
        f"tree {one.tree}"
    )
    for fact, words in (("like", "nearly the same change as"), ("mends", "repairs"), ("retries", "tries again")):
        if fact in one.facts:
            print(f"{words} experiment {one.facts[fact]}")
    for run in runs:
        print(
            f"  run {run['id']}: {run['outcome'] or 'running'} {shown(run['value'])} seed {run['seed']} "
            f"{run['reason'] or ''}"
        )
    for text in notes:
        print(f"  note: {harmless(text)}")
    print("\n".join(map(harmless, one.diff.splitlines())))
    if tails and tails[-1]:
        print("end of the log:")
        print("\n".join("    " + harmless(line) for line in tails[-1].splitlines()))


@app.command()
def diff(
    number: Annotated[
        int | None, typer.Argument(metavar="[ID]", help="Without it: the incumbent against the start.")
    ] = None,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """The patch of an experiment, or of the whole night."""
    place = place_of(study)
    with closing(place.read()) as ledger:
        if number is not None:
            text = ledger.experiment(number).diff
        else:
            best, start = ledger.incumbent(), ledger.first()
            if not (best and start and best.commit and start.commit):
                raise BadTask("nothing has been kept yet")
            text = place.repository.git("diff", start.commit, best.commit).decode(errors="replace")
    print_json({"diff": text}) if as_json else print(text, end="")


@app.command()
def checkout(
    number: Id,
    into: Annotated[Path | None, typer.Option(help="A new folder; your own checkout is never touched.")] = None,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Lay out an experiment's whole tree, kept or not."""
    from nightlab.study import write_tree

    folder = write_tree(place_of(study), number, into or Path(f"nightlab-{number}"))
    print_json({"folder": str(folder)}) if as_json else print(folder)


@app.command()
def best(study: StudyName = "main", as_json: Json = False) -> None:
    """The incumbent and the kept changes that led to it."""
    from nightlab.dashboard.terminal import decision_line
    from nightlab.readings import row

    with closing(place_of(study).read()) as ledger:
        found = ledger.incumbent()
        line = ledger.lineage(found.id) if found else []
        is_ours = "base" in (ledger.study() or {})  # what another loop did has no branch here
    if as_json:
        print_json({"incumbent": row(line[-1]) if line else None, "lineage": [row(one) for one in line]})
        return
    for one in line:
        print(decision_line(one))
    if not line:
        print("nothing has been measured yet")
    elif is_ours:
        print(f"branch nightlab/{study}")


@app.command()
def plot(
    output: Annotated[Path, typer.Option("-o", "--output", help="SVG or PNG, by its ending.")] = Path("progress.svg"),
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Draw the progress picture."""
    draw(study, output)
    print_json({"file": str(output)}) if as_json else print(output)


@app.command()
def export(
    form: Annotated[
        str, typer.Argument(metavar="FORMAT", help="tsv (Karpathy's columns), csv, jsonl or parquet.")
    ] = "tsv",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A file; else standard output.")] = None,
    runs: Annotated[bool, typer.Option("--runs", help="One row for each run, not for each experiment.")] = False,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Your data, in other tools' formats."""
    from nightlab import exports

    form = "jsonl" if as_json else form
    with closing(place_of(study).read()) as ledger:
        if output is None:
            for line in exports.lines(ledger, form, runs=runs):
                print(line, end="")
            return
        try:
            exports.write(ledger, form, output, runs=runs)
        except OSError as error:
            raise BadTask(f"cannot write {output}: {error.strerror or error}") from error


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A results.tsv in Karpathy's five columns.")],
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Open an old run in status, log and plot."""
    from nightlab import exports
    from nightlab.ledger import Ledger
    from nightlab.place import held

    rows = list(exports.read_karpathy(file))
    place = place_of(study)
    with held(place), closing(Ledger(place.ledger)) as ledger:
        count = exports.take_karpathy(ledger, rows, name=file.name)
    print_json(status_of(study)) if as_json else print(f"{count} experiments from {file} are in study {study}")
