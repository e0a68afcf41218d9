"""What a run is sent, and what comes back: by the hash of what is in it, and never outside the places named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nightlab import facts
from nightlab.executor import collect
from nightlab.executors.berth import Berth, Catch, errand, unpack
from nightlab.executors.parcel import Reader, Store, change, digest, lay
from nightlab.testing.executor_contract import shell_job
from nightlab.values import Outcome


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "run.sh").write_text("echo here\n")
    (tree / "sub" / "run.sh").chmod(0o755)
    (tree / "link").symlink_to("sub/run.sh")
    os.mkfifo(tree / "pipe")
    return tree


def test_a_tree_is_laid_out_as_it_was_read(tree: Path, tmp_path: Path) -> None:
    contents: dict[str, bytes] = {}
    listing = Reader().listing(tree, keep=contents.__setitem__)

    lay(tmp_path / "twin", listing, contents.__getitem__)

    assert Reader().listing(tmp_path / "twin") == listing
    assert os.access(tmp_path / "twin" / "sub" / "run.sh", os.X_OK)
    assert not (tmp_path / "twin" / "pipe").exists()


def test_a_file_is_read_again_only_when_it_has_changed(tree: Path) -> None:
    reader, read = Reader(), list[str]()
    reader.listing(tree, keep=lambda name, _: read.append(name))

    reader.listing(tree, keep=lambda name, _: read.append(name))
    (tree / "sub" / "run.sh").write_text("echo there\n")
    reader.listing(tree, keep=lambda name, _: read.append(name))

    assert read == [digest(b"echo here\n"), digest(b"echo there\n")]


def test_a_change_touches_only_what_was_changed(tree: Path, tmp_path: Path) -> None:
    contents: dict[str, bytes] = {}
    before = Reader().listing(tree, keep=contents.__setitem__)
    lay(tmp_path / "twin", before, contents.__getitem__)
    (tmp_path / "twin" / "of its own").write_text("kept\n")
    (tree / "link").unlink()
    (tree / "link").mkdir()
    (tree / "link" / "made").write_text("new\n")
    after = Reader().listing(tree, keep=contents.__setitem__)
    untouched = (tmp_path / "twin" / "sub" / "run.sh").stat()

    change(tmp_path / "twin", before, after, contents.__getitem__)

    assert (tmp_path / "twin" / "link" / "made").read_text() == "new\n"
    assert (tmp_path / "twin" / "of its own").read_text() == "kept\n"
    assert (tmp_path / "twin" / "sub" / "run.sh").stat() == untouched


@pytest.mark.parametrize("path", ["../out", "link/out"])
def test_nothing_is_written_outside_the_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    listing = {"link": ("link", 0, str(tmp_path / "elsewhere")), path: ("file", 0o644, "x")}

    with pytest.raises(ValueError, match="leads out of"):
        lay(tmp_path / "folder", listing, lambda _: b"")

    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_content_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "objects")

    with pytest.raises(ValueError, match="was sent as"):
        store.add({digest(b"one"): b"two"})

    assert store.missing([digest(b"one")]) == [digest(b"one")]


@pytest.fixture
def berth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Berth]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    berth = Berth(2)
    yield berth
    berth.close()


def test_a_machine_is_sent_what_it_has_not_seen(berth: Berth, tmp_path: Path) -> None:
    contents: dict[str, bytes] = {}
    asked: list[list[str]] = []

    def fetch(names: list[str]) -> dict[str, bytes]:
        asked.append(names)
        return {name: contents[name] for name in names}

    job, reader = shell_job(tmp_path, "cat given changed"), Reader()
    (job.tree / "given").write_text("as ever\n")
    for n in range(3):
        (job.tree / "changed").write_text(f"{n}\n")
        found = berth.perform(errand(job, reader, contents.__setitem__), fetch)

    assert isinstance(found, Catch)
    assert found.log == b"as ever\n2\n"
    assert [len(names) for names in asked] == [2, 1, 1]


def test_a_run_is_told_how_many_cores_it_has_and_its_lab_what_machine_it_was(berth: Berth, tmp_path: Path) -> None:
    job = shell_job(tmp_path, 'echo $OMP_NUM_THREADS; echo 1 > "$NIGHTLAB_OUT/made"')
    sent = errand(replace(job, env={**job.env, "OMP_NUM_THREADS": "64"}), Reader(), lambda *_: None)

    found = berth.perform(sent, lambda _: {})
    assert isinstance(found, Catch)
    unpack(found, sent)
    run = collect(job)

    assert run is not None
    assert (run.outcome, run.log(), (run.out / "made").read_text()) == (Outcome.FINISHED, "2\n", "1\n")
    assert facts.machine_of(job.folder)["cores"] == 2
    assert facts.hardware_class({"cpu": "one", "cores": 2, "gpus": []}) == "one, 2 cores"


def test_a_run_killed_while_it_is_laid_out_does_not_run(berth: Berth, tmp_path: Path) -> None:
    job = shell_job(tmp_path, "sleep 60")
    (job.tree / "given").write_text("x")
    sent = errand(job, Reader(), lambda *_: None)

    def fetch(names: list[str]) -> dict[str, bytes]:
        berth.kill(job)
        return dict.fromkeys(names, b"x")

    found = berth.perform(sent, fetch)

    assert isinstance(found, Catch)
    assert b'"killed"' in found.result


def test_a_machine_without_the_tasks_data_says_so_and_blames_no_run(berth: Berth, tmp_path: Path) -> None:
    job = replace(shell_job(tmp_path, "true"), mounts={"data": str(tmp_path / "nowhere")})

    found = berth.perform(errand(job, Reader(), lambda *_: None), lambda _: {})

    assert isinstance(found, str)
    assert "nowhere" in found
