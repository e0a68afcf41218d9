"""The brand guard: `baseline.md`, what never changes, held by code before anything is shown to anybody.

## Never changes      - footer: "the very text"      this slot, word for word
                      - "14 days free"               somewhere in the copy, word for word
## Numbers            - 14, 19                       the only numbers that the copy may name; no section: any
## Forbidden          - guaranteed                   a word or phrase, whatever its case, accents and spacing
                      - /number (one|1)/             a regular expression
## Lengths            - headline: 10 to 60           characters; `*` stands for every slot that is not named
## Tone               - no exclamation marks         one of those that `TONES` knows

Prose in between is for people and agents, and rules nothing. What this does *not* cover: a false claim in other words.
That is what the approval by a human is for.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from nightlab.errors import BadTask
from nightlab.live.rendering import Copy

FILE = "baseline.md"
_SECTIONS = ("never changes", "numbers", "forbidden", "lengths", "tone")
_LONGEST = 1000
_SPACES = re.compile(r"\s+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_HIDDEN = ("Cc", "Cf", "Co", "Cs", "Cn")
_LETTERS = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE")


def _is_emoji(text: str) -> bool:
    return any(unicodedata.category(one) in ("So", "Sk") and ord(one) > 0x2000 for one in text)


TONES: Mapping[str, Callable[[str], bool]] = {
    "no exclamation marks": lambda text: "!" in text or "¡" in text,
    "no questions": lambda text: "?" in text,
    "no capitals": lambda text: any(len(word) > 3 and word.isupper() for word in re.findall(r"\w+", text)),
    "no emoji": _is_emoji,
    "no first person": lambda text: re.search(r"\b(I|me|my|mine)\b", text) is not None,
}
"""A rule of tone -> whether a text breaks it."""


@dataclass(frozen=True, slots=True)
class Brand:
    """The rules of one `baseline.md`."""

    exact: Mapping[str, str] = field(default_factory=dict)
    somewhere: tuple[str, ...] = ()
    numbers: frozenset[str] | None = None
    phrases: tuple[str, ...] = ()
    patterns: tuple[re.Pattern[str], ...] = ()
    lengths: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    tones: tuple[str, ...] = ()

    def problems(self, copy: Copy) -> list[str]:
        """Every rule that a copy breaks, in words; none where it may be shown."""
        found = [problem for name, text in copy.items() for problem in self._of_one(name, text)]
        for name, text in self.exact.items():
            if copy.get(name) != text:
                found.append(f"{name} must stay {text!r}")
        everything = "\n".join(_SPACES.sub(" ", text) for text in copy.values())
        return found + [f"{text!r} must stand somewhere" for text in self.somewhere if text not in everything]

    def _of_one(self, name: str, text: str) -> list[str]:
        if trouble := _unprintable(text):
            return [f"{name} {trouble}"]
        low, high = self.lengths.get(name, self.lengths.get("*", (0, _LONGEST)))
        found = [] if low <= len(text) <= high else [f"{name} has {len(text)} characters; {low} to {high} are allowed"]
        plain = normal(text)
        words = f" {re.sub(r'[^a-z0-9%]+', ' ', plain)} "
        found += [f"{name} claims {one!r}" for one in self.phrases if f" {one} " in words]
        found += [f"{name} claims what /{one.pattern}/ forbids" for one in self.patterns if one.search(plain)]
        if self.numbers is not None:
            odd = [one for one in _NUMBER.findall(unicodedata.normalize("NFKC", text)) if one not in self.numbers]
            found += [f"{name} names the number {one}, which is none of the facts" for one in odd]
        return found + [f"{name} breaks the tone: {one}" for one in self.tones if TONES[one](text)]


def normal(text: str) -> str:
    """A text as the forbidden claims are looked for in it: one case, no accents, no fancy letters, single spaces."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text)).casefold()
    return _SPACES.sub(" ", "".join(one for one in plain if not unicodedata.combining(one))).strip()


def _unprintable(text: str) -> str | None:
    """What makes a text look other than it is: hidden characters, and words of letters from two scripts."""
    if odd := next((one for one in text if unicodedata.category(one) in _HIDDEN), None):
        return f"holds a hidden character, U+{ord(odd):04X}"
    for word in re.findall(r"\w+", text):
        scripts = {script for one in word for script in _LETTERS if unicodedata.name(one, "").startswith(script)}
        if len(scripts) > 1:
            return f"mixes {' and '.join(sorted(scripts)).lower()} letters in {word!r}"
    return None


def parse(text: str, *, name: str = FILE) -> Brand:
    """The rules in a baseline.md. Raises BadTask with the line of a rule that cannot be read."""
    section, rules = "", dict[str, list[tuple[int, str]]]({one: [] for one in _SECTIONS})
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            section = line.lstrip("#").strip().casefold()
        elif section in rules and line.lstrip().startswith("- "):
            rules[section].append((number, line.strip()[2:].strip()))
    exact: dict[str, str] = {}
    somewhere: list[str] = []
    for number, rule in rules["never changes"]:
        found = re.fullmatch(r'(?:(\w+)\s*:\s*)?"(.+)"', rule)
        if found is None:
            raise _unread(name, number, rule, 'footer: "the very text", or "words that must stand somewhere"')
        exact |= {found[1]: found[2]} if found[1] else {}
        somewhere += [] if found[1] else [found[2]]
    numbers = [one for _, rule in rules["numbers"] for one in _NUMBER.findall(rule)]
    said = [rule for _, rule in rules["forbidden"]]
    return Brand(
        exact,
        tuple(somewhere),
        frozenset(numbers) if rules["numbers"] else None,
        tuple(re.sub(r"[^a-z0-9%]+", " ", normal(one.strip('"'))).strip() for one in said if not one.startswith("/")),
        tuple(_pattern(name, number, rule) for number, rule in rules["forbidden"] if rule.startswith("/")),
        dict(_length(name, number, rule) for number, rule in rules["lengths"]),
        tuple(_tone(name, number, rule) for number, rule in rules["tone"]),
    )


def _unread(name: str, line: int, rule: str, instead: str) -> BadTask:
    return BadTask(f"{name} line {line}: cannot read the rule {rule!r}; write {instead}")


def _pattern(name: str, line: int, rule: str) -> re.Pattern[str]:
    try:
        return re.compile(rule.strip("/"), re.IGNORECASE)
    except re.error as error:
        raise _unread(name, line, rule, f"a regular expression between slashes ({error})") from error


def _length(name: str, line: int, rule: str) -> tuple[str, tuple[int, int]]:
    found = re.fullmatch(r"(\w+|\*)\s*:\s*(\d+)\s+to\s+(\d+)", rule)
    if found is None:
        raise _unread(name, line, rule, "headline: 10 to 60")
    return found[1], (int(found[2]), int(found[3]))


def _tone(name: str, line: int, rule: str) -> str:
    if rule.casefold() not in TONES:
        raise _unread(name, line, rule, f"one of: {', '.join(TONES)}")
    return rule.casefold()
