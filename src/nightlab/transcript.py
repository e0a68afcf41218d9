"""The transcript: what a foreign loop prints, or writes into a results.tsv, read as it grows and logged as experiments.

A result is a line `name: number` (all forms of level printed) or a JSON line with `value` or the metric's name; a line
`hypothesis: words` before it says what was tried. The command is the user's own and runs as they would run it: in no
jail, in their folder, with their environment. What it prints is passed on untouched. Not covered: a Ctrl-C that is sent
to this process alone; from a terminal it reaches the command, whose end is waited for.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from nightlab.errors import BadTask, NightlabError, StudyStuck
from nightlab.evaluator import printed_values
from nightlab.ledger import Ledger
from nightlab.observation import Observation

_TICK = 0.25
_LONGEST_LINE, _TAIL = 1 << 16, 4_000
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_WORDS = re.compile(r"\s*(?:hypothesis|description)\s*:\s*(\S.*)", re.IGNORECASE)
_NUMBERS = {"seconds": float, "money": float, "tokens": int, "parent": int}
_KEPT = {"keep": True, "discard": False}
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Result:
    """One thing that a foreign loop says it tried, as Observation.log takes it."""

    value: float | None
    hypothesis: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)


class Lines:
    """Reads printed bytes as they come: whole lines, carriage returns ending them too."""

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._rest, self._words, self._tail = b"", "", ""

    def feed(self, chunk: bytes) -> Iterator[Result]:
        """The results in what was printed since the last call."""
        *lines, self._rest = re.split(rb"[\r\n]+", self._rest + chunk)
        self._rest = self._rest[:_LONGEST_LINE]  # the start of a line that never ends says enough
        for line in lines:
            yield from self._line(line[:_LONGEST_LINE])

    def end(self) -> Iterator[Result]:
        """The result in a last line that no newline ended."""
        yield from self._line(self._rest)
        self._rest = b""

    def _line(self, raw: bytes) -> Iterator[Result]:
        text = _COLOURS.sub("", raw.decode("utf-8", "replace"))
        self._tail = f"{self._tail}{text}\n"[-_TAIL:]
        if words := _WORDS.fullmatch(text):
            self._words = words[1]
        for value, hypothesis, more in _results(text, self._metric):
            yield Result(value, hypothesis or self._words, {**more, "tail": self._tail})
            self._words, self._tail = "", ""


def _results(text: str, metric: str) -> list[tuple[float | None, str, dict[str, Any]]]:
    if not text.lstrip().startswith("{"):
        return [(value, "", {}) for value in printed_values(text, metric)]
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return []
    has_failed = said.get("failed") is True
    value = said.get("value", said.get(metric))
    if isinstance(value, bool) or not isinstance(value, int | float):
        if not has_failed:
            return []
        value = None
    more = {name: kind(said[name]) for name, kind in _NUMBERS.items() if _is_number(said.get(name))}
    more |= {name: said[name] for name in ("diff", "proposer") if isinstance(said.get(name), str)}
    more |= {"kept": said["kept"]} if isinstance(said.get("kept"), bool) and not has_failed else {}
    if isinstance(said.get("secondary"), dict):
        more["secondary"] = {str(name): one for name, one in said["secondary"].items() if _is_number(one)}
    return [(value, str(said.get("hypothesis") or ""), more | {"failed": has_failed})]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


class Table:
    """A results.tsv that grows: its whole rows, each taken once, also by who takes it up after a kill."""

    def __init__(self, path: Path, night: Observation) -> None:
        self.path, self._metric = path, night.metric
        self._name = os.path.relpath(path, night.place.root)
        with closing(Ledger(night.place.ledger)) as ledger:
            rows = [one.facts["row"] for one in ledger.experiments() if one.facts.get("file") == self._name]
        self._taken = max(rows, default=0)
        self._seen: tuple[int, int] | None = None

    def read(self, say: Say) -> Iterator[Result]:
        """The rows that are new. Raises BadTask where the file is no such table."""
        try:
            found = self.path.stat()
            if self._seen == (found.st_mtime_ns, found.st_size):
                return
            text = self.path.read_bytes().decode("utf-8", "replace")
        except OSError:  # it is not there yet, or not now
            return
        self._seen = found.st_mtime_ns, found.st_size
        lines = text[: text.rfind("\n") + 1].split("\n")
        header = lines[0].split("\t")
        if not lines[0]:
            return
        names = [name for name in (self._metric, "val_bpb") if name in header]
        if not names or not {"status", "description"} <= set(header):
            raise BadTask(
                f"{self.path} line 1: expected the columns {self._metric}, status, description; found {header}"
            )
        for number, line in list(enumerate(lines))[self._taken + 1 :]:
            cells = dict(zip(header, line.split("\t"), strict=False))
            if line.strip() and len(cells) < len(header):
                say(f"{self.path} line {number + 1} has {len(cells)} cells, not {len(header)}; passed over")
            elif line.strip() and (result := self._row(number, cells, cells[names[0]], say)):
                yield result
            self._taken = number if line.strip() else self._taken

    def _row(self, number: int, cells: Mapping[str, str], value: str, say: Say) -> Result | None:
        facts = {"file": self._name, "row": number}
        more: dict[str, Any] = {"facts": facts, "seconds": 0.0, "commit": cells.get("commit") or None}
        if cells["status"] == "crash":  # that format writes its value as 0
            return Result(None, cells["description"], more | {"failed": True})
        try:
            found = float(value)
            more["secondary"] = {"memory_gb": float(cells["memory_gb"])} if cells.get("memory_gb") else {}
        except ValueError:
            say(f"{self.path} line {number + 1}: {value!r} is not a number; passed over")
            return None
        return Result(found, cells["description"], more | {"kept": _KEPT.get(cells["status"])})


class Scribe:
    """Logs results as they come; what cannot be logged is said once, and never stops the loop it watches."""

    def __init__(self, night: Observation, say: Say) -> None:
        self._night, self._say, self._is_stuck = night, say, False
        self.numbers: list[int] = []

    def take(self, results: Iterator[Result]) -> None:
        """Log all of these, at once."""
        try:
            for one in results:
                self._log(one)
        except BadTask as error:
            self._say(str(error))

    def end(self, reason: str) -> None:
        """Write down why the loop ended."""
        self._try(lambda: self._night.end(reason))

    def _log(self, one: Result) -> None:
        self._try(lambda: self.numbers.append(self._night.log(one.value, one.hypothesis, **one.more)))

    def _try(self, write: Callable[[], None]) -> None:
        if self._is_stuck:
            return
        try:
            write()
        except StudyStuck as error:
            self._is_stuck = True
            self._say(f"{error}; nothing more is logged")
        except NightlabError as error:
            self._say(f"not logged: {error}")


def follow(table: Table, scribe: Scribe, say: Say) -> None:
    """Log what is written into a results.tsv until somebody interrupts, also where a shell started us deaf to it."""
    over = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: over.set())
    try:
        scribe.take(table.read(say))
        while not over.wait(2 * _TICK):
            scribe.take(table.read(say))
        scribe.take(table.read(say))
    finally:
        signal.signal(signal.SIGINT, before)


def run(
    command: Sequence[str], night: Observation, out: BinaryIO, say: Say, table: Path | None = None
) -> tuple[int, int]:
    """Run a command, pass on what it prints, log its results; its exit code, and how many were logged.

    Raises BadTask where it cannot be started.
    """
    scribe, lines = Scribe(night, say), Lines(night.metric)
    rows = Table(table, night) if table else None
    env = os.environ | {"PYTHONUNBUFFERED": "1"}  # a result is logged when it is printed, not when a buffer is full
    try:
        child = subprocess.Popen(list(command), stdout=subprocess.PIPE, env=env)
    except OSError as error:
        raise BadTask(f"cannot run {command[0]}: {error.strerror}; write the command after --") from error
    assert child.stdout
    with _passed_on(child):
        for chunk in _printed(child):
            out.write(chunk)
            out.flush()
            if rows is None:
                scribe.take(lines.feed(chunk))
            else:
                scribe.take(rows.read(say))
        scribe.take(rows.read(say) if rows else lines.end())
        code = child.wait()
    code = code if code >= 0 else 128 - code
    scribe.end(f"the observed command ended with exit code {code}")
    return code, len(scribe.numbers)


def _printed(child: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What it prints, as it comes; nothing, now and then, while it is silent. Ends with it: a child of its own that
    holds the pipe is not waited for."""
    assert child.stdout
    with selectors.DefaultSelector() as ready:
        ready.register(child.stdout, selectors.EVENT_READ)
        while True:
            if ready.select(_TICK):
                if not (chunk := os.read(child.stdout.fileno(), 1 << 16)):
                    return
                yield chunk
            elif child.poll() is not None:
                return
            else:
                yield b""


@contextmanager
def _passed_on(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Live as long as the command does: it has heard Ctrl-C itself, and is told of a terminate or hang-up."""

    def tell(signum: int, _: object) -> None:
        if signum != signal.SIGINT:
            child.send_signal(signum)

    before = {one: signal.signal(one, tell) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
