"""observe: a foreign loop's own numbers in a ledger of ours, by real processes, and every reading opens on it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import git, make_repository, wait_for
from typer.testing import CliRunner

from nightlab import observe
from nightlab.cli import app
from nightlab.errors import BadTask, NotFound, StudyBusy
from nightlab.lineage import LAB
from nightlab.observation import _LAB, Observation
from nightlab.place import find, held, studies
from nightlab.readings import status
from nightlab.study import Study
from nightlab.transcript import Lines, Result
from nightlab.values import Experiment

Nightlab = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def night(tmp_path: Path) -> Observation:
    return observe("my-search", metric="val_loss", folder=tmp_path)


def logged(night: Observation) -> list[Experiment]:
    with closing(night.place.read()) as ledger:
        return ledger.experiments()


def observing(folder: Path, *words: str, **more: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "nightlab", "observe", "--metric", "val_loss", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


# Three lines of Python


def test_three_lines_make_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    night = observe("my-search", metric="val_loss", direction="lower")
    numbers = [night.log(value, words) for value, words in ((0.93, "the start"), (0.91, "wider"), (0.95, "deeper"))]

    assert numbers == [0, 1, 2]
    assert [(one.status, one.value, one.parent, one.grade) for one in logged(night)] == [
        ("kept", 0.93, None, "E1"),
        ("kept", 0.91, 0, "E1"),
        ("discarded", 0.95, 1, "E1"),
    ]
    with closing(night.place.read()) as ledger:
        facts = status(ledger, name="my-search", is_running=False)
    assert (facts["policy"], facts["level"], facts["audited"]) == ("observed", "printed", None)
    assert facts["incumbent"]["value"] == 0.91
    assert studies(tmp_path) == ["my-search"]


def test_all_that_is_said_is_written_down(night: Observation) -> None:
    night.log(1.0, "the start")

    more = {"diff": "diff --git a/x b/x\n", "seconds": 60.0, "tokens": 70, "money": 0.5, "proposer": "me"}
    night.log(2.0, "a detour", kept=True, parent=0, secondary={"mem": 3, "bad": float("nan")}, **more)
    night.log(1.5, "no better", kept=False)

    _, detour, after = logged(night)
    assert (detour.status, detour.gain, detour.seconds, detour.proposer) == ("kept", -1.0, 60.0, "me")
    assert detour.diff == more["diff"]
    assert (after.status, after.parent, after.gain) == ("discarded", 1, 0.5)
    with closing(night.place.read()) as ledger:
        assert ledger.spent() == {"seconds": pytest.approx(60.0, abs=5), "money": 0.5, "tokens": 70}
        assert (ledger.find("ran", "1-0") or {})["secondary"] == {"mem": 3.0}


@pytest.mark.parametrize(("direction", "best"), [("lower", 1), ("higher", 2)])
def test_the_best_is_what_the_direction_says(tmp_path: Path, direction: Any, best: int) -> None:
    night = observe(metric="score", direction=direction, folder=tmp_path)

    for value in (0.5, 0.4, 0.6):
        night.log(value)

    with closing(night.place.read()) as ledger:
        assert (ledger.incumbent() or logged(night)[0]).id == best


def test_a_failure_is_a_status_and_never_a_score(night: Observation) -> None:
    night.log(None, failed=True)
    night.log(float("nan"), "diverged")
    night.log(float("-inf"), "diverged more")
    night.log(1.0, "the first number")

    assert [(one.status, one.value, one.grade) for one in logged(night)] == [
        ("crashed", None, None),
        ("invalid", None, None),
        ("invalid", None, None),
        ("kept", 1.0, "E1"),
    ]


def test_hostile_words_are_one_harmless_line(night: Observation) -> None:
    night.log(1.0, "\x1b[2Jwiped\nProposer: root\udcff" + "a" * 999, proposer="me\nyou", diff="\udcff")

    (one,) = logged(night)
    assert one.hypothesis.isprintable()
    assert len(one.hypothesis) == 300
    assert (one.proposer, one.diff) == ("me you", "?")


@pytest.mark.parametrize(
    ("say", "words"),
    [
        (lambda night: night.log("fast"), "'fast' is not a number"),
        (lambda night: night.log(10**400), "is not a number"),
        (lambda night: night.log(None, kept=True), "cannot be kept"),
        (lambda night: night.log(1.0, failed=True, kept=True), "cannot be kept"),
        (lambda night: night.log(1.0, proposer=LAB), "the lab's own name"),
        (lambda night: night.log(1.0, seconds=-1), "seconds -1 is no amount"),
        (lambda night: night.log(1.0, money=float("nan")), "money nan is no amount"),
        (lambda night: night.log(1.0, facts={"a": object()}), "cannot be written as JSON"),
        (lambda night: observe("my-search", metric="acc", folder=night.place.root), "begun with metric 'val_loss'"),
        (lambda night: observe("my-search", direction="higher", folder=night.place.root), "direction 'lower'"),
        (lambda night: observe("my-search", direction="up", folder=night.place.root), "neither 'lower' nor"),
        (lambda night: observe("new", folder=night.place.root), "say what it measures"),
        (lambda night: observe("../x", metric="m", folder=night.place.root), "cannot be a study's name"),
    ],
)
def test_what_makes_no_sense_is_refused_and_not_written(
    night: Observation, say: Callable[[Observation], object], words: str
) -> None:
    with pytest.raises(BadTask, match=words):
        say(night)

    assert logged(night) == []
    assert studies(night.place.root) == ["my-search"]
    assert _LAB == LAB


def test_an_unknown_parent_is_refused(night: Observation) -> None:
    with pytest.raises(NotFound, match="no experiment 9"):
        night.log(1.0, parent=9)

    assert logged(night) == []


def test_reopening_goes_on_and_the_end_is_written_down(tmp_path: Path) -> None:
    with observe("s", metric="m", folder=tmp_path) as night:
        night.log(1.0)
    with suppress(ZeroDivisionError), observe("s", folder=tmp_path) as night:
        assert night.log(0.5) == 1
        _ = 1 / 0

    with closing(night.place.read()) as ledger:
        reasons = [event.body["reason"] for event in ledger.read(kind="stopped")]
    assert reasons == ["the observed loop ended", "the observed loop ended by ZeroDivisionError"]


def test_importing_it_stays_light_and_twice_is_the_same() -> None:
    code = (
        "from nightlab import observe; import nightlab.observation; from nightlab import observe as again; import sys; "
        "print(callable(again), [m for m in ('numpy', 'pydantic', 'typer', 'rich') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "True []"


# Several writers


def write_many(folder: str, count: int) -> None:
    night = observe("s", metric="m", folder=folder)
    for number in range(count):
        night.log(1.0 - number / 100 - os.getpid() / 1e9, f"{os.getpid()} {number}")


def test_processes_that_begin_and_log_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(str(tmp_path), 15)) for _ in range(3)]

    for one in writers:
        one.start()
    for one in writers:
        one.join(60)

    assert [one.exitcode for one in writers] == [0, 0, 0]
    found = logged(observe("s", folder=tmp_path))
    assert [one.id for one in found] == list(range(45))
    assert len({one.hypothesis for one in found}) == 45
    assert_best_so_far(found)


def assert_best_so_far(found: list[Experiment]) -> None:
    """Each was judged against all that had a lower number."""
    best: tuple[float, int | None] = (float("inf"), None)
    for one in found:
        assert one.value is not None
        assert one.parent == best[1]
        assert (one.status == "kept") == (one.value < best[0])
        best = min(best, (one.value, one.id))


def test_threads_and_forks_share_one_handle(night: Observation) -> None:
    threads = [threading.Thread(target=lambda: [night.log(1.0) for _ in range(5)]) for _ in range(3)]

    for one in threads:
        one.start()
    for one in threads:
        one.join()
    if (child := os.fork()) == 0:
        night.log(0.5, "by a fork")
        os._exit(0)
    os.waitpid(child, 0)
    night.log(0.4)

    assert [one.id for one in logged(night)] == list(range(17))
    assert logged(night)[15].hypothesis == "by a fork"


def test_a_writer_that_is_killed_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    code = (
        "from nightlab import observe\n"
        "night = observe('s', metric='m')\n"
        "for n in range(10**6): print(night.log(1.0 - n / 1e6, str(n)), flush=True)\n"
    )
    acknowledged = 0
    for _ in range(3):
        pipe = subprocess.PIPE
        with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=pipe, text=True) as writer:
            assert writer.stdout
            for _ in range(4):
                acknowledged = int(writer.stdout.readline())
            writer.kill()
        found = logged(observe("s", folder=tmp_path))

        assert [one.id for one in found] == list(range(len(found)))
        assert len(found) > acknowledged
        assert all(one.status in ("kept", "discarded") for one in found)


# A study is searched or observed


def test_what_is_observed_cannot_be_run_and_what_is_run_cannot_be_observed(nightlab: Nightlab, folder: Path) -> None:
    observe("watched", metric="score", folder=folder).log(1.0)
    nightlab("run", "--experiments", "1", "--no-audit", "--unsafe")

    for command in ("run", "audit"):
        done = nightlab(command, "--study", "watched", check=False)
        assert done.returncode == 2, command
        assert "record of another loop" in done.stderr, command
    with pytest.raises(BadTask, match="not one that is observed"):
        observe("main", folder=folder)
    assert git(folder, "status", "--porcelain") == ""
    assert len(logged(observe("watched", folder=folder))) == 1


def test_a_study_that_a_lab_is_about_to_begin_is_not_observed(tmp_path: Path) -> None:
    with held(find(tmp_path)), pytest.raises(StudyBusy, match="is held by process"):
        observe(metric="m", folder=tmp_path)


def test_a_failed_first_experiment_is_not_put_aside_by_a_run(folder: Path) -> None:
    observe(metric="score", folder=folder).log(None, failed=True)

    with pytest.raises(BadTask, match="record of another loop"):
        Study(find(folder), unsafe=True)

    assert len(logged(observe(folder=folder))) == 1


# What a command prints


def results(metric: str, *chunks: bytes) -> list[Result]:
    lines = Lines(metric)

    def all_of_them() -> Iterator[Result]:
        for chunk in chunks:
            yield from lines.feed(chunk)
        yield from lines.end()

    return list(all_of_them())


@pytest.mark.parametrize(
    ("chunks", "found"),
    [
        ([b"loss: 0.5\n"], [(0.5, "")]),
        ([b"lo", b"ss: 0.", b"5\nloss", b": 4"], [(0.5, ""), (4.0, "")]),
        ([b"hypothesis: wider \xc3\xa9\r\n\x1b[1mloss: 0.5\x1b[0m\rloss: .4\n"], [(0.5, "wider é"), (0.4, "")]),
        ([b'{"value": 3, "hypothesis": "deeper"}\n{"loss": 2}\n'], [(3, "deeper"), (2, "")]),
        ([b'{"failed": true, "hypothesis": "oom"}\n'], [(None, "oom")]),
        ([b'{"value": true}\n{"value": "3"}\n{"valu\n[1]\n{}\n\xff\xfe\nmy loss: 3\nloss: x\n'], []),
        ([b"x" * 200_000, b"loss: 1\nloss: 2\n"], [(2.0, "")]),
    ],
)
def test_results_are_read_from_what_is_printed(chunks: list[bytes], found: list[tuple[float | None, str]]) -> None:
    assert [(one.value, one.hypothesis) for one in results("loss", *chunks)] == found


def test_a_json_line_says_more_and_nonsense_in_it_is_passed_over() -> None:
    said = {"value": 1, "seconds": 2, "tokens": 3.0, "parent": 0, "kept": False, "diff": "d", "secondary": {"a": 1}}
    nonsense = {"money": "much", "proposer": 7, "lab": 1, "facts": {"file": "x"}, "commit": "HEAD"}

    (one,) = results("loss", json.dumps(said | nonsense).encode())

    expected = {"seconds": 2.0, "tokens": 3, "parent": 0, "kept": False, "diff": "d", "secondary": {"a": 1}}
    assert {**one.more, "tail": ""} == expected | {"failed": False, "tail": ""}


LOOP = """\
import json, sys, time
print("hypothesis: wider"); print("val_loss: 0.9"); print("hello")
print(json.dumps({"value": 0.8, "hypothesis": "deeper", "parent": 77}))
print(json.dumps({"value": 0.7, "hypothesis": "longer", "tokens": 5}))
print(sys.stdin.readline().strip()); print("oops", file=sys.stderr)
sys.exit(7)
"""


def test_a_command_is_run_as_it_is_and_its_results_are_logged(tmp_path: Path) -> None:
    (tmp_path / "loop.py").write_text(LOOP)

    child = observing(tmp_path, "--", sys.executable, "loop.py", "--json", "--study", "x", stdin=subprocess.PIPE)
    out, err = child.communicate(b"typed\n", timeout=30)

    assert child.returncode == 7
    assert out.decode().splitlines()[:3] == ["hypothesis: wider", "val_loss: 0.9", "hello"]
    assert out.decode().splitlines()[-1] == "typed"
    assert b"oops" in err
    assert b"not logged: there is no experiment 77" in err
    found = logged(observe(folder=tmp_path))
    assert [(one.hypothesis, one.value) for one in found] == [("wider", 0.9), ("longer", 0.7)]
    with closing(observe(folder=tmp_path).place.read()) as ledger:
        last = ledger.last("stopped")
    assert last
    assert last.body["reason"] == "the observed command ended with exit code 7"


SLOW = """\
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
print("val_loss: 0.9")
time.sleep(60)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 3), (signal.SIGKILL, -9)])
def test_a_result_is_there_at_once_and_outlives_its_observer(tmp_path: Path, number: int, code: int) -> None:
    (tmp_path / "loop.py").write_text(SLOW)
    child = observing(tmp_path, "--", sys.executable, "loop.py", start_new_session=True)
    night = observe(metric="val_loss", folder=tmp_path)

    wait_for(lambda: len(logged(night)) == 1)
    child.send_signal(number)

    try:
        assert child.wait(10) == code
    finally:
        os.killpg(child.pid, signal.SIGKILL) if number == signal.SIGKILL else None
        child.communicate()
    assert night.log(0.8) == 1


def test_a_command_that_leaves_a_child_behind_is_not_waited_for_longer_than_itself(tmp_path: Path) -> None:
    command = "sleep 30 & echo $! > pid; echo val_loss: 1"

    child = observing(tmp_path, "--", "sh", "-c", command)
    try:
        assert child.wait(15) == 0
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        child.communicate()

    assert len(logged(observe(folder=tmp_path))) == 1


HEADER = "commit\tval_loss\tmemory_gb\tstatus\tdescription\n"


def test_a_results_tsv_is_read_as_it_grows_and_each_row_once(tmp_path: Path) -> None:
    table = tmp_path / "results.tsv"
    table.write_text(HEADER + "aaaaaaa\t0.9\t1.5\tkeep\tbaseline\nbbbbbbb\t0.000000\t0.0\tcrash\toom\nhalf\t0.")
    night = observe(metric="val_loss", folder=tmp_path)

    child = observing(tmp_path, "--follow", "results.tsv")
    wait_for(lambda: len(logged(night)) == 2)
    child.kill()
    child.communicate()
    with table.open("a") as file:
        file.write("8\t1.0\tdiscard\tbetter by luck\nccccccc\tx\t1.0\tkeep\tno number\nddddddd\t0.7\t\tkeep\twider\n")
    again = observing(tmp_path, "--follow", "results.tsv")
    wait_for(lambda: len(logged(night)) == 4)
    again.send_signal(signal.SIGINT)
    _, err = again.communicate(timeout=20)

    assert again.returncode == 0
    assert "line 5: 'x' is not a number" in err.decode()
    found = logged(night)
    assert [(one.hypothesis, one.status, one.value, one.commit) for one in found] == [
        ("baseline", "kept", 0.9, "aaaaaaa"),
        ("oom", "crashed", None, None),
        ("better by luck", "discarded", 0.8, None),
        ("wider", "kept", 0.7, "ddddddd"),
    ]


def test_a_file_that_is_no_table_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "results.tsv").write_text("a\tb\n1\t2\n")

    child = observing(tmp_path, "--follow", "results.tsv", "--", "sleep", "1")
    _, err = child.communicate(timeout=20)

    assert child.returncode == 0
    assert err.decode().count("expected the columns val_loss, status, description") == 1


# The readings


def test_every_reading_opens_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    night = observe(metric="val_loss")
    for number in range(6):
        night.log(1.0 - 0.1 * (number % 4), f"idea {number} \x1b[31m", diff="diff --git a/x b/x\n--- a/x\n", tail="hi")
    night.log(None, "crash", failed=True)
    commands = ("status", "log", "best", "show 2", "diff 2", "export csv", "export tsv", "plot -o x.svg", "report")

    said = {command: CliRunner().invoke(app, command.split(), catch_exceptions=False) for command in commands}
    told = json.loads(CliRunner().invoke(app, ["report", "--json"]).stdout)

    assert {command: done.exit_code for command, done in said.items()} == dict.fromkeys(commands, 0)
    assert not any("\x1b" in done.stdout for done in said.values())
    claim = {"start": 1.0, "now": 0.7, "gain": pytest.approx(0.3), "percent": pytest.approx(30), "grade": "E1"}
    assert told["claim"] == claim | {"now": pytest.approx(0.7)}
    assert told["audited"] is None
    assert "foreign loop's own word" in said["report"].stdout
    assert "branch" not in said["best"].stdout
    assert "<svg" in (tmp_path / "x.svg").read_text()


def test_a_shell_loop_logs_by_hand(nightlab: Nightlab, tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "é x", {"a": "1"})
    (folder / "p.diff").write_text("diff --git a/a b/a\n")
    first = nightlab("observe", "log", "--metric", "score", "--direction", "higher", "--value", "0.4", at=folder)
    words = ("--value", "0.5", "-m", "wider", "--diff", "p.diff", "--json")

    second = json.loads(nightlab("observe", "log", *words, at=folder).stdout)

    assert first.stdout == "experiment 0 of study main: kept (observed: the first)\n"
    assert second == {
        "study": "main",
        "id": 1,
        "status": "kept",
        "reason": "observed: better than experiment 0 by its own word",
    }
    assert logged(observe(folder=folder))[1].diff == "diff --git a/a b/a\n"
    assert git(folder, "status", "--porcelain") == "?? p.diff"
    for bad in (
        ("observe", "log"),
        ("observe",),
        ("observe", "--study", "new", "--", "true"),
        ("observe", "--", "no-such"),
    ):
        assert nightlab(*bad, at=folder, check=False).returncode == 2
