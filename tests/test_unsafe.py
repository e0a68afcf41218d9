"""Nothing runs without a jail, or in a weaker one than before, unless a person asked for it; and then it is said."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import need_level

from nightlab import cli, readings, sandbox
from nightlab.check import check
from nightlab.errors import NightlabError
from nightlab.place import Place, find, held
from nightlab.study import Study

Break = Callable[..., None]


@pytest.fixture
def break_jails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Break]:
    """Put programs in place of the jails' own that refuse as theirs would."""

    def act(*, landlock: bool) -> None:
        program = tmp_path / "bin" / "bwrap"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        if landlock:
            (tmp_path / "landlock.py").write_text("raise SystemExit('syscall: Function not implemented')")
            monkeypatch.setattr(sandbox.landlock, "__file__", str(tmp_path / "landlock.py"))
        sandbox.why_not.cache_clear()

    yield act
    sandbox.why_not.cache_clear()


def jail_of(place: Place) -> str:
    with closing(place.read()) as ledger:
        return str(readings.status(ledger, name="main", is_running=False)["jail"])


def open_study(place: Place, *, unsafe: bool = False) -> str:
    """Begin a study or go on with it; the level it runs at."""
    with held(place), closing(Study(place, unsafe=unsafe)) as study:
        return study.executor.level


def test_a_study_does_not_go_on_in_a_weaker_jail_unless_that_is_asked_for(folder: Path, break_jails: Break) -> None:
    for level in ("bubblewrap", "landlock"):
        need_level(level)
    place = find(folder)
    open_study(place)

    break_jails(landlock=False)

    with pytest.raises(
        NightlabError, match=r"started in the jail 'bubblewrap'.*Permission denied.*'landlock': --unsafe"
    ):
        open_study(place)
    assert jail_of(place) == "bubblewrap"
    assert open_study(place, unsafe=True) == "landlock"
    assert jail_of(place) == "landlock"


def test_a_study_that_went_on_in_a_weaker_jail_is_labelled_so_for_good(
    folder: Path, break_jails: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_level("bubblewrap")
    place = find(folder)
    open_study(place)
    break_jails(landlock=True)
    open_study(place, unsafe=True)

    monkeypatch.undo()
    sandbox.why_not.cache_clear()

    assert open_study(place) == "bubblewrap"
    assert jail_of(place) == "process"


@pytest.mark.parametrize(
    "words",
    [("run", "--agent", "unchanged", "--experiments", "0"), ("check", "--runs", "2"), ("demo", "here")],
)
def test_without_a_jail_a_command_says_what_was_tried_and_what_to_do(
    folder: Path, break_jails: Break, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(folder)
    break_jails(landlock=True)

    with pytest.raises(NightlabError, match=r"no jail works here.*uid map.*Function not implemented.*--unsafe"):
        cli.app(list(words), standalone_mode=False)

    assert not (folder / "here").exists()


def test_a_study_without_a_jail_says_so_wherever_it_reports(
    folder: Path, break_jails: Break, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    break_jails(landlock=True)

    for words in (("run", "--agent", "unchanged", "--experiments", "0", "--unsafe"), ("status",)):
        cli.app(list(words), standalone_mode=False)

        assert "not jailed, by --unsafe: process (limits and a clean end only" in capsys.readouterr().out
    assert jail_of(find(folder)) == "process"


def test_a_check_without_a_jail_says_so(folder: Path, break_jails: Break) -> None:
    break_jails(landlock=True)

    assert check(find(folder), runs=2, slots=1, unsafe=True)["jail"] == "process"
