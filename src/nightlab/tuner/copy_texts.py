"""The copy arm: puts texts from a library into the slots of a flat TOML file, one at a time; no model is used."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from nightlab.proposer import Context
from nightlab.tuner.edit import Edits, Offer
from nightlab.values import Files


def copy_texts() -> Edits:
    """The arm that tries a text of the task's library: slots that paid come first, the rest is chance."""
    return Edits("tuner.copy", copy_offers)


def copy_offers(context: Context) -> Iterator[Offer]:
    """Every text of the library that its slot does not hold already."""
    library = {slot: texts for text in _tables(context.ideas).values() for slot, texts in text.items()}
    for path, copy in _tables(context.files).items() if library else ():
        for slot, now in copy.items():
            texts = library.get(slot)
            for text in texts if isinstance(now, str) and isinstance(texts, list) else ():
                if isinstance(text, str) and text != now:
                    make = partial(_written, context.files, path, slot, text)
                    yield Offer(f"{path}:{slot}={text}", f"copy:{slot}", f"{slot}: {text}", make)


def _tables(files: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The TOML files among these; one that cannot be read has nothing to offer."""
    found = dict[str, dict[str, Any]]()
    for path in sorted(files):
        try:
            found |= {path: tomllib.loads(files[path])} if path.endswith(".toml") else {}
        except tomllib.TOMLDecodeError:
            continue
    return found


def _written(files: Mapping[str, str], path: str, slot: str, text: str) -> Files | None:
    """The file with one slot's line anew and every other character as it was."""
    line = re.compile(rf"^{re.escape(slot)}\s*=\s*[\"'].*$", re.MULTILINE)
    new, count = line.subn(lambda _: f"{slot} = {json.dumps(text, ensure_ascii=False)}", files[path], count=1)
    return {path: new} if count else None
