"""The terminal view: slots, running best, last decisions and their reasons, cost, ETA; plain lines elsewhere.

It reads the ledger from a thread of its own, like any other reader; the loop knows nothing of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nightlab.ledger import Event, Ledger
from nightlab.readings import seconds_per_experiment, status
from nightlab.values import Experiment, Status
from nightlab.words import harmless

_MARKS = {Status.KEPT: "+", Status.DISCARDED: "-", Status.SHELVED: "~", Status.REJECTED: "="}
_STYLES = {Status.KEPT: "bold blue", Status.SHELVED: "yellow"}


def number(value: float | None, digits: int = 5) -> str:
    """A number for people; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}g}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min, 7 h 20 min."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def decision_line(one: Experiment) -> str:
    """One experiment in one line: what, how much, why. The words come from outside and are made harmless."""
    gain = "" if one.gain is None else f" gain {one.gain:+.3g}"
    noise = f" +- {one.stderr:.2g}" if one.stderr else ""
    mark = _MARKS.get(one.status, "!")
    return harmless(
        f"{mark} {one.id:>4} {one.status:<9} {graded(one):>12}{gain}{noise}  {one.hypothesis} ({one.reason})"
    )


def graded(one: Experiment) -> str:
    """Its value and what that is worth: E1 one run, E2 raced, E3 audited, E4 transferred."""
    return f"{number(one.value)} {one.grade or ''}".rstrip()


class View:
    """Shows a study while it runs. Use as a context; it ends with one last look.

    `experiments` and `seconds` are when it will stop by itself, for the time that is left.
    """

    def __init__(
        self,
        ledger: Path,
        *,
        name: str,
        console: Console,
        slots: int = 1,
        experiments: int | None = None,
        seconds: float | None = None,
    ) -> None:
        self._path, self._name, self._console, self._slots = ledger, name, console, slots
        self._experiments, self._seconds = experiments, seconds
        self._over = threading.Event()
        self._began, self._first = time.monotonic(), 0
        self._thread = threading.Thread(target=self._watch, name="view", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        with closing(Ledger(self._path)) as ledger:
            self._first = ledger.next_number()
            if self._console.is_terminal:
                self._draw(ledger)
            else:
                self._print(ledger)

    def _print(self, ledger: Ledger) -> None:
        seen = ledger.last_seq()
        while True:
            is_over = self._over.wait(0.3)
            for event in ledger.read(seen):
                seen = event.seq
                if line := _line(event, ledger):
                    self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            if is_over:
                return

    def _draw(self, ledger: Ledger) -> None:
        with Live(console=self._console, refresh_per_second=4, transient=False) as live:
            while True:
                is_over = self._over.wait(0.5)
                live.update(self._picture(ledger, is_over))
                if is_over:
                    return

    def _picture(self, ledger: Ledger, is_over: bool) -> Group:
        facts = status(ledger, name=self._name, is_running=not is_over)
        recent = ledger.experiments(limit=40, newest=True)
        left = self._left(recent)
        return Group(self._headline(facts, recent, left), _slots(ledger, recent), _decisions(recent[-12:]))

    def _left(self, recent: Sequence[Experiment]) -> float | None:
        """Seconds until it stops by itself, from the clock or from the median of the last experiments."""
        each, spent = seconds_per_experiment(list(recent)), time.monotonic() - self._began
        ends = [] if self._seconds is None else [self._seconds - spent]
        if self._experiments is not None and each and recent:
            done = recent[-1].id + 1 - max(self._first, 1)
            ends.append((self._experiments - done) * each / self._slots)
        return max(0.0, min(ends)) if ends else None

    def _headline(self, facts: dict[str, Any], recent: Sequence[Experiment], left: float | None) -> Text:
        start, best = facts["baseline"]["value"], facts["incumbent"]["estimate"]
        text = Text(f"{self._name}  ", style="bold")
        text.append(f"{facts['metric']} {number(best)} {facts['incumbent']['grade'] or ''}", style="bold blue")
        if start and best is not None and best != start:
            text.append(f" ({100 * (best - start) / abs(start):+.1f} % from {number(start)})")
        text.append(f"   {facts['experiments']} experiments, {facts['kept']} kept, {facts['crashed']} failed")
        each = seconds_per_experiment(list(recent))
        spent = duration(time.monotonic() - self._began)
        text.append(f"   {spent}, {duration(each) if each else '?'} each", style="dim")
        text.append("" if left is None else f", {duration(left)} to go", style="dim")
        return text


def _slots(ledger: Ledger, recent: Sequence[Experiment]) -> Table:
    words = {one.id: one.hypothesis for one in recent}
    table = Table.grid(padding=(0, 1))
    for run in ledger.unfinished():
        what = words.get(run["experiment"], f"experiment {run['experiment']}")
        role = "" if run["purpose"] == "candidate" else f"[{run['purpose']} again] "
        table.add_row(Text(">", style="blue"), Text(f"{run['run']:>6}"), Text(harmless(role + what)))
    return table


def _decisions(recent: Sequence[Experiment]) -> Table:
    table = Table(box=None, padding=(0, 1), show_edge=False, expand=True)
    for title in ("", "id", "status", "value", "gain", "z"):
        table.add_column(title, no_wrap=True, justify="right" if title in ("id", "value", "gain", "z") else "left")
    table.add_column("hypothesis", ratio=3, no_wrap=True, overflow="ellipsis")
    table.add_column("why", ratio=2, no_wrap=True, overflow="ellipsis")
    for one in reversed([one for one in recent if not one.status.is_open]):
        gain = "" if one.gain is None else f"{one.gain:+.3g}"
        cells = (_MARKS.get(one.status, "!"), str(one.id), one.status.value, graded(one), gain, number(one.z, 3))
        words = (harmless(one.hypothesis), harmless(one.reason))
        table.add_row(*map(Text, (*cells, *words)), style=_STYLES.get(one.status, ""))
    return table


def decisions(good_for: int | None) -> str:
    """How many decisions a validation set serves, in words."""
    if good_for is None:
        return "good for as many decisions as the first races will tell"
    return "good for a million decisions and more" if good_for >= 1_000_000 else f"good for about {good_for} decisions"


def power_line(found: Mapping[str, Any]) -> str:
    """What the start of a study promises."""
    if not found["sigma"]:
        return "runs repeat exactly: one run decides"
    shared = (
        f"seeds are shared (correlation {found['correlation']:.2f})" if found["correlation"] > 0.3 else "seeds differ"
    )
    known = f"{found['examples']} examples, {decisions(found['good_for'])}"
    return (
        f"one run varies by {found['sigma']:.3g}, {shared}; in 100 runs gains above {found['visible_gain']:.3g} can be "
        f"seen; validation set: {known if found['examples'] else 'the judge gives no examples to tell by'}"
    )


def _line(event: Event, ledger: Ledger) -> str | None:
    """What a plain terminal is told of an event."""
    if event.kind == "started" and event.experiment == 0:
        return f"running the baseline (run {event.body['run']}, seed {event.body['seed']})"
    if event.kind == "measured":
        return power_line(event.body)
    if event.kind == "drifted":
        return f"drift: the runs of experiment {event.experiment} move in time; only its last four are compared with"
    if event.kind in ("decided", "rejected") and event.experiment is not None:
        return decision_line(ledger.experiment(event.experiment))
    return None
