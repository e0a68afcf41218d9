"""Stand-in agents: small real programs behind a template of their own."""

from __future__ import annotations

import sys
from pathlib import Path

TEMPLATE = """\
name = "standin"
argv = ["{program}", "{{prompt_file}}", "{{url}}", "{{model}}", "{{worktree}}"]
stdin = {stdin}
silence = {silence}
leaves = [".standin*"]
[[provider]]
wire = "chat"
key = "STANDIN_KEY"
url = "STANDIN_URL"
address = "http://127.0.0.1:9"
model = "m"
"""

ASKING = '''
import json, os, sys, time, urllib.error, urllib.request

def ask(messages, url=sys.argv[2], tries=3):
    """One question, put again where the endpoint is in trouble, as agents do."""
    body = json.dumps({"model": sys.argv[3], "messages": messages, "tools": [TOOL], "stream": False}).encode()
    for attempt in range(tries):
        request = urllib.request.Request(url + "/v1/chat/completions", body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.load(answer)["choices"][0]["message"]
        except urllib.error.HTTPError as error:
            print("API error", error.code, error.read().decode()[:200], flush=True)
            if error.code == 400:
                sys.exit(1)
        except OSError as error:
            print("connection error", error, flush=True)
        time.sleep(0.05)
    sys.exit(1)

TOOL = {"type": "function", "function": {"name": "write_file", "parameters": {"type": "object", "properties": {
    "file_path": {"type": "string"}, "content": {"type": "string"}}}}}
prompt = open(sys.argv[1]).read()

def work():
    """Carry out what the model calls for, until it calls for nothing."""
    messages = [{"role": "user", "content": prompt}]
    while True:
        message = ask(messages)
        for call in message.get("tool_calls") or []:
            given = json.loads(call["function"]["arguments"])
            open(given["file_path"], "w").write(given["content"])
            messages += [message, {"role": "tool", "tool_call_id": call["id"], "content": "written"}]
        if not message.get("tool_calls"):
            print(message.get("content"))
            return
'''


def script(program: Path, text: str) -> None:
    """Write a program in Python; begun by a shell, since a first line may not name an interpreter with a space."""
    begin = f"""#!/bin/sh\n''':'\nexec '{sys.executable}' "$0" "$@"\n'''\n"""
    program.write_text(begin + text)
    program.chmod(0o755)


def standin(folder: Path, body: str, *, stdin: bool = False, silence: float = 30.0) -> str:
    """Write an agent; the name by which it is hired."""
    folder.mkdir(parents=True, exist_ok=True)
    program, template = folder / "standin", folder / "standin.toml"
    script(program, f"import sys, os, subprocess, time\n{body}\n")
    template.write_text(TEMPLATE.format(program=program, stdin=str(stdin).lower(), silence=silence))
    return str(template)
