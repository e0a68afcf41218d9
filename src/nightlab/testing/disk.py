"""A small disk: a file system that a test or a benchmark may fill."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[str]:
    """A file system of this size at an empty folder, which needs root; says why where there is none."""
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    made = subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        yield made.stderr.strip() if made.returncode else ""
    finally:
        if not made.returncode:
            subprocess.run(["umount", "-l", str(place)], check=True)
