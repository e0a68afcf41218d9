"""finish: what was kept becomes branches and patches that real git takes, and nothing of the user's is touched."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import git, make_repository

from nightlab.errors import BadTask, StudyStuck
from nightlab.finish import Plan, patches, plan, written
from nightlab.ledger import Event, Ledger
from nightlab.lineage import Lineage
from nightlab.place import Place, find
from nightlab.task import Task, parse
from nightlab.values import Files, Status
from nightlab.workspace import difference

Nightlab = Callable[..., subprocess.CompletedProcess[str]]

TASK = '[task]\nrun = "python train.py"\neditable = ["*.py", "src/**"]\n[metric]\nname = "score"\ndirection = "lower"\n'
FILES = {
    "train.py": "RATE = 0.3\nWIDTH = 8\n\n\ndef step(x):\n    return x * RATE\n\n\nprint('score:', step(WIDTH))\n",
    "src/a é/model.py": "LAYERS = 2\n",
    "src/old.py": "unused = 1\n",
    "nightlab.toml": TASK,
    "notes.txt": "the user's own\n",
}


class Night:
    """A study whose keeps are written down by hand, by the lab's own hands."""

    def __init__(self, folder: Path, task: Task) -> None:
        self.place = find(folder)
        self.place.home.mkdir()
        self.place.repository.ignore("/.nightlab/")
        self.ledger = Ledger(self.place.ledger)
        base = self.place.repository.head()
        facts = {"seed": 0, "policy": "race", "base": base, "metric": "score", "direction": "lower", "level": "printed"}
        self.ledger.append(Event("study", "0", facts | {"task": json.loads(task.model_dump_json())}))
        self.ledger.append(
            Event("proposed", "0", {"parent": None, "hypothesis": "baseline", "proposer": "lab", "tree": ""}, 0)
        )
        self.ledger.append(Event("decided", "0", {"status": "kept", "value": 9.0, "reason": "the start"}, 0))
        self.ledger.append(Event("committed", "0", {"commit": base}, 0))
        self.place.repository.start_branch(self.place.branch, base)
        parts = {"task": task, "ledger": self.ledger, "repository": self.place.repository, "branch": self.place.branch}
        self.lineage = Lineage(**parts)  # type: ignore[arg-type]

    def keep(self, hypothesis: str, files: Files, **facts: Any) -> int:
        number, parent = self.ledger.next_number(), self.ledger.incumbent()
        assert parent
        diff = difference(self.lineage.standing(parent.id).texts, files)
        body = {"parent": parent.id, "hypothesis": hypothesis, "proposer": "you", "diff": diff, "tokens": 7, "tree": ""}
        self.ledger.append(Event("proposed", str(number), body | facts, number))
        for seed in (1, 2):
            run = {"run": f"{number}-{seed}", "purpose": "candidate", "seed": seed, "asked_by": number, "again": 0}
            ran = {"run": f"{number}-{seed}", "outcome": "finished", "value": 9.0 - number, "seconds": 2.0}
            self.ledger.append(Event("started", f"{number}-{seed}", run, number))
            self.ledger.append(Event("ran", f"{number}-{seed}", ran, number))
        decided = {"status": "kept", "value": 9.0 - number, "gain": 1.0, "stderr": 0.3, "reason": "z 3", "grade": "E2"}
        self.ledger.append(Event("decided", str(number), decided, number))
        self.lineage.commit(self.ledger.experiment(number), files)
        return number

    def edit(self, hypothesis: str, old: str, new: str, path: str = "train.py") -> int:
        best = self.ledger.incumbent()
        assert best
        text = self.lineage.standing(best.id).texts[path]
        assert old in text
        return self.keep(hypothesis, {path: text.replace(old, new)})

    def take_out(self, number: int) -> None:
        best = self.ledger.incumbent()
        assert best
        left = self.lineage.without([self.ledger.experiment(number)], self.lineage.standing(best.id).texts)
        assert left is not None
        words = {"reason": "pruned", "value": 5.0, "grade": "E2", "pool": []}
        self.lineage.take_out([number], left, Status.PRUNED, words, self.ledger.next_number())

    def plan(self, onto: str = "HEAD") -> Plan:
        return plan(self.place, self.ledger, onto=onto)

    def finish(self, onto: str = "HEAD", **words: Any) -> Mapping[str, list[str]]:
        planned = self.plan(onto)
        return written(self.place, planned.branches(), planned, **words)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "my é task", FILES)


@pytest.fixture
def night(repository: Path) -> Night:
    return Night(repository, parse(TASK))


def state(folder: Path) -> tuple[str, ...]:
    """All of the user's that must stay as it is: HEAD, index, working tree, branches, settings."""
    index = (folder / ".git" / "index").read_bytes().hex()
    files = [f"{path}: {path.read_bytes()!r}" for path in sorted(folder.rglob("*")) if path.is_file()]
    kept = [line for line in files if "/.git/" not in line and "/.nightlab/" not in line]
    branches = [line for line in git(folder, "for-each-ref").splitlines() if "nightlab/finish" not in line]
    return (git(folder, "symbolic-ref", "HEAD"), git(folder, "status", "--porcelain"), index, *kept, *branches)


def tree(folder: Path, revision: str) -> str:
    return git(folder, "rev-parse", f"{revision}^{{tree}}")


def branches(folder: Path) -> list[str]:
    return git(folder, "for-each-ref", "--format=%(refname:short)", "refs/heads/nightlab/finish").splitlines()


def test_each_change_is_a_branch_of_its_own_and_all_together_are_the_incumbent(night: Night, repository: Path) -> None:
    night.edit("a lower rate", "RATE = 0.3", "RATE = 0.1")
    night.edit("more layers, because it underfits", "LAYERS = 2", "LAYERS = 3", "src/a é/model.py")
    before = state(repository)

    night.finish()

    assert branches(repository) == [
        "nightlab/finish/main/01-a-lower-rate",
        "nightlab/finish/main/02-more-layers-because-it-underfits",
        "nightlab/finish/main/all",
    ]
    for name, path in (("01-a-lower-rate", "train.py"), ("02-more-layers-because-it-underfits", "src/a é/model.py")):
        branch = f"nightlab/finish/main/{name}"
        assert git(repository, "rev-parse", f"{branch}~1") == git(repository, "rev-parse", "main")
        assert git(repository, "-c", "core.quotePath=false", "diff", "--name-only", "main", branch) == path
    assert tree(repository, "nightlab/finish/main/all") == tree(repository, "nightlab/main")
    assert git(repository, "rev-list", "--count", "main..nightlab/finish/main/all") == "2"
    assert state(repository) == before
    assert git(repository, "for-each-ref", "refs/nightlab") == ""
    assert "missing" not in git(repository, "fsck", "--strict")


def test_a_constant_tuned_again_and_again_is_one_change_with_all_its_experiments(night: Night) -> None:
    for old, new in (("0.3", "0.2"), ("0.2", "0.15"), ("0.15", "0.1")):
        night.edit(f"lower RATE from {old} to {new}", f"RATE = {old}", f"RATE = {new}")
    night.edit("wider", "WIDTH = 8", "WIDTH = 16")

    first, second = night.plan().changes

    assert [one.id for one in first.experiments] == [1, 2, 3]
    assert (first.subject, second.subject) == ("RATE 0.3 -> 0.1", "wider")
    assert night.plan().facts[1] | {"pruned": 0} == night.plan().facts[1] | {
        "experiments": [1, 2, 3],
        "gain": 3.0,
        "stderr": pytest.approx(0.3 * 3**0.5),
        "grade": "E2",
        "runs": 6,
        "seeds": 2,
        "pruned": 0,
        "tokens": 21,
        "proposers": ["you"],
    }


def test_what_was_taken_out_again_does_not_appear(night: Night, repository: Path) -> None:
    night.edit("a lower rate", "RATE = 0.3", "RATE = 0.1")
    gone = night.edit("a useless layer", "LAYERS = 2", "LAYERS = 3", "src/a é/model.py")
    night.edit("wider", "WIDTH = 8", "WIDTH = 16")
    night.take_out(gone)

    night.finish()

    assert [change.subject for change in night.plan().changes] == ["a lower rate", "wider"]
    assert tree(repository, "nightlab/finish/main/all") == tree(repository, "nightlab/main")
    assert "useless" not in git(repository, "log", "main..nightlab/finish/main/all")


def test_what_stands_on_another_change_goes_with_it_as_one(night: Night) -> None:
    night.edit("clip the step", "    return x * RATE", "    x = min(x, 4)\n    return x * RATE")
    night.edit("clip at 5", "min(x, 4)", "min(x, 5)")

    (change,) = night.plan().changes

    assert [one.id for one in change.experiments] == [1, 2]
    assert change.subject == "clip the step (and 1 more)"


def test_changes_side_by_side_are_still_apart(night: Night, repository: Path) -> None:
    night.edit("deeper", "WIDTH = 8\n", "WIDTH = 8\nDEPTH = 2\n")
    night.edit("heads", "DEPTH = 2\n", "DEPTH = 2\nHEADS = 4\n")

    night.finish()

    assert "HEADS = 4" in git(repository, "show", "nightlab/finish/main/02-heads:train.py")
    assert "DEPTH" not in git(repository, "show", "nightlab/finish/main/02-heads:train.py")
    assert tree(repository, "nightlab/finish/main/all") == tree(repository, "nightlab/main")


def test_a_change_that_needs_another_on_this_base_is_stacked_on_it(night: Night, repository: Path) -> None:
    both = {"train.py": FILES["train.py"].replace("WIDTH = 8", "WIDTH = 16"), "src/a é/model.py": "LAYERS = 3\n"}
    night.keep("wider and deeper", both)
    files = {
        "train.py": both["train.py"].replace("16\n", "16\nHEADS = 4\n"),
        "src/a é/model.py": "LAYERS = 3\nHEADS = 4\n",
    }
    night.keep(
        "heads", files
    )  # on this base one file would merge only without the first change, the other only with it
    night.keep("less to read", {"src/old.py": None})
    (repository / "train.py").write_text(FILES["train.py"].replace("WIDTH = 8", "WIDTH = 16"))
    git(repository, "commit", "-qam", "the user had half of that idea")
    planned = night.plan()

    night.finish()

    needs = {change.number: [one.number for one in planned.chains[change.number][:-1]] for change in planned.changes}
    assert needs == {1: [], 2: [1], 3: []}
    assert git(repository, "rev-parse", "nightlab/finish/main/02-heads~1") == git(
        repository, "rev-parse", "nightlab/finish/main/01-wider-and-deeper"
    )


def test_files_that_came_and_went_come_and_go(night: Night, repository: Path) -> None:
    night.keep("a new file", {"src/new folder/x y.py": "fresh = 'é'\n"})
    night.keep("less to read", {"src/old.py": None})

    night.finish()

    shown = git(repository, "-c", "core.quotePath=false", "diff", "--name-status", "main", "nightlab/finish/main/all")
    assert shown.splitlines() == ["A\tsrc/new folder/x y.py", "D\tsrc/old.py"]
    assert tree(repository, "nightlab/finish/main/all") == tree(repository, "nightlab/main")


def test_a_script_stays_executable(tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "x", FILES)
    (folder / "train.py").chmod(0o755)
    git(folder, "commit", "-qam", "executable")
    night = Night(folder, parse(TASK))
    night.edit("a lower rate", "RATE = 0.3", "RATE = 0.1")

    night.finish()

    assert git(folder, "ls-tree", "nightlab/finish/main/all", "train.py").startswith("100755")


def test_a_base_that_moved_on_is_merged_with(night: Night, repository: Path) -> None:
    night.edit("a lower rate", "RATE = 0.3", "RATE = 0.1")
    moved = FILES["train.py"].replace("print('score:'", "print('hello')\nprint('score:'")
    (repository / "train.py").write_text(moved)
    git(repository, "commit", "-qam", "the user goes on")
    planned = night.plan()

    night.finish()

    assert not planned.is_exact
    merged = git(repository, "show", "nightlab/finish/main/all:train.py")
    assert merged == moved.replace("RATE = 0.3", "RATE = 0.1").rstrip("\n")


def test_a_conflict_with_a_moved_base_is_named_and_left_out_whole(night: Night, repository: Path) -> None:
    first = {"train.py": FILES["train.py"].replace("RATE = 0.3", "RATE = 0.1"), "src/a é/model.py": "LAYERS = 4\n"}
    night.keep("rate and layers", first)
    night.keep("less to read", {"src/old.py": None})
    (repository / "train.py").write_text(FILES["train.py"].replace("RATE = 0.3", "RATE = 7.0"))
    git(repository, "commit", "-qam", "the user has another idea")
    planned = night.plan()

    night.finish()

    assert planned.left_out == {1: "conflicts with the base in train.py"}
    assert branches(repository) == ["nightlab/finish/main/02-less-to-read", "nightlab/finish/main/all"]
    assert git(repository, "show", "nightlab/finish/main/all:src/a é/model.py") == "LAYERS = 2"
    assert "the user has another idea" not in git(repository, "log", "main..nightlab/finish/main/all")


def test_what_the_base_has_already_is_passed_over(night: Night, repository: Path) -> None:
    night.edit("a lower rate", "RATE = 0.3", "RATE = 0.1")
    night.edit("more layers", "LAYERS = 2", "LAYERS = 3", "src/a é/model.py")
    git(repository, "merge", "-q", "--ff-only", "nightlab/main~1")

    night.finish()

    assert night.plan().left_out == {1: "the base has it already"}
    assert branches(repository) == ["nightlab/finish/main/02-more-layers", "nightlab/finish/main/all"]
    assert tree(repository, "nightlab/finish/main/all") == tree(repository, "nightlab/main")


@pytest.mark.parametrize("there", ["src/new", "src/new/file.py/deeper.txt"])
def test_a_new_file_never_replaces_what_the_base_put_in_its_place(night: Night, repository: Path, there: str) -> None:
    night.keep("a new file", {"src/new/file.py": "fresh = 1\n"})
    (repository / there).parent.mkdir(parents=True, exist_ok=True)
    (repository / there).write_text("the user's\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "in its place")

    assert night.plan().left_out == {1: "conflicts with the base in src/new/file.py"}
    assert night.finish() == {}


def test_a_link_that_the_base_put_in_its_place_is_not_replaced(night: Night, repository: Path) -> None:
    night.keep("a new file", {"src/new.py": "fresh = 1\n"})
    (repository / "src" / "new.py").symlink_to("../notes.txt")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "a link")

    assert night.plan().left_out == {1: "conflicts with the base in src/new.py"}


def test_another_base_can_be_named(night: Night, repository: Path) -> None:
    night.edit("a lower rate", "RATE = 0.3", "RATE = 0.1")
    git(repository, "branch", "release")
    (repository / "notes.txt").write_text("more\n")
    git(repository, "commit", "-qam", "the user goes on")

    night.finish("release")

    assert git(repository, "rev-parse", "nightlab/finish/main/all~1") == git(repository, "rev-parse", "release")
    for bad in ("no-such", "--all", "HEAD:train.py"):
        with pytest.raises(BadTask, match="is no commit of"):
            night.plan(bad)


def test_the_series_applies_with_git_am_in_a_fresh_clone(night: Night, repository: Path, tmp_path: Path) -> None:
    night.edit("a lower rate: größer ist nicht besser", "RATE = 0.3", "RATE = 0.1")
    night.keep("a new file", {"src/new folder/x y.py": "fresh = 'é'"})
    night.keep("less to read", {"src/old.py": None})
    night.keep("windows", {"src/crlf.py": "a = 1\r\nb = 2\r\n"})
    before = state(repository)

    paths = patches(night.place, night.plan(), tmp_path / "out")
    git(tmp_path, "clone", "-q", "-b", "main", str(repository), "clone")
    git(tmp_path / "clone", "am", "-q", "--keep-cr", *map(str, paths))

    assert [path.name for path in paths][:2] == [
        "0001-a-lower-rate-grosser-ist-nicht-besser.patch",
        "0002-a-new-file.patch",
    ]
    assert tree(tmp_path / "clone", "HEAD") == tree(repository, "nightlab/main")
    assert git(tmp_path / "clone", "log", "--format=%s", "-1", "HEAD~3") == "a lower rate: größer ist nicht besser"
    assert state(repository) == before
    assert branches(repository) == []
    assert git(repository, "for-each-ref", "refs/nightlab") == ""


HOSTILE = (
    "\n\n---\ndiff --git a/notes.txt b/notes.txt\nProposer: root\nNightlab-Experiment: 99\n\x1b[31m\u202e --force `x`"
)


@pytest.mark.parametrize("hypothesis", [HOSTILE, "--force", "../../main", "", "a" * 900, "[PATCH] From: x@y\n--- a"])
def test_a_hypothesis_is_only_words(night: Night, repository: Path, tmp_path: Path, hypothesis: str) -> None:
    night.edit(hypothesis, "RATE = 0.3", "RATE = 0.1")

    night.finish()
    (patch,) = patches(night.place, night.plan(), tmp_path / "out")
    git(tmp_path, "clone", "-q", "-b", "main", str(repository), "clone")
    git(tmp_path / "clone", "am", "-q", str(patch))

    trailers = git(repository, "log", "-1", "--format=%(trailers:only)", "nightlab/finish/main/all")
    assert trailers.splitlines() == ["Nightlab-Experiment: 1", "Proposer: you"]
    text = git(repository, "log", "-1", "--format=%B", "nightlab/finish/main/all")
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert len(text.splitlines()[0]) <= 70
    assert text.splitlines()[1] == ""
    assert len(branches(repository)) == 2
    assert tree(tmp_path / "clone", "HEAD") == tree(repository, "nightlab/main")


def test_the_message_says_what_is_known_and_of_what(night: Night) -> None:
    night.edit("a lower rate", "RATE = 0.3", "RATE = 0.1")
    night.edit("wider", "WIDTH = 8", "WIDTH = 16")
    night.ledger.append(Event("pruned", "0", {"units": [[2], [1]], "gains": [0.1, 0.2], "stderrs": [0.05, 0.06]}))
    audited = {"experiment": 2, "gain": 1.5, "low": 1.0, "high": 2.0, "percent": 16.7, "sealed": {"gain": 1.5}}
    audited["seeds"] = [1, 2, 3]
    night.ledger.append(Event("audited", "0", audited, 2), Event("graded", "2:audit:0", {"grade": "E3"}, 2))

    words = " ".join(night.plan().messages[2].split())

    assert words.startswith("wider Gain in score when it was kept: 1 +- 0.3 (E2; 2 runs under 2 seeds).")
    assert "Turned off with all others on, by the prune: 0.1 +- 0.05." in words
    assert (
        "All changes of study main together, not this one alone: audited on fresh seeds and sealed data: gain 1.5 "
        "(16.7 % of the start), 95 % interval 1 to 2 (E3)." in words
    )
    assert "Cost: 4 s of runs, 0.00 USD, 7 tokens." in words
    assert words.endswith("- 2, gain 1 +- 0.3, raced against 1: wider Nightlab-Experiment: 2 Proposer: you")


def test_the_author_is_the_user_where_git_knows_one(
    night: Night, repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    night.edit("a lower rate", "RATE = 0.3", "RATE = 0.1")
    settings = tmp_path / "gitconfig"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)

    night.finish()
    unknown = git(repository, "log", "-1", "--format=%an <%ae>", "nightlab/finish/main/all")
    settings.write_text("[user]\n\tname = Ünal\n\temail = u@example.org\n")
    night.finish(force=True)

    assert unknown == "Nightlab <nightlab@localhost>"
    assert git(repository, "log", "-1", "--format=%an <%ae>", "nightlab/finish/main/all") == "Ünal <u@example.org>"


def test_branches_that_are_there_stay_unless_they_are_ours_and_it_is_said(night: Night, repository: Path) -> None:
    night.edit("a lower rate", "RATE = 0.3", "RATE = 0.1")
    night.finish()
    first = branches(repository)
    night.edit("lower still", "RATE = 0.1", "RATE = 0.05")

    with pytest.raises(BadTask, match=r"nightlab/finish/main/01-a-lower-rate already; .* --force"):
        night.finish()
    untouched = branches(repository)
    night.finish(force=True)

    assert untouched == first
    assert branches(repository) == ["nightlab/finish/main/01-rate-0-3-0-05", "nightlab/finish/main/all"]
    assert tree(repository, "nightlab/finish/main/all") == tree(repository, "nightlab/main")


def test_a_branch_that_the_user_made_or_looks_at_is_never_moved(night: Night, repository: Path) -> None:
    night.edit("a lower rate", "RATE = 0.3", "RATE = 0.1")
    git(repository, "branch", "nightlab/finish/main/all")
    with pytest.raises(BadTask, match="nightlab/finish/main/all is not what finish made"):
        night.finish(force=True)
    git(repository, "branch", "-D", "nightlab/finish/main/all")
    night.finish()
    git(repository, "switch", "-q", "nightlab/finish/main/all")
    before = state(repository)

    with pytest.raises(BadTask, match="is checked out"):
        night.finish("main", force=True)

    assert state(repository) == before


def test_patches_go_into_a_folder_of_their_own(night: Night, tmp_path: Path) -> None:
    night.edit("a lower rate", "RATE = 0.3", "RATE = 0.1")
    out = tmp_path / "out"
    patches(night.place, night.plan(), out)
    with pytest.raises(BadTask, match=r"not empty.*--force"):
        patches(night.place, night.plan(), out)
    patches(night.place, night.plan(), out, force=True)
    (out / "0000-mine.patch").write_bytes(b"\xff mine\n")

    with pytest.raises(BadTask, match=r"is not empty; name a new folder$"):
        patches(night.place, night.plan(), out, force=True)

    assert sorted(path.name for path in out.iterdir()) == ["0000-mine.patch", "0001-a-lower-rate.patch"]


def test_a_night_that_kept_nothing_has_nothing_to_finish(night: Night) -> None:
    with pytest.raises(StudyStuck, match="nothing that was kept stands"):
        night.plan()
    night.take_out(night.edit("a lower rate", "RATE = 0.3", "RATE = 0.1"))

    with pytest.raises(StudyStuck, match="nothing that was kept stands"):
        night.plan()


def test_what_is_left_of_a_change_that_was_taken_out_is_said_to_be_that(night: Night, repository: Path) -> None:
    guarded = "    if x:\n        return x * RATE\n    return 0"
    night.edit("a guard", "    return x * RATE", guarded)
    night.edit("wider", "WIDTH = 8", "WIDTH = 16")
    best = night.lineage.standing(2).texts
    left = best | {"train.py": best["train.py"].replace(guarded, "    return RATE * x")}
    words = {"reason": "pruned", "value": 5.0, "grade": "E2", "pool": []}
    night.lineage.take_out([1], left, Status.PRUNED, words, 3)

    night.finish()

    subjects = [change.subject for change in night.plan().changes]
    assert subjects == ["What is left of changes that were taken out again", "wider"]
    assert tree(repository, "nightlab/finish/main/all") == tree(repository, "nightlab/main")


@pytest.mark.slow
def test_the_command_line_finishes_a_real_night(nightlab: Nightlab, folder: Path, tmp_path: Path) -> None:
    nightlab("run", "--experiments", "4", "--no-audit", "--unsafe")
    (folder / "train.py").write_text("the user is in the middle of something\n")
    (folder / "draft.txt").write_text("new\n")
    git(folder, "add", "draft.txt")
    (folder / "sub").mkdir()
    before = state(folder)

    dry = json.loads(nightlab("finish", "--dry-run", "--json", at=folder / "sub").stdout)
    made = nightlab("finish", at=folder / "sub").stdout
    told = json.loads(nightlab("finish", "--patches", str(tmp_path / "out"), "--json", at=folder / "sub").stdout)

    assert dry["written"] is None
    assert dry["all"]["is_exact"]
    assert "logical change" in made
    assert "the incumbent's very tree" in made
    assert tree(folder, "nightlab/finish/main/all") == tree(folder, "nightlab/main")
    assert [one["number"] for one in told["changes"]] == told["all"]["changes"]
    assert len(told["written"]["patches"]) == len(told["changes"])
    assert state(folder) == before
    assert nightlab("finish", check=False).returncode == 2


def test_a_study_that_was_imported_has_no_patches(tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "x", FILES)
    place: Place = find(folder)
    place.home.mkdir()
    with closing(Ledger(place.ledger)) as ledger:
        ledger.append(Event("study", "0", {"metric": "val_bpb", "policy": "greedy"}))

        with pytest.raises(BadTask, match="was not searched by this lab"):
            plan(place, ledger)
