"""A mail: two frozen templates, HTML and text, with a version's copy in their slots and links that count.

<title>{{subject}}</title>                                      the subject; it has to be there
<a href="https://shop.example/try" data-nightlab="signup">      a click on it is the outcome "signup"; else "click"
<a href="nightlab:unsubscribe">No more mail</a>                 in both templates; a link that works for everybody

Links stand in the templates, never in the copy: what an agent writes leads nowhere. `unfit` refuses what mail programs
would make a link of. Does not cover: a bare name such as example.com, which some programs make a link of too.
"""

from __future__ import annotations

import hmac
import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from functools import partial
from html import escape, unescape
from pathlib import Path
from typing import Self

from nightlab.errors import BadTask, Invalid
from nightlab.live.links import Links, Recipient
from nightlab.live.privacy import Secret
from nightlab.live.rendering import Copy, filled, rendered, slots
from nightlab.live.store import WORD

LEAVE = "nightlab:unsubscribe"
_ANCHOR = re.compile(r"<a\b[^>]*>", re.IGNORECASE)
_HREF = re.compile(r"""\bhref\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)
_NAME = re.compile(r"""\bdata-nightlab\s*=\s*["']([^"']*)["']""", re.IGNORECASE)
_WEB = re.compile(rf"https?://[^\s<>\"']*[^\s<>\"'.,;:!?)]|{LEAVE}")
_LINKLIKE = re.compile(r"://|\bwww\.|\S@\S|\w\.\w{2,}/", re.IGNORECASE)


def unfit(copy: Copy) -> str | None:
    """Why no mail can be made of this copy; None where one can."""
    if not copy.get("subject", "").strip():
        return "a mail needs a subject"
    if any(unicodedata.category(one) in ("Cc", "Zl", "Zp") for one in copy["subject"]):
        return "the subject is more than one line; a header could hide in it"
    for slot, text in copy.items():
        if found := _LINKLIKE.search(text):
            return f"{slot} holds {found[0]!r}, which becomes a link; links stand in the template"
    return None


@dataclass(frozen=True, slots=True)
class Templates:
    """The frozen part of a mail, and from whom it is."""

    html: str
    text: str
    sender: Address
    links: Links
    secret: Secret

    @classmethod
    def at(cls, page: Path, sender: str, links: Links, secret: Secret) -> Self:
        """The templates of a task: mail.html, and mail.txt beside it. Raises BadTask where they cannot be sent."""
        words = page.with_suffix(".txt")
        if not words.is_file():
            raise BadTask(f"{page.name} needs its words without markup beside it, in {words.name}")
        found = cls(page.read_text(), words.read_text(), address_of(sender), links, secret)
        found._check(page.name, words.name)
        return found

    def _check(self, page: str, words: str) -> None:
        if "subject" not in slots(self.html):
            raise BadTask(f"{page} has no subject; begin it with <title>{{{{subject}}}}</title>")
        if odd := [one for one in slots(self.text) if one not in slots(self.html)]:
            raise BadTask(f"{words} has a slot {odd[0]} that {page} has not")
        hrefs = [_href(tag) for tag in _ANCHOR.findall(self.html)]
        for name, targets in ((page, hrefs), (words, _WEB.findall(self.text))):
            if LEAVE not in targets:
                raise BadTask(f"{name} has no link out of it; add one to {LEAVE}")
            if odd := [one for one in targets if one != LEAVE and not self.links.is_allowed(one)]:
                raise BadTask(f"{name} leads to {odd[0]!r}; name its host in nightlab.toml: [live] hosts = [...]")
        if odd := [one for one in _NAME.findall(self.html) if not WORD.fullmatch(one)]:
            raise BadTask(f"{page}: {odd[0]!r} is no name for an event; use letters, digits and _.:-")

    def message(
        self, to: Address, who: Recipient, copy: Copy, mailing: str, *, counts: bool, at: float
    ) -> EmailMessage:
        """The mail for one recipient. Where it may not count, its links are plain. Raises Invalid."""
        if trouble := unfit(copy):
            raise Invalid(trouble)
        leave = self.links.unsubscribe(who)
        target = partial(self._target, who=who, mailing=mailing, counts=counts, leave=leave)
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Subject"] = self.sender, to, copy["subject"]
        mail["Date"] = format_datetime(datetime.fromtimestamp(at, UTC))
        mail["Message-ID"] = f"<{self._id(mailing, who.unit)}@{self.sender.domain}>"
        mail["List-Unsubscribe"] = f"<{leave}>"
        mail["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
        mail.set_content(filled(_WEB.sub(lambda found: target(found[0], "click"), self.text), copy))
        mail.add_alternative(rendered(_ANCHOR.sub(partial(_led, target=target), self.html), copy), subtype="html")
        return mail

    def _target(self, to: str, name: str, *, who: Recipient, mailing: str, counts: bool, leave: str) -> str:
        if to == LEAVE:
            return leave
        return self.links.tracked(who.unit, mailing, name, to) if counts else to

    def _id(self, mailing: str, unit: bytes) -> str:
        """The same for the same mail: who gets it twice after all can tell."""
        return hmac.digest(self.secret.derived("message"), mailing.encode() + b"\0" + unit, "sha256").hex()[:32]


def address_of(said: str) -> Address:
    """An address, `hello@example.org` or `Name <hello@example.org>`. Raises BadTask; nothing can hide in it."""
    found = re.fullmatch(
        r"(?:([^<>@\r\n\x00-\x1f\x7f]*)<)?([A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+)>?", said.strip()
    )
    if found is None or ("<" in said) != said.strip().endswith(">"):
        raise BadTask(f"{said!r} is no mail address")
    try:
        return Address((found[1] or "").strip().strip('"'), addr_spec=found[2])
    except (ValueError, IndexError) as error:
        raise BadTask(f"{said!r} is no mail address ({error})") from error


def _href(tag: str) -> str:
    found = _HREF.search(tag)
    return unescape(found[1] or found[2] or "") if found else ""


def _led(found: re.Match[str], *, target: partial[str]) -> str:
    """A tag whose link counts; a text in a slot of it is filled in later."""
    name = _NAME.search(found[0])
    to = target(_href(found[0]), name[1] if name else "click")
    return _HREF.sub(lambda _: f'href="{escape(to)}"', found[0], count=1)
