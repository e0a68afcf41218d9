"""Tasks of other systems, made ours by `init --from`: a small one in each form, played through the real lab."""

from __future__ import annotations

import hashlib
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from nightlab.check import check
from nightlab.errors import BadTask, Invalid
from nightlab.foreign.judging import INSIDE, Settings, chosen, refuse_other_changes
from nightlab.foreign.laying import Wanted, lay
from nightlab.place import find, first_commit, held
from nightlab.proposer import Scripted
from nightlab.study import Study
from nightlab.task import load
from nightlab.tuner import space
from nightlab.values import Experiment, Proposal

sys.path.insert(0, str(INSIDE.parent))
carried = importlib.import_module("carried")
sys.path.pop(0)

Nightlab = Callable[..., subprocess.CompletedProcess[str]]

PROGRAM = """\
# EVOLVE-BLOCK-START
RATE = 0.3
# EVOLVE-BLOCK-END
STEPS = 10


def search():
    x = 5.0
    for _ in range(STEPS):
        x -= RATE * 2 * x
    return x
"""
BY_PATH = """\
import importlib.util, json, pathlib
from openevolve.evaluation_result import EvaluationResult

TRUTH = json.loads(pathlib.Path(__file__).with_name("truth.json").read_text())

def evaluate(program_path):
    spec = importlib.util.spec_from_file_location("program", program_path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = {"combined_score": -abs(module.search() - TRUTH), "steps": module.STEPS, "label": "text"}
    return EvaluationResult(metrics=found, artifacts={"log": "well"})
"""
OPENEVOLVE = {"initial_program.py": PROGRAM, "evaluator.py": BY_PATH, "truth.json": "0.25"}

SPREAD = """\
# EVOLVE-BLOCK-START
SPREAD = 1.5
# EVOLVE-BLOCK-END


def run_experiment(count):
    return [(i * SPREAD % 1.0, i / count) for i in range(count)]
"""
BY_RESULT = """\
from shinka.core import run_shinka_eval

def valid(points):
    inside = all(0 <= x <= 1 and 0 <= y <= 1 for x, y in points)
    return inside, None if inside else "a point lies outside"

def nearest(points):
    return min(((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) ** 0.5 for i, a in enumerate(points) for b in points[:i])

def totals(results):
    return {"combined_score": sum(map(nearest, results)) / len(results), "public": {"runs": len(results)}}

def main(program_path, results_dir):
    run_shinka_eval(
        program_path=program_path, results_dir=results_dir, experiment_fn_name="run_experiment", num_runs=2,
        get_experiment_kwargs=lambda number: {"count": 12 + number}, validate_fn=valid, aggregate_metrics_fn=totals,
    )
"""
SHINKA = {"initial.py": SPREAD, "evaluate.py": BY_RESULT}

BY_TEXT = """\
dataset = [{"wanted": 50}, {"wanted": 60}]

def evaluate(candidate, example):
    length = int(candidate.split("=")[1])
    return -abs(length - example["wanted"]), {"scores": {"length": length}}
"""
GEPA = {"seed_candidate.txt": "LENGTH = 40\n", "evaluator.py": BY_TEXT}


def written(folder: Path, files: Mapping[str, str]) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def prints(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def laid(tmp_path: Path, files: Mapping[str, str], metric: str | None = None, direction: str | None = "higher") -> Path:
    source = written(tmp_path / "theirs", files)
    folder = tmp_path / "ours"
    folder.mkdir()
    before = prints(source)
    lay(folder, Wanted(source, metric=metric, direction=direction), None)
    assert prints(source) == before
    return folder


def played(folder: Path, proposals: Sequence[Proposal]) -> list[Experiment]:
    first_commit(folder)
    place = find(folder)
    with held(place), closing(Study(place)) as study:
        study.loop([Scripted(proposals)]).run()
        return study.ledger.experiments()


def turned(name: str, text: str, old: str, *news: str) -> list[Proposal]:
    return [Proposal(f"{old} to {new}", {name: text.replace(old, new)}) for new in news]


def ends(experiments: Sequence[Experiment]) -> list[str]:
    return [str(one.status) for one in experiments]


@pytest.mark.slow
def test_a_task_of_openevolve_runs_here(tmp_path: Path) -> None:
    folder = laid(tmp_path, OPENEVOLVE, "combined_score")

    found = played(
        folder,
        [
            *turned("initial_program.py", PROGRAM, "RATE = 0.3", "RATE = 0.13", "RATE = 0.9", "RATE = lost()"),
            *turned("initial_program.py", PROGRAM, "STEPS = 10", "STEPS = 3"),
            *turned("initial_program.py", PROGRAM, "RATE = 0.3", "RATE = 0.1295"),
        ],
    )

    assert load(folder).metric.level == "artifact"
    assert ends(found) == ["kept", "kept", "discarded", "invalid", "invalid", "kept"]
    assert found[1].value == pytest.approx(-abs(5 * 0.74**10 - 0.25))
    assert "NameError" in found[3].reason
    assert "outside the EVOLVE-BLOCK marks" in found[4].reason


@pytest.mark.slow
def test_a_task_of_shinkaevolve_runs_here_and_its_program_is_never_where_its_evaluator_is(tmp_path: Path) -> None:
    folder = laid(tmp_path, SHINKA, "combined_score")
    looks = SPREAD + "import glob, os\nassert not glob.glob('**/evaluate.py', recursive=True), 'seen'\n"
    looks += f"assert not os.path.exists({str(tmp_path / 'theirs')!r}), 'seen'\n"
    looks += f"assert not os.path.exists({str(folder / 'evaluator')!r}), 'seen'\n"

    found = played(
        folder,
        [
            *turned("initial.py", SPREAD, "SPREAD = 1.5", "SPREAD = 0.611", "SPREAD = 3.0"),
            *turned("initial.py", SPREAD, "% 1.0", "% 7.0"),
            *turned("initial.py", SPREAD, "return [", "return lambda: ["),
            Proposal("look around", {"initial.py": looks}),
        ],
    )

    assert load(folder).metric.level == "predictions"
    assert ends(found) == ["kept", "kept", "discarded", "invalid", "invalid", "discarded"]
    assert "a point lies outside" in found[3].reason
    assert "a function cannot be carried" in found[4].reason


@pytest.mark.slow
def test_a_task_of_gepa_runs_here(tmp_path: Path) -> None:
    folder = laid(tmp_path, GEPA)

    found = played(folder, turned("seed_candidate.txt", "LENGTH = 40\n", "40", "55", "90", "wrong", "52", "41"))

    assert ends(found) == ["kept", "kept", "discarded", "invalid", "discarded", "discarded"]
    assert [one.value for one in found[:3]] == [-15, -5, -35]
    assert "ValueError" in found[3].reason


@pytest.mark.parametrize(
    ("files", "metric", "direction", "words"),
    [
        (
            OPENEVOLVE,
            None,
            "higher",
            "combined_score = -0.249476, steps = 10; say which is the objective: --metric NAME",
        ),
        (OPENEVOLVE, "loss", "higher", "gives no number 'loss'; it gives combined_score"),
        (OPENEVOLVE, "steps", None, "is lower or higher steps better? Say it: --direction lower"),
        (OPENEVOLVE, "steps", "up", "--direction 'up' says nothing"),
        (
            {**OPENEVOLVE, "evaluator.py": "def evaluate(thing): ..."},
            None,
            None,
            "write --form openevolve, shinka, gepa",
        ),
        ({**OPENEVOLVE, "evaluate.py": BY_PATH}, None, None, "has evaluator.py and evaluate.py; say which"),
        ({"evaluator.py": BY_PATH}, None, None, "which file is the program at the start?"),
        ({**OPENEVOLVE, "truth.json": "{"}, "steps", "lower", "was tried on initial_program.py and failed"),
    ],
)
def test_what_cannot_be_told_is_asked_for_and_never_guessed(
    tmp_path: Path, files: Mapping[str, str], metric: str | None, direction: str | None, words: str
) -> None:
    with pytest.raises(BadTask) as caught:
        laid(tmp_path, files, metric, direction)

    assert words in str(caught.value)
    assert list((tmp_path / "ours").iterdir()) == []


def test_a_person_is_asked_which_number_and_which_way(tmp_path: Path) -> None:
    source, folder = written(tmp_path / "theirs", OPENEVOLVE), tmp_path / "ours"
    folder.mkdir()
    answers = iter(["steps", "lower"])

    lay(folder, Wanted(source), lambda question: next(answers))

    assert (load(folder).metric.name, load(folder).metric.direction) == ("steps", "lower")


def test_nothing_is_written_into_their_folder(tmp_path: Path, nightlab: Nightlab) -> None:
    source = written(tmp_path / "theirs", OPENEVOLVE)
    words = ("init", "--from", ".", "--metric", "steps", "--direction", "lower")

    done = nightlab(*words, at=source, check=False)

    assert done.returncode == 2
    assert "nothing is written there" in done.stderr
    assert sorted(path.name for path in source.iterdir()) == sorted(OPENEVOLVE)


@pytest.mark.slow
def test_the_check_says_what_cannot_be_seen_where_the_evaluator_runs_the_candidate(tmp_path: Path) -> None:
    folder = laid(tmp_path, GEPA)
    first_commit(folder)

    found = check(find(folder), runs=2, slots=1)

    assert found["values"] == [-15, -15]
    assert "in the evaluator's own process" in found["trust"]


def test_the_tuner_turns_only_what_stands_between_the_marks() -> None:
    assert [knob.label for knob in space.knobs({"a.py": PROGRAM})] == ["RATE"]
    assert "STEPS" in [knob.label for knob in space.knobs({"a.py": PROGRAM.replace("EVOLVE", "OTHER")})]


def test_only_what_holds_no_code_is_carried(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    value = {"a": [1, 2.5, None, True], (1, 2): {3}, "c": (1j, b"x"), "d": numpy.arange(6.0).reshape(2, 3)}

    carried.write(tmp_path / "a.json", value)
    back = carried.read(tmp_path / "a.json")

    assert (back["d"] == value["d"]).all()
    assert {key: one for key, one in back.items() if key != "d"} == {k: one for k, one in value.items() if k != "d"}
    with pytest.raises(TypeError, match="cannot be carried"):
        carried.packed(print)
    with pytest.raises(TypeError, match="cannot be carried"):
        carried.packed(numpy.array([print], dtype=object))


def test_the_evaluators_number_is_taken_by_its_name_and_must_be_finite() -> None:
    assert chosen({"numbers": {"a": 1.0, "b": 2.0}}, "b") == {"value": 2.0, "secondary": {"a": 1.0}}
    for numbers in ({"a": 1.0}, {"b": "nan"}, {}):
        with pytest.raises(Invalid):
            chosen({"numbers": numbers}, "b")


def test_only_a_text_with_its_marks_is_taken(tmp_path: Path) -> None:
    (tmp_path / "start.py").write_text(PROGRAM)
    settings = Settings("openevolve", "e.py", "evaluate", "p.py", original="start.py")

    refuse_other_changes(settings, tmp_path, PROGRAM.replace("0.3", "0.4"))
    for other in (PROGRAM.replace("10", "11"), PROGRAM.replace("EVOLVE-BLOCK-END", "END"), json.loads("[1]")):
        with pytest.raises(Invalid):
            refuse_other_changes(settings, tmp_path, other)
