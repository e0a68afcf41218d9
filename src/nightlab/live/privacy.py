"""Privacy: who may be counted, and under which name; a name that leads back to nobody.

Does not cover: whoever has the secret and a list of names can hash the list and compare. Keep the secret with
nobody but the service; delete it, and all that is stored is of nobody for good.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nightlab.errors import BadTask

UNIT_BYTES = 16
_LEAST = 32
_BOTS = re.compile(
    r"bot\b|bot/|crawl|spider|slurp|headless|lighthouse|preview|fetch|monitor|scrap|curl/|wget/|python-|httpx|aiohttp"
    r"|libwww|java/|go-http|okhttp|axios|node-|phantom|selenium|facebookexternalhit|whatsapp|pingdom|^mozilla/5\.0$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Secret:
    """What a service hashes visitors and signs tokens with: one key for each purpose."""

    key: bytes

    @classmethod
    def at(cls, path: Path) -> Secret:
        """The secret in a file that its owner alone may read, made where there is none. Raises BadTask."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return cls._read(path)
        with os.fdopen(made, "w") as file:
            file.write(secrets.token_hex(_LEAST))
            file.flush()
            os.fsync(file.fileno())
        return cls._read(path)

    @classmethod
    def _read(cls, path: Path) -> Secret:
        if path.stat().st_mode & 0o077:
            raise BadTask(f"{path} can be read by others on this machine; keep it to yourself with: chmod 600 {path}")
        key = path.read_text().strip().encode()
        if len(key) < _LEAST:
            raise BadTask(f"{path} holds {len(key)} letters; a secret needs {_LEAST}; remove it and a new one is made")
        return cls(key)

    def derived(self, purpose: str) -> bytes:
        """A key of its own for one purpose."""
        return hmac.digest(self.key, b"nightlab live " + purpose.encode(), "sha256")

    def hashed(self, name: str) -> bytes:
        """A visitor's name as it is stored."""
        return hmac.digest(self.derived("unit"), name.encode(), "sha256")[:UNIT_BYTES]

    @property
    def api_key(self) -> str:
        """What a server of yours says to be believed about its visitors."""
        return hashlib.sha256(self.derived("api")).hexdigest()[:40]

    def is_api_key(self, said: str) -> bool:
        """Whether this is the key; takes as long for a near miss as for a far one."""
        return hmac.compare_digest(said.encode(), self.api_key.encode())


def objects(headers: Mapping[str, str]) -> bool:
    """Whether a browser has asked not to be followed: Global Privacy Control, or Do Not Track."""
    return headers.get("sec-gpc") == "1" or headers.get("dnt") == "1"


def is_bot(agent: str) -> bool:
    """Whether a browser's name is none of a person's. A bot that lies about its name is not recognised."""
    return len(agent) < 12 or _BOTS.search(agent) is not None
