"""The command line, started for real."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from conftest import SCRIPT, TASK, git, make_repository, need, shared, wait_for

from nightlab.place import find
from nightlab.testing.disk import small_disk

Nightlab = Callable[..., subprocess.CompletedProcess[str]]
STATUS = {
    "study",
    "experiments",
    "kept",
    "discarded",
    "crashed",
    "running",
    "metric",
    "direction",
    "baseline",
    "incumbent",
}
LOG = {
    *("id", "parent", "status", "grade", "hypothesis", "value", "stderr", "gain", "z", "runs", "seconds", "proposer"),
    *("reason", "commit"),
}


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nightlab", "run", *words]

    def hear() -> None:  # these tests themselves may run under nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear
    )


def has_experiments(folder: Path, count: int) -> Callable[[], bool]:
    def look() -> bool:
        from nightlab.ledger import Ledger

        path = folder / ".nightlab" / "ledger.sqlite"
        return path.exists() and Ledger(path).next_number() > count

    return look


def test_a_night_from_init_to_export(nightlab: Nightlab, folder: Path) -> None:
    before = git(folder, "status", "--porcelain"), git(folder, "rev-parse", "HEAD")

    ran = nightlab("run", "--no-audit", "--experiments", "6", "--seed", "3")

    assert "stopped: 6 experiments" in ran.stdout
    facts = json.loads(nightlab("status", "--json").stdout)
    assert facts.keys() >= {*STATUS, "audited", "cost"}
    assert facts["experiments"] == 7
    assert facts["kept"] + facts["discarded"] + facts["crashed"] == 7
    assert facts["running"] == 0
    assert facts["baseline"]["commit"] == git(folder, "rev-parse", "HEAD")
    assert facts["incumbent"]["commit"] == git(folder, "rev-parse", "nightlab/main")
    assert facts["cost"].keys() == {"seconds", "money", "tokens"}
    rows = [json.loads(line) for line in nightlab("log", "--json").stdout.splitlines()]
    assert [row["id"] for row in rows] == list(range(7))
    assert rows[1].keys() >= LOG
    assert json.loads(nightlab("log", "--json", "--limit", "2").stdout.splitlines()[0])["id"] == 5
    assert "+++ b/train.py" in nightlab("show", "1").stdout
    assert "+++ b/train.py" in nightlab("diff", "1").stdout
    folder_of_one = nightlab("checkout", "1").stdout.strip()
    assert (folder / folder_of_one / "train.py").read_text() != SCRIPT
    subprocess.run(["rm", "-rf", folder / folder_of_one], check=True)
    assert json.loads(nightlab("best", "--json").stdout)["incumbent"]["commit"] == facts["incumbent"]["commit"]
    assert nightlab("export").stdout == (folder / ".nightlab" / "results.tsv").read_text()
    assert (git(folder, "status", "--porcelain"), git(folder, "rev-parse", "HEAD")) == before


def test_a_second_run_goes_on_where_the_first_stopped(nightlab: Nightlab) -> None:
    nightlab("run", "--no-audit", "--experiments", "2")
    nightlab("run", "--no-audit", "--experiments", "2")

    rows = [json.loads(line) for line in nightlab("log", "--json").stdout.splitlines()]
    assert [row["id"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[0]["runs"] == 4  # three seeds, and the first of them again


@pytest.mark.slow
def test_two_slots_do_the_same_work(nightlab: Nightlab) -> None:
    nightlab("run", "--no-audit", "--experiments", "6", "--workers", "2")

    assert json.loads(nightlab("status", "--json").stdout)["experiments"] == 7


def test_removing_our_folder_and_branch_leaves_the_repository_as_it_was(nightlab: Nightlab, folder: Path) -> None:
    before = (
        git(folder, "for-each-ref"),
        git(folder, "worktree", "list"),
        git(folder, "status", "--porcelain", "--ignored"),
    )

    nightlab("run", "--no-audit", "--experiments", "1")
    subprocess.run(["rm", "-rf", folder / ".nightlab"], check=True)
    git(folder, "branch", "-D", "nightlab/main")

    after = (
        git(folder, "for-each-ref"),
        git(folder, "worktree", "list"),
        git(folder, "status", "--porcelain", "--ignored"),
    )
    assert after == before


def test_check_measures_the_noise_and_leaves_nothing_behind(nightlab: Nightlab, folder: Path) -> None:
    found = json.loads(nightlab("check", "--runs", "4", "--json").stdout)

    assert len(found["values"]) == 4
    assert 0 < found["sigma"] < 0.1
    assert found["visible_gain"] > found["sigma"]
    assert "nightlab" not in git(folder, "branch", "--list")


@pytest.mark.slow
def test_the_audit_runs_fresh_seeds_on_both_sides(nightlab: Nightlab, folder: Path) -> None:
    (folder / "train.py").write_text(SCRIPT)
    nightlab("run", "--no-audit", "--experiments", "12")
    if json.loads(nightlab("status", "--json").stdout)["kept"] == 1:
        assert nightlab("audit", check=False).returncode == 4
        return

    found = json.loads(nightlab("audit", "--json").stdout)

    assert found["low"] <= found["gain"] <= found["high"]
    assert json.loads(nightlab("status", "--json").stdout)["audited"]["gain"] == found["gain"]


@pytest.mark.slow
def test_ctrl_c_lets_the_running_experiment_finish_and_the_study_resumes(nightlab: Nightlab, folder: Path) -> None:
    process = start(folder)
    wait_for(has_experiments(folder, 2))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)

    assert process.returncode == 0, err
    assert "stopped: interrupted" in out
    rows = [json.loads(line) for line in nightlab("log", "--json").stdout.splitlines()]
    assert all(row["status"] not in ("proposed", "racing") for row in rows)
    nightlab("run", "--no-audit", "--experiments", "1")


def slow(folder: Path) -> None:
    """Make one run take long."""
    (folder / "train.py").write_text("import time\nSLEEP = 30.0\ntime.sleep(SLEEP)\nprint('score: 1')\n")
    git(folder, "commit", "-qam", "slow")


def test_a_second_ctrl_c_ends_what_runs(folder: Path) -> None:
    slow(folder)
    process = start(folder)
    wait_for((folder / ".nightlab" / "runs" / "0-1" / "log").exists)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)

    assert process.returncode == 130
    assert time.monotonic() - begin < 5


@pytest.mark.slow
def test_a_hang_up_ends_a_study_cleanly_unless_nohup_was_asked_for(folder: Path, nightlab: Nightlab) -> None:
    slow(folder)
    process = start(folder)
    wait_for((folder / ".nightlab" / "runs" / "0-1" / "log").exists)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=10)
    assert process.returncode == 130

    command = ["nohup", sys.executable, "-m", "nightlab", "run"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(2)
    process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert process.poll() is None
    nightlab("stop", "--now")
    process.communicate(timeout=10)


@pytest.mark.slow
def test_stop_now_from_another_terminal_ends_what_runs(nightlab: Nightlab, folder: Path) -> None:
    slow(folder)
    process = start(folder)
    wait_for((folder / ".nightlab" / "runs" / "0-1" / "log").exists)
    assert "held by process" in nightlab("run", "--no-audit", check=False).stderr
    assert nightlab("run", "--no-audit", check=False).returncode == 3

    begin = time.monotonic()
    nightlab("stop", "--now")

    assert time.monotonic() - begin < 5
    process.communicate(timeout=30)
    assert "not running" in nightlab("stop", check=False).stderr


@pytest.mark.slow
def test_pause_and_resume_from_another_terminal(nightlab: Nightlab, folder: Path) -> None:
    process = start(folder)
    wait_for(has_experiments(folder, 2))
    nightlab("pause")
    time.sleep(1.5)
    count = json.loads(nightlab("status", "--json").stdout)["experiments"]
    time.sleep(1.0)
    assert json.loads(nightlab("status", "--json").stdout)["experiments"] == count
    nightlab("resume")
    wait_for(has_experiments(folder, count + 1))
    nightlab("stop")
    process.communicate(timeout=30)


@pytest.mark.slow
def test_what_was_asked_of_a_lab_that_is_gone_is_not_asked_of_the_next(nightlab: Nightlab, folder: Path) -> None:
    nightlab("run", "--agent", "unchanged", "--experiments", "1", "--no-audit")
    with closing(find(folder).read()) as ledger:
        ledger.ask("stop")
        ledger.ask("pause")

    said = nightlab("run", "--agent", "unchanged", "--experiments", "1", "--no-audit").stdout

    assert "stopped: 1 experiments" in said


def test_an_old_night_opens_in_status_log_and_plot(nightlab: Nightlab, tmp_path: Path) -> None:
    file = shared("karpathy-mar8-results.tsv")
    nightlab("import", str(file), at=tmp_path)

    facts = json.loads(nightlab("status", "--json", at=tmp_path).stdout)
    assert [facts[key] for key in ("experiments", "kept", "discarded", "crashed")] == [126, 23, 102, 1]
    assert (facts["baseline"]["value"], facts["incumbent"]["value"]) == (0.9979, 0.969686)
    rows = [json.loads(line) for line in nightlab("log", "--json", at=tmp_path).stdout.splitlines()]
    assert [row["value"] for row in rows if row["status"] == "crashed"] == [None]
    nightlab("plot", "-o", "night.svg", at=tmp_path)
    assert "halve batch 524K to 262K" in _words((tmp_path / "night.svg").read_text())
    exported = nightlab("export", at=tmp_path).stdout.splitlines()
    assert [line.split("\t")[0::2] for line in exported] == [
        line.split("\t")[0::2] for line in file.read_text().splitlines()
    ]


def _words(svg: str) -> str:
    """Matplotlib draws letters as shapes and keeps the words as comments."""
    return " ".join(part.split("-->")[0].strip() for part in svg.split("<!--")[1:])


KARPATHY = {
    "train.py": (
        "import prepare\nLR = 0.04\nprint('---')\nprint(f'val_bpb:          {1.0 + (LR - 0.1) ** 2:.6f}')\n"
        "print('peak_vram_mb: 1.0')\n"
    ),
    "prepare.py": "TIME_BUDGET = 300\n",
    "program.md": "# autoresearch\n",
}


def test_a_folder_in_karpathys_layout_runs_without_configuration(nightlab: Nightlab, tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "autoresearch", KARPATHY)

    nightlab("run", "--no-audit", "--experiments", "3", at=folder)

    lines = (folder / ".nightlab" / "results.tsv").read_text().splitlines()
    assert lines[0] == "commit\tval_bpb\tmemory_gb\tstatus\tdescription"
    assert len(lines) == 5
    assert lines[1].split("\t")[3:] == ["keep", "baseline"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("status",), 2, "no study called main"),
        (("run", "--study", "a/b"), 2, "cannot be a study's name"),
        (("run", "--for", "soon"), 2, "'soon' is not a time"),
        (("run", "--policy", "hasty"), 2, "no policy is called 'hasty'; there are: greedy, lean, race"),
        (("run", "--agent", "nobody"), 2, "no proposer is called 'nobody'; there are: tuner, unchanged"),
        (("init",), 2, "exists already"),
        (("init", "nothing"), 2, "no template 'nothing'"),
        (("import", "nowhere.tsv"), 2, "cannot read nowhere.tsv"),
        (("import", "train.py"), 2, "line 1: expected the columns"),
        (("-C", "/nowhere", "status"), 2, "/nowhere is not a folder"),
        (("resume",), 2, "no study called main"),
    ],
)
def test_a_mistake_gets_a_clear_word(nightlab: Nightlab, words: tuple[str, ...], code: int, message: str) -> None:
    done = nightlab(*words, check=False)

    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_no_repository_is_a_clear_word(nightlab: Nightlab, tmp_path: Path) -> None:
    (tmp_path / "nightlab.toml").write_text(TASK)

    done = nightlab("run", "--no-audit", at=tmp_path, check=False)

    assert done.returncode == 2
    assert "git init" in done.stderr


def test_a_dirty_tree_is_left_out_and_said(nightlab: Nightlab, folder: Path) -> None:
    (folder / "train.py").write_text("raise SystemExit('not committed')")
    (folder / "notes.txt").write_text("mine")

    done = nightlab("run", "--no-audit", "--experiments", "1")

    assert "leaves out what is not committed: notes.txt, train.py" in done.stdout.replace(
        "train.py, notes.txt", "notes.txt, train.py"
    )
    assert (folder / "train.py").read_text() == "raise SystemExit('not committed')"


def test_a_detached_head_is_fine(nightlab: Nightlab, folder: Path) -> None:
    git(folder, "checkout", "-q", "--detach")

    nightlab("run", "--no-audit", "--experiments", "1")


def test_a_script_that_is_not_committed_is_told(nightlab: Nightlab, folder: Path) -> None:
    git(folder, "rm", "-q", "--cached", "train.py")
    git(folder, "commit", "-qm", "gone")

    done = nightlab("run", "--no-audit", check=False)

    assert done.returncode == 2
    assert "commit it first" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", ["raise SystemExit('my data is missing')", "print('loss: 3')\nprint('my data is missing')"]
)
def test_a_baseline_without_a_number_shows_the_end_of_its_log(nightlab: Nightlab, folder: Path, script: str) -> None:
    (folder / "train.py").write_text(script)
    git(folder, "commit", "-qam", "broken")

    done = nightlab("run", "--no-audit", check=False)

    assert done.returncode == 4
    assert "the baseline gives no number" in done.stderr
    assert "my data is missing" in done.stderr

    (folder / "train.py").write_text(SCRIPT)
    git(folder, "commit", "-qam", "mended")
    nightlab("run", "--no-audit", "--experiments", "1")
    assert json.loads(nightlab("status", "--json").stdout)["baseline"]["commit"] == git(folder, "rev-parse", "HEAD")


@pytest.mark.slow
def test_two_studies_stand_beside_each_other(nightlab: Nightlab, folder: Path) -> None:
    nightlab("run", "--no-audit", "--experiments", "1")
    nightlab("run", "--no-audit", "--experiments", "2", "--study", "other", "--policy", "greedy")

    assert json.loads(nightlab("status", "--json").stdout)["experiments"] == 2
    assert json.loads(nightlab("status", "--json", "--study", "other").stdout)["experiments"] == 3
    assert git(folder, "branch", "--list", "nightlab/*").split() == ["nightlab/main", "nightlab/other"]


def test_init_makes_a_task_of_a_script(nightlab: Nightlab, tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "mine", {"train.py": "X = 3.0\nprint(f'val_loss: {X}')\n"})

    nightlab("init", at=folder)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "task")

    assert "val_loss" in (folder / "nightlab.toml").read_text()
    nightlab("run", "--no-audit", "--experiments", "2", at=folder)


def test_a_plain_terminal_gets_plain_lines(nightlab: Nightlab) -> None:
    out = nightlab("run", "--no-audit", "--experiments", "1").stdout

    assert "\x1b" not in out
    assert "running the baseline" in out


def test_hostile_words_cannot_drive_the_terminal(nightlab: Nightlab, folder: Path) -> None:
    from nightlab.ledger import Event, Ledger

    nightlab("run", "--no-audit", "--experiments", "0")
    body = {
        "parent": 0,
        "hypothesis": "\x1b]0;owned\x07\x1b[2J",
        "proposer": "x",
        "kind": "scope",
        "reason": "\x1b[31m",
    }
    Ledger(folder / ".nightlab" / "ledger.sqlite").append(Event("rejected", "1", body, 1))

    assert "\x1b" not in nightlab("log").stdout + nightlab("show", "1").stdout


def test_doctor_says_what_mends_what_is_missing(nightlab: Nightlab) -> None:
    findings = json.loads(nightlab("doctor", "--json").stdout)

    assert {"git", "jail", "python"} <= {one["name"] for one in findings}
    assert all(one["is_well"] or one["mend"] for one in findings)


def test_the_version_is_told(nightlab: Nightlab) -> None:
    assert nightlab("--version").stdout.startswith("nightlab 0.")


def test_help_imports_nothing_heavy() -> None:
    heavy = "('numpy', 'pydantic', 'rich', 'libcst')"
    code = f"import sys, nightlab.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )

    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_another_seed_policy_or_metric_is_another_study(nightlab: Nightlab, folder: Path) -> None:
    nightlab("run", "--no-audit", "--experiments", "0", "--seed", "1")

    assert "started with seed 1, not 2" in nightlab("run", "--no-audit", "--seed", "2", check=False).stderr
    assert (
        "started with policy 'race', not 'lean'"
        in nightlab("run", "--no-audit", "--policy", "lean", check=False).stderr
    )
    (folder / "nightlab.toml").write_text(TASK.replace('"score"', '"other"'))
    assert "started with metric 'score', not 'other'" in nightlab("run", "--no-audit", check=False).stderr


@pytest.mark.slow
def test_a_ledger_from_a_newer_version_is_left_alone(nightlab: Nightlab, folder: Path) -> None:
    import sqlite3

    nightlab("run", "--no-audit", "--experiments", "0")
    with sqlite3.connect(folder / ".nightlab" / "ledger.sqlite") as database:
        database.execute("PRAGMA user_version = 99")

    for command in ("run", "status", "log"):
        done = nightlab(command, check=False)
        assert done.returncode == 5
        assert "newer Nightlab" in done.stderr


@contextmanager
def some_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of its own."""
    place.mkdir()
    with small_disk(place, size) as missing:
        need(not missing, f"cannot mount a small disk here: {missing}")
        yield place


def test_a_nearly_full_disk_is_a_pause_with_a_word(nightlab: Nightlab, tmp_path: Path) -> None:
    with some_disk(tmp_path / "disk", "20m") as disk:
        folder = make_repository(disk / "study", {"train.py": SCRIPT, "nightlab.toml": TASK})

        done = nightlab("run", "--no-audit", at=folder, check=False)

        assert done.returncode == 4
        assert "free some space, then: nightlab run" in done.stderr
        assert json.loads(nightlab("status", "--json", at=folder).stdout)["experiments"] == 1


FILLING = """\
import os, time
KNOB = 5.0
{body}
open(os.environ['NIGHTLAB_OUT'] + '/x', 'wb').write(bytes(10**7))
print('score:', KNOB)
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_during_a_run_is_no_finding_about_the_patch(nightlab: Nightlab, tmp_path: Path) -> None:
    with some_disk(tmp_path / "disk", "300m") as disk:
        script = FILLING.format(body="time.sleep(1)")
        folder = make_repository(disk / "study", {"train.py": script, "nightlab.toml": TASK})
        process = start(folder, "--experiments", "1")
        wait_for((folder / ".nightlab" / "runs" / "0-1" / "log").exists)
        filler = disk / "filler"
        with suppress(OSError), filler.open("wb") as file:
            for _ in range(400):
                file.write(bytes(10**6))
        _, words = process.communicate(timeout=30)
        assert process.returncode == 4, words
        assert "free some space, then: nightlab run" in words
        filler.unlink()

        nightlab("run", "--no-audit", "--experiments", "1", at=folder)

        rows = [json.loads(line) for line in nightlab("log", "--json", at=folder).stdout.splitlines()]
        assert [row["status"] in ("kept", "discarded") for row in rows] == [True, True]


def test_a_run_that_fills_the_disk_itself_is_to_blame(nightlab: Nightlab, tmp_path: Path) -> None:
    with some_disk(tmp_path / "disk", "300m") as disk:
        script = FILLING.format(body="open('big', 'wb').write(bytes(4 * 10**8))")
        folder = make_repository(disk / "study", {"train.py": script, "nightlab.toml": TASK})

        done = nightlab("run", "--no-audit", at=folder, check=False)

        assert done.returncode == 4
        assert "the baseline gives no number" in done.stderr


def test_a_read_only_folder_is_told(nightlab: Nightlab, tmp_path: Path) -> None:
    with some_disk(tmp_path / "disk", "200m") as disk:
        folder = make_repository(disk / "study", {"train.py": SCRIPT, "nightlab.toml": TASK})
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

        done = nightlab("run", "--no-audit", at=folder, check=False)

        assert done.returncode == 2
        assert "make the folder writable" in done.stderr


def test_submodules_are_told(nightlab: Nightlab, folder: Path, tmp_path: Path) -> None:
    inner = make_repository(tmp_path / "inner", {"x": "x"})
    git(folder, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "inner")
    git(folder, "commit", "-qm", "with a submodule")

    done = nightlab("run", "--no-audit", check=False)

    assert done.returncode == 2
    assert "submodules (inner)" in done.stderr


@pytest.mark.slow
def test_what_lost_runs_made_is_taken_away_and_what_kept_ones_made_stays(nightlab: Nightlab, folder: Path) -> None:
    saving = SCRIPT + "open(os.environ['NIGHTLAB_OUT'] + '/model', 'w').write('x' * 100_000)\n"
    (folder / "train.py").write_text(saving)
    git(folder, "commit", "-qam", "it saves what it made")

    nightlab("run", "--no-audit", "--experiments", "10")

    rows = [json.loads(line) for line in nightlab("log", "--json").stdout.splitlines()]
    kept = {row["id"] for row in rows[1:] if row["status"] == "kept"}
    runs = folder / ".nightlab" / "runs"
    assert {int(path.parents[1].name.split("-")[0]) for path in runs.glob("*/out/model")} == kept
    assert len(list(runs.glob("*/log"))) >= len(rows)
    assert not (folder / ".nightlab" / "worktrees" / "slot-0").exists()


def test_the_demo_says_in_its_last_line_what_it_was_worth(nightlab: Nightlab, tmp_path: Path) -> None:
    done = nightlab("demo", "--template", "compress", "--experiments", "10", at=tmp_path)

    assert re.fullmatch(r"Done: .+ % better than the start, and it holds\.", done.stdout.splitlines()[-1])


def test_a_log_that_an_error_quotes_does_not_drive_the_terminal(nightlab: Nightlab, tmp_path: Path) -> None:
    loud = make_repository(
        tmp_path / "loud", {"train.py": "raise SystemExit('\\x1b]0;mine\\x07')\n", "nightlab.toml": TASK}
    )

    done = nightlab("run", at=loud, check=False)

    assert "mine" in done.stderr
    assert not set(done.stdout + done.stderr) & {"\x1b", "\x07"}


def test_a_mirror_that_cannot_be_written_ends_nothing(nightlab: Nightlab, folder: Path) -> None:
    (folder / ".nightlab" / "results.tsv").mkdir(parents=True)

    assert nightlab("run", "--experiments", "1", "--no-audit", at=folder).returncode == 0
