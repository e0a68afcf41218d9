import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nightlab import task, tasks
from nightlab.errors import BadTask, NotFound
from nightlab.workspace import patched

TINY = 200_000  # bytes of training text: enough to be sure of beating a blind guess


@pytest.fixture(params=tasks.NAMES)
def template(request, tmp_path):
    tasks.write(request.param, tmp_path / request.param)
    return tmp_path / request.param


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """The judge's own folder, shared by all tests: building the text takes longest."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tinylm(tmp_path, cache):
    return TinyLM(tmp_path, cache)


@pytest.fixture
def judge(cache, monkeypatch):
    """The judge as a module, for what no folder shows."""
    monkeypatch.setenv("NIGHTLAB_CACHE", str(cache))
    spec = importlib.util.spec_from_file_location("tinylm_judge", Path(str(tasks.folder("tinylm") / "judge.py")))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TinyLM:
    """The template with the folders a lab gives it, and the judge in a folder of its own."""

    def __init__(self, root, cache):
        self.tree, self.home, self.root = root / "tree", root / "home", root
        tasks.write("tinylm", self.tree)
        self.home.mkdir()
        shutil.move(self.tree / "judge.py", self.home)
        self.env = {"NIGHTLAB_CACHE": str(cache), "NIGHTLAB_DATA": "validation", "NIGHTLAB_BUDGET": f"{TINY}"}

    def folder(self, name):
        (self.root / name).mkdir(exist_ok=True)
        return self.root / name

    def judge(self, verb, folder, *, seed, **env):
        return python(self.home, "judge.py", verb, folder, NIGHTLAB_SEED=seed, **self.env | env)

    def given(self, name, *, seed):
        self.judge("give", self.folder(name), seed=seed).check_returncode()
        return (self.folder(name) / "text.bin").read_bytes()

    def run(self, *, seed=0):
        """Train and predict; what the judge says of it."""
        self.given("given", seed=seed)
        out = self.folder("out")
        python(
            self.tree, "train.py", NIGHTLAB_SEED=seed, NIGHTLAB_GIVEN=self.root / "given", NIGHTLAB_OUT=out
        ).check_returncode()
        self.ask()
        predictions = self.folder("predictions")
        for part in ("", "again"):
            (predictions / part).mkdir(exist_ok=True)
            env = {"NIGHTLAB_INPUTS": self.root / "inputs" / part, "NIGHTLAB_PREDICTIONS": predictions / part}
            python(self.tree, "predict.py", NIGHTLAB_OUT=out, **env).check_returncode()
        return self.judge("score", predictions, seed=7)

    def ask(self):
        shutil.rmtree(self.root / "inputs", ignore_errors=True)
        self.judge("ask", self.folder("inputs"), seed=7).check_returncode()

    def score(self, predictions):
        """What the judge says of an array, saved as it is."""
        np.save(self.folder("predictions") / "log_probabilities.npy", predictions)
        (self.folder("predictions") / "again").mkdir(exist_ok=True)
        np.save(self.folder("predictions") / "again" / "log_probabilities.npy", predictions[:256])
        return self.judge("score", self.root / "predictions", seed=7)

    def examples(self):
        self.ask()
        return len(np.load(self.root / "inputs" / "contexts.npy"))


def python(folder, *words, **env):
    """A script of a template, run as a lab would, on one core."""
    kept = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    one_core = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = kept | one_core | {name: str(value) for name, value in env.items()}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


# --- every template ---------------------------------------------------------------------------------------------------


def test_every_template_holds_a_valid_task_and_a_brief(template):
    read = task.load(template)

    assert (template / "program.md").read_text().startswith("# ")
    for glob in read.task.editable:
        assert list(template.glob(glob))
    for script in (read.task.run, read.task.predict, read.judge and read.judge.run):
        assert script is None or (template / (script.split() * 2)[1]).is_file()
    assert not any(read.is_editable(path) for path in ("judge.py", "predict.py", "evaluate.py", "bench.py"))


def test_a_template_never_overwrites_a_file(tmp_path):
    (tmp_path / "train.py").write_text("mine")

    with pytest.raises(BadTask, match=r"train\.py"):
        tasks.write("tinylm", tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]


def test_an_unknown_template_is_told_what_there_is():
    with pytest.raises(NotFound, match="tinylm, compress, speed, gpt, prompt"):
        tasks.folder("chess")


# --- tinylm -----------------------------------------------------------------------------------------------------------


def test_tinylm_trains_predicts_and_is_scored(tinylm):
    done = tinylm.run()

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    bits = np.load(tinylm.root / "predictions" / said["per_example"])
    assert 3.0 < said["value"] < 8.0
    assert said["value"] == pytest.approx(bits.mean())
    assert len(bits) == tinylm.examples() > 5_000


def test_a_blind_guess_costs_eight_bits(tinylm):
    done = tinylm.score(np.full((tinylm.examples(), 256), -np.log(256), dtype=np.float32))

    assert json.loads(done.stdout)["value"] == pytest.approx(8.0, abs=1e-5)


def test_the_judge_says_why_it_refuses_and_exits_with_one(tinylm):
    done = tinylm.score(np.zeros((tinylm.examples() - 1, 256), dtype=np.float32))

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("invalid: the shape is")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda p: p[1:], "shape"),
        (lambda p: p.astype(object), "plain numbers"),
        (lambda p: p.astype(np.int64), "float32"),
        (lambda p: np.where(np.arange(256) == 3, np.nan, p), "number of at most 0"),
        (lambda p: np.full_like(p, np.inf), "number of at most 0"),
        (lambda p: p + 0.1, "sum to 1"),
        (lambda p: np.zeros_like(p), "sum to 1"),
        (lambda p: np.full_like(p, -np.inf), "sum to 1"),
        (lambda p: np.where(np.arange(256) == 0, 0.0, -np.inf) + 0 * p, "no probability"),
    ],
    ids=["shape", "objects", "integers", "nan", "infinite", "too much", "all certain", "nothing", "zero for what came"],
)
def test_the_judge_refuses_what_may_not_be_believed(judge, tmp_path, spoil, reason):
    answers = np.arange(50, dtype=np.uint8)
    np.save(tmp_path / "spoilt.npy", spoil(np.full((50, 256), -np.log(256))))

    with pytest.raises(judge.Invalid, match=reason):
        judge.believed(judge.read(tmp_path / "spoilt.npy", 50), answers)


def test_small_errors_of_the_sum_are_taken_out(judge):
    answers = np.arange(50, dtype=np.uint8)

    bits, accuracy = judge.believed(np.full((50, 256), -np.log(256) + 0.0009), answers)

    assert bits == pytest.approx(np.full(50, 8.0))
    assert accuracy == pytest.approx(1 / 50)


def test_the_judge_refuses_a_file_that_is_missing_a_link_or_rubbish(judge, tmp_path):
    np.save(tmp_path / "honest.npy", np.full((50, 256), -np.log(256)))
    (tmp_path / "link.npy").symlink_to("honest.npy")
    (tmp_path / "rubbish.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'shape': (")

    assert judge.read(tmp_path / "honest.npy", 50).shape == (50, 256)
    for name in ("missing.npy", "link.npy", "rubbish.npy"):
        with pytest.raises(judge.Invalid, match=name):
            judge.read(tmp_path / name, 50)


def test_the_given_text_has_the_budget_s_size_and_follows_the_seed(tinylm, judge):
    one, again, other = tinylm.given("a", seed=1), tinylm.given("b", seed=1), tinylm.given("c", seed=2)

    assert len(one) == len(other) == TINY
    assert one == again != other
    assert one[:4096] in judge.text("train").read_bytes().translate(judge.names())


def test_the_bytes_have_other_names_in_every_study(judge, tmp_path, monkeypatch):
    here = judge.names()
    renamed = judge.questions("validation", 3)[1]
    monkeypatch.setattr(judge, "names", lambda: bytes(range(256)))

    assert sorted(here) == list(range(256))
    assert bytes(judge.questions("validation", 3)[1]).translate(here) == bytes(renamed)
    monkeypatch.undo()
    monkeypatch.setenv("NIGHTLAB_CACHE", str(tmp_path))
    assert judge.names() != here


def test_an_answer_that_depends_on_what_else_was_asked_is_refused(judge):
    among = np.full((50, 256), -np.log(256))

    judge.alone(among, among + 1e-4)
    with pytest.raises(judge.Invalid, match="fewer others"):
        judge.alone(among, np.where(np.arange(50)[:, None] == 7, among + 0.01, among))
    with pytest.raises(judge.Invalid, match="fewer others"):
        judge.alone(among, np.where(np.arange(50)[:, None] == 7, np.nan, among))


def test_nobody_can_tell_from_the_seed_which_contexts_are_asked_again(judge, tmp_path, monkeypatch):
    here = judge.repeated(10_000, "validation", 7)
    same = judge.repeated(10_000, "validation", 7)
    monkeypatch.setenv("NIGHTLAB_CACHE", str(tmp_path))
    elsewhere = judge.repeated(10_000, "validation", 7)

    assert len(set(here)) == judge.AGAIN
    assert list(here) == list(same) != list(elsewhere)


def test_the_jail_hides_all_that_is_held_out(judge):
    read = task.parse((tasks.folder("tinylm") / "nightlab.toml").read_text())

    hidden = {Path(glob).name.removesuffix(".py") for glob in read.judge.hide}

    assert hidden == set().union(*judge.HELD_OUT.values())
    assert all(glob.startswith("{stdlib}/") for glob in read.judge.hide)


def test_what_is_held_out_is_not_needed_by_a_training_script(judge):
    script = (
        "import sys, numpy, numpy.random, numpy.linalg, numpy.testing, argparse, collections, concurrent.futures, csv\n"
        "import dataclasses, functools, gzip, heapq, importlib.metadata, json, logging, math, multiprocessing, pickle\n"
        "import random, statistics, subprocess, tempfile, threading, time, typing, zipfile\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )

    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()

    assert not set(loaded) & set().union(*judge.HELD_OUT.values())


def test_a_budget_beyond_the_text_is_an_error_and_no_shorter_gift(tinylm):
    done = tinylm.judge("give", tinylm.folder("given"), seed=1, NIGHTLAB_BUDGET=1e9)

    assert done.returncode == 1
    assert "more than" in done.stderr


def test_no_context_holds_an_answer(judge, monkeypatch):
    # a text whose bytes say where they are
    monkeypatch.setattr(judge.np, "frombuffer", lambda content, dtype: np.arange(10_000))

    for seed in range(20):
        contexts, answers = judge.questions("validation", seed)
        assert not set(contexts.ravel()) & set(answers)
        assert np.array_equal(contexts[:, -1] + 1, answers)
        assert contexts.shape == (len(answers), 32)


def test_the_parts_share_no_file_and_none_is_small(judge):
    root = Path(judge.sysconfig.get_path("stdlib"))
    sides = {
        part: [p for p in judge.files(root) if judge.side(p.relative_to(root).as_posix()) == part]
        for part in ("train", *judge.HELD_OUT)
    }

    assert sum(map(len, sides.values())) == len({path for side in sides.values() for path in side})
    assert len(judge.files(root)) == sum(map(len, sides.values()))
    for part, paths in sides.items():
        assert judge.text(part).stat().st_size == sum(p.stat().st_size + 1 for p in paths) - 1


def test_the_parts_ask_different_questions_and_seeds_move_the_grid(judge):
    validation, sealed = judge.questions("validation", 1)[0], judge.questions("sealed", 1)[0]

    assert validation[100].tobytes() != sealed[100].tobytes()
    assert validation[100].tobytes() != judge.questions("validation", 2)[0][100].tobytes()
    assert np.array_equal(validation, judge.questions("validation", 1)[0])


@pytest.mark.parametrize("idea", sorted(p.name for p in (tasks.folder("tinylm") / "ideas").iterdir()))
@pytest.mark.slow
def test_every_idea_applies_to_the_start_and_runs(tinylm, idea):
    text = (tinylm.tree / "ideas" / idea).read_text()
    start = (tinylm.tree / "train.py").read_text()

    changed = patched({"train.py": start}, text)
    tuned = patched({"train.py": start.replace("HIDDEN = 64", "HIDDEN = 96").replace("0.05", "0.2")}, text)

    assert text.split("diff --git")[0].strip()
    assert tuned is not None
    (tinylm.tree / "train.py").write_text(changed["train.py"])
    done = tinylm.run()
    assert done.returncode == 0, done.stderr


def test_the_start_imports_nothing_but_numpy_and_the_standard_library():
    tree = ast.parse((tasks.folder("tinylm") / "train.py").read_text())

    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert imported == {"os", "numpy"}


# --- compress ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def compress(tmp_path):
    tasks.write("compress", tmp_path)
    return tmp_path


def test_compress_repeats_exactly_whatever_the_seed(compress):
    first = python(compress, "evaluate.py", NIGHTLAB_SEED=1, NIGHTLAB_BUDGET="5000")
    second = python(compress, "evaluate.py", NIGHTLAB_SEED=2, NIGHTLAB_BUDGET="5000.0", PYTHONHASHSEED=3)

    assert first.stdout == second.stdout
    assert 3.0 < float(first.stdout.removeprefix("bits_per_byte: ")) < 4.5


def test_compress_gains_from_mixing_only_when_two_constants_change_at_once(compress):
    start = (compress / "model.py").read_text()
    changes = [("", ""), ("MIX = 0.0", "MIX = 0.4"), ("SECOND_ORDER = 1", "SECOND_ORDER = 3")]

    def value(*edits):
        text = start
        for old, new in edits:
            assert old in text
            text = text.replace(old, new, 1)
        (compress / "model.py").write_text(text)
        return float(python(compress, "evaluate.py").stdout.split(": ")[1])

    nothing, mix, order = (value(change) for change in changes)
    assert mix == pytest.approx(nothing)
    assert order == nothing
    assert value(*changes[1:]) < 0.97 * nothing


@pytest.mark.parametrize("said", ["1.0", "0.0", "float('nan')", "2.0"])
def test_compress_refuses_what_is_no_probability(compress, said):
    (compress / "model.py").write_text(
        f"class Model:\n  predict = lambda self: {said}\n  update = lambda self, bit: None\n"
    )

    done = python(compress, "evaluate.py")

    assert done.returncode == 1
    assert "between 0 and 1" in done.stderr
    assert done.stdout == ""


# --- speed ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def speed(tmp_path):
    tasks.write("speed", tmp_path)
    return tmp_path


def test_speed_starts_level_with_its_reference(speed):
    done = python(speed, "bench.py", NIGHTLAB_SEED=1)

    assert 0.7 < float(done.stdout.removeprefix("relative_time: ")) < 1.4


def test_speed_sees_a_faster_solution(speed):
    start = (speed / "solution.py").read_text()
    hopeless = "best is not None and abs(len(word) - len(candidate)) >= best"
    hasty = start.replace("found = ", f"if {hopeless}:\n                continue\n            found = ")
    (speed / "solution.py").write_text(hasty)

    done = python(speed, "bench.py", NIGHTLAB_SEED=1)

    assert float(done.stdout.removeprefix("relative_time: ")) < 0.9


@pytest.mark.parametrize(
    ("edit", "said"),
    [(("found < best", "found <= best"), "became"), (("return corrected", "return corrected[1:]"), "list of")],
    ids=["the last of equals", "one too few"],
)
def test_speed_refuses_a_wrong_solution(speed, edit, said):
    solution = speed / "solution.py"
    solution.write_text(solution.read_text().replace(*edit))

    done = python(speed, "bench.py", NIGHTLAB_SEED=1)

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("solution.py is wrong: ")
    assert said in done.stderr
