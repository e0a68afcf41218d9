"""A night: what runs the lab, and Ctrl-C in hand."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightlab.cli.base import (
    Json,
    StudyName,
    Unsafe,
    Workers,
    app,
    leave_report,
    open_study,
    place_of,
    print_json,
    print_report,
    report_of,
    say_if_unjailed,
    seconds,
    speaker,
    status_of,
)
from nightlab.cli.telling import Mirror, Notify, NotifyWhen, Swarm, told
from nightlab.errors import BadTask, NightlabError, StudyStuck

if TYPE_CHECKING:
    from nightlab.crew import Crew
    from nightlab.loop import Loop, Stop
    from nightlab.study import Study, Watch

AGENT_HELP = (
    "Who proposes; may be given again. tuner (no model); claude, codex, opencode, pi, gemini, qwen, aider, acp, each "
    "with [:MODEL]; openai:MODEL, anthropic:MODEL; a template file; unchanged (A/A); module:attribute. Default: tuner."
)


Replay = Annotated[
    str | None, typer.Option(metavar="STUDY", help="Let agents be answered from this study's record; no model.")
]
LooksBack = Annotated[
    bool, typer.Option("--audit/--no-audit", help="Prune, audit and try larger rungs at checkpoints and the end.")
]
Executor = Annotated[
    str, typer.Option(help="Where runs happen: local, ray, slurm, module:attribute. See docs/cluster.md.")
]
Address = Annotated[str | None, typer.Option(help="The Ray cluster to use; one on this machine unless said.")]
Partition = Annotated[str | None, typer.Option(help="The Slurm partition to use.")]
Cores = Annotated[int | None, typer.Option(min=1, help="Cores of each run, on a cluster (1).")]
Gpus = Annotated[int | None, typer.Option(min=0, help="Whole GPUs of each run, on a cluster.")]


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
    with open_study("main", seed=seed, workers=workers, unsafe=unsafe) as study, _crew(["tuner"]) as crew:
        _search(study, crew, stop, is_quiet=as_json)
    left = leave_report("main")
    if as_json:
        print_json(status_of("main"))
        return
    print(f"Look around: cd {folder}; nightlab log; nightlab best; nightlab diff; git log nightlab/main")
    print_report("main")
    print(left)
    found = report_of("main")["audited"]
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
    replay: Replay = None,
    agent_time: Annotated[str, typer.Option(help="How long an agent may take for one idea.")] = "15m",
    seed: Annotated[int | None, typer.Option(help="Where all chance comes from (0 unless said at the start).")] = None,
    policy: Annotated[str | None, typer.Option(help="How to decide: race, lean, greedy; serve at level live.")] = None,
    approve: Annotated[bool, typer.Option("--approve", help="Live: show nothing before a human approved it.")] = False,
    explore: Annotated[bool, typer.Option("--explore", help="Live: begin although the traffic is too small.")] = False,
    audit: LooksBack = True,
    executor: Executor = "local",
    address: Address = None,
    partition: Partition = None,
    cores: Cores = None,
    gpus: Gpus = None,
    unsafe: Unsafe = False,
    notify: Notify = None,
    notify_when: NotifyWhen = "end",
    mirror: Mirror = None,
    swarm: Swarm = None,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Start a study, or go on with it."""
    from nightlab.loop import Stop

    beside = told(notify, notify_when, mirror)
    _check_numbers(max_cost, target, agent_time)
    stop = Stop(experiments, None if for_ is None else seconds(for_), target, None, max_cost, max_tokens, plateau)
    limits = {"money": max_cost, "tokens": max_tokens, "drafts": drafts, "seconds": seconds(agent_time)}
    where = _where(executor, address=address, partition=partition, cores=cores, gpus=gpus)
    with (
        _crew(agent or ["tuner"], say=speaker(as_json), replay=replay, **limits) as crew,
        open_study(study, seed, policy, workers, unsafe=unsafe, approve=approve, explore=explore, **where) as opened,
        beside(opened.place, speaker(as_json)),
        _taking_part(opened, swarm, speaker(as_json)),
    ):
        _say_what_is_left_out(opened, speaker(as_json))
        _write_caps(opened, money=max_cost, tokens=max_tokens, experiments=experiments, seconds=stop.seconds)
        reason = _search(opened, crew, stop, is_quiet=as_json, looks_back=audit)
    _take_leave(study, reason, as_json)


def _take_leave(study: str, reason: str, as_json: bool) -> None:
    """The report, left beside the ledger and printed."""
    left = leave_report(study)
    if as_json:
        print_json(status_of(study) | {"stopped": reason})
        return
    print_report(study)
    print(left)


def _where(executor: str, **options: str | int | None) -> dict[str, Any]:
    """Where runs happen, with the options that were given."""
    return {"executor": executor, "options": {name: value for name, value in options.items() if value is not None}}


@contextmanager
def _taking_part(study: Study, swarm: str | None, say: Callable[[str], None]) -> Iterator[None]:
    """A study in a swarm, where one is named: it claims, tells, and races what others won."""
    if swarm is None:
        yield
        return
    from nightlab.cli.swarm import seat
    from nightlab.swarm.node import Node

    with Node(study.place, study.task, study.facts["base"], seat(swarm), say=say) as node:
        study.peers = node
        yield


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

    found = check(place_of("main"), runs=runs, slots=workers, unsafe=unsafe)
    if as_json:
        print_json(found)
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
    say_if_unjailed(found)
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
    with open_study(study, workers=workers, must_exist=True, unsafe=unsafe) as opened:
        found = opened.auditor(speaker(as_json)).audit(repeats)
    _tell(study, "audit", found, as_json)


@app.command()
def prune(workers: Workers = 1, unsafe: Unsafe = False, study: StudyName = "main", as_json: Json = False) -> None:
    """Which keeps still pay? The others leave the branch by a revert commit, if the whole does not suffer."""
    with open_study(study, workers=workers, must_exist=True, unsafe=unsafe) as opened:
        found = opened.pruner(speaker(as_json)).prune()
    _tell(study, "prune", found, as_json)


@app.command()
def transfer(
    rung: Annotated[str | None, typer.Argument(help="A [scale.NAME] of the task; all of them unless said.")] = None,
    workers: Workers = 1,
    unsafe: Unsafe = False,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Does it hold at a larger scale? Incumbent against start at a larger rung of the task."""
    with open_study(study, workers=workers, must_exist=True, unsafe=unsafe) as opened:
        rungs = [rung] if rung else list(opened.task.scale)
        if not rungs:
            raise BadTask("the task has no larger rung; write [scale.NAME] with an amount into nightlab.toml")
        found = [opened.auditor(speaker(as_json)).transfer(one) for one in rungs]
    _tell(study, "transfer", None if found[0] is None else found, as_json)


def _tell(study: str, verb: str, found: object, as_json: bool) -> None:
    """What a look back has found, and the report anew. Raises StudyStuck where there was nothing to look at."""
    if found is None:
        raise StudyStuck(f"there is nothing to {verb}: nothing that was kept stands")
    left = leave_report(study)
    if as_json:
        print_json(found)
        return
    print_report(study)
    print(left)


def _check_numbers(max_cost: float | None, target: float | None, agent_time: str) -> None:
    for name, number in (("--max-cost", max_cost), ("--target", target)):
        if number is not None and not isfinite(number):
            raise BadTask(f"{name} {number} is no number to compare with; write one like 2.5, or leave it out")
    if not seconds(agent_time):
        raise BadTask("--agent-time 0 leaves no time for an idea; write for example 15m")


def _say_what_is_left_out(study: Study, say: Callable[[str], None]) -> None:
    if study.is_new and (left := study.place.repository.left_out()):
        shown = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        say(f"the study starts from HEAD and leaves out what is not committed: {shown}")


def _write_caps(study: Study, **caps: float | None) -> None:
    """Record what agents may spend, so that whoever looks sees how near the cap is; nothing where nothing is new."""
    from nightlab.ledger import Event

    before = study.ledger.last("capped")
    if any(caps.values()) if before is None else dict(before.body) != caps:
        study.ledger.append(Event("capped", str(study.ledger.count("capped")), caps))


def _search(study: Study, crew: Crew, stop: Stop, *, is_quiet: bool = False, looks_back: bool = True) -> str:
    """Run the night with the view beside it and Ctrl-C in hand; returns why it stopped."""
    say = speaker(is_quiet)
    say(f"study {study.place.name}: branch {study.place.branch}, jail: {_jail_words(study)}")

    watch = watched(study, stop, is_quiet=is_quiet)
    if looks_back:
        return study.night(lambda: crew.gather(study), stop, watch, say)
    loop = study.loop(crew.gather(study))
    with watch(loop):
        reason = loop.run(stop)
    say(f"stopped: {reason}")
    return reason


@contextmanager
def _crew(names: list[str], **settings: Any) -> Iterator[Crew]:
    from nightlab.crew import Crew

    with closing(Crew(names, **settings)) as crew:
        yield crew


def watched(study: Study, stop: Stop, *, is_quiet: bool) -> Watch:
    """What stands beside a loop while it runs: the view, unless quiet, and Ctrl-C."""

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


def _jail_words(study: Study) -> str:
    from nightlab.doctor import jail_in_words

    return jail_in_words(study.executor.level)
