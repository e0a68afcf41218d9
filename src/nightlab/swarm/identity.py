"""The author's Ed25519 key: who signs what this machine says in a swarm.

One key a machine, for all its swarms and studies. A key copied to a second machine signs two chains of records under
one name; peers can prove that, and hear its author no more. Whoever reads the file can speak in the author's name: the
permissions keep other users out, not programs of the same user, and nothing here asks for a passphrase.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from nightlab.errors import NightlabError

KEY_FILE = "key.pem"
_LARGEST = 4096  # bytes of a key file; ours has 119
_AUTHOR = re.compile(r"[0-9a-f]{64}")
_P = 2**255 - 19
_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_WEAK = frozenset({0, 1, _P - 1, _P, _P + 1, _ORDER_8, _P - _ORDER_8})
"""The y of the eight points of small order, in every way to write them. OpenSSL takes them for keys, and then one
signature verifies for one in eight of all messages, or for each: whoever wants to would speak as such an author.
"""


class BadKey(NightlabError):
    """The key file cannot be made, read or trusted."""


def home(environ: Mapping[str, str]) -> Path:
    """Where a user's key and swarms are kept: $NIGHTLAB_HOME, else nightlab in the user's configuration folder."""
    if own := environ.get("NIGHTLAB_HOME"):
        return Path(own).expanduser().absolute()
    shared = environ.get("XDG_CONFIG_HOME", "")
    # A relative XDG_CONFIG_HOME is to be ignored, says its specification: it would be another home in each folder.
    base = Path(shared) if Path(shared).is_absolute() else Path(environ.get("HOME") or Path.home(), ".config")
    return base / "nightlab"


def is_author(text: str) -> bool:
    """Whether this could be an author: 64 lower-case hexadecimal digits, and no key that signs for everybody."""
    if _AUTHOR.fullmatch(text) is None:
        return False
    return int.from_bytes(bytes.fromhex(text), "little") % 2**255 not in _WEAK


@dataclass(frozen=True, slots=True)
class Identity:
    """An author with the key to sign as such; `author` is the public key in hexadecimal digits."""

    author: str
    _key: Ed25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def load(cls, home: Path) -> Identity:
        """The identity of this machine's user; its key is made when there is none yet. Raises BadKey."""
        path = home / KEY_FILE
        try:
            private(home)
            if not os.path.lexists(path):
                _make(path)
            key = _read(path)
        except OSError as error:
            raise BadKey(f"cannot use the key {path}: {error.strerror or error}") from error
        return cls(key.public_key().public_bytes_raw().hex(), key)

    def sign(self, message: bytes) -> bytes:
        """The author's signature of a message, 64 bytes."""
        return self._key.sign(message)


def verifies(author: str, signature: bytes, message: bytes) -> bool:
    """Whether this author signed this message; False as well for what is no author or no signature."""
    if not is_author(author):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(author)).verify(signature, message)
    except (InvalidSignature, ValueError):  # ValueError: bytes that are no public key
        return False
    return True


def private(folder: Path) -> None:
    """Make a folder that only its owner may enter. Raises BadKey where it is there and others may write in it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) & 0o022:
        raise BadKey(
            f"others may write in {folder}, so they could lay down a key of theirs; mend it: chmod 700 {folder}"
        )


def write_private(path: Path, text: bytes) -> None:
    """A new file, whole on disk, that only its owner may read. Raises FileExistsError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(handle)


def _make(path: Path) -> None:
    key = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    write_private(new, key)
    try:
        # A link and not a rename: of two labs that start at once, the second finds the first one's key, whole.
        os.link(new, path)
    except FileExistsError:
        return
    finally:
        new.unlink()


def _read(path: Path) -> Ed25519PrivateKey:
    if path.is_symlink():
        raise BadKey(f"the key {path} is a link; put the file itself there, or set NIGHTLAB_HOME to where it is")
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise BadKey(f"the key {path} is no file; move it away, and a new key is made")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise BadKey(f"others may read the key {path}, so they may sign as you; mend it: chmod 600 {path}")
        text = file.read(_LARGEST + 1)
    try:
        key = load_pem_private_key(text, password=None) if len(text) <= _LARGEST else None
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it is under a passphrase
        raise BadKey(f"the key {path} is broken or under a passphrase ({error}); {_MEND}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKey(f"the key {path} is not an Ed25519 key; {_MEND}")
    return key


_MEND = "put back a copy, or move it away: a new one is made, under which you are a new author"
