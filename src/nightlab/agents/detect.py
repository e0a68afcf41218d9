"""Detection: which coding agents are installed here, and whether they start."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nightlab.agents.template import Template, load, names


@dataclass(frozen=True, slots=True)
class Found:
    """One agent as it is on this machine. `problem` says what to do where it cannot be used."""

    name: str
    path: Path | None
    version: str
    has_key: bool
    problem: str = ""


def installed(environ: Mapping[str, str], *, seconds: float = 15.0) -> list[Found]:
    """Every agent that ships with a template and names its program, each asked for its version."""
    templates = [template for template in map(load, names()) if not template.needs("command")]
    with ThreadPoolExecutor(len(templates)) as threads:
        return list(threads.map(partial(_found, environ=environ, seconds=seconds), templates))


def _found(template: Template, *, environ: Mapping[str, str], seconds: float) -> Found:
    keys = list(dict.fromkeys(provider.key for provider in template.provider))
    has_key = any(environ.get(name) for one in template.provider for name in (one.key, one.url))
    program = str(template.argv[0])
    place = shutil.which(program, path=environ.get("PATH", os.defpath))
    if place is None:
        return Found(template.name, None, "", has_key, f"not installed; the mend: {template.install}")
    said, problem = _version([place, "--version"], environ, seconds)
    found = re.search(r"\d+\.\d+[\w.+-]*", said)
    if not problem and not has_key:
        problem = f"no key; export {' or '.join(keys)}"
    return Found(template.name, Path(place), found[0] if found else "", has_key, problem)


def _version(argv: list[str], environ: Mapping[str, str], seconds: float) -> tuple[str, str]:
    """What a program says of itself, and what went wrong; in a home of its own, for some write into theirs."""
    with tempfile.TemporaryDirectory(prefix="nightlab-", ignore_cleanup_errors=True) as home:
        env = {"PATH": environ.get("PATH", os.defpath), "HOME": home, "LANG": "C.UTF-8", "CI": "1"}
        with tempfile.TemporaryFile() as output:
            try:
                asked = subprocess.Popen(
                    argv,
                    cwd=home,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            except OSError as error:
                return "", f"cannot be started: {error.strerror}"
            try:
                code = asked.wait(seconds)
            except subprocess.TimeoutExpired:
                return "", f"said nothing of its version in {seconds:g} s; try: {' '.join(argv)}"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(asked.pid, signal.SIGKILL)
                asked.wait()
            output.seek(0)
            said = output.read(4096).decode("utf-8", "replace")
    last = said.strip().splitlines()[-1][:200] if said.strip() else "nothing"
    return said, "" if code == 0 else f"does not start: exit code {code}, it said {last!r}; try: {' '.join(argv)}"
