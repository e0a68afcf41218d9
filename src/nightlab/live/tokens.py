"""Tokens: a unit's assignment, signed, so that the one who holds it can be believed without being known.

A token says which unit was given which arm under which split, and when. Whoever has one can act for that unit and for
no other; it holds no name. A changed or invented one is refused.
"""

from __future__ import annotations

import binascii
import hmac
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

from nightlab.live.privacy import Secret

_BODY = struct.Struct(">16sIIBI")
_SIGNATURE = 16
_LENGTH = 60  # of the text: 45 bytes


class Ticket(NamedTuple):
    """What a token says."""

    unit: bytes
    arm: int
    split: int
    holdout: bool
    at: int


class Signer:
    """Makes tokens and reads them."""

    def __init__(self, secret: Secret) -> None:
        self._key, self._preview = secret.derived("token"), secret.derived("preview")

    def signed(self, ticket: Ticket) -> str:
        """A ticket as a text that nobody else can make."""
        body = _BODY.pack(*ticket)
        return urlsafe_b64encode(body + hmac.digest(self._key, body, "sha256")[:_SIGNATURE]).decode()

    def read(self, token: object) -> Ticket | None:
        """What a token says; None: it is not one of ours."""
        if not isinstance(token, str) or len(token) != _LENGTH:
            return None
        try:
            whole = urlsafe_b64decode(token.encode())
        except (binascii.Error, UnicodeEncodeError):
            return None
        body, signature = whole[: _BODY.size], whole[_BODY.size :]
        if not hmac.compare_digest(hmac.digest(self._key, body, "sha256")[:_SIGNATURE], signature):
            return None
        unit, arm, split, held, at = _BODY.unpack(body)
        return Ticket(unit, arm, split, bool(held), at)

    def preview(self, arm: int) -> str:
        """What shows one arm to whoever checks it, and is not counted."""
        return f"{arm}-{hmac.digest(self._preview, str(arm).encode(), 'sha256').hex()[:32]}"

    def previewed(self, said: str) -> int | None:
        """The arm that a preview is of; None: it is not one of ours."""
        number = said.partition("-")[0]
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            return None
        return int(number) if hmac.compare_digest(said.encode(), self.preview(int(number)).encode()) else None
