"""docs/mini.py: the loop on one page does what the whole lab promises."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import pytest
from conftest import wait_for

MINI = Path(__file__).parents[1] / "docs" / "mini.py"
NIGHT = "import sys, mini; from pathlib import Path; mini.night(Path(sys.argv[1]), mini.race, runs=40)"


@pytest.fixture(scope="module")
def mini() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mini", MINI)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: each fact is on disk before anybody acts on it, which takes its time."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


def run_here(script: Path, seed: str) -> str | None:
    """The script in this very process: what it prints is the same, and a night takes a tenth of a second."""
    said, before = io.StringIO(), sys.argv
    sys.argv = [str(script), seed]
    try:
        with contextlib.redirect_stdout(said):
            exec(compile(script.read_text(), str(script), "exec"), {})
    except ValueError:
        return None  # the logarithm of nought: the one way in which its proposals crash
    finally:
        sys.argv = before
    return said.getvalue()


def test_it_fits_on_a_page() -> None:
    from core.test_house import code_lines

    assert code_lines(MINI) <= 110
    assert max(map(len, MINI.read_text().splitlines())) <= 120


def test_killed_at_any_instant_it_goes_on_to_the_same_end(mini: ModuleType, tmp_path: Path) -> None:
    whole = mini.night(tmp_path / "whole", mini.race, runs=40, run=run_here)
    ledger = tmp_path / "killed" / "ledger.jsonl"
    lab = subprocess.Popen([sys.executable, "-c", NIGHT, str(tmp_path / "killed")], cwd=MINI.parent)
    wait_for(lambda: ledger.exists() and ledger.read_bytes().count(b"\n") > 20)
    os.kill(lab.pid, signal.SIGKILL)
    lab.wait()
    assert 20 < ledger.read_bytes().count(b"\n") < (tmp_path / "whole" / "ledger.jsonl").read_bytes().count(b"\n")
    with ledger.open("ab") as file:
        file.write(b'["torn')

    resumed = mini.night(tmp_path / "killed", mini.race, runs=40, run=run_here)

    assert resumed == whole
    assert ledger.read_bytes() == (tmp_path / "whole" / "ledger.jsonl").read_bytes()
    assert (tmp_path / "killed" / "script.py").read_text() == whole["best"]


def test_greedys_claim_is_too_good_and_the_races_is_not(mini: ModuleType, quick: Path) -> None:
    def nights(policy: Any) -> list[dict[str, Any]]:
        name = policy.__name__
        return [mini.night(quick / f"{name}{seed}", policy, seed=seed, run=run_here) for seed in range(8)]

    greedy, race = nights(mini.greedy), nights(mini.race)

    too_good = fmean(one["claim"] - one["audit"] for one in greedy)
    assert too_good > 0.08
    assert abs(fmean(one["claim"] - one["audit"] for one in race)) < too_good / 4
    assert fmean(one["audit"] for one in race) > 0.15
    assert all(one["audit"] > 3 * one["stderr"] for one in race)


def test_the_race_claims_nothing_by_the_runs_that_picked_a_change(mini: ModuleType, quick: Path) -> None:
    ran: list[tuple[str, str, float | None]] = []

    def noted(script: Path, seed: str) -> str | None:
        said = run_here(script, seed)
        ran.append((script.read_text(), seed, mini.evaluate(said)))
        return said

    night = mini.night(quick, mini.race, run=noted)

    searched = [(text, seed, value) for text, seed, value in ran if "audit" not in seed and value is not None]
    last_keep = int(night["kept"][-1].split()[0])
    start = [value for text, _, value in searched if text == mini.SCRIPT]
    best = [value for text, seed, value in searched if text == night["best"] and int(seed.split("-")[1]) > last_keep]
    assert len(best) < len([value for text, _, value in searched if text == night["best"]])
    assert night["claim"] == pytest.approx(fmean(start) - fmean(best))


def test_a_crash_and_a_flood_of_results_have_no_score(mini: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(mini.SCRIPT.replace("RATE = 1.0", "RATE = 0"))

    assert mini.evaluate(mini.run(script, 1)) is None
    assert mini.evaluate("loss: 1.0\nloss: 0.5\n") is None
    assert mini.evaluate("loss: nan\n") is None
    script.write_text(mini.SCRIPT)
    assert mini.evaluate(mini.run(script, 1)) == mini.evaluate(run_here(script, "1"))


def test_it_says_what_was_kept_and_what_the_claim_is_worth(
    mini: ModuleType, quick: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mini.main(quick, run=run_here)

    greedy, claim, race, _ = capsys.readouterr().out.splitlines()
    assert greedy.startswith("greedy kept ")
    assert "->" in race
    claimed, audited = (float(claim.split()[place].strip(";")) for place in (2, 4))
    assert claimed > audited > 0
