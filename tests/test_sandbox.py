"""The jail shows a run what its job names, and nothing else; what it does not reach, it says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

import pytest
from conftest import need_level

from nightlab import landlock, sandbox
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


@pytest.fixture(params=sandbox.JAILS)
def jail(request: pytest.FixtureRequest) -> str:
    need_level(request.param)
    return str(request.param)


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
    name = f"nightlab-{os.getpid()}"
    ran = run(
        level,
        job_in(folder, f'find "$HOME" "$TMPDIR" -maxdepth 1 -type f; touch "$HOME/{name}" "$TMPDIR/{name}" && echo ok'),
    )

    assert ran.stdout == "ok\n"
    assert not Path(f"~/{name}").expanduser().exists()
    assert not Path(f"/tmp/{name}").exists()


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


def test_what_a_job_hides_cannot_be_read_by_any_path(jail: str, folder: Path) -> None:
    data = folder / "data"
    (data / "answers" / "deep").mkdir(parents=True)
    for name in ("answers/deep/one", "key", "open", "answers.txt"):
        (data / name).write_text(f"content of {name}\n")
    (folder / "alias").symlink_to(data)
    job = job_in(folder, f'cd "{folder}"; cat data/key data/open data/answers.txt; find . | xargs -d "\\n" cat; true')
    job = replace(
        job,
        readable=(data, folder / "alias"),
        hidden=(folder / "alias" / "answers", data / "key", data / "missing", folder / "elsewhere"),
    )

    said = run(jail, job).stdout

    assert "content of open" in said
    assert "content of answers.txt" in said
    assert "content of key" not in said
    assert "content of answers/deep/one" not in said


def test_data_shown_in_the_tree_can_be_hidden_in_part(jail: str, folder: Path) -> None:
    data = folder / "data"
    data.mkdir()
    (data / "labels").write_text("secret\n")
    (data / "train").write_text("1 2 3\n")
    job = job_in(folder, "cat given/train given/labels")
    job = replace(job, mounts={"given": str(data)}, hidden=(data / "labels",))

    assert run(jail, job).stdout == "1 2 3\n"


def test_a_tree_that_is_kept_can_be_read_and_not_written(jail: str, folder: Path) -> None:
    job = replace(job_in(folder, "cat model.py; echo word > note || echo more >> model.py"), keeps_tree=True)
    (job.tree / "model.py").write_text("all of it\n")

    done = run(jail, job)

    assert done.stdout == "all of it\n", done.stderr
    assert not (job.tree / "note").exists()
    assert (job.tree / "model.py").read_text() == "all of it\n"


def test_a_part_of_every_standard_library_can_be_hidden(jail: str, folder: Path) -> None:
    for python in (sys.executable, "/usr/bin/python3"):
        job = replace(job_in(folder, ""), argv=(python, "-c", "from asyncio import run; print('found')"))
        own, others = sandbox.standard_libraries(python)

        hiding = replace(job, hidden=(*(library / "asyncio" for library in own), *others))

        assert Path(os.__file__).parent.resolve() in (*own, *others)
        assert run(jail, hiding).returncode == 1
        assert run(jail, job).stdout == "found\n"


def test_what_lies_in_a_writable_place_cannot_be_hidden_by_landlock_alone(folder: Path) -> None:
    need_level("landlock-only")
    job = job_in(folder, "true")
    (job.tree / "answers").touch()

    with pytest.raises(NightlabError, match="cannot be hidden"):
        sandbox.command("landlock-only", replace(job, hidden=(job.tree / "answers",)))


TALK = """
import os, socket, sys
def get(path):
    with socket.socket(socket.AF_UNIX) as talk:
        talk.connect(path)
        talk.sendall(b"GET /v1 HTTP/1.0\\r\\n\\r\\n")
        return b"".join(iter(lambda: talk.recv(4096), b"")).decode().splitlines()[-1]
def tried(act):
    try:
        return act()
    except OSError as error:
        return "refused"
relay = os.environ.get("NIGHTLAB_RELAY")
print("relay:", tried(lambda: get(relay)) if relay else None)
print("path:", tried(lambda: get(sys.argv[1])))
print("other:", tried(lambda: get(sys.argv[2])))
print("tcp:", tried(lambda: bool(socket.create_connection(("127.0.0.1", int(sys.argv[3])), 2))))
print("udp:", tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 53))))
print("names:", tried(lambda: bool(socket.getaddrinfo("example.org", 80))))
"""


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"the model")

    def log_message(self, format: str, *words: object) -> None: ...

    def address_string(self) -> str:
        return "local"


class _Relay(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, int]]:
    """A relay, another local server, and one on TCP, all outside the box."""
    near = Path(tempfile.mkdtemp(prefix="nl-"))  # a socket's path may have 107 bytes only
    servers = [_Relay(str(near / "relay"), _Answer), _Relay(str(near / "other"), _Answer)]
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
    for server in (*servers, http):
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield near / "relay", near / "other", http.server_port
    for server in (*servers, http):
        server.shutdown()
        server.server_close()
    shutil.rmtree(near)


def spoken(level: str, folder: Path, sockets: tuple[Path, Path, int], *, relay: Path | None) -> dict[str, str]:
    job = replace(job_in(folder, ""), argv=("python3", "-c", TALK, *map(str, sockets)), relay=relay)
    ran = run(level, job)
    assert ran.returncode == 0, ran.stderr
    return dict(line.split(": ", 1) for line in ran.stdout.splitlines())


def test_an_agent_reaches_its_relay_and_nothing_else(jail: str, folder: Path, sockets: tuple[Path, Path, int]) -> None:
    told = spoken(jail, folder, sockets, relay=sockets[0])

    assert told.pop("relay") == "the model"
    if jail == "landlock-only":  # as its docstring says: with a relay, every local socket of its user is open
        assert (told.pop("path"), told.pop("other")) == ("the model", "the model")
    assert set(told.values()) == {"refused"}


def test_an_experiment_reaches_no_socket_at_all(jail: str, folder: Path, sockets: tuple[Path, Path, int]) -> None:
    told = spoken(jail, folder, sockets, relay=None)

    assert told.pop("relay") == "None"
    assert set(told.values()) == {"refused"}


def test_there_is_no_way_around_the_filter_of_system_calls(folder: Path) -> None:
    need_level("landlock-only")
    ring = "import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.syscall(425, 1, None), ctypes.get_errno())"

    ran = run("landlock-only", replace(job_in(folder, ""), argv=("python3", "-c", ring)))

    assert ran.stdout == "-1 13\n"


@pytest.mark.parametrize(
    ("version", "files", "tcp", "scopes"),
    [(1, 13, 0, 0), (2, 14, 0, 0), (3, 15, 0, 0), (4, 15, 3, 0), (5, 16, 3, 0), (6, 16, 3, 3), (7, 16, 3, 3)],
)
def test_an_older_landlock_is_asked_only_for_what_it_knows(version: int, files: int, tcp: int, scopes: int) -> None:
    assert landlock.handled(version, has_network=False) == ((1 << files) - 1, tcp, scopes)
    assert landlock.handled(version, has_network=True) == ((1 << files) - 1, 0, scopes)


def test_a_tree_with_git_is_refused_by_landlock_alone(folder: Path) -> None:
    job = job_in(folder, "true")
    (job.tree / ".git").touch()

    with pytest.raises(NightlabError, match="remove it"):
        sandbox.command("landlock-only", job)


# ---- GPUs: a made-up machine of three cards, whose nodes are not in the order of their addresses ----

CARDS = {"0000:01:00.0": ("GPU-aaaa", 2), "0000:41:00.0": ("GPU-bbbb", 0), "0000:c1:00.0": ("GPU-bbcc", 1)}
SHARED = ("/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidiactl")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    for address, (name, minor) in CARDS.items():
        folder = tmp_path / "proc/driver/nvidia/gpus" / address
        folder.mkdir(parents=True)
        (folder / "information").write_text(
            f"Model: \t\t Some Card\nIRQ:   \t\t 42\nGPU UUID: \t {name}\nBus Location: \t {address}\n"
            f"Device Minor: \t {minor}\nGPU Excluded:\t No\n"
        )
    (tmp_path / "dev").mkdir()
    for node in (*SHARED, "/dev/nvidia0", "/dev/nvidia1", "/dev/nvidia2"):
        (tmp_path / node[1:]).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("assigned", "minors", "visible"),
    [
        (None, "012", None),
        ("0", "2", "GPU-aaaa"),
        ("1,0", "02", "GPU-bbbb,GPU-aaaa"),
        ("GPU-bbcc", "1", "GPU-bbcc"),
        ("GPU-aa, 2", "12", "GPU-aaaa,GPU-bbcc"),
        ("1,7,0", "0", "GPU-bbbb"),
        ("MIG-1234", "012", None),
    ],
)
def test_a_run_sees_the_cards_it_was_given(
    machine: Path, assigned: str | None, minors: str, visible: str | None
) -> None:
    nodes, name = sandbox.gpus(assigned, machine)

    assert set(nodes) == {*SHARED, *(f"/dev/nvidia{minor}" for minor in minors)}
    assert name == visible


@pytest.mark.parametrize("assigned", ["", "-1", "none", "7"])
def test_a_run_without_a_card_sees_no_node(machine: Path, assigned: str) -> None:
    assert sandbox.gpus(assigned, machine) == ((), "")


def test_only_the_assigned_nodes_are_bound(machine: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "gpus", partial(sandbox.gpus, root=machine))
    job = replace(job_in(folder, "true"), env={"CUDA_VISIBLE_DEVICES": "1"})

    bound = {}
    for level in sandbox.JAILS:
        if sandbox.why_not(level) is None:
            argv, env = sandbox.command(level, job)
            bound[level] = {argv[n + 1] for n, word in enumerate(argv) if word == "--dev-bind"}
            names = (
                argv[argv.index("CUDA_VISIBLE_DEVICES") + 1] if level == "bubblewrap" else env["CUDA_VISIBLE_DEVICES"]
            )
            assert names == "GPU-bbbb"

    assert bound
    assert all(nodes == {*SHARED, "/dev/nvidia0"} for nodes in bound.values())


# ---- what is said where a jail does not work ----

UBUNTU = {
    "kernel/apparmor_restrict_unprivileged_userns": "1",
    "user/max_user_namespaces": "63432",
    "container": "False",
}
DEBIAN = {"kernel/unprivileged_userns_clone": "0", "user/max_user_namespaces": "63432", "container": "False"}
NONE_LEFT = {"user/max_user_namespaces": "0", "container": "False"}
DOCKER = {"user/max_user_namespaces": "63432", "container": "True"}
NOT_ALLOWED = (
    "bwrap: No permissions to create new namespace, likely because the kernel does not allow non-privileged user "
    "namespaces. See <https://deb.li/bubblewrap> or <file:///usr/share/doc/bubblewrap/README.Debian.gz>."
)
FULL = "bwrap: Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces exceeded (ENOSPC)"
REFUSALS = [
    ("bubblewrap is not installed", {}, "apt-get install bubblewrap"),
    ("bwrap: setting up uid map: Permission denied", UBUNTU, "/etc/apparmor.d/bwrap"),
    ("bwrap: setting up uid map: Permission denied", UBUNTU, "kernel.apparmor_restrict_unprivileged_userns=0"),
    ("bwrap: setting up uid map: Permission denied", {}, "/etc/apparmor.d/bwrap"),
    ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", UBUNTU, "userns,"),
    (NOT_ALLOWED, UBUNTU, "/etc/apparmor.d/bwrap"),
    (NOT_ALLOWED, DEBIAN, "kernel.unprivileged_userns_clone=1"),
    (NOT_ALLOWED, DOCKER, "seccomp=unconfined"),
    ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", DOCKER, "systempaths=unconfined"),
    ("bwrap: Failed to make / slave: Permission denied", DOCKER, "apparmor=unconfined"),
    (FULL, NONE_LEFT, "sysctl -w user.max_user_namespaces="),
    (FULL, {}, "sysctl -w user.max_user_namespaces="),
    ("bwrap: Unknown option --disable-userns", {}, "0.8 or newer"),
    (
        "bwrap: Creating new namespace failed, likely because the kernel does not support user namespaces.  bwrap must "
        "be installed setuid on such systems.",
        {},
        "CONFIG_USER_NS",
    ),
    ("bwrap: something nobody has seen", {}, "nightlab doctor"),
]


@pytest.mark.parametrize(("refusal", "settings", "mend"), REFUSALS)
def test_a_refusal_is_answered_with_what_mends_it(refusal: str, settings: dict[str, str], mend: str) -> None:
    assert mend in sandbox.mend(refusal, settings)


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine whose bwrap refuses, by a program of that name which says so."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    sandbox.why_not.cache_clear()
    yield program.parent
    sandbox.why_not.cache_clear()


def test_a_refused_bubblewrap_makes_room_for_landlock(refused: Path) -> None:
    need_level("landlock")

    assert sandbox.probe() == "landlock"
    assert sandbox.why_not("bubblewrap") == "bwrap: setting up uid map: Permission denied"


@pytest.mark.parametrize("outer", ["bubblewrap", "landlock"])
def test_where_no_namespace_can_be_had_landlock_alone_is_reached(folder: Path, outer: str) -> None:
    need_level(outer)
    source = Path(sandbox.__file__).parents[1]
    look = (
        "from nightlab import sandbox\n"
        "trouble = sandbox.why_not('bubblewrap')\n"
        "print(sandbox.probe(), trouble, sandbox.mend(trouble), sep='\\n')"
    )
    # A jail in a jail: the outer one allows no further namespaces.
    job = replace(
        job_in(folder, ""), argv=(sys.executable, "-c", look), readable=(source,), env={"PYTHONPATH": str(source)}
    )

    level, refusal, mend = run(outer, job).stdout.splitlines()

    assert level == "landlock-only"
    assert "exceeded (ENOSPC)" in refusal
    assert "user.max_user_namespaces=15000" in mend


def test_without_any_jail_nothing_runs_unless_that_is_asked_for(
    refused: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "landlock.py"
    broken.write_text("import sys; sys.exit('nightlab: cannot shut the run in: syscall: Function not implemented')")
    monkeypatch.setattr(sandbox.landlock, "__file__", str(broken))

    with pytest.raises(NightlabError) as caught:
        sandbox.probe()

    for words in ("uid map: Permission denied", "landlock: nightlab: cannot", "Function not implemented", "--unsafe"):
        assert words in str(caught.value)
    assert sandbox.probe(unsafe=True) == "process"


def test_a_ladder_knows_which_rung_is_lower() -> None:
    assert sandbox.is_weaker("process", "landlock")
    assert not sandbox.is_weaker("bubblewrap", "landlock")
    assert not sandbox.is_weaker("landlock", "landlock")


class TestTheBox:
    @pytest.fixture(autouse=True, params=["bubblewrap", "landlock"])
    def chosen(self, request: pytest.FixtureRequest) -> None:
        need_level(request.param)
        self.level = str(request.param)

    def jailed(self, job: Job) -> str:
        ran = run(self.level, job)
        return ran.stdout + ran.stderr

    def test_only_what_the_job_names_is_there(self, folder: Path) -> None:
        (folder.parent / "nightlab.toml").touch()
        (folder / "ledger.sqlite").touch()
        job = job_in(folder, f'ls -A "{folder}" "{folder.parent}" "{folder}/runs/run-1"')

        listed = self.jailed(job)

        assert "worktrees" in listed
        assert "out" in listed
        assert "ledger" not in listed
        assert "toml" not in listed

    def test_the_system_is_read_only(self, folder: Path) -> None:
        # The host's own setting is written back to it: were the jail to fail here, nothing would be harmed.
        setting = 'f=/proc/sys/kernel/core_pattern; was=$(cat $f); (echo "$was" > $f)'

        said = self.jailed(job_in(folder, f"(echo > /usr/x); (echo > /etc/x); (echo > /x); {setting}"))

        assert said.lower().count("read-only file system") + said.lower().count("permission denied") == 4

    def test_secrets_of_the_system_are_absent(self, folder: Path) -> None:
        said = self.jailed(job_in(folder, "cat /etc/shadow /etc/ssl/private/* ~/.ssh/* /var/log/* /run/*"))

        assert said.count("No such file") == 5

    def test_there_is_no_network(self, folder: Path) -> None:
        assert self.jailed(job_in(folder, "tail -n +3 /proc/net/dev | cut -d: -f1")).split() == ["lo"]

    def test_there_are_no_capabilities_and_no_new_namespaces(self, folder: Path) -> None:
        said = self.jailed(job_in(folder, "grep Cap /proc/self/status; unshare -Ur true"))

        assert {line.split()[1] for line in said.splitlines()[:5]} == {"0" * 16}
        assert "unshare" in said.splitlines()[-1]

    def test_other_processes_are_invisible(self, folder: Path) -> None:
        assert len(self.jailed(job_in(folder, "echo /proc/[0-9]*")).split()) <= 3

    def test_git_of_the_tree_is_read_only(self, folder: Path) -> None:
        job = job_in(folder, "echo evil > .git; rm -f .git; mv .git x; cat .git; touch fine && echo fine")
        (job.tree / ".git").write_text("gitdir: /elsewhere\n")

        said = self.jailed(job)

        assert "gitdir: /elsewhere\n" in said
        assert "fine\n" in said
        assert (job.tree / ".git").read_text() == "gitdir: /elsewhere\n"

    def test_git_of_the_tree_may_not_be_a_link(self, folder: Path) -> None:
        job = job_in(folder, "true")
        (job.tree / ".git").symlink_to("/root")

        with pytest.raises(NightlabError, match="symbolic link"):
            sandbox.command(self.level, job)

    def test_readable_is_read_only_and_writable_is_not(self, folder: Path) -> None:
        for name in ("given", "answers"):
            (folder / name).mkdir()
            (folder / name / "file").write_text(f"{name}\n")
        job = replace(
            job_in(folder, f'cd "{folder}"; cat */file; echo x > given/file; echo y > answers/file'),
            readable=(folder / "given", folder / "missing"),
            writable=(folder / "answers",),
        )

        said = self.jailed(job)

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

        said = self.jailed(job)

        assert said.startswith("open\n")
        assert said.lower().count("read-only") == 1

    def test_private_files_count_against_the_memory_limit(self, folder: Path) -> None:
        job = replace(job_in(folder, "head -c 9000000 /dev/zero > /tmp/a"), limits=Limits(memory_mb=4))

        assert "No space left" in self.jailed(job)

    def test_a_program_of_the_users_own_is_shown_without_its_surroundings(self, folder: Path) -> None:
        tool = folder / "bin" / "tool"
        tool.parent.mkdir()
        tool.write_text('#!/bin/sh\necho here; ls -A "$(dirname "$0")"\n')
        tool.chmod(0o755)
        (tool.parent / "secret").touch()

        assert self.jailed(replace(job_in(folder, ""), argv=(str(tool),))) == "here\ntool\n"

    def test_a_link_to_a_python_elsewhere_works(self, folder: Path) -> None:
        (folder / "bin").mkdir()
        link = folder / "bin" / "my-python"
        link.symlink_to(os.path.realpath(sys.executable))
        job = replace(job_in(folder, ""), argv=(str(link), "-c", "import json, sys; print(sys.prefix)"))

        assert self.jailed(job) == f"{sys.base_prefix}\n"

    def test_a_folder_of_shims_works(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "pyenv" / "shims").mkdir(parents=True)
        (folder / "pyenv" / "real").write_text("#!/bin/sh\necho real\n")
        (folder / "pyenv" / "real").chmod(0o755)
        shim = folder / "pyenv" / "shims" / "python"
        shim.write_text(f'#!/bin/sh\nexec "{folder}/pyenv/real"\n')
        shim.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}/pyenv/shims:/usr/bin:/bin")

        assert self.jailed(replace(job_in(folder, ""), argv=("python",))) == "real\n"

    def test_a_dangling_argument_never_shows_the_users_folders(self, folder: Path) -> None:
        argv, _ = sandbox.command(self.level, replace(job_in(folder, ""), argv=("no-such-program",)))

        assert not {"/", str(Path.home()), str(folder)} & {argv[n + 1] for n, word in enumerate(argv) if "bind" in word}
