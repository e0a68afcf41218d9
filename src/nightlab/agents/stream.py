"""The stream: what can be read from the words of an agent, none of which is to be believed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nightlab.agents.template import Find, Output

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_HYPOTHESIS = re.compile(r"^[\s>*_`#-]*HYPOTHESIS[*_`]*\s*:[*_`]*\s*(.+)$", re.IGNORECASE | re.MULTILINE)
_LONGEST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Said:
    """What an agent said last, what it complained of, and what it calls its session."""

    text: str = ""
    error: str = ""
    session: str = ""
    is_prose: bool = True
    """Whether the text is its answer and no more; else it is all that was on the screen."""

    @property
    def last_words(self) -> str:
        """What there is to quote when nothing else came of it."""
        return self.text or self.error


def read(log: str, output: Output) -> Said:
    """What an agent's log says, by the rules of its template."""
    clean = _ESCAPES.sub("", log).replace("\r", "\n")
    if output.form == "plain":
        return Said(clean.strip()[-_LONGEST:], is_prose=False)
    lines = list(_objects(clean))
    text, error, session = (_find(lines, rule) for rule in (output.text, output.error, output.session))
    # What was printed beside the stream is a complaint, as a rule: a missing flag, a stack trace.
    beside = "\n".join(line for line in clean.splitlines() if line.strip() and not line.lstrip().startswith("{"))
    return Said(text, error or beside.strip()[-2000:], session[:200])


def hypothesis(said: Said) -> str:
    """The sentence that an agent was asked to end with, or else its first one; empty where there is none."""
    found = [
        sentence for text in _HYPOTHESIS.findall(said.text) if not (sentence := text.strip("*_` ")).startswith("<")
    ]
    if found:
        return _one_line(found[-1])
    words = _one_line(said.text) if said.is_prose else ""
    sentence = re.match(r".{8,}?[.!?](?=\s|$)", words)
    return sentence[0] if sentence else words


def quoted(text: str, most: int = 300) -> str:
    """The end of a text, on one line, in quotation marks: somebody else's words."""
    words = " ".join(text.split())
    return f"“{words if len(words) <= most else '… ' + words[-most:]}”"


def _one_line(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= 300 else words[:299] + "…"


def _objects(log: str) -> Iterator[Mapping[str, Any]]:
    for line in log.splitlines():
        if line.lstrip().startswith("{"):
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                yield found


def _find(lines: list[Mapping[str, Any]], rule: Find | None) -> str:
    if rule is None:
        return ""
    matching = (line for line in lines if all(_at(line, path) == [word] for path, word in rule.when.items()))
    texts = ["".join(_at(line, rule.path)) for line in matching]
    texts = [text for text in texts if text]
    found = ("".join(texts) if rule.joined else texts[-1] if texts else "")[-_LONGEST:]
    return found.encode("utf-8", "replace").decode()  # JSON may hold half of a letter


def _at(found: Any, path: str) -> list[str]:
    """The texts at a dotted path; a list on the way is gone through."""
    places = [found]
    for name in path.split("."):
        flat = [item for place in places for item in (place if isinstance(place, list) else [place])]
        places = [place[name] for place in flat if isinstance(place, dict) and name in place]
    return [place for place in places if isinstance(place, str)]
