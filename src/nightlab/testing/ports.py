"""Ports for servers that are told where to listen before they are started."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

LENT = 32_768
"""From here up a system lends ports to outgoing connections, so one that was free a moment ago may be taken
(Linux: net.ipv4.ip_local_port_range)."""


def free_ports(count: int) -> list[int]:
    """So many different ports that nobody listens on, and that no outgoing connection is given."""
    found: list[int] = []
    with ExitStack() as held:
        for port in random.SystemRandom().sample(range(20_000, LENT), 1_000):
            if len(found) == count:
                return found
            try:
                held.enter_context(socket.create_server(("", port), backlog=1))
            except OSError:  # somebody's
                continue
            found.append(port)
    raise RuntimeError(f"no {count} free ports among a thousand between 20000 and {LENT}; what listens on them all?")
