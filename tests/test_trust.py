"""How a number comes to be believed: real runs, real judges, real files; each cheat and each mistake told in words."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TASK, git, make_repository

from nightlab.artifact import numbers, taken
from nightlab.errors import BadTask, Invalid, Unscored
from nightlab.judge import Judge, fingerprint
from nightlab.loop import Stop
from nightlab.place import find, held
from nightlab.proposer import Scripted
from nightlab.runner import Attempt, Finding
from nightlab.sealed import examine
from nightlab.study import Study
from nightlab.task import parse
from nightlab.values import Experiment, Proposal, Status

ARTIFACT_TASK = """\
[task]
run = "python train.py"
artifact = "model.npz"
editable = ["train.py"]
[metric]
name = "error"
direction = "lower"
level = "artifact"
[judge]
run = "python judge.py"
data = "judge/validation.jsonl"
sealed = "judge/sealed.jsonl"
"""
TRAIN = """\
import os, numpy as np
rng = np.random.default_rng(int(os.environ["NIGHTLAB_SEED"]))
print("width: 3")
np.savez(os.environ["NIGHTLAB_OUT"] + "/model.npz", w=KNOB + rng.normal(0, 0.01))
"""
JUDGE = """\
import json, os, sys
import numpy as np
assert sys.argv[1] == "score"
truth = [json.loads(line)["y"] for line in open(os.environ["NIGHTLAB_DATA"])]
w = float(np.load(sys.argv[2], allow_pickle=False)["w"])
errors = [abs(w - y) for y in truth]
print(json.dumps({"value": sum(errors) / len(errors), "per_example": errors, "secondary": {"w": w}}))
"""
VALIDATION, SEALED = ("".join(f'{{"y": {start + n / 100}}}\n' for n in range(20)) for start in (1.0, 1.5))
FILES = {
    "train.py": TRAIN.replace("KNOB", "5"),
    "judge.py": JUDGE,
    "nightlab.toml": ARTIFACT_TASK,
    "judge/validation.jsonl": VALIDATION,
    "judge/sealed.jsonl": SEALED,
}


def knob(value: float, *, what: str = "") -> Proposal:
    return Proposal(what or f"knob {value}", {"train.py": TRAIN.replace("KNOB", str(value))})


def script(text: str) -> Proposal:
    return Proposal(text.splitlines()[-1], {"train.py": "import os\nOUT = os.environ['NIGHTLAB_OUT']\n" + text})


def night(
    folder: Path, *proposals: Proposal, audited: bool = False
) -> tuple[list[Experiment], list[dict[str, object]], dict[str, Any] | None]:
    """What a study over these proposals comes to: its experiments, the bodies of their `ran` events, its audit."""
    place = find(folder)
    with held(place), closing(Study(place)) as study:
        study.loop([Scripted(proposals)]).run(Stop(experiments=len(proposals)))
        ran = [event.body for event in study.ledger.read() if event.kind == "ran"]
        return list(study.ledger.experiments()), ran, study.auditor().audit() if audited else None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "my é task", FILES)


# --- level artifact ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_judge_scores_the_artifact_and_the_audit_opens_the_seal(folder: Path) -> None:
    experiments, ran, audit = night(folder, knob(2), audited=True)

    assert experiments[1].status is Status.KEPT
    assert experiments[0].value == pytest.approx(3.9, abs=0.1)
    assert ran[0]["secondary"] == {"w": pytest.approx(5, abs=0.1)}
    assert audit is not None
    assert audit["sealed"] is not None
    assert audit["sealed"]["start"] == pytest.approx(5 - 1.595, abs=0.05)


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        import os

        return os.system, ("touch exploded",)


CHEATS = [
    ("print('no work')", "left no model.npz"),
    ("os.symlink('/etc/passwd', OUT + '/model.npz')", "cannot be read as a plain file"),
    ("os.mkfifo(OUT + '/model.npz')", "is no plain file"),
    ("os.mkdir(OUT + '/model.npz')", "is no plain file"),
    (
        "import pickle\nclass Bomb:\n  def __reduce__(self): return os.system, ('touch /tmp/x',)\n"
        "pickle.dump(Bomb(), open(OUT + '/model.npz', 'wb'))",
        "a pickle is never opened",
    ),
    (
        "import numpy as np\nclass Bomb:\n  def __reduce__(self): return os.system, ('touch /tmp/x',)\n"
        "np.savez(OUT + '/model.npz', w=np.array([Bomb()], object))",
        "w.npy: it holds Python objects, which only unpickling could read",
    ),
    ("open(OUT + '/model.npz', 'wb').truncate(2 << 30)", "at most 1073741824 are allowed"),
]


def test_what_may_not_be_opened_is_refused_in_words(folder: Path) -> None:
    experiments, _, _ = night(folder, *(script(text) for text, _ in CHEATS))

    for (text, words), experiment in zip(CHEATS, experiments[1:], strict=True):
        assert (experiment.status, experiment.value) == (Status.INVALID, None), text
        assert words in experiment.reason, text


def npz(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tensors(header: object, size: int) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


FLOATS = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npz", npz(w=npy(np.ones(3))), None),
        ("a.npz", npz(w=npy(np.ones(3)), v=npy(np.array(["a", "b"]))), None),
        ("a.npz", b"", "does not begin as a zip"),
        ("a.npz", pickle.dumps(Bomb()) + npz(w=npy(np.ones(3))), "a pickle is never opened"),
        ("a.npz", npz(w=npy(np.ones(3))[:-1]), "and holds"),
        ("a.npz", npz(w=npy(np.ones(3)).replace(b"(3,)", b"(9,)")), "and holds"),
        ("a.npz", npz(w=npy(np.ones(3)).replace(b"'<f8'", b"__imp")), "w.npy"),
        ("a.npz", npz(w=b"x" * 200), "w.npy"),
        ("a.npz", npz(), "0 arrays"),
        ("a.npz", npz(w=npy(np.zeros(10_000_000))), "unpack to 80000128 bytes"),
        ("a.npz", npz(w=npy(np.ones(3)))[:100], "no sound .npz file"),
        ("a.json", b'{"w": [1, 2]}', None),
        ("a.json", b'{"w": ', "no sound .json file"),
        ("a.json", b"[" * 200_000, "no sound .json file"),
        ("a.json", b"\xff\xfe\xfd", "no sound .json file"),
        ("a.safetensors", tensors({"w": FLOATS, "__metadata__": {"a": "b"}}, 8), None),
        ("a.safetensors", tensors({"w": FLOATS}, 9), "fill 8 of 9 bytes"),
        ("a.safetensors", tensors({"w": FLOATS, "v": FLOATS}, 8), "overlap"),
        ("a.safetensors", tensors({"w": FLOATS | {"shape": [3]}}, 8), "not of the size they claim"),
        ("a.safetensors", tensors({"w": FLOATS | {"dtype": "PICKLE"}}, 8), "PICKLE"),
        ("a.safetensors", tensors([], 8), "fill 0 of 8 bytes"),
        ("a.safetensors", struct.pack("<Q", 1 << 62) + b"{}", "claims"),
        ("a.safetensors", b"", "no sound .safetensors file"),
    ],
    ids=lambda of: of if isinstance(of, str) else "" if of is None else "bytes",  # they hold the time of day
)
def test_only_a_sound_file_is_taken(tmp_path: Path, name: str, content: bytes, words: str | None) -> None:
    out, into = tmp_path / "out", tmp_path / "into"
    out.mkdir()
    into.mkdir()
    (out / name).write_bytes(content)

    if words is None:
        assert taken(out, name, into, most=1 << 25).read_bytes() == content
    else:
        with pytest.raises(Invalid, match=words):
            taken(out, name, into, most=1 << 25)


def test_whatever_is_cut_or_flipped_is_taken_or_refused_and_nothing_else(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, whole in (
        ("a.npz", npz(w=npy(np.ones(3)), v=npy(np.ones((2, 2), "f4")))),
        ("a.safetensors", tensors({"w": FLOATS}, 8)),
        ("a.json", b'{"w": [1, 2.5e3, "x"]}'),
    ):
        for number in range(400):
            content = bytearray(whole)
            for place in random.integers(0, len(content), random.integers(1, 4)):
                content[place] = random.integers(0, 256)
            out, into = tmp_path / f"{name}-{number}", tmp_path / f"{name}-{number}-into"
            out.mkdir()
            into.mkdir()
            (out / name).write_bytes(content[: random.integers(0, 2 * len(content))])
            with suppress(Invalid):
                taken(out, name, into, most=1 << 20)


def test_a_pickle_bomb_does_not_go_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(pickle.dumps(Bomb())) == 0
    (tmp_path / "exploded").unlink()
    (tmp_path / "into").mkdir()
    np.savez(tmp_path / "a.npz", w=np.array([Bomb()], object))

    with pytest.raises(Invalid, match="only unpickling could read"):
        taken(tmp_path, "a.npz", tmp_path / "into", most=1 << 20)

    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["model.pkl", "model.pt", "model.pth", "../model.npz", "a/b.npz", "model"])
def test_a_task_may_ask_only_for_a_file_that_can_hold_no_code(name: str) -> None:
    with pytest.raises(BadTask, match=r"\.npz, \.safetensors, \.json"):
        parse(ARTIFACT_TASK.replace("model.npz", name))


# --- judges -----------------------------------------------------------------------------------------------------------


def judge(folder: Path, text: str, *, timeout: float = 20.0) -> Judge:
    (folder / "judge.py").write_text(text)
    return Judge(("python3", "judge.py"), folder, folder, {"data": "a", "sealed": "b"}, timeout=timeout)


JUDGES = [
    ("", "the judge printed nothing"),
    ("print('score 3')", "must print one JSON line with a 'value'; it printed 'score 3"),
    ("print('[1]')", "must print one JSON line"),
    ("print('{\"loss\": 3}')", "with a 'value'"),
    ('print(\'{"value": "3"}\')', "must be a number"),
    ("print('{\"value\": true}')", "must be a number"),
    ("1 / 0", "ZeroDivisionError: division by zero"),
    ("import sys; sys.exit(3)", "exit code 3"),
    ("import time; time.sleep(60)", "did not end within 2 s"),
    ("import os; os.close(1); os.close(2); import time; time.sleep(60)", "did not end within 2 s"),
    ("while True: print('x' * 100000)", "said more than 16 MB"),
    ("import random; print('{\"value\": %r}' % random.random())", "disagrees with itself"),
    ('print(\'{"value": 1, "per_example": "../x.npy"}\')', "'per_example' cannot be used"),
    ('print(\'{"value": 1, "per_example": "none.npy"}\')', "left no none.npy"),
    ('print(\'{"value": 1, "per_example": [1]}\')', "1 values"),
    ('print(\'{"value": 1, "per_example": [1, NaN]}\')', "not finite"),
    ('print(\'{"value": 1, "per_example": [1, 1e308]}\')', "too large to be compared"),
    ('print(\'{"value": 1, "per_example": "objects.npy"}\')', "Python objects"),
    ('print(\'{"value": 1, "per_example": "link.npy"}\')', "cannot be read as a plain file"),
    ('print(\'{"value": 1, "per_example": "square.npy"}\')', "one number for each example"),
]


@pytest.mark.parametrize(("text", "words"), JUDGES)
def test_a_judge_that_fails_is_told_in_words(tmp_path: Path, text: str, words: str) -> None:
    left = tmp_path / "left"
    left.mkdir()
    np.save(left / "objects.npy", np.array([Bomb(), Bomb()], object))
    np.save(left / "square.npy", np.ones((2, 2)))
    np.save(left / "honest.npy", np.ones(2))
    (left / "link.npy").symlink_to("honest.npy")

    with pytest.raises(Unscored) as caught:
        judge(tmp_path, text, timeout=2.0).score(left, seed=1, part="data")

    assert words in str(caught.value)


def test_a_judge_that_cannot_be_started_is_a_mistake_in_the_task(tmp_path: Path) -> None:
    with pytest.raises(BadTask, match="cannot be started at nowhere give"):
        Judge(("nowhere",), tmp_path, tmp_path, {"data": "a"}).give(tmp_path, seed=1, budget=None)


def test_per_example_values_come_as_a_list_or_as_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "each.npy", np.array([1, 2, 3], "i4"))
    listed = judge(tmp_path, 'print(\'{"value": 1, "per_example": [1, 2.5]}\')')
    assert listed.score(tmp_path, seed=1, part="data").per_example == (1.0, 2.5)
    filed = judge(tmp_path, 'print(\'{"value": 1, "per_example": "each.npy"}\')')
    assert filed.score(tmp_path, seed=1, part="data").per_example == (1.0, 2.0, 3.0)
    assert numbers(tmp_path, "each.npy") == (1.0, 2.0, 3.0)


def test_what_was_asked_has_a_name_that_follows_its_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == first
    (tmp_path / "a").write_text("2")
    assert fingerprint(tmp_path) != first


def test_a_study_does_not_begin_with_a_judge_that_disagrees_with_itself(folder: Path) -> None:
    (folder / "judge.py").write_text("import random; print('{\"value\": %r}' % random.random())")
    git(folder, "commit", "-aqm", "a bad judge")

    with pytest.raises(BadTask, match="disagrees with itself"):
        night(folder, knob(2))

    (folder / "judge.py").write_text(JUDGE)
    git(folder, "commit", "-aqm", "a mended judge")
    assert night(folder, knob(2))[0][1].status is Status.KEPT


def test_a_candidate_that_the_judge_stumbles_over_costs_one_experiment(folder: Path) -> None:
    odd = script("import numpy as np\nnp.savez(OUT + '/model.npz', other=1)")

    experiments, _, _ = night(folder, odd, knob(2))

    assert experiments[1].status is Status.INVALID
    assert "the judge failed at" in experiments[1].reason
    assert "KeyError" in experiments[1].reason
    assert experiments[2].status is Status.KEPT


PREDICTIONS = {
    "nightlab.toml": ARTIFACT_TASK.replace("artifact =", "predict = 'python predict.py'\nartifact =").replace(
        '"artifact"', '"predictions"'
    ),
    "train.py": "import os, sys\nopen(os.environ['NIGHTLAB_OUT'] + '/model', 'w').write('2')\n",
    "predict.py": """\
import os, pathlib
given, answers = (pathlib.Path(os.environ[name]) for name in ("NIGHTLAB_INPUTS", "NIGHTLAB_PREDICTIONS"))
model = float((pathlib.Path(os.environ["NIGHTLAB_OUT"]) / "model").read_text())
(answers / "y").write_text("\\n".join(str(model * float(x)) for x in (given / "x").read_text().split()))
""",
    "judge.py": """\
import json, os, pathlib, random, sys
import numpy as np
verb, folder = sys.argv[1], pathlib.Path(sys.argv[2])
xs = [random.Random(int(os.environ["NIGHTLAB_SEED"])).random() for _ in range(5)]
if verb == "ask":
    (folder / "x").write_text(" ".join(map(str, xs)))
elif verb == "score":
    said = [float(word) for word in (folder / "y").read_text().split()]
    np.save(folder / "each.npy", [abs(y - 3 * x) for x, y in zip(xs, said, strict=True)])
    print(json.dumps({"value": sum(abs(y - 3 * x) for x, y in zip(xs, said)), "per_example": "each.npy"}))
""",
    "judge/validation.jsonl": VALIDATION,
    "judge/sealed.jsonl": SEALED,
}


@pytest.mark.slow
def test_predictions_carry_each_examples_error_and_the_name_of_what_was_asked(tmp_path: Path) -> None:
    place = find(make_repository(tmp_path / "study", PREDICTIONS))
    with held(place), closing(Study(place, jail="process")) as study:
        tree = place.repository.tree(place.repository.head())

        def run(name: str, seed: int, **files: str) -> Finding:
            changed = tree.changed(files)
            return study.runner.start(Attempt(name, 1, "candidate", seed, 1), changed, files).result()

        one, same, other = (run(name, seed).measurement for name, seed in (("a", 1), ("b", 1), ("c", 2)))
        idle = run("d", 1, **{"train.py": "print('nothing')"}).invalid
        vandal = "import os, pathlib\npathlib.Path(os.environ['NIGHTLAB_OUT']).rmdir()\n"
        bare = run("e", 1, **{"train.py": vandal}).invalid

    assert one is not None
    assert same is not None
    assert other is not None
    assert one.per_example is not None
    assert len(one.per_example) == 5
    assert sum(one.per_example) == pytest.approx(one.value)
    assert one.examples == same.examples != other.examples
    for problem in (idle, bare):
        assert "predicting failed" in str(problem)
        assert "the run itself left nothing in NIGHTLAB_OUT" in str(problem)


# --- the sealed set ---------------------------------------------------------------------------------------------------


def held_back(folder: Path, files: Mapping[str, bytes], *, data: str, sealed: str) -> str:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    text = ARTIFACT_TASK.replace("judge/validation.jsonl", data).replace("judge/sealed.jsonl", sealed)
    return examine(parse(text), folder)


A, B = b'{"x": 1}\n{"x": 2}\n{"x": 3}\n', b'{"x": 4}\n\n{"x": 3}\n{"x": 1} \n'
GRID = np.arange(12.0).reshape(6, 2)


@pytest.mark.parametrize(
    ("files", "data", "sealed", "words"),
    [
        ({"a.jsonl": A}, "a.jsonl", "b.jsonl", "names 'b.jsonl', and .* does not exist; make it, or take the line out"),
        ({"b.jsonl": A}, "a.jsonl", "b.jsonl", "data names 'a.jsonl'"),
        ({"a/x": b"1"}, "a", "b", "sealed names 'b'"),
        ({"a.jsonl": A, "b.jsonl": b"\n \n"}, "a.jsonl", "b.jsonl", "is empty: it holds no row"),
        ({"a.csv": b"x,y\n1,2\n", "b.csv": b"x,y\n"}, "a.csv", "b.csv", "is empty"),
        ({"a/x": b"1", "b/y": b""}, "a", "b", "is empty"),
        ({"a.npy": npy(GRID), "b.npy": npy(GRID[:0])}, "a.npy", "b.npy", "is empty"),
        ({"a.npy": npy(GRID), "b.npy": b"rubbish"}, "a.npy", "b.npy", "cannot be read as plain arrays"),
        ({"a.jsonl": A}, "a.jsonl", "a.jsonl", "are both"),
        (
            {"a.jsonl": A, "b.jsonl": B},
            "a.jsonl",
            "b.jsonl",
            "in 2 places: row 3 of b.jsonl is row 3 of a.jsonl; row 4 of b.jsonl is row 1 of a.jsonl; take",
        ),
        (
            {"a.csv": b"x,y\n1,2\n", "b.csv": b"x,y\n3,4\n1,2\n"},
            "a.csv",
            "b.csv",
            "in 1 place: row 3 of b.csv is row 2 of a.csv",
        ),
        (
            {"a.npy": npy(GRID), "b.npy": npy(GRID[[5]] + [[0, 0], [7, 7]])},
            "a.npy",
            "b.npy",
            "row 1 of b.npy is row 6 of a.npy",
        ),
        (
            {"a/i/1.png": b"cat", "a/2.png": b"dog", "b/7.png": b"cat"},
            "a",
            "b",
            "b/7.png is a/i/1.png",
        ),
        ({"a/r.jsonl": A, "b/s.jsonl": B}, "a", "b", "row 3 of b/s.jsonl is row 3 of a/r.jsonl"),
        ({"a.txt": b"x" * 40 + b"\n}\n", "b.txt": b"}\n" + b"x" * 40}, "a.txt", "b.txt", "row 2 of b.txt is row 1"),
    ],
)
def test_a_sealed_set_that_is_none_is_told(
    tmp_path: Path, files: Mapping[str, bytes], data: str, sealed: str, words: str
) -> None:
    with pytest.raises(BadTask, match=words):
        held_back(tmp_path, files, data=data, sealed=sealed)


@pytest.mark.parametrize(
    ("files", "data", "sealed", "words"),
    [
        ({"a.jsonl": A, "b.jsonl": b'{"x": 9}\n'}, "a.jsonl", "b.jsonl", "sealed: no row"),
        ({"a.npy": npy(GRID), "b.npy": npy(GRID + 0.5)}, "a.npy", "b.npy", "sealed: no row"),
        ({"a.npy": npy(np.arange(9)), "b.npy": npy(np.arange(5))}, "a.npy", "b.npy", "sealed: no row"),
        ({"a.csv": b"x,y\n1,2\n", "b.csv": b"x,y\n3,4\n"}, "a.csv", "b.csv", "sealed: no row"),
        ({"a.txt": b"yes\n", "b.txt": b"yes\nno\n"}, "a.txt", "b.txt", "sealed: no row"),
        ({}, "validation", "sealed", "by the judge's word"),
        ({"a.jsonl": A}, "a.jsonl", "", "not sealed"),
    ],
)
def test_what_can_be_said_of_a_sound_sealed_set(
    tmp_path: Path, files: Mapping[str, bytes], data: str, sealed: str, words: str
) -> None:
    assert words in held_back(tmp_path, files, data=data, sealed=sealed)


def test_an_overlap_ends_the_check_with_the_rows(folder: Path, nightlab: Callable[..., object]) -> None:
    (folder / "judge" / "sealed.jsonl").write_text(SEALED + VALIDATION.splitlines()[6] + "\n")

    done = nightlab("check", at=folder, check=False)

    assert done.returncode == 2  # type: ignore[attr-defined]
    assert "row 21 of judge/sealed.jsonl is row 7 of judge/validation.jsonl" in done.stderr  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_study_without_a_sealed_set_is_allowed_and_says_so(folder: Path, nightlab: Callable[..., object]) -> None:
    (folder / "nightlab.toml").write_text(ARTIFACT_TASK.replace('sealed = "judge/sealed.jsonl"\n', ""))

    said = nightlab("check", at=folder).stdout  # type: ignore[attr-defined]
    audit = night(folder, knob(2), audited=True)[2]

    assert "Not sealed: the audit has fresh seeds" in said
    assert "The judge agrees with itself" in said
    assert "3 seeds gave 3 numbers" in said
    assert "Level artifact" in said
    assert audit is not None
    assert audit["sealed"] is None
    assert audit["data"] == "not sealed"
    with closing(find(folder).read()) as ledger:
        assert [one.grade for one in ledger.experiments() if one.grade == "E3"] == []
    assert ", not sealed" in nightlab("status", at=folder).stdout  # type: ignore[attr-defined]


def test_no_run_is_shown_the_judges_data() -> None:
    for shown in ("judge", "judge/validation.jsonl", ".", "judge/sealed.jsonl/x"):
        with pytest.raises(BadTask, match="would show runs the judge's"):
            parse(ARTIFACT_TASK.replace("[metric]", f'data = ["{shown}"]\n[metric]'))


# --- plausibility and facts -------------------------------------------------------------------------------------------

WORK = """\
import time
end = time.process_time() + 0.8
while time.process_time() < end:
    pass
print("width: 12")
print("score: 5")
"""
HASTY = "[limits]\nfastest = 0.3\n"


@pytest.mark.parametrize(("rules", "status"), [(HASTY, Status.INVALID), ("[limits]\nfastest = 0\n", Status.KEPT)])
@pytest.mark.slow
def test_a_run_that_did_no_work_is_too_fast_to_be_believed(tmp_path: Path, rules: str, status: Status) -> None:
    folder = make_repository(tmp_path / "study", {"train.py": WORK, "nightlab.toml": TASK + rules})

    experiments, _, _ = night(folder, script("print('score: 1')"))

    assert experiments[1].status is status
    assert status is Status.KEPT or "too fast to be believed; where such a gain" in experiments[1].reason


def test_a_run_that_prints_nothing_is_told_apart(tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "study", {"train.py": "print('score: 5')", "nightlab.toml": TASK})

    experiments, _, _ = night(folder, script("pass"))

    assert (experiments[1].status, experiments[1].reason) == (Status.INVALID, "printed nothing at all")


@pytest.mark.slow
def test_a_wall_budget_is_held_tightly_for_real(tmp_path: Path) -> None:
    sleeps = "import time\ntime.sleep({})\nprint('score: {}')\n"
    rules = "[budget]\nkind = 'wall'\namount = 0.6\n"
    files = {"train.py": sleeps.format(0.6, 5), "nightlab.toml": TASK + rules}
    folder = make_repository(tmp_path / "study", files)
    slow, fair = (Proposal("sleep", {"train.py": sleeps.format(seconds, 1)}) for seconds in (1.2, 0.62))

    experiments, _, _ = night(folder, slow, fair)

    assert [one.status for one in experiments[1:3]] == [Status.TIMEOUT, Status.KEPT]


@pytest.mark.slow
def test_what_really_ran_is_recorded(tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "study", {"train.py": WORK, "nightlab.toml": TASK})
    rewrites = script("open('train.py', 'a').write('# more')\nprint('width: 640')\nprint('dim 512')\nprint('score: 1')")

    experiments, ran, _ = night(folder, rewrites)

    facts = [body["facts"] for body in ran]
    assert all(isinstance(one, dict) for one in facts)
    first, last = facts[0], facts[-1]
    assert first["said"] == {"width": 12.0, "score": 5.0}  # type: ignore[index]
    assert first["tree_after"] == "same"  # type: ignore[index]
    assert first["machine"]["cores"] >= 1  # type: ignore[index]
    assert first["load"] >= 0  # type: ignore[index]
    assert last["tree"] == experiments[1].tree  # type: ignore[index]
    assert last["said"] == {"width": 640.0, "score": 1.0}  # type: ignore[index]
    assert len(last["tree_after"]) == 40 != last["tree"]  # type: ignore[index]
