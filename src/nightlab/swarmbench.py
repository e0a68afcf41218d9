"""The swarm on trial: the real records, logs, gossip and board over a simulated network, with liars among the labs.

What is simulated is the network (delay, jitter, loss, dead labs, a partition; bandwidth is not) and what experiments
come to. Signatures are checked once for all labs, not once a lab; everything else each lab does by itself, with the
code that labs run. Nobody here uses a router: whoever hears something new passes it on to a few others, once.
"""

from __future__ import annotations

import tempfile
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache, partial
from hashlib import sha256
from heapq import heappop, heappush
from itertools import accumulate, count
from math import ceil, inf, sqrt
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nightlab.decide import Evidence, race
from nightlab.judgebench import STREAMS, Ideas
from nightlab.swarm.board import CALIBRATED, Board
from nightlab.swarm.gossip import Gossip, Talk
from nightlab.swarm.identity import Identity
from nightlab.swarm.log import Log
from nightlab.swarm.record import Body, Claim, Record, Result, Verification, read, write
from nightlab.swarm.store import Memory, Store
from nightlab.values import Status

SIZES = (10, 30, 100, 300, 1000, 3000, 10_000)
SWARM, TASK = "5e" * 16, sha256(b"a simulated task").hexdigest()
_DELAY, _JITTER = 0.08, 0.02
_FANOUT, _IN_MESSAGE = 7, 100
_SYNC = (2.0, 5.0)
_TIMEOUT = 1.0
_CUT = 25.0
_LATE = 30_000

Told = dict[str, Any]


class Author:
    """Somebody who signs one chain, with a key that comes from its name."""

    def __init__(self, name: str) -> None:
        private = Ed25519PrivateKey.from_private_bytes(sha256(name.encode()).digest())
        self.name, self.identity = name, Identity(private.public_key().public_bytes_raw().hex(), private)
        self._seq, self._prev = 0, ""

    def say(self, body: Body) -> Record:
        """The next record of the chain."""
        record = write(body, self.identity, swarm=SWARM, seq=self._seq, prev=self._prev)
        self._seq, self._prev = self._seq + 1, record.id
        return record

    def claim(self, what: object) -> Record:
        """Claim something."""
        return self.say(
            Claim(task=TASK, patch=_named(what), label=self.name, lab="lab", hypothesis=str(what), lease=900.0, at=0.0)
        )


def _named(*what: object) -> str:
    return sha256(repr(what).encode()).hexdigest()


# The network


@dataclass(slots=True)
class Lab:
    """A simulated lab: the real gossip over memory."""

    number: int
    gossip: Gossip
    is_up: bool = True
    side: int = 0


class Network:
    """Labs, and messages that take their time; one heap of what happens when."""

    def __init__(self, size: int, *, seed: int, loss: float = 0.0) -> None:
        self.now, self.loss, self.dice = 0.0, loss, Random(seed)
        reads = lru_cache(maxsize=200_000)(read)
        self.labs = [Lab(number, Gossip(Memory(SWARM), clock=lambda: self.now, reads=reads)) for number in range(size)]
        self.arrived: dict[str, list[float]] = defaultdict(list)
        """By record: how long it took to each lab, in the order of arrival."""
        self.copies = 0
        self._told: dict[str, float] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        for lab in self.labs:
            self.at(self.dice.uniform(0, _SYNC[1]), partial(self._compare, lab))

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Have something happen."""
        heappush(self._events, (when, next(self._numbers), what))

    def run(self, until: float) -> None:
        """Let everything happen up to a moment."""
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heappop(self._events)
            what()
        self.now = until

    def publish(self, lab: Lab, record: Record) -> None:
        """A lab says something."""
        self._told[record.id] = self.now
        self._new(lab, lab.gossip.store.add([record]))

    def _new(self, lab: Lab, records: list[Record]) -> None:
        for record in records:
            self.arrived[record.id].append(self.now - self._told.get(record.id, self.now))
        for start in range(0, len(records), _IN_MESSAGE):
            message = lab.gossip.push(records[start : start + _IN_MESSAGE])
            for other in self._some(lab, _FANOUT):
                self._send(lab, other, partial(self._hear, other, message))

    def _some(self, lab: Lab, most: int) -> list[Lab]:
        """Others by lot; nobody knows who is dead."""
        drawn = self.dice.sample(self.labs, min(most + 1, len(self.labs)))
        return [other for other in drawn if other is not lab][:most]

    def _send(self, lab: Lab, other: Lab, what: Callable[[], None], lost: Callable[[], None] = lambda: None) -> None:
        if self.dice.random() < self.loss:
            return lost()
        when = self.now + max(0.001, self.dice.gauss(_DELAY, _JITTER))
        return self.at(when, lambda: what() if other.is_up and lab.side == other.side else lost())

    def _hear(self, lab: Lab, message: bytes) -> None:
        self.copies += _records_in(message)
        self._new(lab, lab.gossip.heard(message))

    # Anti-entropy: a conversation of the real code, each question and answer on its way for a while

    def _compare(self, lab: Lab) -> None:
        others = self._some(lab, 1) if lab.is_up else []
        if others:
            self._talk(lab, others[0], lab.gossip.compare(), None)
        else:
            self.at(self.now + self.dice.uniform(*_SYNC), partial(self._compare, lab))

    def _talk(self, lab: Lab, other: Lab, talk: Talk[list[Record]], answer: bytes | None) -> None:
        self.copies += _records_in(answer or b"")
        before = lab.gossip.store.log.vector() if answer and _records_in(answer) else None
        try:
            question = talk.send(answer)
        except StopIteration:
            self.at(self.now + self.dice.uniform(*_SYNC), partial(self._compare, lab))
            return
        finally:
            if before is not None:
                self._new(lab, list(lab.gossip.store.log.lacking(before)))
        nothing = partial(self._later, partial(self._talk, lab, other, talk, None))
        self._send(lab, other, partial(self._answer, lab, other, talk, question), nothing)

    def _later(self, what: Callable[[], None]) -> None:
        self.at(self.now + _TIMEOUT, what)

    def _answer(self, lab: Lab, other: Lab, talk: Talk[list[Record]], question: bytes) -> None:
        self.copies += _records_in(question)
        before = other.gossip.store.log.vector() if _records_in(question) else None
        answer = other.gossip.answer(question)
        if before is not None:
            self._new(other, list(other.gossip.store.log.lacking(before)))
        nothing = partial(self._later, partial(self._talk, lab, other, talk, None))
        self._send(other, lab, partial(self._talk, lab, other, talk, answer), nothing)

    def is_equal(self) -> bool:
        """Whether all who are up know the same."""
        return len({lab.gossip.store.log.digest() for lab in self.labs if lab.is_up}) == 1


def _records_in(message: bytes) -> int:
    return message.count(b'\\"sig\\":')


def spread(size: int, *, loss: float = 0.0, dead: float = 0.0, records: int = 5, seed: int = 0) -> dict[str, Any]:
    """How long records take to 99 % of those who are there, and how often each gets them; the slowest record counts."""
    net, dice = Network(size, seed=seed, loss=loss), Random(seed)
    for lab in dice.sample(net.labs, int(dead * size)):
        lab.is_up = False
    live = [lab for lab in net.labs if lab.is_up]
    for number in range(records):
        author = Author(f"author {seed} {number}")
        net.at(1.0 + number, partial(net.publish, dice.choice(live), author.claim(number)))
    net.run(records + 12.0)
    times = [sorted(one) for one in net.arrived.values()]
    nth = ceil(0.99 * len(live)) - 1
    reached = [one[nth] if len(one) > nth else inf for one in times]
    return {
        "nodes": size,
        "seconds": max(reached),
        "median": median(reached),
        "copies": net.copies / len(live) / records,
        "everybody": all(len(one) == len(live) for one in times),
        "delays": sorted(delay for one in times for delay in one),
    }


def partition(size: int, *, seed: int = 0) -> dict[str, Any]:
    """Cut the network in two for 25 s, a tenth of the labs off for 10 s of it each, 2 % of messages lost; seconds from
    its healing until all know all."""
    net, dice = Network(size, seed=seed, loss=0.02), Random(seed)
    authors = [(dice.choice(net.labs), Author(f"author {seed} {number}")) for number in range(min(size, 40))]
    start, said = 3.0, 0
    net.at(start, partial(_cut, net.labs))
    net.at(start + _CUT, partial(_heal, net.labs))
    for lab in dice.sample(net.labs, size // 10):
        off = start + dice.uniform(0, _CUT - 10)
        net.at(off, partial(_switch, lab, False))
        net.at(off + 10, partial(_switch, lab, True))
    for tick in range(int(4 * (start + _CUT))):
        lab, author = dice.choice(authors)
        net.at(tick / 4, partial(net.publish, lab, author.claim(tick)))
        said += 1
    net.run(start + _CUT)
    while not net.is_equal() and net.now < start + _CUT + 120:
        net.run(net.now + 0.25)
    lost = said - min(len(lab.gossip.store.log) for lab in net.labs)
    return {"nodes": size, "seconds": net.now - start - _CUT, "records": said, "lost": lost}


def _cut(labs: Sequence[Lab]) -> None:
    for lab in labs:
        lab.side = lab.number % 2


def _heal(labs: Sequence[Lab]) -> None:
    for lab in labs:
        lab.side = 0


def _switch(lab: Lab, is_up: bool) -> None:
    lab.is_up = is_up


def flood(size: int = 60, *, keys: int = 5, each: int = 300, seed: int = 0) -> dict[str, Any]:
    """One liar with many keys says as much as it can: when does what another says meanwhile reach 99 %, and do all know
    the same in the end?"""
    net, dice = Network(size, seed=seed), Random(seed)
    for number in range(keys):
        sybil = Author(f"sybil {seed} {number}")
        records = [sybil.claim(one) for one in range(each)]
        for start in range(0, each, 50):
            message = net.labs[0].gossip.push(records[start : start + 50])
            for lab in dice.sample(net.labs, _FANOUT):
                net.at(1 + start / 500, partial(net._hear, lab, message))
    ada = Author(f"ada {seed}")
    said = [ada.claim(one) for one in range(5)]
    for number, record in enumerate(said):
        net.at(1.2 + number / 5, partial(net.publish, net.labs[number], record))
    while net.now < 60 and not (net.now > 4 and net.is_equal()):
        net.run(net.now + 0.5)
    nth = ceil(0.99 * size) - 1
    times = [sorted(net.arrived[one.id]) for one in said]
    is_whole = all(lab.gossip.store.log.holds(one) for lab in net.labs for one in said)
    return {
        "nodes": size,
        "sybils": keys,
        "seconds": max(one[nth] if len(one) > nth else inf for one in times),
        "equal_after": net.now - 1 if net.is_equal() and is_whole else inf,
    }


def late_joiner(records: int = _LATE, *, authors: int = 300) -> dict[str, Any]:
    """A lab with nothing on disk learns all from one peer over the real store, most of it of authors long gone."""
    body = _result(Author("late"), 0, gain=1.0, stderr=1.0, values=[999.0, 998.5, 1001.2])
    said = [one.say(body) for one in map(Author, map(str, range(authors))) for _ in range(records // authors)]
    with tempfile.TemporaryDirectory() as folder, closing(Store(Path(folder, "old"), SWARM)) as old:
        old.add(said)
        with closing(Store(Path(folder, "new"), SWARM)) as new:
            start = time.perf_counter()
            Gossip(new, clock=time.monotonic).sync(Gossip(old, clock=time.monotonic).answer)
            seconds = time.perf_counter() - start
            return {"records": len(new.log), "seconds": seconds, "equal": new.log.digest() == old.log.digest()}


# Duplicates


@dataclass(slots=True)
class _Run:
    """An agent's run of a proposal, from its claim on."""

    agent: int
    lot: float
    began: float
    ends: float
    is_over: bool = False


class Pool:
    """Agents that draw from one pool of proposals by a Zipf law; what is shared decides what they draw twice."""

    def __init__(self, shares: str, delays: Sequence[float], *, agents: int, seed: int, ideas: int = 40_000) -> None:
        self.shares, self.delays, self.agents = shares, delays, agents
        self.dice = Random(seed)
        self._weights = list(accumulate(1 / rank for rank in range(1, ideas + 1)))
        self.runs: dict[int, list[_Run]] = defaultdict(list)
        self.finished: Counter[int] = Counter()
        self._events: list[tuple[float, int, int, _Run | None, int]] = []
        self._numbers = count()

    def play(self, hours: float) -> float:
        """The share of finished runs that had been, or were, finished elsewhere."""
        for agent in range(self.agents):
            self._at(self.dice.uniform(0, 60), agent, None, 0)
        while self._events and self._events[0][0] < hours * 3600:
            now, _, agent, run, idea = heappop(self._events)
            if run is None:
                self._begin(now, agent)
            elif not run.is_over:
                self._end(now, run, idea)
        total = sum(self.finished.values())
        return (total - len(self.finished)) / total

    def _at(self, when: float, agent: int, run: _Run | None, idea: int) -> None:
        heappush(self._events, (when, next(self._numbers), agent, run, idea))

    def _begin(self, now: float, agent: int) -> None:
        idea = self._draw(now, agent)
        # One run in ten crashes within the half minute: the shortest there is for a claim to go round.
        lasts = self.dice.uniform(2, 30) if self.dice.random() < 0.1 else self.dice.uniform(270, 330)
        run = _Run(agent, self.dice.random(), now, now + lasts)
        self.runs[idea].append(run)
        self._at(run.ends, agent, run, idea)

    def _draw(self, now: float, agent: int) -> int:
        while True:
            idea = bisect_left(self._weights, self.dice.random() * self._weights[-1])
            if not any(self._knows(now, agent, run) for run in self.runs[idea]):
                return idea

    def _knows(self, now: float, agent: int, run: _Run) -> bool:
        if run.agent == agent:
            return True
        if self.shares == "nothing":
            return False
        since = run.began if self.shares == "claims" else run.ends
        return now >= since + self.dice.choice(self.delays)

    def _end(self, now: float, run: _Run, idea: int) -> None:
        """A run ends: but whoever heard on its way of a claim with a lower lot had let it go long before."""
        run.is_over = True
        if self.shares == "claims" and (heard := self._lost_at(run, idea)) < run.ends:
            self._at(max(now, heard), run.agent, None, 0)
            return
        self.finished[idea] += 1
        self._at(now, run.agent, None, 0)

    def _lost_at(self, run: _Run, idea: int) -> float:
        others = [one for one in self.runs[idea] if one is not run and one.lot < run.lot]
        return min((max(one.began, run.began) + self.dice.choice(self.delays) for one in others), default=inf)


def duplicates(delays: Sequence[float], *, agents: int = 1000, hours: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """The share of runs that were finished twice: where claims are shared, results alone, nothing."""
    shared = {how: Pool(how, delays, agents=agents, seed=seed).play(hours) for how in ("claims", "results", "nothing")}
    return {"agents": agents, **shared}


# Liars

_START, _SIGMA = 1000.0, STREAMS["rich"].sigma
_SIDE, _BEYOND = 3, 1.64
_PER_ROUND = 3


@dataclass(slots=True)
class Researcher:
    """A lab that tries ideas and runs others' wins again; or one that lies, or one that says again what others found.

    Whoever lies about wins lies about others' as well: they confirm each other and deny the honest.
    """

    author: Author
    kind: str
    ideas: Ideas
    dice: np.random.Generator
    gains: list[float] = field(default_factory=list)
    raced: set[str] = field(default_factory=set)

    def runs(self, effect: float, times: int) -> list[float]:
        """So many runs of a tree that is so much better than the start; lower is better."""
        return [float(one) for one in _START - effect + self.dice.normal(0, _SIGMA, times)]

    def race(self, effect: float, *, first: int) -> tuple[bool, float, float]:
        """The real policy on simulated runs, `first` of each side to begin with: whether to keep, gain, its error."""
        candidate, incumbent = self.runs(effect, first), self.runs(0.0, max(first, 3))
        while True:
            found = Evidence(candidate, incumbent, _SIGMA, recent_gains=self.gains[-20:])
            decision = race().decide(found)
            if decision.verdict != "more":
                return decision.verdict == "keep", found.gain(), found.stderr()
            side, better = (candidate, effect) if decision.side == "candidate" else (incumbent, 0.0)
            side += self.runs(better, 1)


def _result(author: Author, what: object, *, gain: float, stderr: float, values: Sequence[float] = ()) -> Result:
    return Result(
        task=TASK,
        evaluator=_named("evaluator"),
        patch=_named(what),
        change=_named("change", what),
        parent="",
        label=author.name,
        hypothesis=f"an idea of {author.name}",
        status=Status.KEPT,
        direction="lower",
        budget=["wall", "300"],
        hardware="simulated",
        environment="simulated",
        at=0.0,
        values=list(values),
        against=[_START],
        sigma=_SIGMA,
        gain=gain,
        stderr=stderr,
    )


class Colony:
    """Honest labs, liars and repeaters around one board, round by round."""

    def __init__(self, size: int, *, seed: int) -> None:
        self.log, self.dice = Log(), Random(seed)
        kinds = ["liar"] * (size // 5) + ["repeater"] * (size // 10)
        self.labs: dict[str, Researcher] = {}
        for number in range(size):
            kind = kinds[number] if number < len(kinds) else "honest"
            author, rng = Author(f"{kind} {seed} {number}"), np.random.default_rng([seed, number])
            self.labs[author.identity.author] = Researcher(author, kind, Ideas(STREAMS["rich"], rng), rng)
        self.effects: dict[str, float] = {}
        """What each patch truly brings."""
        self.board = Board(self.log, TASK)
        self.adopted: list[tuple[float, float, str]] = []
        """True gain, z of one's own race, and whose win it was."""
        self.strikes: dict[str, int] = {}
        """By liar, one more than the reports that were found false before its reputation came to nothing."""
        self.known: set[str] = set()

    def play(self, rounds: int) -> None:
        """Propose, tell, run again, look, adopt."""
        for lab in self.labs.values():
            self.log.add(lab.author.claim("something"))
        for number in range(rounds):
            for lab in self.labs.values():
                self._tell(lab, number)
            self.board = Board(self.log, TASK)
            self._verify()
            self.board = Board(self.log, TASK)
            self._count()
            for lab in self.labs.values():
                if lab.kind == "honest":
                    self._adopt(lab)

    def _tell(self, lab: Researcher, number: int) -> None:
        match lab.kind:
            case "honest":
                effect, is_good = lab.ideas.draw()
                is_kept, gain, stderr = lab.race(effect, first=1)
                lab.gains.append(gain if is_kept else 0.0)
                if is_kept:
                    self._say(lab, f"{lab.author.name} {number}", effect, gain, stderr)
                else:
                    lab.ideas.reject(effect, is_good)
            case "liar":
                effect = -abs(float(lab.dice.normal(0, 0.8)))
                self._say(lab, f"{lab.author.name} {number}", effect, self.dice.uniform(3, 8) * _SIGMA, 0.8 * _SIGMA)
            case _ if theirs := [win for win in self.board.wins.values() if win.record.author in self.labs]:
                self.log.add(lab.author.say(self.dice.choice(theirs).result))

    def _say(self, lab: Researcher, what: str, effect: float, gain: float, stderr: float) -> None:
        body = _result(lab.author, what, gain=gain, stderr=stderr, values=[_START - gain])
        self.effects[body.patch] = effect
        self.log.add(lab.author.say(body))

    def _verify(self) -> None:
        for name, win in self.board.wins.items():
            for who in self.board.drawn(name):
                if who not in win.runs:
                    self.log.add(self.labs[who].author.say(self._seen(self.labs[who], name)))

    def _seen(self, lab: Researcher, name: str) -> Verification:
        win = self.board.wins[name]
        gain, stderr = _raced_again(lab, self.effects[win.result.patch])
        if lab.kind != "honest":
            is_friend = self.labs[win.record.author].kind != "honest"
            gain = (win.result.gain or 0.0) if is_friend else -3 * _SIGMA
        return Verification(
            task=TASK,
            of=name,
            label=lab.author.name,
            hardware="simulated",
            at=0.0,
            has_same_parent=True,
            adopted=False,
            gain=gain,
            stderr=stderr,
            against=[_START],
        )

    def _count(self) -> None:
        for who, lab in self.labs.items():
            if lab.kind == "liar" and who not in self.known:
                mine = [(name, win) for name, win in self.board.said.items() if win.record.author == who]
                found = [win.discrepancy(self.board.drawn(name)) for name, win in mine]
                if self.board.reputation(who) == 0.0:
                    self.known.add(who)
                else:
                    self.strikes[who] = 1 + sum(off is not None and off > CALIBRATED for off in found)

    def _adopt(self, lab: Researcher) -> None:
        """Race a few of what others won here, and take over what wins beyond the noise."""
        me = lab.author.identity.author
        order = {"confirmed": 0, "replicated": 1, "claimed": 2}
        names = sorted(self.board.wins, key=lambda name: sha256(f"{me}{name}".encode()).digest())
        told = [(self.board.wins[name].state(self.board.drawn(name)), name) for name in names if name not in lab.raced]
        left = _PER_ROUND
        for _, name in sorted((one for one in told if one[0] in order), key=lambda one: order[one[0]]):
            win = self.board.wins[name]
            if left == 0 or win.record.author == me or self.board.reputation(win.record.author, mine=me) == 0.0:
                continue
            left -= 1
            lab.raced.add(name)
            effect = self.effects[win.result.patch]
            is_kept, gain, stderr = lab.race(effect, first=_SIDE)
            if is_kept:
                self.adopted.append((effect, gain / stderr, self.labs[win.record.author].kind))


def _raced_again(lab: Researcher, effect: float) -> tuple[float, float]:
    gain = fmean(lab.runs(0.0, _SIDE)) - fmean(lab.runs(effect, _SIDE))
    return gain, _SIGMA * sqrt(2 / _SIDE)


def adoptions(size: int = 100, *, rounds: int = 12, seed: int = 0) -> dict[str, Any]:
    """A fifth liars, a tenth repeaters: what share of adoptions brings nothing, and how soon liars are known."""
    colony = Colony(size, seed=seed)
    colony.play(rounds)
    beyond = [one for one in colony.adopted if one[1] > _BEYOND]
    liars = [who for who, lab in colony.labs.items() if lab.kind == "liar"]
    honest = [colony.board.reputation(who) for who, lab in colony.labs.items() if lab.kind == "honest"]
    told = [colony.effects[win.result.patch] for win in colony.board.wins.values()]
    return {
        "labs": size,
        "told": len(told),
        "told_false": _false(told),
        "by_policy": _false([effect for effect, *_ in colony.adopted]),
        "adoptions": len(beyond),
        "false": _false([effect for effect, *_ in beyond]),
        "of_liars": sum(kind == "liar" for *_, kind in beyond) / len(beyond) if beyond else None,
        "liars_known": len(colony.known) / len(liars) if liars else None,
        "strikes": max(colony.strikes.values(), default=None),
        "lowest_honest": min((one for one in honest if one is not None), default=None),
    }


def _false(effects: Sequence[float]) -> float | None:
    return sum(effect <= 0 for effect in effects) / len(effects) if effects else None


# All of it, and what must hold


def bench(nodes: int = 1000, *, seed: int = 0, late: int = _LATE, say: Callable[[str], None] = lambda _: None) -> Told:
    """Every measure, with networks of up to so many labs."""
    sizes = [one for one in SIZES if one < nodes] + [nodes]
    spreads: list[dict[str, Any]] = []
    for size in sizes:
        say(f"{size} labs")
        records = 5 if size <= 1000 else 3
        spreads.append(spread(size, records=records, seed=seed))
        spreads[-1]["lossy"] = spread(size, loss=0.05, dead=0.1, records=records, seed=seed)
    at = spreads[max(number for number, size in enumerate(sizes) if size <= 1000)]
    told: Told = {"seed": seed, "signatures": "checked once for all simulated labs"}
    say("a partition, a flood, a late joiner")
    told |= {"partition": partition(min(nodes, 1000), seed=seed), "flood": flood(min(nodes, 60), seed=seed)}
    told["late_joiner"] = late_joiner(late)
    say("duplicates, liars")
    told["duplicates"] = duplicates(at["lossy"]["delays"], agents=min(nodes, 1000), seed=seed)
    told["adoptions"] = adoptions(min(nodes, 100), seed=seed)
    for one in spreads:
        del one["delays"], one["lossy"]["delays"]
    told |= {"spread": spreads, "per_tenfold": _per_tenfold(spreads)}
    return told | {"bars": _bars(told | {"at": at})}


def _bars(told: Told) -> list[dict[str, Any]]:
    at, liars, twice, late = told["at"], told["adoptions"], told["duplicates"], told["late_joiner"]
    cut, drowned = told["partition"], told["flood"]
    rows: list[tuple[str, float | None, float, str]] = [
        (f"{at['nodes']:,} labs at 80 ms: 99 % have a record", at["seconds"], 1.0, "s"),
        ("the same, 5 % of messages lost and 10 % of labs dead", at["lossy"]["seconds"], 2.0, "s"),
        ("copies of a record that a lab gets", at["copies"], 8.0, ""),
        (f"longer with ten times the labs, up to {told['spread'][-1]['nodes']:,}", told["per_tenfold"], 0.3, "s"),
        (f"{cut['nodes']:,} labs cut in two for 25 s: all know all, after", cut["seconds"], 15.0, "s"),
        ("records lost by it", cut["lost"], 0, ""),
        (f"one liar floods with {drowned['sybils']} keys: 99 % hear the others", drowned["seconds"], 2.0, "s"),
        (f"a late joiner has {late['records']:,} records", late["seconds"] if late["equal"] else None, 10.0, "s"),
        (f"runs finished twice, {twice['agents']:,} agents", 100 * twice["claims"], 1.0, "%"),
        ("adoptions that bring nothing, 20 % liars, 10 % repeaters", _percent(liars["false"]), 3.0, "%"),
        ("false reports until a liar's name is worth nothing", liars["strikes"], 3, ""),
    ]
    return [
        {"what": what, "value": value, "bar": bar, "unit": unit, "holds": value is not None and value <= bar}
        for what, value, bar, unit in rows
    ]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _per_tenfold(spreads: Sequence[Told]) -> float:
    """By how much ten times as many labs take longer: the slope of a straight line over the logarithm."""
    if len(spreads) == 1:
        return 0.0
    return float(np.polyfit(np.log10([one["nodes"] for one in spreads]), [one["median"] for one in spreads], 1)[0])


def notes(told: Told) -> list[str]:
    """What belongs beside the table."""
    twice, liars = told["duplicates"], told["adoptions"]
    nothing, by_policy, beyond, known, worst = (
        liars[one] or 0.0 for one in ("told_false", "by_policy", "false", "liars_known", "lowest_honest")
    )
    return [
        f"finished twice where only results are shared {twice['results']:.1%}, where nothing is {twice['nothing']:.1%}",
        f"of what was told as a win {nothing:.0%} brings nothing; of what the policy alone would have taken over",
        f"{by_policy:.1%}; of what besides won by more than {_BEYOND} standard errors {beyond:.1%}",
        f"liars known by the end {known:.0%}; the worst reputation of an honest lab, with liars among those who",
        f"run its wins again, {worst:.2f}",
        f"signatures are {told['signatures']}; bandwidth is not simulated",
    ]


def markdown(told: Told) -> str:
    """The table for a document."""
    rows = ["| measure | bar | measured |", "|---|---|---|"]
    return "\n".join([*rows, *(f"| {one['what']} | {limit(one)} | {value(one)} |" for one in told["bars"])])


def limit(bar: dict[str, Any]) -> str:
    """The bar in words."""
    return f"<= {bar['bar']:g} {bar['unit']}".rstrip()


def value(bar: dict[str, Any]) -> str:
    """What was measured, in words."""
    return "nothing" if bar["value"] is None else f"{bar['value']:.3g} {bar['unit']}".rstrip()


def plot(told: Told, path: Path) -> None:
    """Draw the time to 99 % against the number of labs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    sizes = [one["nodes"] for one in told["spread"]]
    for words, ones in (
        ("80 ms a link", told["spread"]),
        ("and 5 % of messages lost, 10 % of labs dead", [one["lossy"] for one in told["spread"]]),
    ):
        axes.plot(sizes, [one["median"] for one in ones], marker="o", label=words)
    axes.set(xscale="log", xlabel="labs", ylabel="seconds until 99 % have a record", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(path)
