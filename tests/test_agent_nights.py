"""Whole studies with a model behind them: scripted, over real HTTP, through the relay, the loop and the jail."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import pytest
from conftest import make_repository

from nightlab.testing.modelserver import Asked, ModelServer, Refusal, Reply

SCRIPT = "import os\nKNOB = 5.0\nprint('score:', KNOB)\n"
TASK = '[task]\nrun = "python train.py"\neditable = ["train.py"]\n[metric]\nname = "score"\ndirection = "lower"\n'
ONE = ("--drafts", "1", "--no-audit")
Nightlab = Callable[..., subprocess.CompletedProcess[str]]


def edit(old: str, new: str, why: str = "why not", path: str = "train.py") -> Reply:
    """An answer in the built-in agent's own form."""
    return Reply(text=f"HYPOTHESIS: {why}\n\n{path}\n<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n")


def incumbent(asked: Asked) -> str:
    """The line of the knob, as the model was shown it."""
    (line,) = re.findall(r"^KNOB = .*$", asked.turns[0].text, re.MULTILINE)
    return str(line)


def lower(asked: Asked) -> Reply:
    """One less than what it was shown, in numbers never used before."""
    line = incumbent(asked)
    return edit(line, f"KNOB = {float(line.removeprefix('KNOB = ')) - 1}")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "study", {"train.py": SCRIPT, "nightlab.toml": TASK})


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModelServer], None]:
    """Point the built-in agent at a server; other keys of whoever runs the tests are not used."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return lambda server: monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")


def rows(nightlab: Nightlab, study: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in nightlab("log", "--json", at=study).stdout.splitlines()]


def prices(study: Path, *, output: float) -> None:
    """A dollar for a thousand tokens, in the user's own table."""
    text = f'["scripted"]\ninput = {output / 10}\noutput = {output}\n'
    (study / "prices.toml").write_text(text)


def test_a_model_improves_a_script_and_what_it_cost_is_told_to_the_token(
    study: Path, nightlab: Nightlab, at: Callable[[ModelServer], None]
) -> None:
    prices(study, output=100.0)
    with ModelServer(lower) as server:
        at(server)
        done = nightlab("run", "--agent", "openai:scripted", *ONE, "--experiments", "3", "--json", at=study)
    said = json.loads(done.stdout)

    assert [row["status"] for row in rows(nightlab, study)] == ["kept"] * 4
    assert said["incumbent"]["value"] == 2.0
    assert said["cost"]["tokens"] == server.usage.total.tokens
    usage = server.usage.total
    assert said["cost"]["money"] == pytest.approx((usage.input * 10 + usage.output * 100) / 1e6)
    assert said["stopped"] == "3 experiments"


@pytest.mark.slow
def test_a_cap_on_money_ends_the_study_before_it_is_passed(
    study: Path, nightlab: Nightlab, at: Callable[[ModelServer], None]
) -> None:
    prices(study, output=100.0)  # some two cents a call
    with ModelServer(lower) as server:
        at(server)
        words = ("--agent", "openai:scripted", "--max-cost", "0.50", "--no-audit")
        done = nightlab("run", *words, at=study)

    told = json.loads(nightlab("report", "--json", at=study).stdout)
    usage = server.usage.total
    paid = (usage.input * 10 + usage.output * 100) / 1e6
    assert 0.1 < paid <= 0.50
    assert told["cost"]["money"] == pytest.approx(paid)
    assert "0.5" in told["stopped"]
    assert "80 %" in done.stdout


def test_a_model_without_a_price_is_refused_at_the_door_where_money_is_capped(
    study: Path, nightlab: Nightlab, at: Callable[[ModelServer], None]
) -> None:
    with ModelServer(lower) as server:
        at(server)
        done = nightlab("run", "--agent", "openai:scripted", "--max-cost", "1", at=study, check=False)

    assert done.returncode == 2
    assert "no price is known for scripted" in done.stderr
    assert "prices.toml" in done.stderr


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ("openai:gpt", "OPENAI_API_KEY is not set"),
        ("anthropic:x", "ANTHROPIC_API_KEY is not set"),
        ("openai", "needs the name of a model"),
        ("clod:opus", "clod"),
        (":", "cannot load proposer"),
        ("json:loads", "made no proposer"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_begun(
    study: Path, nightlab: Nightlab, at: Callable[[ModelServer], None], agent: str, words: str
) -> None:
    done = nightlab("run", "--agent", agent, at=study, check=False)

    assert done.returncode == 2
    assert words in done.stderr
    assert not (study / ".nightlab").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--max-cost", "nan"], "is no number to compare with"),
        (["--target", "nan"], "is no number to compare with"),
        (["--agent-time", "0"], "leaves no time for an idea"),
        (["--for", ""], "'' is not a time"),
    ],
)
def test_a_limit_that_limits_nothing_is_refused(
    study: Path, nightlab: Nightlab, words: Sequence[str], told: str
) -> None:
    done = nightlab("run", *words, at=study, check=False)

    assert done.returncode == 2
    assert told in done.stderr


def test_an_endpoint_that_refuses_is_told_before_anything_runs(
    study: Path, nightlab: Nightlab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")

    done = nightlab("run", "--agent", "openai:m", at=study, check=False)

    assert done.returncode == 2
    assert "cannot be reached: connection refused" in done.stderr


@pytest.mark.slow
def test_twenty_failures_of_a_model_in_a_row_end_the_study(
    study: Path, nightlab: Nightlab, at: Callable[[ModelServer], None]
) -> None:
    with ModelServer(lambda _: Reply(text="I would lower the knob.")) as server:
        at(server)
        done = nightlab("run", "--agent", "openai:m", "--agent", "tuner", "--experiments", "4", "--no-audit", at=study)

    told = {row["proposer"] for row in rows(nightlab, study)}
    assert "openai:m" in told
    assert any(str(name).startswith("tuner.") for name in told)
    assert "prose" in done.stdout or "no edit" in done.stdout or "cannot be used" in done.stdout


@pytest.mark.slow
def test_a_study_killed_in_the_middle_of_a_call_does_not_pay_for_it_twice(
    study: Path, nightlab: Nightlab, at: Callable[[ModelServer], None]
) -> None:
    calls = count(1)

    def script(asked: Asked) -> Reply:
        """Its first answer of each call cannot be used, so that a call asks twice; the second time it is slow."""
        number = next(calls)
        if len(asked.turns) == 1:
            return Reply(text=f"prose {number}")
        return Reply(text=lower(asked).text, delay=30.0 if number == 2 else 0.0)

    words = ["run", "--agent", "openai:m", "--drafts", "1", "--experiments", "1", "--no-audit"]
    with ModelServer(script) as server:
        at(server)
        lab = subprocess.Popen([sys.executable, "-m", "nightlab", *words], cwd=study, stdout=subprocess.DEVNULL)
        _wait(lambda: len(server.asked) == 2)
        os.kill(lab.pid, signal.SIGKILL)
        lab.wait()
        nightlab(*words, at=study)

    firsts = [asked for asked in server.asked if len(asked.turns) == 1]
    assert len(firsts) == 1
    assert len(server.asked) == 3
    assert rows(nightlab, study)[1]["status"] == "kept"


def _wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_what_a_person_says_is_told_to_the_next_call(
    study: Path, nightlab: Nightlab, at: Callable[[ModelServer], None]
) -> None:
    with ModelServer(lower) as server:
        at(server)
        words = ("run", "--agent", "openai:m", "--drafts", "1", "--no-audit", "--experiments")
        nightlab(*words, "1", at=study)
        nightlab("steer", "keep the knob above two", at=study)
        nightlab(*words, "1", at=study)

    assert "keep the knob above two" not in server.asked[0].turns[0].text
    assert "keep the knob above two" in server.asked[-1].turns[0].text


@pytest.mark.slow
def test_storms_of_refusals_cost_time_and_nothing_else(
    study: Path, nightlab: Nightlab, at: Callable[[ModelServer], None]
) -> None:
    storm: Sequence[Refusal] = (Refusal(429, "slow down", 0.1), Refusal(500, "oh"), Refusal(529, "too many"))
    numbers = count()

    def script(asked: Asked) -> Reply | Refusal:
        number = next(numbers)
        return storm[number] if number < len(storm) else lower(asked)

    with ModelServer(script) as server:
        at(server)
        nightlab("run", "--agent", "openai:m", "--drafts", "1", "--experiments", "1", "--no-audit", at=study)

    assert [row["status"] for row in rows(nightlab, study)] == ["kept", "kept"]


IDEAS = [
    ("good", "LEARNING_RATE = 0.05", "LEARNING_RATE = 0.2"),
    ("null", "INIT_SCALE = 0.5", "INIT_SCALE = 0.5  # the scale of the start"),
    ("harmful", "EMBEDDING = 16 ", "EMBEDDING = 1 "),
    ("crash, to be repaired", "BATCH = 128 ", "BATCH = int('twenty') "),
    ("harmful too", "P -= LEARNING_RATE * G", "P -= 0.1 * LEARNING_RATE * G"),
    ("crash, for good", "h = np.tanh(z)", "h = np.tahn(z)"),
    ("good too", "INIT_SCALE = 0.5", "INIT_SCALE = 0.1"),
]


@pytest.mark.slow
def test_of_a_list_of_ideas_the_good_stay_the_harmful_go_and_a_crash_is_repaired(
    tmp_path: Path, nightlab: Nightlab, at: Callable[[ModelServer], None]
) -> None:
    folder = tmp_path / "tinylm"
    folder.mkdir()
    nightlab("init", "tinylm", at=folder)
    task = folder / "nightlab.toml"
    text = re.sub(r"amount = 1_000_000", "amount = 100_000", task.read_text())
    task.write_text(re.sub(r"amount = 4_000_000", "amount = 200_000", text))
    make_repository(folder, {})
    left = iter(IDEAS)

    def script(asked: Asked) -> Reply:
        told = asked.turns[0].text
        if "BATCH = int('twenty') " in told.partition("The files")[2]:
            (line,) = set(re.findall(r"^BATCH = int.*$", told, re.MULTILINE))
            return edit(line, "BATCH = 16", "a smaller batch, now as a number")
        if "np.tahn" in told.partition("The files")[2]:
            return Reply(text="GIVE UP: it was not a good idea")
        name, old, new = next(left, ("one more comment", "BATCH = 16", "BATCH = 16  # small"))
        (line,) = set(re.findall(f"^.*{re.escape(old)}.*$", told.partition("The files")[2], re.MULTILINE))
        return edit(line, line.replace(old, new), name)

    with ModelServer(script) as server:
        at(server)
        words = ("run", "--agent", "openai:m", "--drafts", "1", "--experiments", "8")
        done = nightlab(*words, at=folder, patience=900)

    log = {str(row["hypothesis"]): row for row in rows(nightlab, folder)}
    assert log["good"]["status"] == "kept"
    assert log["a smaller batch, now as a number"]["status"] == "kept"
    assert log["good too"]["status"] in ("kept", "discarded", "shelved")  # what it is worth after the others is open
    assert log["harmful"]["status"] in ("discarded", "shelved")
    assert log["harmful too"]["status"] in ("discarded", "shelved")
    assert log["crash, to be repaired"]["status"] in ("crashed", "rejected")
    assert log["crash, for good"]["status"] in ("crashed", "rejected")
    crashed, repaired = log["crash, to be repaired"]["id"], log["a smaller batch, now as a number"]["id"]
    assert f"experiment {repaired} repaired {crashed}" in done.stdout
    assert "gain" in done.stdout.partition("audited")[2]


@pytest.mark.slow
def test_a_study_is_replayed_from_its_conversations_without_a_model(
    study: Path, nightlab: Nightlab, at: Callable[[ModelServer], None]
) -> None:
    words = ("run", "--agent", "openai:m", *ONE, "--experiments", "2")
    with ModelServer(lower) as server:
        at(server)
        nightlab(*words, at=study)
    first = rows(nightlab, study)

    nightlab(*words, "--study", "again", "--replay", "main", at=study)

    again = [json.loads(line) for line in nightlab("log", "--json", "--study", "again", at=study).stdout.splitlines()]
    told = ("id", "status", "hypothesis", "value", "tree")
    assert [[row[name] for name in told] for row in again] == [[row[name] for name in told] for row in first]
    assert len(server.asked) == 2
    no = nightlab(*words, "--study", "third", "--replay", "nobody", at=study, check=False)
    assert (no.returncode, "no recorded conversations" in no.stderr) == (2, True)


def test_a_search_space_that_a_model_asks_for_is_searched_without_the_rest_of_the_tuner(
    study: Path, nightlab: Nightlab, at: Callable[[ModelServer], None]
) -> None:
    space = '```space\n[{"path": "train.py", "name": "KNOB", "low": 1, "high": 9}]\n```'
    with ModelServer(lambda _: Reply(text=f"HYPOTHESIS: look around\n\n{space}\n")) as server:
        at(server)
        nightlab("run", "--agent", "openai:m", *ONE, "--experiments", "3", at=study)

    found = [row for row in rows(nightlab, study) if row["proposer"] == "tuner.asked"]
    assert len(found) == 3
    assert str(found[0]["hypothesis"]).startswith("search space of openai:m")
