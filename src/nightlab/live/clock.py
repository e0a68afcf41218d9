"""The clock: real time, or in a demonstration a simulated one that lab, service and visitors share."""

from __future__ import annotations

import os
import time

from nightlab.values import Clock

CLOCK = "NIGHTLAB_LIVE_CLOCK"
"""A variable, ORIGIN:SPEED: simulated time begins at ORIGIN (seconds since 1970) and runs SPEED times as fast."""


def clock() -> Clock:
    """The time; in a demonstration a simulated one, the same in every process."""
    said = os.environ.get(CLOCK)
    if not said:
        return time.time
    origin, speed = (float(part) for part in said.split(":"))
    return lambda: origin + (time.time() - origin) * speed
