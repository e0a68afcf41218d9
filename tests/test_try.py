"""`nightlab try`: one change of somebody who sits beside the lab, for real."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import git, make_repository, wait_for

from nightlab.errors import BadChange
from nightlab.place import find
from nightlab.study import load_task
from nightlab.trial import Asked, begin, checked_name, opened, read

Nightlab = Callable[..., subprocess.CompletedProcess[str]]
SCRIPT = """\
import os, random
KNOB = 5.0
# between the two
# there is enough
# for both to change
STEP = 2.0
random.seed(int(os.environ["NIGHTLAB_SEED"]))
print("score:", KNOB + STEP + random.gauss(0, 0.01))
"""
TASK = """\
[task]
run = "python train.py"
editable = ["train.py", "model/*.py"]
[metric]
name = "score"
direction = "lower"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {"train.py": SCRIPT, "nightlab.toml": TASK, "program.md": "Lower it.", "helper.py": "TWO = 2\n"}
    return make_repository(tmp_path / "my é task", files)


def edit(folder: Path, old: str, new: str, name: str = "train.py") -> None:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))


def tried(nightlab: Nightlab, *words: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(nightlab("try", "--json", *words, **more).stdout)
    return found


def log(nightlab: Nightlab) -> list[dict[str, Any]]:
    return [json.loads(line) for line in nightlab("log", "--json").stdout.splitlines()]


def test_the_first_try_starts_the_study_and_a_gain_is_kept(nightlab: Nightlab, folder: Path) -> None:
    edit(folder, "KNOB = 5.0", "KNOB = 4.0")
    before = (folder / "train.py").read_bytes(), git(folder, "rev-parse", "HEAD"), git(folder, "status", "--porcelain")

    found = tried(nightlab, "-m", "a smaller knob")

    assert (found["decision"], found["id"], found["proposer"]) == ("kept", 1, "you")
    assert (found["incumbent_before"]["id"], found["incumbent"]["id"]) == (0, 1)
    assert found["incumbent"]["commit"] == git(folder, "rev-parse", "nightlab/main")
    assert found["edit"] == str(folder)
    assert "KNOB = 4.0" in git(folder, "show", "nightlab/main:train.py")
    after = (folder / "train.py").read_bytes(), git(folder, "rev-parse", "HEAD"), git(folder, "status", "--porcelain")
    assert after == before


def test_a_loss_is_discarded_with_its_reason_and_the_checkout_keeps_it(nightlab: Nightlab, folder: Path) -> None:
    edit(folder, "KNOB = 5.0", "KNOB = 6.0")
    edit(folder, "TWO = 2", "TWO = 3", "helper.py")

    said = nightlab("try", "-m", "a larger knob", "--as", "Ada").stdout

    assert "discarded: experiment 1, z -" in said
    assert "left out, since it may not change here: helper.py" in said
    assert "undo it with: git checkout HEAD -- train.py" in said
    assert log(nightlab)[1]["proposer"] == "Ada"
    assert git(folder, "rev-parse", "nightlab/main") == git(folder, "rev-parse", "HEAD")


def test_a_change_is_merged_onto_what_was_kept_meanwhile(nightlab: Nightlab, folder: Path) -> None:
    edit(folder, "KNOB = 5.0", "KNOB = 4.0")
    tried(nightlab, "-m", "a smaller knob")
    git(folder, "checkout", "-q", "HEAD", "--", "train.py")
    edit(folder, "STEP = 2.0", "STEP = 1.0")

    found = tried(nightlab, "-m", "a smaller step")

    assert (found["decision"], found["parent"]) == ("kept", 1)
    kept = git(folder, "show", "nightlab/main:train.py")
    assert "KNOB = 4.0" in kept
    assert "STEP = 1.0" in kept


@pytest.mark.slow
def test_once_the_kept_is_merged_undoing_it_is_a_change(nightlab: Nightlab, folder: Path) -> None:
    edit(folder, "KNOB = 5.0", "KNOB = 4.0")
    tried(nightlab, "-m", "a smaller knob")
    git(folder, "checkout", "-q", "HEAD", "--", "train.py")
    git(folder, "merge", "-q", "nightlab/main")
    edit(folder, "KNOB = 4.0", "KNOB = 5.0")

    found = tried(nightlab, "-m", "back again")

    assert (found["decision"], found["reason"]) == ("rejected", "duplicate: the same tree was tried as experiment 0")


def test_a_crash_comes_back_with_the_end_of_its_log(nightlab: Nightlab, folder: Path) -> None:
    edit(folder, "KNOB = 5.0", "KNOB = oops")

    found = tried(nightlab, "-m", "a typing error")

    assert (found["decision"], found["status"], found["value"]) == ("failed", "crashed", None)
    assert "NameError: name 'oops' is not defined" in found["tail"]


@pytest.mark.slow
def test_the_same_tree_again_is_rejected_and_says_as_which_experiment(nightlab: Nightlab, folder: Path) -> None:
    edit(folder, "KNOB = 5.0", "KNOB = 6.0")
    tried(nightlab, "-m", "a larger knob")

    found = tried(nightlab, "-m", "a larger knob, please")

    assert (found["decision"], found["reason"]) == ("rejected", "duplicate: the same tree was tried as experiment 1")


@pytest.mark.slow
def test_new_and_deleted_files_are_tried_too(nightlab: Nightlab, folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "layers.py").write_text("KNOB = 4.0\n")
    edit(folder, "KNOB = 5.0", "from model.layers import KNOB")

    found = tried(nightlab, "-m", "a module of its own")

    assert found["decision"] == "kept"
    assert git(folder, "show", "nightlab/main:model/layers.py") == "KNOB = 4.0"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("helper.py", "TWO = 3\n", "nothing to try: helper.py may not change here; editable: train.py, model/*.py"),
        ("nightlab.toml", TASK.replace("lower", "higher"), "nightlab.toml is not as it was committed"),
        ("train.py", SCRIPT, "nothing to try: nothing was changed; editable: train.py"),
        ("train.py", "\udcff", "train.py is not text in UTF-8"),
        ("train.py", "#" * 1_000_001, "train.py is larger than 1000000 bytes"),
    ],
)
def test_what_is_no_change_is_refused_at_the_door(folder: Path, name: str, text: str, words: str) -> None:
    (folder / name).write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(BadChange, match=re.escape(words)):
        read(find(folder), Asked("an idea"))

    assert not (folder / ".nightlab").exists()


def test_a_frozen_file_is_left_out_by_name(folder: Path) -> None:
    edit(folder, "KNOB = 5.0", "KNOB = 4.0")
    edit(folder, "TWO = 2", "TWO = 3", "helper.py")
    (folder / "notes.txt").write_text("mine")

    change = read(find(folder), Asked("a smaller knob"))

    assert change.left_out == ("helper.py", "notes.txt")
    assert change.files.keys() == {"train.py"}


def test_a_link_is_never_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("KNOB = 1\n")
    (folder / "train.py").unlink()
    (folder / "train.py").symlink_to(tmp_path / "secret")

    with pytest.raises(BadChange, match=r"train\.py may not change here"):
        read(find(folder), Asked("a link"))


@pytest.mark.slow
def test_a_conflict_names_the_file_and_costs_nothing(nightlab: Nightlab, folder: Path) -> None:
    edit(folder, "KNOB = 5.0", "KNOB = 4.0")
    tried(nightlab, "-m", "a smaller knob")
    edit(folder, "KNOB = 4.0", "KNOB = 4.5")

    done = nightlab("try", "-m", "not so small", check=False)

    assert done.returncode == 2
    assert "train.py: your change and what was kept meanwhile touch the same lines" in done.stderr
    assert len(log(nightlab)) == 2


def test_a_try_needs_a_hypothesis_and_a_name_that_is_not_the_labs(nightlab: Nightlab, folder: Path) -> None:
    edit(folder, "KNOB = 5.0", "KNOB = 4.0")

    done = nightlab("try", "-m", " ", check=False)

    assert done.returncode == 2
    assert "say what you expect" in done.stderr
    for name in ("lab", "", "two\nlines"):
        with pytest.raises(BadChange, match="cannot be a name here"):
            checked_name(name)


# ---- a folder of its own ----


def test_a_folder_is_laid_out_edited_tried_and_follows_the_incumbent(
    nightlab: Nightlab, folder: Path, tmp_path: Path
) -> None:
    elbow = tmp_path / "elbow"
    nightlab("try", "--begin", str(elbow))
    edit(elbow, "KNOB = 5.0", "KNOB = 4.0")
    (elbow / "notes.txt").write_text("mine")

    kept = tried(nightlab, "-m", "a smaller knob", at=elbow)  # far from the repository: the folder knows
    edit(elbow, "STEP = 2.0", "STEP = 3.0")
    lost = tried(nightlab, "-m", "a larger step", "--in", str(elbow))

    assert (kept["decision"], lost["decision"]) == ("kept", "discarded")
    assert lost["edit"] == str(elbow)
    assert "holds the incumbent (experiment 1) now" in lost["next"]
    text = (elbow / "train.py").read_text()
    assert "KNOB = 4.0" in text
    assert "STEP = 2.0" in text
    assert (elbow / "notes.txt").read_text() == "mine"
    assert git(folder, "status", "--porcelain") == ""


@pytest.mark.slow
def test_what_failed_stays_in_the_folder_to_be_mended(nightlab: Nightlab, tmp_path: Path) -> None:
    elbow = tmp_path / "elbow"
    nightlab("try", "--begin", str(elbow))
    edit(elbow, "KNOB = 5.0", "KNOB = four")

    failed = tried(nightlab, "-m", "a smaller knob", "--in", str(elbow))
    edit(elbow, "four", "4.0")
    mended = tried(nightlab, "-m", "a smaller knob", "--in", str(elbow))

    assert (failed["decision"], mended["decision"]) == ("failed", "kept")


def test_a_folder_does_not_show_what_the_judge_hides(tmp_path: Path) -> None:
    files = {
        "train.py": SCRIPT,
        "judge.py": "print('{}')\n",
        "nightlab.toml": TASK + '[judge]\nrun = "python judge.py"\n',
    }
    folder = make_repository(tmp_path / "hiding", files)

    elbow = begin(find(folder), tmp_path / "elbow").path

    assert sorted(path.name for path in elbow.iterdir()) == [
        ".nightlab-try",
        "nightlab.toml",
        "train.py",
    ]


def test_a_folder_that_is_not_ours_is_refused(folder: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("years of work")

    with pytest.raises(BadChange, match="exists and is not empty"):
        begin(find(folder), full)
    with pytest.raises(BadChange, match="was not laid out by Nightlab"):
        opened(full)
    (full / ".nightlab-try").write_text('{"repository": 5')
    with pytest.raises(BadChange, match="cannot be read"):
        opened(full)


def test_what_is_edited_while_it_is_judged_stays_as_it_is(folder: Path, tmp_path: Path) -> None:
    elbow = begin(find(folder), tmp_path / "elbow")
    task = load_task(elbow.place)
    edit(elbow.path, "KNOB = 5.0", "KNOB = 4.0")
    seen = elbow.read(task)
    edit(elbow.path, "STEP = 2.0", "STEP = 1.0")

    assert not elbow.settle(task, seen, elbow.number, elbow.commit)
    assert "STEP = 1.0" in (elbow.path / "train.py").read_text()
    assert elbow.settle(task, elbow.read(task), elbow.number, elbow.commit)
    assert (elbow.path / "train.py").read_text() == SCRIPT


def test_a_link_in_a_folder_is_replaced_and_never_written_through(folder: Path, tmp_path: Path) -> None:
    elbow = begin(find(folder), tmp_path / "elbow")
    task = load_task(elbow.place)
    (tmp_path / "mine.py").write_text("mine")
    (elbow.path / "train.py").unlink()
    (elbow.path / "train.py").symlink_to(tmp_path / "mine.py")

    assert elbow.read(task).left_out == ("train.py",)
    assert elbow.settle(task, elbow.read(task), elbow.number, elbow.commit)
    assert (elbow.path / "train.py").read_text() == SCRIPT
    assert (tmp_path / "mine.py").read_text() == "mine"


# ---- a patch ----

PATCH = """\
--- a/train.py
+++ b/train.py
@@ -1,3 +1,3 @@
 import os, random
-KNOB = 5.0
+KNOB = 4.0
 # between the two
"""


def test_a_patch_is_read_with_or_without_gits_headers(folder: Path) -> None:
    edit(folder, "STEP = 2.0", "STEP = 9.0")  # the checkout has nothing to do with it
    place, wanted = find(folder), {"train.py": SCRIPT.replace("KNOB = 5.0", "KNOB = 4.0")}

    plain = read(place, Asked("a smaller knob", diff=PATCH))
    gits = read(place, Asked("a smaller knob", diff="diff --git a/train.py b/train.py\n" + PATCH))

    assert plain.files == gits.files == wanted


def test_a_patch_may_add_and_delete_files(folder: Path) -> None:
    added = "--- /dev/null\n+++ b/model/one.py\n@@ -0,0 +1 @@\n+ONE = 1\n"
    deleted = "--- a/train.py\n+++ /dev/null\n@@ -1,7 +0,0 @@\n" + "".join(f"-{line}\n" for line in SCRIPT.splitlines())

    change = read(find(folder), Asked("all new", diff=added + deleted))

    assert change.files == {"model/one.py": "ONE = 1\n", "train.py": None}


@pytest.mark.slow
def test_a_patch_is_tried(nightlab: Nightlab, folder: Path) -> None:
    (folder.parent / "one.patch").write_text(PATCH)

    found = tried(nightlab, "-m", "a smaller knob", "--patch", "../one.patch")

    assert found["decision"] == "kept"
    assert "your checkout is as you left it" in found["next"]


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (PATCH.replace("5.0", "7.0"), "does not apply to the incumbent (experiment 0)"),
        (PATCH.replace("train.py", "helper.py"), "helper.py may not change here"),
        (PATCH.replace("train.py", "../train.py"), "../train.py may not change here"),
        ("just words\n", "does not apply"),
    ],
)
def test_a_patch_that_cannot_be_tried_is_refused(folder: Path, patch: str, words: str) -> None:
    with pytest.raises(BadChange, match=re.escape(words)):
        read(find(folder), Asked("an idea", diff=patch))


# ---- in the company of a lab, and interrupted ----


def starts_slow(folder: Path) -> None:
    """Three quick runs for the baseline, then every run waits for a file that never comes."""
    text = "import time\n" + SCRIPT.replace("KNOB", "NAP = 0.0\nKNOB", 1)
    text = text.replace("random.seed", "time.sleep(NAP)\nrandom.seed")
    (folder / "train.py").write_text(text)
    git(folder, "commit", "-qam", "it can sleep")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nightlab", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def is_running(folder: Path, run: str) -> Callable[[], bool]:
    return (folder / ".nightlab" / "runs" / run / "log").exists


@pytest.mark.slow
def test_while_a_lab_runs_a_try_is_handed_to_it(nightlab: Nightlab, folder: Path) -> None:
    process = start(folder, "run", "--agent", "unchanged", "--no-audit")
    wait_for(is_running(folder, "1-1"))
    edit(folder, "KNOB = 5.0", "KNOB = 4.0")

    found = tried(nightlab, "-m", "a smaller knob", "--as", "Ada")

    assert (found["decision"], found["proposer"], found["edit"]) == ("kept", "Ada", str(folder))
    assert process.poll() is None
    nightlab("stop")
    process.communicate(timeout=30)


@pytest.mark.slow
def test_a_try_whose_lab_is_killed_says_so(nightlab: Nightlab, folder: Path) -> None:
    starts_slow(folder)
    edit(folder, "NAP = 0.0", "NAP = 60.0")
    first = start(folder, "try", "-m", "a nap")
    wait_for(is_running(folder, "1-1"))
    git(folder, "checkout", "-q", "HEAD", "--", "train.py")
    edit(folder, "KNOB = 5.0", "KNOB = 4.0")
    second = start(folder, "try", "-m", "a smaller knob")
    time.sleep(1.5)

    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=20)
    _, err = second.communicate(timeout=20)

    assert (first.returncode, second.returncode) == (130, 4)
    assert "the lab ended before your change was judged" in err


@pytest.mark.slow
def test_ctrl_c_lets_the_try_be_judged(folder: Path) -> None:
    starts_slow(folder)
    edit(folder, "NAP = 0.0", "NAP = 1.0")
    edit(folder, "KNOB = 5.0", "KNOB = 6.0")
    process = start(folder, "try", "-m", "a larger knob after a nap")
    wait_for(is_running(folder, "1-1"))

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)

    assert process.returncode == 0, err
    assert "discarded: experiment 1" in out


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_a_try_that_is_killed_is_finished_by_the_next(nightlab: Nightlab, folder: Path, kind: signal.Signals) -> None:
    starts_slow(folder)
    edit(folder, "NAP = 0.0", "NAP = 1.0")
    edit(folder, "KNOB = 5.0", "KNOB = 4.0")
    process = start(folder, "try", "-m", "a smaller knob after a nap")
    wait_for(is_running(folder, "1-1"))
    process.send_signal(kind)
    process.communicate(timeout=20)
    git(folder, "checkout", "-q", "HEAD", "--", "train.py")
    edit(folder, "STEP = 2.0", "STEP = 1.0")

    found = tried(nightlab, "-m", "a smaller step")

    rows = log(nightlab)
    assert [(row["id"], row["status"]) for row in rows] == [(0, "kept"), (1, "kept"), (2, "kept")]
    assert (found["id"], found["parent"]) == (2, 1)
    assert "KNOB = 4.0" in git(folder, "show", "nightlab/main:train.py")
    assert not [one for one in psutil.process_iter() if str(folder) in environment(one)]


def environment(process: psutil.Process) -> str:
    try:
        return process.environ().get("NIGHTLAB_OUT", "") if process.pid != os.getpid() else ""
    except psutil.Error:
        return ""


@pytest.mark.slow
def test_what_became_a_conflict_while_it_waited_is_rejected_with_the_reason(nightlab: Nightlab, folder: Path) -> None:
    starts_slow(folder)
    edit(folder, "NAP = 0.0", "NAP = 1.0")
    edit(folder, "KNOB = 5.0", "KNOB = 4.0")
    process = start(folder, "try", "-m", "a smaller knob after a nap")
    wait_for(is_running(folder, "1-1"))
    process.kill()
    process.communicate(timeout=20)
    git(folder, "checkout", "-q", "HEAD", "--", "train.py")
    edit(folder, "KNOB = 5.0", "KNOB = 4.5")

    found = tried(nightlab, "-m", "not so small a knob")

    assert found["decision"] == "rejected"
    assert "touch the same lines" in found["reason"]
