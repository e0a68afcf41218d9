from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import git, make_repository, need_program
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nightlab.errors import BadRepository
from nightlab.workspace import Checkout, Repository, Tree, difference, is_plain, merged, patched, remove, undone

FILES = {
    "train.py": "one\ntwo\nthree\n",
    "src/deep/a.py": "a\n",
    "src.txt": "sorts between\n",
    "a name with ünïcode.txt": "x",
    "run.sh": "#!/bin/sh\n",
}

BYTES = os.fsdecode(b"not utf-8 \xff.bin")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    folder = make_repository(tmp_path / "répo with space", FILES)
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("train.py")
    (folder / BYTES).write_bytes(b"\xff\x00")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "modes")
    return Repository(folder)


@pytest.fixture
def tree(repository: Repository) -> Tree:
    return repository.tree(repository.head())


@pytest.fixture
def checkout(repository: Repository, tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "slot", repository)


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}


def test_a_tree_has_the_id_that_git_gives_it(repository: Repository, tree: Tree) -> None:
    assert tree.id == git(repository.root, "rev-parse", "HEAD^{tree}")


def test_a_changed_tree_has_the_id_of_the_commit_that_keeps_it(repository: Repository, tree: Tree) -> None:
    files = {"train.py": "new\n", "new/deep/file.py": "n\n", "src.txt": None}

    commit = repository.keep("nightlab/x", parent=repository.head(), files=files, message="m")

    assert repository.tree(commit).id == tree.changed(files).id
    assert git(repository.root, "rev-parse", f"{commit}^{{tree}}") == tree.changed(files).id


def test_keeping_leaves_the_users_checkout_index_and_branch_alone(repository: Repository) -> None:
    (repository.root / "train.py").write_text("the user is at work\n")
    git(repository.root, "add", "train.py")
    (repository.root / "untracked").write_text("x")
    before = git(repository.root, "status", "--porcelain"), git(repository.root, "rev-parse", "HEAD", "main")

    repository.keep("nightlab/x", parent=repository.head(), files={"train.py": "kept\n"}, message="m")

    assert (git(repository.root, "status", "--porcelain"), git(repository.root, "rev-parse", "HEAD", "main")) == before


def test_the_trailer_of_a_commit_says_which_experiment_it_holds(repository: Repository) -> None:
    message = "words\n\nmore words\n\nExperiment-Id: 12\nProposer: p\n"
    commit = repository.keep("nightlab/x", parent=repository.head(), files={"train.py": "k\n"}, message=message)

    assert repository.trailer(commit) == "12"
    assert repository.trailer(repository.head()) is None


def test_hooks_of_the_repository_do_not_run(repository: Repository, tmp_path: Path) -> None:
    hook = repository.git_dir / "hooks" / "reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    hook.chmod(0o755)

    repository.keep("nightlab/x", parent=repository.head(), files={"train.py": "k\n"}, message="m")

    assert not (tmp_path / "ran").exists()


def test_the_users_configuration_and_environment_do_not_reach_git(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".gitconfig").write_text("[core]\n\tthis is not a configuration\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))

    assert repository.commit("HEAD") is not None


def test_a_tree_is_laid_out_with_modes_and_links_and_without_git(checkout: Checkout, tree: Tree) -> None:
    folder = checkout.lay(tree)

    assert listing(folder) == {*FILES, "link", BYTES}
    assert os.access(folder / "run.sh", os.X_OK)
    assert os.readlink(folder / "link") == "train.py"
    assert checkout.touched() == []


def test_hidden_files_are_not_laid_out(checkout: Checkout, tree: Tree) -> None:
    folder = checkout.lay(tree, without=["src/deep/a.py"])

    assert not (folder / "src").exists()


def test_whatever_a_run_did_to_the_folder_the_next_run_finds_it_fresh(
    checkout: Checkout, tree: Tree, tmp_path: Path
) -> None:
    folder = checkout.lay(tree)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "a.py").write_text("mine")
    (folder / "train.py").write_text("ONE\ntwo\nthree\n")
    os.utime(folder / "train.py", (0, 0))
    (folder / "src" / "deep" / "a.py").unlink()
    (folder / "src" / "deep").rmdir()
    (folder / "src" / "deep").symlink_to(tmp_path / "precious")
    (folder / "locked").mkdir()
    (folder / "locked" / "x").write_text("x")
    (folder / "locked").chmod(0)
    (folder / "run.sh").chmod(0o644)

    assert set(checkout.touched()) == {"train.py", "src/deep/a.py", "run.sh"}
    checkout.lay(tree)

    assert listing(folder) == {*FILES, "link", BYTES}
    assert (folder / "train.py").read_text() == FILES["train.py"]
    assert os.access(folder / "run.sh", os.X_OK)
    assert (tmp_path / "precious" / "a.py").read_text() == "mine"


def test_a_nest_deeper_than_any_path_is_removed(tmp_path: Path) -> None:
    (tmp_path / "nest").mkdir()
    at = os.open(tmp_path / "nest", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("down", dir_fd=at)
        below = os.open("down", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)

    remove(tmp_path / "nest")

    assert not any(tmp_path.iterdir())


LOCKED = """
import os, sys
from pathlib import Path
from nightlab.workspace import Checkout, remove
folder = Path(sys.argv[1])
(folder / "src" / "deep").chmod(0o444)
checkout = Checkout(folder, None)
checkout._laid = {"src/deep/a.py": (None, (1,))}
print(checkout.touched())
remove(folder)
"""


def test_a_folder_that_may_be_listed_and_not_entered_holds_nobody_up(
    checkout: Checkout, tree: Tree, tmp_path: Path
) -> None:
    need_program("setpriv")
    folder = checkout.lay(tree)

    # Root may enter anything; root without its capabilities may not.
    words = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", sys.executable, "-c", LOCKED, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "['src/deep/a.py']\n"), done.stderr
    assert not folder.exists()


@pytest.mark.parametrize("how", ["removed", "a file", "a link"])
def test_a_run_that_replaces_its_whole_folder_harms_nothing(
    checkout: Checkout, tree: Tree, tmp_path: Path, how: str
) -> None:
    folder = checkout.lay(tree)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("mine")
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    if how == "a file":
        folder.write_text("x")
    elif how == "a link":
        folder.symlink_to(tmp_path / "elsewhere")

    checkout.lay(tree)

    assert listing(folder) == {*FILES, "link", BYTES}
    assert listing(tmp_path / "elsewhere") == {"precious"}


def test_only_what_differs_is_written(checkout: Checkout, tree: Tree) -> None:
    folder = checkout.lay(tree)
    before = {path: (folder / path).lstat().st_ino for path in FILES}

    files = {"train.py": "new\n"}
    checkout.lay(tree.changed(files), texts=files)

    assert {path for path in FILES if (folder / path).lstat().st_ctime_ns != 0 and path != "train.py"} == set(FILES) - {
        "train.py"
    }
    assert {path: (folder / path).lstat().st_ino for path in FILES if path != "train.py"} == {
        path: inode for path, inode in before.items() if path != "train.py"
    }
    assert (folder / "train.py").read_text() == "new\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"a": "x\ny\n"}, {"a": "x\nz\n"}),
        ({"a": "x"}, {"a": "y"}),
        ({"a": "x\n"}, {"a": "x"}),
        ({"a": "x\x0cy\u2028z\r\n"}, {"a": "x\x0cy\u2028w\r\n"}),
        ({"a b/ü": None}, {"a b/ü": "new\n"}),
        ({"a": "x\n"}, {"a": None}),
        ({"a": "".join(f"{n}\n" for n in range(100))}, {"a": "".join(f"{n}\n" for n in range(100) if n % 30)}),
    ],
)
def test_a_difference_applied_gives_the_files_back(before: dict[str, str | None], after: dict[str, str | None]) -> None:
    assert patched(before, difference(before, after)) == after


def test_a_difference_that_does_not_apply_gives_nothing() -> None:
    diff = difference({"a": "x\ny\n"}, {"a": "x\nz\n"})

    assert patched({"a": "something\nelse\n"}, diff) is None
    assert patched({"a": "x\n"}, "not a diff") is None
    assert patched({"a": "x\n"}, diff.replace("a/a", "a/../a").replace("b/a", "b/../a")) is None


def test_two_changes_merge_or_conflict() -> None:
    base = {"a": "1\n2\n3\n4\n5\n", "b": "x\n"}

    assert merged(base, {**base, "a": "ONE\n2\n3\n4\n5\n"}, {"a": "1\n2\n3\n4\nFIVE\n"}) == {
        "a": "ONE\n2\n3\n4\nFIVE\n",
        "b": "x\n",
    }
    assert merged(base, {**base, "a": "ONE\n2\n3\n4\n5\n"}, {"a": "one\n2\n3\n4\n5\n"}) is None


def test_changes_of_neighbouring_lines_merge_where_no_line_came_or_went() -> None:
    base = {"a": "RATE = 1\nSCALE = 2\nSEED = 3\n"}

    both = merged(base, {"a": "RATE = 9\nSCALE = 2\nSEED = 3\n"}, {"a": "RATE = 1\nSCALE = 8\nSEED = 3\n"})

    assert both == {"a": "RATE = 9\nSCALE = 8\nSEED = 3\n"}
    assert merged(base, {"a": "RATE = 9\nSEED = 3\n"}, {"a": "RATE = 1\nSCALE = 8\nSEED = 3\n"}) is None


def test_paths_that_leave_the_tree_are_not_plain() -> None:
    assert is_plain("src/a.py")
    assert not any(map(is_plain, ["/etc/passwd", "../x", "a/../../x", ".git/hooks/x", "a/.git/x", ".nightlab/x", ""]))
    assert not any(
        map(
            is_plain,
            [
                ".GIT/x",
                "git~1/x",
                "a\tb.py",
                "a\nb.py",
                "a\0b.py",
                "a\x1b[2Jb.py",
                "\udcff.py",
                "./a",
                "a//b",
                'a"b',
                "a\\b",
            ],
        )
    )


LETTERS = st.characters(exclude_categories=["Cs"])  # what can be written as UTF-8


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=12), st.text(LETTERS))
def test_a_change_of_any_plain_file_is_read_back_from_its_diff(path: str, text: str) -> None:
    assume(is_plain(path))

    assert patched({}, difference({}, {path: text})) == {path: text}


def test_no_repository_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadRepository, match="git init"):
        Repository(tmp_path)


def test_a_bare_repository_is_refused(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare")

    with pytest.raises(BadRepository, match="bare"):
        Repository(tmp_path)


def test_a_repository_without_a_commit_is_refused(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")

    with pytest.raises(BadRepository, match="no commit yet"):
        Repository(tmp_path).head()


def test_submodules_are_refused_by_name(tmp_path: Path) -> None:
    inner = make_repository(tmp_path / "inner", {"x": "x"})
    outer = make_repository(tmp_path / "outer", {"y": "y"})
    git(outer, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "parts/inner")
    git(outer, "commit", "-qm", "with a submodule")

    with pytest.raises(BadRepository, match="parts/inner"):
        Repository(outer).tree("HEAD")


def test_a_missing_git_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(BadRepository, match="git is not installed"):
        Repository(tmp_path)


def test_changes_side_by_side_are_undone_one_by_one() -> None:
    start = "a = 1\n"
    one, two = start + "x = 1\n", start + "x = 1\ny = 2\n"
    three = two + "z = 3\n"

    assert undone(one, two, three) == "a = 1\nx = 1\nz = 3\n"
    assert undone(start, one, three) == "a = 1\ny = 2\nz = 3\n"
    assert undone("a = 1\nb = 2\nc = 3\n", "a = 1\nc = 3\n", "a = 1\nc = 3\nd = 4\n") == "a = 1\nb = 2\nc = 3\nd = 4\n"


def test_what_is_gone_or_stands_twice_cannot_be_undone() -> None:
    assert undone("a = 1\n", "a = 2\n", "a = 3\n") is None
    assert undone("a = 1\n", "a = 1\npass\n", "a = 1\npass\na = 1\npass\n") is None
