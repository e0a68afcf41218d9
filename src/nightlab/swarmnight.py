"""A real swarm on one machine: so many labs, each a process with a key and a folder of its own, over real routers.

Half of the labs meet at one router, half at another; what links the two can be cut. Liars are processes as well: some
claim gains that are none, some sign what others found as their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import fmean, median
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
from nightlab.swarm.record import Insight, Record, Result, Verification
from nightlab.swarm.store import Store
from nightlab.swarm.telling import is_told
from nightlab.testing.ports import free_ports
from nightlab.words import harmless
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
                try:
                    far = socket.create_connection(("127.0.0.1", self._to))
                except OSError:  # nobody listens there yet: the caller tries again
                    near.close()
                    continue
                self._open |= {near, far}
                for end in (near, far):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
    left, right, between = free_ports(3)
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

    def _who_lies(self, labs: Sequence[Lab]) -> set[str]:
        """Who of them lies."""
        return {Identity.load(lab.home).author for lab in labs if lab.is_liar}

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
        return max(1, self.experiments - (_made(lab) if path.exists() else 0))

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
            said = list(store.log)
        mine = {Identity.load(lab.home).author for lab in honest}
        told_of = [record for record in said if isinstance(record.body, Result | Verification)]
        liars = self._who_lies(labs)
        bests = [one for lab in honest if (one := _best(lab)) is not None]
        adopted = [win for win in told["wins"] for _ in win["adopted_by"]]
        return {
            "experiments": told["totals"]["experiments"],
            "lost": sum(_made(lab) for lab in honest) - sum(record.author in mine for record in told_of),
            "records": len(said),
            "duplicates": told["totals"]["duplicates"],
            "top": told["wins"][0] if told["wins"] else None,
            "labs": len(honest),
            "made": sum(_made(lab) for lab in honest),
            "best": max(bests, default=None),
            "middle": median(bests) if bests else None,
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


def _made(lab: Lab) -> int:
    """How many experiments a lab made that the swarm is to be told of."""
    with contextlib.closing(Ledger(find(lab.folder).ledger)) as ledger:
        return sum(is_told(one) and not one.status.is_open for one in ledger.experiments()[1:])


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


# Talk alone: no study, only records


def traffic(
    folder: Path, nodes: int = 10, *, rate: float = 5.0, calm: float = 15.0, cut: float = 25.0
) -> dict[str, Any]:
    """Labs that only talk, `rate` records a second each: how long a record takes to all, signature check and store
    included; and how long after a cut of the network all is everywhere."""
    with meeting(folder, nodes) as (labs, cable):
        begin = time.time() + 5.0 + 0.3 * nodes
        heal = begin + calm + cut
        for lab in labs:
            lab.begin("nightlab.swarmnight", "talk", str(lab.home), str(begin), str(rate), str(heal), str(heal + 40.0))
        time.sleep(max(0.0, begin + calm - time.time()))
        cable.cut()
        time.sleep(max(0.0, heal - time.time()))
        cable.mend()
        for lab in labs:
            assert lab.process is not None
            lab.process.wait(timeout=_PATIENCE)
        heard = [json.loads(line) for lab in labs for line in (lab.home / "heard.jsonl").read_text().splitlines()]
        digests = {_digest(lab) for lab in labs}
        said = {one["id"] for one in heard}
    calm_ones = sorted(one["heard"] - one["said"] for one in heard if one["said"] < begin + calm - 3)
    after = [one["heard"] - heal for one in heard if begin + calm < one["said"] < heal and one["heard"] > heal]
    return {
        "nodes": nodes,
        "records": len(said),
        "lost": nodes * len(said) - len(heard) - len(said),
        "p50_ms": 1000 * calm_ones[len(calm_ones) // 2],
        "p99_ms": 1000 * calm_ones[len(calm_ones) * 99 // 100],
        "cut_s": cut,
        "healed_in_s": max(after, default=None),
        "digests": len(digests),
    }


def talk(home: Path, begin: float, rate: float, until: float, end: float) -> None:
    """Say something again and again, and write down what was heard when."""
    joined, identity = membership.open(home, NAME), Identity.load(home)
    store, heard = Store(joined.records, joined.id), list[tuple[float, Record]]()
    store.listen = lambda records: heard.extend((time.time(), one) for one in records)
    dice = Random(identity.author)
    with Line(joined, identity, store, lot="talk") as line:
        line.meet()
        time.sleep(max(0.0, begin - time.time()))
        while (now := time.time()) < end:
            line.compare()
            if now < until:
                said = Insight(task="0" * 64, label=joined.label, text="x" * 300, evidence=[], at=time.time())
                record = store.write(said, identity)
                line.push([record] if isinstance(record, Record) else [])
            time.sleep(dice.expovariate(rate))
    store.close()
    others = [(at, one) for at, one in heard if one.author != identity.author]
    lines = [json.dumps({"id": one.id, "said": one.body.at, "heard": at}) for at, one in others]
    (home / "heard.jsonl").write_text("".join(f"{one}\n" for one in lines))


# What `nightlab bench swarm --real` tells

_AMOUNTS = {"tinylm": 20_000.0}
"""What a run is given where the template's own amount would keep so many labs busy for hours."""
_EACH = 14


def measured(nodes: int, *, template: str, liars: int, has_trouble: bool) -> dict[str, Any]:
    """Talk between ten labs, one night of so many, and one lab alone with as many experiments as all of them made."""
    with tempfile.TemporaryDirectory(prefix="nightlab-swarm-") as name:
        top = Path(name)
        talked = traffic(_made_folder(top / "talk"), min(nodes, 10))
        night = Night(
            _made_folder(top / "night"),
            nodes=nodes,
            experiments=_EACH,
            template=template,
            amount=_AMOUNTS.get(template),
            liars=liars,
            has_trouble=has_trouble,
        )
        found = night.run()
        by_itself = alone(_made_folder(top / "alone") / "lab", night, found["made"])
    return {"traffic": talked, "night": found, "alone": by_itself}


def _made_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


def lines(told: dict[str, Any]) -> list[str]:
    """The same in words."""
    talked, night = told["traffic"], told["night"]
    top, totals = night["top"], night["board"]["totals"]
    said = [
        f"{talked['nodes']} labs that talk: a record is with another in {talked['p50_ms']:.1f} ms (median), "
        f"{talked['p99_ms']:.1f} ms (99 %); cut for {talked['cut_s']:g} s, all is everywhere "
        f"{talked['healed_in_s']:.1f} s after, {talked['lost']} lost",
        f"{night['labs']} labs: {night['made']} experiments in {night['seconds']:.0f} s, {night['duplicates']} tried "
        f"twice, {night['lost']} lost, {len(night['stopped'])} studies stopped; {night['digests']} digest at the end",
        f"{totals['verifications']} runs of others' wins, {night['adoptions']} taken over, {night['false_adoptions']} "
        f"of them a liar's; liars' reputation {night['liars']}",
        f"the best lab gained {_percent(night['best'])}, the middle one {_percent(night['middle'])}; one lab alone, "
        f"with as many experiments, {_percent(told['alone'])}",
    ]
    if top is not None:
        said.append(f"on top: {top['hypothesis']} by {top['label']}, {top['state']}, run again by {top['replicated']}")
    for one in night["milestones"]:
        said.append(f"milestone {one['name']}: {one['label']} first, then {len(one['spread'])} others")
    return [harmless(line) for line in said]


def _percent(share: float | None) -> str:
    return "nothing" if share is None else f"{share:.1%}"


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
    if sys.argv[1] == "talk":
        talk(Path(sys.argv[2]), *map(float, sys.argv[3:]))
    else:
        lie(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
