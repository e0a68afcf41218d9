"""The editable files as the incumbent has them, and with them what agents are told of a study."""

from __future__ import annotations

from nightlab import task
from nightlab.errors import NightlabError
from nightlab.insights.reading import insights, lines
from nightlab.ledger import Ledger
from nightlab.lineage import Lineage
from nightlab.place import Place


def texts_of(place: Place, ledger: Ledger) -> dict[str, str]:
    """Path -> text; nothing where there is no incumbent, no task or no repository: an imported or a foreign night."""
    best = ledger.incumbent()
    if best is None or best.commit is None or not (ledger.study() or {}).get("base"):
        return {}
    try:
        found = task.load(place.root)
        lineage = Lineage(task=found, ledger=ledger, repository=place.repository, branch=place.branch)
        return lineage.standing(best.id).texts
    except NightlabError:
        return {}


def for_agents(place: Place, ledger: Ledger) -> list[str]:
    """What the experiments say together, for whoever proposes; what agents are told elsewhere is left out."""
    told = insights(ledger, texts=texts_of(place, ledger))
    elsewhere = ("untried", "note", "proposer")
    return lines({**told, "findings": [one for one in told["findings"] if one["kind"] not in elsewhere]})
