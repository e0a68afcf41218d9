"""The page's words: numbers, times and states as people read them; no state is said by colour alone."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any

from nightlab.dashboard.terminal import duration, number
from nightlab.values import Status

MARKS = {
    Status.KEPT: "▲",
    Status.DISCARDED: "▽",
    Status.SHELVED: "◇",
    Status.PRUNED: "△",
    Status.REVERTED: "△",
    Status.REJECTED: "=",
    Status.PROPOSED: "●",
    Status.MEASURED: "●",
    Status.RACING: "●",
}
"""Beside the word for a status, for the eye; everything that failed has a cross."""
GRADES = {"E1": "one run", "E2": "raced", "E3": "audited", "E4": "transferred"}
_LONGEST = 400
_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def visible(value: Any) -> Any:
    """Text from outside as it really reads: what is no letter, or turns the order of letters around, is a picture.

    Escaping is the templates' own; this is for what markup does not see.
    """
    return value if type(value) is not str or value.isprintable() else _HIDDEN.sub(_picture, value)


def _picture(found: re.Match[str]) -> str:
    """A control character as Unicode pictures it; any other hidden one as the sign for what cannot be shown."""
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else "�"


def mark(status: str) -> str:
    """The sign of a status."""
    return MARKS.get(Status(status), "✕")


def family(status: str) -> str:
    """What a status amounts to: kept, open, failed or gone."""
    one = Status(status)
    if one is Status.KEPT:
        return "kept"
    if one.is_open:
        return "open"
    return "failed" if one.is_failure else "gone"


def signed(value: float | None, digits: int = 3) -> str:
    """A gain, with its sign; a dash where there is none."""
    if value is None:
        return "–"
    return "0" if value == 0 else f"{value:+.{digits}g}".replace("-", "−")


def plain(value: float | None, digits: int = 5) -> str:
    """A number; a dash where there is none."""
    return number(value, digits).replace("-", "–" if value is None else "−", 1)


def count(value: float | None) -> str:
    """A whole number with its thousands apart."""
    return "–" if value is None else f"{value:,.0f}"


def amount(value: Any) -> str:
    """A number of any kind for people: whole ones whole, others short, words as they are."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else plain(value, 6)
    return str(value)


def lasted(seconds: float | None) -> str:
    """Seconds as people say them; a dash where they are not known."""
    return "–" if seconds is None else duration(max(0.0, seconds))


def clock(at: float | None) -> str:
    """When, on this machine's clock."""
    return "–" if at is None else datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def ago(at: float | None) -> str:
    """How long ago."""
    return "–" if at is None else lasted(round(time.time() - at))


def short(text: str, letters: int = _LONGEST) -> str:
    """The beginning of a text, on one line; words from outside can be long."""
    line = " ".join(text[: letters * 4].split())
    return line if len(line) <= letters and len(text) <= letters * 4 else line[: letters - 1] + "…"


FILTERS = {
    "mark": mark,
    "family": family,
    "signed": signed,
    "plain": plain,
    "count": count,
    "amount": amount,
    "lasted": lasted,
    "clock": clock,
    "ago": ago,
    "short": short,
}
