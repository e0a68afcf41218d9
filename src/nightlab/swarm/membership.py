"""What one has joined: a folder per swarm, with its routers, its certificates and a way to ask others in.

HOME/swarms/NAME/swarm.toml                     name, id, label, setting, routers: what a person may read and change
HOME/swarms/NAME/ca.pem cert.pem cert-key.pem   a team's own authority, and one's own certificate by it
HOME/swarms/NAME/ca-key.pem invited.txt         with whoever made the swarm: who holds this key can ask others in
HOME/swarms/NAME.left-1                         one that was left; nothing of it is deleted

Three settings: "machine" is the shared store alone, without a network. A "team" has certificates, and whoever has none
by its authority can neither listen nor speak. "open" has none: everybody who knows the routers is in, and only the
signatures of the records say who said what.

A link of invitation holds a private key: whoever reads it on its way can come in, until the certificate ends or is
barred at the routers. A certificate says who may use the network, never who the author of a record is.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import os
import re
import secrets
import shutil
import tempfile
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, get_args

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from nightlab.errors import NightlabError, NotFound
from nightlab.swarm.identity import Identity, private, write_private
from nightlab.values import Clock
from nightlab.words import one_line

Setting = Literal["machine", "team", "open"]
SCHEME = "nightlab://join/"
FEW_ROUTERS = 3
"""An open swarm with fewer is at the mercy of one or two strangers."""
_LONGEST_LINK = 16_384
_YEARS = 10
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
_LEFT = re.compile(r"\.left-\d+$")
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])"
_ADDRESS = re.compile(rf"(?:(tcp|tls)/)?({_HOST}):([0-9]{{1,5}})")
_FILES = ("ca.pem", "cert.pem", "cert-key.pem")

_Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
_Pem = Annotated[str, StringConstraints(max_length=4000)]
_Text = Annotated[str, StringConstraints(max_length=300)]
_Texts = Annotated[list[_Text], Field(max_length=50)]
_strict = ConfigDict(extra="forbid", strict=True, frozen=True)


class BadSwarm(NightlabError):
    """A swarm that cannot be made or joined, a link that is none, or a folder that does not describe a swarm."""


@dataclass(frozen=True, slots=True)
class Membership:
    """A swarm as one of its members knows it. Routers are addresses like HOST:7447."""

    name: str
    id: str
    label: str
    setting: Setting
    routers: tuple[str, ...]
    listen: tuple[str, ...]
    folder: Path
    barred: tuple[str, ...] = ()
    """Names of certificates that routers of this home let do nothing."""

    @property
    def has_certificates(self) -> bool:
        """Whether only those may speak whom the swarm's own authority signed."""
        return self.setting == "team"

    @property
    def ca(self) -> Path:
        """The certificate of the swarm's own authority."""
        return self.folder / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """The key that asks others in; only whoever made the swarm has it."""
        return self.folder / "ca-key.pem"

    @property
    def cert(self) -> Path:
        """One's own certificate."""
        return self.folder / "cert.pem"

    @property
    def cert_key(self) -> Path:
        """The key of one's own certificate."""
        return self.folder / "cert-key.pem"

    @property
    def records(self) -> Path:
        """The store of what was said in this swarm."""
        return self.folder / "records.sqlite"

    def warnings(self) -> list[str]:
        """What a person should know about it, in words."""
        if self.setting == "open" and len(self.routers) < FEW_ROUTERS:
            return [
                f"an open swarm should know {FEW_ROUTERS} routers of different people; this one knows {self.routers}"
            ]
        if self.has_certificates and (until := _until(self)) < datetime.now(UTC) + timedelta(days=3):
            return [f"your certificate ends on {until:%Y-%m-%d %H:%M} UTC; ask for a new link, and join by it again"]
        return []


class _Written(BaseModel):
    """swarm.toml."""

    model_config = _strict

    name: _Text
    id: _Id
    label: _Text
    setting: Setting
    routers: _Texts
    listen: _Texts
    barred: Annotated[list[_Text], Field(max_length=10_000)]


class _Link(BaseModel):
    """What a link of invitation carries."""

    model_config = _strict

    v: Literal[1]
    name: _Text
    id: _Id
    label: _Text
    setting: Setting
    routers: _Texts
    ca: _Pem
    cert: _Pem
    key: _Pem


def create(
    home: Path,
    name: str,
    *,
    label: str,
    routers: Sequence[str] = (),
    setting: Setting = "team",
    hosts: Sequence[str] = (),
    clock: Clock = time.time,
) -> Membership:
    """A new swarm, of which one is the first member. Raises BadSwarm where there is one of this name already.

    `hosts` are the names by which a router on this machine is reached; those of `routers` are always among them.
    """
    if setting not in get_args(Setting):
        raise BadSwarm(f"there is no setting {setting!r}; write one of: {', '.join(get_args(Setting))}")
    place = _place(home, name)
    if place.exists():
        raise BadSwarm(f"there is a swarm {name} already; leave it first: nightlab swarm leave {name}")
    if setting == "machine" and routers:
        raise BadSwarm("a swarm on one machine has no routers; write --setting team")
    found = _addresses(routers)
    ports = {port for _, _, port in map(_parts, found)}
    joined = Membership(
        name, secrets.token_hex(16), _label(label), setting, found, tuple(f"0.0.0.0:{one}" for one in ports), place
    )
    files: dict[str, str] = {}
    if joined.has_certificates:
        author = Identity.load(home).author
        files = _authority(joined, author, [*hosts, *(host for _, host, _ in map(_parts, found))], clock())
    _lay(home, joined, files)
    return joined


def invite(
    home: Path, name: str, *, label: str, hosts: Sequence[str] = (), days: int = 30, clock: Clock = time.time
) -> str:
    """A link by which one other machine joins. Raises BadSwarm where one may not invite, NotFound.

    `hosts` are the names of that machine, where it is to run a router. The certificate in the link ends after `days`;
    joining by a newer link renews it.
    """
    joined = open(home, name)
    if joined.setting == "machine":
        raise BadSwarm(f"{name} is a swarm on one machine: every study here can use it, and nobody else")
    if not 1 <= days <= 365 * _YEARS:
        raise BadSwarm(f"an invitation for {days} days; write 1 to {365 * _YEARS}")
    files = dict.fromkeys(_FILES, "")
    if joined.has_certificates:
        ca, key = _ca(joined)
        common = f"{_safe(label)}-{secrets.token_hex(4)}"
        until = min(clock() + days * 86_400, ca.not_valid_after_utc.timestamp())
        files |= _certificate(common, hosts, ca, key, clock(), until) | {"ca.pem": joined.ca.read_text()}
        with (joined.folder / "invited.txt").open("a") as file:
            file.write(f"{common}\n")
    said = {"v": 1, "name": name, "id": joined.id, "label": _label(label), "setting": joined.setting}
    said |= {"routers": list(joined.routers), "ca": files["ca.pem"], "cert": files["cert.pem"]}
    packed = json.dumps(said | {"key": files["cert-key.pem"]}, separators=(",", ":")).encode()
    return SCHEME + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def join(home: Path, link: str, *, label: str | None = None, clock: Clock = time.time) -> Membership:
    """Become a member by a link, or renew one's certificate and routers by a newer one. Raises BadSwarm."""
    said = _read_link(link)
    place = _place(home, said.name)
    old = open(home, said.name) if place.exists() else None
    if old and old.id != said.id:
        raise BadSwarm(f"you are in another swarm called {said.name}; leave it first: nightlab swarm leave {said.name}")
    routers = _addresses(said.routers)
    if said.setting == "machine" or (old and old.setting != said.setting):
        raise BadSwarm(f"this link is for a swarm of the setting {said.setting}, which cannot be joined so")
    if old and old.has_certificates and old.ca.read_text() != said.ca:
        # The id of a swarm is no secret: a link that brings another authority would move us among strangers.
        raise BadSwarm(f"this link names another authority than the swarm {said.name} that you are in; do not trust it")
    keeps = (old.listen, place, old.barred) if old else ((), place)
    joined = Membership(said.name, said.id, _label(label or said.label), said.setting, routers, *keeps)
    files = _checked_files(said, clock()) if joined.has_certificates else {}
    if old and old.ca_key.exists():
        files = {}  # whoever made it has a certificate for as long as there is a swarm
    _lay(home, joined, files)
    return joined


def leave(home: Path, name: str) -> Path:
    """Be a member no more; returns where the folder went, records and all: it is only put aside. Raises NotFound."""
    joined = open(home, name)
    for number in range(1, 10_000):
        aside = joined.folder.with_name(f"{name}.left-{number}")
        if not aside.exists():
            joined.folder.rename(aside)
            return aside
    raise BadSwarm(f"{joined.folder.parent} holds thousands of swarms called {name} that were left; move some away")


def bar(home: Path, name: str, common_name: str) -> Membership:
    """Let nobody do anything with this certificate at the routers of this home, which notice within seconds.

    Raises NotFound where nobody was invited so. Routers of other homes are not told: whoever runs one has to be asked.
    """
    joined = open(home, name)
    known = _invited(joined)
    if common_name not in known:
        raise NotFound(f"nobody was invited to {name} as {common_name!r} (invited: {', '.join(known) or 'none'})")
    barred = tuple(sorted({*joined.barred, common_name}))
    changed = Membership(
        name, joined.id, joined.label, joined.setting, joined.routers, joined.listen, joined.folder, barred
    )
    _replace(joined.folder / "swarm.toml", _toml(changed))
    return changed


def admitted(joined: Membership) -> tuple[str, ...]:
    """The names of certificates that may do something; none where nobody was barred: then every certificate may."""
    if not joined.barred:
        return ()
    own = _load(joined.cert).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    known = {*_invited(joined), *(str(one.value) for one in own)}
    return tuple(sorted(known - set(joined.barred)))


def open(home: Path, name: str) -> Membership:  # noqa: A001  # it is said as membership.open
    """The swarm of this name. Raises NotFound with the names that are there, BadSwarm where its folder is broken."""
    place = _place(home, name)
    if not place.is_dir():
        there = ", ".join(names(home)) or "none"
        raise NotFound(f"you are in no swarm called {name} (in: {there}); nightlab swarm create {name}, or join a link")
    path = place / "swarm.toml"
    try:
        said = _Written.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadSwarm(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadSwarm(f"cannot read {path}: {error}") from error
    if said.name != name:
        raise BadSwarm(f"{path} describes the swarm {said.name}, not {name}; give the folder its own name again")
    routers, listen = _addresses(said.routers), _addresses(said.listen)
    joined = Membership(name, said.id, said.label, said.setting, routers, listen, place, tuple(said.barred))
    if missing := [one for one in _FILES if joined.has_certificates and not (place / one).exists()]:
        raise BadSwarm(f"{place} lacks {', '.join(missing)}; ask for a new link, and join by it again")
    return joined


def names(home: Path) -> list[str]:
    """The swarms one is in."""
    return sorted(one.parent.name for one in home.glob("swarms/*/swarm.toml") if _is_name(one.parent.name))


def endpoint(address: str, joined: Membership) -> str:
    """An address as the network's engine writes it: by tls where there are certificates, else by tcp if not said."""
    scheme, host, port = _parts(address)
    return f"{'tls' if joined.has_certificates else scheme or 'tcp'}/{host}:{port}"


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and _LEFT.search(name) is None


def _place(home: Path, name: str) -> Path:
    if not _is_name(name):
        raise BadSwarm(f"{name[:80]!r} cannot be a swarm's name: write letters, digits, dots, - and _, at most 60")
    return home / "swarms" / name


def _label(text: str) -> str:
    label = one_line(text, 60)
    if not label:
        raise BadSwarm("an empty label: write how others shall call you, like alice or lab-3")
    return label


def _safe(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", _label(label)).strip("-")[:30] or "lab"


def _addresses(said: Iterable[str]) -> tuple[str, ...]:
    """Addresses that hold nothing but an address: the engine reads options, and paths of files, from their ends."""
    found = tuple(dict.fromkeys(said))
    for one in found:
        _parts(one)
    return found


def _parts(address: str) -> tuple[str, str, int]:
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found[3]) < 65_536:
        raise BadSwarm(f"{address[:80]!r} is no address of a router; write one like lab.example.org:7447")
    return found[1] or "", found[2], int(found[3])


def _authority(joined: Membership, author: str, hosts: Sequence[str], now: float) -> dict[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, f"nightlab {joined.name}"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, joined.label),
        ]
    )
    until = now + _YEARS * 365.25 * 86_400
    usage = dict.fromkeys(("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"), False)
    usage |= dict.fromkeys(("key_agreement", "encipher_only", "decipher_only"), False)
    ca = (
        _builder(name, name, key.public_key(), now, until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    files = {"ca.pem": _pem(ca), "ca-key.pem": _key_pem(key)}
    return files | _certificate(f"{_safe(joined.label)}-{author[:8]}", hosts, ca, key, now, until)


def _certificate(
    common: str,
    hosts: Iterable[str],
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    now: float,
    until: float,
) -> dict[str, str]:
    """A certificate that is good on both sides: on a network without routers each lab is a server to the others."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    reached = [_general(one) for one in dict.fromkeys(["localhost", "127.0.0.1", *hosts])]
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    cert = (
        _builder(name, ca.subject, key.public_key(), now, until)
        .add_extension(x509.SubjectAlternativeName(reached), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, SHA256())
    )
    return {"cert.pem": _pem(cert), "cert-key.pem": _key_pem(key)}


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: float, until: float
) -> x509.CertificateBuilder:
    start = datetime.fromtimestamp(now - 86_400, UTC)  # a day for clocks that are slow
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(datetime.fromtimestamp(until, UTC))
    )


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    if not re.fullmatch(_HOST, host):
        raise BadSwarm(f"{host[:80]!r} is no name of a machine; write one like lab.example.org")
    return x509.DNSName(host)


def _pem(cert: x509.Certificate) -> str:
    return cert.public_bytes(Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _ca(joined: Membership) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    ca = _load(joined.ca)
    if not joined.ca_key.exists():
        maker = ca.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        who = one_line(str(maker[0].value), 60) if maker else "whoever made it"
        raise BadSwarm(f"only {who} can invite to {joined.name}: it takes the key of the swarm's authority; ask there")
    try:
        key = load_pem_private_key(joined.ca_key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadSwarm(f"cannot read {joined.ca_key}: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != ca.public_key():
        raise BadSwarm(f"{joined.ca_key} is not the key that nightlab swarm create wrote; put that one back")
    return ca, key


def _load(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadSwarm(f"cannot read {path}: {error}; ask for a new link, and join by it again") from error


def _invited(joined: Membership) -> list[str]:
    path = joined.folder / "invited.txt"
    return path.read_text().split() if path.exists() else []


def _until(joined: Membership) -> datetime:
    return _load(joined.cert).not_valid_after_utc


def _read_link(link: str) -> _Link:
    link = link.strip()
    if not link.startswith(SCHEME):
        raise BadSwarm(f"this is no link of invitation: they begin with {SCHEME}")
    if len(link) > _LONGEST_LINK:
        raise BadSwarm(f"a link of {len(link)} letters; at most {_LONGEST_LINK} are allowed")
    packed = link.removeprefix(SCHEME)
    try:
        text = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
        return _Link.model_validate_json(text)
    except (binascii.Error, ValidationError, ValueError) as error:
        raise BadSwarm("this link is torn or none of ours; copy the whole of it, without a line break") from error


def _checked_files(said: _Link, now: float) -> dict[str, str]:
    """The certificates of a link, written anew from what was understood of them, so that nothing else comes along."""
    try:
        ca, cert = (x509.load_pem_x509_certificate(one.encode()) for one in (said.ca, said.cert))
        key = load_pem_private_key(said.key.encode(), password=None)
        ca.verify_directly_issued_by(ca)
        cert.verify_directly_issued_by(ca)
        is_ca = ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound) as error:
        raise BadSwarm("the certificate in this link is not by the swarm's authority; ask for a new link") from error
    if not is_ca or not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != cert.public_key():
        raise BadSwarm("the key in this link does not belong to its certificate; ask for a new link")
    if not ca.not_valid_before_utc <= datetime.fromtimestamp(now, UTC) <= cert.not_valid_after_utc:
        raise BadSwarm(f"this link was good until {cert.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; ask for a new one")
    return {"ca.pem": _pem(ca), "cert.pem": _pem(cert), "cert-key.pem": _key_pem(key)}


def _toml(joined: Membership) -> str:
    """A JSON string of printable letters is one of TOML, too."""
    values = {"name": joined.name, "id": joined.id, "label": joined.label, "setting": joined.setting}
    lists = {"routers": joined.routers, "listen": joined.listen, "barred": joined.barred}
    said: Mapping[str, str | list[str]] = values | {key: list(value) for key, value in lists.items()}
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in said.items())


def _lay(home: Path, joined: Membership, files: Mapping[str, str]) -> None:
    """Write a membership: a new one appears as a whole, of an old one file after file is replaced."""
    texts = {**files, "swarm.toml": _toml(joined)}
    try:
        for folder in (home, home / "swarms"):
            private(folder)
        if joined.folder.exists():
            for file, text in texts.items():
                _replace(joined.folder / file, text)
            return
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=home / "swarms"))
        try:
            for file, text in texts.items():
                write_private(new / file, text.encode())
            os.rename(new, joined.folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        raise BadSwarm(f"cannot write {joined.folder}: {error.strerror or error}") from error


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    write_private(new, text.encode())
    os.replace(new, path)
