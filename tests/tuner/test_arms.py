"""The arms: what they propose parses, is new, and depends on nothing but the seed and what was learned."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from difflib import unified_diff
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sources import MLP, PLAIN, TORCH

from nightlab.proposer import Context, Proposer
from nightlab.tuner import arms, constants, space
from nightlab.tuner.delete import delete, delete_offers
from nightlab.tuner.edit import Edits, Offer
from nightlab.tuner.memory import Memory
from nightlab.tuner.pairs import Pairs, near_misses, pairs
from nightlab.tuner.waves import DESIGN, Waves
from nightlab.values import Experiment, Proposal, Status

SOURCES = {"mlp": MLP, "torch": TORCH, "plain": PLAIN}
SOME = st.sampled_from(sorted(SOURCES.values()))


def context(text: str, number: int = 0, **more: object) -> Context:
    return Context({"a.py": text}, "loss", "lower", number, 1, **more)  # type: ignore[arg-type]  # any field by name


def diff(before: str, after: str) -> str:
    lines = unified_diff(before.splitlines(True), after.splitlines(True), "a/a.py", "b/a.py")
    return "diff --git a/a.py b/a.py\n" + "".join(lines)


def experiment(number: int, proposal: Proposal, proposer: str, status: Status, **more: object) -> Experiment:
    told = Experiment(number, 0, status, proposal.hypothesis, proposer, facts=proposal.facts)
    return replace(told, **more)  # type: ignore[arg-type]  # any field by name


def studied(text: str, seeds: list[int]) -> Iterator[Experiment]:
    """A short history: each arm in turn, its proposals with made-up ends, against the same parent."""
    ends = [Status.DISCARDED, Status.KEPT, Status.CRASHED, Status.DISCARDED, Status.TIMEOUT, Status.REJECTED]
    told: list[Experiment] = []
    for number, seed in enumerate(seeds, 1):
        arm = arms()[seed % 4]
        for earlier in told:
            arm.learn(earlier)
        proposal = arm.propose(context(text, number, value=1.0, sigma=0.1))
        if proposal is None:
            continue
        status = ends[seed % 6]
        value = None if status.is_failure else 1.0 + (seed % 7 - 3) / 50
        patch = diff(text, str(proposal.files["a.py"]))
        gain = None if value is None else 1.0 - value
        told.append(
            experiment(number, proposal, arm.name, status, value=value, gain=gain, z=gain and gain * 10, diff=patch)
        )
    yield from told


def test_the_arms_are_seven_proposers_with_names() -> None:
    names = ["constants", "catalogue", "delete", "pairs", "waves", "asked", "copy"]
    assert [arm.name for arm in arms()] == [f"tuner.{name}" for name in names]
    assert all(isinstance(arm, Proposer) for arm in arms())


def test_importing_the_tuner_loads_neither_sampler_nor_parser() -> None:
    program = "import sys, nightlab.tuner; print({'numpy', 'libcst'} & set(sys.modules))"

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert said.strip() == "set()"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SOME, st.integers(0, 10**6), st.lists(st.integers(0, 10**6), max_size=8))
def test_every_proposal_parses_is_new_and_comes_again(text: str, number: int, seeds: list[int]) -> None:
    told = list(studied(text, seeds))

    for first, again in zip(arms(), arms(), strict=True):
        for one in told:
            first.learn(one)
        for one in reversed(told):  # a resumed study may hear of them in another order, and twice
            again.learn(one)
            again.learn(one)
        here = context(text, number, value=1.0, sigma=0.1)
        proposal = first.propose(here)
        assert proposal == again.propose(replace(here))
        if proposal is not None:
            (new,) = (str(t) for t in proposal.files.values())
            compile(new, "a.py", "exec")
            assert new != text
            assert proposal.facts["constants"] == space.constants({"a.py": new})
            assert len(proposal.hypothesis) < 400


@pytest.mark.parametrize("text", SOURCES.values(), ids=SOURCES.keys())
def test_no_tree_is_proposed_that_was_tried(text: str) -> None:
    for arm in arms():
        seen: set[str] = set()
        for number in range(12):
            here = context(text, number, value=1.0, was_tried=lambda files: files["a.py"] in seen)  # noqa: B023
            proposal = arm.propose(here)
            if proposal is None:
                break
            assert proposal.files["a.py"] not in seen
            seen.add(str(proposal.files["a.py"]))


def test_an_arm_with_nothing_left_says_so() -> None:
    none = [None] * len(arms())

    assert [arm.propose(context(MLP, was_tried=lambda _: True)) for arm in arms()] == none
    assert [arm.propose(context("x = = 1\n")) for arm in arms()] == none
    assert [arm.propose(Context({"prompt.txt": "LR = 0.1"}, "m", "lower", 0, 1)) for arm in arms()] == none


def test_comments_and_the_lines_around_a_change_stay() -> None:
    for text in SOURCES.values():
        for arm in arms():
            for number in range(6):
                proposal = arm.propose(context(text, number, value=1.0))
                if proposal is not None and arm.name != "tuner.delete":
                    lines = str(proposal.files["a.py"]).splitlines()
                    comments = [line.partition("  #")[2] for line in text.splitlines()]
                    assert all(any(comment in line for line in lines) for comment in comments)


# --- constants --------------------------------------------------------------------------------------------------------


def step(number: int, key: str, old: float, new: float, status: Status) -> Experiment:
    facts = {"constants": {key: new}, "turned": {key: [old, new]}}
    value = None if status.is_failure else 1.0
    return Experiment(number, 0, status, "h", "tuner.constants", value=value, facts=facts)


def next_steps(text: str, *told: Experiment) -> list[dict[str, float]]:
    knobs = space.knobs({"a.py": text})
    return [dict(turn) for turn in constants.ratchet(knobs, told, constants.Random(3))]


def test_a_step_goes_on_where_the_last_one_was_kept() -> None:
    (turn,) = next_steps("LR = 0.2\n", step(1, "a.py:LR", 0.1, 0.2, Status.KEPT))

    assert turn["a.py:LR"] > 0.2


@pytest.mark.parametrize("status", [Status.DISCARDED, Status.CRASHED, Status.TIMEOUT])
def test_a_step_turns_back_where_the_last_one_was_lost(status: Status) -> None:
    (turn,) = next_steps("LR = 0.1\n", step(1, "a.py:LR", 0.1, 0.2, status))

    assert turn["a.py:LR"] == 0.05


def test_a_step_is_shorter_once_both_directions_lost() -> None:
    lost = (step(i, "a.py:LR", 0.1, new, Status.DISCARDED) for i, new in ((1, 0.2), (2, 0.05)))

    (turn,) = next_steps("LR = 0.1\n", *lost)

    assert 0.1 < turn["a.py:LR"] < 0.2


@pytest.mark.parametrize(
    "line", ["WEIGHT_DECAY = 0.0", "WARMUP = 0.0", "LAYERS = 1", "LAYERS = 2", "SIZE = 4", "USE = True"]
)
def test_a_step_from_the_end_of_a_scale_leads_inward(line: str) -> None:
    (knob,) = space.knobs({"a.py": line + "\n"})

    for seed in range(8):
        ((value,),) = (turn.values() for turn in constants.ratchet([knob], [], constants.Random(seed)))
        assert value != knob.value


def test_the_knob_that_waited_longest_is_turned_first() -> None:
    lost = [step(i, f"a.py:{name}", 0.1, 0.2, Status.DISCARDED) for i, name in enumerate("BA")]

    turns = next_steps("A = 0.1\nB = 0.1\nC = 0.1\n", *lost)

    assert [list(turn) for turn in turns] == [["a.py:C"], ["a.py:B"], ["a.py:A"]]


def test_what_was_rejected_is_not_told() -> None:
    arm = constants.Constants()

    arm.learn(step(1, "a.py:LR", 0.1, 0.2, Status.REJECTED))

    assert arm._memory.latest(9) == []


def test_a_knob_stays_on_the_scale_of_its_first_value_in_whatever_order_that_is_told() -> None:
    arm, again = constants.Constants(), constants.Constants()
    told = [step(1, "a.py:SIZE", 64, 8, Status.KEPT), step(2, "a.py:SIZE", 8, 1, Status.KEPT)]

    for one in told:
        arm.learn(one)
    for one in reversed(told):
        again.learn(one)

    assert arm._origins == again._origins == {"a.py:SIZE": (1, 64)}
    (knob,) = space.knobs({"a.py": "SIZE = 1\n"})
    assert (knob.kind, knob.high) == ("log", 2.0)
    assert (knob.since(64).kind, knob.since(64).low, knob.since(64).high) == ("powers", 0.0, 9.0)


@pytest.mark.parametrize(
    ("text", "reach"),
    [
        ("RATE = 0.01\n", (-9.644, -3.644)),  # in the middle: three octaves each way, and no further
        ("RATE = 0.08\n", (-9.644, -2.644)),
        ("RATE = 0.00125\n", (-10.644, -3.644)),
        ("RATE = 0.16\n", (-9.644, -1.644)),  # outside already: from where it stands
    ],
)
def test_a_knob_reaches_one_step_further_where_it_stands_at_an_end(text: str, reach: tuple[float, float]) -> None:
    (knob,) = (k.since(0.01) for k in space.knobs({"a.py": text}))

    assert (knob.beyond().low, knob.beyond().high) == pytest.approx(reach, abs=0.001)


@pytest.mark.parametrize(
    ("text", "origin", "reach"),
    [("DROPOUT = 0.98\n", 0.5, (0.2, 0.99)), ("DROPOUT = 0.01\n", 0.5, (0.0, 0.8)), ("LAYERS = 1\n", 1, (0.0, 2.0))],
)
def test_no_knob_reaches_where_its_values_have_no_meaning(text: str, origin: float, reach: tuple[float, float]) -> None:
    (knob,) = (k.since(origin) for k in space.knobs({"a.py": text}))

    assert (knob.beyond().low, knob.beyond().high) == reach


@pytest.mark.parametrize(("last", "leaves"), [(Status.DISCARDED, True), (Status.KEPT, False)])
def test_the_sampler_leaves_the_range_only_once_nothing_has_been_kept_for_a_while(
    last: Status, leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "STEP_SHARE", 0.0)
    arm, ends = constants.Constants(), [*[Status.KEPT] * 2, *[Status.DISCARDED] * (constants.PATIENCE - 1), last]
    for number, status in enumerate(ends, 1):  # the higher the better, up to the end of the range of 0.01
        rate = 0.08 if number == 2 else 0.01 * number / 2
        told = step(number, "a.py:RATE", 0.01, rate, status)
        arm.learn(replace(told, value=-rate, runs=1))

    asked = [arm.propose(context("RATE = 0.08\n", seed, value=-0.08)) for seed in range(20)]

    assert any(one.facts["constants"]["a.py:RATE"] > 0.08 for one in asked if one) is leaves
    assert any(asked)


def test_memory_keeps_the_order_of_the_study_whatever_the_order_of_telling() -> None:
    memory = Memory()

    for number in (3, 1, 2, 3):
        memory.learn(step(number, "a.py:LR", 0.1, 0.2, Status.KEPT))

    assert [e.id for e in memory.latest(9)] == [1, 2, 3]
    assert [e.id for e in memory.latest(2)] == [2, 3]


def test_a_bowl_is_climbed_down_under_noise() -> None:
    import math

    text, value, arm = "A_RATE = 1.0\nB_RATE = 0.01\nC_SIZE = 16\n", 1e9, constants.Constants()

    def height(values: dict[str, float]) -> float:
        goals = {"a.py:A_RATE": 0.1, "a.py:B_RATE": 0.05, "a.py:C_SIZE": 128}
        return sum(math.log2(values[key] / goal) ** 2 for key, goal in goals.items())

    start = height(space.constants({"a.py": text}))
    for number in range(40):
        proposal = arm.propose(context(text, number, value=value))
        assert proposal is not None
        got = height(dict(proposal.facts["constants"])) + constants.Random(number).gauss(0, 0.05)
        status = Status.KEPT if got < value else Status.DISCARDED
        arm.learn(experiment(number + 1, proposal, arm.name, status, value=got))
        if status is Status.KEPT:
            text, value = str(proposal.files["a.py"]), got

    assert height(space.constants({"a.py": text})) < 0.05 * start


@pytest.mark.parametrize(
    ("text", "new", "words"),
    [
        ("LR = 0.1\n", 0.2, "double LR from 0.1 to 0.2"),
        ("HIDDEN = 64\n", 32, "halve HIDDEN from 64 to 32"),
        ("LR = 0.1\n", 0.13, "raise LR from 0.1 to 0.13"),
        ("USE_BIAS = False\n", True, "turn USE_BIAS on"),
        ("def f(lr=0.1):\n    pass\n", 0.05, "halve lr of f() from 0.1 to 0.05"),
    ],
)
def test_a_step_is_told_in_words(text: str, new: float, words: str) -> None:
    (knob,) = space.knobs({"a.py": text})

    assert constants.told_in_words([knob], {knob.key: new}) == words


# --- deletions --------------------------------------------------------------------------------------------------------


def deletions(text: str, metric: str = "loss") -> set[str]:
    return {offer.hypothesis for offer in delete_offers(replace(context(text), metric=metric))}


def test_statements_branches_arguments_and_terms_are_taken_away() -> None:
    text = "def f(x):\n    x = norm(x)\n    if x:\n        x = x + bias(x)\n    return g(x, eps=0.1)\n"

    assert deletions(text) == {
        "remove `x = norm(x)` in f()",
        "remove `if x` in f()",
        "do what follows `if x` in f() always",
        "drop the term `bias(x)` in f()",
        "drop the term `x` in f()",
        "leave eps=0.1 out of g() in f()",
    }


@pytest.mark.parametrize(
    "text",
    [
        "import math\nprint(math.pi)\n",
        "import math\n",
        '"""Only a docstring."""\n# and a comment\n',
        "x = f()\ny = 2\nprint(x, y)\n",
        "def used():\n    return 1\nprint(used())\n",
        "def public():\n    return 1\n",
        "print(f'loss: {f(a, b):.3f}')\n",
        "loss = a - b\nprint('loss:', loss)\n",
        "def evaluate(a, b):\n    a += b\n    return a - b\n",
        "SEED = 3\nx[i + 1]\n",
        "name = 'a' + 'b'\nprint(name)\n",
        "class A(B):\n    def __init__(self):\n        super().__init__()\n        self.a = 1\n        print(self.a)\n",
    ],
)
def test_what_is_needed_or_says_the_metric_is_spared(text: str) -> None:
    assert deletions(text) == set()


def test_a_name_that_another_file_uses_is_spared() -> None:
    files = {"a.py": "SIZE = 3\nOTHER = 4\n", "b.py": "from a import SIZE\nprint(SIZE)\n"}

    found = {offer.hypothesis for offer in delete_offers(Context(files, "loss", "lower", 0, 1))}

    assert found == {"remove `OTHER = 4`"}


def test_a_deleted_line_takes_only_itself() -> None:
    (offer,) = (o for o in delete_offers(context(MLP)) if o.hypothesis == "remove `b2 -= rate * d.sum(0)` in train()")

    files = offer.make()

    assert files == {"a.py": MLP.replace("        b2 -= rate * d.sum(0)\n", "")}


# --- which edit next --------------------------------------------------------------------------------------------------


def edits(*kinds: str) -> Edits:
    found = [
        Offer(f"{kind}{i}", kind, kind, lambda k=kind, i=i: {"a.py": f"{k}{i}\n"}) for kind in kinds for i in (1, 2)
    ]
    return Edits("tuner.catalogue", lambda _: found)


def tried(number: int, key: str, kind: str, status: Status) -> Experiment:
    return Experiment(number, 0, status, "h", "tuner.catalogue", facts={"edit": key, "kind": kind})


def kept_by_another(number: int) -> Experiment:
    return Experiment(number, 0, Status.KEPT, "h", "somebody")


def keys(arm: Edits) -> list[str]:
    found = (arm.propose(context("x\n", number)) for number in range(60))
    return [str(proposal.facts["edit"]) for proposal in found if proposal]


def test_an_edit_that_lost_is_offered_again_after_two_later_keeps() -> None:
    arm = edits("norm")
    arm.learn(tried(1, "norm1", "norm", Status.DISCARDED))
    assert set(keys(arm)) == {"norm2"}

    arm.learn(kept_by_another(2))
    assert set(keys(arm)) == {"norm2"}

    arm.learn(kept_by_another(3))
    assert set(keys(arm)) == {"norm1", "norm2"}


def test_untried_kinds_and_kinds_that_were_kept_come_before_kinds_that_lost() -> None:
    arm = edits("lost", "kept", "untried")
    for number, status in enumerate([Status.DISCARDED] * 4):
        arm.learn(tried(number, f"old{number}", "lost", status))
    arm.learn(tried(9, "old9", "kept", Status.KEPT))

    found = [key[:-1] for key in keys(arm)]

    assert found.count("lost") < 10 < min(found.count("kept"), found.count("untried"))


# --- pairs ------------------------------------------------------------------------------------------------------------

PARENT = "A = 1\n\n\n\n\n\n\n\nB = 1\n\n\n\n\n\n\n\nC = 1\n"


def miss(number: int, name: str, z: float | None, **more: object) -> Experiment:
    patch = diff(PARENT, PARENT.replace(f"{name} = 1", f"{name} = 2"))
    told = Experiment(
        number, 0, Status.DISCARDED, f"double {name}", "x", value=1.0, gain=(z or 0) / 100, z=z, diff=patch
    )
    return replace(told, **more)  # type: ignore[arg-type]  # any field by name


def test_two_near_misses_are_put_together_the_nearest_first() -> None:
    arm = Pairs()
    for one in (miss(1, "A", -0.2), miss(2, "B", 0.9), miss(3, "C", 0.5)):
        arm.learn(one)

    proposal = arm.propose(context(PARENT))

    assert proposal is not None
    assert proposal.hypothesis == "double B, and double C"
    assert proposal.files == {"a.py": PARENT.replace("B = 1", "B = 2").replace("C = 1", "C = 2")}
    assert proposal.facts["pair"] == [2, 3]


def test_only_what_lost_narrowly_and_with_a_number_is_a_near_miss() -> None:
    arm = Pairs()
    told = [miss(1, "A", -3.0), miss(2, "B", -0.5), miss(3, "C", None, status=Status.CRASHED), miss(4, "C", 0.1)]
    for one in told:
        arm.learn(one)

    assert [e.id for e in near_misses(arm._memory.latest(9), sigma=0.001)] == [4, 2]


def test_without_noise_the_best_of_what_lost_are_near_misses() -> None:
    told = [miss(number, "A", None, gain=-0.1 * number) for number in range(1, 30)]

    assert [e.id for e in near_misses(told, sigma=0.0)] == list(range(1, 17))


def test_changes_of_the_same_knob_are_never_paired() -> None:
    told = [miss(number, "A", 0.5, facts={"turned": {"a.py:A": [1, number]}}) for number in (1, 2)]

    assert list(pairs(told, 1.0)) == []


def test_a_pair_is_tried_once() -> None:
    told = [miss(1, "A", 0.5), miss(2, "B", 0.5), miss(3, "C", 0.4, facts={"pair": [1, 2]})]

    assert list(pairs(told, 1.0)) == []


def test_a_pair_that_conflicts_is_passed_over() -> None:
    arm = Pairs()
    other = diff(PARENT, PARENT.replace("A = 1", "A = 5"))
    for one in (miss(1, "A", 0.9), miss(2, "A", 0.8, diff=other), miss(3, "C", 0.1)):
        arm.learn(one)

    proposal = arm.propose(context(PARENT))

    assert proposal is not None
    assert proposal.facts["pair"] == [1, 3]


def test_the_delete_arm_proposes() -> None:
    proposal = delete().propose(context(PLAIN))

    assert proposal is not None
    assert proposal.facts["kind"] in ("statement", "block", "branch", "argument", "term")


SEVEN = "".join(f"{name} = 1\n\n\n\n" for name in "ABCDEFG")


def near(number: int, name: str) -> Experiment:
    patch = diff(SEVEN, SEVEN.replace(f"{name} = 1", f"{name} = 2"))
    facts = {"turned": {f"a.py:{name}": [1, 2]}}
    return Experiment(
        number, 0, Status.SHELVED, f"double {name}", "x", value=1.0, gain=0.01, z=0.5, diff=patch, facts=facts
    )


def played(arm: Waves, worth: dict[str, float], told: list[Experiment]) -> list[Proposal]:
    """What the arm proposes while each change is worth this much, and no row alone is good enough."""
    tried: list[Proposal] = []
    for number in range(20, 40):
        proposal = arm.propose(
            context(SEVEN, number, sigma=0.1, was_tried=lambda files: any(files == one.files for one in tried))
        )
        if proposal is None:
            break
        gain = sum(worth.get(line[0], 0.0) for line in str(proposal.files["a.py"]).splitlines() if "= 2" in line)
        arm.learn(experiment(number, proposal, arm.name, Status.DISCARDED, gain=gain, value=1 - gain))
        tried.append(proposal)
    return tried


def test_a_wave_tells_apart_what_seven_changes_are_worth_in_seven_experiments() -> None:
    arm = Waves()
    for number, name in enumerate("ABCDEFG", 1):
        arm.learn(near(number, name))

    tried = played(arm, {"B": 0.02, "E": 0.01, "F": -0.05}, [])

    assert len(tried) == 8
    assert [len(one.facts["wave"]["on"]) for one in tried[:7]] == [4] * 7
    assert {1, 4} <= set(tried[7].facts["wave"]["on"])
    assert 5 not in tried[7].facts["wave"]["on"]


def test_a_wave_is_made_of_what_can_stand_side_by_side() -> None:
    arm = Waves()
    for number, name in enumerate("ABCAAA", 1):
        arm.learn(near(number, name))

    assert arm.propose(context(SEVEN, sigma=0.1)) is None, "three are a matter for pairs"
    arm.learn(near(9, "D"))
    proposal = arm.propose(context(SEVEN, sigma=0.1))

    assert proposal is not None
    assert len(proposal.facts["wave"]["of"]) == 4


def test_a_keep_ends_a_wave() -> None:
    arm = Waves()
    for number, name in enumerate("ABCDE", 1):
        arm.learn(near(number, name))
    proposal = arm.propose(context(SEVEN, sigma=0.1))
    assert proposal is not None

    arm.learn(experiment(20, proposal, arm.name, Status.KEPT, gain=0.3))

    assert arm.propose(context(str(proposal.files["a.py"]), 21, sigma=0.1)) is None


def test_the_design_of_a_wave_is_balanced() -> None:
    for column in range(7):
        assert sum(column in row for row in DESIGN) == 4
        for other in range(column):
            assert sum({column, other} <= row for row in DESIGN) == 2


def test_what_is_being_turned_on_one_slot_is_not_turned_on_the_next() -> None:
    knobs = space.knobs({"a.py": PARENT})
    for seed in range(20):
        first = next(constants.ratchet(knobs, [], Random(seed)))
        second = next(constants.ratchet(knobs, [], Random(seed), first.keys()))
        assert not first.keys() & second.keys()
