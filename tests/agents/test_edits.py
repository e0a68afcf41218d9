"""Edits: what models write becomes new texts, or words that say why not; whatever they write, nothing breaks."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightlab.agents.edits import FORMAT, LONGEST_ANSWER, Answer, read

TRAIN = """\
import math

LEARNING_RATE = 0.1
WIDTH = 64


def train(steps):
    for step in range(steps):
        rate = LEARNING_RATE
        update(rate)


def test():
    return 1
"""
FILES = {"train.py": TRAIN, "model/net.py": "DEPTH = 2\n"}


def is_editable(path: str) -> bool:
    return path.endswith(".py") and path != "judge.py"


def answered(text: str, files: dict[str, str] | None = None) -> Answer:
    return read(text, files or FILES, is_editable)


def block(search: str, new: str, path: str = "train.py") -> str:
    return f"{path}\n<<<<<<< SEARCH\n{search}\n=======\n{new}\n>>>>>>> REPLACE\n"


def test_a_block_replaces_the_lines_it_names() -> None:
    answer = answered("HYPOTHESIS: a higher rate learns sooner\n" + block("LEARNING_RATE = 0.1", "LEARNING_RATE = 0.3"))

    assert answer.files == {"train.py": TRAIN.replace("0.1", "0.3")}
    assert answer.hypothesis == "a higher rate learns sooner"
    assert answer.troubles == ()


def test_several_blocks_change_several_files_one_after_the_other() -> None:
    answer = answered(
        block("WIDTH = 64", "WIDTH = 128")
        + block("WIDTH = 128", "WIDTH = 256")
        + block("DEPTH = 2", "DEPTH = 3", "model/net.py")
    )

    assert answer.files == {"train.py": TRAIN.replace("64", "256"), "model/net.py": "DEPTH = 3\n"}


@pytest.mark.parametrize(
    "path", ["train.py", "`train.py`", "**train.py**", "### train.py", "File: `train.py`", "./train.py"]
)
def test_a_path_may_wear_the_marks_that_models_put_around_it(path: str) -> None:
    assert answered(block("WIDTH = 64", "WIDTH = 32", path)).files == {"train.py": TRAIN.replace("64", "32")}


@pytest.mark.parametrize(
    "text",
    [
        "train.py\n```python\n" + block("WIDTH = 64", "WIDTH = 32", "")[1:] + "```\nHYPOTHESIS: after all\n",
        "```python\n" + block("WIDTH = 64", "WIDTH = 32") + "```\nHYPOTHESIS: after all\n",
        "```python train.py\n" + TRAIN.replace("64", "32") + "```\nHYPOTHESIS: after all\n",
        "```train.py\n" + TRAIN.replace("64", "32") + "```\nHYPOTHESIS: after all\n",
        "train.py\n```python\n" + TRAIN.replace("64", "32") + "```\nHYPOTHESIS: after all\n",
        "**HYPOTHESIS:** after all\n\n**train.py**\n\n```\n" + TRAIN.replace("64", "32") + "```\n",
    ],
)
def test_fences_and_whole_files_are_understood_in_every_usual_dress(text: str) -> None:
    answer = answered(text)

    assert answer.files == {"train.py": TRAIN.replace("64", "32")}
    assert answer.hypothesis == "after all"


def test_two_fenced_blocks_do_not_swallow_what_stands_between_them() -> None:
    fenced = "```python\n{}```\nand so\n"

    answer = answered(
        fenced.format(block("WIDTH = 64", "WIDTH = 32")) + fenced.format(block("import math", "import cmath"))
    )

    assert answer.files == {"train.py": TRAIN.replace("64", "32").replace("math", "cmath")}


def test_a_block_that_is_indented_otherwise_is_put_where_it_belongs() -> None:
    answer = answered(block("rate = LEARNING_RATE\nupdate(rate)", "rate = LEARNING_RATE\nif rate:\n    update(rate)"))

    wanted = "        rate = LEARNING_RATE\n        if rate:\n            update(rate)\n"
    assert answer.files == {"train.py": TRAIN.replace("        rate = LEARNING_RATE\n        update(rate)\n", wanted)}


def test_too_much_indentation_is_taken_off_again() -> None:
    answer = answered(block("    def test():\n        return 1", "    def test():\n        return 2"))

    assert answer.files == {"train.py": TRAIN.replace("return 1", "return 2")}


def test_spaces_at_the_ends_of_lines_do_not_matter() -> None:
    answer = answered(block("WIDTH = 64", "WIDTH = 32"), {"train.py": "WIDTH = 64  \nX = 1\n"})

    assert answer.files == {"train.py": "WIDTH = 32\nX = 1\n"}


def test_a_divider_in_the_file_is_no_obstacle() -> None:
    text = "Title\n=======\nold\n"

    answer = read(block("Title\n=======\nold", "Title\n=======\nnew", "a.md"), {"a.md": text}, lambda _: True)

    assert answer.files == {"a.md": "Title\n=======\nnew\n"}


def test_a_file_keeps_its_kind_of_line_end() -> None:
    answer = answered(block("B = 1", "B = 2\nC = 3"), {"train.py": "A = 1\r\nB = 1\r\n"})

    assert answer.files == {"train.py": "A = 1\r\nB = 2\r\nC = 3\r\n"}


def test_a_new_file_is_made_by_an_empty_search() -> None:
    text = "util.py\n<<<<<<< SEARCH\n=======\nX = 1\n>>>>>>> REPLACE\n"

    assert answered(text).files == {"util.py": "X = 1\n"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (block("WIDTH = 65", "WIDTH = 32"), "block 1 (train.py): its SEARCH line 'WIDTH = 65' is not in the file"),
        (block("", "X = 1"), "its SEARCH part is empty"),
        (block("X = 1", "X = 2", "other.py"), "there is no other.py"),
        (block("X = 1", "X = 2", "judge.py"), "judge.py is not editable; editable here: model/net.py, train.py"),
        (block("X = 1", "X = 2", "../train.py"), "not editable"),
        (block("X = 1", "X = 2", "/etc/passwd.py"), "not editable"),
        (block("WIDTH = 64", "WIDTH = 32", ""), "it names no file"),
        ("train.py\n<<<<<<< SEARCH\nWIDTH = 64\n>>>>>>> REPLACE\n", "it is not complete"),
        ("train.py\n<<<<<<< SEARCH\nWIDTH = 64\n=======\nWIDTH = 32\n", "it is not complete"),
        ("```python train.py\nWIDTH = 1\n", "it is not complete"),
        (block("WIDTH = 64", "WIDTH = 64"), "the edit leaves every file as it was"),
        (block("WIDTH = 64\nLEARNING_RATE = 0.1", "X = 1"), "not together in this order"),
        ("```python train.py\nX = 2\n# ... rest of the file unchanged\n```\n", "it leaves lines out"),
    ],
)
def test_what_cannot_be_used_is_told_in_words(text: str, words: str) -> None:
    answer = answered(text)

    assert answer.files == {}
    assert words in answer.troubles[0]


def test_an_ambiguous_edit_is_refused_with_the_number_of_places() -> None:
    answer = answered(block("X = 1", "X = 2"), {"train.py": "X = 1\nY = 2\nX = 1\n"})

    assert "stand 2 times in the file" in answer.troubles[0]


def test_an_edit_that_is_ambiguous_but_for_its_indentation_is_refused() -> None:
    answer = answered(block("  x()", "  y()"), {"train.py": "if a:\n    x()\nelse:\n    x()\n"})

    assert "stand 2 times in the file" in answer.troubles[0]


def test_one_block_that_does_not_apply_takes_the_others_with_it() -> None:
    answer = answered(block("WIDTH = 64", "WIDTH = 32") + block("NO = 1", "NO = 2"))

    assert answer.files == {}
    assert len(answer.troubles) == 1
    assert answer.troubles[0].startswith("block 2 (train.py)")


def test_prose_without_an_edit_is_no_edit() -> None:
    answer = answered("I would raise the rate. It should help.\n```python\nX = 1\n```\n")

    assert answer == Answer(hypothesis="I would raise the rate.")


def test_giving_up_is_heard_only_in_prose() -> None:
    assert answered("GIVE UP: it cannot work").has_given_up
    assert not answered(block("WIDTH = 64", "GIVE UP")).has_given_up


@pytest.mark.parametrize(
    ("line", "value"),
    [("EXPECTED: 0.01", 0.01), ("**Expected gain:** -2e-3 bpb", -0.002), ("EXPECTED: unknown", None), ("", None)],
)
def test_the_expected_gain_is_read_where_it_is_a_number(line: str, value: float | None) -> None:
    assert answered(f"HYPOTHESIS: x\n{line}\n").expected == value


@pytest.mark.parametrize(
    "text",
    [
        '[{"path": "train.py", "name": "LEARNING_RATE", "low": 1e-4, "high": 1, "scale": "log"}]',
        '{"path": "train.py", "name": "LEARNING_RATE", "low": 1e-4, "high": 1, "scale": "log"}',
        '[[knobs]]\npath = "train.py"\nname = "LEARNING_RATE"\nlow = 1e-4\nhigh = 1\nscale = "log"\n',
    ],
)
def test_a_search_is_asked_for_in_json_or_toml(text: str) -> None:
    answer = answered(f"HYPOTHESIS: the rate was never searched\n```space\n{text}\n```\n")

    assert answer.space == ({"path": "train.py", "name": "LEARNING_RATE", "low": 1e-4, "high": 1.0, "scale": "log"},)


KNOB = {"path": '"train.py"', "name": '"WIDTH"', "low": "1", "high": "2", "scale": '"linear"'}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path": '"judge.py"'}, "'judge.py' is not editable"),
        ({"name": '"NOTHING"'}, "there is no name 'NOTHING' in train.py"),
        ({"name": '"WIDTH|.*"'}, "there is no name"),
        ({"low": "3"}, "two numbers in rising order"),
        ({"low": "NaN"}, "two numbers in rising order"),
        ({"high": "1e999"}, "two numbers in rising order"),
        ({"high": "true"}, "two numbers in rising order"),
        ({"low": "0", "scale": '"log"'}, "scale of WIDTH"),
        ({"scale": "[]"}, "scale of WIDTH"),
        ({"path": "]"}, "neither JSON nor TOML"),
    ],
)
def test_a_search_that_cannot_be_made_is_told_in_words(changes: dict[str, str], words: str) -> None:
    row = ", ".join(f'"{key}": {value}' for key, value in {**KNOB, **changes}.items())

    answer = answered(f"```space\n[{{{row}}}]\n```\n")

    assert answer.space == ()
    assert words in answer.troubles[0]


def test_more_numbers_than_can_be_searched_are_refused() -> None:
    row = "{" + ", ".join(f'"{key}": {value}' for key, value in KNOB.items()) + "}"

    assert "at most 4 numbers" in answered(f"```space\n[{', '.join([row] * 5)}]\n```\n").troubles[0]


def test_the_format_that_models_are_taught_is_the_one_that_is_read() -> None:
    files = {"path/of/the/file.py": "lines exactly as they stand in the file, enough of them to be found only once\n"}

    answer = read(FORMAT.partition("For a new file")[0], files, is_editable)

    assert answer.files == {"path/of/the/file.py": "the lines that take their place\n"}


LINES = st.lists(st.sampled_from(["a", "  a", "\tb = 1", "", "    c  ", "é", "=======", "x\x0cy", "```"]), max_size=12)


@given(LINES, st.integers(0, 12), st.integers(0, 12), LINES, st.booleans())
def test_an_edit_of_lines_that_stand_once_gives_just_that_text(
    lines: list[str], start: int, stop: int, new: list[str], has_end: bool
) -> None:
    end = "\n" if has_end else ""
    old, search = "\n".join(lines) + end, lines[start:stop]
    places = [i for i in range(len(lines)) if lines[i : i + len(search)] == search]

    answer = read(block("\n".join(search), "\n".join(new)), {"train.py": old}, is_editable)

    usable = len(places) == 1 and any(line.strip() for line in search) and "=======" not in [*search, *new]
    if usable and new and lines[-1:] != [""]:
        wanted = "\n".join([*lines[:start], *new, *lines[start + len(search) :]]) + end
        assert answer.files.get("train.py", old) == wanted


@given(st.text(alphabet="<=>`~ \n\t.#*:aSEARCHREPLACE\x00\u2028", max_size=400), st.text(max_size=200))
def test_no_answer_breaks_it(noise: str, more: str) -> None:
    for text in (noise, noise + block("WIDTH = 64", more) + more, f"```space\n{more}\n```\n{noise}"):
        answer = answered(text)
        assert all(is_editable(path) for path in answer.files)
        assert not (answer.troubles and (answer.files or answer.space))
        assert len(answer.hypothesis) <= 300
        assert all(letter.isprintable() for letter in answer.hypothesis)


@pytest.mark.parametrize("seed", ["\n", " *", "```\n", "```x\n", "<<<<<<< SEARCH\n", "# ...", "a.", "\t\n"])
def test_an_answer_of_nothing_but_marks_is_read_in_linear_time(seed: str) -> None:
    noise = seed * (LONGEST_ANSWER // 2 // len(seed))
    began = time.process_time()

    for text in (noise, f"```space\n{noise}", f"train.py\n<<<<<<< SEARCH\n{noise}", f"```train.py\n{noise}\n```\n"):
        answered(text)

    assert time.process_time() - began < 20  # quadratic, it would be hours
