"""The prompt task: the judge asks a scripted model over real HTTP, and a better prompt scores better."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import git, make_repository, need, need_level

from nightlab import tasks
from nightlab.judge import Judge
from nightlab.place import find, held
from nightlab.proposer import Scripted
from nightlab.study import Study
from nightlab.task import load
from nightlab.values import Proposal, Status

QUEUES = ("billing", "delivery", "technical", "account")
NAMED = "Which of the queues billing, delivery, technical and account is it? Answer with its name.\n\n{input}\n"
SHOWN = NAMED + "\nFor example, 'Error 502' is technical.\n"
SECRET = "sk-never-to-be-seen-5f2c"


@pytest.fixture(scope="module")
def server_module() -> Any:
    need(importlib.util.find_spec("uvicorn") is not None, "uvicorn is not installed (pip install -e '.[agents]')")
    return importlib.import_module("nightlab.testing.modelserver")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


class Lab:
    """The template, and its judge called as a lab would."""

    def __init__(self, root: Path) -> None:
        self.root, self.home, self.cache = root, root / "home", root / "cache"
        tasks.write("prompt", self.home)
        self.cache.mkdir()

    def labels(self) -> dict[str, str]:
        lines = [line for part in ("validation", "sealed") for line in self.lines(f"{part}/examples.jsonl")]
        return {line["input"]: line["label"] for line in lines}

    def lines(self, path: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.home / path).read_text().splitlines()]

    def score(self, prompt: object, *, data: str = "validation", **env: str) -> subprocess.CompletedProcess[str]:
        artifact = self.root / "prompt.json"
        artifact.write_text(json.dumps({"prompt": prompt}))
        known = {"PATH": os.environ["PATH"], "NIGHTLAB_CACHE": str(self.cache), "NIGHTLAB_DATA": str(self.home / data)}
        return subprocess.run(
            [sys.executable, "judge.py", "score", str(artifact)],
            cwd=self.home,
            env=known | {"NIGHTLAB_MODEL": "scripted"} | env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def value(self, prompt: str, url: str, **env: str) -> dict[str, Any]:
        done = self.score(prompt, OPENAI_BASE_URL=f"{url}/v1", **env)
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        return said


def model(labels: dict[str, str], server_module: Any) -> Callable[[Any], Any]:
    """A model that knows every message, and obeys the better the more it is told."""

    def answer(asked: Any) -> Any:
        label = next(label for message, label in labels.items() if message in asked.prompt)
        if not all(queue in asked.prompt for queue in QUEUES):
            return server_module.Reply("I would pass this on to the support team.")
        skill = 9 if "For example" in asked.prompt else 6
        is_right = zlib.crc32(asked.prompt.partition("\n\n")[2][:20].encode()) % 10 < skill
        return server_module.Reply(f" {label.title()}.\n" if is_right else "none of them")

    return answer


@pytest.fixture
def server(lab: Lab, server_module: Any) -> Iterator[Any]:
    with server_module.ModelServer(model(lab.labels(), server_module)) as running:
        yield running


def test_the_examples_are_balanced_and_none_is_on_two_sides(lab: Lab) -> None:
    sides = [lab.lines(path) for path in ("examples.jsonl", "validation/examples.jsonl", "sealed/examples.jsonl")]

    assert [Counter(line["label"] for line in side) for side in sides] == [
        dict.fromkeys(QUEUES, count) for count in (4, 15, 15)
    ]
    assert len({line["input"].casefold() for side in sides for line in side}) == 136


def test_no_run_is_shown_the_labels_or_the_key(lab: Lab) -> None:
    read = load(lab.home)

    assert read.judge is not None
    assert all(read.is_hidden(f"{part}/examples.jsonl") for part in ("validation", "sealed"))
    assert "OPENAI_API_KEY" in read.judge.env
    assert read.task.env == ()


def test_a_better_prompt_scores_better_example_by_example(lab: Lab, server: Any) -> None:
    start, named, shown = (
        lab.value(prompt, server.url) for prompt in ((lab.home / "prompt.md").read_text(), NAMED, SHOWN)
    )

    assert start["value"] == 0.0
    assert 0.4 < named["value"] < 0.8 < shown["value"] < 1.0
    assert len(shown["per_example"]) == 60
    assert shown["value"] == pytest.approx(sum(shown["per_example"]) / 60)
    assert shown["secondary"]["tokens_per_example"] > named["secondary"]["tokens_per_example"] > 10


def test_the_same_prompt_is_never_asked_twice(lab: Lab, server: Any) -> None:
    first = lab.value(NAMED, server.url)
    again = lab.value(NAMED, server.url)

    assert len(server.asked) == 60
    assert again == first

    lab.value(NAMED, server.url, NIGHTLAB_MODEL="another")
    assert len(server.asked) == 120


def test_what_passes_is_waited_for(lab: Lab, server_module: Any) -> None:
    troubles = iter(
        [
            server_module.Refusal(429, retry_after=0.1),
            server_module.Refusal(503),
            server_module.Broken(server_module.Reply("billing"), after=10),
        ]
    )
    knows = model(lab.labels(), server_module)

    with server_module.ModelServer(lambda asked: next(troubles, None) or knows(asked)) as server:
        said = lab.value(SHOWN, server.url)

        assert said["value"] > 0.8
        assert len(server.asked) == 63


def test_a_refused_key_is_told_by_its_variable_and_never_shown(lab: Lab, server_module: Any) -> None:
    for status, word in ((401, "OPENAI_API_KEY"), (400, "refuses the question")):
        with server_module.ModelServer([server_module.Refusal(status, f"what is {SECRET}?")]) as server:
            done = lab.score(NAMED, OPENAI_BASE_URL=f"{server.url}/v1", OPENAI_API_KEY=SECRET)

            assert done.returncode == 1
            assert word in done.stderr
            assert SECRET not in done.stderr + done.stdout
            assert len(server.asked) < 60  # of 63: nobody goes on asking


@pytest.mark.parametrize(
    ("env", "variable"),
    [
        ({"NIGHTLAB_MODEL": ""}, "NIGHTLAB_MODEL"),
        ({}, "OPENAI_API_KEY"),
        ({"NIGHTLAB_MODEL": "claude-opus", "OPENAI_API_KEY": SECRET}, "ANTHROPIC_API_KEY"),
    ],
)
def test_a_missing_variable_is_named(lab: Lab, env: dict[str, str], variable: str) -> None:
    done = lab.score(NAMED, **env)

    assert done.returncode == 1
    assert done.stderr.startswith(f"{variable} is not set")


def test_claude_is_asked_in_its_own_words(lab: Lab, server: Any) -> None:
    done = lab.score(NAMED, NIGHTLAB_MODEL="claude-opus", ANTHROPIC_BASE_URL=server.url, ANTHROPIC_API_KEY=SECRET)

    assert 0.4 < json.loads(done.stdout)["value"] < 0.8
    assert {(asked.wire, asked.headers["x-api-key"]) for asked in server.asked} == {("messages", SECRET)}


@pytest.mark.parametrize(("prompt", "why"), [("no place", "{input}"), (None, "{input}"), ("{input}" * 3000, "20,000")])
def test_a_prompt_that_cannot_be_asked_is_refused_before_anything_is_asked(lab: Lab, prompt: object, why: str) -> None:
    done = lab.score(prompt)

    assert done.returncode == 1
    assert done.stderr.startswith("invalid: ")
    assert why in done.stderr


def test_an_example_may_bring_a_rule_of_its_own(lab: Lab) -> None:
    spec = importlib.util.spec_from_file_location("prompt_judge", lab.home / "judge.py")
    assert spec
    assert spec.loader
    judge = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(judge)

    assert judge.is_right({"label": "billing"}, " **Billing**.\n")
    assert not judge.is_right({"label": "billing"}, "It is billing.")
    assert judge.is_right({"label": ["yes", "ja"]}, "Ja")
    assert judge.is_right({"pattern": r"\d+ kg"}, "12 kg\n")
    assert not judge.is_right({"pattern": r"\d+ kg"}, "about 12 kg")
    with pytest.raises(SystemExit, match="line 3"):
        judge.example('{"input": "x"}', "line 3")


def test_a_judge_gets_the_variables_that_its_task_names_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "judge.py").write_text(
        "import os, pathlib, sys\npathlib.Path(sys.argv[2], 'seen').write_text(repr(os.environ))"
    )
    monkeypatch.setenv("A_KEY", SECRET)
    monkeypatch.setenv("ANOTHER_KEY", SECRET[::-1])
    monkeypatch.setenv("NIGHTLAB_SEED", "not this one")
    names = ("A_KEY", "NOT_SET", "NIGHTLAB_SEED")
    judge = Judge((sys.executable, "judge.py"), tmp_path, tmp_path, {"data": "d"}, env=names)

    judge.give(tmp_path, seed=5, budget=None)

    seen = (tmp_path / "seen").read_text()
    assert f"'A_KEY': '{SECRET}'" in seen
    assert "'NIGHTLAB_SEED': '5'" in seen
    assert "NOT_SET" not in seen
    assert "ANOTHER_KEY" not in seen
    assert SECRET not in repr(judge)


@pytest.mark.slow
def test_a_study_keeps_the_better_prompt_and_discards_the_worse(
    tmp_path: Path, lab: Lab, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_level("bubblewrap")
    folder = make_repository(tmp_path / "study", {"README.md": "A prompt.\n"})
    tasks.write("prompt", folder)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "the task")
    monkeypatch.setenv("NIGHTLAB_MODEL", "scripted")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    script = [Proposal(words, {"prompt.md": text}) for words, text in (("name them", NAMED), ("show", SHOWN))]
    script += [Proposal("shorter", {"prompt.md": "{input}?\n"}), Proposal("no place", {"prompt.md": "Sort it.\n"})]

    with held(place := find(folder)), closing(Study(place, jail="bubblewrap")) as study:
        study.loop([Scripted(script)]).run()
        told = study.ledger.experiments()

    assert [one.status for one in told] == [
        *(Status.KEPT, Status.KEPT, Status.KEPT, Status.DISCARDED),
        Status.INVALID,
    ]
    assert "{input}" in told[4].reason
    assert len({asked.prompt for asked in server.asked}) == len(server.asked) == 4 * 60
    shutil.rmtree(folder / ".nightlab" / "worktrees", ignore_errors=True)
    kept = b"".join(path.read_bytes() for path in (folder / ".nightlab").rglob("*") if path.is_file())
    assert SECRET.encode() not in kept
