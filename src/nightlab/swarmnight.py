"""A real swarm on one machine: so many labs, each a process with a key and a folder of its own, over real routers.

Half of the labs meet at one router, half at another; what links the two can be cut. Liars are processes as well: some
claim gains that are none, some sign what others found as their own.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from nightlab import tasks
from nightlab.errors import NightlabError
from nightlab.ledger import Ledger
from nightlab.place import find, first_commit
from nightlab.swarm import membership
from nightlab.swarm.board import Board
from nightlab.swarm.board import tasks as tasks_of
from nightlab.swarm.identity import Identity
from nightlab.swarm.line import Line
from nightlab.swarm.membership import Membership
from nightlab.swarm.record import Record, Result
from nightlab.swarm.store import Store
from nightlab.workspace import difference

NAME = "bench"
_PATIENCE = 120.0
_TICK = 0.5


class Cable:
    """What links two routers: passes bytes on, until it is cut."""

    def __init__(self, port: int, to: int) -> None:
        self._to, self._is_cut, self._open = to, threading.Event(), set[socket.socket]()
        self._server = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._server.accept()
                if self._is_cut.is_set():
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open |= {near, far}
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while some := one.recv(65536):
                other.sendall(some)
        for end in (one, other):
            self._open.discard(end)
            end.close()

    def cut(self) -> None:
        """Nothing passes any more."""
        self._is_cut.set()
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """What comes from now on passes again."""
        self._is_cut.clear()

    def close(self) -> None:
        """Take it away."""
        self.cut()
        self._server.close()


@dataclass(slots=True)
class Lab:
    """One lab: where it works, who it is, and its process while it runs."""

    number: int
    folder: Path
    home: Path
    joined: Membership
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    is_liar: bool = False

    @property
    def label(self) -> str:
        """How the others call it."""
        return self.joined.label

    def begin(self, *words: str) -> None:
        """Start its process."""
        self.starts += 1
        log = (self.folder.parent / f"{self.label}.log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *words], env=_env(self.home), stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _env(home: Path) -> dict[str, str]:
    one = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # labs share the cores already
    return {**os.environ, **one, "NIGHTLAB_HOME": str(home)}


@contextmanager
def meeting(folder: Path, nodes: int, *, liars: int = 0) -> Iterator[tuple[list[Lab], Cable]]:
    """So many labs in a folder, two routers and the cable between them, until the block ends."""
    left, right, between = _free_ports(3)
    first = folder / "home-0"
    founder = membership.create(first, NAME, label="lab-0", routers=[f"127.0.0.1:{left}", f"127.0.0.1:{right}"])
    labs = []
    for number in range(nodes):
        home = folder / f"home-{number}"
        link = membership.invite(first, NAME, label=f"lab-{number}") if number else ""
        joined = membership.join(home, link) if number else founder
        at = f"127.0.0.1:{(left, right)[number % 2]}"
        file = joined.folder / "swarm.toml"
        file.write_text(re.sub(r"(?m)^routers = .*$", f'routers = ["{at}"]', file.read_text()))
        is_liar = number >= nodes - liars
        labs.append(Lab(number, folder / f"lab-{number}", home, membership.open(home, NAME), is_liar=is_liar))
    with ExitStack() as stack:
        cable = Cable(between, left)
        stack.callback(cable.close)
        for port, links in ((left, ()), (right, ("--link", f"127.0.0.1:{between}"))):
            stack.callback(_router(first, port, links).kill)
        _wait_for([left, right])
        for lab in labs:
            stack.callback(lab.kill)
        yield labs, cable


def _router(home: Path, port: int, links: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "nightlab", "swarm", "router", NAME, "--listen", f"127.0.0.1:{port}", *links]
    with (home.parent / f"router-{port}.log").open("wb") as log:
        return subprocess.Popen(command, env=_env(home), stdout=log, stderr=log)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        found = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in found]


def _wait_for(ports: Sequence[int]) -> None:
    deadline = time.monotonic() + _PATIENCE
    for port in ports:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise NightlabError(f"no router listens at port {port} after {_PATIENCE:g} s") from error
                time.sleep(0.1)


@dataclass(slots=True)
class Night:
    """What one night is: who takes part, at which task, and what is done to them meanwhile."""

    folder: Path
    nodes: int = 35
    experiments: int = 12
    template: str = "compress"
    amount: float | None = None
    liars: int = 0
    has_trouble: bool = False
    """Whether a third of the labs is killed and started again, and the cable cut for 25 s."""

    def run(self) -> dict[str, Any]:
        """Let it happen; what came of it."""
        with meeting(self.folder, self.nodes, liars=self.liars) as (labs, cable):
            self._lay_out(labs)
            began = time.monotonic()
            for lab in labs:
                self._begin(lab)
            honest = [lab for lab in labs if not lab.is_liar]
            trouble = threading.Thread(target=self._trouble, args=(honest, cable), daemon=True)
            if self.has_trouble:
                trouble.start()
            stopped = [lab.label for lab in honest if self._ended(lab, trouble) != 0]
            seconds = time.monotonic() - began
            for lab in labs:
                lab.kill()
            digests = _converged(labs)
            return self._found(honest, labs) | {
                "seconds": seconds,
                "stopped": stopped,
                "digests": len(digests),
                "equal_after_s": digests and max(digests.values()),
            }

    def _lay_out(self, labs: Sequence[Lab]) -> None:
        for lab in labs:
            tasks.write(self.template, lab.folder)
            path = lab.folder / "nightlab.toml"
            if self.amount is not None:
                path.write_text(re.sub(r"(?m)^amount = [\d_]+", f"amount = {self.amount:g}", path.read_text(), count=1))
            first_commit(lab.folder)

    def _begin(self, lab: Lab) -> None:
        if lab.is_liar:
            kind = "claims" if lab.number % 3 else "replays"
            lab.begin("nightlab.swarmnight", kind, str(lab.home), str(lab.folder))
            return
        words = ["-C", str(lab.folder), "run", "--swarm", NAME, "--no-audit", "--unsafe", "--json"]
        lab.begin("nightlab", *words, "--experiments", str(self._left(lab)), "--seed", str(lab.number))

    def _left(self, lab: Lab) -> int:
        path = find(lab.folder).ledger
        return max(1, self.experiments - (len(_experiments(path)) if path.exists() else 0))

    def _ended(self, lab: Lab, trouble: threading.Thread) -> int:
        while True:
            assert lab.process is not None
            process = lab.process
            code = process.wait()
            if trouble.is_alive() and code == -signal.SIGKILL:
                while lab.process is process and trouble.is_alive():
                    time.sleep(0.1)
            if lab.process is process:
                return code

    def _trouble(self, labs: Sequence[Lab], cable: Cable) -> None:
        third = labs[::3]
        while not all(find(lab.folder).ledger.exists() for lab in third):
            time.sleep(_TICK)
        time.sleep(20)
        cable.cut()
        for lab in third:
            if lab.process is not None and lab.process.poll() is None:
                lab.kill()
        time.sleep(25)
        cable.mend()
        for lab in third:
            if lab.process is not None and lab.process.returncode == -signal.SIGKILL:
                self._begin(lab)

    def _found(self, honest: Sequence[Lab], labs: Sequence[Lab]) -> dict[str, Any]:
        with _reading(labs[0]) as store:
            board = Board(store.log, tasks_of(store.log)[0])
            told = board.told(NAME)
            said = {record.id: record for record in store.log}
        liars = {Identity.load(lab.home).author for lab in labs if lab.is_liar}
        bests = {lab.label: _best(lab) for lab in honest}
        adopted = [win for win in told["wins"] for _ in win["adopted_by"]]
        return {
            "experiments": told["totals"]["experiments"],
            "told_of": sum(len(_experiments(find(lab.folder).ledger)) for lab in honest),
            "records": len(said),
            "duplicates": told["totals"]["duplicates"],
            "top": told["wins"][0] if told["wins"] else None,
            "best": max((one for one in bests.values() if one is not None), default=None),
            "adoptions": len(adopted),
            "false_adoptions": sum(win["author"] in liars for win in adopted),
            "liars": {one["label"]: one["reputation"] for one in told["authors"] if one["author"] in liars},
            "honest": {one["label"]: one["reputation"] for one in told["authors"] if one["author"] not in liars},
            "milestones": told["milestones"],
            "board": told,
        }


def alone(folder: Path, night: Night, experiments: int) -> float | None:
    """What one lab by itself gains over the start, as a share, in so many experiments of the same task."""
    lab = Lab(0, folder, folder.parent / "home-alone", Membership("", "", "alone", "machine", (), (), folder))
    night._lay_out([lab])
    lab.begin(
        "nightlab", "-C", str(folder), "run", "--no-audit", "--unsafe", "--json", "--experiments", str(experiments)
    )
    assert lab.process is not None
    lab.process.wait()
    return _best(lab)


def _best(lab: Lab) -> float | None:
    """What a lab's incumbent gained over its start, as a share, by runs that nothing was chosen by."""
    with contextlib.closing(Ledger(find(lab.folder).ledger)) as ledger:
        best, direction = ledger.incumbent(), str((ledger.study() or {})["direction"])
        if best is None:
            return None
        start, end = (fmean(value for *_, value in ledger.pool(one)) for one in (0, best.id))
    return (start - end if direction == "lower" else end - start) / abs(start)


def _experiments(path: Path) -> list[int]:
    with contextlib.closing(Ledger(path)) as ledger:
        return [one.id for one in ledger.experiments()[1:] if one.runs or one.status.is_failure]


@contextmanager
def _reading(lab: Lab) -> Iterator[Store]:
    store = Store(lab.joined.records, lab.joined.id)
    try:
        yield store
    finally:
        store.close()


def _converged(labs: Sequence[Lab]) -> dict[str, float]:
    """Have every lab there, without a study, until all know the same; digest -> seconds until it was all there was."""
    for lab in labs:
        lab.begin("nightlab", "swarm", "keep", NAME)
    began, digests = time.monotonic(), set[str]()
    while time.monotonic() < began + _PATIENCE:
        time.sleep(2.0)
        digests = {_digest(lab) for lab in labs}
        if len(digests) == 1:
            break
    for lab in labs:
        lab.kill()
    return {digest: time.monotonic() - began for digest in digests}


def _digest(lab: Lab) -> str:
    with _reading(lab) as store:
        return store.log.digest()


# Liars: each is one process


def lie(kind: str, home: Path, folder: Path) -> None:
    """Claim gains that are none, or sign what others found as one's own, every few seconds, until killed."""
    joined, identity = membership.open(home, NAME), Identity.load(home)
    store = Store(joined.records, joined.id)
    start = {path.name: path.read_text() for path in folder.glob("*.py")}
    with Line(joined, identity, store, lot="liar") as line:
        for number in range(10_000):
            time.sleep(3.0)
            line.compare()
            found = [
                r for r in store.log if isinstance(r.body, Result) and r.body.change and r.author != identity.author
            ]
            if not found:
                continue
            body = found[-1].body
            assert isinstance(body, Result)
            told = _replayed(body, joined) if kind == "replays" else _made_up(body, joined, store, start, number)
            said = store.write(told, identity)
            if isinstance(said, Record):
                line.push([said])


def _replayed(body: Result, joined: Membership) -> Result:
    return replace(body, label=joined.label, at=time.time())


def _made_up(body: Result, joined: Membership, store: Store, start: dict[str, str], number: int) -> Result:
    path = sorted(start)[-1]
    diff = difference(start, {path: f"{start[path]}\nUNUSED_{number} = {number}\n"})
    change = store.keep(diff)
    told = replace(body, label=joined.label, change=change, patch=change, parent="", at=time.time())
    scale = abs(fmean(body.against))
    values = [value - 0.3 * scale if body.direction == "lower" else value + 0.3 * scale for value in body.against[:3]]
    return replace(told, values=values, gain=0.3 * scale, stderr=0.001 * scale, total=0.5, hypothesis=f"idea {number}")


if __name__ == "__main__":
    lie(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
