"""Sending: a mailing to a list of recipients, each once at the most, whatever happens in between.

That a mail is begun is on the disk before it is handed over, and what became of it afterwards:

  taken      the mail server has it; whether it arrived, only a bounce would tell
  refused    the mail server will never take it (5xx)
  deferred   it was not taken, for now (4xx, or no connection); the next run of the same mailing sends it
  begun      the lab or the connection died in between: it may have gone, so it is never sent again

At most once means that: a kill costs one recipient their mail rather than sending it twice. Whoever was begun is
counted as shown, whether it arrived or not: that dilutes an effect, the same in every arm, and invents none.
"""

from __future__ import annotations

import csv
import email.policy
import ipaddress
import smtplib
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.headerregistry import Address
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from nightlab.errors import BadTask, NightlabError
from nightlab.live.drawing import Showing
from nightlab.live.links import Recipient
from nightlab.live.mail import Templates, address_of
from nightlab.live.privacy import Secret
from nightlab.live.store import Exposure, SendStatus, Store
from nightlab.values import Clock

_PATIENCE = 30.0
_SMTP = email.policy.SMTP
_TOO_MANY = 10


@dataclass(frozen=True, slots=True)
class Person:
    """A row of the list."""

    who: Recipient
    address: Address
    consents: bool
    """Whether what they do may be counted; without it they get the champion's mail with plain links."""
    said: Mapping[str, str] = field(default_factory=dict)


def people(path: Path, secret: Secret) -> list[Person]:
    """The list, a CSV file with `id`, `address`, `consent` (yes or no), and segments. Raises BadTask with the line."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if missing := {"id", "address", "consent"} - set(rows.fieldnames or ()):
            raise BadTask(f"{path.name} has no column {', '.join(sorted(missing))}")
        found: dict[bytes, Person] = {}
        for row in rows:
            try:
                person = _person(row, secret)
            except BadTask as error:
                raise BadTask(f"{path.name} line {rows.line_num}: {error}") from error
            found.setdefault(person.who.unit, person)
    return list(found.values())


def _person(row: Mapping[str, str | None], secret: Secret) -> Person:
    name = (row["id"] or "").strip()
    if not 0 < len(name) <= 200:
        raise BadTask("an id is a text of 1 to 200 letters")
    address = address_of(row["address"] or "")
    who = Recipient(secret.hashed(name), secret.hashed("mailto:" + address.addr_spec.casefold()))
    said = {key: value for key, value in row.items() if key and value}
    return Person(who, address, (row["consent"] or "").strip().casefold() == "yes", said)


@dataclass
class Carrier:
    """A connection to a mail server: smtp://[user:password@]host[:port], or smtps://. Plain only on this machine."""

    url: str
    _smtp: smtplib.SMTP | None = None

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        if self._smtp is not None:
            self._smtp.close()

    def connect(self) -> smtplib.SMTP:
        """A connection that answers, made anew where there is none. Raises NightlabError."""
        if self._smtp is not None and self._answers(self._smtp):
            return self._smtp
        host = urlsplit(self.url).hostname or ""
        try:
            self._smtp = self._opened()
        except (OSError, smtplib.SMTPException) as error:
            raise NightlabError(f"the mail server {host!r} does not answer ({error}); run it again to go on") from error
        return self._smtp

    def _answers(self, smtp: smtplib.SMTP) -> bool:
        try:
            return smtp.noop()[0] == 250
        except (OSError, smtplib.SMTPException):
            return False

    def _opened(self) -> smtplib.SMTP:
        parts, safe = urlsplit(self.url), ssl.create_default_context()
        host = parts.hostname or ""
        smtp: smtplib.SMTP
        if parts.scheme == "smtps":
            smtp = smtplib.SMTP_SSL(host, parts.port or 465, timeout=_PATIENCE, context=safe)
        else:
            smtp = smtplib.SMTP(host, parts.port or 587, timeout=_PATIENCE)
            if not _is_here(host):
                smtp.starttls(context=safe)
        if parts.username:
            smtp.login(unquote(parts.username), unquote(parts.password or ""))
        return smtp

    def carry(self, person: Person, templates: Templates, message: bytes) -> SendStatus:
        """Hand one mail over. `begun`: the connection broke, and nobody knows. Raises SMTPSenderRefused."""
        smtp = self.connect()
        try:
            smtp.sendmail(templates.sender.addr_spec, [person.address.addr_spec], message)
        except smtplib.SMTPRecipientsRefused as error:
            return _said(next(iter(error.recipients.values()))[0])
        except smtplib.SMTPSenderRefused:
            raise
        except smtplib.SMTPResponseException as error:
            return _said(error.smtp_code)
        except (smtplib.SMTPException, OSError):
            smtp.close()
            self._smtp = None
            return "begun"
        return "taken"


def _said(code: int) -> SendStatus:
    return "deferred" if 400 <= code < 500 else "refused"


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass
class Mailing:
    """One mailing under way. Its name is what makes it one: the same name sends to nobody twice."""

    name: str
    store: Store
    templates: Templates
    clock: Clock = time.time
    rate: float = 10.0
    sleep: Callable[[float], None] = time.sleep
    _showing: Showing | None = None

    def plan(self, list_: list[Person]) -> Counter[str]:
        """What would be sent to how many, with nothing written down and nobody written to."""
        before = self.store.sends(self.name)
        return Counter(self._planned(person, before) for person in list_)

    def _planned(self, person: Person, before: Mapping[bytes, SendStatus]) -> str:
        if before.get(person.who.unit, "deferred") != "deferred":
            return "already"
        if self.store.is_suppressed(person.who.address):
            return "suppressed"
        return f"version {self._drawn(person, is_kept=False)}"

    def send(self, list_: list[Person], carrier: Carrier) -> Iterator[str]:
        """Write to each who was not written to, no faster than the rate; says what became of each.

        Raises NightlabError where the mail server is away, takes no mail from us, or refuses one after the other.
        """
        before, due, refused = self.store.sends(self.name), time.monotonic(), 0
        for person in list_:
            if before.get(person.who.unit, "deferred") != "deferred":
                yield "already"
            elif self.store.is_suppressed(person.who.address):
                yield "suppressed"
            else:
                self.sleep(max(0.0, due - time.monotonic()))
                due = max(due, time.monotonic()) + 1 / self.rate
                status = self._write_to(person, carrier)
                refused = refused + 1 if status == "refused" else 0
                yield status
            if refused >= _TOO_MANY:
                raise NightlabError(f"{refused} mails in a row were refused for good; ask the mail server's log why")

    def _write_to(self, person: Person, carrier: Carrier) -> str:
        carrier.connect()  # a server that is away is no reason to begin
        copy = self.showing.copy(self._drawn(person, is_kept=True))
        message = self.templates.message(
            person.address, person.who, copy, self.name, counts=person.consents, at=self.clock()
        )
        if not self.store.begin_send(self.name, person.who.unit):
            return "already"
        try:
            status = carrier.carry(person, self.templates, message.as_bytes(policy=_SMTP))
        except smtplib.SMTPSenderRefused as error:
            self.store.settle_send(self.name, person.who.unit, "deferred")
            raise NightlabError(f"the mail server takes no mail from {error.sender} ({error})") from error
        if status != "begun":
            self.store.settle_send(self.name, person.who.unit, status)
        return status

    @property
    def showing(self) -> Showing:
        """What is shown now; a rollback is in effect with the next mail."""
        split, rules = self.store.split(), self.store.rules()
        if split is None or rules is None:
            raise BadTask("nothing is deployed yet; nightlab live deploy shows the start")
        if self._showing is None or self._showing.split.version != split.version:
            self._showing = Showing.of(rules, split, {arm.number: arm for arm in self.store.arms()})
        return self._showing

    def _drawn(self, person: Person, *, is_kept: bool) -> int:
        """The version a recipient gets: what they were shown before, or drawn as visitors are."""
        showing, unit = self.showing, person.who.unit
        if not person.consents:
            return showing.split.champion
        ticket = showing.ticket(unit, self.store.assigned([unit]).get(unit), self.clock())
        if not is_kept:
            return ticket.arm
        segment = showing.rules.segment(person.said)
        shown = Exposure(unit, ticket.arm, ticket.split, segment, ticket.holdout, self.clock())
        return self.store.record([shown])[0].arm
