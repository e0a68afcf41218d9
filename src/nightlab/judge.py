"""The judge: the task author's own program, asked by verbs, held to a time, and its answer read with care.

    give OUT      lay out what one run may train on (NIGHTLAB_SEED, NIGHTLAB_BUDGET)
    ask OUT       lay out the inputs to answer (level predictions)
    score LEFT    print one JSON line about the predictions or the artifact: value, and if it likes per_example,
                  secondary, examples; or say "invalid: why" and exit 1

NIGHTLAB_DATA names the part to judge on, NIGHTLAB_CACHE a folder it may keep things in; of our environment it gets what
[judge] env names. Not covered: the judge runs outside any jail; it is the author's own, and must itself take care how
it opens what a stranger left.
"""

from __future__ import annotations

import json
import os
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from math import isclose, isfinite
from pathlib import Path
from typing import Any, Literal

from nightlab.artifact import numbers, one_for_each
from nightlab.errors import BadTask, Invalid, Unscored
from nightlab.values import Measurement

Part = Literal["data", "sealed"]
TIMEOUT = 600.0
"""Seconds that one call of a judge may take."""
_MOST_SAID = 16 * 1024 * 1024
_MOST_SECONDARY = 32


@dataclass(slots=True)
class Judge:
    """A task's judge in its own folder. `has_agreed`: it gave the same score twice for the same thing."""

    command: tuple[str, ...]
    home: Path
    cache: Path
    parts: Mapping[Part, str]
    timeout: float = TIMEOUT
    env: tuple[str, ...] = ()
    """Names of variables that it gets from our environment besides its own; their values are kept nowhere."""
    has_agreed: bool = False

    @property
    def secrets(self) -> tuple[Path, ...]:
        """What no run may read: the judge, what it keeps, and its data where they are files."""
        named = [Path(name) for name in self.parts.values() if Path(name).is_absolute()]
        return (self.home, self.cache, *named)

    def give(self, out: Path, *, seed: int, budget: float | None) -> None:
        """Have it lay out what a run may train on. Raises BadTask."""
        self._said("give", out, "data", seed, budget)

    def ask(self, out: Path, *, seed: int, part: Part) -> None:
        """Have it lay out the inputs. Raises BadTask."""
        self._said("ask", out, part, seed)

    def score(self, left: Path, *, seed: int, part: Part) -> Measurement:
        """What it says of predictions or an artifact; asked twice the first time.

        Raises Invalid where it refuses, Unscored where it fails or contradicts itself.
        """
        folder = left if left.is_dir() else left.parent
        found = _measurement(self._said("score", left, part, seed), folder)
        if not self.has_agreed and isfinite(found.value):
            again = _measurement(self._said("score", left, part, seed), folder).value
            if not isclose(found.value, again, rel_tol=1e-9):
                raise Unscored(
                    f"the judge disagrees with itself: it scored the same thing {found.value!r}, then {again!r}; "
                    "let it draw nothing at random but from NIGHTLAB_SEED"
                )
            self.has_agreed = True
        return found

    def _said(self, verb: str, folder: Path, part: Part, seed: int, budget: float | None = None) -> str:
        environment = (
            {name: os.environ[name] for name in self.env if name in os.environ}
            | {
                "PATH": os.environ.get("PATH", os.defpath),
                "PYTHONDONTWRITEBYTECODE": "1",
                "LANG": "C.UTF-8",
                "NIGHTLAB_SEED": str(seed),
                "NIGHTLAB_DATA": self.parts[part],
                "NIGHTLAB_CACHE": str(self.cache),
            }
            | ({} if budget is None else {"NIGHTLAB_BUDGET": f"{budget:.17g}"})
        )
        command = [*self.command, verb, str(folder)]
        kind = Unscored if verb == "score" else BadTask
        code, out, err = _heard(command, self.home, environment, self.timeout, kind)
        if code == 0:
            return out
        said = last_line(err)
        if verb == "score" and said.startswith("invalid: "):
            raise Invalid(said.removeprefix("invalid: "))
        raise kind(f"the judge failed at {shlex.join(command)}: {said or f'exit code {code}'}")


def _heard(
    command: list[str], folder: Path, environment: dict[str, str], timeout: float, kind: type[BadTask]
) -> tuple[int, str, str]:
    """Exit code and both outputs of a program. Raises this kind of BadTask when it takes too long or says too much."""
    end, words = time.monotonic() + timeout, shlex.join(command)
    late = kind(f"the judge did not end within {timeout:g} s at {words}; see what it waits for")
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            process_group=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise BadTask(f"the judge cannot be started at {words}: {error.strerror}; see [judge] run") from error
    said = {stream.fileno(): bytearray() for stream in (process.stdout, process.stderr) if stream}
    with process, selectors.DefaultSelector() as selector:
        try:
            for number in said:
                selector.register(number, selectors.EVENT_READ)
            while selector.get_map():
                if not (ready := selector.select(max(0.0, end - time.monotonic()))):
                    raise late
                for key, _ in ready:
                    said[key.fd] += (chunk := os.read(key.fd, 65536))
                    if not chunk:
                        selector.unregister(key.fd)
                    if len(said[key.fd]) > _MOST_SAID:
                        raise kind(f"the judge said more than {_MOST_SAID >> 20} MB at {words}; one line is enough")
            code = process.wait(max(0.1, end - time.monotonic()))
        except BaseException as error:  # whatever ends the waiting ends the judge, and what it started
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise late from None
            raise
    out, err = (text.decode("utf-8", "replace") for text in said.values())
    return code, out, err


def _measurement(printed: str, folder: Path) -> Measurement:
    """What a judge's line says. Raises Unscored."""
    if not printed.strip():
        raise Unscored('the judge printed nothing at score; it must print one JSON line such as {"value": 0.5}')
    try:
        said: Any = json.loads(printed)
        value = said["value"]
        secondary = {str(name): float(number) for name, number in said.get("secondary", {}).items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Unscored(f"the judge must print one JSON line with a 'value'; it printed {printed[:200]!r}") from error
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unscored(f"the judge's 'value' must be a number; it is {value!r}")
    kept = [(name, number) for name, number in secondary.items() if isfinite(number)][:_MOST_SECONDARY]
    per_example = _per_example(said.get("per_example"), folder)
    return Measurement(float(value), per_example, dict(kept), str(said.get("examples", "")))


def _per_example(said: Any, folder: Path) -> tuple[float, ...] | None:
    try:
        if said is None:
            return None
        if isinstance(said, list) and all(type(one) in (int, float) for one in said):
            return one_for_each([float(one) for one in said], "its list")
        if isinstance(said, str) and Path(said).name == said and said.endswith(".npy"):
            return numbers(folder, said)
        raise Invalid(f"{str(said)[:100]!r} is neither a list of numbers nor the name of an .npy file beside them")
    except (Invalid, OverflowError) as problem:
        raise Unscored(f"the judge's 'per_example' cannot be used: {problem}") from problem


def named(found: Measurement, *labels: object) -> Measurement:
    """The measurement with its examples named by these labels: what was asked, and what the judge calls it."""
    text = "\0".join(map(str, (*labels, found.examples, len(found.per_example or ()))))
    return replace(found, examples=blake2b(text.encode(), digest_size=16).hexdigest())


def fingerprint(folder: Path) -> str:
    """A hash over the names and contents of a folder's files: what was asked."""
    found = blake2b(digest_size=16)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with open(path, "rb") as file:
            name = str(path.relative_to(folder)).encode()
            found.update(b"%d %d\0%b" % (len(name), path.stat().st_size, name))
            while chunk := file.read(1 << 20):
                found.update(chunk)
    return found.hexdigest()


def last_line(text: str) -> str:
    """The last line that says anything; of a traceback, its message."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""
