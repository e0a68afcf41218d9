"""Notifications: what came of a night, in one line and a few more, to wherever one reads; apprise carries them.

They are sent from a thread of their own, which reads the ledger like anyone else. What cannot be sent is said once, and
the night goes on.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from nightlab.errors import BadTask, NightlabError
from nightlab.ledger import Ledger
from nightlab.lineage import LAB
from nightlab.place import Place
from nightlab.readings import status
from nightlab.values import Clock, Experiment, Status
from nightlab.words import one_line

if TYPE_CHECKING:
    from apprise import Apprise

WHEN = {"at-once": 0.0, "hourly": 3600.0, "daily": 86400.0, "end": float("inf"), "off": float("inf")}
"""How long a keep may wait to be told; the end of a night is told at once, unless `off`."""
_LOOK = 5.0  # what is kept in so many seconds is one message
_PATIENCE = 30.0
_LONGEST = 100  # letters of anything that an agent wrote
_HINT = "write one like ntfy://TOPIC, mailto://USER:PASSWORD@gmail.com, slack://..., tgram://..., json://HOST/PATH"


@dataclass(frozen=True, slots=True)
class Message:
    """What is told: a line that says the result, and up to five more."""

    title: str
    lines: tuple[str, ...]

    @property
    def body(self) -> str:
        """All of it as plain text."""
        return "\n".join(self.lines[:6])


def carrier(urls: Sequence[str]) -> Apprise:
    """Whoever carries messages to these addresses. Raises BadTask; of an address, only its scheme is ever shown."""
    try:
        from apprise import Apprise
    except ImportError as error:
        raise BadTask('notifications need apprise: pip install "nightlab[notify]"') from error
    logger = logging.getLogger("apprise")  # it says addresses, secrets included; we say what failed ourselves
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    carries = Apprise()
    for url in urls:
        target = Apprise.instantiate(url)
        if target is None:
            raise BadTask(f"cannot notify {masked(url)}: apprise knows no such address; {_HINT}")
        carries.add(target)
    return carries


def masked(url: str) -> str:
    """An address that may be shown: its scheme alone, since tokens stand in any of its other parts."""
    scheme, found, _ = url.partition("://")
    return f"{scheme}://..." if found and scheme.isalnum() and len(scheme) < 20 else "..."


def check(when: str) -> None:
    """Raises BadTask where no policy is called so."""
    if when not in WHEN:
        raise BadTask(f"there is no --notify-when {when!r}; write one of: {', '.join(WHEN)}")


def send(carries: Apprise, message: Message) -> bool:
    """Carry a message to all addresses; whether each of them took it."""
    from apprise import NotifyFormat

    return bool(carries.notify(message.body, title=message.title, body_format=NotifyFormat.TEXT))


def safe(text: str, longest: int = _LONGEST) -> str:
    """Text from outside on one line, cut, without links or calls to anybody: chats act on what they are sent."""
    plain = one_line(text, len(text))
    still = plain.replace("://", ": //").translate({ord("@"): "\uff20", ord("<"): "\u2039", ord(">"): "\u203a"})
    return still if len(still) <= longest else still[: longest - 3] + "..."


def headline(ledger: Ledger, facts: dict[str, Any]) -> str:
    """The result in one line: "12 kept of 96, audited -31 % +- 2 %, 0 cheats caught, $3.10"."""
    proposers = [one for one in ledger.proposers() if one["proposer"] != LAB]
    kept, tried = (sum(one[name] for one in proposers) for name in ("kept", "experiments"))
    cheats = ledger.counts().get(Status.INVALID, 0)
    caught = f"{cheats} cheat{'' if cheats == 1 else 's'} caught"
    return f"{kept} kept of {tried - facts['rejected']}, {_audited(facts)}, {caught}, ${facts['cost']['money']:.2f}"


def _audited(facts: dict[str, Any]) -> str:
    found = facts["audited"]
    if found is None:
        return "not audited"
    if not found["percent"] or not found["gain"]:
        said = f"audited gain {found['gain']:.3g} ({found['low']:.3g} to {found['high']:.3g})"
    else:
        change = found["percent"] * (-1 if facts["direction"] == "lower" else 1)
        half = abs((found["high"] - found["low"]) / 2 * found["percent"] / found["gain"])
        said = f"audited {change:+.2g} % +- {half:.2g} %"
    held = "" if found["low"] > 0 else " (no gain that holds)"
    return said + held + ("" if found["experiment"] == facts["incumbent"]["id"] else " (of an earlier tree)")


def _kept_line(one: Experiment) -> str:
    gain = "" if one.gain is None else f", gain {one.gain:.3g}"
    return f"kept {one.id}{gain} ({one.grade}): {safe(one.hypothesis)}"


class Notices:
    """Watches a study and sends what is due. Use as a context around a night; the end is told when it is left.

    `look` says what is due now, and is all that knows of time.
    """

    def __init__(
        self, place: Place, carries: Apprise, *, when: str, say: Callable[[str], None], clock: Clock = time.time
    ) -> None:
        check(when)
        self._place, self._carries, self._say, self._clock, self._when = place, carries, say, clock, when
        self._last, self._seen = clock(), 0
        self._has_failed = False
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._watch, name="notices", daemon=True)

    def __enter__(self) -> Self:
        with closing(Ledger(self._place.ledger)) as ledger:
            self._seen = ledger.last_seq()
        if self._when != "off":
            self._thread.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._when == "off":
            return
        self._error = error
        self._over.set()
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            self._say(f"notifications: not sent in {_PATIENCE:.0f} s, so left behind")

    def _watch(self) -> None:
        try:
            with closing(Ledger(self._place.ledger)) as ledger:
                while not self._over.wait(_LOOK):
                    if message := self.look(ledger):
                        self._send(message)
                self._send(self.end(ledger, self._error))
        except (NightlabError, sqlite3.Error) as error:  # a full disk is the night's own to tell
            self._say(f"notifications: ended, the ledger cannot be read ({error})")

    def _send(self, message: Message) -> None:
        if not send(self._carries, message) and not self._has_failed:
            self._has_failed = True
            self._say("notifications: an address did not take a message; try it by: nightlab notify URL")

    def look(self, ledger: Ledger) -> Message | None:
        """What is due now: keeps at once, or a digest when its time has come."""
        now, every = self._clock(), WHEN[self._when]
        if now - self._last < every:
            return None
        decided = [event for event in ledger.read(self._seen) if event.kind == "decided"]
        kept = [ledger.experiment(event.experiment or 0) for event in decided if event.body["status"] == Status.KEPT]
        kept = [one for one in kept if one.proposer != LAB]
        if not every and not kept:
            return None
        self._seen, self._last = ledger.last_seq(), now
        best = sorted(kept, key=lambda one: -(one.gain or 0.0))[:4]
        since = () if not every else (f"since the last message: {len(decided)} decided, {len(kept)} kept",)
        return self._message(
            "kept one" if not every else f"{self._when} digest", ledger, *since, *map(_kept_line, best)
        )

    def end(self, ledger: Ledger, error: BaseException | None) -> Message:
        """What came of it, and why it ended."""
        stands = [one for one in ledger.experiments(status=Status.KEPT) if one.id and one.proposer != LAB]
        best = max(stands, key=lambda one: one.gain or 0.0, default=None)
        stopped = ledger.last("stopped")
        why = f"stopped: {safe(stopped.body['reason'])}" if stopped else "stopped"
        if error is not None:
            why = f"ended by an error: {safe(str(error), 300) if isinstance(error, NightlabError) else 'interrupted'}"
        page = self._place.home / "report.html"  # a night that ends well writes it next
        has_page = error is None or page.exists()
        where = f"report: {page}" if has_page else f"report: nightlab -C {self._place.root} report"
        lines = [f"best: {_kept_line(best)}"] if best else []
        return self._message("done" if error is None else "stopped", ledger, *lines, why, where)

    def _message(self, what: str, ledger: Ledger, *lines: str) -> Message:
        facts = status(ledger, name=self._place.name, is_running=False)
        return Message(f"nightlab {self._place.name}: {what}", (headline(ledger, facts), *lines))
