"""Detection: which agents are installed here, whether they start, and whether their models answer."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import Message
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from nightlab.agents.relay import Upstream
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


# ---- the model behind it ----

_LISTS = {"messages": "/v1/models", "chat": "/models", "responses": "/models", "gemini": "/v1beta/models"}


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the key is for one address."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """Nowhere."""


def preflight(upstream: Upstream, *, seconds: float = 10.0) -> str | None:
    """What keeps a model's endpoint from being used, in words; None where it answers. It asks for no tokens.

    Not covered: a model that the endpoint does not have, and an account without money.
    """
    where = urlsplit(upstream.url)
    if where.scheme not in ("http", "https") or not where.hostname:
        return f"{upstream.url!r} is no address; write http://HOST:PORT or https://HOST"
    request = urllib.request.Request(upstream.url.rstrip("/") + _LISTS[upstream.wire], headers=_headers(upstream))
    try:
        with urllib.request.build_opener(_Stay).open(request, timeout=seconds):
            return None
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (401, 403):
                return f"{upstream.url} refuses the key ({error.code}); check the variable that holds it"
            return f"{upstream.url} answers {error.code} {error.reason}; try again later" if error.code >= 500 else None
    except OSError as error:
        reason = getattr(error, "reason", error)
        return f"{upstream.url} cannot be reached: {reason}; check the address and the network"


def _headers(upstream: Upstream) -> dict[str, str]:
    if not upstream.key:
        return {}
    if upstream.wire == "messages":
        return {"x-api-key": upstream.key, "anthropic-version": "2023-06-01"}
    if upstream.wire == "gemini":
        return {"x-goog-api-key": upstream.key}
    return {"authorization": f"Bearer {upstream.key}"}
