"""The command line: the only place that puts all parts together. Nothing heavy is imported before it is needed."""

from nightlab.cli import bench, control, folder, inside, looking, night, page
from nightlab.cli.base import app, main

__all__ = ["app", "bench", "control", "folder", "inside", "looking", "main", "night", "page"]
