from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings

from nightlab.place import Place

REQUIRED = os.environ.get("NIGHTLAB_REQUIRE_ALL") == "1"
"""Set by .ci/run: what is meant to run there may not be skipped."""

settings.register_profile("settled", derandomize=True)
settings.register_profile("fuzz", derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("NIGHTLAB_PROPERTIES", "settled"))
"""Properties are tried on the same examples at every run, so that a change is judged by what it changed; `make fuzz`
looks for new ones."""

collect_ignore = [] if "NIGHTLAB_AGENTS" in os.environ else ["agents/test_real_agents.py"]
collect_ignore += [] if "NIGHTLAB_RAY" in os.environ else ["executors/test_ray.py"]
collect_ignore += [] if "NIGHTLAB_SLURM" in os.environ else ["executors/test_slurm.py"]
"""Coding agents are driven where `make test-agents` has installed them; clusters are started by `make test-ray` and
`make test-slurm`."""

LEVELS = [
    *("bubblewrap", "process"),
    *(pytest.param(level, marks=pytest.mark.slow) for level in ("landlock", "landlock-only")),
]
"""Every level of the jail; the whole matrix at the two of Landlock's takes its time."""

SCRIPT = """\
import os, random
KNOB = 5.0
random.seed(int(os.environ["NIGHTLAB_SEED"]))
print("score:", KNOB + random.gauss(0, 0.01))
"""
TASK = """\
[task]
run = "python train.py"
editable = ["train.py"]
[metric]
name = "score"
direction = "lower"
"""


def wait_for(condition: Callable[[], bool], patience: float = 30.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def asked(place: Place, verb: str = "pause") -> list[str]:
    """What was wished of a study so far."""
    with closing(place.read()) as ledger:
        return [argument for argument, *_ in ledger.asked(verb)]


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=A User", "-c", "user.email=user@example.org"]
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def make_repository(folder: Path, files: Mapping[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "start")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with a small noisy task, under a path with a space and an accent."""
    return make_repository(
        tmp_path / "my é task", {"train.py": SCRIPT, "nightlab.toml": TASK, "program.md": "Lower it."}
    )


@pytest.fixture
def nightlab(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line, for real, in the task's folder."""

    def run(
        *words: str, at: Path = folder, check: bool = True, patience: float = 120
    ) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
        done = subprocess.run(
            [sys.executable, "-m", "nightlab", *words],
            cwd=at,
            capture_output=True,
            text=True,
            env=environment,
            timeout=patience,
        )
        if check:
            assert done.returncode == 0, f"nightlab {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


def shared(name: str) -> Path:
    """A file of public test data; the test is skipped, with a word, where the folder is absent."""
    path = Path(os.environ.get("NIGHTLAB_SHARED", Path(__file__).parents[2] / "shared")) / "data" / name
    if not path.exists():
        need(False, f"no test data at {path}; set NIGHTLAB_SHARED")
    return path


def need(condition: bool, what: str) -> None:
    """Skip, saying what is missing; fail where everything is meant to be there."""
    if not condition:
        if REQUIRED:
            pytest.fail(f"missing here, where nothing may be: {what}")
        pytest.skip(what)


def need_level(level: str) -> None:
    """Need a level of the jail to work here."""
    from nightlab import sandbox

    trouble = sandbox.why_not(level)
    need(trouble is None, f"{level} does not work here: {trouble}")


def need_program(name: str) -> None:
    need(shutil.which(name) is not None, f"{name} is not installed (sudo apt-get install {name})")
