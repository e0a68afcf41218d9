"""The ferry: Ray's driver, in a process of its own. It sends jobs to berths and brings back what they left.

    python -m nightlab.executors.ferry FD '{"slots": 2, ...}'

Heard: ["run", number, folder], ["kill", number, folder]; said: ["slots", count, level], ["trouble", words],
["ended", number, words]. It ends when the lab hangs up, and its berths end with it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import socket
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from nightlab import __version__
from nightlab.errors import NightlabError
from nightlab.executors.berth import Berth, Catch, Errand, errand, unpack
from nightlab.executors.parcel import Reader
from nightlab.shim import Order

_SMALL = 64 * 1024
"""Bytes of a file that travel with the call; a larger one is put into the cluster's store once."""
_GRACE = 5.0
"""Seconds a berth has to end a run it was told to; then the berth itself is ended."""


_AWAY = 6.0
"""Seconds without a word from the cluster's head after which it counts as gone."""


class _RayBerth(Berth):
    """A berth whose larger contents come by reference."""

    def hello(self) -> dict[str, Any]:
        """Who and where this is, and on which of the cluster's machines."""
        return super().hello() | {"machine": ray.get_runtime_context().get_node_id()}

    def carry(self, sent: Errand, objects: dict[str, Any]) -> Catch | str:
        """Perform what was sent."""
        return self.perform(sent, lambda names: {name: _content(objects[name]) for name in names})


def _content(found: Any) -> bytes:
    content: bytes = found if isinstance(found, bytes) else ray.get(found)
    return content


def _ask_after(machine: str, seen: list[float]) -> None:
    """Note when the head last knew of this machine; it may never answer."""
    while True:
        with contextlib.suppress(ray.exceptions.RayError, OSError, RuntimeError):
            if any(one["NodeID"] == machine and one["Alive"] for one in ray.nodes()):
                seen[0] = time.monotonic()
        time.sleep(1.0)


@dataclass
class _Slot:
    """A berth as it is seen from here, and what it is busy with."""

    actor: Any
    is_ready: bool = False
    machine: str = ""
    number: int | None = None
    has: set[str] = field(default_factory=set)


class Ferry:
    """One thread decides; others only tell it what they heard."""

    def __init__(self, control: socket.socket, wanted: dict[str, Any]) -> None:
        self._control, self._wanted = control, wanted
        self._heard: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._reader, self._objects = Reader(), dict[str, Any]()
        self._level: str | None = None
        self._slots: list[_Slot] = []
        self._waiting: deque[tuple[int, str]] = deque()
        self._errands: dict[int, Errand] = {}
        self._killed: set[int] = set()

    def run(self) -> None:
        """Carry until the lab hangs up."""
        self._join()
        threading.Thread(target=self._listen, daemon=True).start()
        for _ in range(self._wanted["slots"]):
            self._open()
        threading.Thread(target=self._look_after, daemon=True).start()
        while (heard := self._heard.get())[0] != "over":
            getattr(self, f"_on_{heard[0]}")(*heard[1:])
            self._dispatch()
        for slot in self._slots:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(slot.actor, no_restart=True)
        ray.shutdown()

    def _join(self) -> None:
        address, cores = self._wanted["address"], self._wanted["cores"]
        is_own = address is None and "RAY_ADDRESS" not in os.environ
        most = max(cores * self._wanted["slots"], len(os.sched_getaffinity(0))) if is_own else None
        ray.init(
            address=address, num_cpus=most, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
        has_cards = ray.cluster_resources().get("GPU", 0) >= 1
        cards = self._wanted["gpus"] if self._wanted["gpus"] is not None else int(has_cards)
        self._make = ray.remote(_RayBerth).options(
            num_cpus=cores, num_gpus=cards, max_restarts=0, max_task_retries=0, max_concurrency=4
        )

    def _open(self) -> None:
        """Ask the cluster for one more berth; it is a slot once it has said hello."""
        slot = _Slot(
            self._make.remote(
                self._wanted["cores"], self._level or self._wanted["level"], unsafe=self._wanted["unsafe"]
            )
        )
        self._slots.append(slot)
        self._listen_for("hello", slot, slot.actor.hello.remote())

    def _listen_for(self, what: str, slot: _Slot, reference: Any) -> None:
        reference.future().add_done_callback(lambda future: self._heard.put((what, slot, future)))

    def _listen(self) -> None:
        while True:
            try:
                message = self._control.recv(65536)
            except OSError:
                message = b""
            if not message:
                self._heard.put(("over",))
                return
            self._heard.put(tuple(json.loads(message)))

    def _look_after(self) -> None:
        """Go when the cluster has no head any more, or another: a driver stays with the one it knew for good. What is
        under way may end first, for that needs no head."""
        here, seen = ray.get_runtime_context().get_node_id(), [time.monotonic()]
        threading.Thread(target=_ask_after, args=(here, seen), daemon=True).start()
        while time.monotonic() - seen[0] < _AWAY or any(slot.number is not None for slot in list(self._slots)):
            time.sleep(0.5)
        sys.stderr.write("the cluster's head is gone\n")
        sys.stderr.flush()
        os._exit(1)  # nothing of Ray's ends in order without its head

    def _say(self, *words: Any) -> None:
        with contextlib.suppress(OSError):  # the lab is gone; hearing of it ends us
            self._control.send(json.dumps(words).encode())

    def _say_slots(self) -> None:
        self._say("slots", sum(slot.is_ready for slot in self._slots), self._level)

    def _on_hello(self, slot: _Slot, future: Any) -> None:
        try:
            who = future.result()
        except ray.exceptions.RayActorError:
            self._lose(slot)
            return
        except ray.exceptions.RayTaskError as error:
            self._refuse(slot, str(error.cause))
            return
        if who["version"] != __version__:
            self._refuse(slot, f"{who['host']} has nightlab {who['version']}, and not {__version__}")
            return
        self._level = self._level or who["level"]
        if who["level"] != self._level:  # it began before the first had said how it is jailed
            self._refuse(slot, f"{who['host']} is jailed by {who['level']}, and the first slot by {self._level}")
            return
        slot.is_ready, slot.machine = True, who["machine"]
        self._say_slots()

    def _refuse(self, slot: _Slot, words: str) -> None:
        """Use no berth that cannot keep what is promised."""
        self._slots.remove(slot)
        ray.kill(slot.actor, no_restart=True)
        self._say("trouble", words)
        if not self._slots and self._level is None:
            raise NightlabError(words)

    def _on_run(self, number: int, folder: str) -> None:
        self._waiting.append((number, folder))

    def _on_kill(self, number: int, _: str) -> None:
        if any(number == waiting for waiting, _ in self._waiting):
            self._waiting = deque(one for one in self._waiting if one[0] != number)
            self._say("ended", number, "killed before it had begun")
        for slot in self._slots:
            if slot.number == number:
                self._killed.add(number)
                slot.actor.kill.remote(self._errands[number].job)
                timer = threading.Timer(_GRACE, lambda slot=slot: self._heard.put(("overdue", slot, number)))
                timer.daemon = True
                timer.start()

    def _on_overdue(self, slot: _Slot, number: int) -> None:
        if slot.number == number:
            ray.kill(slot.actor, no_restart=True)

    def _dispatch(self) -> None:
        while self._waiting and (
            slot := next((one for one in self._slots if one.is_ready and one.number is None), None)
        ):
            number, folder = self._waiting.popleft()
            try:
                sent = errand(Order.read(Path(folder)).job, self._reader, self._put)
            except (OSError, NightlabError) as error:
                self._say("ended", number, f"could not be sent: {error}")
                continue
            objects = {name: self._objects[name] for name in sent.names - slot.has}
            slot.number, self._errands[number] = number, sent
            slot.has |= sent.names
            self._listen_for("returned", slot, slot.actor.carry.remote(sent, objects))

    def _put(self, name: str, content: bytes) -> None:
        if name not in self._objects:
            self._objects[name] = content if len(content) < _SMALL else ray.put(content)

    def _on_returned(self, slot: _Slot, future: Any) -> None:
        assert slot.number is not None
        number, slot.number = slot.number, None
        sent = self._errands.pop(number)
        words = "stopped on request" if number in self._killed else ""
        self._killed.discard(number)
        try:
            found = future.result()
            if isinstance(found, Catch):
                unpack(found, sent)
            else:
                words = found
        except ray.exceptions.RayActorError as error:
            words = words or f"its worker was lost: {str(error).splitlines()[0]}"
            self._lose(slot)
        except ray.exceptions.RayError as error:
            words = f"its worker could not run it: {error}"
        except OSError as error:
            words = f"what it left could not be brought here: {error}"
        self._say("ended", number, words)

    def _lose(self, slot: _Slot) -> None:
        """One berth is gone; ask for another, which comes when the cluster has room for it. Its machine may be gone
        too: nothing is given to the others there until they have answered."""
        if slot in self._slots:
            self._slots.remove(slot)
            for other in self._slots:
                if other.is_ready and other.machine == slot.machine:
                    other.is_ready = False
                    self._listen_for("hello", other, other.actor.hello.remote())
            self._open()
            self._say_slots()


if __name__ == "__main__":
    Ferry(socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[2])).run()
