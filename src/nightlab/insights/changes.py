"""What a patch changes, read from its lines: the kinds of change, the parts of the code, and what none has touched."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_NUMBER = re.compile(r"^\s*([A-Za-z_]\w*)\s*(?::[^=]*)?=\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\b")
_KINDS = (
    ("activation", r"\b(relu|gelu|silu|swish|tanh|sigmoid|elu|leaky_relu|maximum)\b"),
    ("optimiser", r"\b(adamw?|sgd|momentum|rmsprop|lion|muon|beta_?[12]|velocity|lr|learning_rate)\b"),
    ("schedule", r"\b(warm_?up|cosine|anneal\w*|decay|schedule\w*|cool_?down)\b"),
    ("initialisation", r"\b(init\w*|fan_in|xavier|kaiming|orthogonal)\b"),
    ("normalisation", r"\b(\w*norm\w*|rms)\b"),
    ("precision", r"\b(b?float(16|32|64)|dtype|astype|half|autocast)\b"),
    ("regularisation", r"\b(dropout|weight_decay|clip\w*|smooth\w*|penalt\w*)\b"),
    ("data and batches", r"\b(batch\w*|shuffl\w*|sampl\w*|augment\w*)\b"),
    ("speed", r"\b(cache\w*|vectori[sz]\w*|compile|jit|numba|sort\w*|set|dict)\b"),
)
"""The field's words for what a changed line is about; the first that fits counts."""
_CATALOGUE = {"init": "initialisation", "term": "removal of a term", "size": "size", "norm": "normalisation"}
_PROSE = (".md", ".txt", ".rst", ".prompt", ".html")


@dataclass(slots=True)
class Hunks:
    """The changed lines of one file, and the words of the lines around them."""

    taken: list[str] = field(default_factory=list)
    put: list[str] = field(default_factory=list)
    around: list[str] = field(default_factory=list)


def hunks(diff: str) -> dict[str, Hunks]:
    """Path -> what a unified diff changes there."""
    found: dict[str, Hunks] = {}
    here = Hunks()
    for line in diff.split("\n"):
        if line.startswith("diff --git a/"):
            here = found.setdefault(line.rpartition(" b/")[2], Hunks())
        elif line.startswith(("+++ ", "--- ")):
            continue
        elif line.startswith("+"):
            here.put.append(line[1:])
        elif line.startswith("-"):
            here.taken.append(line[1:])
        elif line.startswith(" ") and line.strip():
            here.around.append(line[1:])
    return found


def kinds(diff: str, facts: Mapping[str, Any]) -> list[str]:
    """What kinds of change a patch makes, in the field's words."""
    if "pair" in facts:
        return ["two near misses together"]
    steps = [step for path, part in hunks(diff).items() for _, step in constants(path, part)]
    if steps and not _other_lines(diff):
        return steps if len(steps) == 1 else ["several constants at once"]
    named = str(facts.get("kind", ""))
    if named:
        return [f"idea {named.rpartition('/')[2]}" if named.startswith("idea:") else _CATALOGUE.get(named, named)]
    return [_described(diff)]


def _described(diff: str) -> str:
    parts = hunks(diff)
    put, taken = ([line for part in parts.values() for line in getattr(part, side)] for side in ("put", "taken"))
    if parts and all(path.endswith(_PROSE) for path in parts):
        return "wording"
    if not any(line.strip() for line in put):
        return "removal"
    words = "\n".join([*put, *taken]).lower()
    return next((kind for kind, pattern in _KINDS if re.search(pattern, words)), "other edits")


def _other_lines(diff: str) -> bool:
    """Whether anything but the numbers of constants was changed."""
    for path, part in hunks(diff).items():
        known = len(list(constants(path, part)))
        if known != len(part.put) or known != len(part.taken):
            return True
    return False


def constants(path: str, part: Hunks) -> Iterator[tuple[str, str]]:
    """Each constant whose number was changed: its part of the code, and the step in words."""
    before = {found[1]: found[2] for line in part.taken if (found := _NUMBER.match(line))}
    for line in part.put:
        found = _NUMBER.match(line)
        if found and found[1] in before and (old := before.pop(found[1])) != found[2]:
            way = "raise" if float(found[2].replace("_", "")) > float(old.replace("_", "")) else "lower"
            yield f"{path} {found[1]}", f"{way} {found[1]}"


def parts(diff: str, homes: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The parts of the code that a patch touches: `file name`, by the lines it changes or stands beside; else the file.

    `homes` says where a line is at home: path -> words of the line -> function, class or constant.
    """
    found: dict[str, None] = {}
    for path, part in hunks(diff).items():
        names = [name for name, _ in constants(path, part)]
        known = homes.get(path, {})
        names += [f"{path} {known[line.strip()]}" for line in part.taken if line.strip() in known]
        if not names and part.put:
            names = [f"{path} {known[line.strip()]}" for line in part.around if line.strip() in known][:1]
        found |= dict.fromkeys(names or [path])
    return list(found)


def homes(texts: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Where each line that occurs in one part of a program alone is at home, by path."""
    found: dict[str, dict[str, str]] = {}
    for path, text in texts.items():
        here: dict[str, set[str]] = {}
        for name, lines in _parts_of(path, text):
            for line in lines:
                here.setdefault(line, set()).add(name)
        found[path] = {line: next(iter(names)) for line, names in here.items() if len(names) == 1}
    return found


def untouched(texts: Mapping[str, str], diffs: Iterable[str]) -> dict[str, list[str]]:
    """Path -> the functions, classes and constants at its top level that no diff has changed a line of.

    Lines are compared by their words, since places move; where two parts share a line, both count as touched.
    """
    changed: dict[str, set[str]] = {}
    for diff in diffs:
        path, before = "", ""
        for line in diff.split("\n"):
            words = line[1:].strip()
            if line.startswith("diff --git a/"):
                path, before = line.rpartition(" b/")[2], ""
            elif line.startswith(("+", "-")) and not line.startswith(("+++", "---")):
                changed.setdefault(path, set()).update((words, before))
            elif line.startswith(" "):
                before = words
    found = {
        path: [name for name, lines in _parts_of(path, texts[path]) if not lines & changed.get(path, set())]
        for path in sorted(texts)
    }
    return {path: names for path, names in found.items() if names}


def _parts_of(path: str, text: str) -> Iterator[tuple[str, set[str]]]:
    """The functions, classes and constants at the top of a program, each with the words of its lines."""
    try:
        body = ast.parse(text).body if path.endswith(".py") else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    lines = text.split("\n")
    for node in body:
        own = {line.strip() for line in lines[node.lineno - 1 : node.end_lineno]}
        words = {line for line in own if any(letter.isalnum() for letter in line)}
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield (node.name if isinstance(node, ast.ClassDef) else f"{node.name}()"), words
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id, words
