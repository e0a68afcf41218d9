"""The command line: the only place that puts all parts together. Nothing heavy is imported before it is needed."""

from nightlab.cli import bench, control, folder, inside, insights, looking, night, page, telling
from nightlab.cli.base import app, main

__all__ = [
    "app",
    "bench",
    "control",
    "folder",
    "inside",
    "insights",
    "looking",
    "main",
    "night",
    "page",
    "telling",
]
