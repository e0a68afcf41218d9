"""Simplicity: how much more there is to read, in units of about one line of code."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from nightlab.values import Files

PRICE = 0.1
"""What a line more to read has to bring, in sigma: 20 hacky lines for a gain of 2 sigma are not worth it."""
_TOKENS_A_LINE = 11
_CONSTANT = 0.5
_TOKEN = re.compile(r"\d[\w.]*(?:(?<=[eE])[-+]\d+)?|\w+|[^\w\s]")


def complexity(start: Files, now: Files) -> float:
    """How much more there is to read in `now` than in `start`: tokens added / 11, and half for each numeric constant
    that was not there at the start. Below zero where it became simpler; additive along a line of changes.

    Python is counted without comments, docstrings and layout. Words inside strings count, so that code does not hide
    there. Not covered: what a short line makes a reader look up, and names that lie.
    """
    changed = [path for path in {*start, *now} if start.get(path) != now.get(path)]
    return sum(_added(path, start.get(path) or "", now.get(path) or "") for path in changed)


def _added(path: str, before: str, after: str) -> float:
    (old, known), (new, numbers) = _measured(path, before), _measured(path, after)
    return (new - old) / _TOKENS_A_LINE + _CONSTANT * (numbers - known).total()


@lru_cache(maxsize=256)
def _measured(path: str, text: str) -> tuple[int, Counter[str]]:
    """The number of tokens, and the numeric constants among them."""
    tokens = _TOKEN.findall(_normalised(text) if path.endswith(".py") else text)
    return len(tokens), Counter(token for token in tokens if token[0].isdigit())


def _normalised(source: str) -> str:
    """A module without comments and docstrings, laid out in one way; as it stands where it does not parse."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return source
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # a docstring, and any other bare string, says nothing to the machine
            node.body = [one for one in body if not _is_bare_string(one)] or [ast.Pass()]  # type: ignore[attr-defined]
    try:
        return ast.unparse(tree)
    except RecursionError:  # a sum of 300 terms parses, and cannot be written out again
        return source


def _is_bare_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def dominating(points: Mapping[int, tuple[float, ...]]) -> list[int]:
    """The Pareto front: whom nobody beats in one coordinate without losing in another. Lower is better in all."""
    front: list[int] = []
    for one in sorted(points, key=lambda one: points[one]):  # whoever beats it stands before it
        mine = points[one]
        if not any(points[o] != mine and all(a <= b for a, b in zip(points[o], mine, strict=True)) for o in front):
            front.append(one)
    return sorted(front)
