"""The jail shows a run what its job names, and nothing else; what it does not reach, it says."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import need_level

from nightlab import sandbox
from nightlab.errors import NightlabError
from nightlab.testing.executor_contract import shell_job
from nightlab.values import Job, Limits


@pytest.fixture(params=["plain", "ä folder with spaces"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / str(request.param) / ".nightlab"
    folder.mkdir(parents=True)
    return folder


def job_in(folder: Path, script: str) -> Job:
    job = shell_job(folder, script)
    (job.folder / "out").mkdir(parents=True, exist_ok=True)
    return job


def run(level: str, job: Job) -> subprocess.CompletedProcess[str]:
    argv, env = sandbox.command(level, job)
    return subprocess.run(
        argv, env=env, cwd=job.tree, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False
    )


def jailed(job: Job) -> str:
    need_level("bubblewrap")
    ran = run("bubblewrap", job)
    return ran.stdout + ran.stderr


@pytest.fixture(params=sandbox.LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    need_level(request.param)
    return str(request.param)


def test_the_level_reached_is_one_that_ran() -> None:
    assert sandbox.why_not(sandbox.probe()) is None


def test_a_forced_level_is_never_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    sandbox.why_not.cache_clear()
    try:
        with pytest.raises(NightlabError, match="bubblewrap is not installed"):
            sandbox.probe("bubblewrap")
    finally:
        sandbox.why_not.cache_clear()


def test_an_unknown_level_is_refused_with_the_known_ones() -> None:
    with pytest.raises(NightlabError, match="choose from bubblewrap, landlock, landlock-only, process"):
        sandbox.probe("chroot")


def test_a_run_is_told_nothing_of_the_callers_environment(
    level: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "secret-value")

    told = run(
        level, job_in(folder, "env; cat /proc/self/environ /proc/$PPID/environ /proc/1/environ 2>&1 | tr '\\0' '\\n'")
    )

    assert "PYTHONHASHSEED=0" in told.stdout
    assert "LANG=C.UTF-8" in told.stdout
    assert level == "process" or "secret-value" not in told.stdout


def test_the_job_has_the_last_word_on_its_environment(level: str, folder: Path) -> None:
    job = replace(
        job_in(folder, 'echo "$NIGHTLAB_OUT $PYTHONHASHSEED"'), env={"NIGHTLAB_OUT": "/x", "PYTHONHASHSEED": "3"}
    )

    assert run(level, job).stdout == "/x 3\n"


def test_the_interpreter_works_and_so_does_its_environment(level: str, folder: Path) -> None:
    script = "import sys, json, ssl, sqlite3, numpy; print(sys.prefix, sys.base_prefix)"
    job = replace(job_in(folder, ""), argv=(sys.executable, "-c", script))

    assert run(level, job).stdout == f"{sys.prefix} {sys.base_prefix}\n"


def test_a_plain_python_on_the_path_works(level: str, folder: Path) -> None:
    assert run(level, job_in(folder, "python3 -c 'print(6 * 7)'")).stdout == "42\n"


def test_home_and_temporary_files_are_private_and_empty(level: str, folder: Path) -> None:
    ran = run(
        level, job_in(folder, 'find "$HOME" "$TMPDIR" -maxdepth 1 -type f; touch "$HOME/a" "$TMPDIR/b" && echo written')
    )

    assert ran.stdout == "written\n"
    assert not Path("~/a").expanduser().exists()
    assert not Path("/tmp/b").exists()


def test_git_does_not_find_the_users_repository(level: str, folder: Path) -> None:
    subprocess.run(["git", "init", "-q", str(folder.parent)], check=True)

    ran = run(level, job_in(folder, "git rev-parse --show-toplevel"))

    assert ran.returncode == 128
    assert "not a git repository" in ran.stderr


def test_data_is_shown_where_the_script_expects_it(level: str, folder: Path) -> None:
    data = folder / "data"
    data.mkdir()
    (data / "train").write_text("1 2 3\n")
    job = replace(
        job_in(folder, 'cat given/train deep/er/train "$HOME/.cache/set/train"'),
        mounts={"given": str(data), "deep/er/train": str(data / "train"), "~/.cache/set": str(data)},
    )

    assert run(level, job).stdout == "1 2 3\n" * 3

    sandbox.tidy(level, job)
    assert not (job.tree / "given").exists()
    assert not (job.tree / "deep/er/train").exists()


def test_a_link_cannot_lead_data_out_of_the_tree(level: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    job = replace(job_in(folder, "true"), mounts={"way/out": "/etc/hostname"})
    (job.tree / "way").symlink_to(tmp_path / "victim")

    with pytest.raises(NightlabError, match="symbolic link"):
        sandbox.command(level, job)

    (tmp_path / "victim" / "out").touch()
    sandbox.tidy(level, job)
    assert (tmp_path / "victim" / "out").exists()


def test_the_process_level_says_what_it_cannot_show(folder: Path) -> None:
    job = replace(job_in(folder, "true"), mounts={"/data/set": "/etc/hostname"})

    with pytest.raises(NightlabError, match="/etc/hostname cannot be shown at /data/set"):
        sandbox.command("process", job)


def test_data_that_stands_at_its_place_already_needs_no_link(folder: Path) -> None:
    job = replace(job_in(folder, "cat /etc/passwd"), mounts={"/etc/passwd": "/etc/passwd"})

    assert run("process", job).stdout == Path("/etc/passwd").read_text()


class TestBubblewrap:
    @pytest.fixture(autouse=True)
    def needed(self) -> None:
        need_level("bubblewrap")

    def test_only_what_the_job_names_is_there(self, folder: Path) -> None:
        (folder.parent / "nightlab.toml").touch()
        (folder / "ledger.sqlite").touch()
        job = job_in(folder, f'ls -A "{folder}" "{folder.parent}" "{folder}/runs/run-1"')

        listed = jailed(job)

        assert "worktrees" in listed
        assert "out" in listed
        assert "ledger" not in listed
        assert "toml" not in listed

    def test_the_system_is_read_only(self, folder: Path) -> None:
        # The host's own setting is written back to it: were the jail to fail here, nothing would be harmed.
        setting = 'f=/proc/sys/kernel/core_pattern; was=$(cat $f); (echo "$was" > $f)'

        said = jailed(job_in(folder, f"(echo > /usr/x); (echo > /etc/x); (echo > /x); {setting}"))

        assert said.lower().count("read-only file system") == 4

    def test_secrets_of_the_system_are_absent(self, folder: Path) -> None:
        said = jailed(job_in(folder, "cat /etc/shadow /etc/ssl/private/* ~/.ssh/* /var/log/* /run/*"))

        assert said.count("No such file") == 5

    def test_there_is_no_network(self, folder: Path) -> None:
        assert jailed(job_in(folder, "tail -n +3 /proc/net/dev | cut -d: -f1")).split() == ["lo"]

    def test_there_are_no_capabilities_and_no_new_namespaces(self, folder: Path) -> None:
        said = jailed(job_in(folder, "grep Cap /proc/self/status; unshare -Ur true"))

        assert {line.split()[1] for line in said.splitlines()[:5]} == {"0" * 16}
        assert "unshare" in said.splitlines()[-1]

    def test_other_processes_are_invisible(self, folder: Path) -> None:
        assert len(jailed(job_in(folder, "echo /proc/[0-9]*")).split()) <= 3

    def test_the_first_process_was_given_no_environment(self, folder: Path) -> None:
        assert jailed(job_in(folder, "tr '\\0' '\\n' < /proc/1/environ | wc -l")).strip() == "0"

    def test_git_of_the_tree_is_read_only(self, folder: Path) -> None:
        job = job_in(folder, "echo evil > .git; rm -f .git; mv .git x; cat .git; touch fine && echo fine")
        (job.tree / ".git").write_text("gitdir: /elsewhere\n")

        said = jailed(job)

        assert "gitdir: /elsewhere\n" in said
        assert "fine\n" in said
        assert (job.tree / ".git").read_text() == "gitdir: /elsewhere\n"

    def test_git_of_the_tree_may_not_be_a_link(self, folder: Path) -> None:
        job = job_in(folder, "true")
        (job.tree / ".git").symlink_to("/root")

        with pytest.raises(NightlabError, match="symbolic link"):
            sandbox.command("bubblewrap", job)

    def test_readable_is_read_only_and_writable_is_not(self, folder: Path) -> None:
        for name in ("given", "answers"):
            (folder / name).mkdir()
            (folder / name / "file").write_text(f"{name}\n")
        job = replace(
            job_in(folder, f'cd "{folder}"; cat */file; echo x > given/file; echo y > answers/file'),
            readable=(folder / "given", folder / "missing"),
            writable=(folder / "answers",),
        )

        said = jailed(job)

        assert said.startswith("answers\ngiven\n")
        assert said.lower().count("read-only") == 1
        assert (folder / "answers" / "file").read_text() == "y\n"

    def test_the_more_specific_place_wins(self, folder: Path) -> None:
        (folder / "all" / "open").mkdir(parents=True)
        job = replace(
            job_in(folder, f'touch "{folder}/all/open/a" && echo open; touch "{folder}/all/b"'),
            readable=(folder / "all",),
            writable=(folder / "all" / "open",),
        )

        said = jailed(job)

        assert said.startswith("open\n")
        assert said.lower().count("read-only") == 1

    def test_private_files_count_against_the_memory_limit(self, folder: Path) -> None:
        job = replace(job_in(folder, "head -c 9000000 /dev/zero > /tmp/a"), limits=Limits(memory_mb=4))

        assert "No space left" in jailed(job)

    def test_a_program_of_the_users_own_is_shown_without_its_surroundings(self, folder: Path) -> None:
        tool = folder / "bin" / "tool"
        tool.parent.mkdir()
        tool.write_text('#!/bin/sh\necho here; ls -A "$(dirname "$0")"\n')
        tool.chmod(0o755)
        (tool.parent / "secret").touch()

        assert jailed(replace(job_in(folder, ""), argv=(str(tool),))) == "here\ntool\n"

    def test_a_link_to_a_python_elsewhere_works(self, folder: Path) -> None:
        (folder / "bin").mkdir()
        link = folder / "bin" / "my-python"
        link.symlink_to(os.path.realpath(sys.executable))
        job = replace(job_in(folder, ""), argv=(str(link), "-c", "import json, sys; print(sys.prefix)"))

        assert jailed(job) == f"{sys.base_prefix}\n"

    def test_a_folder_of_shims_works(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "pyenv" / "shims").mkdir(parents=True)
        (folder / "pyenv" / "real").write_text("#!/bin/sh\necho real\n")
        (folder / "pyenv" / "real").chmod(0o755)
        shim = folder / "pyenv" / "shims" / "python"
        shim.write_text(f'#!/bin/sh\nexec "{folder}/pyenv/real"\n')
        shim.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}/pyenv/shims:/usr/bin:/bin")

        assert jailed(replace(job_in(folder, ""), argv=("python",))) == "real\n"

    def test_a_dangling_argument_never_shows_the_users_folders(self, folder: Path) -> None:
        argv, _ = sandbox.command("bubblewrap", replace(job_in(folder, ""), argv=("no-such-program",)))

        assert not {"/", str(Path.home()), str(folder)} & {argv[n + 1] for n, word in enumerate(argv) if "bind" in word}
