"""The real clients, and what arrived: W&B's own files, MLflow's server and its database, trackio's database."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for
from ledgers import HOSTILE, audit, grow, place

from nightlab.mirrors.copying import folder_of
from nightlab.mirrors.reading import subject
from nightlab.place import Place
from nightlab.testing.ports import free_ports

if "NIGHTLAB_MIRRORS" not in os.environ:
    pytest.skip("the clients of other trackers are installed by: make test-mirrors", allow_module_level=True)
pytestmark = pytest.mark.mirrors


@pytest.fixture(autouse=True)
def _nothing_leaves_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name, value in (
        ("HOME", str(home)),
        ("WANDB_MODE", "offline"),
        ("TRACKIO_DIR", str(tmp_path / "trackio")),
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("HF_HUB_OFFLINE", "1"),
    ):
        monkeypatch.setenv(name, value)


def command(study: Place, *words: str) -> list[str]:
    return [sys.executable, "-m", "nightlab", "-C", str(study.root), *words]


def mirror(study: Place, spec: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(study, "mirror", spec), capture_output=True, text=True, timeout=120)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


# W&B, offline: a log of records in blocks of 32 KB, each piece behind a header of its checksum, length and kind


def pieces(raw: bytes) -> Iterator[bytes]:
    at, whole = 7, b""  # the first seven bytes say what it is
    while at + 7 <= len(raw):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(raw[at + 4 : at + 6], "little"), raw[at + 6]
        if kind == 0:
            return
        whole += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full one, or the last of several
            yield whole
            whole = b""


def wandb_records(study: Place) -> list[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    files = sorted(folder_of(study).glob("wandb/offline-run-*/*.wandb"))
    return [Record.FromString(piece) for file in files for piece in pieces(file.read_bytes())]


def wandb_rows(study: Place) -> list[dict[str, Any]]:
    return [
        {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
        for record in wandb_records(study)
        if record.WhichOneof("record_type") == "history"
    ]


def wandb_summary(study: Place) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in wandb_records(study):
        for item in record.summary.update:
            found[item.key or item.nested_key[0]] = json.loads(item.value_json)
    return found


# MLflow: a database, or a server that stands before one


def mlflow_history(study: Place, uri: str, name: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    return [(one.step, one.value) for one in client.get_metric_history(mlflow_run(study, uri).info.run_id, name)]


def mlflow_run(study: Place, uri: str) -> Any:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("nightlab")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


# trackio: a SQLite file for each project


def trackio_rows(study: Place, tmp_path: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(tmp_path / "trackio" / "nightlab.db")) as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    with closing(study.read()) as ledger:
        name = f"main-{subject(ledger, 'main').identity}"
    return [{"step": step, **json.loads(metrics)} for run, step, metrics in rows if run == name]


def steps(study: Place, name: str, tmp_path: Path) -> list[int]:
    """Which steps have arrived at a tracker, in order."""
    if name == "wandb":
        return [row["_step"] for row in wandb_rows(study)]
    if name == "trackio":
        return [row["step"] for row in trackio_rows(study, tmp_path) if "best" in row]
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as mlflow:  # a second client would take its time
        return [step for (step,) in mlflow.execute("SELECT step FROM metrics WHERE key = 'best' ORDER BY step")]


def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of MLflow's; it takes ten seconds to make one."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def _a_database(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if "mlflow" in request.node.name:
        shutil.copy(request.getfixturevalue("migrated"), tmp_path / "mlflow.db")


def spec_of(name: str, tmp_path: Path) -> str:
    return f"mlflow:{database(tmp_path)}" if name == "mlflow" else name


ALL = pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])


@pytest.mark.parametrize("name", ["wandb", "trackio"])  # for MLflow its server is asked, below
def test_every_experiment_arrives_once_however_often_it_is_sent(name: str, tmp_path: Path) -> None:
    study, spec = place(tmp_path / "study", 30), spec_of(name, tmp_path)

    first = mirror(study, spec).stdout
    again = mirror(study, spec).stdout
    grow(study, 5)
    more = mirror(study, spec).stdout

    assert [text.split()[0] for text in (first, again, more)] == ["30", "0", "5"]
    assert steps(study, name, tmp_path) == list(range(35))
    assert sorted(one.name for one in study.root.iterdir()) == [".git", ".nightlab", "train.py"]


def has_begun(study: Place, name: str, tmp_path: Path, before: int) -> bool:
    """Whether some of what is being sent has arrived."""
    if name == "wandb":
        return any(file.stat().st_size > 30_000 for file in _open_files(study))
    return len(steps(study, name, tmp_path)) > before


def kill_while_sending(study: Place, name: str, tmp_path: Path) -> None:
    before = len(steps(study, name, tmp_path))
    process = subprocess.Popen(command(study, "mirror", spec_of(name, tmp_path)), stdout=-3, stderr=-3)
    wait_for(lambda: has_begun(study, name, tmp_path, before) or process.poll() is not None, 90)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"


def _open_files(study: Place) -> list[Path]:
    """The W&B file of a session that was not closed."""
    known = [json.loads(memory.read_text())["session"] for memory in folder_of(study).glob("wandb-*.json")]
    return [file for session in known if session for file in Path(session).glob("*.wandb")]


@ALL
def test_killed_while_sending_nothing_arrives_twice_and_nothing_is_lost(name: str, tmp_path: Path) -> None:
    study, spec = place(tmp_path / "study", 50), spec_of(name, tmp_path)
    mirror(study, spec)
    for _ in range(2):
        grow(study, 1000)
        kill_while_sending(study, name, tmp_path)

    mirror(study, spec)

    assert steps(study, name, tmp_path) == list(range(2050))


def test_wandb_shows_what_became_of_each(tmp_path: Path) -> None:
    study = place(tmp_path / "study", 6)
    audit(study, 3.0)

    mirror(study, "wandb:somebody/compress")

    rows, (run, *_) = wandb_rows(study), [one.run for one in wandb_records(study) if one.HasField("run")]
    assert (run.entity, run.project, run.display_name) == ("somebody", "compress", "main")
    assert rows[4] | {"value": 2.0, "gain": 0.5, "best": 2.0, "status": "kept", "grade": 2, "cost": 0.25} == rows[4]
    assert rows[4]["hypothesis"] == f"idea 4 {HOSTILE}"
    assert rows[3]["status"] == "crashed"
    assert "value" not in rows[3]
    assert wandb_summary(study)["audited_gain"] == 3.0


def test_mlflow_shows_what_became_of_each(tmp_path: Path) -> None:
    study = place(tmp_path / "study", 6)
    audit(study, 3.0)

    mirror(study, f"mlflow:{database(tmp_path)}")

    run = mlflow_run(study, database(tmp_path))
    values = dict(mlflow_history(study, database(tmp_path), "value"))
    assert values == {0: 10.0, 1: 5.0, 2: pytest.approx(10 / 3), 4: 2.0, 5: pytest.approx(10 / 6)}
    assert run.data.tags["kept 4"] == f"idea 4 {HOSTILE}"
    assert run.data.metrics["audited_gain"] == 3.0
    assert run.data.params["metric"] == "loss"
    assert run.info.status == "FINISHED"


def test_trackio_shows_what_became_of_each(tmp_path: Path) -> None:
    study = place(tmp_path / "study", 6)
    audit(study, 3.0)

    mirror(study, "trackio")

    *rows, last = trackio_rows(study, tmp_path)
    assert rows[4] | {"value": 2.0, "gain": 0.5, "best": 2.0, "status": "kept", "cost": 0.25} == rows[4]
    assert rows[4]["hypothesis"] == f"idea 4 {HOSTILE}"
    assert last["audited_gain"] == 3.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """MLflow's own server, on a database of its own."""
    [port] = free_ports(1)
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += [
        "--backend-store-uri",
        database(tmp_path),
        "--artifacts-destination",
        str(tmp_path / "art"),
    ]
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words], cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
    )
    try:
        wait_for(lambda: _answers(port), 90)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(port: int) -> bool:
    with closing(socket.socket()) as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def test_mlflows_own_server_takes_it(server: str, tmp_path: Path) -> None:
    study = place(tmp_path / "study", 130)

    first = mirror(study, f"mlflow:{server}").stdout
    grow(study, 10)
    more = mirror(study, f"mlflow:{server}").stdout

    assert [text.split()[0] for text in (first, more)] == ["130", "10"]
    assert [step for step, _ in sorted(mlflow_history(study, server, "best"))] == list(range(140))
    assert sorted(one.name for one in study.root.iterdir()) == [".git", ".nightlab", "train.py"]


@pytest.mark.parametrize("spec", ["mlflow:http://127.0.0.1:9", "wandb"])
def test_a_server_that_is_not_there_is_said(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "5")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    study = place(tmp_path / "study", 3)

    done = mirror(study, spec, check=False)

    assert done.returncode == 2
    assert f"{spec.partition(':')[0]} did not take it: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_night_is_mirrored_while_it_runs_and_a_dead_server_costs_it_nothing(
    nightlab: Callable[..., subprocess.CompletedProcess[str]], folder: Path, tmp_path: Path
) -> None:
    study = Place(folder)
    dead = "mlflow:http://127.0.0.1:9"

    done = nightlab(
        "run",
        "--experiments",
        "5",
        "--no-audit",
        "--unsafe",
        "--mirror",
        "trackio",
        "--mirror",
        "wandb",
        "--mirror",
        dead,
    )

    assert [row["_step"] for row in wandb_rows(study)] == list(range(6))
    assert steps(study, "trackio", tmp_path) == list(range(6))
    assert done.stdout.count("mirror mlflow: not all was sent") == 1
    assert done.stdout.count("is tried again at the end") <= 1
    assert nightlab("mirror", "wandb").stdout == "0 experiments sent to wandb\n"


def test_a_mirror_ends_when_its_night_is_killed(tmp_path: Path) -> None:
    study = place(tmp_path / "study", 10)
    process = subprocess.Popen(
        command(study, "mirror", "trackio", "--follow"), stdin=subprocess.PIPE, stdout=-3, stderr=-3
    )
    assert process.stdin is not None

    process.stdin.close()  # as the end of a process does

    assert process.wait(60) == 0
    assert steps(study, "trackio", tmp_path) == list(range(10))


def test_parquet_has_types_and_nulls(tmp_path: Path) -> None:
    from pyarrow import parquet

    study, file = place(tmp_path / "study", 2500), tmp_path / "night.parquet"
    subprocess.run(command(study, "export", "parquet", "-o", str(file)), check=True)

    table = parquet.read_table(file)

    types = {name: str(table.schema.field(name).type) for name in ("id", "value", "hypothesis", "parent")}
    assert types == {"id": "int64", "value": "double", "hypothesis": "string", "parent": "int64"}
    assert table.num_rows == 2500
    assert table["value"].null_count == 1
    assert table["value"][1].as_py() == 5.0
    assert table["hypothesis"][4].as_py() == f"idea 4 {HOSTILE}"
    assert table["status"][4].as_py() == "kept"
