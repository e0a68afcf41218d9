"""Laying a task out: a folder of another system's is read and never written to; what is ours goes to a new one."""

from __future__ import annotations

import ast
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nightlab.errors import BadTask, Invalid
from nightlab.foreign.judging import INSIDE, JUDGE_RUN, SETTINGS, Settings, said
from nightlab.task import PROGRAM_FILE, TASK_FILE, parse
from nightlab.values import Direction

FORMS = ("openevolve", "shinka", "gepa")
_MARK = "EVOLVE-BLOCK-START"
_LEFT_OUT = {".git", ".hg", ".nightlab", "__pycache__", ".venv", "venv", "node_modules", ".pytest_cache"}
_MOST_BYTES = 256 * 1024 * 1024
_HERE = INSIDE.parent

Ask = Callable[..., str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person has said about a task; what is None is found out where only one thing can be meant, else asked."""

    source: Path
    form: str | None = None
    program: str | None = None
    evaluator: str | None = None
    metric: str | None = None
    direction: str | None = None
    timeout: float = 300.0


def lay(folder: Path, wanted: Wanted, ask: Ask | None) -> list[str]:
    """Make a task of ours in an empty folder; returns what was written. Raises BadTask saying what to add.

    The evaluator is tried once on the program at the start, in its jail: the numbers it gives are what can be chosen.
    """
    source = wanted.source.expanduser().resolve()
    _refuse_places(source, folder)
    settings = recognised(wanted, source)
    _refuse_direction(wanted.direction)
    with tempfile.TemporaryDirectory(prefix="nightlab-from-") as name:
        draft = Path(name)
        _copy(source, draft / "evaluator")
        _write_files(draft, source, settings)
        numbers = tried(draft, settings)
        metric = _metric(numbers, wanted.metric, ask)
        direction = _direction(metric, wanted.direction, ask)
        settings = replace(settings, metric=metric)
        (draft / SETTINGS).write_text(_settings_text(settings), encoding="utf-8")
        text = _toml(settings, direction)
        parse(text)
        (draft / TASK_FILE).write_text(text, encoding="utf-8")
        (draft / PROGRAM_FILE).write_text(_words(settings, direction, numbers), encoding="utf-8")
        written = sorted(path.name + "/" * path.is_dir() for path in draft.iterdir())
        for path in sorted(draft.iterdir()):
            shutil.move(path, folder / path.name)
    return written


def _refuse_places(source: Path, folder: Path) -> None:
    here = folder.resolve()
    if not source.is_dir():
        raise BadTask(f"--from {source} is no folder; name the one that holds the program and its evaluator")
    if here == source or source in here.parents:
        raise BadTask(
            f"{here} lies in {source}, and nothing is written there; "
            "make an empty folder elsewhere: mkdir task && cd task && nightlab init --from ..."
        )
    if taken := sorted(path.name for path in here.iterdir() if path.name != ".git"):
        raise BadTask(f"{here} holds {', '.join(taken[:3])} already; start a task from elsewhere in an empty folder")


def _refuse_direction(direction: str | None) -> None:
    if direction not in (None, "lower", "higher"):
        raise BadTask(f"--direction {direction!r} says nothing; write --direction lower or --direction higher")


# --- what it is -------------------------------------------------------------------------------------------------------


def recognised(wanted: Wanted, source: Path) -> Settings:
    """Which form a folder has, and which files are which. Raises BadTask, naming the option, where it cannot tell."""
    evaluator, _, function = (wanted.evaluator or _evaluator(source)).partition(":")
    tree = _parsed(source, evaluator)
    form = wanted.form or _form(tree, evaluator)
    if form not in FORMS:
        raise BadTask(f"--form {form!r} is not known; write one of {', '.join(FORMS)}")
    function = function or "evaluate"
    if form != "shinka" and function not in _functions(tree):
        raise BadTask(f"{evaluator} has no function {function!r}; write --evaluator {evaluator}:FUNCTION")
    program = wanted.program or _program(source, evaluator, form)
    if not (source / program).is_file():
        raise BadTask(f"{source} has no file {program!r}; write --program FILE")
    if Path(program).name != program:
        raise BadTask(f"--program {program!r} lies in a folder; only one at the top of {source} can be taken")
    text = (source / program).read_text(encoding="utf-8")
    original = f"evaluator/{program}" if _MARK in text else ""
    return Settings(form, f"evaluator/{evaluator}", function, program, timeout=wanted.timeout, original=original)


def _evaluator(source: Path) -> str:
    names = [name for name in ("evaluator.py", "evaluate.py") if (source / name).is_file()]
    if len(names) != 1:
        found = " and ".join(names) or "neither evaluator.py nor evaluate.py"
        raise BadTask(f"{source} has {found}; say which file evaluates: --evaluator FILE, or --evaluator FILE:FUNCTION")
    return names[0]


def _parsed(source: Path, evaluator: str) -> ast.Module:
    try:
        return ast.parse((source / evaluator).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise BadTask(f"{source / evaluator} cannot be read as Python: {error}") from error


def _functions(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def _form(tree: ast.Module, evaluator: str) -> str:
    """The form that an evaluator's own code shows; guessed from nothing else."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    functions = _functions(tree)
    if "run_shinka_eval" in names or "aggregate" in functions or "aggregate_metrics" in functions:
        return "shinka"
    evaluate = functions.get("evaluate")
    first = evaluate.args.args[0].arg if evaluate and evaluate.args.args else ""
    if "path" in first or "file" in first:
        return "openevolve"
    if "candidate" in first or "text" in first or "prompt" in first:
        return "gepa"
    raise BadTask(f"{evaluator} does not show which system it was written for; write --form {', '.join(FORMS)}")


def _program(source: Path, evaluator: str, form: str) -> str:
    names = ["initial_program.py", "initial.py"] + (
        ["seed_candidate.txt", "candidate.txt", "prompt.txt"] * (form == "gepa")
    )
    found = [name for name in names if (source / name).is_file()]
    marked = [path.name for path in sorted(source.glob("*.py")) if path.name != evaluator and _MARK in _read(path)]
    found = found or marked
    if len(found) != 1:
        what = (
            f"several: {', '.join(found)}"
            if found
            else "none that is called initial_program.py or bears EVOLVE-BLOCK marks"
        )
        raise BadTask(f"which file is the program at the start? {source} has {what}; write --program FILE")
    return found[0]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


# --- copies -----------------------------------------------------------------------------------------------------------


def _copy(source: Path, where: Path) -> None:
    """Everything but caches and repositories; what is linked is left out. Raises BadTask where it is too large."""
    size = 0
    for path in _files(source):
        size += path.stat().st_size
        if size > _MOST_BYTES:
            raise BadTask(f"{source} holds more than {_MOST_BYTES >> 20} MB; take out what the evaluator does not need")
        target = where / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or path.name in _LEFT_OUT:
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.is_file():
            yield path


def _write_files(draft: Path, source: Path, settings: Settings) -> None:
    shutil.copyfile(source / settings.program, draft / settings.program)
    names = ("answer.py", "carried.py") if settings.form == "shinka" else ()
    for name in (*names, "hand_in.py"):
        if (source / name).exists() and name == settings.program:
            raise BadTask(f"the program is called {name}, which is a name of ours; rename it")
        shutil.copyfile(_HERE / name, draft / name)


# --- the objective ----------------------------------------------------------------------------------------------------


def tried(draft: Path, settings: Settings) -> dict[str, float]:
    """The numbers that the evaluator gives for the program at the start. Raises BadTask where it gives none."""
    with tempfile.TemporaryDirectory(prefix="nightlab-tried-") as name:
        cache = Path(name)
        known: dict[str, Any] = {"seed": 0, "folder": draft, "cache": cache}
        try:
            if settings.form == "shinka":
                found = said(settings, "answers", handed_in=_results(draft, settings, cache), **known)
            else:
                handed_in = cache / "candidate.json"
                handed_in.write_text(json.dumps(_read(draft / settings.program)))
                found = said(settings, settings.form, handed_in=[handed_in], **known)
        except Invalid as problem:
            raise BadTask(f"the evaluator was tried on {settings.program} and failed: {problem}") from problem
    numbers = {name: one for name, one in dict(found.get("numbers") or {}).items() if isinstance(one, int | float)}
    if not numbers:
        why = found.get("invalid") or "it returned none"
        raise BadTask(f"the evaluator was tried on {settings.program} and gave no number: {why}")
    return numbers


def _results(draft: Path, settings: Settings, cache: Path) -> list[Path]:
    """What the program at the start answers, in a jail that has no evaluator."""
    from contextlib import closing

    from nightlab.evaluator import command_line
    from nightlab.executor import LocalExecutor
    from nightlab.values import Job, Limits, Outcome

    asked = said(settings, "questions", seed=0, folder=draft, cache=cache)
    inputs, answers, tree = cache / "inputs", cache / "answers", cache / "tree"
    for place in (inputs, answers, tree):
        place.mkdir()
    (inputs / "questions.json").write_text(json.dumps({"module": settings.program.removesuffix(".py"), **asked}))
    for name in (settings.program, "answer.py", "carried.py"):
        shutil.copyfile(draft / name, tree / name)
    job = Job(
        id="answers",
        argv=command_line("python answer.py", folder=draft),
        tree=tree,
        folder=cache / "run",
        token="answers",
        limits=Limits(wall=settings.timeout),
        readable=(inputs,),
        writable=(answers,),
        env={"NIGHTLAB_INPUTS": str(inputs), "NIGHTLAB_PREDICTIONS": str(answers), "NIGHTLAB_SEED": "0"},
    )
    with closing(LocalExecutor()) as executor:
        run = executor.submit(job).result()
    if run.outcome is not Outcome.FINISHED:
        raise Invalid(f"{asked['function']} failed: {run.reason}; {run.log().strip()[-300:]}")
    return sorted(answers.glob("[0-9]*.json"))


def _metric(numbers: Mapping[str, float], wanted: str | None, ask: Ask | None) -> str:
    shown = ", ".join(f"{name} = {value:.6g}" for name, value in numbers.items())
    if wanted is not None:
        if wanted not in numbers:
            raise BadTask(f"the evaluator gives no number {wanted!r}; it gives {shown}")
        return wanted
    if len(numbers) == 1:
        return next(iter(numbers))
    if ask is None:
        raise BadTask(f"the evaluator gives several numbers: {shown}; say which is the objective: --metric NAME")
    answer = ask(f"The evaluator gives several numbers: {shown}. Which is the objective")
    return _metric(numbers, answer, ask)


def _direction(metric: str, wanted: str | None, ask: Ask | None) -> Direction:
    if wanted is None:
        if ask is None:
            raise BadTask(f"is lower or higher {metric} better? Say it: --direction lower, or --direction higher")
        wanted = ask(f"Is lower or higher {metric} better").strip().lower()
        _refuse_direction(wanted)
    return "lower" if wanted == "lower" else "higher"


# --- what is written --------------------------------------------------------------------------------------------------


def _settings_text(settings: Settings) -> str:
    lines = [f"{name} = {json.dumps(value)}" for name, value in asdict(settings).items()]
    return "# How another system's evaluator is asked; read by: nightlab.foreign\n" + "\n".join(lines) + "\n"


def _toml(settings: Settings, direction: Direction) -> str:
    is_apart = settings.form == "shinka"
    level = "predictions" if is_apart else "artifact"
    how = (
        'predict = "python answer.py"       # calls the experiment in a jail that has no evaluator'
        if is_apart
        else (
            'artifact = "candidate.json"       # the text of the program; the evaluator runs it, in a jail of its own'
        )
    )
    return f"""\
# Made by: nightlab init --from. What this level cannot see is said in docs/coming-from.md.

[task]
run = {json.dumps(f"python hand_in.py {settings.program}")}
editable = [{json.dumps(settings.program)}]
{how}

[metric]
name = {json.dumps(settings.metric)}
direction = "{direction}"
level = "{level}"

[judge]
run = "{JUDGE_RUN}"     # the evaluator, in a jail of its own
files = ["evaluator", "{SETTINGS}"]
data = "theirs"                    # the evaluator has its own data; nothing of it is held back for an audit
env = ["VIRTUAL_ENV", "CONDA_PREFIX"]

[limits]
fastest = 0                        # what takes time is the evaluation
"""


def _words(settings: Settings, direction: Direction, numbers: Mapping[str, float]) -> str:
    marks = "Only what stands between the EVOLVE-BLOCK marks may change; the marks stay.\n" if settings.original else ""
    others = ", ".join(name for name in numbers if name != settings.metric)
    more = f"The evaluator also tells {others}; nothing is decided by them.\n" if others else ""
    return f"""# {settings.metric}

Make {settings.metric} {direction}. What may change: {settings.program}. The evaluator is elsewhere and stays as it is.
{marks}{more}Whatever meddles with the evaluator or looks for its data is disqualified.
"""
