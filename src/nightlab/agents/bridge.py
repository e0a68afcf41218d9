"""The bridge: what runs first in an agent's jail, so that its programs find their model at http://127.0.0.1:PORT.

    python -I -S bridge.py PLAN

The jail has no network, but one socket to the relay; agents want an address. The bridge listens on its own loopback,
carries every connection to the socket, fills the address into the plan's words, starts the agent, and ends with the
agent's exit code. The plan is JSON: argv, env, files (under HOME), stdin, values, and cwd.

It is a program of its own: it imports nothing of ours. Not covered: it is no guard; the jail is.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CHUNK = 65536


def main(words: list[str]) -> int:
    """Open the way to the model, then be the agent: its exit code, as a shell says it."""
    plan: dict[str, Any] = json.loads(Path(words[0]).read_bytes())
    values: dict[str, str] = plan["values"]
    if relay := os.environ.get("NIGHTLAB_RELAY"):
        try:
            values["url"] = f"http://127.0.0.1:{listen(relay)}"
        except OSError as error:
            print(f"nightlab: this jail has no loopback of its own ({error}), so no agent can speak in it", flush=True)
            return 125
    for name, text in plan["files"].items():
        place = Path(values["home"], name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(render(text, values), encoding="utf-8")
    env = {name: render(text, values) for name, text in plan["env"].items()}
    argv = [render(word, values) for word in plan["argv"]]
    return _run(argv, dict(os.environ) | env, plan["stdin"])


def render(text: str, values: Mapping[str, str]) -> str:
    """A template with its {names} filled in, in one pass: what is filled in is never read as a template again."""
    return re.sub(r"\{([a-z_]+)\}", lambda found: values.get(found[1], found[0]), text)


def _run(argv: list[str], env: dict[str, str], stdin: str | None) -> int:
    with open(stdin or os.devnull, "rb") as source:
        try:
            agent = subprocess.Popen(argv, env=env, stdin=source)
        except OSError as error:
            print(f"nightlab: cannot start {argv[0]}: {error.strerror}", flush=True)
            return 127
    # Asked to end, we wait for the agent to: whoever asked us has asked it too.
    signal.signal(signal.SIGTERM, lambda *_: None)
    code = agent.wait()
    return 128 - code if code < 0 else code


def listen(relay: str) -> int:
    """Serve the relay's socket on a port of the loopback, for as long as this process lives."""
    server = socket.create_server(("127.0.0.1", 0), backlog=64)
    threading.Thread(target=_serve, args=(server, relay), daemon=True).start()
    return int(server.getsockname()[1])


def _serve(server: socket.socket, relay: str) -> None:
    while True:
        here, _ = server.accept()
        threading.Thread(target=_carry, args=(here, relay), daemon=True).start()


def _carry(here: socket.socket, relay: str) -> None:
    with here, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there, contextlib.suppress(OSError):
        there.connect(relay)
        back = threading.Thread(target=_pour, args=(there, here), daemon=True)
        back.start()
        _pour(here, there)
        back.join()


def _pour(source: socket.socket, target: socket.socket) -> None:
    """Carry bytes one way until either end is done, and say so to the other."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(_CHUNK):
            target.sendall(chunk)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
