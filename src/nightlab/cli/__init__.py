"""The command line: the only place that puts all parts together. Nothing heavy is imported before it is needed."""

from nightlab.cli import (
    bench,
    channels,
    control,
    finish,
    folder,
    inside,
    insights,
    live,
    looking,
    night,
    observe,
    page,
    swarm,
    telling,
    visitors,
)
from nightlab.cli.base import app, main

__all__ = [
    "app",
    "bench",
    "channels",
    "control",
    "finish",
    "folder",
    "inside",
    "insights",
    "live",
    "looking",
    "main",
    "night",
    "observe",
    "page",
    "swarm",
    "telling",
    "visitors",
]
