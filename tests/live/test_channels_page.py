"""What docs/live-channels.md shows is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mails import sink

PAGE = Path(__file__).parents[2] / "docs/live-channels.md"


@pytest.mark.slow
def test_the_pages_commands_run(tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    who = {f"GIT_{role}_{what}": "x@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with sink() as mails:
        env = os.environ | who | {"PATH": path, "NIGHTLAB_SMTP": mails.url}
        done = subprocess.run(
            ["bash", "-c", "set -eu\n" + "\n".join(blocks)], cwd=tmp_path, env=env, capture_output=True, text=True
        )

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(mails.taken) == 2
