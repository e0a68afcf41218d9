"""The demonstration, as people run it: the real service, simulated visitors, and the truth beside what is said."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_demo_shows_the_whole_loop_beside_the_truth(tmp_path):
    command = [sys.executable, "-m", "nightlab", "live", "demo", str(tmp_path / "demo"), "--seed", "3", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)

    tried = [one for one in told["results"]["arms"] if one["parent"] is not None]
    claims, lift = told["truth"]["claims"], told["results"]["lift"]
    assert len(tried) >= 30
    assert [one for one in tried if one["status"] == "serving"], "something was served"
    apart = [one for one in claims if one["kind"] == "differs"]
    assert [one for one in apart if one["is_true"] and one["signs"]], "an insight that differs by audience, and is true"
    assert sum(not one["is_true"] for one in claims) <= 0.1 * len(claims) + 1
    assert lift["held_out"] > 1000
    assert lift["low"] < lift["holdout"] < lift["high"]
    assert lift["shrunk"] < lift["naive"]
    assert lift["low"] - 0.3 < told["truth"]["lift"] < lift["high"] + 0.3
    report = (tmp_path / "demo" / ".nightlab" / "report.html").read_text()
    assert "What may be said of visitors" in report
    assert "against visitors who saw the start all the while" in report
