"""Adapters: other programs get our versions and counts; what they say is kept apart and never becomes a claim."""

from __future__ import annotations

import base64
import csv
import hmac
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.track import TrackingEventDetails
from platforms import GrowthBookServer, answering
from services import CHALLENGER, CHAMPION, deployed, folder_of, served

from nightlab.errors import BadTask, NightlabError
from nightlab.live.adapters import webhook
from nightlab.live.adapters.openfeature import Nightlab
from nightlab.live.store import Arm, Side, Store

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path)


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    opened, _ = deployed(folder / ".nightlab/live.sqlite")
    with closing(opened):
        yield opened


def live(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nightlab", "-C", str(folder), "live", *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_growthbook_gets_the_versions_once_and_its_results_are_read_as_its_own(folder: Path, store: Store) -> None:
    server = GrowthBookServer("secret_x")
    key = {"NIGHTLAB_GROWTHBOOK_KEY": "secret_x"}
    with answering(server) as (url, _):
        words = ["push", "growthbook", "--url", url, "--json"]
        target = ["--datasource", "ds_1", "--assignment", "user_id", "--owner", "a@b.example"]
        made = json.loads(live(folder, *words, *target, **key).stdout)
        again = json.loads(live(folder, *words, *target, **key).stdout)
        (experiment,) = server.experiments.values()
        analysis = {"engine": "bayesian", "mean": 0.2, "percentChange": 0.1, "ciLow": -0.1, "ciHigh": 0.3}
        variations = [
            {"variationId": made["variations"][version], "users": 50, "analyses": [analysis]} for version in "01"
        ]
        empty = json.loads(live(folder, *words, "--results", **key).stdout)
        server.results[experiment["id"]] = {"results": [{"metrics": [{"metricId": "m", "variations": variations}]}]}
        told = json.loads(live(folder, *words, "--results", **key).stdout)

    assert again == made
    assert experiment["status"] == "draft"
    assert experiment["hashVersion"] == 2
    assert experiment["phases"][0]["variationWeights"] == [0.5, 0.5]
    (feature,) = server.features.values()
    (rule,) = feature["environments"]["production"]["rules"]
    assert (rule["type"], rule["experimentId"]) == ("experiment-ref", experiment["id"])
    assert [json.loads(one["value"]) for one in rule["variations"]] == [CHAMPION, CHALLENGER]
    assert empty == {"evidence": "measured elsewhere", "results": []}
    assert told["evidence"] == "measured elsewhere"
    assert {(one["version"], one["metric"], one["users"], one["mean"]) for one in told["results"]} == {
        (0, "m", 50, 0.2),
        (1, "m", 50, 0.2),
    }
    assert store.counts(1, 0, "signup")[0].candidate == Side()


def test_what_growthbook_refuses_is_said_in_its_words(folder: Path, store: Store) -> None:
    with answering(GrowthBookServer("secret_x")) as (url, _):
        words = ["--datasource", "ds_1", "--assignment", "user_id", "--owner", "a@b.example"]
        done = live(folder, "push", "growthbook", "--url", url, *words, NIGHTLAB_GROWTHBOOK_KEY="wrong")

    assert done.returncode == 2
    assert "401" in done.stderr
    assert "Invalid API key" in done.stderr
    assert "wrong" not in done.stderr


def test_a_webhook_is_signed_and_sent_again_under_the_same_id_until_it_is_taken() -> None:
    statuses = iter([503, 429, 200])
    with answering(lambda _: (next(statuses), {})) as (url, asked):
        attempts = webhook.post(url, SECRET, {"champion": 1}, at=1_800_000_000.0, pause=0.01)

    assert attempts == 3
    assert len({headers["webhook-id"] for _, _, headers, _ in asked}) == 1
    _, _, headers, body = asked[-1]
    said = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.digest(b"k" * 32, said, "sha256")).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    assert json.loads(body) == {"champion": 1}


def test_a_webhook_that_is_refused_is_not_sent_again() -> None:
    with answering(lambda _: (410, {})) as (url, asked), pytest.raises(NightlabError, match="410"):
        webhook.post(url, SECRET, {}, at=1.0, pause=0.01)

    assert len(asked) == 1


def test_a_webhook_to_nobody_ends_with_what_was_wrong() -> None:
    with pytest.raises(NightlabError, match="3 attempts"):
        webhook.post("http://127.0.0.1:9", SECRET, {}, at=1.0, attempts=3, pause=0.01)


@pytest.mark.parametrize(
    ("url", "secret"),
    [("http://example.org/", SECRET), ("https://example.org/", "short"), ("https://e.org/", "whsec_YQ==")],
)
def test_a_webhook_without_a_safe_way_or_secret_is_not_sent(url: str, secret: str) -> None:
    with pytest.raises(BadTask):
        webhook.post(url, secret, {}, at=1.0)


def test_the_results_go_to_a_webhook_by_one_command(folder: Path, store: Store) -> None:
    with answering(lambda _: (200, {})) as (url, asked):
        done = live(folder, "push", "webhook", "--url", url, NIGHTLAB_WEBHOOK_SECRET=SECRET)

    assert done.stdout == "taken at attempt 1\n", done.stderr
    assert json.loads(asked[0][3])["champion"] == 0


def test_a_flag_is_a_slot_and_falls_back_to_the_champion_when_the_service_is_down(folder: Path, store: Store) -> None:
    store.put_split({1: 1.0}, 1)
    with served(folder, version=2) as service:
        provider = Nightlab(service.url, service.key, patience=20)
        api.set_provider_and_wait(provider)
        client = api.get_client()
        who = EvaluationContext("visitor-17", {"audience": "new"})

        up = client.get_string_details("headline", "nothing", who)
        for _ in range(2):
            client.track("signup", who, TrackingEventDetails(attributes={"id": "order-1"}))
        unknown = client.get_string_details("nowhere", "nothing", who)
        number = client.get_integer_details("headline", 3, who)
        nobody = client.get_string_details("headline", "nothing")
        service.kill()
        down = client.get_string_details("headline", "nothing", EvaluationContext("visitor-18"))
    api.clear_providers()

    assert (up.value, up.variant, up.reason) == (CHALLENGER["headline"], "1", "SPLIT")
    assert (down.value, down.reason) == (CHALLENGER["headline"], "STALE")
    assert (unknown.value, unknown.error_code) == ("nothing", "FLAG_NOT_FOUND")
    assert (number.value, number.error_code) == (3, "TYPE_MISMATCH")
    assert (nobody.value, nobody.error_code) == ("nothing", "TARGETING_KEY_MISSING")
    assert sum((one.side for one in store.totals("signup")), Side()) == Side(1, 1)


def test_a_provider_that_never_reached_the_service_gives_what_it_was_made_with() -> None:
    api.set_provider_and_wait(Nightlab("http://127.0.0.1:9", "key", champion={"headline": "Ours"}))
    client = api.get_client()

    found = [client.get_string_value(slot, "nothing", EvaluationContext("u")) for slot in ("headline", "button")]
    api.clear_providers()

    assert found == ["Ours", "nothing"]


def test_an_outcome_that_was_not_counted_is_not_passed_over() -> None:
    with pytest.raises(httpx.HTTPError):
        Nightlab("http://127.0.0.1:9", "key").track("signup", EvaluationContext("u"))


def test_versions_go_out_as_csv_and_no_text_is_a_formula(folder: Path, store: Store) -> None:
    store.put_arm(Arm(2, 0, {"headline": "=HYPERLINK(1)", "button": "Go"}, "c", "ended"))

    rows = list(csv.DictReader(io.StringIO(live(folder, "export").stdout)))

    assert [row["version"] for row in rows] == ["0", "1", "2"]
    assert [row["headline"] for row in rows] == [CHAMPION["headline"], CHALLENGER["headline"], "'=HYPERLINK(1)"]


@pytest.mark.slow
def test_what_an_ad_platform_says_is_observational_and_changes_no_count_and_no_claim(
    folder: Path, store: Store
) -> None:
    path = folder / "ads.csv"
    path.write_text("version,exposed,converted\n0,100000,1000\n1,100000,9000\n")
    before = json.loads(live(folder, "results", "--json").stdout)

    first, second = (live(folder, "import", str(path), "--from", "ads").stdout for _ in range(2))

    after = json.loads(live(folder, "results", "--json").stdout)
    assert "2 rows kept, observational" in first
    assert "kept before" in second
    assert {one["evidence"] for one in after["observed"]} == {"observational"}
    assert [one["converted"] for one in after["observed"]] == [1000, 9000]
    assert {key: one for key, one in after.items() if key != "observed"} == {
        key: one for key, one in before.items() if key != "observed"
    }
    assert live(folder, "results").stdout.count("observational, no claim: ads, version") == 2
    assert live(folder, "insights").stdout == "no claim stands yet\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version,exposed\n0,1\n", "no column converted"),
        ("version,exposed,converted\n7,1,0\n", "no version 7"),
        ("version,exposed,converted\n0,1,2\n", "2 of 1"),
        ("version,exposed,converted\n0,many,2\n", "line 2"),
        ("version,exposed,converted\n0,5\n", "line 2"),
    ],
)
def test_a_file_that_cannot_be_is_refused(folder: Path, store: Store, text: str, said: str) -> None:
    path = folder / "ads.csv"
    path.write_text(text)

    done = live(folder, "import", str(path), "--from", "ads")

    assert done.returncode == 2
    assert said in done.stderr
    assert store.notes("observational") == []
