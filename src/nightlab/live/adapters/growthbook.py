"""GrowthBook: our versions as the variations of an experiment there, a feature that serves them, and its results.

By its REST API v1 (docs.growthbook.io/api, the OpenAPI forms as read in 2026-11): POST /experiments, POST /features,
GET /experiments?trackingKey, GET /experiments/{id}/results. What it measures is shown beside ours and never becomes a
claim: it was assigned, counted and tested elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx

from nightlab.errors import BadTask, NightlabError
from nightlab.live.store import Arm, Split

CLOUD = "https://api.growthbook.io"
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """What an experiment needs to know of the other side: its data source, and how units are found in it."""

    datasource: str
    assignment_query: str
    owner: str
    environment: str = "production"
    hash_attribute: str = "id"


class GrowthBook:
    """One organisation's GrowthBook."""

    def __init__(self, key: str, *, url: str = CLOUD) -> None:
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/api/v1", headers={"authorization": f"Bearer {key}"}, timeout=_PATIENCE
        )

    def push(self, name: str, split: Split, arms: list[Arm], target: Target) -> dict[str, Any]:
        """Write the versions that are shown as a draft experiment, and a feature that refers to it.

        The same split again finds what is there. A person starts it, over there.
        """
        key = f"{name}-split-{split.version}"
        shown = [arm for arm in arms if split.is_live(arm.number)]
        if len(shown) < 2:
            raise BadTask("only one version is shown; an experiment needs two")
        shown.sort(key=lambda arm: arm.number != split.champion)  # theirs has the control first
        found = self._experiment(key) or self._post("experiments", _experiment(key, split, shown, target))["experiment"]
        ids = {one["key"]: one["variationId"] for one in found["variations"]}
        feature = _feature(key, found["id"], shown, ids, target)
        if self._get(f"features/{quote(key)}", may_miss=True) is None:
            self._post("features", feature)
        return {
            "experiment": found["id"],
            "feature": key,
            "variations": {str(arm.number): ids[str(arm.number)] for arm in shown},
        }

    def results(self, name: str, split: Split) -> list[dict[str, Any]]:
        """What it has measured, by version and metric; nothing where it has no results yet."""
        found = self._experiment(f"{name}-split-{split.version}")
        if found is None:
            raise BadTask(f"GrowthBook has no experiment {name}-split-{split.version}; nightlab live push growthbook")
        keys = {one["variationId"]: one["key"] for one in found["variations"]}
        told = self._get(f"experiments/{quote(found['id'])}/results", may_miss=True) or {}
        return [
            {
                "version": int(keys[one["variationId"]]),
                "metric": metric["metricId"],
                "users": one.get("users"),
                **_analysis(one),
            }
            for result in (told.get("result") or {}).get("results", [])
            for metric in result["metrics"]
            for one in metric["variations"]
        ]

    def _experiment(self, key: str) -> dict[str, Any] | None:
        found = self._get("experiments", trackingKey=key) or {}
        return next((one for one in found.get("experiments", []) if one.get("trackingKey") == key), None)

    def _get(self, path: str, *, may_miss: bool = False, **query: str) -> dict[str, Any] | None:
        return self._asked("GET", path, may_miss=may_miss, params=query)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._asked("POST", path, json=body) or {}

    def _asked(self, method: str, path: str, *, may_miss: bool = False, **more: Any) -> dict[str, Any] | None:
        try:
            answer = self._http.request(method, path, **more)
            if may_miss and answer.status_code == 404:
                return None
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
        except httpx.HTTPStatusError as error:
            raise NightlabError(f"GrowthBook says {answer.status_code} to {path}: {answer.text[:300]}") from error
        except (httpx.HTTPError, ValueError) as error:
            raise NightlabError(f"GrowthBook cannot be read at {self._http.base_url} ({error})") from error
        return found


def _experiment(key: str, split: Split, shown: list[Arm], target: Target) -> dict[str, Any]:
    whole = sum(split.weights[arm.number] for arm in shown)
    return {
        "name": key,
        "trackingKey": key,
        "datasourceId": target.datasource,
        "assignmentQueryId": target.assignment_query,
        "owner": target.owner,
        "status": "draft",
        "hashAttribute": target.hash_attribute,
        "hashVersion": 2,
        "variations": [
            {"key": str(arm.number), "name": f"version {arm.number}", "description": arm.hash} for arm in shown
        ],
        "phases": [
            {
                "name": "Main",
                "dateStarted": datetime.fromtimestamp(split.at, UTC).isoformat(),
                "coverage": 1,
                "variationWeights": [split.weights[arm.number] / whole for arm in shown],
            }
        ],
    }


def _feature(key: str, experiment: str, shown: list[Arm], ids: dict[str, str], target: Target) -> dict[str, Any]:
    values = [{"value": json.dumps(dict(arm.content)), "variationId": ids[str(arm.number)]} for arm in shown]
    rule = {"type": "experiment-ref", "experimentId": experiment, "variations": values}
    return {
        "id": key,
        "owner": target.owner,
        "valueType": "json",
        "defaultValue": values[0]["value"],
        "environments": {target.environment: {"enabled": True, "rules": [rule]}},
    }


def _analysis(variation: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = next(iter(variation["analyses"]), {})
    names = {"engine": "engine", "mean": "mean", "percentChange": "change", "ciLow": "low", "ciHigh": "high"}
    return {ours: first.get(theirs) for theirs, ours in names.items()}
