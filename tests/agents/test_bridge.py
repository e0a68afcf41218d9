"""The bridge from an agent's loopback to the relay's socket."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

from nightlab.agents import bridge


def echo(place: Path) -> None:
    """A server that answers only when the other side has said all it had to say."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(place))
    server.listen()

    def serve() -> None:
        while True:
            here, _ = server.accept()
            with here:
                whole = b"".join(iter(partial(here.recv, 65536), b""))
                here.sendall(b"heard %d" % len(whole))

    threading.Thread(target=serve, daemon=True).start()


def test_bytes_go_both_ways_and_each_end_is_told(tmp_path: Path) -> None:
    echo(tmp_path / "s")
    port = bridge.listen(str(tmp_path / "s"))

    with socket.create_connection(("127.0.0.1", port), 5) as line:
        line.sendall(b"x" * 1_000_000)
        line.shutdown(socket.SHUT_WR)
        answer = line.recv(100)

    assert answer == b"heard 1000000"


def test_a_relay_that_is_gone_hangs_up_at_once(tmp_path: Path) -> None:
    port = bridge.listen(str(tmp_path / "nothing"))

    with socket.create_connection(("127.0.0.1", port), 5) as line:
        answer = line.recv(100)

    assert answer == b""


def bridged(folder: Path, argv: list[str], **more: object) -> subprocess.CompletedProcess[str]:
    plan = {"argv": argv, "env": {}, "files": {}, "stdin": None, "values": {"home": str(folder)}, **more}
    (folder / "plan.json").write_text(json.dumps(plan))
    words = [sys.executable, "-I", "-S", bridge.__file__, str(folder / "plan.json")]
    return subprocess.run(words, capture_output=True, text=True, timeout=20)


def test_the_agents_exit_code_is_the_bridges(tmp_path: Path) -> None:
    assert bridged(tmp_path, ["sh", "-c", "exit 7"]).returncode == 7
    assert bridged(tmp_path, ["sh", "-c", "kill -9 $$"]).returncode == 137


def test_a_program_that_does_not_start_is_told_of(tmp_path: Path) -> None:
    done = bridged(tmp_path, ["/nowhere/agent"])

    assert done.returncode == 127
    assert done.stdout == "nightlab: cannot start /nowhere/agent: No such file or directory\n"


def test_files_and_variables_are_filled_in_before_the_agent_starts(tmp_path: Path) -> None:
    show = ["sh", "-c", "cat $PLACE"]
    more = {"env": {"PLACE": "{home}/.a/settings"}, "files": {".a/settings": '{"at": "{home}", "x": {y}}'}}

    done = bridged(tmp_path, show, **more)

    assert done.stdout == f'{{"at": "{tmp_path}", "x": {{y}}}}'
