"""The catalogue arm: structural edits with a name, and the task's own ideas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache, partial

from nightlab.proposer import Context
from nightlab.tuner.edit import Edits, Offer, Transform, offers
from nightlab.tuner.numpy_edits import numpy_edits, single_precision
from nightlab.tuner.python_edits import python_edits
from nightlab.tuner.torch_edits import torch_edits
from nightlab.values import Files

TRANSFORMS: tuple[Transform, ...] = (torch_edits, numpy_edits, single_precision, python_edits)


def catalogue() -> Edits:
    """The arm that tries a structural edit, or one of the task's own ideas."""
    return Edits("tuner.catalogue", catalogue_offers)


def catalogue_offers(context: Context) -> Iterator[Offer]:
    """Everything that could be tried on these files."""
    yield from _found(tuple(sorted(context.files.items())))
    for name, diff in context.ideas.items():
        if name.endswith(".toml"):  # texts, for the copy arm
            continue
        words = " ".join(diff.partition("diff --git")[0].split()) or name
        yield Offer(f"idea:{name}", f"idea:{name}", words, partial(_patched, context.files, diff))


@lru_cache(maxsize=8)
def _found(files: tuple[tuple[str, str], ...]) -> tuple[Offer, ...]:
    return tuple(offers(dict(files), TRANSFORMS))


def _patched(files: Mapping[str, str], diff: str) -> Files | None:
    from nightlab.workspace import patched

    return patched(files, diff)
