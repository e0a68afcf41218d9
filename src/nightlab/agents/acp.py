"""The client's side of the Agent Client Protocol, beside the agent in its jail: one prompt, and leave for its edits.

    python -I -S acp.py PROMPT_FILE WORKTREE COMMAND...

JSON-RPC 2.0, a message a line, over the agent's standard streams. What the agent says and does is printed as lines of
JSON for the lab to read. The agent may read and write texts in the worktree through us; terminals are not offered.

It is a program of its own: it imports nothing of ours. Not covered: it is no guard, the jail is; an agent that edits
files by itself needs no leave of ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

VERSION = 1
"""Of the protocol, its only one."""
_FAREWELL = 2.0
_LONGEST = 16 * 1024 * 1024
_NO_SUCH_METHOD, _BAD_REQUEST, _LOGIN_REQUIRED = -32601, -32602, -32000

Message = dict[str, Any]


class Refused(Exception):
    """The other side answered with an error: its code and its words."""

    def __init__(self, error: Message) -> None:
        super().__init__(str(error.get("message", error)))
        self.code = error.get("code")


def main(words: list[str]) -> int:
    """Ask an agent once; 0 where it came to the end of its turn."""
    prompt, worktree, command = Path(words[0]).read_text(encoding="utf-8"), Path(words[1]), words[2:]
    try:
        agent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=worktree)
    except OSError as error:
        _print(event="error", text=f"cannot start {command[0]}: {error.strerror}")
        return 127
    assert agent.stdin
    assert agent.stdout
    client = Client(agent.stdout, agent.stdin, worktree)
    try:
        stop = client.ask(prompt)
    except (Refused, OSError, ValueError, KeyError, TypeError) as error:
        _print(event="error", text=f"{type(error).__name__}: {error}")
        return 1
    finally:
        _end(agent)
    _print(event="end", reason=stop)
    return 0 if stop == "end_turn" else 1


def _end(agent: subprocess.Popen[bytes]) -> None:
    """Hang up; an agent that still waits for another turn after a moment is killed."""
    assert agent.stdin
    with contextlib.suppress(OSError):
        agent.stdin.close()
    try:
        agent.wait(_FAREWELL)
    except subprocess.TimeoutExpired:
        agent.kill()


class Client:
    """One conversation with one agent, a message at a time."""

    def __init__(self, hears: IO[bytes], says: IO[bytes], worktree: Path) -> None:
        self._hears, self._says, self._worktree = hears, says, worktree
        self._number = 0

    def ask(self, prompt: str) -> str:
        """Open a session, put the prompt, serve the agent until its turn ends; why it ended."""
        capabilities = {"fs": {"readTextFile": True, "writeTextFile": True}, "terminal": False}
        about = {"name": "nightlab", "title": "Nightlab", "version": "1"}
        hello = self._call("initialize", protocolVersion=VERSION, clientCapabilities=capabilities, clientInfo=about)
        session = self._session(hello.get("authMethods") or [])
        _print(event="session", id=session)
        block = {"type": "text", "text": prompt}
        return str(self._call("session/prompt", sessionId=session, prompt=[block])["stopReason"])

    def _session(self, methods: list[Message]) -> str:
        """A new session; where the agent first wants a login, by whichever of its ways needs no person."""
        new = {"cwd": str(self._worktree), "mcpServers": []}
        try:
            return str(self._call("session/new", **new)["sessionId"])
        except Refused as refusal:
            if refusal.code != _LOGIN_REQUIRED:
                raise
            ways = sorted((str(method["id"]) for method in methods), key=lambda way: "key" not in way)
            if not ways:
                raise
            self._call("authenticate", methodId=ways[0])
        return str(self._call("session/new", **new)["sessionId"])

    def _call(self, method: str, **params: Any) -> Message:
        """A request's result; what the agent asks meanwhile is answered."""
        self._number += 1
        number = self._number
        self._send(id=number, method=method, params=params)
        while True:
            message = self._next()
            if "method" in message:
                self._serve(message)
            elif message.get("id") == number:
                if "error" in message:
                    raise Refused(message["error"])
                result = message.get("result")
                return result if isinstance(result, dict) else {}

    def _next(self) -> Message:
        """The next message; what is not one (a greeting, a warning) is passed on as words."""
        while line := self._hears.readline(_LONGEST):
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if isinstance(message, dict):
                return message
            print(line.decode("utf-8", "replace").rstrip(), flush=True)
        raise ValueError("the agent ended in the middle of its turn")

    def _send(self, **message: Any) -> None:
        self._says.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self._says.flush()

    def _serve(self, message: Message) -> None:
        """Answer a request of the agent, or take note of what it tells."""
        params = message.get("params") or {}
        if "id" not in message:
            _note(params.get("update") or {})
            return
        serve = {
            "session/request_permission": _permission,
            "fs/read_text_file": self._read,
            "fs/write_text_file": self._write,
        }.get(message["method"])
        try:
            if serve is None:
                raise Refused({"code": _NO_SUCH_METHOD, "message": f"this client has no {message['method']}"})
            self._send(id=message["id"], result=serve(params))
        except Refused as error:
            self._send(id=message["id"], error={"code": error.code, "message": str(error)})
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._send(id=message["id"], error={"code": _BAD_REQUEST, "message": f"{type(error).__name__}: {error}"})

    def _read(self, params: Message) -> Message:
        lines = self._inside(params["path"]).read_text(encoding="utf-8").splitlines(keepends=True)
        start = max(0, int(params.get("line") or 1) - 1)
        most = params.get("limit")
        return {"content": "".join(lines[start:] if most is None else lines[start : start + int(most)])}

    def _write(self, params: Message) -> Message:
        place, content = self._inside(params["path"]), str(params["content"])
        place.write_text(content, encoding="utf-8")
        _print(event="wrote", path=str(place))
        return {}

    def _inside(self, path: str) -> Path:
        place = Path(os.path.realpath(self._worktree / path))
        if not place.is_relative_to(os.path.realpath(self._worktree)):
            raise Refused({"code": _BAD_REQUEST, "message": f"{path} is not in {self._worktree}"})
        return place


def _permission(params: Message) -> Message:
    """Yes, this once: the jail decides what it can do, and the diff is read afterwards."""
    options = params["options"]
    for kind in ("allow_once", "allow_always"):
        for option in options:
            if option.get("kind") == kind:
                return {"outcome": {"outcome": "selected", "optionId": option["optionId"]}}
    return {"outcome": {"outcome": "cancelled"}}


def _note(update: Message) -> None:
    kind, content = update.get("sessionUpdate"), update.get("content")
    if kind == "agent_message_chunk" and isinstance(content, dict) and isinstance(content.get("text"), str):
        _print(event="text", text=content["text"])
    elif kind in ("tool_call", "tool_call_update"):
        _print(event=kind, title=str(update.get("title", ""))[:200], status=str(update.get("status", "")))


def _print(**words: str) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
