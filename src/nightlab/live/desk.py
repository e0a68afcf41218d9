"""The desk: what the live executor asks of its study, from the ledger and the repository, in threads of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from nightlab.ledger import Ledger
from nightlab.lineage import BASELINE
from nightlab.live.executor import Wanted
from nightlab.live.rendering import Copy, copy_of
from nightlab.place import Place
from nightlab.task import Task
from nightlab.values import Status
from nightlab.workspace import Repository


@dataclass(frozen=True, slots=True)
class LedgerDesk:
    """Opens the ledger anew for each question: its connections belong to one thread each."""

    place: Place
    task: Task

    def wanted(self, run: str) -> Wanted:
        """A candidate is compared with its parent; what was kept is seen by itself."""
        number = int(run.partition("-")[0])
        with self._ledger() as ledger:
            one = ledger.experiment(number)
        is_alone = number == BASELINE or one.status is Status.KEPT
        return Wanted(number, None if is_alone else one.parent)

    def champion(self) -> int | None:
        """The incumbent of the ledger."""
        with self._ledger() as ledger:
            best = ledger.incumbent()
        return best.id if best else None

    def copy(self, number: int) -> Copy:
        """The copy of a kept experiment, from its commit."""
        with self._ledger() as ledger:
            commit = str(ledger.experiment(number).commit)
        with closing(Repository(self.place.root)) as repository:
            tree = repository.tree(commit)
            paths = [path for path in tree.entries if path.endswith(".toml") and self.task.is_editable(path)]
            return {
                slot: text
                for path in sorted(paths)
                for slot, text in copy_of(repository.text(tree, path) or "").items()
            }

    def approvals(self) -> list[tuple[int, bool]]:
        """The wishes `approve` and `refuse` that nobody has taken up yet."""
        with self._ledger() as ledger:
            said = ledger.wishes("approve", "refuse") if self._has_wishes(ledger) else []
        return [(int(json.loads(argument)), verb == "approve") for verb, argument in said]

    @staticmethod
    def _has_wishes(ledger: Ledger) -> bool:
        """Reading is cheap, and taking wishes writes."""
        return bool(ledger.unheard("approve") or ledger.unheard("refuse"))

    @contextmanager
    def _ledger(self) -> Iterator[Ledger]:
        with closing(Ledger(self.place.ledger)) as ledger:
            yield ledger
