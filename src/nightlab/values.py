"""The nouns: frozen values that every part of the lab passes around."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

Direction = Literal["lower", "higher"]
Verdict = Literal["keep", "discard", "more"]
Side = Literal["candidate", "incumbent"]
Grade = Literal["E1", "E2", "E3", "E4"]
Files = Mapping[str, str | None]
"""Path in the repository -> its whole text; None where the file does not exist."""


class Status(StrEnum):
    """What became of an experiment; a closed set."""

    PROPOSED = "proposed"
    REJECTED = "rejected"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    INVALID = "invalid"
    MEASURED = "measured"
    RACING = "racing"
    KEPT = "kept"
    DISCARDED = "discarded"
    SHELVED = "shelved"
    PRUNED = "pruned"
    REVERTED = "reverted"

    @property
    def is_open(self) -> bool:
        """Whether the lab still owes this experiment a decision."""
        return self in (Status.PROPOSED, Status.MEASURED, Status.RACING)

    @property
    def is_failure(self) -> bool:
        """Whether it ended without a number."""
        return self in (Status.REJECTED, Status.CRASHED, Status.TIMEOUT, Status.INVALID)


class Outcome(StrEnum):
    """How one execution ended, seen from outside; a closed set."""

    FINISHED = "finished"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    KILLED = "killed"
    """Ended by the lab's own wish: a stop, not a finding about the patch. It is run again."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What something used up: wall and CPU seconds, peak megabytes, money (US dollars), tokens."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mb: float = 0.0
    money: float = 0.0
    tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            max(self.peak_mb, other.peak_mb),
            self.money + other.money,
            self.tokens + other.tokens,
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use before it is ended from outside; None: no limit.

    wall, cpu, silence in seconds over the whole process tree; silence counts from the last byte printed.
    """

    wall: float | None = None
    cpu: float | None = None
    silence: float | None = None
    memory_mb: float | None = None
    processes: int | None = 512
    log_mb: float = 64.0


@dataclass(frozen=True, slots=True)
class Job:
    """Everything a run is: a command in a tree, what it sees, and where its traces go.

    `folder` is private to this one execution: the log, the result and `out/` (the run's NIGHTLAB_OUT) live there.
    `token` names the attempt: a result that carries another token is refused as stale.
    """

    id: str
    argv: tuple[str, ...]
    tree: Path
    folder: Path
    token: str
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = Limits()
    readable: tuple[Path, ...] = ()
    """Files and folders outside the tree that the run may read."""
    mounts: Mapping[str, str] = field(default_factory=dict)
    """Where in the box -> what is shown there, read-only; for data that a script expects at a fixed place."""
    writable: tuple[Path, ...] = ()
    """Folders it may write besides the tree and `out/`."""
    hidden: tuple[Path, ...] = ()
    """Files and folders that it may not read although a place it is shown holds them: the answers to its task."""
    relay: Path | None = None
    """The one socket it may talk to, told to it as NIGHTLAB_RELAY; an agent's way to its model. None: no network."""
    keeps_tree: bool = False
    """Whether it may only read its tree."""
    hardware: str = ""
    """The class of hardware it should be run on, where an executor has several and one is free; "": any."""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution under a budget with one seed."""

    id: str
    outcome: Outcome
    reason: str
    folder: Path
    exit_code: int | None = None
    cost: Cost = Cost()

    @property
    def out(self) -> Path:
        """The one folder the run could write besides its tree."""
        return self.folder / "out"

    def log(self) -> str:
        """What it printed (its middle left out where it was long); agent-written, so never trust it."""
        try:
            return (self.folder / "log").read_bytes().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""


@dataclass(frozen=True, slots=True)
class Contrast:
    """What a run that carried both sides says of their difference, as an experiment with visitors does.

    `gain` is the candidate's over its parent in metric units, positive is better, with its standard error. `better` and
    `worse` are e-values: how strongly the run speaks against "it does not help" and "it does no harm", valid whenever
    one looked. `loss`: what serving it is expected to lose, in metric units; None: not known yet.
    """

    gain: float
    stderr: float
    better: float
    worse: float
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a sealed evaluator says of a run. `per_example` holds one value per example where there are any.

    `examples` names the very set of examples: where two runs were asked the same ones, they are compared one by one.
    """

    value: float
    per_example: tuple[float, ...] | None = None
    secondary: Mapping[str, float] = field(default_factory=dict)
    examples: str = ""
    cost: Cost = Cost()
    """What the run's own code used up while it was measured."""
    contrast: Contrast | None = None
    """The difference to its parent, where the run itself carried both."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A hypothesis in words and the files it changes, against a parent experiment.

    `files` holds the whole new text of each changed file (None deletes it); `facts` is JSON for the proposer's own use,
    handed back with the finished experiment.
    """

    hypothesis: str
    files: Files
    facts: Mapping[str, Any] = field(default_factory=dict)
    expected: float | None = None
    cost: Cost = Cost()


@dataclass(frozen=True, slots=True)
class Decision:
    """Keep, discard, or run one side again; gain, stderr in metric units, positive gain is better."""

    verdict: Verdict
    side: Side | None
    gain: float | None
    stderr: float | None
    z: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Experiment:
    """One hypothesis tried against the incumbent, as the ledger tells it. Number 0 is the baseline."""

    id: int
    parent: int | None
    status: Status
    hypothesis: str
    proposer: str
    grade: Grade | None = None
    value: float | None = None
    stderr: float | None = None
    gain: float | None = None
    z: float | None = None
    runs: int = 0
    seconds: float = 0.0
    reason: str = ""
    commit: str | None = None
    tree: str = ""
    diff: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    complexity: float = 0.0
    """How much more there is to read in its tree than at the start, in units of about one line."""
    peak_mb: float | None = None


def improvement(direction: Direction, candidate: float, incumbent: float) -> float:
    """How much better the candidate's number is: positive is better, whichever way the metric points."""
    return incumbent - candidate if direction == "lower" else candidate - incumbent


def derived_seed(seed: int, *labels: object) -> int:
    """A seed below 2^31 that depends on the study's seed and on what it is for, and on nothing else."""
    text = "\0".join(map(str, (seed, *labels)))
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "big") >> 1


Clock = Callable[[], float]
