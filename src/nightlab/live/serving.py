"""Serving: the service on a socket, in one process or several that share it and end together."""

from __future__ import annotations

import os
import signal
import socket
import sys

import uvicorn

from nightlab.live.clock import clock
from nightlab.live.service import Service, Setting

_PATIENCE = 5


def serve(setting: Setting, listening: socket.socket, *, workers: int = 1) -> None:
    """Serve until a signal ends it. Each further worker is a process of its own on the same socket and store."""
    listening.set_inheritable(True)
    children = []
    for _ in range(workers - 1):
        child = os.fork()
        if child == 0:
            _worker(setting, listening)
        children.append(child)
    try:
        _run(setting, listening)
    finally:
        for child in children:
            os.kill(child, signal.SIGTERM)
        for child in children:
            os.waitpid(child, 0)


def _worker(setting: Setting, listening: socket.socket) -> None:
    """A child's whole life: it never returns into what its parent was doing."""
    status = 1
    try:
        _run(setting, listening)
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def _run(setting: Setting, listening: socket.socket) -> None:
    config = uvicorn.Config(
        Service(setting, clock=clock()),
        log_level="warning",
        access_log=False,
        lifespan="on",
        server_header=False,
        date_header=False,
        proxy_headers=False,  # it would believe X-Forwarded-For of any program on this machine; see behind_proxy
        timeout_graceful_shutdown=_PATIENCE,
        timeout_keep_alive=30,
        ws="none",
        backlog=2048,
        h11_max_incomplete_event_size=16_384,
    )
    uvicorn.Server(config).run(sockets=[listening])
