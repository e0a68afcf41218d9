"""The task: nightlab.toml, read into one frozen value; mistakes are told with line and what to write instead."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from nightlab.errors import BadTask
from nightlab.values import Direction

TASK_FILE = "nightlab.toml"
PROGRAM_FILE = "program.md"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _command(text: str) -> str:
    if not shlex.split(text):  # raises ValueError where a quotation is not closed
        raise ValueError('a command is empty; write for example "python train.py"')
    return text


Command = Annotated[str, AfterValidator(_command)]
"""A command line as a shell would split it."""


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from error
    return text


ARTIFACTS = (".npz", ".safetensors", ".json")
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib")


def _artifact(name: str) -> str:
    ending = PurePosixPath(name).suffix
    if ending in _PICKLES:
        raise ValueError(f"a {ending} file may hold code that runs when it is opened; leave one of {_KINDS}")
    if PurePosixPath(name).name != name or ending not in ARTIFACTS:
        raise ValueError(f"an artifact is the name of one file in NIGHTLAB_OUT, one of {_KINDS}")
    return name


_KINDS = ", ".join(ARTIFACTS)


class What(_Section):
    """[task]: what is run, what may change, what a run may read besides its tree."""

    run: Command
    """The command that is run in a fresh worktree, with `NIGHTLAB_SEED`, `NIGHTLAB_BUDGET` and `NIGHTLAB_OUT`; at level
    live the page or mail that visitors are shown."""
    editable: tuple[str, ...] = Field(strict=False, min_length=1)
    """Globs of the files a proposal may change; everything else is frozen."""
    predict: Command | None = None
    """Level predictions: the command that answers `NIGHTLAB_INPUTS` into `NIGHTLAB_PREDICTIONS`."""
    artifact: Annotated[str, AfterValidator(_artifact)] | None = None
    """Level artifact: the one file the run leaves in `NIGHTLAB_OUT`; `.npz`, `.safetensors` or `.json`."""
    data: tuple[str, ...] = Field(default=(), strict=False)
    """Files and folders outside git that a run may read; never what is the judge's."""
    env: tuple[str, ...] = Field(default=(), strict=False)
    """Names of variables that a run gets from your environment."""
    ideas: str | None = None
    """A glob of patches worth trying, each with its hypothesis on top."""


class Metric(_Section):
    """[metric]: the one number, which way it points, and how much of it the run may say itself."""

    name: str = Field(min_length=1)
    """What is measured, as the script prints it."""
    direction: Direction
    """Which way is better."""
    level: Literal["printed", "artifact", "predictions", "live"] = "printed"
    """Who says the number, see below."""
    bounds: tuple[float, float] | None = Field(default=None, strict=False)
    """The lowest and the highest value that can be believed; anything outside is invalid."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.bounds and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"bounds {list(self.bounds)} are not in rising order")
        return self


class Budget(_Section):
    """[budget]: what a run is given. work: an amount the task understands; cpu, wall: seconds.

    Once the baseline has been seen a run may use 1.15 times what it used, or `cpu_cap` times where the budget is work.
    """

    kind: Literal["work", "cpu", "wall"] = "work"
    """`work`: an amount the task understands, held in CPU seconds; `cpu` or `wall`: seconds."""
    amount: float | None = Field(default=None, gt=0)
    """What a run is given, as `NIGHTLAB_BUDGET`."""
    cpu_cap: float = Field(default=2.0, gt=1.0)
    """How many times the baseline's CPU seconds a run may use when the budget is work."""
    timeout: float = Field(default=3600.0, gt=0)
    """Seconds after which a run is ended while the baseline has not been seen yet."""


class Judge(_Section):
    """[judge]: the sealed scorer; its files are never copied where a run can read them.

    Without `sealed` the audit has fresh seeds only. `gives` says whether `give` lays out what runs train on; unless
    said, it does at level predictions and does not at level artifact.
    """

    run: Command
    """The command of the judge; it runs outside the jail, from your last commit, where no run can reach it."""
    files: tuple[str, ...] = Field(default=(), strict=False)
    """Further files of the judge's that no run may see."""
    data: str = "validation"
    """What decides: a file, a folder, or a bare name that only the judge understands; told as `NIGHTLAB_DATA`."""
    sealed: str = ""
    """What only the audit opens; without it the report says 'not sealed'."""
    gives: bool | None = None
    """Whether `give` is called before each run; unless said, at level predictions and not at level artifact."""
    env: tuple[str, ...] = Field(default=(), strict=False)
    """Names of variables that the judge, and no run, gets from your environment: a key, an endpoint."""
    hide: tuple[str, ...] = Field(default=(), strict=False)
    """Globs of what no run may read though its jail shows it; `{stdlib}` is every standard library in there."""


class Caps(_Section):
    """[limits]: what a run may use up besides time; `fastest` is the share of the baseline's time it must take."""

    memory_mb: float | None = Field(default=None, gt=0)
    """Megabytes a run may hold."""
    processes: int = Field(default=512, gt=0)
    """Processes and threads a run may have at a time."""
    log_mb: float = Field(default=64.0, gt=0)
    """Megabytes a run may print."""
    silence: float | None = Field(default=None, gt=0)
    """Seconds a run may go without printing."""
    artifact_mb: float = Field(default=1024.0, gt=0)
    """Megabytes the artifact may hold, unpacked."""
    fastest: float = Field(default=0.05, ge=0, lt=1)
    """A candidate that takes less than this share of the baseline's time is invalid; 0 where speed is the aim."""


class Rung(_Section):
    """[scale.NAME]: a larger rung for transfer."""

    amount: float | None = Field(default=None, gt=0)
    """The budget on this larger rung, where it is asked whether a gain holds at scale."""
    run: Command | None = None
    """The command on this rung, where it is another."""


class Live(_Section):
    """[live]: an experiment with real visitors. What may change is copy: data, of which nothing is ever executed."""

    channel: Literal["page", "mail", "api"] = "page"
    """Where people see it."""
    outcome: str = Field(default="conversion", min_length=1)
    """The event that counts: a visitor's first within `window_hours` of being shown."""
    effect: float = Field(default=0.2, gt=0)
    """The smallest relative effect of interest: 0.2 is a fifth more conversions."""
    rate: float = Field(default=0.03, gt=0, lt=1)
    """The share of visitors that converts now, as far as you know."""
    visitors_a_day: float = Field(default=1000.0, gt=0)
    """The traffic there is; what it can honestly tell is said before anything is shown."""
    holdout: float = Field(default=0.05, ge=0, lt=0.5)
    """The share of visitors who are shown the start for good: what all changes together are measured against."""
    window_hours: float = Field(default=168.0, gt=0)
    """How long after being shown an outcome counts."""
    serve_after_hours: float = Field(default=24.0, ge=0)
    """The least time before a winner is served: a whole day, since mornings differ from evenings."""
    claim_after_hours: float = Field(default=168.0, ge=0)
    """The least time before a gain is claimed: a whole week."""
    expires_days: float = Field(default=90.0, gt=0)
    """How long a claim holds before it is tested again."""
    segments: tuple[str, ...] = Field(default=(), strict=False)
    """What is known of a visitor and may be told apart: device, audience, country."""
    guardrails: tuple[str, ...] = Field(default=(), strict=False)
    """Events that must not become more frequent: unsubscribe, complaint."""
    hosts: tuple[str, ...] = Field(default=(), strict=False)
    """Where links in a mail may lead; the service sends nobody anywhere else."""


class Task(_Section):
    """What may change, how to run it, what is measured, the budget."""

    task: What
    metric: Metric
    budget: Budget = Budget()
    judge: Judge | None = None
    live: Live | None = None
    limits: Caps = Caps()
    scale: dict[str, Rung] = Field(default_factory=dict)
    milestones: dict[str, Annotated[str, AfterValidator(_pattern)]] = Field(default_factory=dict)
    """[milestones]: a known idea = a pattern (a regular expression) that the lines which bring it match."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.metric.level == "predictions" and not (self.judge and self.task.predict):
            raise ValueError("level 'predictions' needs [judge] run and [task] predict")
        if self.metric.level == "artifact" and not (self.judge and self.task.artifact):
            raise ValueError("level 'artifact' needs [judge] run and [task] artifact")
        if (self.metric.level == "live") != (self.live is not None):
            raise ValueError("level 'live' and [live] belong together: write both, or neither")
        for shown in self.task.data:
            if kept := next((name for name in self._judge_files() if _holds(shown, name) or _holds(name, shown)), None):
                raise ValueError(
                    f"[task] data {shown!r} would show runs the judge's {kept!r}; name only what they may see"
                )
        return self

    @property
    def has_sealed(self) -> bool:
        """Whether the audit has data that no decision was made with."""
        return self.metric.level != "printed" and self.judge is not None and bool(self.judge.sealed)

    @property
    def gives(self) -> bool:
        """Whether the judge lays out what each run may train on."""
        said = self.judge.gives if self.judge else False
        return self.metric.level == "predictions" if said is None else said

    def is_editable(self, path: str) -> bool:
        """Whether a proposal may change this file; the judge's own files never are."""
        return not self.is_hidden(path) and any(_matches(path, glob) for glob in self.task.editable)

    def is_hidden(self, path: str) -> bool:
        """Whether this file is the judge's and must not be where a run can read it."""
        return any(_holds(name, path) for name in self._judge_files())

    def _judge_files(self) -> Iterable[str]:
        if self.judge is None:
            return ()
        words = [word for word in shlex.split(self.judge.run) if word.endswith(".py")]
        names = (*words, *self.judge.files, self.judge.data, self.judge.sealed)
        return (name for name in names if name)


def _holds(folder: str, path: str) -> bool:
    """Whether a path is this file or folder, or lies in it."""
    return PurePosixPath(path).is_relative_to(PurePosixPath(folder))


def load(folder: Path) -> Task:
    """The task of a folder: its nightlab.toml, or the karpathy/autoresearch layout.

    Raises BadTask with file, line and what to write.
    """
    path = folder / TASK_FILE
    try:
        return parse(path.read_text(encoding="utf-8"), name=TASK_FILE)
    except (OSError, UnicodeDecodeError) as error:
        if not isinstance(error, FileNotFoundError):
            raise BadTask(f"cannot read {path}: {error}; it must be a text file in UTF-8") from error
        return parse_files({name: _read(folder / name) for name in KARPATHY_FILES}, folder)


def parse_files(files: Mapping[str, str | None], folder: Path | str = ".") -> Task:
    """The task that these files make, whether or not nightlab.toml is among them."""
    text = files.get(TASK_FILE)
    if text is not None:
        return parse(text, name=TASK_FILE)
    if all(files.get(name) is not None for name in KARPATHY_FILES):
        return karpathy(files)
    raise BadTask(f"{folder} has no {TASK_FILE}; write one with: nightlab init (or start from: nightlab init tinylm)")


KARPATHY_FILES = ("train.py", "prepare.py", "program.md")


def karpathy(files: Mapping[str, str | None]) -> Task:
    """The task of a karpathy/autoresearch folder: train.py may change, val_bpb is printed, the clock is the budget."""
    found = re.search(r"^TIME_BUDGET\s*=\s*([\d.]+)", files.get("prepare.py") or "", re.MULTILINE)
    seconds = float(found[1]) if found else 300.0
    return Task(
        task=What(run="python train.py", editable=("train.py",), data=("~/.cache/autoresearch",)),
        metric=Metric(name="val_bpb", direction="lower", bounds=(0.0, 100.0)),
        budget=Budget(kind="wall", amount=seconds, timeout=max(3 * seconds, 600.0)),
    )


def parse(text: str, *, name: str = TASK_FILE) -> Task:
    """A task from the text of its file."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadTask(f"{name} is not valid TOML: {error}") from error
    try:
        return Task.model_validate(raw)
    except ValidationError as error:
        raise BadTask("\n".join(_explain(name, text, dict(problem)) for problem in error.errors())) from error


def _explain(name: str, text: str, problem: dict[str, Any]) -> str:
    place = [str(part) for part in problem["loc"]]
    where = f"{name} line {line}" if (line := _line_of(text, place)) else name
    key = ".".join(place) or "the file"
    match problem["type"]:
        case "extra_forbidden":
            return f"{where}: unknown key '{key}'{_nearest(place)}"
        case "missing":
            return f"{name}: '{key}' is missing; write it in [{place[0]}]"
        case "tuple_type":
            return f'{where}: {key} should be a list, for example ["train.py"] (it is {problem.get("input")!r})'
        case "model_type" | "dict_type":
            return (
                f"{where}: {key} should be a table: write [{key}] on a line of its own (it is {problem.get('input')!r})"
            )
    value = "" if isinstance(problem.get("input"), dict) else f" (it is {problem.get('input')!r})"
    return f"{where}: {key}: {problem['msg']}{value}"


def _nearest(place: list[str]) -> str:
    section: Any = Task
    for part in place[:-1]:
        field = section.model_fields.get(part)
        section = Rung if part == "scale" or field is None else field.annotation
        section = next(iter(get_args(section)), section)  # an optional section is one, or None
    known = sorted(section.model_fields)
    close = get_close_matches(place[-1], known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known here: {', '.join(known)}"


def _line_of(text: str, place: list[str]) -> int | None:
    """Where a key stands: its own line, or its table's when the key is not there."""
    table, found = "", None
    header = ".".join(place[:-1])
    for number, line in enumerate(text.splitlines(), start=1):
        if opening := re.match(r"\s*\[\s*([^\]]+?)\s*\]", line):
            table = opening[1].replace('"', "")
            found = number if table == ".".join(place) else found
        elif place and table == header and re.match(rf"\s*[\"']?{re.escape(place[-1])}[\"']?\s*=", line):
            return number
    return found or (_line_of(text, place[:-1]) if len(place) > 1 else None)


def _matches(path: str, glob: str) -> bool:
    """Whether a path fits a glob: * stays within a folder, ** crosses folders."""
    pattern = re.escape(str(PurePosixPath(glob)))
    pattern = (
        pattern.replace(r"\*\*/", "(?:.*/)?").replace(r"\*\*", ".*").replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
    )
    return re.fullmatch(pattern, path) is not None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
