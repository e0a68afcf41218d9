"""OpenFeature: a provider whose flags are the slots of the copy, asked of `nightlab live serve` by a server of yours.

    api.set_provider(Nightlab("http://127.0.0.1:8643", key, champion={"headline": "A notebook"}))
    api.get_client().get_string_value("headline", "", EvaluationContext("visitor-17"))

The targeting key is the unit. While the service is down or slow, the champion's texts are given, not counted: those
that it told within the last minute it was there, or those the provider was made with. A flag that was resolved counts
as shown.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import httpx
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import FlagNotFoundError, TargetingKeyMissingError, TypeMismatchError
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType, Reason
from openfeature.provider import AbstractProvider, Metadata
from openfeature.track import TrackingEventDetails

_PATIENCE = 1.0
_EVERY = 60.0
_AWAY = (httpx.HTTPError, ValueError, KeyError)


class Nightlab(AbstractProvider):
    """Resolves the slots of the copy for a unit."""

    def __init__(
        self, url: str, key: str, *, champion: Mapping[str, str] | None = None, patience: float = _PATIENCE
    ) -> None:
        super().__init__()
        self._key = {"authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=url, timeout=patience)
        self._champion: Mapping[str, str] = dict(champion or {})
        self._asked_at = -_EVERY

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        """Learn the champion, where the service is there."""
        with suppress(*_AWAY):
            self._learn_champion()

    def get_metadata(self) -> Metadata:
        """Its name."""
        return Metadata("nightlab")

    def shutdown(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """A slot's text for a unit."""
        unit = evaluation_context.targeting_key if evaluation_context else None
        if not unit:
            raise TargetingKeyMissingError("the targeting key is the unit; without one nobody can be assigned")
        try:
            given = self._given(unit, dict(evaluation_context.attributes) if evaluation_context else {})
        except _AWAY as error:
            return FlagResolutionDetails(
                self._champion.get(flag_key, default_value),
                reason=Reason.STALE,
                error_message=None,
                flag_metadata={"trouble": str(error)[:200]},
            )
        if flag_key not in given["copy"]:
            raise FlagNotFoundError(f"the copy has no slot {flag_key}")
        return FlagResolutionDetails(given["copy"][flag_key], reason=Reason.SPLIT, variant=str(given["arm"]))

    def _given(self, unit: str, said: Mapping[str, Any]) -> dict[str, Any]:
        given: dict[str, Any] = self._asked("/v1/assign", {"unit": unit})
        segment = {key: value for key, value in said.items() if isinstance(value, str)}
        self._asked("/v1/expose", {"token": given["token"], "segment": segment})
        self._learn_champion()
        return given

    def _learn_champion(self) -> None:
        """What whoever does not consent is shown is the champion: asked as one of them, without the key."""
        if time.monotonic() - self._asked_at >= _EVERY:
            self._champion = self._http.post("/v1/assign", json={}).raise_for_status().json()["copy"]
            self._asked_at = time.monotonic()

    def track(
        self,
        tracking_event_name: str,
        evaluation_context: EvaluationContext | None = None,
        tracking_event_details: TrackingEventDetails | None = None,
    ) -> None:
        """An outcome of a unit; `id` in the details makes a repeat count once. Raises httpx.HTTPError: not counted."""
        if evaluation_context is None or not evaluation_context.targeting_key:
            raise TargetingKeyMissingError("the targeting key is the unit")
        details = tracking_event_details or TrackingEventDetails()
        event = {"unit": evaluation_context.targeting_key, "name": tracking_event_name, "value": details.value or 0}
        self._asked("/v1/event", {**event, "id": str(details.attributes.get("id", tracking_event_name))})

    def _asked(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._http.post(path, json=body, headers=self._key).raise_for_status().json()

    def _refuse(self, flag_key: str) -> NoReturn:
        raise TypeMismatchError(f"{flag_key} is a text: get_string_value")

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        """No slot is one."""
        self._refuse(flag_key)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """No slot is one."""
        self._refuse(flag_key)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """No slot is one."""
        self._refuse(flag_key)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        """No slot is one."""
        self._refuse(flag_key)
