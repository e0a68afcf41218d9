"""The command line: the only place that puts all parts together. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightlab.errors import BadChange, BadPlugin, BadTask, NightlabError, StudyStuck

if TYPE_CHECKING:
    from nightlab.crew import Crew
    from nightlab.loop import Loop, Stop
    from nightlab.place import Place
    from nightlab.study import Study, Watch
    from nightlab.trial import Asked, Folder

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
AGENT_HELP = (
    "Who proposes; may be given again. tuner (no model); claude, codex, opencode, pi, gemini, qwen, aider, acp, each "
    "with [:MODEL]; openai:MODEL, anthropic:MODEL; a template file; unchanged (A/A); module:attribute. Default: tuner."
)
Id = Annotated[int, typer.Argument(metavar="ID", help="The experiment's number.")]


def main() -> None:
    """The entry point: errors become one clear message and an exit code."""
    try:
        app()
    except NightlabError as error:
        print("\n".join(map(_harmless, f"nightlab: {error}".split("\n"))), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("nightlab: interrupted; what was recorded is safe", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _harmless(line: str) -> str:
    """An error may quote the end of a log. (As the dashboard has it; that one takes long to import.)"""
    return "".join(letter if letter.isprintable() else " " for letter in line)


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


# ---- a night ----


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="A new folder for it.")] = Path("nightlab-demo"),
    template: Annotated[str, typer.Option(help="Which template to improve.")] = "tinylm",
    workers: Annotated[
        int | None, typer.Option(min=1, help="How many runs at a time (default: 2, or 1 on one core).")
    ] = None,
    for_: Annotated[str, typer.Option("--for", help="How long to search.")] = "6m",
    experiments: Annotated[int | None, typer.Option(min=1, help="Stop after so many experiments.")] = None,
    seed: Annotated[int, typer.Option(help="Where all chance comes from.")] = 0,
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """A real study on this machine: no key, no GPU, no download."""
    from nightlab import sandbox, tasks
    from nightlab.loop import Stop
    from nightlab.place import first_commit

    if folder.exists() and any(folder.iterdir()):
        raise BadTask(f"{folder} exists already; remove it, or name another folder: nightlab demo FOLDER")
    sandbox.probe(unsafe=unsafe)  # before anything is written
    tasks.write(template, folder)
    first_commit(folder)
    os.chdir(folder)
    workers = workers or min(2, len(os.sched_getaffinity(0)))
    say = (lambda _: None) if as_json else print
    say(f"The {template} template is in {Path.cwd()}. The tuner searches for {for_}; no language model is used.")
    stop = Stop(experiments=experiments, seconds=seconds(for_))
    with _opened("main", seed=seed, workers=workers, unsafe=unsafe) as study, _crew(["tuner"]) as crew:
        _search(study, crew, stop, is_quiet=as_json)
    if as_json:
        _print_json(_status("main"))
        return
    with suppress(ImportError):  # the picture is an extra
        _picture("main", Path(".nightlab/progress.svg"))
        print(f"The picture: {folder}/.nightlab/progress.svg")
    print(f"Look around: cd {folder}; nightlab log; nightlab best; nightlab diff; git log nightlab/main")
    _report("main")
    found = _told("main")["audited"]
    holds = found is not None and found["low"] > 0
    print(
        f"Done: {found['percent']:.1f} % better than the start, and it holds." if holds else "Done: no gain that holds."
    )


@app.command()
def run(
    agent: Annotated[list[str] | None, typer.Option(help=AGENT_HELP)] = None,
    workers: Workers = 1,
    experiments: Annotated[int | None, typer.Option(min=0, help="Stop after so many new experiments.")] = None,
    for_: Annotated[str | None, typer.Option("--for", help="Stop after this time, e.g. 8h, 30m, 90s.")] = None,
    target: Annotated[float | None, typer.Option(help="Stop when the metric reaches this.")] = None,
    max_cost: Annotated[float | None, typer.Option(min=0, help="Stop before agents have cost more US dollars.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Stop before agents have used more tokens.")] = None,
    plateau: Annotated[int | None, typer.Option(min=1, help="Stop after so many experiments without a gain.")] = None,
    drafts: Annotated[int, typer.Option(min=1, help="How many ideas one agent may think about at a time.")] = 2,
    replay: Annotated[
        str | None, typer.Option(metavar="STUDY", help="Let agents be answered from this study's record; no model.")
    ] = None,
    agent_time: Annotated[str, typer.Option(help="How long an agent may take for one idea.")] = "15m",
    seed: Annotated[int | None, typer.Option(help="Where all chance comes from (0 unless said at the start).")] = None,
    policy: Annotated[str | None, typer.Option(help="How to decide: race, lean, greedy.")] = None,
    audit: Annotated[
        bool, typer.Option("--audit/--no-audit", help="Prune, audit and try larger rungs at checkpoints and the end.")
    ] = True,
    unsafe: Unsafe = False,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Start a study, or go on with it."""
    from nightlab.loop import Stop

    for name, number in (("--max-cost", max_cost), ("--target", target)):
        if number is not None and not isfinite(number):
            raise BadTask(f"{name} {number} is no number to compare with; write one like 2.5, or leave it out")
    if not seconds(agent_time):
        raise BadTask("--agent-time 0 leaves no time for an idea; write for example 15m")
    stop = Stop(experiments, None if for_ is None else seconds(for_), target, None, max_cost, max_tokens, plateau)
    limits: dict[str, Any] = {"money": max_cost, "tokens": max_tokens, "drafts": drafts, "seconds": seconds(agent_time)}
    limits["replay"] = replay
    with (
        _crew(agent or ["tuner"], say=_speaker(as_json), **limits) as crew,
        _opened(study, seed=seed, policy=policy, workers=workers, unsafe=unsafe) as opened,
    ):
        if not as_json:
            _say_what_is_left_out(opened)
        reason = _search(opened, crew, stop, is_quiet=as_json, looks_back=audit)
    if as_json:
        _print_json(_status(study) | {"stopped": reason})
    else:
        _report(study)


@app.command()
def check(
    runs: Annotated[int, typer.Option(min=2, help="How many times to run the baseline.")] = 3,
    workers: Workers = 1,
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """Run the baseline a few times: its noise, the smallest gain that can be seen, what a night buys."""
    from nightlab.check import check
    from nightlab.dashboard.terminal import power_line

    found = check(_place("main"), runs=runs, slots=workers, unsafe=unsafe)
    if as_json:
        _print_json(found)
        return
    values = ", ".join(f"{value:.6g}" for value in found["values"])
    print(f"{found['metric']}: {values} (E1 each)")
    print(f"{runs} runs of {found['seconds']:.3g} s ({found['cpu_seconds']:.3g} CPU s) each.")
    print(f"One run varies by {found['sigma']:.3g} (standard deviation).")
    print(
        f"A true gain of {found['visible_gain']:.3g} is kept 8 times in 10."
        if found["sigma"]
        else "Runs repeat exactly."
    )
    print(power_line(found))
    _say_if_unjailed(found)
    print(f"Eight hours are about {found['runs_a_night']} runs. {found['trust']}")
    print("\n".join(found[name] for name in ("seed", "judge", "sealed")))


@app.command()
def audit(
    repeats: Annotated[int | None, typer.Option(min=2, help="Fresh seeds on either side.")] = None,
    workers: Workers = 1,
    unsafe: Unsafe = False,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """What the incumbent is really worth: against the start, on fresh seeds and sealed data."""
    with _opened(study, workers=workers, must_exist=True, unsafe=unsafe) as opened:
        found = opened.auditor(_speaker(as_json)).audit(repeats)
    if found is None:
        raise StudyStuck("there is nothing to audit: nothing that was kept stands")
    _print_json(found) if as_json else _report(study)


@app.command()
def prune(workers: Workers = 1, unsafe: Unsafe = False, study: StudyName = "main", as_json: Json = False) -> None:
    """Which keeps still pay? The others leave the branch by a revert commit, if the whole does not suffer."""
    with _opened(study, workers=workers, must_exist=True, unsafe=unsafe) as opened:
        found = opened.pruner(_speaker(as_json)).prune()
    if found is None:
        raise StudyStuck("there is nothing to prune: nothing that was kept stands")
    _print_json(found) if as_json else _report(study)


@app.command()
def transfer(
    rung: Annotated[str | None, typer.Argument(help="A [scale.NAME] of the task; all of them unless said.")] = None,
    workers: Workers = 1,
    unsafe: Unsafe = False,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Does it hold at a larger scale? Incumbent against start at a larger rung of the task."""
    with _opened(study, workers=workers, must_exist=True, unsafe=unsafe) as opened:
        rungs = [rung] if rung else list(opened.task.scale)
        if not rungs:
            raise BadTask("the task has no larger rung; write [scale.NAME] with an amount into nightlab.toml")
        found = [opened.auditor(_speaker(as_json)).transfer(one) for one in rungs]
    if found[0] is None:
        raise StudyStuck("there is nothing to transfer: nothing that was kept stands")
    _print_json(found) if as_json else _report(study)


# ---- looking ----


@app.command()
def status(study: StudyName = "main", as_json: Json = False) -> None:
    """The study at a glance."""
    facts = _status(study)
    if as_json:
        _print_json(facts)
        return
    start, best, cost = facts["baseline"], facts["incumbent"], facts["cost"]
    state = f"{facts['running']} running" if _place(study).holder() else "not running"
    print(f"study {facts['study']}: {state}")
    print(
        f"{facts['experiments']} experiments: {facts['kept']} kept (the baseline too), {facts['discarded']} discarded, "
        f"{facts['crashed']} failed, {facts['rejected']} rejected"
    )
    if facts["metric"] is None:
        print("it has not begun yet")
        return
    _say_if_unjailed(facts)
    print(
        f"{facts['metric']}: {_number(start['value'])} at the start ({start['grade']}), "
        f"{_number(best['estimate'])} now ({best['grade']})"
    )
    if facts["audited"]:
        from nightlab.report import headline

        print(headline(_told(study)))
    looks = facts["exposure"]
    print(
        f"exposure: {looks['decisions']} decisions on the search's data, the seal opened {looks['seal_opened']} times"
    )
    print(f"spent: {cost['seconds']:.0f} slot seconds, {cost['money']:.2f} USD, {cost['tokens']} tokens")


@app.command()
def report(study: StudyName = "main", as_json: Json = False) -> None:
    """What came of it: the audited gain first, what it cost, what fell away, what transferred."""
    _print_json(_told(study)) if as_json else _report(study)


@app.command()
def log(
    limit: Annotated[int | None, typer.Option(min=1, help="Only the last so many.")] = None,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Every experiment: one line each, or one JSON object each."""
    from nightlab.readings import row

    with closing(_place(study).read()) as ledger:
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
    from nightlab import saying
    from nightlab.readings import row

    with closing(_place(study).read()) as ledger:
        one, runs = ledger.experiment(number), ledger.runs(number)
        tails = [(ledger.find("ran", run["id"]) or {}).get("tail", "") for run in runs]
        notes = saying.notes(ledger, one)
    if as_json:
        more = {"diff": one.diff, "facts": dict(one.facts), "runs": runs, "notes": notes}
        _print_json(row(one) | more | {"tail": tails[-1] if tails else ""})
        return
    from nightlab.dashboard.terminal import decision_line, harmless

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
            f"  run {run['id']}: {run['outcome'] or 'running'} {_number(run['value'])} seed {run['seed']} "
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
    place = _place(study)
    with closing(place.read()) as ledger:
        if number is not None:
            text = ledger.experiment(number).diff
        else:
            best, start = ledger.incumbent(), ledger.first()
            if not (best and start and best.commit and start.commit):
                raise BadTask("nothing has been kept yet")
            text = place.repository.git("diff", start.commit, best.commit).decode(errors="replace")
    _print_json({"diff": text}) if as_json else print(text, end="")


@app.command()
def checkout(
    number: Id,
    into: Annotated[Path | None, typer.Option(help="A new folder; your own checkout is never touched.")] = None,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Lay out an experiment's whole tree, kept or not."""
    from nightlab.study import write_tree

    folder = write_tree(_place(study), number, into or Path(f"nightlab-{number}"))
    _print_json({"folder": str(folder)}) if as_json else print(folder)


@app.command()
def best(study: StudyName = "main", as_json: Json = False) -> None:
    """The incumbent and the kept changes that led to it."""
    from nightlab.dashboard.terminal import decision_line
    from nightlab.readings import row

    with closing(_place(study).read()) as ledger:
        found = ledger.incumbent()
        line = ledger.lineage(found.id) if found else []
    if as_json:
        _print_json({"incumbent": row(line[-1]) if line else None, "lineage": [row(one) for one in line]})
        return
    for one in line:
        print(decision_line(one))
    print(f"branch nightlab/{study}" if line else "nothing has been measured yet")


@app.command()
def plot(
    output: Annotated[Path, typer.Option("-o", "--output", help="SVG or PNG, by its ending.")] = Path("progress.svg"),
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Draw the progress picture."""
    _picture(study, output)
    _print_json({"file": str(output)}) if as_json else print(output)


@app.command()
def export(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="tsv (Karpathy's columns), csv or jsonl.")] = "tsv",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A file; else standard output.")] = None,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Your data, in other tools' formats."""
    from nightlab import exports

    with closing(_place(study).read()) as ledger:
        text = exports.text(ledger, "jsonl" if as_json else form)
    if output is None:
        print(text, end="")
        return
    try:
        exports.write_whole(output, text)
    except OSError as error:
        raise BadTask(f"cannot write {output}: {error.strerror}") from error


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
    place = _place(study)
    with held(place), closing(Ledger(place.ledger)) as ledger:
        count = exports.take_karpathy(ledger, rows, name=file.name)
    _print_json(_status(study)) if as_json else print(f"{count} experiments from {file} are in study {study}")


# ---- asking ----


@app.command()
def stop(
    now: Annotated[bool, typer.Option("--now", help="End what is running too; it is run again later.")] = False,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Stop the study when what runs has ended; nightlab run goes on with it."""
    _ask(study, "stop", "now" if now else "", as_json)
    if now:
        _wait_until_free(study, 10.0)


@app.command()
def pause(study: StudyName = "main", as_json: Json = False) -> None:
    """Start nothing new until resume."""
    _ask(study, "pause", "", as_json)


@app.command()
def resume(study: StudyName = "main", as_json: Json = False) -> None:
    """Go on after pause."""
    _ask(study, "resume", "", as_json)


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
    as_json: Json = False,
) -> None:
    """Make this folder a task: from a template, or from the script that is here."""
    from nightlab import tasks

    if template is not None:
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
        _print_json({"written": written})
        return
    print("wrote " + ", ".join(written) if written else "nothing had to be written")
    print("next: git add -A && git commit -m 'a task for Nightlab', then: nightlab check, nightlab run")


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
        _print_json([asdict(one) for one in findings])
        return
    for one in findings:
        print(
            f"{'ok     ' if one.is_well else 'missing'} {one.name}: {one.seen}"
            + ("" if one.is_well else f"; {one.mend}")
        )


@bench_app.command()
def overhead(
    experiments: Annotated[int, typer.Option(min=10, help="How many.")] = 300,
    jail: Annotated[
        str | None, typer.Option(help="bubblewrap, landlock, landlock-only, process; the best unless said.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The lab's own time per experiment: instant proposer, a script that prints a metric at once, one slot."""
    from nightlab.bench import overhead

    found = overhead(experiments, jail=jail)
    _print_json(found) if as_json else print(
        f"own time per experiment: median {found['own_ms_median']:.1f} ms, 95 % below {found['own_ms_p95']:.1f} ms, "
        f"{found['experiments']} experiments, jail {found['jail']}, peak {found['peak_mb']:.0f} MB; last quarter / "
        f"first {found['growth']:.2f}; here a synchronous commit takes {found['commit_ms']:.2f} ms, a fork "
        f"{found['fork_ms']:.1f}, a spawn {found['spawn_ms']:.1f}"
    )


@bench_app.command()
def scale(
    experiments: Annotated[int, typer.Option(min=1000, help="How many.")] = 10_000,
    as_json: Json = False,
) -> None:
    """Many experiments in one ledger: does the lab stay as fast as it began?"""
    from nightlab.bench import scale

    found = scale(experiments)
    _print_json(found) if as_json else print(
        f"{found['experiments']} experiments: {found['ms_first']:.2f} ms each at the start, {found['ms_last']:.2f} "
        f"at the end (x {found['growth']:.2f}); status {found['status_cpu_s']:.2f} CPU s, "
        f"log --limit 50 {found['log_s']:.2f} s, ledger {found['ledger_mb']:.0f} MB, peak {found['peak_mb']:.0f} MB"
    )


@bench_app.command()
def pipeline(
    experiments: Annotated[int, typer.Option(min=3, help="How many.")] = 50,
    run: Annotated[float, typer.Option(min=0.1, help="Seconds of one run.")] = 2.0,
    as_json: Json = False,
) -> None:
    """How busy slots are while thinking takes 0.8 of a run, and 1.6 of a run with two drafts in flight."""
    from nightlab.bench import pipeline

    found = [pipeline(experiments, run=run, call=call, drafts=drafts) for call, drafts in ((0.8, 1), (1.6, 2))]
    if as_json:
        _print_json(found)
        return
    for one in found:
        print(
            f"{one['experiments']} runs of {one['run_s']:g} s, {one['call_s']:g} s to think, {one['drafts']} at once: "
            f"slots busy {100 * one['busy']:.1f} % (one after the other: {100 * one['one_after_the_other']:.0f} %)"
        )


@bench_app.command("judge")
def judge_(
    stream: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="rich, late, noisy, null, or a file: a results.tsv, a ledger. All unless said."
        ),
    ] = None,
    runs: Annotated[int | None, typer.Option(min=20, help="Runs a night (126 and 700 unless said).")] = None,
    reps: Annotated[int, typer.Option(min=2, help="Nights of each policy.")] = 200,
    seed: Annotated[int, typer.Option(help="Where all chance comes from.")] = 0,
    as_json: Json = False,
) -> None:
    """Policies on simulated nights whose true gains are known, greedy beside them; or an old night's log, judged."""
    from nightlab.judgebench import RUNS, STREAMS, judge, lines

    if stream is not None and stream not in STREAMS:
        _replay(Path(stream), as_json)
        return
    names, lengths = [stream] if stream else list(STREAMS), [runs] if runs else RUNS
    found = []
    for name, length in ((name, length) for name in names for length in lengths):
        found.append(judge(name, length, reps, seed=seed))
        if not as_json:
            print("\n".join(lines(found[-1])))
    if as_json:
        _print_json(found[0] if len(found) == 1 else found)


def _replay(file: Path, as_json: bool) -> None:
    from nightlab.judgebench import STREAMS
    from nightlab.replay import replay

    if not file.is_file():
        raise BadTask(
            f"there is no stream and no file {str(file)!r}; write {', '.join(STREAMS)}, or a results.tsv or ledger"
        )
    found = replay(file)
    if as_json:
        _print_json(found)
        return
    print(
        f"{found['experiments']} experiments, {len(found['keeps'])} kept, {found['doubtful']} of them doubtful; "
        f"one run of {found['metric']} varies by about {found['noise']:.2g}"
    )
    for one in found["keeps"]:
        mark = f"doubtful: {one['why']}" if one["is_doubtful"] else ""
        print(f"{one['commit']:8} {_number(one['value'])} {one['grade']} {one['description']} {mark}".rstrip())


@bench_app.command("cheats")
def cheats_(
    level: Annotated[str | None, typer.Option(help="printed or predictions; both unless said.")] = None,
    only: Annotated[str | None, typer.Option(metavar="NAME", help="Only those whose name holds this.")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/cheats.md.")] = False,
    as_json: Json = False,
) -> None:
    """Play the adversarial suite through the real lab: what became of each cheat, and what stopped it."""
    from nightlab.cheatbench import chosen, line, markdown, play, row, summary

    cheats = chosen(level, only)
    found = []
    for one in play(cheats):
        found.append(one)
        if not (as_json or as_markdown):
            print(line(one))
    if as_json:
        _print_json([row(one) for one in found])
    elif as_markdown:
        print(markdown(found), end="")
    else:
        print(summary(found))
    if any(not one.is_as_told for one in found):
        raise typer.Exit(1)


# ---- saying ----


@app.command()
def steer(
    text: Annotated[str | None, typer.Argument(help="Where to look next; without it: what was said so far.")] = None,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Tell whoever proposes where to look, from the next proposal on; or list what was said."""
    from nightlab import saying

    if text is not None:
        saying.steer(_place(study), text)
        _say_when(study, "steer", as_json)
        return
    said = saying.steered(_place(study))
    if as_json:
        _print_json(said)
        return
    from nightlab.dashboard.terminal import harmless

    print("\n".join(map(harmless, saying.lines(said))) or "nothing was said; say it with: nightlab steer TEXT")


@app.command()
def note(
    number: Id,
    text: Annotated[str, typer.Argument(help="The remark.")],
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Write a remark beside an experiment; show prints it."""
    from nightlab import saying

    saying.note(_place(study), number, text)
    _say_when(study, "note", as_json)


@app.command()
def veto(number: Id, study: StudyName = "main", as_json: Json = False) -> None:
    """End an experiment that runs, or take a kept one out of the branch by a revert commit."""
    from nightlab import saying

    saying.veto(_place(study), number)
    _say_when(study, "veto", as_json)


@app.command()
def retry(number: Id, study: StudyName = "main", as_json: Json = False) -> None:
    """Try an experiment's patch again, on the incumbent of now."""
    from nightlab import saying

    saying.retry(_place(study), number)
    _say_when(study, "retry", as_json)


def _say_when(study: str, verb: str, as_json: bool) -> None:
    """A wish needs a lab: say whether one is there, and else how to start it."""
    is_running = _place(study).holder() is not None
    if as_json:
        _print_json({"asked": verb, "running": is_running})
        return
    when = "the lab that runs takes it up now" if is_running else "the next takes it up: nightlab run"
    print(f"asked study {study} to {verb}; {when}")


# ---- from inside an agent ----


@app.command()
def context(
    files: Annotated[bool, typer.Option("--files", help="With the files, as the built-in agent is told.")] = False,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """What an agent would be told if it were asked for an idea now."""
    from nightlab.agents.briefing import briefing, with_files
    from nightlab.study import context_of

    told, task = context_of(_place(study))
    text = briefing(told, task=task)
    text = with_files(text, told) if files else text
    _print_json({"incumbent": told.incumbent, "text": text}) if as_json else print(text)


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
        folder = trial.begin(_place(study), begin)
        facts = {"folder": str(folder.path), "experiment": folder.number}
        _print_json(facts) if as_json else print(
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
        _print_json(found)
        return
    from nightlab.dashboard.terminal import harmless

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
        _print_json(settings(_place(study), in_))
    else:
        serve(_place(study), in_, name=checked_name(name))


def _visited(asked: Asked, name: str, *, workers: int, unsafe: bool, is_quiet: bool) -> dict[str, Any]:
    """Check what is asked, then let the lab run and judge it."""
    from nightlab import trial
    from nightlab.loop import Stop

    place = _place(name)
    change = trial.read(place, asked)
    if (holder := place.holder()) is not None:
        if not is_quiet:
            print(f"handed to the lab that runs ({holder}); waiting for its decision")
        return trial.hand_in(place, asked, change)
    with _opened(name, workers=workers, unsafe=unsafe) as study:
        return trial.visit(study, asked, change, _watch(study, Stop(), is_quiet=is_quiet))


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


# ---- between the commands ----


def seconds(text: str) -> float:
    """A time as people write it: 8h, 90m, 30s, 1h30m, or plain seconds."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text)
    if not text or parts is None:
        raise BadTask(f"{text!r} is not a time; write for example 8h, 90m, 1h30m or 45s")
    return sum(float(part or 0) * unit for part, unit in zip(parts.groups(), (3600, 60, 1), strict=True))


def _place(name: str) -> Place:
    from nightlab.place import find

    return find(Path.cwd(), name)


@contextmanager
def _opened(
    name: str,
    *,
    seed: int | None = None,
    policy: str | None = None,
    workers: int = 1,
    must_exist: bool = False,
    unsafe: bool = False,
) -> Iterator[Study]:
    from nightlab.place import held
    from nightlab.study import Study

    place = _place(name)
    if must_exist:
        place.read().close()
    with held(place):
        study = Study(place, seed=seed, policy=policy, slots=workers, unsafe=unsafe)
        try:
            yield study
        finally:
            study.close()


@contextmanager
def _crew(names: list[str], **settings: Any) -> Iterator[Crew]:
    from nightlab.crew import Crew

    with closing(Crew(names, **settings)) as crew:
        yield crew


def _search(study: Study, crew: Crew, stop: Stop, *, is_quiet: bool = False, looks_back: bool = True) -> str:
    """Run the night with the view beside it and Ctrl-C in hand; returns why it stopped."""
    say = _speaker(is_quiet)
    say(f"study {study.place.name}: branch {study.place.branch}, jail: {_jail_words(study)}")

    watch = _watch(study, stop, is_quiet=is_quiet)
    if looks_back:
        return study.night(lambda: crew.gather(study), stop, watch, say)
    loop = study.loop(crew.gather(study))
    with watch(loop):
        reason = loop.run(stop)
    say(f"stopped: {reason}")
    return reason


def _watch(study: Study, stop: Stop, *, is_quiet: bool) -> Watch:
    @contextmanager
    def watch(loop: Loop) -> Iterator[None]:
        with _interruptible(loop), nullcontext() if is_quiet else _shown(study, stop):
            yield

    return watch


@contextmanager
def _shown(study: Study, stop: Stop) -> Iterator[None]:
    from rich.console import Console

    from nightlab.dashboard.terminal import View

    ends: dict[str, Any] = {"experiments": stop.experiments, "seconds": stop.seconds}
    view = View(study.place.ledger, name=study.place.name, console=Console(), slots=study.executor.slots, **ends)
    with view, _mirrored(study):
        yield


def _speaker(is_quiet: bool) -> Callable[[str], None]:
    return (lambda _: None) if is_quiet else print


def _jail_words(study: Study) -> str:
    from nightlab.doctor import jail_in_words

    return jail_in_words(study.executor.level)


@contextmanager
def _mirrored(study: Study) -> Iterator[None]:
    """Keep results.tsv beside the ledger, rewritten whole every ten seconds and at the end."""
    import threading

    from nightlab import exports
    from nightlab.ledger import Ledger

    over = threading.Event()

    def write() -> None:
        # It is a copy: where it cannot be written, the ledger's own words about the disk are the ones to hear.
        with suppress(OSError, NightlabError), closing(Ledger(study.place.ledger)) as ledger:
            exports.write_whole(study.place.home / "results.tsv", exports.text(ledger, "tsv"))

    def keep_writing() -> None:
        while not over.wait(10.0):
            write()

    thread = threading.Thread(target=keep_writing, name="mirror", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        write()


@contextmanager
def _interruptible(loop: Loop) -> Iterator[None]:
    """Ctrl-C once lets the running experiment finish, twice ends it; a terminate or hang-up ends it at once."""

    def interrupt(signum: int, _: object) -> None:
        if signum != signal.SIGINT or loop.is_asked_to_stop:
            loop.kill("interrupted")
        else:
            print("\nstopping when what runs has ended; Ctrl-C again ends it now", file=sys.stderr)
            loop.stop("interrupted")

    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # what nohup ignores stays ignored
        signals.append(signal.SIGHUP)
    before = {one: signal.signal(one, interrupt) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    if loop.is_killed:
        raise typer.Exit(130)


def _status(name: str) -> dict[str, Any]:
    from nightlab.readings import status

    place = _place(name)
    with closing(place.read()) as ledger:
        return status(ledger, name=name, is_running=place.holder() is not None)


def _told(name: str) -> dict[str, Any]:
    from nightlab.report import report

    place = _place(name)
    with closing(place.read()) as ledger:
        return report(ledger, name=name, is_running=place.holder() is not None)


def _report(name: str) -> None:
    from nightlab.dashboard.terminal import harmless
    from nightlab.report import lines

    facts = _status(name)
    print(
        f"\n{facts['experiments']} experiments, {facts['kept']} kept, {facts['discarded']} discarded, "
        f"{facts['crashed']} failed."
    )
    _say_if_unjailed(facts)
    print("\n".join(map(harmless, lines(_told(name)))))


def _picture(name: str, path: Path) -> None:
    from nightlab.dashboard.plot import plot
    from nightlab.stats import spread

    with closing(_place(name).read()) as ledger:
        study = ledger.study() or {}
        sigma = spread([value for *_, value in ledger.pool(0)]) if ledger.first() else None
        plot(
            ledger.decided_experiments(),
            path,
            metric=str(study.get("metric")),
            direction=str(study.get("direction")),
            sigma=sigma,
        )


def _ask(name: str, verb: str, argument: str, as_json: bool) -> None:
    place = _place(name)
    with closing(place.read()) as ledger:
        if place.holder() is None:
            raise StudyStuck(
                f"study {name} is not running, so there is nothing to {verb}; go on with it by: nightlab run"
            )
        ledger.ask(verb, argument)
    _print_json({"asked": verb}) if as_json else print(f"asked study {name} to {verb}")


def _wait_until_free(name: str, patience: float) -> None:
    deadline = time.monotonic() + patience
    while (holder := _place(name).holder()) is not None:
        if time.monotonic() > deadline:
            raise StudyStuck(f"study {name} is still held by {holder} after {patience:g} s")
        time.sleep(0.05)


def _say_what_is_left_out(study: Study) -> None:
    if study.is_new and (left := study.place.repository.left_out()):
        shown = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        print(f"the study starts from HEAD and leaves out what is not committed: {shown}")


def _say_if_unjailed(facts: dict[str, Any]) -> None:
    if facts["jail"] == "process":
        from nightlab.doctor import jail_in_words

        print(f"not jailed, by --unsafe: {jail_in_words('process')}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _print_json(value: object) -> None:
    print(json.dumps(value, default=str))
