"""A scripted model over real HTTP: for tests of agents and of tasks, with no model, no key and no network."""

from nightlab.testing.modelserver.server import ModelServer, Seen
from nightlab.testing.modelserver.tools import edit, shell, write
from nightlab.testing.modelserver.values import (
    Answer,
    Asked,
    Broken,
    Call,
    Hang,
    Refusal,
    Reply,
    Result,
    Script,
    Tally,
    Turn,
    Usage,
    malformed,
)

__all__ = [
    "Answer",
    "Asked",
    "Broken",
    "Call",
    "Hang",
    "ModelServer",
    "Refusal",
    "Reply",
    "Result",
    "Script",
    "Seen",
    "Tally",
    "Turn",
    "Usage",
    "edit",
    "malformed",
    "shell",
    "write",
]
