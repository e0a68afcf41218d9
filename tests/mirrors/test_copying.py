"""What is sent, and that nothing is sent twice: against a destination of our own, which forgets what is not closed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from ledgers import audit, grow, place

from nightlab.errors import BadTask
from nightlab.ledger import Event, Ledger
from nightlab.mirrors.copying import Copying
from nightlab.mirrors.destination import Unreachable, connector
from nightlab.mirrors.reading import Row, Subject, subject
from nightlab.place import Place


class Tracker:
    """Keeps the rows of sessions in memory; a session is a folder, as W&B's are when it is offline."""

    def __init__(self) -> None:
        self.sessions: dict[str, list[Row]] = {}
        self.summaries: list[dict[str, float]] = []
        self.is_up = True

    def connect(self, subject: Subject, folder: Path) -> Session:
        if not self.is_up:
            raise Unreachable("tracker did not take it: nobody is there")
        return Session(self, folder / f"session-{len(self.sessions)}")

    def steps(self, *, gone: bool = False) -> list[int]:
        return [row.step for name, rows in self.sessions.items() if gone or Path(name).exists() for row in rows]


class Session:
    def __init__(self, tracker: Tracker, folder: Path) -> None:
        folder.mkdir()
        self.session, self._tracker = str(folder), tracker
        self._rows = tracker.sessions.setdefault(self.session, [])

    def first_missing(self, remembered: int) -> int:
        return remembered

    def log(self, rows: Sequence[Row]) -> None:
        if not self._tracker.is_up:
            raise Unreachable("tracker did not take it: it went away")
        self._rows += rows

    def close(self, numbers: dict[str, float], words: dict[str, str]) -> None:
        self._tracker.summaries += [numbers] if numbers else []


def copying(place: Place, ledger: Ledger, tracker: Tracker) -> Copying:
    folder = place.home / "mirrors"
    folder.mkdir(exist_ok=True)
    return Copying(ledger, "main", folder, connect=tracker.connect, memory=folder / "memory.json")


def copy(place: Place, tracker: Tracker) -> int:
    with closing(place.read()) as ledger:
        one = copying(place, ledger, tracker)
        one.bring()
        one.finish()
        return one.count


def test_a_second_call_sends_only_what_is_new(tmp_path: Path) -> None:
    study, tracker = place(tmp_path / "study", 7), Tracker()

    counts = [copy(study, tracker), copy(study, tracker)]
    grow(study, 3)
    counts.append(copy(study, tracker))

    assert counts == [7, 0, 3]
    assert tracker.steps() == list(range(10))
    assert len(tracker.sessions) == 2


def test_a_row_says_what_became_of_an_experiment(tmp_path: Path) -> None:
    study, tracker = place(tmp_path / "study", 6), Tracker()

    copy(study, tracker)

    rows = tracker.sessions[next(iter(tracker.sessions))]
    assert rows[4].numbers == {
        "value": 2.0,
        "gain": 0.5,
        "best": 2.0,
        "kept": 1.0,
        "grade": 2.0,
        "runs": 0.0,
        "seconds": 0.0,
        "cost": 0.25,
    }
    assert rows[3].words["status"] == "crashed"
    assert "value" not in rows[3].numbers
    assert [row.numbers["best"] for row in rows] == [10.0, 10.0, 10.0, 10.0, 2.0, 2.0]


def test_the_best_goes_on_where_it_was(tmp_path: Path) -> None:
    study, tracker = place(tmp_path / "study", 6), Tracker()
    copy(study, tracker)
    grow(study, 1)

    copy(study, tracker)

    (row,) = tracker.sessions[list(tracker.sessions)[1]]
    assert row.numbers["best"] == 2.0


def test_what_a_killed_session_left_is_thrown_away_and_sent_again(tmp_path: Path) -> None:
    study, tracker = place(tmp_path / "study", 7), Tracker()
    copy(study, tracker)
    grow(study, 5)
    with closing(study.read()) as ledger:
        copying(study, ledger, tracker).bring()  # and never closed

    copy(study, tracker)

    assert tracker.steps(gone=True) == [*range(7), *range(7, 12), *range(7, 12)]
    assert tracker.steps() == list(range(12))


def test_an_open_experiment_holds_back_those_after_it(tmp_path: Path) -> None:
    study, tracker = place(tmp_path / "study", 3), Tracker()
    open_ = {"parent": 0, "hypothesis": "slow", "proposer": "tuner", "tree": "t3"}
    with closing(study.read()) as ledger:
        ledger.append(Event("proposed", "3", open_, 3))
    grow(study, 2)

    copy(study, tracker)
    with closing(study.read()) as ledger:
        ledger.append(Event("decided", "3", {"status": "discarded", "value": 1.0, "reason": "so"}, 3))
    copy(study, tracker)

    assert [[row.step for row in rows] for rows in tracker.sessions.values()] == [[0, 1, 2], [3, 4, 5]]


def test_the_audited_gain_is_in_the_summary_once(tmp_path: Path) -> None:
    study, tracker = place(tmp_path / "study", 5), Tracker()
    copy(study, tracker)
    audit(study, 3.0)

    copy(study, tracker)
    copy(study, tracker)

    assert [one.get("audited_gain") for one in tracker.summaries] == [None, 3.0]
    assert tracker.summaries[1]["audited_low"] == 1.5


def test_what_a_tracker_refused_is_sent_when_it_is_back(tmp_path: Path) -> None:
    study, tracker = place(tmp_path / "study", 120), Tracker()
    tracker.is_up = False
    with closing(study.read()) as ledger, pytest.raises(Unreachable, match="nobody is there"):
        copying(study, ledger, tracker).bring()

    tracker.is_up = True
    copy(study, tracker)

    assert tracker.steps() == list(range(120))


def test_two_studies_of_one_name_are_two(tmp_path: Path) -> None:
    identities = set[str]()
    for name in ("one", "other"):
        with closing(place(tmp_path / name, 1).read()) as ledger:
            identities.add(subject(ledger, "main").identity)

    assert len(identities) == 2


def test_a_name_that_is_no_mirror_is_refused_before_a_night(
    nightlab: Callable[..., CompletedProcess[str]], folder: Path
) -> None:
    done = nightlab("run", "--mirror", "tensorboard", "--unsafe", check=False)

    assert done.returncode == 2
    assert "wandb, mlflow, trackio" in done.stderr
    assert not (folder / ".nightlab").exists()


def test_a_folder_that_a_client_left_behind_is_no_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("wandb", "mlflow", "trackio"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path)])

    with pytest.raises(BadTask, match=r"nightlab\[wandb\]"):
        connector("wandb")
