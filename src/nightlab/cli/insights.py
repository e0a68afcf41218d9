"""The insights: nightlab insights."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Any

import typer

from nightlab.cli.base import Json, StudyName, app, place_of, print_json
from nightlab.words import harmless


@app.command()
def insights(
    query: Annotated[str, typer.Argument(help="Only what holds these words: a change, a file, a note.")] = "",
    study: StudyName = "main",
    as_json: Json = False,
) -> None:
    """What works here: effects by kind of change and part of the code, dead ends, what was never tried."""
    from nightlab import insights

    place = place_of(study)
    with closing(place.read()) as ledger:
        told = insights.insights(ledger, query, texts=insights.texts_of(place, ledger))
    if as_json:
        print_json(told)
        return
    print("\n".join(map(harmless, _lines(told))))


def _lines(told: dict[str, Any]) -> list[str]:
    from nightlab.insights import lines

    found = lines(told, most=60) + [
        f"experiment {one['id']} {one['status']}: {one['hypothesis']}" for one in told["matches"]
    ]
    nothing = "nothing holds these words" if told["query"] else "nothing to say yet: it takes a few experiments"
    return found or [nothing]
