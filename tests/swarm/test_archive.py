"""The archive: records carried by git, to and from a remote that may hold anything."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from swarms import SWARM, Lab, a_swarm, labs

from nightlab.errors import NightlabError
from nightlab.swarm.archive import BadArchive, Carried, pull, push
from nightlab.swarm.record import Record, write
from nightlab.swarm.store import Store
from nightlab.workspace import git

REF = f"refs/nightlab/swarm/{SWARM}"


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    git("init", "-q", "--bare", str(tmp_path / "remote.git"), folder=tmp_path)
    return tmp_path / "remote.git"


def opened(folder: Path) -> Store:
    folder.mkdir(exist_ok=True)
    return Store(folder / "records.sqlite", SWARM)


def one_lab(folder: Path, name: str = "ada") -> Lab:
    return labs(opened(folder), folder, [name])[0]


def sent(store: Store, folder: Path, remote: Path) -> Carried:
    return push(store, folder / "archive", str(remote), "the swarm", sleep=lambda _: None)


def had(store: Store, folder: Path, remote: Path) -> Carried:
    return pull(store, folder / "archive", str(remote))


def laid(remote: Path, files: dict[str, bytes], *, mode: str = "100644") -> None:
    """A commit on the ref that somebody else made by hand."""
    stream = [b"commit " + REF.encode() + b"\ncommitter x <x> 0 +0000\ndata 0\n"]
    for path, data in files.items():
        stream.append(f"M {mode} inline {path}\ndata {len(data)}\n".encode() + data + b"\n")
    git("fast-import", "--quiet", "--force", folder=remote, repository=remote, input=b"".join(stream))


def files_at(remote: Path) -> list[str]:
    return git("ls-tree", "-r", "--name-only", REF, folder=remote, repository=remote).decode().split()


def test_records_and_patches_come_to_who_clones_the_remote(tmp_path: Path, remote: Path) -> None:
    with closing(a_swarm(tmp_path, words=["fan-in", "Adam", "width"])) as store:
        there = sent(store, tmp_path, remote)
        git("clone", "-q", "--mirror", str(remote), str(tmp_path / "clone"), folder=tmp_path)

        with closing(opened(tmp_path / "elsewhere")) as other:
            found = had(other, tmp_path / "elsewhere", tmp_path / "clone")

            assert there.commit is not None
            assert found == Carried(records=len(store.log), patches=6)
            assert other.log.digest() == store.log.digest()
            named = {record.body.change for record in store.log if hasattr(record.body, "change")}
            assert all(other.blob(name) == store.blob(name) for name in named)


def test_who_has_nothing_new_makes_no_commit(tmp_path: Path, remote: Path) -> None:
    first, second = one_lab(tmp_path / "a"), one_lab(tmp_path / "b", "bo")
    first.find(1)
    sent(first.store, tmp_path / "a", remote)
    second.find(2)
    assert sent(second.store, tmp_path / "b", remote).commit is not None

    assert sent(second.store, tmp_path / "b", remote) == Carried()
    assert sent(first.store, tmp_path / "a", remote) == Carried(records=1, patches=1)
    assert first.store.log.digest() == second.store.log.digest()


def test_a_proof_of_misconduct_is_carried_and_takes_the_place_of_what_was_said(tmp_path: Path, remote: Path) -> None:
    honest, false = one_lab(tmp_path / "a"), one_lab(tmp_path / "a", "false")
    false = labs(honest.store, tmp_path / "other key", ["false"])[0]
    honest.find(1)
    told = false.find(2)
    sent(honest.store, tmp_path / "a", remote)
    honest.store.add([write(honest.find(3).body, false.key, swarm=SWARM, seq=0, prev="")])

    sent(honest.store, tmp_path / "a", remote)

    assert sorted(path.rpartition("/")[2] for path in files_at(remote) if path.endswith("jsonl")) == sorted(
        [f"{honest.key.author}.jsonl", f"{told.author}.fork.jsonl"]
    )
    with closing(opened(tmp_path / "b")) as other:
        had(other, tmp_path / "b", remote)
        assert other.log.digest() == honest.store.log.digest()
        assert set(other.log.forks) == {told.author}
        assert sent(other, tmp_path / "b", remote).commit is None


def test_one_proof_of_two_is_kept_so_that_pushes_come_to_rest(tmp_path: Path, remote: Path) -> None:
    first, second = one_lab(tmp_path / "a"), one_lab(tmp_path / "b", "bo")
    false = labs(first.store, tmp_path / "other key", ["false"])[0].key
    body = first.find(1).body
    one, two, three = (
        write(replace(body, hypothesis=words), false, swarm=SWARM, seq=0, prev="") for words in ("one", "two", "three")
    )
    first.store.add([one, two])
    second.store.add([two, three])

    sent(first.store, tmp_path / "a", remote)
    sent(second.store, tmp_path / "b", remote)

    assert sent(first.store, tmp_path / "a", remote).commit is None
    assert sent(second.store, tmp_path / "b", remote).commit is None


def test_what_a_hostile_remote_holds_is_not_believed(tmp_path: Path, remote: Path) -> None:
    lab = one_lab(tmp_path / "a")
    good, author = lab.find(1).data, lab.key.author
    forged = good.replace(b"idea 1", b"idea 2")
    stranger = labs(opened(tmp_path / "s"), tmp_path / "s", ["stranger"])[0].find(1).data
    laid(
        remote,
        {
            f"{SWARM}/{author}.jsonl": forged + b"\n" + stranger + b"\n",
            f"{SWARM}/{'0' * 64}.jsonl": good + b"\n",
            f"{SWARM}/{'1' * 64}.fork.jsonl": b"[" * 100_000,
            f"{SWARM}/{'2' * 64}.jsonl": b"\x00\xff\n" * 1000,
            f"{SWARM}/blobs/{'3' * 64}": b"evil",
            f"{SWARM}/deep/{'4' * 64}.jsonl": good,
            "hooks/post-update": b"#!/bin/sh\n",
            f"{SWARM}/.gitmodules": b"[submodule]",
        },
    )
    with closing(opened(tmp_path / "b")) as other:
        found = had(other, tmp_path / "b", remote)

        assert found == Carried()
        assert len(other.log) == 0


def test_a_push_puts_a_spoiled_remote_right(tmp_path: Path, remote: Path) -> None:
    lab = one_lab(tmp_path / "a")
    record = lab.find(1)
    patch = getattr(record.body, "change")  # noqa: B009
    laid(remote, {f"{SWARM}/blobs/{patch}": b"evil", f"{SWARM}/junk": b"junk", f"{SWARM}/{record.author}.jsonl": b"x"})

    sent(lab.store, tmp_path / "a", remote)

    assert set(files_at(remote)) == {f"{SWARM}/{record.author}.jsonl", f"{SWARM}/blobs/{patch}"}
    with closing(opened(tmp_path / "b")) as other:
        assert had(other, tmp_path / "b", remote) == Carried(records=1, patches=1)


def test_links_and_files_too_large_are_left_alone(tmp_path: Path, remote: Path) -> None:
    lab = one_lab(tmp_path / "a")
    record = lab.find(1)
    patch = getattr(record.body, "change")  # noqa: B009
    laid(remote, {f"{SWARM}/{record.author}.jsonl": record.data}, mode="120000")
    with closing(opened(tmp_path / "b")) as other:
        assert had(other, tmp_path / "b", remote) == Carried()

    laid(remote, {f"{SWARM}/{record.author}.jsonl": record.data, f"{SWARM}/blobs/{patch}": b"a" * 300_000})
    with closing(opened(tmp_path / "c")) as other:
        assert had(other, tmp_path / "c", remote) == Carried(records=1)


@pytest.mark.parametrize("where", ["nowhere.git", "--upload-pack=touch owned", "ext::sh -c touch% owned", ""])
def test_a_remote_that_cannot_be_had_is_said(tmp_path: Path, where: str) -> None:
    lab = one_lab(tmp_path / "a")

    for act in (lambda: push(lab.store, tmp_path / "x", where, "s"), lambda: pull(lab.store, tmp_path / "x", where)):
        with pytest.raises(BadArchive):
            act()
    assert not list(tmp_path.rglob("owned"))


def test_an_empty_remote_has_nothing_to_pull(tmp_path: Path, remote: Path) -> None:
    with closing(opened(tmp_path / "a")) as store, pytest.raises(BadArchive, match="push first"):
        had(store, tmp_path / "a", remote)


def test_a_password_in_an_address_is_not_repeated(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "a")) as store, pytest.raises(NightlabError) as error:
        pull(store, tmp_path / "a" / "archive", "http://me:hunter2@127.0.0.1:1/r.git")

    assert "hunter2" not in str(error.value)


def test_who_is_always_too_late_gives_up_in_words(tmp_path: Path, remote: Path) -> None:
    hook = remote / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    lab, waits = one_lab(tmp_path / "a"), list[float]()
    lab.find(1)

    with pytest.raises(BadArchive, match="5 tries"):
        push(lab.store, tmp_path / "archive", str(remote), "s", sleep=waits.append)

    assert len(waits) == 5


PUSHER = """\
import sys
from pathlib import Path
from swarms import SWARM, labs
from nightlab.swarm.archive import push
from nightlab.swarm.store import Store
folder, remote, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
folder.mkdir()
lab = labs(Store(folder / "records.sqlite", SWARM), folder, [folder.name])[0]
for number in range(count):
    lab.find(number)
    push(lab.store, folder / "archive", remote, "the swarm")
"""


@pytest.mark.slow
def test_two_processes_that_push_at_once_lose_nothing(tmp_path: Path, remote: Path) -> None:
    count, tests = 12, Path(__file__).parents[1]
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tests)!r})\n{PUSHER}"]
    both = [subprocess.Popen([*command, str(tmp_path / name), str(remote), str(count)]) for name in ("a", "b")]

    assert [one.wait(300) for one in both] == [0, 0]

    with closing(opened(tmp_path / "c")) as other:
        found = had(other, tmp_path / "c", remote)
        assert found == Carried(records=2 * count, patches=count)  # both tried the same patches
        assert sorted(map(len, other.log.chains.values())) == [count, count]


@pytest.mark.slow
def test_an_archive_of_thirty_thousand_records_comes_within_a_minute(tmp_path: Path, remote: Path) -> None:
    lab = one_lab(tmp_path / "a")
    body, records = lab.find(0).body, list[Record]()
    for author in labs(lab.store, tmp_path / "many", [f"lab {n}" for n in range(30)]):
        for seq in range(1000):
            prev = records[-1].id if seq else ""
            records.append(write(body, author.key, swarm=SWARM, seq=seq, prev=prev))
    lab.store.add(records)
    sent(lab.store, tmp_path / "a", remote)

    with closing(opened(tmp_path / "b")) as other:
        began = time.monotonic()
        found = had(other, tmp_path / "b", remote)
        took = time.monotonic() - began

        print(f"30,001 records were pulled and checked in {took:.1f} s")
        assert found.records == 30_001
        assert other.log.digest() == lab.store.log.digest()
        assert took < 60
