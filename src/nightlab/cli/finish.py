"""Finishing: what was kept, as branches or patches to review."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightlab.cli.base import Json, StudyName, app, place_of, print_json
from nightlab.words import harmless

if TYPE_CHECKING:
    from nightlab.finish import Change, Plan


@app.command()
def finish(
    onto: Annotated[str, typer.Option(metavar="REF", help="What the changes are to stand on.")] = "HEAD",
    patches: Annotated[Path | None, typer.Option(metavar="DIR", help="Write numbered patches for git am.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be made.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what an earlier finish made.")] = False,
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """Turn what was kept into branches to review, one for each logical change, the evidence in the message."""
    from nightlab import finish as finishing

    place = place_of(study)
    with closing(place.read()) as ledger:
        planned = finishing.plan(place, ledger, onto=onto)
        audited = ledger.last("audited")
    told = _told(planned) | {"audited": dict(audited.body) if audited else None, "written": None}
    if patches is not None and not dry_run:
        paths = finishing.patches(place, planned, patches, force=force)
        told["written"] = {"patches": [str(path) for path in paths]}
    elif not dry_run:
        commits = finishing.written(place, planned.branches(), planned, force=force)
        told["written"] = {"branches": {name: ids[-1] for name, ids in commits.items()}}
    if as_json:
        print_json(told)
        return
    print("\n".join(_lines(planned, is_patches=patches is not None)))
    print(_last_line(planned, patches, is_dry=dry_run))


def _told(planned: Plan) -> dict[str, Any]:
    return {
        "study": planned.name,
        "onto": {"ref": planned.onto, "commit": planned.commit},
        "changes": [_change(planned, one) for one in planned.changes],
        "all": {"changes": [one.number for one in planned.series], "is_exact": planned.is_exact},
    }


def _change(planned: Plan, one: Change) -> dict[str, Any]:
    chain = planned.chains.get(one.number)
    return {
        "number": one.number,
        "subject": one.subject,
        **planned.facts[one.number],
        "files": sorted(one.files),
        "needs": None if chain is None else [other.number for other in chain[:-1]],
        "branch": None if chain is None else planned.branch(one),
        "left_out": planned.left_out.get(one.number),
        "message": planned.messages[one.number],
    }


def _lines(planned: Plan, *, is_patches: bool) -> list[str]:
    keeps, several = sum(len(one.experiments) for one in planned.changes), len(planned.changes) > 1
    lines = [
        f"study {planned.name}: {len(planned.changes)} logical change{'s' if several else ''} from {keeps} kept "
        f"experiment{'' if keeps == 1 else 's'}, onto {planned.onto} ({planned.commit[:7]})"
    ]
    for one in planned.changes:
        facts, chain = planned.facts[one.number], planned.chains.get(one.number)
        gain = "gain not measured by itself" if facts["gain"] is None else f"gain {facts['gain']:.4g}"
        gain += f" +- {facts['stderr']:.2g}" if facts["stderr"] else ""
        lines.append(harmless(f"{one.number:>3}  {one.subject}"))
        lines.append(f"     {gain} ({facts['grade'] or 'no grade'}), from {_numbers(facts['experiments'])}")
        if one.number in planned.left_out:
            lines.append(f"     left out: {planned.left_out[one.number]}")
        if chain is not None and not is_patches:
            needs = ", ".join(str(other.number) for other in chain[:-1])
            lines.append(f"     {planned.branch(one)}, {f'on top of {needs}' if needs else 'alone on the base'}")
    return lines


def _numbers(experiments: list[int]) -> str:
    if not experiments:
        return "no one experiment"
    return f"experiment{'s' if len(experiments) > 1 else ''} {', '.join(map(str, experiments))}"


def _last_line(planned: Plan, patches: Path | None, *, is_dry: bool) -> str:
    if not planned.series:
        return "nothing is left to hand over"
    exact = "; together they are the incumbent's very tree" if planned.is_exact else ""
    if patches is not None:
        made = f"{len(planned.series)} patches {'would be' if is_dry else 'are'} in {patches}{exact}"
        return made if is_dry else f"{made}; apply them with: git am --keep-cr {patches}/*.patch"
    made = f"{len(planned.branches())} branches {'would be made' if is_dry else 'were made'}{exact}"
    return made if is_dry else f"{made}; look at them with: git log -p HEAD..{planned.folder}all"
