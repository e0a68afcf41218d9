"""Edits: a model's answer in words becomes the new texts of files, or says which part of it cannot be used and why."""

from __future__ import annotations

import json
import math
import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nightlab.workspace import is_plain

LONGEST_ANSWER = 400_000
"""Characters of an answer that are read; a whole file fits many times."""
MOST_KNOBS = 4
MOST_BLOCKS = 100
_LONGEST_HYPOTHESIS = 300
_MOST_WAYS = 9
_LONGEST_MARK = 300
"""No path, fence or mark is a longer line; longer ones are not looked at closely, which keeps reading linear."""

FORMAT = f"""\
Answer with these, and nothing after them:

HYPOTHESIS: one sentence that says what is changed and why it should help
EXPECTED: the gain you expect in the metric's own units, as a number (leave the line out if you cannot tell)

and then the change. For a part of a file, as many blocks as needed, each with the file's path on the line above it:

path/of/the/file.py
<<<<<<< SEARCH
lines exactly as they stand in the file, enough of them to be found only once
=======
the lines that take their place
>>>>>>> REPLACE

For a new file, leave the part between SEARCH and ======= empty. To write a whole file anew, give all of it in a fenced
block that names the path after the language; where the file itself holds ``` fences, use a longer fence:

```python path/of/the/file.py
...every line of the file...
```

Where only values are in question, you may ask for a small search instead of an edit: at most {MOST_KNOBS} numbers that
have a name in the files; the lab tries values between low and high ("log" or "linear"):

```space
[{{"path": "train.py", "name": "LEARNING_RATE", "low": 1e-4, "high": 1e-2, "scale": "log"}}]
```
"""
"""How a model is asked to answer; what `read` understands."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was understood of an answer. Where `troubles` holds anything, none of its edits may be used."""

    hypothesis: str = ""
    expected: float | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    space: tuple[Mapping[str, Any], ...] = ()
    troubles: tuple[str, ...] = ()
    """What cannot be used and why, in words for whoever wrote it."""
    has_given_up: bool = False


@dataclass(frozen=True, slots=True)
class Replace:
    """A SEARCH/REPLACE block. `ways` are its two halves: one way to halve it for every ======= in it."""

    number: int
    path: str
    ways: tuple[tuple[list[str], list[str]], ...]


@dataclass(frozen=True, slots=True)
class Whole:
    """A fenced block with a path: a whole file."""

    number: int
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Space:
    """A fenced block that asks for a search."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Cut:
    """A block that was begun and not ended."""

    number: int
    path: str = ""


Block = Replace | Whole | Space | Cut


class Unfit(ValueError):
    """A block that cannot be used, in words for whoever wrote it."""


def read(answer: str, files: Mapping[str, str], is_editable: Callable[[str], bool]) -> Answer:
    """Understand an answer against the files as they are. Never raises, whatever the answer holds."""
    prose, blocks = parsed(answer[:LONGEST_ANSWER].replace("\r\n", "\n"), files)
    now, space, troubles = dict(files), list[Mapping[str, Any]](), list[str]()
    for block in blocks:
        try:
            if isinstance(block, Space):
                space += knobs(block.text, files, is_editable)
            else:
                now[block.path] = applied(block, now, is_editable)
        except Unfit as error:
            troubles.append(f"block {block.number}{_of(block)}: {error}")
    if len(space) > MOST_KNOBS:
        troubles.append(f"a search takes at most {MOST_KNOBS} numbers; {len(space)} were asked for")
    changed = {path: text for path, text in now.items() if files.get(path) != text}
    if any(isinstance(block, Replace | Whole) for block in blocks) and not changed and not troubles:
        troubles.append("the edit leaves every file as it was")
    return Answer(
        hypothesis=_hypothesis(prose),
        expected=_expected(prose),
        files={} if troubles else changed,
        space=() if troubles or changed else tuple(space),
        troubles=tuple(troubles),
        has_given_up=any(re.match(rf"{_MARKS}GIVE UP\b", line) for line in prose),
    )


def _of(block: Block) -> str:
    path = getattr(block, "path", "")
    return f" ({path})" if path else ""


# --- finding the blocks -----------------------------------------------------------------------------------------------

_SEARCH = re.compile(r"\s*<{5,9} ?SEARCH\s*")
_DIVIDER = re.compile(r"={7}\s*")
_END = re.compile(r"\s*>{5,9} ?REPLACE\s*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})([^`]*)")


def parsed(answer: str, files: Mapping[str, str]) -> tuple[list[str], list[Block]]:
    """The prose, and the blocks in their order."""
    lines, prose, blocks, at, path, around = answer.split("\n"), list[str](), list[Block](), 0, "", ""
    while at < len(lines) and len(blocks) < MOST_BLOCKS:
        number, line = len(blocks) + 1, lines[at]
        if _SEARCH.fullmatch(line):
            path = _named_above(lines, at, files) or path or (next(iter(files)) if len(files) == 1 else "")
            end = next((i for i in range(at + 1, len(lines)) if _END.fullmatch(lines[i])), len(lines))
            ways = _halves(lines[at + 1 : end]) if end < len(lines) else ()
            blocks.append(Replace(number, path, ways) if ways else Cut(number, path))
            at = end + 1
        elif around and _closes(line, around):
            at, around = at + 1, ""
        elif (fence := _fence(line)) and _holds_search(lines, at, fence[1]):
            at, around = at + 1, fence[1]
        elif fence:
            end = next((i for i in range(at + 1, len(lines)) if _closes(lines[i], fence[1])), len(lines))
            if block := _fenced(number, fence[2], lines[at + 1 : end], _named_above(lines, at, files), files):
                blocks.append(block if end < len(lines) else Cut(number, getattr(block, "path", "")))
            at = end + 1
        else:
            prose.append(line)
            at += 1
    return prose, blocks


def _halves(body: Sequence[str]) -> tuple[tuple[list[str], list[str]], ...]:
    """Every way to halve it, the likeliest first: a file's own ======= lines are mostly in both halves."""
    dividers = [i for i, line in enumerate(body) if _DIVIDER.fullmatch(line)][:_MOST_WAYS]
    likeliest = sorted(range(len(dividers)), key=lambda n: abs(2 * n - len(dividers) + 1))
    return tuple((list(body[: dividers[n]]), list(body[dividers[n] + 1 :])) for n in likeliest)


def _fence(line: str) -> re.Match[str] | None:
    return _FENCE.fullmatch(line) if len(line) <= _LONGEST_MARK else None


def _closes(line: str, fence: str) -> bool:
    """Whether a fenced block ends here: at a fence of its own kind, at least as long, with nothing after it."""
    bare = line.strip()
    return len(bare) >= len(fence) and set(bare) == {fence[0]}


def _holds_search(lines: Sequence[str], at: int, fence: str) -> bool:
    """Whether the fence is only laid around SEARCH/REPLACE blocks, as many models do: they begin soon after it."""
    for line in lines[at + 1 : at + 5]:
        if _SEARCH.fullmatch(line) or _closes(line, fence):
            return _SEARCH.fullmatch(line) is not None
    return False


def _fenced(number: int, info: str, body: Sequence[str], above: str, files: Mapping[str, str]) -> Block | None:
    """What a fenced block is; None where it only shows something."""
    if info.strip().lower().startswith("space"):
        return Space(number, "\n".join(body))
    named = next((path for word in re.split(r"[\s:=\"']+", info) if (path := _path(word, files))), "")
    path = named or above
    return Whole(number, path, "".join(f"{line}\n" for line in body)) if path else None


def _named_above(lines: Sequence[str], at: int, files: Mapping[str, str]) -> str:
    """The path on the nearest line above that says anything; a fence between the two says nothing."""
    for line in reversed(lines[max(0, at - 4) : at]):
        if line.strip() and not _fence(line):
            return _path(line, files)
    return ""


def _path(line: str, files: Mapping[str, str]) -> str:
    """The path that a line is, without the marks models put around it; empty where it is something else."""
    if len(line) > _LONGEST_MARK:
        return ""
    word = re.sub(r"^\W*(?:file|path)\s*(?:name)?\W*:", "", line.strip(), flags=re.IGNORECASE).strip(" \t*`#:\"'")
    word = word.removeprefix("./")
    looks_like_one = re.fullmatch(r"/?[\w.@+-]+(/[\w.@+-]+)*\.[A-Za-z]\w{0,9}", word) is not None
    return word if word in files or looks_like_one else ""


# --- putting them in --------------------------------------------------------------------------------------------------


def applied(block: Replace | Whole | Cut, files: Mapping[str, str], is_editable: Callable[[str], bool]) -> str:
    """The new text of the block's file. Raises Unfit."""
    if isinstance(block, Cut):
        raise Unfit("it is not complete: it needs a SEARCH line, a ======= line and a REPLACE line, or a closing fence")
    if not block.path:
        raise Unfit(f"it names no file; write the path on the line above it, one of: {', '.join(sorted(files))}")
    if not is_plain(block.path) or not is_editable(block.path):
        raise Unfit(f"{block.path} is not editable; editable here: {', '.join(sorted(files))}")
    text = files.get(block.path)
    if isinstance(block, Whole):
        return _whole(block.text, text)
    found = [made for search, new in block.ways if (made := replaced(text, search, new)) is not None]
    if found:
        return found[0]
    if text is None:
        raise Unfit(f"there is no {block.path}; there are: {', '.join(sorted(files))} (leave SEARCH empty to make one)")
    raise Unfit(_why_not(text, block.ways[0][0]))


_ELISION = re.compile(r"(?:#|//|--)? ?\.{3}.*\b(?:existing|rest|unchanged|same|remaining|previous)\b", re.IGNORECASE)


def _whole(new: str, old: str | None) -> str:
    holes = (line.strip() for line in new.splitlines() if _ELISION.match(line.strip()[:_LONGEST_MARK]))
    if (hole := next(holes, None)) and hole not in (old or ""):
        raise Unfit(f"it leaves lines out ({hole[:60]!r}); write the whole file, or use SEARCH/REPLACE")
    return new.replace("\n", "\r\n") if old and "\r\n" in old else new


def replaced(text: str | None, search: Sequence[str], new: Sequence[str]) -> str | None:
    """The text with the searched lines replaced where they stand exactly once; None otherwise.

    Exactly first. Then as a model may have copied them: all indented alike by more or by less, or with other spaces at
    the ends of lines. Nothing looser: an edit in a place that was not meant is worse than one that is told back.
    """
    if not any(line.strip() for line in search):
        return "".join(f"{line}\n" for line in new) if not (text or "").strip() else None
    if text is None:
        return None
    lines = _lines(text)
    bare = [line.removesuffix("\n").removesuffix("\r") for line in lines]
    places = exact(bare, search)
    if len(places) > 1:
        return None
    if places:
        return _put(lines, places[0], len(search), new)
    shifted = list(shifts(bare, search))
    if len(shifted) != 1:
        return None
    place, drop, extra = shifted[0]
    if any(line.strip() and not line.startswith(drop) for line in new):
        return None
    moved = [extra + line[len(drop) :] if line.strip() else line for line in new]
    return _put(lines, place, len(search), moved)


def _lines(text: str) -> list[str]:
    """Lines with their ends; only a newline ends one."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def exact(lines: Sequence[str], search: Sequence[str]) -> list[int]:
    """Where the searched lines stand, letter by letter."""
    wanted = list(search)
    return [i for i in range(len(lines) - len(wanted) + 1) if list(lines[i : i + len(wanted)]) == wanted]


def shifts(lines: Sequence[str], search: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Where they stand but for one indentation: the place, what to take off before each line, what to put there."""
    for place in range(len(lines) - len(search) + 1):
        pairs = [
            (there.rstrip(), sought.rstrip())
            for there, sought in zip(lines[place : place + len(search)], search, strict=True)
        ]
        if any(bool(there) != bool(sought) for there, sought in pairs):
            continue
        there, sought = next(pair for pair in pairs if pair[0])
        drop, extra = _indent(sought), _indent(there)
        if drop and extra.endswith(drop):
            drop, extra = "", extra[: len(extra) - len(drop)]
        elif extra and drop.endswith(extra):
            drop, extra = drop[: len(drop) - len(extra)], ""
        if all(not a or (b.startswith(drop) and a == extra + b[len(drop) :]) for a, b in pairs):
            yield place, drop, extra


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _put(lines: Sequence[str], place: int, count: int, new: Sequence[str]) -> str:
    """The lines with others in their place, ended as the ones they replace were."""
    old = lines[place : place + count]
    end = "\r\n" if old[0].endswith("\r\n") else "\n"
    put = [f"{line}{end}" for line in new]
    if put and not old[-1].endswith("\n"):
        put[-1] = put[-1].removesuffix(end)
    return "".join([*lines[:place], *put, *lines[place + count :]])


def _why_not(text: str, search: Sequence[str]) -> str:
    if not any(line.strip() for line in search):
        return "its SEARCH part is empty, but the file is there; say which lines are to be replaced"
    bare = [line.removesuffix("\n").removesuffix("\r") for line in _lines(text)]
    times = len(exact(bare, search)) or len(list(shifts(bare, search)))
    if times > 1:
        return f"its SEARCH lines stand {times} times in the file; add lines around them until they stand there once"
    if times == 1:
        return "its REPLACE lines are not indented as its SEARCH lines are; copy the indentation from the file"
    known = {line.strip() for line in bare}
    missing = next((line for line in search if line.strip() and line.strip() not in known), None)
    if missing is None:
        return "its SEARCH lines are in the file, but not together in this order; copy them from the file as they stand"
    return f"its SEARCH line {missing.strip()[:100]!r} is not in the file; copy the lines from it as they stand"


# --- asking for a search ----------------------------------------------------------------------------------------------


def knobs(text: str, files: Mapping[str, str], is_editable: Callable[[str], bool]) -> list[Mapping[str, Any]]:
    """The numbers a search is asked for, in JSON or TOML. Raises Unfit."""
    rows = _rows(text)
    if not rows:
        raise Unfit("it asks for no numbers; name at least one with path, name, low and high")
    return [_knob(row, files, is_editable) for row in rows]


def _rows(text: str) -> list[Any]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        try:
            raw = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise Unfit(f"it is neither JSON nor TOML: {error}") from error
    if isinstance(raw, dict) and "name" not in raw:
        raw = next((value for value in raw.values() if isinstance(value, list)), [])
    return raw if isinstance(raw, list) else [raw]


def _knob(row: Any, files: Mapping[str, str], is_editable: Callable[[str], bool]) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise Unfit(f"{row!r:.80} is not a number to search; write path, name, low, high and scale")
    path, name, scale = (
        str(row.get("path") or next(iter(sorted(files)), "")),
        row.get("name"),
        row.get("scale", "linear"),
    )
    low, high = _number(row.get("low")), _number(row.get("high"))
    if path not in files or not is_editable(path):
        raise Unfit(f"{path!r:.80} is not editable; editable here: {', '.join(sorted(files))}")
    if not isinstance(name, str) or not name.isidentifier() or not re.search(rf"\b{name}\b", files[path]):
        raise Unfit(f"there is no name {name!r:.80} in {path}")
    if low is None or high is None or not low < high:
        raise Unfit(f"low and high of {name} must be two numbers in rising order")
    if scale not in ("log", "linear") or (scale == "log" and low <= 0):
        raise Unfit(f'scale of {name} must be "linear", or "log" where low is above 0')
    return {"path": path, "name": name, "low": low, "high": high, "scale": scale}


def _number(value: object) -> float | None:
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        number = float(value) if is_one else math.nan  # type: ignore[arg-type]  # checked in the line above
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


# --- the words around them --------------------------------------------------------------------------------------------


_MARKS = r"[\s*_#>-]{0,8}"
_SAID = re.compile(rf"{_MARKS}hypothesis{_MARKS}:{_MARKS}(.*)", re.IGNORECASE)
_NUMBER = re.compile(rf"{_MARKS}expected\b[^:]{{0,60}}:[\s*_]{{0,8}}([-+]?\d*\.?\d+(?:e[-+]?\d+)?)", re.IGNORECASE)


def _hypothesis(prose: Sequence[str]) -> str:
    """The line that says so; else the first sentence there is."""
    said = next((found[1] for line in prose if (found := _SAID.match(line)) and plain(found[1])), None)
    if said is not None:
        return plain(said).strip("*_ ")[:_LONGEST_HYPOTHESIS]
    words = plain(" ".join(line for line in prose if not _NUMBER.match(line) and not line.startswith("#"))[:5000])
    return re.split(r"(?<=[.!?])\s", words, maxsplit=1)[0][:_LONGEST_HYPOTHESIS]


def _expected(prose: Sequence[str]) -> float | None:
    said = next((found[1] for line in prose if (found := _NUMBER.match(line))), None)
    return _number(float(said)) if said else None


def plain(text: str) -> str:
    """One line without control characters: what can be quoted anywhere."""
    kept = "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in text)
    return " ".join(kept.split())
