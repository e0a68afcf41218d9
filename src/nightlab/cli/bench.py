"""The benchmarks: measure the lab itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nightlab.cli.base import Json, bench_app, print_json, shown
from nightlab.errors import BadTask


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
    print_json(found) if as_json else print(
        f"own time per experiment: median {found['own_ms_median']:.1f} ms, 95 % below {found['own_ms_p95']:.1f} ms, "
        f"{found['experiments']} experiments, jail {found['jail']}, peak {found['peak_mb']:.0f} MB; last quarter / "
        f"first {found['growth']:.2f}; here a synchronous commit takes {found['commit_ms']:.2f} ms, a fork "
        f"{found['fork_ms']:.1f}, a spawn {found['spawn_ms']:.1f}"
    )


@bench_app.command()
def scale(
    experiments: Annotated[int, typer.Option(min=1000, help="How many.")] = 10_000,
    slots: Annotated[int, typer.Option(min=1, help="In how many slots at a time.")] = 1,
    as_json: Json = False,
) -> None:
    """Many experiments in one ledger: does the lab stay as fast as it began?"""
    from nightlab.bench import scale

    found = scale(experiments, slots=slots)
    print_json(found) if as_json else print(
        f"{found['experiments']} experiments in {slots} slots: {found['cpu_ms']:.2f} CPU ms each, "
        f"{found['ms_first']:.2f} ms at the start, {found['ms_last']:.2f} "
        f"at the end (x {found['growth']:.2f}); status {found['status_cpu_s']:.2f} CPU s, "
        f"log --limit 50 {found['log_s']:.2f} s, ledger {found['ledger_mb']:.0f} MB, peak {found['peak_mb']:.0f} MB"
    )


@bench_app.command()
def slots(
    experiments: Annotated[int, typer.Option(min=4, help="How many, of each kind and on each side.")] = 20,
    run: Annotated[float, typer.Option(min=0.1, help="Seconds of one run.")] = 1.0,
    slots: Annotated[int, typer.Option(min=2, help="How many slots against one.")] = 2,
    executor: Annotated[
        str | None, typer.Option(help="Instead: what this executor adds to a run over the local one.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Its Ray cluster.")] = None,
    as_json: Json = False,
) -> None:
    """Real slots against one, on runs that sleep and runs that compute; or what another executor costs."""
    from nightlab import slotsbench

    if executor is not None:
        costs = slotsbench.executor(executor, experiments, options={"address": address} if address else {})
        print_json(costs) if as_json else print(
            f"{executor}: {costs['ms']:.1f} ms an instant run, {costs['local_ms']:.1f} here; {costs['added_ms']:.1f} "
            f"added (median of {costs['runs']}, in turns, jail {costs['jail']}); a worker's death is seen in "
            f"{costs['noticed_s']:.2f} s, {costs['noticed_s_most']:.2f} at most"
        )
        return
    found = slotsbench.slots(experiments, seconds=run, slots=slots)
    print_json(found) if as_json else print(
        f"{slots} slots do {found['sleeping']:.2f} times one slot's experiments where runs sleep {run:g} s "
        f"({found['sleeping_per_hour']:.0f} an hour; the bare script {found['sleeping_bare']:.2f} times), "
        f"{found['busy']:.2f} times where they compute ({found['busy_per_hour']:.0f} an hour; the bare script "
        f"{found['busy_bare']:.2f} times)"
    )


@bench_app.command()
def pipeline(
    experiments: Annotated[int, typer.Option(min=3, help="How many.")] = 50,
    run: Annotated[float, typer.Option(min=0.1, help="Seconds of one run.")] = 2.0,
    slots: Annotated[
        int, typer.Option(min=1, help="More than one: so many that sleep, an idea takes half a run, eight at a time.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """How busy slots are while thinking takes 0.8 of a run, and 1.6 of a run with two drafts in flight."""
    from nightlab.bench import many, pipeline

    if slots > 1:
        told = many(experiments, slots=slots, run=run, call=0.5, drafts=8)
        print_json(told) if as_json else print(
            f"{slots} slots, runs of {run:g} s, {told['call_s']:g} s to think, 8 at once: slots busy "
            f"{100 * told['busy']:.1f} %; {told['runs']} runs for {experiments} experiments, {told['not_needed']} of "
            "them begun ahead and not needed"
        )
        return
    found = [pipeline(experiments, run=run, call=call, drafts=drafts) for call, drafts in ((0.8, 1), (1.6, 2))]
    if as_json:
        print_json(found)
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
        print_json(found[0] if len(found) == 1 else found)


def _replay(file: Path, as_json: bool) -> None:
    from nightlab.judgebench import STREAMS
    from nightlab.replay import replay

    if not file.is_file():
        raise BadTask(
            f"there is no stream and no file {str(file)!r}; write {', '.join(STREAMS)}, or a results.tsv or ledger"
        )
    found = replay(file)
    if as_json:
        print_json(found)
        return
    print(
        f"{found['experiments']} experiments, {len(found['keeps'])} kept, {found['doubtful']} of them doubtful; "
        f"one run of {found['metric']} varies by about {found['noise']:.2g}"
    )
    for one in found["keeps"]:
        mark = f"doubtful: {one['why']}" if one["is_doubtful"] else ""
        print(f"{one['commit']:8} {shown(one['value'])} {one['grade']} {one['description']} {mark}".rstrip())


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
        print_json([row(one) for one in found])
    elif as_markdown:
        print(markdown(found), end="")
    else:
        print(summary(found))
    if any(not one.is_as_told for one in found):
        raise typer.Exit(1)


@bench_app.command("swarm")
def swarm_(
    nodes: Annotated[int, typer.Option(min=10, help="Labs in the largest network.")] = 1000,
    seed: Annotated[int, typer.Option(help="Where all chance comes from.")] = 0,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the time to 99 % against the labs.")] = None,
    real: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Hold a real swarm of so many processes instead: minutes.")
    ] = None,
    template: Annotated[str, typer.Option(help="What the real swarm works on: compress, tinylm.")] = "compress",
    liars: Annotated[int, typer.Option(min=0, help="How many of the real labs lie.")] = 0,
    trouble: Annotated[bool, typer.Option(help="Kill a third of the real labs, and cut the network for 25 s.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/swarm.md.")] = False,
    as_json: Json = False,
) -> None:
    """The swarm's own records, gossip and board over a simulated network: loss, a partition, floods, liars."""
    if real is not None:
        from nightlab.swarmnight import lines, measured

        told = measured(real, template=template, liars=liars, has_trouble=trouble)
        print_json(told) if as_json else print("\n".join(lines(told)))
        return
    from rich.console import Console
    from rich.table import Table

    from nightlab.swarmbench import bench, limit, markdown, notes, value
    from nightlab.swarmbench import plot as draw

    with Console(stderr=True).status("a simulated network") as status:
        found = bench(nodes, seed=seed, say=status.update)
    if plot is not None:
        draw(found, plot)
    if as_json:
        print_json(found)
    elif as_markdown:
        print(markdown(found))
    else:
        table = Table("", "measure", "bar", "measured")
        for one in found["bars"]:
            table.add_row("holds" if one["holds"] else "FAILS", one["what"], limit(one), value(one))
        Console().print(table)
        print("\n".join(notes(found)))
    if not all(one["holds"] for one in found["bars"]):
        raise typer.Exit(1)


@bench_app.command("page")
def page_(
    experiments: Annotated[int, typer.Option(min=100, help="How many in the night that is shown.")] = 10_000,
    pages: Annotated[int, typer.Option(min=1, help="How many open pages watch a study.")] = 20,
    as_json: Json = False,
) -> None:
    """The page of a long night: time, bytes, memory, delay; and what open pages cost the study they watch."""
    from nightlab.pagebench import lines, page

    found = page(experiments, pages=pages)
    print_json(found) if as_json else print("\n".join(lines(found)))


@bench_app.command("peers")
def peers_(
    cache: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Where each system gets an environment of its own, and results are kept."),
    ] = Path(".peers"),
    part: Annotated[
        list[str] | None,
        typer.Option(help="grid, alone, constants, bank, faults; may be given again; all unless said."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="SYSTEM", help="nightlab, openevolve, shinka, gepa; all unless said.")
    ] = None,
    experiments: Annotated[int, typer.Option(min=5, help="How many each system makes in grid and alone.")] = 60,
    seeds: Annotated[int, typer.Option(min=1, help="Searches of each method for constants.")] = 8,
    banks: Annotated[int, typer.Option(min=1, help="Banks of edits that are replayed.")] = 3,
    write: Annotated[Path | None, typer.Option(metavar="FILE", help="Put the tables into this page.")] = None,
    as_json: Json = False,
) -> None:
    """The same work to OpenEvolve, ShinkaEvolve, GEPA and Optuna, each installed by pip (1 GB): about two hours."""
    from nightlab.peersbench import page
    from nightlab.peersbench.play import PARTS, found, play
    from nightlab.peersbench.work import SYSTEMS

    for wanted, known in ((part, PARTS), (only, SYSTEMS)):
        if wrong := [one for one in wanted or () if one not in known]:
            raise BadTask(f"there is no {wrong[0]!r}; write {', '.join(known)}")
    say = (lambda _: None) if as_json else print
    results = play(
        cache.resolve(),
        parts=part or PARTS,
        only=only or SYSTEMS,
        experiments=experiments,
        seeds=seeds,
        banks=banks,
        say=say,
    )
    text = page.markdown(results, found(cache))
    if write is not None:
        page.put(write, text)
    print_json(results) if as_json else print(text)


@bench_app.command("live")
def live_(
    reps: Annotated[int, typer.Option(min=20, help="Simulated experiments of each kind.")] = 4000,
    seed: Annotated[int, typer.Option(help="Where all chance comes from.")] = 0,
    only: Annotated[str | None, typer.Option(help="statistics or service; both unless said.")] = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of docs/live-statistics.md.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Live's statistics on simulated visitors of known truth, beside what is commonly done; its service under load."""
    from rich.console import Console
    from rich.table import Table

    from nightlab import livebench, liveload
    from nightlab.livebench import shown

    if only not in (None, "statistics", "service"):
        raise BadTask(f"there is no part {only!r} of bench live; statistics or service")
    with Console(stderr=True).status("simulated visitors") as status:
        found = [] if only == "service" else list(livebench.rows(reps, seed=seed, say=status.update))
        found += [] if only == "statistics" else list(liveload.rows(reps, say=status.update))
    if as_json:
        print_json([row.told for row in found])
    elif as_markdown:
        print("| measure | bar | measured | beside it |\n|---|---|---|---|")
        for row in found:
            _, value, bar = shown(row)
            print(f"| {row.what} | {bar} | {value} | {row.note} |")
    else:
        table = Table("", "measure", "measured", "bar", "beside it")
        for row in found:
            holds, value, bar = shown(row)
            table.add_row(holds, row.what, value, bar, row.note)
        Console().print(table)
    if any(row.holds is False for row in found):
        raise typer.Exit(1)
