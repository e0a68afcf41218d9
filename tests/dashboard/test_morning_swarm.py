"""The report's section on the swarm: what many labs found together, in HTML, Markdown and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from nights import a_night
from swarms import TASK, a_swarm

from nightlab.dashboard.morning import FORMS
from nightlab.ledger import Ledger
from nightlab.swarm.board import Board

HOSTILE = "<script>document.title='mine'</script>\u202e\x1b[31m[a](http://e.vil)`|"


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Ledger]:
    with closing(a_night(tmp_path / "ledger.sqlite")) as ledger:
        yield ledger


def board(folder: Path, **more: Any) -> dict[str, Any]:
    with closing(a_swarm(folder, **more)) as store:
        return Board(store.log, TASK).told("the night swarm")


def written(night: Ledger, ending: str, swarm: dict[str, Any] | None) -> str:
    return FORMS[ending](night, name="main", is_running=False, insights=None, swarm=swarm)


@pytest.mark.parametrize("ending", [".html", ".md"])
def test_the_report_says_who_found_what_and_how_it_spread(night: Ledger, tmp_path: Path, ending: str) -> None:
    told = board(tmp_path, words=["fan-in initialisation", "a wider layer"])

    text = written(night, ending, told)

    assert "The swarm" in text
    assert f"{told['totals']['experiments']} experiments by" in text
    assert "fan-in initialisation" in text.partition("ound again")[2]
    assert "NVIDIA H200" in text
    assert "after 5 min" in text


@pytest.mark.parametrize("ending", [".html", ".md"])
def test_hostile_words_of_peers_stay_words_in_the_report(night: Ledger, tmp_path: Path, ending: str) -> None:
    text = written(night, ending, board(tmp_path, words=[HOSTILE, "W" * 200], names=[HOSTILE[:60]] * 4))

    assert re.search(r"(?<!\\)<script>document", text) is None
    assert not {"\u202e", "\x1b"} & set(text)
    assert ending == ".html" or re.search(r"(?<!\\)\]\(", text) is None


def test_the_report_as_json_carries_the_board(night: Ledger, tmp_path: Path) -> None:
    told = board(tmp_path)

    assert json.loads(written(night, ".json", told))["swarm"] == told


@pytest.mark.parametrize("ending", [".html", ".md"])
def test_a_swarm_that_cannot_be_read_is_said(night: Ledger, ending: str) -> None:
    text = written(night, ending, {"error": "the swarm's records cannot be read"})

    assert "records cannot be read" in text


@pytest.mark.parametrize("ending", [".html", ".md"])
def test_a_study_alone_has_no_such_section(night: Ledger, ending: str) -> None:
    assert "The swarm" not in written(night, ending, None)
