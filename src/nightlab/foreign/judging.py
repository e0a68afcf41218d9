"""Judging: another system's evaluator, asked in a jail of its own, behind our judge's verbs."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any

from nightlab.errors import BadTask, Invalid
from nightlab.evaluator import command_line
from nightlab.executor import LocalExecutor
from nightlab.judge import last_line
from nightlab.values import Job, Limits, Outcome
from nightlab.workspace import remove

SETTINGS = "foreign.toml"
JUDGE_RUN = "nightlab.foreign"
INSIDE = Path(str(files("nightlab") / "tasks/foreign/inside.py"))
_BLOCK = re.compile(r"EVOLVE-BLOCK-START.*?EVOLVE-BLOCK-END", re.DOTALL)
_MOST_SAID = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """What is known of a task of another system: foreign.toml."""

    form: str
    evaluator: str
    function: str
    program: str
    metric: str = ""
    timeout: float = 300.0
    original: str = ""
    """The program at the start, among the judge's files: what lies outside its marks may not change."""

    @classmethod
    def load(cls, folder: Path) -> Settings:
        """Those of a folder. Raises BadTask."""
        try:
            return cls(**tomllib.loads((folder / SETTINGS).read_text(encoding="utf-8")))
        except (OSError, TypeError, tomllib.TOMLDecodeError) as error:
            raise BadTask(
                f"{folder / SETTINGS} cannot be used: {error}; make it anew with nightlab init --from"
            ) from error


def judge(folder: Path, verb: str, path: Path, environ: Mapping[str, str]) -> str:
    """What our judge prints for a verb. Raises Invalid where the candidate may not be believed, BadTask elsewhere."""
    settings = Settings.load(folder)
    cache, seed = Path(environ["NIGHTLAB_CACHE"]), int(environ["NIGHTLAB_SEED"])
    if verb == "give":
        return ""
    if verb == "ask":
        asked = said(settings, "questions", seed=seed, folder=folder, cache=cache)
        module = settings.program.removesuffix(".py").replace("/", ".")
        (path / "questions.json").write_text(json.dumps({"module": module, **asked}))
        return ""
    return json.dumps(_once(cache, path, lambda: _scored(settings, folder, path, seed, cache)))


def _once(cache: Path, path: Path, score: Any) -> Any:
    """One evaluation for each thing that was left: the lab asks twice whether a judge agrees with itself, and an
    evaluator that measures time does not. What it varies by is then seen as what runs vary by."""
    name = blake2b(str(path).encode(), digest_size=16).hexdigest()
    known = cache / "scored" / f"{name}.json"
    if not known.exists():
        found = score()
        known.parent.mkdir(parents=True, exist_ok=True)
        known.write_text(json.dumps(found))
        return found
    return json.loads(known.read_text())


def _scored(settings: Settings, folder: Path, path: Path, seed: int, cache: Path) -> dict[str, Any]:
    if settings.form == "shinka":
        results = sorted(path.glob("[0-9]*.json"))
        found = said(settings, "answers", seed=seed, folder=folder, cache=cache, handed_in=results)
    else:
        refuse_other_changes(settings, folder, json.loads(path.read_text(encoding="utf-8")))
        found = said(settings, settings.form, seed=seed, folder=folder, cache=cache, handed_in=[path])
    if "invalid" in found:
        raise Invalid(str(found["invalid"]))
    return chosen(found, settings.metric)


def chosen(found: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """The judge's line: the number that was asked for, the others beside it. Raises Invalid where it is not there."""
    numbers = dict(found.get("numbers") or {})
    if metric not in numbers:
        raise Invalid(f"the evaluator gave no number {metric!r}; it gave {', '.join(numbers) or 'none at all'}")
    value = float(numbers.pop(metric))
    if not isfinite(value):
        raise Invalid(f"{metric} is {value}, not a finite number")
    others = {name: number for name, number in numbers.items() if isinstance(number, int | float)}
    line: dict[str, Any] = {"value": value, "secondary": others}
    return line | ({"per_example": found["per_example"]} if found.get("per_example") and metric == "score" else {})


def refuse_other_changes(settings: Settings, folder: Path, candidate: str) -> None:
    """Raise Invalid where something changed outside the EVOLVE-BLOCK marks, if the program had any."""
    if not isinstance(candidate, str):
        raise Invalid("what was handed in is no text")
    if not settings.original:
        return
    original = (folder / settings.original).read_text(encoding="utf-8")
    if _BLOCK.search(original) and _BLOCK.sub("EVOLVE-BLOCK", original) != _BLOCK.sub("EVOLVE-BLOCK", candidate):
        raise Invalid("changed something outside the EVOLVE-BLOCK marks; only what stands between them may change")


def said(
    settings: Settings,
    what: str,
    *,
    seed: int,
    folder: Path,
    cache: Path,
    handed_in: Sequence[Path] = (),
) -> dict[str, Any]:
    """What the evaluator says, in its jail. Raises Invalid with its last words where it says nothing."""
    home = cache / "evaluations" / uuid.uuid4().hex
    told = {
        "program": settings.program,
        "evaluator": str((folder / settings.evaluator).resolve()),
        "function": settings.function,
        "seed": seed,
        "results": [str(path.resolve()) for path in handed_in],
    }
    job = Job(
        id=home.name,
        argv=(
            *command_line("python", folder=project(folder)),
            str(INSIDE),
            json.dumps(told),
            what,
            str(home / "out" / "said.json"),
        ),
        tree=(folder / settings.evaluator).resolve().parent,
        folder=home,
        token=home.name,
        limits=Limits(wall=settings.timeout),
        readable=(INSIDE.parent, *handed_in),
        keeps_tree=True,
        env={"PYTHONDONTWRITEBYTECODE": "1", "HOME": "/tmp"},
    )
    try:
        with closing(LocalExecutor()) as executor:
            run = executor.submit(job).result()
        if run.outcome is not Outcome.FINISHED:
            raise Invalid(f"the evaluator ended without a result: {run.reason}; {last_line(run.log())}")
        return _read(home / "out" / "said.json")
    finally:
        remove(home)


def _read(path: Path) -> dict[str, Any]:
    """What was left; the candidate may have written it, so it is held to be JSON and nothing else."""
    from nightlab.artifact import opened

    with opened(path.parent, path.name, most=_MOST_SAID) as file:
        try:
            found = json.load(file)
        except (ValueError, RecursionError) as error:
            raise Invalid(f"what the evaluator left is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise Invalid("what the evaluator left is no JSON object")
    return found


def project(folder: Path) -> Path:
    """The user's own folder: a judge works from a copy inside its .nightlab."""
    inside = next((place for place in folder.resolve().parents if place.name == ".nightlab"), None)
    return inside.parent if inside else folder


def main(verb: str, path: Path) -> None:
    """As the lab calls its judge, in the judge's folder: prints the line, or says `invalid: why` and exits with 1."""
    try:
        sys.stdout.write(judge(Path.cwd(), verb, path, os.environ))
    except Invalid as problem:
        sys.stderr.write(f"invalid: {' '.join(str(problem).split())}\n")
        raise SystemExit(1) from None
