"""What can be turned, on which scale, and how it is written back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sources import MLP, PLAIN, TORCH

from nightlab.tuner import space


def knobs_of(text: str) -> dict[str, space.Knob]:
    return {knob.key.removeprefix("a.py:"): knob for knob in space.knobs({"a.py": text})}


def after(text: str, key: str, value: float) -> str:
    return space.turned({"a.py": text}, {f"a.py:{key}": value}).get("a.py", text)


def test_literals_are_found_at_module_and_class_level_in_defaults_keywords_and_functions() -> None:
    text = "LR = 0.1\nclass C:\n    n: int = 6\ndef f(a=0.5, *, k=3):\n    scale = 0.7\n    return g(a, eps=1e-8)\n"

    assert set(knobs_of(text)) == {"LR", "C.n", "f(a)", "f(k)", "f.scale", "f.g(eps)"}


def test_rows_tables_and_pairs_give_a_knob_per_element() -> None:
    text = 'BETAS = (0.9, 0.95)\nA, B = 2.0, 3.0\nC = {"depth": 12}\nD = dict(lr=0.1)\n'

    assert set(knobs_of(text)) == {"BETAS[0]", "BETAS[1]", "A", "B", 'C["depth"]', "dict(lr)"}


@pytest.mark.parametrize("name", ["SEED", "TIME_BUDGET", "PORT", "LOG_EVERY", "data_path", "VERSION", "EVAL_TOKENS"])
def test_what_is_not_ours_to_turn_is_left_alone(name: str) -> None:
    assert knobs_of(f"{name} = 5\n") == {}


def test_what_stands_in_an_evaluating_function_is_left_alone() -> None:
    assert knobs_of("def evaluate(model, batch=8):\n    weight = 0.5\n    return weight\n") == {}


def test_counters_and_lower_case_switches_are_left_alone() -> None:
    assert knobs_of("def f():\n    i = 0\n    n = 1\n    done = False\n") == {}


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("LR = 0.1", "log"),
        ("SIZE = 64", "powers"),
        ("SIZE = 2**15", "powers"),
        ("LAYERS = 6", "log"),
        ("DROPOUT = 0.1", "linear"),
        ("WARMUP = 0.0", "linear"),
        ("BETA2 = 0.999", "complement"),
        ("WEIGHT_DECAY = 0.0", "zero"),
        ("WEIGHT_DECAY = 0.01", "log"),
        ("USE_BIAS = False", "switch"),
        ("EXTRA = 0", "count"),
        ("OFFSET = -0.5", "log"),
    ],
)
def test_a_scale_suits_its_literal(line: str, kind: str) -> None:
    (knob,) = knobs_of(line).values()

    assert knob.kind == kind
    assert knob.low <= knob.place <= knob.high


def test_whole_numbers_span_at_least_a_quarter_to_four_times() -> None:
    (knob,) = knobs_of("N = 100\n").values()

    assert (knob.at(knob.low), knob.at(knob.high)) == (25, 400)


def test_a_range_follows_the_present_value() -> None:
    before, later = knobs_of("LR = 0.1\n")["LR"], knobs_of("LR = 0.4\n")["LR"]

    assert (later.low - before.low, later.high - before.high) == pytest.approx((2, 2))


@pytest.mark.parametrize(
    ("line", "value", "new"),
    [
        ("A = 3e-4  # rate", 6e-4, "A = 6e-4  # rate"),
        ("A = 0.1", 0.003, "A = 0.003"),
        ("A = 2**19", 2**18, "A = 2**18"),
        ("A = 8 * 1024", 16 * 1024, "A = 16 * 1024"),
        ("A = 100_000", 200_000, "A = 200_000"),
        ("A: float = (0.5)", 0.25, "A: float = (0.25)"),
        ("A = -0.5", -1.0, "A = -1.0"),
        ("A = True", False, "A = False"),
    ],
)
def test_a_value_is_written_in_the_manner_of_the_one_it_replaces(line: str, value: float, new: str) -> None:
    assert after(line + "\n", "A", value) == new + "\n"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.floats(-4, 4))
def test_what_is_written_is_what_is_read_again(which: int, move: float) -> None:
    text = MLP + TORCH + PLAIN
    knobs = space.knobs({"a.py": text})
    knob = knobs[which % len(knobs)]
    value = knob.at(knob.place + move)

    again = space.constants(space.turned({"a.py": text}, {knob.key: value}) or {"a.py": text})

    assert again == {**space.constants({"a.py": text}), knob.key: value}


@given(st.floats(1e-9, 0.98) | st.floats(1, 1e9))
def test_numbers_look_as_a_person_writes_them(value: float) -> None:
    knob = knobs_of(f"LR = {value!r}\n")["LR"]

    assert len(f"{knob.at(knob.place + 0.3):.10g}".replace(".", "").strip("0").partition("e")[0].rstrip("0")) <= 4


def test_a_knob_at_its_present_value_changes_no_file() -> None:
    assert space.turned({"a.py": MLP}, space.constants({"a.py": MLP})) == {}


def test_a_key_stays_when_other_code_comes_and_goes() -> None:
    grown = MLP.replace("HIDDEN", "DEPTH = 2\nHIDDEN", 1).replace("b1 = np.zeros", "scale = 0.7\n    b1 = np.zeros")

    assert set(knobs_of(MLP)) < set(knobs_of(grown))


def test_what_is_not_python_is_left_alone() -> None:
    assert space.knobs({"a.py": "LR = = 0.1\n", "b.txt": "LR = 0.1\n", "c.py": "LR = '\udc80'\n"}) == ()


def test_what_is_nested_too_deeply_to_be_written_back_is_left_alone() -> None:
    assert knobs_of("LR = 0.1\nx = " + " + ".join(f"a{i}" for i in range(900)) + "\n") == {}


@pytest.mark.parametrize("literal", ["0xFF", "0b1000", "1e999", "9" * 400, "1e-320", "3j", "10**60"])
def test_numbers_that_are_no_quantities_are_left_alone(literal: str) -> None:
    assert knobs_of(f"A = {literal}\n") == {}
