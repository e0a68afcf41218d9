"""The gpt task: it learns, on any text, from nothing but what it is given. What needs torch is slow, and says so."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from conftest import git, make_repository, need, need_level

from nightlab import tasks
from nightlab.errors import BadTask
from nightlab.place import find, held
from nightlab.proposer import Context, Scripted
from nightlab.study import Study
from nightlab.task import load
from nightlab.tuner.catalogue import catalogue_offers
from nightlab.tuner.delete import delete_offers
from nightlab.tuner.space import knobs
from nightlab.values import Proposal, Status

TINY = 200_000
PROFILES = ["nightlab.toml", "nightlab.gpu.toml"]


@pytest.fixture
def gpt(tmp_path: Path) -> GPT:
    return GPT(tmp_path)


@pytest.fixture
def torch() -> None:
    need(importlib.util.find_spec("torch") is not None, "torch is not installed (pip install torch==2.13.0)")


class GPT:
    """The template with the folders a lab gives it, and the judge in a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.tree, self.home = root, root / "tree", root / "home"
        tasks.write("gpt", self.tree, has_gpu=False)
        self.home.mkdir()
        for name in ("judge.py", "text.toml"):
            shutil.move(self.tree / name, self.home)
        self.env = {"NIGHTLAB_CACHE": str(self.folder("cache")), "NIGHTLAB_DATA": "validation"}

    def folder(self, name: str) -> Path:
        (self.root / name).mkdir(exist_ok=True)
        return self.root / name

    def judge(self, *words: object, seed: int = 1, budget: int = TINY) -> subprocess.CompletedProcess[str]:
        env = self.env | {"NIGHTLAB_SEED": str(seed), "NIGHTLAB_BUDGET": str(budget)}
        return python(self.home, "judge.py", "--context", 128, *words, **env)

    def train(self, out: str, *words: object, seed: int = 1, budget: int = TINY, **env: str) -> str:
        given = self.folder("given")
        self.judge("give", given, seed=seed, budget=budget).check_returncode()
        known = {"NIGHTLAB_SEED": str(seed), "NIGHTLAB_GIVEN": str(given), "NIGHTLAB_OUT": str(self.folder(out))}
        done = python(self.tree, "train.py", *words, **known | env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def bits_per_byte(self, out: str) -> float:
        """What the judge says of a trained model."""
        shutil.rmtree(self.root / "inputs", ignore_errors=True)
        self.judge("ask", self.folder("inputs")).check_returncode()
        for part in ("", "/again"):
            env = {"NIGHTLAB_INPUTS": f"{self.root}/inputs{part}", "NIGHTLAB_OUT": str(self.root / out)}
            predictions = str(self.folder(f"predictions{part}"))
            python(self.tree, "predict.py", **env, NIGHTLAB_PREDICTIONS=predictions).check_returncode()
        scored = self.judge("score", self.root / "predictions")
        assert scored.returncode == 0, scored.stderr
        return float(json.loads(scored.stdout)["value"])

    def side(self, name: str) -> bytes:
        return (self.root / "cache" / f"{name}.bin").read_bytes()


def python(folder: Path, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
    """A script of the template, run as a lab would."""
    command = [sys.executable, *map(str, words)]
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"} | env
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def unigram(given: bytes, asked: bytes) -> float:
    """Bits per byte of the best that can be said of a text by how often each byte comes."""
    share = (np.bincount(np.frombuffer(given, np.uint8), minlength=256) + 1.0) / (len(given) + 256)
    return float(-np.log2(share)[np.frombuffer(asked, np.uint8)].mean())


# --- the folder -------------------------------------------------------------------------------------------------------


def test_it_begins_with_the_profile_of_the_machine_and_keeps_the_other(tmp_path: Path) -> None:
    written = tasks.write("gpt", tmp_path / "cpu", has_gpu=False)
    on_gpu = tasks.write("gpt", tmp_path / "gpu", has_gpu=True)

    assert "nightlab.gpu.toml" in written
    assert "nightlab.cpu.toml" in on_gpu
    assert load(tmp_path / "cpu").budget.kind == "work"
    assert load(tmp_path / "gpu").budget.kind == "wall"
    assert (tmp_path / "gpu" / "nightlab.cpu.toml").read_bytes() == (tmp_path / "cpu" / "nightlab.toml").read_bytes()
    with pytest.raises(BadTask, match=r"judge\.py"):
        tasks.write("gpt", tmp_path / "cpu")


def test_it_has_the_judge_of_tinylm_in_a_folder_that_stands_alone(tmp_path: Path) -> None:
    tasks.write("gpt", tmp_path)

    for name in ("judge.py", "predict.py"):
        assert (tmp_path / name).read_bytes() == (tasks.folder("tinylm") / name).read_bytes()


@pytest.mark.parametrize("profile", PROFILES)
def test_the_jail_hides_all_that_is_held_out(profile: str) -> None:
    held_out = tomllib.loads((tasks.folder("gpt") / "text.toml").read_text())
    task = tomllib.loads((tasks.folder("gpt") / profile).read_text())

    hidden = {Path(glob).name.removesuffix(".py") for glob in task["judge"]["hide"]}

    assert hidden == {*held_out["validation"], *held_out["sealed"]}
    assert not {*held_out["validation"]} & {*held_out["sealed"]}
    assert all(glob.startswith("{stdlib}/") for glob in task["judge"]["hide"])


def test_the_tuner_finds_something_to_do_in_every_part_of_it() -> None:
    files = {"train.py": (tasks.folder("gpt") / "train.py").read_text()}
    context = Context(files, "val_bpb", "lower", 0, 1)

    kinds = Counter(offer.kind for offer in catalogue_offers(context) if offer.make())

    assert kinds.keys() >= {"activation", "norm", "init", "optimiser", "weight decay", "schedule", "clip", "tie"}
    assert sum(kinds.values()) >= 18
    assert len(list(delete_offers(context))) >= 20
    assert {knob.label for knob in knobs(files)} >= {"CONTEXT", "LAYERS", "WIDTH", "BATCH", "LEARNING_RATE", "INIT_STD"}


# --- the text ---------------------------------------------------------------------------------------------------------


def test_a_text_of_your_own_is_dealt_by_document_and_no_side_sees_another(gpt: GPT) -> None:
    rng, texts = Random(1), gpt.folder("texts")
    letters = "abcdefghijklmnopqrstuvwxyz     \n"
    for number in range(120):
        (texts / f"{number}.txt").write_text(f"<{number}>" + "".join(rng.choices(letters, k=60_000)))
    shutil.copy(texts / "0.txt", texts / "copy of 0.txt")
    (texts / "picture.png").write_bytes(b"\0\1" * 100)
    (gpt.home / "text.toml").write_text(f'source = "{texts}"\n')

    gpt.judge("give", gpt.folder("given")).check_returncode()
    gpt.judge("ask", gpt.folder("asked")).check_returncode()
    gpt.env["NIGHTLAB_DATA"] = "sealed"
    gpt.judge("ask", gpt.folder("asked-sealed")).check_returncode()

    numbers = [
        {piece.partition(b">")[0] for piece in gpt.side(side).split(b"<")[1:]}
        for side in ("train", "validation", "sealed")
    ]
    assert sum(map(len, numbers)) == 120 == len(set().union(*numbers))
    assert b"\0" not in gpt.side("train")
    assert (gpt.root / "given" / "text.bin").stat().st_size == TINY
    assert np.load(gpt.root / "asked" / "contexts.npy").shape[1] == 128


def test_all_the_text_is_given_where_the_budget_is_time(gpt: GPT) -> None:
    gpt.judge("--give", 10**9, "give", gpt.folder("given"), budget=300).check_returncode()

    assert len(gpt.side("train")) - 4096 < (gpt.root / "given" / "text.bin").stat().st_size <= len(gpt.side("train"))


def test_no_text_and_too_little_text_are_told(gpt: GPT) -> None:
    (gpt.home / "text.toml").write_text('source = "/no/such/folder"\n')
    nothing = gpt.judge("give", gpt.folder("given"))
    (gpt.folder("texts") / "a.txt").write_text("too short")
    (gpt.home / "text.toml").write_text(f'source = "{gpt.root / "texts"}"\n')
    little = gpt.judge("give", gpt.folder("given"))

    assert nothing.returncode == little.returncode == 1
    assert "/no/such/folder" in nothing.stderr
    assert "500,000 are needed" in little.stderr
    assert not list((gpt.root / "cache").glob("*"))


def test_a_parquet_file_is_read_with_pyarrow_or_told_how_to(gpt: GPT) -> None:
    has_pyarrow = importlib.util.find_spec("pyarrow") is not None
    path = gpt.root / "texts.parquet"
    if has_pyarrow:
        from pyarrow import parquet, table

        words = [f"document {number} " + "word " * 2000 for number in range(1000)]
        parquet.write_table(table({"body": words}), path)
    else:
        path.write_bytes(b"PAR1")
    (gpt.home / "text.toml").write_text(f'source = "{path}"\ncolumn = "body"\n')

    done = gpt.judge("ask", gpt.folder("asked"))

    assert (done.returncode == 0) == has_pyarrow
    assert has_pyarrow or "pip install pyarrow" in done.stderr


# --- with torch -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("torch")
def test_it_learns_far_more_than_how_often_a_byte_comes(gpt: GPT) -> None:
    said = gpt.train("out", budget=1_000_000)

    value = gpt.bits_per_byte("out")
    assert "parameters: 137088" in said
    assert value < 3.3 < 4.5 < unigram(gpt.side("train"), gpt.side("validation"))


@pytest.mark.slow
@pytest.mark.usefixtures("torch")
def test_the_seed_decides_and_nothing_else(gpt: GPT) -> None:
    for out, seed, threads in (("one", 1, "1"), ("again", 1, "2"), ("other", 2, "1")):
        gpt.train(out, seed=seed, OMP_NUM_THREADS=threads)

    one, again, other = (gpt.bits_per_byte(out) for out in ("one", "again", "other"))
    assert one == again != other


@pytest.mark.slow
@pytest.mark.usefixtures("torch")
def test_a_larger_size_and_a_clock_are_said_on_the_command_line(gpt: GPT) -> None:
    said = gpt.train("large", 2, "clock", NIGHTLAB_BUDGET="3")

    assert "parameters: 137088" not in said
    assert 3.0 < gpt.bits_per_byte("large") < 8.0


@pytest.mark.slow
@pytest.mark.usefixtures("torch")
def test_torch_needs_nothing_that_is_held_out() -> None:
    text = tomllib.loads((tasks.folder("gpt") / "text.toml").read_text())
    script = (
        "import sys, torch, torch.nn.functional, torch.utils.data, torch._dynamo, torch._inductor.compile_fx\n"
        "import torch.distributed, torch.profiler, torch.utils.checkpoint\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )

    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()

    assert "torch" in loaded
    assert not set(loaded) & {*text["validation"], *text["sealed"]}


SPY = """
import glob, os, sysconfig
library, places = sysconfig.get_path('stdlib'), ['judge.py', 'text.toml', *PLACES]
for name in NAMES:
    for pattern in (f'{name}.py', f'__pycache__/{name}.*', f'{name}/*'):
        places += glob.glob(f'{library}/{pattern}')
full = [path for path in places if os.path.isfile(path) and open(path, 'rb').read()]
full += [path for path in places if os.path.isdir(path) and os.listdir(path)]
print('\\n'.join(full), f'looked at: {len(places)}', f'leaked: {len(full)}', sep='\\n')
"""


@pytest.mark.slow
@pytest.mark.usefixtures("torch")
def test_a_run_can_read_nothing_of_the_text_it_is_asked_about(tmp_path: Path) -> None:
    need_level("bubblewrap")
    folder = make_repository(tmp_path / "study", {"README.md": "A model.\n"})
    tasks.write("gpt", folder, has_gpu=False)
    toml = folder / "nightlab.toml"
    toml.write_text(toml.read_text().replace("amount = 1_000_000", f"amount = {TINY}"))
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "the task")
    text: dict[str, Any] = tomllib.loads((tasks.folder("gpt") / "text.toml").read_text())
    places = [str(folder / ".nightlab" / name) for name in ("judge", "cache")]
    spy = SPY.replace("NAMES", repr(text["validation"] + text["sealed"])).replace("PLACES", repr(places))
    start = (folder / "train.py").read_text()

    with held(place := find(folder)), closing(Study(place, policy="greedy", jail="bubblewrap")) as study:
        study.loop([Scripted([Proposal("look around", {"train.py": start + spy})])]).run()
        _, looked = study.ledger.experiments()
        runs = [event.body.get("facts", {}).get("said", {}) for event in study.ledger.read()]

    assert looked.status in (Status.KEPT, Status.DISCARDED), looked.reason
    (said,) = (one for one in runs if "leaked" in one)
    assert said["looked at"] > len(text["validation"] + text["sealed"])
    assert said["leaked"] == 0
