"""Insights: planted truths are found, noise is not, and what people and programs said stays text."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from nightlab.insights import insights, lines
from nightlab.insights.changes import homes, kinds, parts, untouched
from nightlab.insights.reading import effect
from nightlab.ledger import Event, Ledger
from nightlab.workspace import difference

Nightlab = Callable[..., subprocess.CompletedProcess[str]]
SIGMA = 0.1
TEXTS = {
    "train.py": (
        "RATE = 0.1\nWIDTH = 8\n\n\ndef forward(x):\n    return tanh(x)\n\n\n"
        "def update(p, g):\n    return p - RATE * g\n\n\ndef load():\n    return open('x')\n"
    )
}
PATCHES = {
    "raise RATE": ("RATE = 0.1", "RATE = 0.2"),
    "lower WIDTH": ("WIDTH = 8", "WIDTH = 4"),
    "activation": ("tanh(x)", "relu(x)"),
    "removal": ("    return p - RATE * g\n", ""),
}


def patch(name: str) -> str:
    return difference(TEXTS, {"train.py": TEXTS["train.py"].replace(*PATCHES[name])})


class Night:
    """A ledger in which each patch gains what is planted, and luck."""

    def __init__(self, path: Path, seed: int = 0) -> None:
        self.ledger, self.luck, self.number = Ledger(path), Random(seed), 0
        facts = {"seed": 0, "metric": "loss", "direction": "lower", "study": "main"}
        self.ledger.append(Event("study", "0", facts), Event("measured", "0", {"sigma": SIGMA}))
        self.experiment("baseline", "", 1.0, "kept", parent=None)

    def experiment(
        self, hypothesis: str, diff: str, value: float | None, status: str, *, parent: int | None = 0, **more: object
    ) -> int:
        number, self.number = self.number, self.number + 1
        proposed = {"parent": parent, "hypothesis": hypothesis, "proposer": "lab" if parent is None else "you"}
        proposed |= {"diff": diff, "tree": str(number), "facts": more.get("facts") or {}}
        proposed |= {"complexity": more.get("complexity", 0.0)}
        decided = {"status": status, "value": value, "grade": None if value is None else "E1", "pool": []}
        decided |= {"gain": None if value is None else 1.0 - value, "reason": more.get("reason", "so it is")}
        run = {"run": f"{number}-1", "outcome": "finished", "value": value, "reason": ""}
        purpose = "incumbent" if parent is None else "candidate"
        started = {"run": run["run"], "purpose": purpose, "seed": number, "asked_by": number, "again": 0}
        self.ledger.append(
            Event("proposed", str(number), proposed, number),
            Event("started", str(run["run"]), started, number),
            Event("ran", str(run["run"]), run | {"seconds": 1.0, "cpu_seconds": 1.0, "peak_mb": 1.0}, number),
            Event("decided", str(number), decided, number),
        )
        return number

    def tried(self, name: str, gain: float, times: int) -> None:
        for _ in range(times):
            value = 1.0 - gain + self.luck.gauss(0, SIGMA)
            self.experiment(name, patch(name), value, "kept" if value < 0.9 else "discarded")


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    night = Night(tmp_path / "ledger.sqlite")
    yield night
    night.ledger.close()


def found(told: dict[str, object], kind: str) -> dict[str, dict[str, object]]:
    return {one["subject"]: one for one in told["findings"] if one["kind"] == kind}  # type: ignore[attr-defined]


def test_what_was_planted_is_found_and_what_does_nothing_is_not_claimed(night: Night) -> None:
    night.tried("raise RATE", 0.15, 12)
    night.tried("activation", 0.0, 12)
    night.tried("lower WIDTH", -0.15, 12)

    told = insights(night.ledger, texts=TEXTS)

    effects, places = found(told, "change"), found(told, "part")
    assert [effects[name]["holds"] for name in ("raise RATE", "activation", "lower WIDTH")] == [True, None, False]
    assert effects["raise RATE"]["low"] < 0.15 < effects["raise RATE"]["high"]
    assert places["train.py RATE"]["holds"] is True
    assert places["train.py forward()"]["holds"] is None
    assert lines(told)[0].startswith("raise RATE: it works: tried 12 times")


def test_of_pure_noise_hardly_ever_anything_is_claimed(tmp_path: Path) -> None:
    claims = 0
    for seed in range(60):
        with closing((night := Night(tmp_path / f"{seed}.sqlite", seed)).ledger):
            for name in PATCHES:
                night.tried(name, 0.0, 8)
            claims += any(one["holds"] is True for one in insights(night.ledger, texts=TEXTS)["findings"])

    assert claims <= 10  # ten per cent are promised, of 60; eleven and more come by chance 4 times in 100


def test_keeps_alone_would_be_lucky_and_all_that_ran_is_not(night: Night) -> None:
    night.tried("raise RATE", 0.0, 40)

    gains = [one.gain for one in night.ledger.experiments() if one.status == "kept" and one.id]
    told = found(insights(night.ledger, texts=TEXTS), "change")["raise RATE"]

    assert min(gains) > 0.1  # type: ignore[type-var]
    assert told["low"] < 0 < told["high"]


def test_one_accident_does_not_hide_what_the_others_show() -> None:
    shown = effect([0.1, 0.12, 0.09, 0.11, -50.0], SIGMA)

    assert shown is not None
    assert shown.mean == pytest.approx((0.42 - 0.3) / 5)
    assert effect([0.1, 0.2], SIGMA) is None


def test_dead_ends_failures_and_what_nobody_has_touched_are_named(night: Night) -> None:
    for step in (3, 17, 250):
        reason = f"exit code 1: IndexError: index {step} is out of bounds for 'row{step}'"
        night.experiment("activation", patch("activation"), None, "crashed", reason=reason)

    told = insights(night.ledger, texts=TEXTS)

    ends = {one["words"] for one in told["findings"] if one["kind"] == "dead_end"}
    assert "3 times: exit code #: IndexError: index # is out of bounds for '…'" in ends
    assert any("never kept; 3 failed" in words for words in ends)
    assert found(told, "untried")["train.py"]["words"] == "no experiment has changed RATE, WIDTH, update(), load()"


def test_a_pair_is_held_against_the_sum_of_its_halves(night: Night) -> None:
    first = night.experiment("raise RATE", patch("raise RATE"), 0.98, "shelved")
    second = night.experiment("activation", patch("activation"), 0.97, "shelved")
    night.experiment("both", patch("raise RATE"), 0.2, "kept", facts={"pair": [first, second]})

    together = found(insights(night.ledger, texts=TEXTS), "interaction")[f"{first} with {second}"]

    assert together["effect"] == pytest.approx(0.8 - 0.02 - 0.03)
    assert together["holds"] is True


def test_words_find_experiments_groups_and_what_a_human_noted(night: Night) -> None:
    number = night.experiment("wider is better", patch("lower WIDTH"), 1.2, "discarded")
    night.ledger.ask("note", json.dumps({"experiment": number, "text": "the GPU was hot that night"}))
    night.ledger.wishes("note")

    assert [one["id"] for one in insights(night.ledger, "gpu HOT")["matches"]] == [number]
    assert [one["id"] for one in insights(night.ledger, "train.py width")["matches"]] == [number]
    assert insights(night.ledger, "no such words")["matches"] == []
    assert found(insights(night.ledger, "hot"), "note")[f"experiment {number}"]["experiments"] == [number]


def test_the_same_ledger_gives_the_same_bytes(night: Night) -> None:
    for name in PATCHES:
        night.tried(name, 0.05, 4)

    assert json.dumps(insights(night.ledger, texts=TEXTS)) == json.dumps(insights(night.ledger, texts=TEXTS))


@pytest.mark.parametrize(
    ("before", "after", "facts", "kind"),
    [
        ("RATE = 0.1\n", "RATE = 1e-3\n", {}, "lower RATE"),
        ("RATE = 0.1\nWIDTH = 8\n", "RATE = 0.2\nWIDTH = 9\n", {}, "several constants at once"),
        ("x = tanh(y)\n", "x = gelu(y)\n", {}, "activation"),
        ("x = tanh(y)\n", "", {}, "removal"),
        ("x = 1\ny = f(x)\n", "x = 2\ny = g(x)\n", {"kind": "precision"}, "precision"),
        ("x = f(y)\n", "x = g(y)\n", {"kind": "idea:ideas/rms-norm.patch"}, "idea rms-norm.patch"),
        ("x = f(y)\n", "x = g(y)\n", {"pair": [1, 2]}, "two near misses together"),
        ("x = f(y)\n", "x = g(y)\n", {}, "other edits"),
    ],
)
def test_a_patch_is_called_by_the_fields_words(before: str, after: str, facts: dict[str, object], kind: str) -> None:
    diff = difference({"a.py": f"{before}rest\n"}, {"a.py": f"{after}rest\n"})

    assert kinds(diff, facts) == [kind]


def test_a_line_is_at_home_in_its_function_and_prose_in_its_file() -> None:
    places = homes(TEXTS)

    assert parts(patch("activation"), places) == ["train.py forward()"]
    assert parts(patch("raise RATE"), places) == ["train.py RATE"]
    assert parts(patch("activation"), {}) == ["train.py"]
    assert kinds(difference({"p.md": "a\n"}, {"p.md": "b\n"}), {}) == ["wording"]
    assert untouched({"train.py": "def f(:\n"}, []) == {}


def test_the_command_the_agents_and_the_report_say_it_of_a_real_night(nightlab: Nightlab, folder: Path) -> None:
    nightlab("run", "--experiments", "12", "--policy", "greedy", "--no-audit")

    told = json.loads(nightlab("insights", "--json").stdout)
    said = nightlab("insights").stdout
    context = nightlab("context").stdout
    page = (folder / ".nightlab" / "report.html").read_text()

    assert told["experiments"] >= 3
    assert {"change", "part", "proposer"} <= {one["kind"] for one in told["findings"]}
    assert "KNOB" in said
    assert "What all experiments say together" in context
    assert "What works here" in page
    assert "nothing holds these words" in nightlab("insights", "zebra").stdout
