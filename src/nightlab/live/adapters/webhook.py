"""A webhook: the results as JSON, signed, to an address of yours; sent again with growing pauses until it is taken.

webhook-id, webhook-timestamp, webhook-signature = "v1," + base64(HMAC-SHA256(secret, "id.timestamp.body")), as in
Standard Webhooks (standardwebhooks.com), so that its libraries check it. A repeat has the same id: act on it once.
"""

from __future__ import annotations

import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any
from urllib.parse import urlsplit

import httpx

from nightlab.errors import BadTask, NightlabError

_PATIENCE = 15.0
_AGAIN = (408, 425, 429)


def post(url: str, secret: str, body: Mapping[str, Any], *, at: float, attempts: int = 6, pause: float = 0.5) -> int:
    """Send it until it is taken, and say by which attempt. Raises NightlabError where it is refused, or never taken."""
    import stamina

    key = _key(secret)
    if urlsplit(url).scheme != "https" and urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"):
        raise BadTask(f"{url} is not https://; the results would be read on the way")
    content = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    name = "msg_" + blake2b(content + str(at).encode(), digest_size=12).hexdigest()
    headers = {"content-type": "application/json", **signed(key, name, int(at), content)}
    count = 0
    try:
        for attempt in stamina.retry_context(
            on=_may_pass, attempts=attempts, wait_initial=pause, wait_jitter=pause, timeout=None
        ):
            with attempt:
                count = attempt.num
                httpx.post(url, content=content, headers=headers, timeout=_PATIENCE).raise_for_status()
    except httpx.HTTPError as error:
        raise NightlabError(f"the webhook was not taken in {count} attempts ({error})") from error
    return count


def signed(key: bytes, name: str, at: int, content: bytes) -> dict[str, str]:
    """The headers that prove from whom it is, and when it was written."""
    digest = hmac.digest(key, f"{name}.{at}.".encode() + content, "sha256")
    return {"webhook-id": name, "webhook-timestamp": str(at), "webhook-signature": "v1," + b64encode(digest).decode()}


def _key(secret: str) -> bytes:
    try:
        key = b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError as error:
        raise BadTask("the webhook's secret is no base64; make one: openssl rand -base64 32") from error
    if len(key) < 24:
        raise BadTask(f"the webhook's secret has {len(key)} bytes; 24 are the least: openssl rand -base64 32")
    return key


def _may_pass(error: Exception) -> bool:
    """Whether to try again: nobody was there, or they say that it is not for good."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code in _AGAIN
    return isinstance(error, httpx.TransportError)
