"""Agents that misbehave: each costs its one call, ends with the right words, and leaves nothing behind."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from standins import ASKING, standin
from workrooms import TREE, Room, asked, context, room

from nightlab.agents import changes
from nightlab.agents.relay import Caps, Prices, Relay
from nightlab.proposer import Context
from nightlab.testing.modelserver import Answer, Asked, Broken, ModelServer, Refusal, Reply, Usage, malformed, write
from nightlab.values import Proposal

KEY = {"STANDIN_KEY": "sk-real-0123456789"}
BETTER = TREE["train.py"].replace("5", "4")


def answer(
    room: Room, tmp_path: Path, body: str, *, seconds: float = 20.0, stdin: bool = False, **more: Any
) -> Proposal:
    spec = standin(tmp_path / "bin", body, stdin=stdin, silence=more.pop("silence", 30.0))
    return asked(spec, room(environ=KEY, seconds=seconds, **more)).propose(context())


def failure(proposal: Proposal) -> str:
    assert not proposal.files
    return str(proposal.facts["failure"])


def test_an_agent_that_does_nothing_made_no_change(room: Room, tmp_path: Path) -> None:
    proposal = answer(room, tmp_path, "")

    assert failure(proposal) == "made no change; it said nothing"


def test_an_agent_that_only_says_it_is_done_made_no_change(room: Room, tmp_path: Path) -> None:
    denied = "os.chmod('train.py', 0o444)\nprint('Edit denied. All done! HYPOTHESIS: it is better now')"

    proposal = answer(room, tmp_path, denied)

    assert failure(proposal).startswith("made no change; its last words: “Edit denied. All done!")


def test_an_agent_that_hangs_on_a_dead_endpoint_is_ended(room: Room, tmp_path: Path) -> None:
    began = time.monotonic()

    proposal = answer(room, tmp_path, ASKING + "\nwhile True:\n    ask([{'role': 'user'}], tries=10**6)", seconds=1.0)

    assert "ran longer than 1 s" in failure(proposal)
    assert "connection error" in failure(proposal)
    assert time.monotonic() - began < 5


def test_an_agent_that_falls_silent_is_ended(room: Room, tmp_path: Path) -> None:
    proposal = answer(room, tmp_path, "print('thinking', flush=True)\ntime.sleep(60)", silence=0.5)

    assert "silent for 0.5 s" in failure(proposal)
    assert "thinking" in failure(proposal)


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        ("open('frozen.py', 'a').write('X = 2')", "scope: it changed frozen.py, which is not editable"),
        ("os.remove('frozen.py')", "scope: it deleted frozen.py, which is not editable"),
        ("os.remove('frozen.py'); os.symlink('/etc/passwd', 'frozen.py')", "scope: it changed frozen.py"),
        ("os.remove('train.py'); os.symlink('frozen.py', 'train.py')", "train.py became a link"),
        ("os.remove('train.py'); os.mkfifo('train.py')", "train.py is no plain file any more"),
        ("open('train.py', 'wb').write(bytes([0x80, 0x81]))", "train.py is not a text in UTF-8"),
        ("open('train.py', 'w').write('a' * (2 << 20))", "train.py has 2097152 bytes; the most is 1048576"),
        ("open('train.py', 'w').write('a\\0b')", "train.py holds a NUL"),
    ],
)
def test_a_change_that_may_not_be_taken_is_told_with_its_file(
    room: Room, tmp_path: Path, deed: str, words: str
) -> None:
    proposal = answer(room, tmp_path, deed)

    assert failure(proposal).startswith(words)


def test_a_forest_of_files_is_not_walked_to_its_end(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "MOST", 100)

    proposal = answer(room, tmp_path, "os.mkdir('many')\nfor n in range(200): open(f'many/{n}', 'w').close()")

    assert "more than 100 files" in failure(proposal)


NEST = """
at = os.open('parts', os.O_RDONLY) if os.path.isdir('parts') else (os.mkdir('parts'), os.open('parts', os.O_RDONLY))[1]
for _ in range(3000):
    os.mkdir('down', dir_fd=at)
    at = os.open('down', os.O_RDONLY, dir_fd=at)
    os.close(at - 1) if at > 9 else None
"""


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        ("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n" + NEST, "cannot be read"),
        ("os.makedirs('parts', exist_ok=True)\nopen(b'parts/\\xff.py', 'w').write('x = 1')", "is no name"),
        ("os.makedirs('parts', exist_ok=True)\nopen('parts/a\\nb.py', 'w').write('x = 1')", "is no name"),
        ("print('I said \\ud800'.encode('utf-8', 'surrogatepass'))", "made no change"),
    ],
)
def test_what_an_agent_leaves_behind_is_paid_for_and_taken_away(
    room: Room, tmp_path: Path, deed: str, words: str
) -> None:
    body = f"{ASKING}\nask([{{'role': 'user', 'content': prompt}}])\n{deed}"
    with ModelServer([Reply("done")]) as server:
        relay = Relay(Prices(), Caps())
        spec = standin(tmp_path / "bin", body)
        workroom = room(environ=KEY | {"STANDIN_URL": server.url}, seconds=30.0, relay=relay)
        proposal = asked(spec, workroom).propose(context())
        relay.close()

    assert words in failure(proposal)
    assert proposal.cost.tokens == server.usage.total.tokens
    assert not (tmp_path / "agents" / "draft-0" / "tree").exists()


def test_an_agent_that_makes_a_repository_of_its_tree_changes_nothing_of_the_users(
    room: Room, tmp_path: Path, folder: Path
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    deed = (
        "def git(*w): subprocess.run(['git', '-c', 'user.name=a', '-c', 'user.email=a@b', *w], check=True)\n"
        "git('init', '-q'); git('add', '-A'); git('commit', '-qm', 'all mine')\n"
        "hook = '.git/hooks/post-checkout'; open(hook, 'w').write('#!/bin/sh\\nexit 3'); os.chmod(hook, 0o755)\n"
        f"open('train.py', 'w').write({BETTER!r}); git('commit', '-qam', 'better')\n"
        "git('reset', '-q', '--hard', 'HEAD~1')\n"
        "import shutil; shutil.rmtree('.git'); open('.git', 'w').write('gitdir: /somewhere/else')\n"
        f"open('train.py', 'w').write({BETTER!r}); print('HYPOTHESIS: lower')"
    )

    proposal = answer(room, tmp_path, deed)

    assert proposal.files == {"train.py": BETTER}
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp('sleep', ['sleep', '{length}'])
    os._exit(0)
subprocess.Popen(['sleep', '{length}'], start_new_session=True)
open('train.py', 'w').write({better!r})
print('HYPOTHESIS: lower')
"""


def running(word: str) -> list[str]:
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [place.parent.name] if word.encode() in place.read_bytes() else []
        except OSError:
            continue
    return found


@pytest.mark.parametrize("level", ["bubblewrap", "process"])
def test_what_an_agent_leaves_running_is_gone(room: Room, tmp_path: Path, level: str) -> None:
    length = f"987{os.getpid()}"

    proposal = answer(room, tmp_path, DAEMON.format(length=length, better=BETTER), level=level)

    assert proposal.files == {"train.py": BETTER}
    assert running(length) == []


def test_an_agent_that_floods_its_log_is_ended(room: Room, tmp_path: Path) -> None:
    proposal = answer(room, tmp_path, "while True: sys.stdout.write('x' * 65536 + '\\n')")

    assert "printed more than 16 MB" in failure(proposal)
    assert len(failure(proposal)) < 1000
    assert sum(path.stat().st_size for path in (tmp_path / "agents").rglob("*") if path.is_file()) < 4 << 20


def test_an_agent_that_asks_a_question_gets_no_answer_and_does_not_wait(room: Room, tmp_path: Path) -> None:
    began = time.monotonic()

    proposal = answer(room, tmp_path, "print('May I edit train.py? [y/N]', flush=True)\nanswer = sys.stdin.read()")

    assert "May I edit train.py?" in failure(proposal)
    assert time.monotonic() - began < 5


def test_an_agent_learns_neither_key_nor_anything_of_the_users_environment(room: Room, tmp_path: Path) -> None:
    deed = (
        "import glob\n"
        "seen = [repr(dict(os.environ))]\n"
        "for name in glob.glob('/proc/*/environ') + glob.glob(os.path.dirname(sys.argv[4]) + '/**', recursive=True):\n"
        "    try: seen.append(open(name, errors='replace').read())\n"
        "    except OSError: pass\n"
        "print('LEAK' if 'sk-real' in ''.join(seen) else 'nothing', len(seen))"
    )

    proposal = answer(room, tmp_path, deed)

    assert "“nothing" in failure(proposal)
    assert all(b"sk-real" not in path.read_bytes() for path in (tmp_path / "agents").rglob("*") if path.is_file())


# ---- behind the real relay ----


def through(
    room: Room, tmp_path: Path, script: Any, body: str, *, caps: Caps | None = None
) -> tuple[Proposal, ModelServer]:
    spec = standin(tmp_path / "bin", ASKING + body)
    relay = Relay(Prices(), caps or Caps())
    with ModelServer(script) as server:
        workroom = room(environ=KEY | {"STANDIN_URL": server.url + "/v1"}, relay=relay, seconds=20.0)
        try:
            return asked(spec, workroom).propose(context()), server
        finally:
            relay.close()


def lowering(ask: Asked) -> Answer:
    if ask.has_result:
        return Reply("done\nHYPOTHESIS: a lower knob scores lower")
    return write(ask, "train.py", BETTER)


def test_an_honest_agent_is_counted_to_the_token(room: Room, tmp_path: Path) -> None:
    proposal, server = through(room, tmp_path, lowering, "work()")

    assert proposal.files == {"train.py": BETTER}
    assert proposal.hypothesis == "a lower knob scores lower"
    assert proposal.cost.tokens == server.usage.total.tokens > 0


def test_an_agent_that_burns_its_cap_is_out_of_budget(room: Room, tmp_path: Path) -> None:
    def chat(ask: Asked) -> Answer:
        return Reply("more", usage=Usage(4000, 1000))

    deed = "while True: ask([{'role': 'user', 'content': 'on and on'}], tries=1)"
    proposal, server = through(room, tmp_path, chat, deed, caps=Caps(tokens=60_000))

    assert failure(proposal).startswith("out of budget:")
    assert "60,000 tokens" in str(proposal.facts["exhausted"])
    assert 0 < proposal.cost.tokens == server.usage.total.tokens <= 60_000


def test_a_malformed_tool_call_costs_the_call_and_no_more(room: Room, tmp_path: Path) -> None:
    proposal, server = through(room, tmp_path, [malformed("write_file")], "work()")

    assert failure(proposal).startswith("made no change and ended with exit code 1")
    assert proposal.cost.tokens == server.usage.total.tokens > 0


@pytest.mark.parametrize("status", [429, 500, 529])
def test_a_storm_of_errors_is_told_as_the_endpoints(room: Room, tmp_path: Path, status: int) -> None:
    proposal, _ = through(room, tmp_path, [Refusal(status, "come back later")], "work()")

    assert f"the model's endpoint answered {status}" in failure(proposal)
    assert "come back later" in failure(proposal)
    assert proposal.cost.tokens == 0


def test_a_broken_stream_costs_one_call(room: Room, tmp_path: Path) -> None:
    proposal, _ = through(room, tmp_path, [Broken(Reply("half a word"), after=9)], "work()")

    assert failure(proposal).startswith("made no change and ended with exit code 1")


def test_a_model_that_answers_in_prose_made_no_change(room: Room, tmp_path: Path) -> None:
    proposal, _ = through(room, tmp_path, [Reply("I would lower the knob.")], "work()")

    assert failure(proposal) == "made no change; its last words: “I would lower the knob.”"


def test_a_lab_that_was_killed_asks_the_very_same_again(room: Room, tmp_path: Path) -> None:
    told: list[Context] = []
    workroom = room(environ=KEY)
    spec = standin(tmp_path / "bin", f"open('train.py', 'w').write({BETTER!r}); print(open(sys.argv[1]).read()[:9])")
    agent = asked(spec, workroom)
    agent._briefing = lambda context: told.append(context) or f"ask {len(told)}\n"  # type: ignore[func-returns-value]

    first = agent.propose(context(draft=3))
    second = agent.propose(context(draft=3))

    assert first.files == second.files == {"train.py": BETTER}
    assert len(told) == 1
    assert "ask 1" in (workroom.home / "draft-3" / "prompt.md").read_text()


def test_a_call_that_is_made_again_is_not_paid_again(room: Room, tmp_path: Path) -> None:
    spec, relay = standin(tmp_path / "bin", ASKING + "work()"), Relay(Prices())
    with ModelServer(lowering) as server:
        agent = asked(spec, room(environ=KEY | {"STANDIN_URL": server.url + "/v1"}, relay=relay))
        first = agent.propose(context())
        paid = server.usage.total.tokens

        second = agent.propose(context())

        assert server.usage.total.tokens == paid
    relay.close()
    assert second.files == first.files == {"train.py": BETTER}
    assert second.cost.tokens == first.cost.tokens == paid
