"""A real swarm: labs as processes, real routers, a cable that is cut, labs that are killed, liars."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightlab.swarmnight import Night


@pytest.mark.slow
def test_labs_share_what_they_find_and_try_nothing_twice(tmp_path: Path) -> None:
    found = Night(tmp_path, nodes=4, experiments=20).run()

    print({key: value for key, value in found.items() if key != "board"})
    assert found["stopped"] == []
    assert found["digests"] == 1
    assert (found["duplicates"], found["lost"]) == (0, 0)
    assert found["experiments"] >= 40
    assert found["board"]["totals"]["verifications"] > 0
    assert found["milestones"]


@pytest.mark.slow
def test_a_cut_network_killed_labs_and_liars_cost_time_and_nothing_else(tmp_path: Path) -> None:
    found = Night(tmp_path, nodes=7, experiments=60, liars=1, has_trouble=True).run()

    print({key: value for key, value in found.items() if key != "board"})
    assert found["stopped"] == []
    assert found["digests"] == 1
    assert found["lost"] == 0
    assert found["false_adoptions"] == 0
    assert len(found["liars"]) == 1
