"""The client of the Agent Client Protocol, against a scripted agent that is a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from standins import script
from workrooms import TREE, Room, asked, context, room

from nightlab.agents import acp

AGENT = """
import json, sys
def say(**message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
def hear():
    return json.loads(sys.stdin.readline())
def ask(method, **params):
    say(id="a1", method=method, params=params)
    answer = hear()
    return answer.get("result", answer.get("error"))
print("a greeting that is no message", flush=True)
ways = [{"id": "browser"}, {"id": "api-key"}]
hello = hear(); say(id=hello["id"], result={"protocolVersion": 1, "authMethods": ways})
new = hear()
if LOGIN:
    say(id=new["id"], error={"code": -32000, "message": "login first"})
    login = hear(); say(id=login["id"], result={}); new = hear()
    assert login["params"]["methodId"] == "api-key"
say(id=new["id"], result={"sessionId": "s1"})
turn = hear()
tree = new["params"]["cwd"]
def tell(text):
    update = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}}
    say(method="session/update", params={"sessionId": "s1", "update": update})
DEED
say(id=turn["id"], result={"stopReason": "end_turn"})
sys.stdin.read()
"""
EDIT = """
options = [{"optionId": "n", "kind": "reject_once"}, {"optionId": "y", "kind": "allow_once"}]
leave = ask("session/request_permission", sessionId="s1", toolCall={}, options=options)
assert leave == {"outcome": {"outcome": "selected", "optionId": "y"}}, leave
text = ask("fs/read_text_file", sessionId="s1", path=tree + "/train.py")["content"]
ask("fs/write_text_file", sessionId="s1", path=tree + "/train.py", content=text.replace("5", "4"))
tell("HYPOTHESIS: a lower "); tell("knob")
"""
PRY = """
tell(json.dumps([ask("fs/read_text_file", sessionId="s1", path=path) for path in
    ("/etc/passwd", tree + "/../secret", tree + "/link", tree + "/none")] + [ask("terminal/create", command="sh")]))
"""


def agent(folder: Path, deed: str, *, login: bool = False) -> Path:
    path = folder / "agent"
    script(path, AGENT.replace("DEED", deed).replace("LOGIN", str(login)))
    return path


def test_an_agent_that_speaks_acp_makes_its_edit_in_the_jail(room: Room, tmp_path: Path) -> None:
    spec = f"acp:m:'{agent(tmp_path, EDIT, login=True)}'"

    proposal = asked(spec, room(environ={"OPENAI_API_KEY": "k"})).propose(context())

    assert proposal.files == {"train.py": TREE["train.py"].replace("5", "4")}
    assert proposal.hypothesis == "a lower knob"
    assert proposal.facts["session"] == "s1"


def spoken(folder: Path, program: Path) -> tuple[int, list[dict[str, str]]]:
    (folder / "prompt").write_text("go")
    words = [sys.executable, "-I", "-S", acp.__file__, str(folder / "prompt"), str(folder / "tree"), str(program)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_the_client_shows_nothing_outside_the_tree(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "tree" / "link").symlink_to("../secret")

    code, said = spoken(tmp_path, agent(tmp_path, PRY))

    answers = json.loads(next(one["text"] for one in said if one["event"] == "text"))
    assert code == 0
    assert [answer["code"] for answer in answers] == [-32602, -32602, -32602, -32602, -32601]
    assert "is not in" in answers[2]["message"]


def test_an_agent_that_ends_in_the_middle_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()

    code, said = spoken(tmp_path, agent(tmp_path, "sys.exit(3)"))

    assert code == 1
    assert said[-1] == {"event": "error", "text": "ValueError: the agent ended in the middle of its turn"}


def test_a_command_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()

    code, said = spoken(tmp_path, tmp_path / "nothing")

    assert code == 127
    assert "cannot start" in said[-1]["text"]
