"""Deploying: the start shown to all visitors, before any lab runs; and what every copy is held against."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path

from nightlab.errors import BadTask, Invalid
from nightlab.live import brand, mail
from nightlab.live.rendering import Copy, copy_of, unfit
from nightlab.live.store import Arm, Store
from nightlab.task import Task


def checked(root: Path, task: Task) -> Copy:
    """The copy in a tree. Raises Invalid with every rule of page and brand that it breaks."""
    page = read(root / task.task.run)
    paths = [path for path in sorted(root.rglob("*.toml")) if task.is_editable(str(path.relative_to(root)))]
    copy = {slot: text for path in paths for slot, text in copy_of(read(path)).items()}
    is_mail = task.live is not None and task.live.channel == "mail"
    if trouble := unfit(page, copy) or (mail.unfit(copy) if is_mail else None):
        raise Invalid(trouble)
    rules = root / brand.FILE
    if rules.is_file() and (broken := brand.parse(read(rules)).problems(copy)):
        raise Invalid(f"the brand guard stops it: {'; '.join(broken)}")
    return copy


def read(path: Path) -> str:
    """A file's text. Raises Invalid where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{path.name} cannot be read: {error}") from error


def name_of(copy: Copy) -> str:
    """A copy's own name: the same texts have the same."""
    return blake2b(json.dumps(dict(copy), sort_keys=True).encode(), digest_size=8).hexdigest()


def show_start(store: Store, copy: Copy, *, at: float) -> str:
    """Show a copy to everybody as version 0, and say so. Raises BadTask where something is shown already."""
    if (split := store.split()) is not None:
        raise BadTask(
            f"version {split.champion} is shown already; race another beside it: nightlab try -m WHY, or take one "
            "down: nightlab live rollback"
        )
    store.put_arm(Arm(0, None, copy, name_of(copy), "serving", "the start", at))
    store.put_split({0: 1.0}, 0)
    return "version 0, the start, is shown to all visitors"
