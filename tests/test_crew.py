"""The crew: who proposes, from the names on the command line."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from nightlab.crew import Crew
from nightlab.errors import NightlabError
from nightlab.place import Place, held
from nightlab.study import Study
from nightlab.testing.modelserver import ModelServer


def test_an_endpoint_that_is_down_at_a_checkpoint_does_not_end_the_night(folder: Path) -> None:
    with held(Place(folder)), closing(Study(Place(folder))) as study:
        with ModelServer([]) as server:
            environ = {"OPENAI_BASE_URL": f"{server.url}/v1"}
            crew = Crew(["openai:m"], environ=environ)
            crew.gather(study)

        with closing(crew):
            later = crew.gather(study)
        with closing(Crew(["openai:m"], environ=environ)) as another, pytest.raises(NightlabError, match="refused"):
            another.gather(study)

    assert [one.name for one in later] == ["openai:m", "tuner.asked"]


def test_a_study_that_starts_anew_hears_nothing_of_what_an_earlier_one_asked(folder: Path) -> None:
    old = folder / ".nightlab" / "agents" / "draft-0"
    old.mkdir(parents=True)
    (old / "prompt.md").write_text("what the first study asked")

    with held(Place(folder)), closing(Study(Place(folder))):
        pass
    with held(Place(folder)), closing(Study(Place(folder))):  # resumed, it keeps its own
        (folder / ".nightlab" / "agents").mkdir()

    assert [path.name for path in (folder / ".nightlab").glob("*/draft-0/prompt.md")] == ["prompt.md"]
    assert not old.exists()
