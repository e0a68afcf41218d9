"""Three ways out of a jail, each seen open in practice; tried for real, as ourselves and as a user without rights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import LEVELS, TASK, make_repository, need_level

import nightlab.values

SOURCE = Path(nightlab.values.__file__).parents[1]
NOBODY = 65534
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(SOURCE), sysconfig.get_path("purelib")]), "PATH": os.environ["PATH"]}
RUN = """
import json, sys
from pathlib import Path
from nightlab.executor import LocalExecutor
from nightlab.testing.executor_contract import shell_job
executor = LocalExecutor(1, sys.argv[1])
run = executor.submit(shell_job(Path(sys.argv[2]), sys.argv[3])).result(timeout=30)
executor.close()
print(json.dumps([run.outcome, run.log()]))
"""
STUDY = """
import json, sys
from contextlib import closing
from pathlib import Path
from nightlab.loop import Stop
from nightlab.place import find, held
from nightlab.proposer import Scripted
from nightlab.study import Study
from nightlab.values import Proposal
place = find(Path(sys.argv[2]))
texts = [*sys.argv[3:], "print('score: 0.5')"]
with held(place), closing(Study(place, jail=sys.argv[1])) as study:
    proposals = [Proposal(str(n), {"train.py": text}) for n, text in enumerate(texts)]
    study.loop([Scripted(proposals)]).run(Stop(experiments=len(proposals)))
    print(json.dumps([one.status for one in study.ledger.experiments()]))
"""
Lab = Callable[..., list[object]]


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    need_level(request.param)
    return str(request.param)


@pytest.fixture(params=["ourselves", "a user without rights"])
def user(request: pytest.FixtureRequest) -> int:
    if request.param == "ourselves":
        return os.geteuid()
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    python_of(NOBODY)
    return NOBODY


def python_of(user: int) -> str:
    """An interpreter that this user may start, also from its own programs: setpriv's own first step is still root's."""
    if user == os.geteuid():
        return sys.executable
    for python in (sys.executable, "/usr/bin/python3"):
        look = f"import subprocess; subprocess.run(['{python}', '-c', 'import nightlab.loop'], check=True)"
        command = [*become(user), python, "-c", look]
        if os.path.exists(python) and not subprocess.run(command, env=ENVIRONMENT, capture_output=True).returncode:
            return python
    pytest.skip("another user cannot start any interpreter here that has what Nightlab needs")


def become(user: int) -> list[str]:
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=-all"]


@pytest.fixture
def folder(user: int) -> Iterator[Path]:
    """The user's own folder; pytest's are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="nightlab-holes-"))
    os.chown(folder, user, user if user != os.geteuid() else os.getegid())
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def lab(level: str, user: int, folder: Path) -> Lab:
    """A lab in a process of its own, owned by the user, with a secret in its environment."""

    def run(script: str, *words: str) -> list[object]:
        if user != os.geteuid():
            subprocess.run(["chown", "-R", f"{user}:{user}", str(folder)], check=True)
        done = subprocess.run(
            [
                *(become(user) if user != os.geteuid() else []),
                python_of(user),
                "-c",
                script,
                level,
                str(folder / "study"),
                *words,
            ],
            env=os.environ | ENVIRONMENT | {"API_KEY": "secret-value", "HOME": str(folder)},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    return run


def test_the_labs_secrets_are_not_in_any_environment_a_run_can_read(lab: Lab, level: str) -> None:
    everyones = "cat /proc/1/environ /proc/*/environ /proc/*/task/*/environ"
    own = "cat /proc/self/environ /proc/$PPID/environ"

    outcome, log = lab(RUN, f"env; {own if level == 'process' else everyones} 2>/dev/null; true")

    assert outcome == "finished"
    assert "NIGHTLAB_SEED=7" in str(log)
    assert "secret-value" not in str(log)


def test_the_kernels_own_settings_cannot_be_written(lab: Lab, level: str, user: int) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern")
    before = pattern.read_text()
    # What is written is what stood there, and the others are only opened: at the level that is no jail all of this
    # succeeds as root, and must harm nothing.
    attempt = (
        'f=/proc/sys/kernel/core_pattern; was=$(cat $f); (echo "$was" > $f) && echo OPEN;'
        "(: >> /proc/sysrq-trigger) && echo OPEN; (: >> /sys/kernel/uevent_helper) && echo OPEN; "
        "unshare -Urm true && echo OPEN; echo tried"
    )

    _, log = lab(RUN, attempt)

    assert pattern.read_text() == before
    assert "tried" in str(log)
    assert level == "process" or "OPEN" not in str(log), log


PLANT = """
import os, pathlib, stat
def plant(git):
    marker = {marker!r}
    for name in ("hooks", "objects", "refs"):
        (git / name).mkdir(parents=True, exist_ok=True)
    (git / "HEAD").write_text("ref: refs/heads/main\\n") if not (git / "HEAD").exists() else None
    for name in ("post-commit", "post-checkout", "pre-commit", "post-index-change", "reference-transaction", "monitor"):
        hook = git / "hooks" / name
        hook.write_text("#!/bin/sh\\ntouch " + marker + "\\n")
        hook.chmod(0o755)
    with open(git / "config", "a") as config:
        config.write("[core]\\n\\tfsmonitor = " + str((git / "hooks" / "monitor").absolute()) + "\\n")
        config.write("\\thooksPath = " + str((git / "hooks").absolute()) + "\\n")
for where in (pathlib.Path(".git"), pathlib.Path({repository!r}, ".git")):
    try:
        plant(where)
    except OSError as error:
        print(where, error)
print("score: 1")
"""


def test_git_planted_by_a_run_is_not_run_by_the_lab(lab: Lab, folder: Path, level: str) -> None:
    marker = folder / "owned"
    repository = make_repository(
        folder / "study", {"train.py": "print('score: 5')\n", "nightlab.toml": TASK, "program.md": "Lower it."}
    )
    before = (repository / ".git/config").read_text()

    statuses = lab(STUDY, PLANT.format(marker=str(marker), repository=str(repository)))

    assert statuses == ["kept", "kept", "kept"]
    assert not marker.exists()
    assert level == "process" or (repository / ".git/config").read_text() == before


def test_a_link_planted_as_a_result_leads_nobody_away(lab: Lab, folder: Path) -> None:
    (folder / "victim").write_text("mine")
    plant = (
        f'cd "$NIGHTLAB_OUT/.." 2>/dev/null; for f in log result.json session out/result.json; do '
        f'rm -f $f; ln -s "{folder}/victim" $f; done 2>/dev/null; echo planted'
    )

    outcome, _ = lab(RUN, plant)

    result = folder / "study/runs/run-1/result.json"
    assert outcome == "finished"
    assert (folder / "victim").read_text() == "mine"
    assert not result.is_symlink()
    assert json.loads(result.read_text())["exit_code"] == 0
