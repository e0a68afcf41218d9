"""Links in mails: signed, so that a click can be believed and leads nowhere but to a host that the task names."""

from __future__ import annotations

import binascii
import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from nightlab.live.privacy import UNIT_BYTES, Secret
from nightlab.live.store import WORD

_SIGNATURE = 16
_PLAIN = re.compile(r"[!-\[\]-~]+")
"""Printable ASCII without a backslash, which some browsers read as a slash."""


class Click(NamedTuple):
    """What a link says once it is believed."""

    unit: bytes
    name: str
    to: str
    id: str


class Recipient(NamedTuple):
    """Whoever a mail went to: as a unit, and as an address; both hashed."""

    unit: bytes
    address: bytes


class Links:
    """Makes links and reads them. `base` is where the service is reached from outside."""

    def __init__(self, secret: Secret, base: str = "", *, hosts: frozenset[str]) -> None:
        self._link, self._leave = secret.derived("link"), secret.derived("unsubscribe")
        self._base, self._hosts = base.rstrip("/"), hosts

    def is_allowed(self, to: str) -> bool:
        """Whether a link may lead there: http or https, to a host that was named, and to nobody's login."""
        if not _PLAIN.fullmatch(to):
            return False
        try:
            parts = urlsplit(to)
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and parts.hostname in self._hosts and "@" not in parts.netloc

    def tracked(self, unit: bytes, mailing: str, name: str, to: str) -> str:
        """A link that counts as `name` for a unit before it leads on."""
        said = {"u": unit.hex(), "m": mailing, "n": name, "to": to}
        return f"{self._base}/l?{urlencode({**said, 's': self._signed(list(said.values()))})}"

    def clicked(self, query: Mapping[str, Sequence[str]]) -> Click | None:
        """What a link says; None: it is not one of ours, or leads where none may lead any more."""
        said = [query.get(key, [""])[0] for key in ("u", "m", "n", "to")]
        unit, mailing, name, to = said
        signature = query.get("s", [""])[0]
        if not hmac.compare_digest(signature.encode(), self._signed(said).encode()) or not self.is_allowed(to):
            return None
        return Click(bytes.fromhex(unit), name, to, f"{mailing}:{signature[:22]}") if WORD.fullmatch(name) else None

    def unsubscribe(self, who: Recipient) -> str:
        """Where one click ends it."""
        body = who.unit + who.address
        return f"{self._base}/unsubscribe?u={urlsafe_b64encode(body + self._sealed(body)).decode()}"

    def recipient(self, said: str) -> Recipient | None:
        """Who wants no more mail; None: the link is not one of ours."""
        try:
            whole = urlsafe_b64decode(said.encode())
        except (binascii.Error, ValueError):
            return None
        body, signature = whole[: 2 * UNIT_BYTES], whole[2 * UNIT_BYTES :]
        if not hmac.compare_digest(signature, self._sealed(body)):
            return None
        return Recipient(body[:UNIT_BYTES], body[UNIT_BYTES:])

    def _sealed(self, body: bytes) -> bytes:
        return hmac.digest(self._leave, body, "sha256")[:_SIGNATURE]

    def _signed(self, said: Sequence[str]) -> str:
        whole = b"".join(len(one.encode()).to_bytes(4, "big") + one.encode() for one in said)
        return hmac.digest(self._link, whole, "sha256")[:_SIGNATURE].hex()
