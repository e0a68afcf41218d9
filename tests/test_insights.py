"""Insights: planted truths are found, noise is not, and what people and programs said stays text."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from statistics import fmean, stdev, variance

import pytest

from nightlab import exports
from nightlab.insights import insights, lines
from nightlab.insights.changes import homes, kinds, parts, untouched
from nightlab.insights.effects import GUESS, Gain, clipped, effect, survivors, typical
from nightlab.insights.gains import Yardstick
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
    """A ledger in which each patch gains what is planted, and luck; the baseline's runs are luck too."""

    def __init__(self, path: Path, seed: int = 0, *, runs: int = 3) -> None:
        self.ledger, self.luck, self.number = Ledger(path), Random(seed), 0
        facts = {"seed": 0, "metric": "loss", "direction": "lower", "study": "main"}
        self.ledger.append(Event("study", "0", facts), Event("measured", "0", {"sigma": SIGMA}))
        self.experiment("baseline", "", 1.0 + self.luck.gauss(0, SIGMA), "kept", parent=None)
        for place in range(2, runs + 1):
            self.run(0, f"0-{place}", 1.0 + self.luck.gauss(0, SIGMA), "incumbent")

    def run(self, number: int, run: str, value: float | None, purpose: str, *, seed: int | None = None) -> None:
        told = {"run": run, "purpose": purpose, "seed": self.ledger.last_seq() if seed is None else seed}
        ended = {"run": run, "outcome": "finished", "value": value, "reason": "", "seconds": 1.0}
        self.ledger.append(
            Event("started", run, told | {"asked_by": number, "again": 0}, number),
            Event("ran", run, ended | {"cpu_seconds": 1.0, "peak_mb": 1.0}, number),
        )

    def experiment(
        self, hypothesis: str, diff: str, value: float | None, status: str, *, parent: int | None = 0, **more: object
    ) -> int:
        number, self.number = self.number, self.number + 1
        proposed = {"parent": parent, "hypothesis": hypothesis, "proposer": "lab" if parent is None else "you"}
        proposed |= {"diff": diff, "tree": str(number), "facts": more.get("facts") or {}}
        proposed |= {"complexity": more.get("complexity", 0.0)}
        decided = {"status": status, "value": value, "grade": None if value is None else "E1"}
        decided |= {"pool": [f"{number}-1"] if status == "kept" and parent is not None else []}
        decided |= {"gain": None if value is None else 1.0 - value, "reason": more.get("reason", "so it is")}
        self.ledger.append(Event("proposed", str(number), proposed, number))
        purpose = "incumbent" if parent is None else "candidate"
        self.run(number, f"{number}-1", value, purpose, seed=more.get("seed"))  # type: ignore[arg-type]  # by name
        self.ledger.append(Event("decided", str(number), decided, number))
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
    night.tried("raise RATE", 0.3, 12)
    night.tried("activation", 0.0, 12)
    night.tried("lower WIDTH", -0.3, 12)

    told = insights(night.ledger, texts=TEXTS)

    effects, places = found(told, "change"), found(told, "part")
    assert [effects[name]["holds"] for name in ("raise RATE", "activation", "lower WIDTH")] == [True, None, False]
    assert effects["raise RATE"]["low"] < 0.3 < effects["raise RATE"]["high"]
    assert places["train.py RATE"]["holds"] is True
    assert places["train.py forward()"]["holds"] is None
    assert lines(told)[0].startswith("raise RATE: it works: tried 12 times")


def test_a_night_of_pure_noise_claims_nothing(tmp_path: Path) -> None:
    claims = 0
    for seed in range(8):
        with closing((night := Night(tmp_path / f"{seed}.sqlite", seed)).ledger):
            for name in PATCHES:
                night.tried(name, 0.0, 6)
            claims += any(one["holds"] is True for one in insights(night.ledger, texts=TEXTS)["findings"])

    assert claims <= 2  # the promise is tested by the hundred below


def test_keeps_alone_would_be_lucky_and_all_that_ran_is_not(night: Night) -> None:
    night.tried("raise RATE", 0.0, 40)

    gains = [one.gain for one in night.ledger.experiments() if one.status == "kept" and one.id]
    told = found(insights(night.ledger, texts=TEXTS), "change")["raise RATE"]

    assert min(gains) > 0.1  # type: ignore[type-var]
    assert told["low"] < 0 < told["high"]


def apart(values: Iterable[float], doubt: float = 0.0) -> list[Gain]:
    """Gains that were each held against runs of their own."""
    return [Gain(value, place, doubt) for place, value in enumerate(values)]


def test_one_accident_does_not_hide_what_the_others_show() -> None:
    gains = apart([0.1, 0.12, 0.09, 0.11, -50.0])

    shown = effect(clipped(gains, SIGMA), spread=SIGMA)

    assert shown is not None
    assert shown.mean == pytest.approx((0.42 - 0.3) / 5)
    assert effect(gains[:2], spread=SIGMA) is None


def test_all_that_was_held_against_the_same_runs_shares_their_luck() -> None:
    values = [0.1 + SIGMA * step for step in (-1, -0.5, 0, 0, 0.5, 1)] * 4
    doubt = SIGMA**2 / 3
    together = [Gain(value, "the baseline", doubt) for value in values]

    one, many = effect(together, spread=SIGMA), effect(apart(values, doubt), spread=SIGMA)

    assert one is not None
    assert many is not None
    assert one.mean == pytest.approx(many.mean)
    assert one.low is not None
    assert many.low is not None
    assert one.low < 0 < many.low
    assert one.above > 0.01 > many.above


@pytest.mark.parametrize("runs", [3, 4, 8])
def test_what_is_claimed_of_noise_stays_within_the_promise_and_intervals_cover(runs: int) -> None:
    luck, nights, claims, covered = Random(runs), 400, 0, 0
    for _ in range(nights):
        base = [luck.gauss(0, 1) for _ in range(runs)]
        noise = Yardstick(stdev(base), stdev(base), runs - 1)
        groups = [[luck.gauss(0, 1) - fmean(base) for _ in range(10)] for _ in range(6)]
        spread = max(typical(map(apart, groups)), stdev(base))
        doubt = variance(base) / runs * noise.doubted(spread)
        gains = [clipped([Gain(value, 0, doubt) for value in values], spread) for values in groups]
        seen = [effect(some, spread=spread, freedom=noise.freedom + GUESS) for some in gains]
        claims += bool(survivors({place: one.above for place, one in enumerate(seen) if one}))
        covered += sum(one.low < 0 < one.high for one in seen if one and one.low is not None and one.high is not None)

    assert claims <= 0.1 * nights  # 5 to 7.5 % in 2,000 nights
    assert covered >= 0.93 * 6 * nights  # 94.5 to 96 %


def test_a_parent_that_was_kept_for_one_lucky_run_measures_nothing_until_it_runs_again(night: Night) -> None:
    lucky = night.experiment("lucky", patch("lower WIDTH"), 0.6, "kept", seed=99)
    for seed in range(5):
        night.experiment("raise RATE", patch("raise RATE"), 1.0, "discarded", parent=lucky, seed=1000 + seed)

    before = found(insights(night.ledger), "change")
    night.run(lucky, f"{lucky}-2", 1.0, "incumbent")
    night.experiment("raise RATE", patch("raise RATE"), 1.5, "discarded", parent=lucky, seed=99)
    after = found(insights(night.ledger), "change")["raise RATE"]

    assert "raise RATE" not in before
    assert after["effect"] == pytest.approx(0.0)  # the one under the lucky seed is left out
    assert after["count"] == 6


def test_under_a_shared_seed_the_two_runs_are_held_against_each_other(night: Night) -> None:
    for seed, luck in ((1001, 3.0), (1002, -2.0), (1003, 0.5)):
        night.run(0, f"0-s{seed}", 1.0 + luck, "incumbent", seed=seed)
        night.experiment("raise RATE", patch("raise RATE"), 0.9 + luck, "kept", seed=seed)

    assert found(insights(night.ledger), "change")["raise RATE"]["effect"] == pytest.approx(0.1)


def test_nothing_is_claimed_where_nobody_knows_the_noise(tmp_path: Path) -> None:
    rows = [f"{n:07x}\t{1 - 0.1 * n:.6f}\t1.0\tkeep\tbetter" for n in range(6)]
    (tmp_path / "results.tsv").write_text("\n".join(["commit\tval_bpb\tmemory_gb\tstatus\tdescription", *rows]))
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        exports.take_karpathy(ledger, list(exports.read_karpathy(tmp_path / "results.tsv")), name="results.tsv")
        for number in range(6, 12):
            proposed = {"parent": 5, "hypothesis": "raise", "proposer": "a", "diff": patch("raise RATE"), "tree": "t"}
            decided = {"status": "kept", "value": 0.4, "gain": 0.1, "grade": "E1", "reason": ""}
            key = str(number)
            ledger.append(Event("proposed", key, proposed, number), Event("decided", key, decided, number))

        told = found(insights(ledger), "change")["raise RATE"]

    assert (told["effect"], told["low"], told["holds"]) == (pytest.approx(0.1), None, None)


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
    night.experiment("both", patch("raise RATE"), -1.0, "kept", facts={"pair": [first, second]})
    start = fmean(value for *_, value in night.ledger.pool(0))

    together = found(insights(night.ledger), "interaction")[f"{first} with {second}"]

    assert together["effect"] == pytest.approx((start + 1.0) - (start - 0.98) - (start - 0.97))
    assert together["holds"] is True


def test_two_that_break_the_same_thing_are_not_said_to_go_together(night: Night) -> None:
    halves = [night.experiment(name, patch(name), 9.0, "discarded") for name in ("raise RATE", "activation")]
    night.experiment("both", patch("raise RATE"), 9.0, "discarded", facts={"pair": halves})

    together = found(insights(night.ledger), "interaction")[f"{halves[0]} with {halves[1]}"]

    assert together["effect"] > 5
    assert together["holds"] is None


def test_what_loses_on_average_and_paid_now_and_then_is_not_said_to_hurt(night: Night) -> None:
    night.tried("lower WIDTH", -0.5, 10)
    night.tried("activation", -0.5, 10)
    night.experiment("lower WIDTH", patch("lower WIDTH"), 0.8, "kept")

    effects = found(insights(night.ledger, texts=TEXTS), "change")

    assert (effects["activation"]["holds"], effects["lower WIDTH"]["holds"]) == (False, None)
    assert effects["lower WIDTH"]["words"].startswith("it loses on average, and paid now and then")


def test_halves_that_were_picked_for_their_luck_do_not_show_that_they_clash(night: Night) -> None:
    halves = [night.experiment(name, patch(name), 0.5, "shelved") for name in ("raise RATE", "activation")]
    night.experiment("both", patch("raise RATE"), 1.0, "discarded", facts={"pair": halves})

    together = found(insights(night.ledger), "interaction")[f"{halves[0]} with {halves[1]}"]

    assert together["effect"] < -0.5
    assert together["holds"] is None


@pytest.mark.parametrize("pair", [5, "12", [1], [[1], {}], None])
def test_facts_that_make_no_sense_are_no_pair(night: Night, pair: object) -> None:
    night.experiment("odd", patch("raise RATE"), 1.0, "discarded", facts={"pair": pair})

    assert found(insights(night.ledger), "interaction") == {}


def test_a_keep_that_is_worth_less_beside_the_others_is_named(night: Night) -> None:
    number = night.experiment("raise RATE", patch("raise RATE"), 0.5, "kept")
    pruned = {"units": [[number]], "gains": [0.05], "stderrs": [0.05], "dropped": [], "after": 9}
    night.ledger.append(Event("pruned", "0", pruned))

    told = found(insights(night.ledger), "interaction")[f"keep {number}"]

    assert told["effect"] == pytest.approx(0.05 - 0.5)
    assert told["holds"] is None


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


@pytest.mark.slow
def test_the_command_the_agents_and_the_report_say_it_of_a_real_night(nightlab: Nightlab, folder: Path) -> None:
    nightlab("run", "--experiments", "8", "--policy", "greedy", "--no-audit")

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
