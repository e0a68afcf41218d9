"""Limits: how much one address may ask, how large it may be, and where it may come from.

Addresses are kept in memory, hashed under a key that is forgotten when the service ends; they are never written down.
Does not cover: a flood from very many addresses at once. That is for the proxy in front.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Limits:
    """What one who shows no key may do."""

    a_second: float = 50.0
    burst: float = 200.0
    body: int = 16_384
    keyed_body: int = 1 << 20
    batch: int = 20
    keyed_batch: int = 1_000


class Rates:
    """A bucket for each address: it fills with time and every request takes one out."""

    _MOST = 50_000

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._key = secrets.token_bytes(16)
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def allow(self, address: str, now: float) -> bool:
        """Whether an address may ask once more."""
        who = hashlib.blake2b(address.encode(), key=self._key, digest_size=12).digest()
        left, since = self._buckets.pop(who, (self._limits.burst, now))
        left = min(self._limits.burst, left + (now - since) * self._limits.a_second)
        allowed = left >= 1
        self._buckets[who] = (left - 1 if allowed else left, now)
        if len(self._buckets) > self._MOST:
            self._buckets.popitem(last=False)
        return allowed


def is_allowed_origin(origin: str, host: str, allowed: frozenset[str]) -> bool:
    """Whether a page of this origin may write: our own, or one that was named."""
    if origin in allowed:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc == host
