"""The wire: how labs of a swarm hear each other, ask one another, and see who is there. zenoh carries it.

A lab with routers is a client of one of them, and of the next one when that is gone; without routers labs find each
other on the local network. A lab alone works alone: opening waits for nobody, and a link that broke is tried again for
as long as the wire is open. What could not be sent is lost: whoever needs it later asks for it.

nightlab/<swarm>/heard/<author>     what an author says to all
nightlab/<swarm>/ask/<author>       where an author answers
nightlab/<swarm>/alive/<author>     there as long as the author's lab is

What it keeps out: with certificates, whoever has none by the swarm's authority, and at the routers who is barred;
anything outside these keys; messages above a megabyte; a flood that fills the memory (what does not fit is dropped).
What it does not: a member can speak and answer under another author's key, or say nothing. So a message says nothing by
the way it came; only signatures inside of it do.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, Generic, Protocol, TypeVar

import zenoh

from nightlab.errors import NightlabError
from nightlab.swarm import membership
from nightlab.swarm.identity import is_author
from nightlab.swarm.membership import BadSwarm, Membership, admitted, endpoint
from nightlab.words import one_line

LARGEST = 2**20
"""Bytes of one message, either way."""
_ROOM = 16 * LARGEST  # of what came and was not yet taken
_RETRY = (0.5, 2.0)  # seconds between attempts, first and at most
_LEASE_MS = 4_000  # a link on which nothing came for so long is no link
_OPEN_MS = 3_000
_LOOK = 2.0  # seconds between a router's looks at its membership
_ROLL_CALL = 1.0  # seconds that peers() waits for an answer at most
_MOST_PEERS = 10_000
_PATIENCE = 10.0  # seconds that close() waits for a thread

Item = TypeVar("Item")
Heard = Callable[[bytes], object]
Asked = Callable[[bytes], bytes]


class Wire(Protocol):
    """A way to the other labs of a swarm. What is said may be lost; what comes may come from anybody."""

    def broadcast(self, message: bytes) -> None:
        """Say something to all others; it may be lost."""

    def ask(self, peer: str, message: bytes, *, timeout: float) -> bytes | None:
        """One peer's answer; None where none came."""

    def peers(self) -> list[str]:
        """The authors that are there now, oneself not among them."""

    def close(self) -> None:
        """Be heard no more, and end every thread."""


class Alone:
    """A wire to nobody: for a swarm on one machine, whose labs share a store."""

    def broadcast(self, message: bytes) -> None:
        """Nobody is there."""

    def ask(self, peer: str, message: bytes, *, timeout: float) -> bytes | None:
        """Nobody answers."""
        return None

    def peers(self) -> list[str]:
        """Nobody."""
        return []

    def close(self) -> None:
        """Nothing to end."""


def wire(joined: Membership, author: str, *, heard: Heard, asked: Asked) -> Wire:
    """The wire that a swarm's setting asks for."""
    return Alone() if joined.setting == "machine" else Zenoh(joined, author, heard=heard, asked=asked)


class Zenoh:
    """A wire over zenoh. Two labs of one author may each have one; then either of them answers a question.

    `heard` is called for each broadcast of other labs, `asked` for each question to us; each from one thread of its
    own, so that either may take its time, and may broadcast and ask. Two labs that ask each other while they answer
    wait for each other until the timeout. An exception in them is shown like that of any thread, and the next message
    is read.
    """

    def __init__(self, joined: Membership, author: str, *, heard: Heard, asked: Asked) -> None:
        if joined.setting == "machine":
            raise BadSwarm(f"{joined.name} is a swarm on one machine: its labs share a store and need no wire")
        self._config = _open_config(joined, author)
        self._root, self._author = _root(joined), author
        wants = ", or has no certificate of this swarm for this address" if joined.has_certificates else ""
        self._why = f"It is not running, cannot be reached{wants}." if joined.routers else ""
        self._over, self._tried = threading.Event(), threading.Event()
        self._session: zenoh.Session | None = None
        self._trouble: str | None = "not connected yet"
        self._refused = 0
        self._heard = _Inbox("heard", heard)
        self._asked = _Inbox("asked", self._answer)
        self._answers = asked
        self._opener = threading.Thread(target=self._open, name="wire", daemon=True)
        self._opener.start()
        atexit.register(self.close)  # a callback of zenoh's that comes when Python has ended aborts the process
        self._tried.wait(1.0)  # a router that is there takes milliseconds: then the first words are not lost

    @property
    def dropped(self) -> int:
        """How many messages were too large, or more than fits in memory."""
        return self._refused + self._heard.dropped + self._asked.dropped

    def trouble(self) -> str | None:
        """Why nobody can be reached now, in words; None where somebody can. A router nobody else is at is somebody."""
        session = self._session
        if session is None:
            return self._trouble
        return None if [*session.info.routers_zid(), *session.info.peers_zid()] else "no link to any router or lab"

    def broadcast(self, message: bytes) -> None:
        """Say something to all others; it may be lost, and is when it is above a megabyte."""
        session = self._session
        if len(message) > LARGEST:
            self._refused += 1
        elif session is not None:
            with suppress(zenoh.ZError):  # closed meanwhile
                session.put(f"{self._root}/heard/{self._author}", message)

    def ask(self, peer: str, message: bytes, *, timeout: float) -> bytes | None:
        """One peer's answer; None where none came, nobody is there, or either is above a megabyte."""
        session = self._session
        if len(message) > LARGEST:
            self._refused += 1
            return None
        if session is None or not is_author(peer):
            return None
        try:
            replies = session.get(
                f"{self._root}/ask/{peer}",
                zenoh.handlers.RingChannel(2),  # a peer that answers a thousand times fills nothing
                consolidation=zenoh.ConsolidationMode.NONE,
                timeout=timeout,
                congestion_control=zenoh.CongestionControl.BLOCK,
                payload=message,
                allowed_destination=zenoh.Locality.REMOTE,
            )
            return next((answer for reply in replies if (answer := self._taken(reply)) is not None), None)
        except zenoh.ZError:
            return None  # closed meanwhile

    def peers(self) -> list[str]:
        """The authors that are there now, oneself not among them; takes up to a second where a link is dead."""
        session = self._session
        if session is None:
            return []
        found: set[str] = set()
        try:
            for reply in session.liveliness().get(f"{self._root}/alive/*", timeout=_ROLL_CALL):
                name = str(reply.ok.key_expr).rpartition("/")[2] if reply.ok else ""
                if is_author(name) and len(found) < _MOST_PEERS:
                    found.add(name)
        except zenoh.ZError:
            return []  # closed meanwhile
        return sorted(found - {self._author})

    def close(self) -> None:
        """Be heard no more, and end every thread; a few of zenoh's stay, idle, for the process's next wire."""
        atexit.unregister(self.close)
        self._over.set()
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self._opener.join(_PATIENCE)
        self._heard.close()
        self._asked.close()

    def _taken(self, reply: zenoh.Reply) -> bytes | None:
        if reply.ok is None:
            return None
        if len(reply.ok.payload) > LARGEST:
            self._refused += 1
            return None
        return reply.ok.payload.to_bytes()

    def _open(self) -> None:
        """Open a session, however often it takes: as a client, zenoh gives up when no router answers at first."""
        pause = _RETRY[0]
        while not self._over.is_set():
            is_open = self._is_open()
            self._tried.set()
            if is_open:
                return
            self._over.wait(pause)
            pause = min(pause * 1.5, _RETRY[1])

    def _is_open(self) -> bool:
        try:
            session = _session(self._config)
        except zenoh.ZError as error:
            self._trouble = f"{_words(error)} {self._why}"
            return False
        self._declare(session)
        self._session = session
        if self._over.is_set():  # close() may have looked just before
            session.close()
        return True

    def _declare(self, session: zenoh.Session) -> None:
        """Listen, answer, and only then be seen. The callbacks are direct: the inboxes are all that they fill."""
        direct, remote = zenoh.handlers.Callback, zenoh.Locality.REMOTE
        session.declare_subscriber(
            f"{self._root}/heard/*", direct(self._on_sample, indirect=False), allowed_origin=remote
        )
        session.declare_queryable(
            f"{self._root}/ask/{self._author}", direct(self._on_query, indirect=False), allowed_origin=remote
        )
        self._token = session.liveliness().declare_token(f"{self._root}/alive/{self._author}")

    def _on_sample(self, sample: zenoh.Sample) -> None:
        size = len(sample.payload)
        if size > LARGEST:
            self._refused += 1
        elif sample.kind == zenoh.SampleKind.PUT:
            self._heard.put(size, sample.payload.to_bytes())

    def _on_query(self, query: zenoh.Query) -> None:
        size = len(query.payload) if query.payload is not None else 0
        if size > LARGEST:
            self._refused += 1
        elif str(query.key_expr) == f"{self._root}/ask/{self._author}":  # not one that asks everybody at once
            self._asked.put(size, query)

    def _answer(self, query: zenoh.Query) -> None:
        with query:  # its end tells the other side that no more comes
            answer = self._answers(query.payload.to_bytes() if query.payload is not None else b"")
            if len(answer) > LARGEST:
                self._refused += 1
                return
            with suppress(zenoh.ZError):  # closed meanwhile, or whoever asked is gone
                query.reply(query.key_expr, answer)


class Router:
    """A process's part as a meeting point: labs connect to it, and it to other routers. It keeps nothing.

    It reads its membership again every two seconds: who is barred meanwhile is out, at the price of every lab's
    connecting once more. Only a router in the home that made the swarm knows of it; other routers let everybody in who
    has a certificate.
    """

    def __init__(self, joined: Membership, *, listen: Sequence[str] = (), links: Sequence[str] = ()) -> None:
        self.listen = tuple(listen) or joined.listen
        # The swarm's other routers unless said; zenoh drops a link of a router to itself, and all second links.
        self._links = tuple(links) or joined.routers
        if not self.listen:
            raise BadSwarm("a router needs an address to listen on; write one like: --listen 0.0.0.0:7447")
        self._joined, self._config = joined, _router_config(joined, self.listen, self._links)
        try:
            self._session = _session(self._config)
        except zenoh.ZError as error:
            raise BadSwarm(f"cannot listen on {', '.join(self.listen)}: {_words(error)}") from error
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="router", daemon=True)
        self._watcher.start()
        atexit.register(self.close)

    def sessions(self) -> int:
        """How many labs and routers are connected."""
        return len(self._session.info.transports())

    def close(self) -> None:
        """End every link and thread."""
        atexit.unregister(self.close)
        self._over.set()
        self._watcher.join(_PATIENCE)
        self._session.close()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK):
            with suppress(NightlabError):  # left, or half written by hand: as before, until it can be read
                joined = membership.open(self._joined.folder.parents[1], self._joined.name)
                config = _router_config(joined, self.listen, self._links)
                if config != self._config or self._session.is_closed():
                    self._config = config
                    self._session.close()
                    with suppress(zenoh.ZError):  # the address is not free yet: at the next look
                        self._session = _session(config)


class _Inbox(Generic[Item]):
    """Items between a thread of zenoh's that may never wait, and one of ours that may; bounded in bytes."""

    def __init__(self, name: str, take: Callable[[Item], object]) -> None:
        self._name, self._take = name, take
        self._waiting: deque[tuple[int, Item]] = deque()
        self._bytes, self._is_closed = 0, False
        self._changed = threading.Condition()
        self.dropped = 0
        self._start()

    def put(self, size: int, item: Item) -> None:
        """Leave an item, or drop it where there is no room."""
        size += 1000  # what an empty one weighs, roughly
        with self._changed:
            if self._is_closed:
                return
            if self._bytes + size > _ROOM:
                self.dropped += 1
                return
            self._bytes += size
            self._waiting.append((size, item))
            self._changed.notify()

    def close(self) -> None:
        """Forget what waits, and end the thread; its own call does not wait for itself."""
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._changed.notify()
        if self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                self._take(item)
                del item  # a question that was answered ends when nobody holds it
        finally:
            with self._changed:
                if not self._is_closed:  # an exception ends this thread and is shown; what comes next is still read
                    self._start()

    def _next(self) -> Item | None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._waiting)
            if self._is_closed:
                return None
            size, item = self._waiting.popleft()
            self._bytes -= size
            return item


def _words(error: zenoh.ZError) -> str:
    """What went wrong, without the lines of zenoh's own source at which it did."""
    plain = re.sub(r" at \S+\.rs:\d+\.?", "", str(error))
    return one_line(re.sub(r"Single\(([^)]*)\)", r"\1", plain))


def _root(joined: Membership) -> str:
    return f"nightlab/{joined.id}"


def _session(config: dict[str, Any]) -> zenoh.Session:
    # zenoh reads its threads from here, and a wrong word in it ends the process. ZENOH_CONFIG is read by nobody: a
    # configuration that was handed in is the whole configuration.
    os.environ.pop("ZENOH_RUNTIME", None)
    return zenoh.open(zenoh.Config.from_json5(json.dumps(config)))


def _open_config(joined: Membership, author: str) -> dict[str, Any]:
    if not joined.routers:
        return _lan_config(joined)
    # Each lab tries the routers in an order of its own, so that they do not all sit at the first.
    order = sorted(joined.routers, key=lambda one: sha256(f"{author} {one}".encode()).digest())
    connect = {"endpoints": [endpoint(one, joined) for one in order], "timeout_ms": 0, "exit_on_failure": True}
    return _config(joined, "client") | {"connect": connect | {"retry": _retry()}}


def _lan_config(joined: Membership) -> dict[str, Any]:
    config = _config(joined, "peer")
    scheme = "tls" if joined.has_certificates else "tcp"
    # Each swarm has a port of its own to look for labs at, so that swarms on one network do not meet.
    port = 20_000 + int(joined.id[:8], 16) % 10_000
    config["scouting"] = {
        "multicast": {"enabled": True, "address": f"224.0.0.224:{port}", "autoconnect": {"peer": ["peer"]}},
        "gossip": {"enabled": True, "autoconnect": {"peer": ["peer"]}},
    }
    # Labs meet under addresses that no certificate names; that the swarm's authority signed it is what counts.
    config["transport"]["link"].get("tls", {})["verify_name_on_connect"] = False
    return config | {"listen": {"endpoints": [f"{scheme}/0.0.0.0:0"]}, "access_control": _access(joined)}


def _router_config(joined: Membership, listen: Sequence[str], links: Sequence[str]) -> dict[str, Any]:
    connect = {"endpoints": [endpoint(one, joined) for one in links], "timeout_ms": -1, "exit_on_failure": False}
    return _config(joined, "router") | {
        "listen": {"endpoints": [endpoint(one, joined) for one in listen]},
        "connect": connect | {"retry": _retry()},
        "access_control": _access(joined),
        "low_pass_filter": [
            {
                "id": "large",
                "flows": ["ingress"],
                "messages": ["put", "delete", "query", "reply"],
                "key_exprs": ["**"],
                "size_limit": LARGEST,
            }
        ],
    }


def _config(joined: Membership, mode: str) -> dict[str, Any]:
    """All that is not zenoh's default: nothing is looked for, nothing is loaded, nothing is shared beside the links."""
    link: dict[str, Any] = {
        "tx": {"lease": _LEASE_MS, "queue": {"size": {"data": 16}}},  # batches; with zenoh's two a busy machine drops
        "rx": {"max_message_size": 2 * LARGEST},  # so much is put together from pieces before we see its size
    }
    if joined.has_certificates:
        link |= {"protocols": ["tls"], "tls": _tls(joined)}
    return {
        "mode": mode,
        "scouting": {"delay": 0, "multicast": {"enabled": False}, "gossip": {"enabled": False}},
        "transport": {
            "unicast": {"open_timeout": _OPEN_MS, "accept_timeout": _OPEN_MS},
            "shared_memory": {"enabled": False},
            "link": link,
        },
        "adminspace": {"enabled": False},
        "plugins_loading": {"enabled": False},
    }


def _retry() -> dict[str, Any]:
    first, most = (int(1000 * one) for one in _RETRY)
    return {"period_init_ms": first, "period_max_ms": most, "period_increase_factor": 1.5}


def _tls(joined: Membership) -> dict[str, Any]:
    cert, key = str(joined.cert), str(joined.cert_key)
    return {
        "root_ca_certificate": str(joined.ca),
        "enable_mtls": True,
        "listen_certificate": cert,
        "listen_private_key": key,
        "connect_certificate": cert,
        "connect_private_key": key,
        "close_link_on_expiration": True,
    }


def _access(joined: Membership) -> dict[str, Any]:
    """Nothing but the swarm's own three kinds of keys, each for what it is for."""
    says = {
        "heard": ["put", "declare_subscriber"],
        "ask": ["query", "reply", "declare_queryable"],
        "alive": ["liveliness_token", "declare_liveliness_subscriber", "liveliness_query"],
    }
    members: dict[str, Any] = {"id": "members"}
    if names := admitted(joined):
        # All that may be, since zenoh has no way to say who may not: where two subjects fit, being allowed wins.
        members["cert_common_names"] = list(names)
    return {
        "enabled": True,
        "default_permission": "deny",
        "rules": [_rule(name, messages, f"{_root(joined)}/{name}/*") for name, messages in says.items()],
        "subjects": [members],
        "policies": [{"rules": list(says), "subjects": ["members"]}],
    }


def _rule(name: str, messages: Sequence[str], key: str) -> dict[str, Any]:
    return {
        "id": name,
        "permission": "allow",
        "flows": ["ingress", "egress"],
        "messages": list(messages),
        "key_exprs": [key],
    }
