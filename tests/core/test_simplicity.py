from __future__ import annotations

import pytest

from nightlab.simplicity import complexity, dominating

START = {"train.py": '"""Train."""\nRATE = 0.1\n\n\ndef step(x):\n    return x * RATE\n', "notes.md": "words"}


def changed(text: str) -> dict[str, str]:
    return {**START, "train.py": text}


def test_comments_docstrings_and_layout_weigh_nothing() -> None:
    text = '# why\nRATE = 0.1  # tuned\n\n\ndef step( x ):\n    """Step."""\n    return (x\n            * RATE)\n'

    assert complexity(START, changed(text)) == 0


def test_a_constant_that_differs_from_the_start_weighs_half_a_line() -> None:
    assert complexity(START, changed(START["train.py"].replace("0.1", "0.2"))) == 0.5


def test_words_hidden_in_a_string_weigh_like_code() -> None:
    hidden = changed(START["train.py"] + 'exec("a = 1; b = a + 2; c = b * a; print(a, b, c)")\n')

    assert complexity(START, hidden) > 2


def test_a_sum_too_long_to_be_laid_out_is_counted_as_it_stands() -> None:
    long = changed("RATE = " + "1 + " * 500 + "1\n")

    assert complexity(START, long) > 50


def test_what_is_removed_counts_below_zero() -> None:
    assert complexity(START, changed("RATE = 0.1\n")) < 0
    assert complexity(START, {}) < complexity(START, changed("RATE = 0.1\n"))


def test_it_adds_up_along_a_line_of_changes() -> None:
    one = changed(START["train.py"].replace("0.1", "0.2"))
    two = changed(one["train.py"] + "print(step(1))\n")

    assert complexity(START, two) - complexity(START, one) == pytest.approx(8 / 11 + 0.5 - 1 / 11, abs=0.2)


def test_source_that_does_not_parse_is_counted_as_it_stands() -> None:
    assert complexity(START, changed("def (:\n")) < 0


def test_the_front_holds_whoever_nobody_beats_everywhere() -> None:
    points = {1: (1.0, 5.0), 2: (2.0, 4.0), 3: (2.0, 5.0), 4: (1.0, 5.0), 5: (0.5, 9.0)}

    assert dominating(points) == [1, 2, 4, 5]
