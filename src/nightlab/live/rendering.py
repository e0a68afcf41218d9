"""Rendering: a frozen page with named slots, and copy that is put into it as text and never as anything else.

{{headline}}      a slot; its text is escaped, in an attribute as well as between tags
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from html import escape

from nightlab.errors import BadTask, Invalid

Copy = Mapping[str, str]
"""Slot -> text."""
_SLOT = re.compile(r"\{\{\s*([A-Za-z][A-Za-z0-9_]*)\s*\}\}")
_CODE = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->", re.DOTALL | re.IGNORECASE)
_RISKY = re.compile(
    r"""(?:\bon\w+|\bstyle|\bsrcdoc|\bhref|\bsrc|\baction)\s*=\s*(?:"[^"]*\{\{|'[^']*\{\{|\{\{)""", re.I
)
_MOST = 65_536


def slots(page: str) -> list[str]:
    """The slots of a page, each once, in the order of the page.

    Raises BadTask where one stands in a script, a style, an address or an unquoted attribute: escaping a text does not
    make it harmless there.
    """
    for part in _CODE.finditer(page):
        if _SLOT.search(part[0]):
            raise BadTask(
                f"the page has a slot in {part[0][:60]!r}; texts may stand between tags and in plain attributes"
            )
    if risky := _RISKY.search(page):
        raise BadTask(f"the page has a slot in {risky[0]!r}; a text there could run code or lead elsewhere")
    if bare := re.search(r"=\s*\{\{", page):
        raise BadTask(
            f"the page has a slot in an attribute without quotes ({page[bare.start() - 20 : bare.end() + 10]!r})"
        )
    return list(dict.fromkeys(_SLOT.findall(page)))


def copy_of(text: str) -> dict[str, str]:
    """The copy in a flat TOML file. Raises Invalid where it is anything but slots with texts."""
    if len(text) > _MOST:
        raise Invalid(f"the copy holds {len(text):,} characters; {_MOST:,} are allowed")
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"the copy is not valid TOML: {error}") from error
    if odd := [name for name, value in found.items() if not isinstance(value, str)]:
        raise Invalid(f'the copy\'s {odd[0]!r} is no text; write slot = "text", one on a line')
    return found


def rendered(page: str, copy: Copy) -> str:
    """The page with every slot filled; a text's own braces are not looked at again."""
    return _SLOT.sub(lambda found: escape(copy[found[1]], quote=True), page)


def filled(words: str, copy: Copy) -> str:
    """Plain text with every slot filled; no markup is read there, so nothing is escaped."""
    return _SLOT.sub(lambda found: copy[found[1]], words)


def unfit(page: str, copy: Copy) -> str | None:
    """Why this copy cannot be put into this page; None where it can."""
    wanted = slots(page)
    if missing := [name for name in wanted if name not in copy]:
        return f"the copy has no text for {', '.join(missing)}"
    if unknown := sorted(set(copy) - set(wanted)):
        return f"the page has no slot {', '.join(unknown)}"
    return None
