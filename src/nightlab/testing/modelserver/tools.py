"""Edits in the words of whatever agent asks: by the tools it offers, no agent needs to be named.

A new agent is a new line in EDITS, WRITES or SHELLS. Names are looked up in the order given, and a tool counts only
where it has all the arguments its line writes.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from nightlab.testing.modelserver.values import Asked, Call, Reply

Arguments = Callable[..., Mapping[str, Any] | str]

EDITS: list[tuple[str, Arguments]] = [
    # Claude Code; opencode; gemini and qwen; pi
    ("Edit", lambda path, old, new: {"file_path": path, "old_string": old, "new_string": new}),
    ("edit", lambda path, old, new: {"filePath": path, "oldString": old, "newString": new}),
    ("edit", lambda path, old, new: {"file_path": path, "old_string": old, "new_string": new}),
    (
        "replace",
        lambda path, old, new: {"file_path": path, "instruction": "edit", "old_string": old, "new_string": new},
    ),
    ("replace", lambda path, old, new: {"file_path": path, "old_string": old, "new_string": new}),
    ("edit", lambda path, old, new: {"path": path, "edits": [{"oldText": old, "newText": new}]}),
    ("edit", lambda path, old, new: {"path": path, "oldText": old, "newText": new}),
    ("str_replace_based_edit_tool", lambda path, old, new: _native("str_replace", path, old_str=old, new_str=new)),
]
WRITES: list[tuple[str, Arguments]] = [
    ("Write", lambda path, text: {"file_path": path, "content": text}),
    ("write", lambda path, text: {"filePath": path, "content": text}),
    ("write_file", lambda path, text: {"file_path": path, "content": text}),
    ("write", lambda path, text: {"path": path, "content": text}),
    ("str_replace_based_edit_tool", lambda path, text: _native("create", path, file_text=text)),
]
SHELLS: list[tuple[str, Arguments]] = [
    ("exec_command", lambda command: {"cmd": command}),
    ("shell_command", lambda command: {"command": command}),
    ("shell", lambda command: {"command": ["bash", "-c", command]}),
    ("local_shell", lambda command: {"type": "exec", "command": ["bash", "-c", command], "env": {}}),
    ("Bash", lambda command: {"command": command, "description": "scripted"}),
    ("bash", lambda command: {"command": command, "description": "scripted"}),
    ("bash", lambda command: {"command": command}),
    ("run_shell_command", lambda command: {"command": command, "description": "scripted", "is_background": False}),
    ("run_shell_command", lambda command: {"command": command}),
]


def edit(asked: Asked, path: str, old: str, new: str) -> Reply:
    """Replace a text in a file, by the agent's own tool for it; in prose for an agent that offers none."""
    call = _fitting(asked, EDITS, path, old, new) or _patch(asked, _update(path, old, new))
    if call is None and asked.tools:
        call = _fitting(asked, SHELLS, f"python3 -c {shlex.quote(_replacing(path, old, new))}")
    return Reply(calls=(call,)) if call else Reply(text=_block(path, old, new))


def write(asked: Asked, path: str, text: str) -> Reply:
    """Write a whole file, by the agent's own tool for it; in prose for an agent that offers none."""
    call = _fitting(asked, WRITES, path, text) or _patch(asked, _addition(path, text))
    if call is None and asked.tools:
        call = _fitting(asked, SHELLS, f"printf %s {shlex.quote(text)} > {shlex.quote(path)}")
    return Reply(calls=(call,)) if call else Reply(text=_block(path, "", text))


def shell(asked: Asked, command: str) -> Reply:
    """Run a command, by the agent's own tool for it; in prose for an agent that offers none."""
    call = _fitting(asked, SHELLS, command)
    return Reply(calls=(call,)) if call else Reply(text=f"Run this:\n\n```\n{command}\n```\n")


def _fitting(asked: Asked, known: list[tuple[str, Arguments]], *values: str) -> Call | None:
    for name, arguments in known:
        schema = asked.tools.get(name)
        if schema is not None and schema.get("type") != "string":
            given = arguments(*values)
            has_all = isinstance(given, Mapping) and given.keys() <= schema.get("properties", {}).keys()
            if has_all or "x-native" in schema or not schema:
                return Call(name, given)
    return None


def _patch(asked: Asked, patch: str) -> Call | None:
    """Codex's own patch language, as free text or as one argument."""
    schema = asked.tools.get("apply_patch")
    if schema is None or "x-native" in schema:
        return None
    return Call("apply_patch", patch if schema.get("type") == "string" else {"input": patch})


def _native(command: str, path: str, **texts: str) -> dict[str, str]:
    return {"command": command, "path": path, **texts}


def _signed(sign: str, text: str) -> str:
    return "".join(f"{sign}{line}\n" for line in text.splitlines())


def _update(path: str, old: str, new: str) -> str:
    return f"*** Begin Patch\n*** Update File: {path}\n@@\n{_signed('-', old)}{_signed('+', new)}*** End Patch\n"


def _addition(path: str, text: str) -> str:
    return f"*** Begin Patch\n*** Add File: {path}\n{_signed('+', text)}*** End Patch\n"


def _replacing(path: str, old: str, new: str) -> str:
    return f"p={path!r}; t=open(p).read(); open(p,'w').write(t.replace({old!r}, {new!r}, 1))"


def _block(path: str, old: str, new: str) -> str:
    """The edit format of aider and of the built-in agent."""
    fenced = f"<<<<<<< SEARCH\n{_ended(old)}=======\n{_ended(new)}>>>>>>> REPLACE"
    return f"{path}\n```\n{fenced}\n```\n"


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"
