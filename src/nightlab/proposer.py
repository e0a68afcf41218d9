"""The proposer: whoever has the next idea. It gets a Context and answers with a Proposal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from traceback import extract_tb
from typing import Any, Protocol, TypeVar, runtime_checkable

from nightlab.decide import Evidence
from nightlab.values import Decision, Direction, Experiment, Files, Proposal

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Trace:
    """What the last run of an experiment left to be read: the end of its log, the numbers it said last, its curves.

    All of it was printed by code that nobody has read: to be quoted, never obeyed.
    """

    tail: str = ""
    said: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Name as printed -> at most a dozen of its values, the first and the last among them."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a proposer is told before it has an idea.

    `files` are the editable files as the incumbent has them. `number` counts the ideas asked for so far in this study;
    with `seed` it is the only source of chance a proposer should use, so that a resumed study goes on as if it had
    never stopped. `was_tried` says whether the tree these changes would make has been tried before.
    """

    files: Mapping[str, str]
    metric: str
    direction: Direction
    number: int
    seed: int
    incumbent: int = 0
    value: float | None = None
    sigma: float | None = None
    history: Sequence[Experiment] = ()
    """The latest experiments, oldest first; the whole history came through `learn`."""
    ideas: Mapping[str, str] = field(default_factory=dict)
    """The task's own catalogue: name -> unified diff."""
    instructions: str = ""
    """program.md, the human's own words."""
    was_tried: Callable[[Files], bool] = lambda _: False
    draft: int = 0
    """Which call this is of those that think beside the loop; the same after a resume, with the same context."""
    kept: Sequence[Experiment] = ()
    """The kept changes that the incumbent is made of, oldest first."""
    traces: Mapping[int, Trace] = field(default_factory=dict)
    """What the latest experiments' runs left to be read, by experiment."""
    insights: Sequence[str] = ()
    """What every experiment so far says together: what works, what hurts, dead ends, what was never tried."""
    steering: Sequence[str] = ()
    """What the human has said since the study began, oldest first."""
    peers: Sequence[str] = ()
    """What won elsewhere, in words: ideas to be tested here."""
    spaces: Sequence[Mapping[str, Any]] = ()
    """Small search spaces that other proposers asked for instead of a value: facts["space"] of their proposals."""
    under_way: Sequence[str] = ()
    """Hypotheses that are being tried or wait to be tried at this moment."""
    racing: Sequence[Mapping[str, Any]] = ()
    """The facts of the proposals that are being tried at this moment, so that no two try one thing."""
    beside: int = 0
    """How many others are asked the same at this moment."""
    is_stuck: bool = False
    """Whether nothing was kept for so long that the search should widen."""
    mends: Experiment | None = None
    """The proposer's own experiment that failed and may be mended once; `files` are then what it was made from."""


@runtime_checkable
class Proposer(Protocol):
    """One source of ideas. Told of every finished experiment, its own or not, also those of earlier nights.

    One that takes its time has an attribute `drafts`, how many of its calls may be under way beside the loop: each is
    made in a thread of its own with a context of its own, never waits for a slot, and may be asked to mend what failed.
    """

    name: str

    def propose(self, context: Context) -> Proposal | None:
        """The next idea, or None when it has none for this incumbent."""
        ...

    def learn(self, experiment: Experiment) -> None:
        """Take note of a finished experiment."""
        ...


def walled(call: Callable[[], T]) -> tuple[T | None, str | None]:
    """What a stranger's code returns, or what it raised and where, in words: the one wall around such code."""
    try:
        return call(), None
    except Exception as error:  # noqa: BLE001 - whatever it is, it may not end the study
        place = extract_tb(error.__traceback__)[-1]
        return None, f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"


class Peers(Protocol):
    """The other labs of a swarm, as one lab's loop meets them; each answers at once. As it stands here: nobody."""

    def claim(self, number: int, diff: str) -> str | None:
        """Take a change for experiment `number` of ours; why not, in words, where another lab has it or had it."""
        return None

    def knows(self, diff: str) -> bool:
        """Whether another lab has this change under way, or tried it."""
        return False

    def lost(self) -> Sequence[tuple[int, str]]:
        """Experiments of ours that another lab turns out to have claimed first, each told once, with words."""
        return ()

    def news(self) -> Sequence[str]:
        """What won elsewhere, in words."""
        return ()

    def doubt(self, decision: Decision, evidence: Evidence) -> Decision:
        """What to make of a decision of the policy's on a win from elsewhere."""
        return decision

    def lean(self, proposer: str) -> float:
        """How much more than by its own merits a proposer is to be asked here; 1 for no more and no less."""
        return 1.0


class Alone(Peers):
    """What a lab outside any swarm has for peers."""


class Scripted:
    """Proposes a given list in order: for tests, benchmarks and replays."""

    def __init__(self, proposals: Sequence[Proposal], *, name: str = "scripted") -> None:
        self.name = name
        self._proposals = proposals

    def propose(self, context: Context) -> Proposal | None:
        """The next line of the script."""
        return self._proposals[context.number] if context.number < len(self._proposals) else None

    def learn(self, experiment: Experiment) -> None:
        """Nothing to learn: the script is written."""


class Unchanged:
    """Proposes no change at all, for A/A runs: whatever it gains is noise."""

    name = "unchanged"

    def propose(self, context: Context) -> Proposal:
        """Nothing, in so many words."""
        return Proposal(hypothesis="no change (A/A)", files={})

    def learn(self, experiment: Experiment) -> None:
        """Nothing to learn: nothing was changed."""
