from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nightlab import swarmbench
from nightlab.cli import app
from nightlab.swarmbench import Pool, adoptions, bench, duplicates, flood, late_joiner, partition, plot, spread


def test_a_record_reaches_all_and_nobody_gets_it_often() -> None:
    found = spread(30, records=2)

    assert found["seconds"] < 5
    assert found["everybody"]
    assert 1 <= found["copies"] <= 8


def test_loss_and_dead_labs_only_delay_it() -> None:
    found = spread(40, loss=0.05, dead=0.1, records=2)

    assert found["seconds"] < 10
    assert len(found["delays"]) <= 2 * 36


def test_the_same_seed_tells_the_same() -> None:
    assert spread(20, loss=0.1, records=1, seed=3) == spread(20, loss=0.1, records=1, seed=3)
    assert spread(20, loss=0.1, records=1, seed=3) != spread(20, loss=0.1, records=1, seed=4)


def test_a_network_that_was_cut_knows_all_again_and_lost_nothing() -> None:
    found = partition(12)

    assert found["lost"] == 0
    assert 0 < found["seconds"] <= 30


def test_a_cut_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarmbench, "_heal", lambda _: None)

    assert partition(8)["lost"] > 0


def test_a_flood_does_not_drown_the_others() -> None:
    found = flood(12, keys=2, each=220)

    assert found["seconds"] < 10
    assert found["equal_after"] < 60


def test_a_late_joiner_has_everything_on_disk() -> None:
    found = late_joiner(200, authors=20)

    assert found["equal"]
    assert found["records"] == 200


def test_claims_keep_agents_from_running_the_same_twice() -> None:
    found = duplicates([0.2, 0.3, 4.0], agents=60)

    assert found["claims"] < 0.01
    assert found["nothing"] > found["results"] > found["claims"]


def test_a_claim_that_never_arrives_protects_nobody() -> None:
    assert Pool("claims", [1e6], agents=60, seed=0).play(1.0) > 0.05


def test_liars_are_found_out_and_little_of_theirs_is_taken_over() -> None:
    found = adoptions(30, rounds=5)

    assert found["strikes"] == 3
    assert found["adoptions"] > 10
    assert found["false"] < found["told_false"] / 3


@pytest.mark.slow
def test_all_of_it_as_people_programs_and_papers_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarmbench, "SIZES", (10,))
    asked: list[dict[str, Any]] = []

    def small(nodes: int, **rest: Any) -> dict[str, Any]:
        asked.append(bench(nodes, late=60, **rest))
        return asked[-1]

    monkeypatch.setattr(swarmbench, "bench", small)
    run = CliRunner().invoke(app, ["bench", "swarm", "--nodes", "12", "--json", "--plot", str(tmp_path / "plot.svg")])

    told = json.loads(run.stdout)
    assert [one["nodes"] for one in told["spread"]] == [10, 12]
    assert len(told["bars"]) == 11
    assert run.exit_code == (not all(one["holds"] for one in told["bars"]))
    assert "<svg" in (tmp_path / "plot.svg").read_text()
    assert swarmbench.markdown(asked[0]).count("\n") == 12
    plot(asked[0], tmp_path / "again.png")
