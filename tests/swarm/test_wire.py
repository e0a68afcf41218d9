"""The wire: real sessions over real routers, which are started late, killed, cut off and lied to."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import zenoh

from nightlab.swarm.membership import BadSwarm, Membership, bar, create, invite, join
from nightlab.swarm.wire import LARGEST, Alone, Router, Zenoh, wire
from nightlab.testing.ports import free_ports

ROUTER = """
import sys, threading
from pathlib import Path
from nightlab.swarm.membership import open
from nightlab.swarm.wire import Router
home, listen, *links = sys.argv[1:]
router = Router(open(Path(home), "night"), listen=[listen], links=links)
print("up", flush=True)
threading.Event().wait()
"""


def until(is_true: Callable[[], object], seconds: float = 30.0) -> float:
    """How long it took to become true; fails where it never did."""
    start = time.monotonic()
    while not is_true():
        assert time.monotonic() - start < seconds, "it never came true"
        time.sleep(0.02)
    return time.monotonic() - start


class Lab:
    """A lab at the end of a wire: keeps what it heard, and answers a question with its letters turned round."""

    def __init__(self, joined: Membership, name: str) -> None:
        self.author = name.encode().hex().ljust(64, "0")
        self.got: list[bytes] = []
        self.wire = Zenoh(joined, self.author, heard=self.got.append, asked=lambda question: question[::-1])

    def close(self) -> None:
        self.wire.close()


class Site:
    """A swarm of three homes on this machine, with what was started for it."""

    def __init__(self, tmp_path: Path, *, setting: str, routers: int = 1) -> None:
        self.home, self.stack = tmp_path, ExitStack()
        self.ports = free_ports(routers)
        addresses = [f"127.0.0.1:{port}" for port in self.ports]
        self.joined = [create(tmp_path / "a", "night", label="a", setting=setting, routers=addresses[:1])]  # type: ignore[arg-type]
        links = [invite(tmp_path / "a", "night", label=name) for name in "bc"]
        self.joined += [join(tmp_path / name, link) for name, link in zip("bc", links, strict=True)]

    def lab(self, number: int, joined: Membership | None = None) -> Lab:
        return self.stack.enter_context(closing(Lab(joined or self.joined[number], "abc"[number])))

    def labs(self) -> list[Lab]:
        labs = [self.lab(number) for number in range(3)]
        until(lambda: all(len(lab.wire.peers()) == 2 for lab in labs))
        return labs

    def router(self, number: int = 0, *links: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", ROUTER, str(self.home / "a"), f"127.0.0.1:{self.ports[number]}", *links]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        self.stack.callback(end, process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, setting="team")
    with site.stack:
        yield site


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, setting="open")
    with site.stack:
        yield site


def say(speaker: Lab, *listeners: Lab, seconds: float = 30.0) -> float:
    """How long it takes until something said, again and again, is heard by all."""
    word = os.urandom(8)

    def is_heard() -> bool:
        speaker.wire.broadcast(word)
        time.sleep(0.02)
        return all(word in lab.got for lab in listeners)

    return until(is_heard, seconds)


def answer(asker: Lab, peer: str, message: bytes) -> bytes:
    """What a peer answers; it may be seen to be there a moment before a question finds its way to it."""
    found: list[bytes] = []

    def is_answered() -> bool:
        said = asker.wire.ask(peer, message, timeout=20.0)
        found.extend([said] if said is not None else [])
        return bool(found)

    until(is_answered)
    return found[0]


def test_labs_of_a_team_hear_and_ask_each_other_over_a_router(team: Site) -> None:
    team.router()
    a, b, c = team.labs()

    a.wire.broadcast(b"it is better")

    until(lambda: b.got == c.got == [b"it is better"])
    assert a.got == []
    assert answer(a, b.author, b"abc") == b"cba"
    assert answer(b, a.author, b"") == b""
    assert a.wire.peers() == sorted([b.author, c.author])
    assert a.wire.trouble() is None


def test_a_peer_that_is_not_there_or_is_none_has_no_answer(crowd: Site) -> None:
    with closing(Router(crowd.joined[0])):
        a = crowd.lab(0)

        assert a.wire.ask("f" * 64, b"abc", timeout=20.0) is None
        assert a.wire.ask("*", b"abc", timeout=20.0) is None
        assert a.wire.ask(a.author, b"abc", timeout=20.0) is None


def test_messages_up_to_a_megabyte_arrive_and_larger_ones_are_dropped_and_counted(crowd: Site) -> None:
    with closing(Router(crowd.joined[0])):
        a, b, _ = crowd.labs()
        largest = bytes(LARGEST)

        assert answer(a, b.author, largest) == largest
        assert a.wire.ask(b.author, largest + b"!", timeout=20.0) is None
        a.wire.broadcast(largest + b"!")
        say(a, b)

        assert a.wire.dropped == 2
        assert largest + b"!" not in b.got


def test_who_sends_too_much_is_stopped_at_the_router_and_at_the_listener(crowd: Site) -> None:
    """A stranger with a program of its own, first at a router of ours, then with nothing between."""
    joined = crowd.joined[0]
    key = f"nightlab/{joined.id}/heard/{'e' * 64}"
    with closing(Router(joined)), stranger("client", crowd.ports[0]) as session:
        a, b, _ = crowd.labs()
        for size in (LARGEST + 1, 3 * LARGEST, 9 * LARGEST):
            session.put(key, bytes(size), congestion_control=zenoh.CongestionControl.BLOCK)
        say(b, a)

        assert max(map(len, a.got)) < 100
        assert a.wire.dropped == 0

    with stranger("router", listen=crowd.ports[0]) as session:
        until(lambda: len(a.wire.peers()) == 2)
        for size in (LARGEST + 1, 9 * LARGEST):
            session.put(key, bytes(size), congestion_control=zenoh.CongestionControl.BLOCK)
        say(b, a)

        assert max(map(len, a.got)) < 100
        assert a.wire.dropped == 1  # the larger one was never put together


def stranger(mode: str, connect: int | None = None, listen: int | None = None, **tls: str | bool) -> zenoh.Session:
    """A session of zenoh's with settings that are not ours."""
    scheme = "tls" if tls else "tcp"
    config = {
        "mode": mode,
        "scouting": {"multicast": {"enabled": False}},
        "connect": {"endpoints": [f"{scheme}/127.0.0.1:{connect}"] if connect else []},
        "listen": {"endpoints": [f"{scheme}/127.0.0.1:{listen}"] if listen else []},
        "transport": {"link": {"tls": tls}},
    }
    return zenoh.open(zenoh.Config.from_json5(json.dumps(config)))


def test_an_author_with_two_labs_hears_both_and_counts_once(crowd: Site) -> None:
    with closing(Router(crowd.joined[0])):
        a, b, _ = crowd.labs()
        twin = crowd.stack.enter_context(closing(Lab(crowd.joined[0], "a")))
        until(twin.wire.peers)

        say(a, b, twin)

        assert b.wire.peers().count(a.author) == 1
        assert a.author not in a.wire.peers()


def test_a_lab_may_ask_while_it_hears(crowd: Site) -> None:
    with closing(Router(crowd.joined[0])):
        a, b, _ = crowd.labs()
        answers: list[bytes | None] = []
        heard = lambda message: answers.append(d.ask(b.author, message, timeout=20.0))  # noqa: E731
        d = crowd.stack.enter_context(closing(Zenoh(crowd.joined[2], "d" * 64, heard=heard, asked=bytes)))
        until(d.peers)

        until(lambda: a.wire.broadcast(b"news") or answers)

        assert answers[0] == b"swen"


def test_a_listener_that_fails_is_shown_and_listens_on(crowd: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda what: shown.append(str(what.exc_value)))
    got: list[bytes] = []

    def fussy(message: bytes) -> bytes:
        if message == b"bad":
            raise ValueError("I cannot read this")
        got.append(message)
        return message

    def is_heard() -> bool:  # being there and being listened to come one after the other
        a.wire.broadcast(b"good")
        return b"good" in got

    with closing(Router(crowd.joined[0])):
        a = crowd.lab(0)
        d = Zenoh(crowd.joined[1], "d" * 64, heard=fussy, asked=fussy)
        with closing(d):
            until(lambda: a.wire.peers() == ["d" * 64])
            until(lambda: a.wire.ask("d" * 64, b"are you there", timeout=5.0) is not None)
            until(is_heard)

            a.wire.broadcast(b"bad")
            until(lambda: shown == ["I cannot read this"])
            got.clear()

            until(is_heard)
            # On a machine that stands still for a moment a question may be lost, as any message may: it is asked again.
            until(lambda: a.wire.ask("d" * 64, b"bad", timeout=5.0) is None and len(shown) > 1)
            until(lambda: a.wire.ask("d" * 64, b"good", timeout=5.0) == b"good")
            assert set(shown) == {"I cannot read this"}


def test_a_flood_that_nobody_takes_fills_no_memory(crowd: Site) -> None:
    go_on = threading.Event()
    with closing(Router(crowd.joined[0])):
        a = crowd.lab(0)
        d = crowd.stack.enter_context(
            closing(Zenoh(crowd.joined[1], "d" * 64, heard=lambda _: go_on.wait(60) and None, asked=bytes))
        )
        until(a.wire.peers)

        until(lambda: a.wire.broadcast(bytes(LARGEST)) or d.dropped > 3)
        go_on.set()


def test_closing_leaves_no_thread_of_ours_and_zenohs_do_not_grow(crowd: Site) -> None:
    tasks = Path("/proc/self/task")
    before = threading.active_count()
    counts = []
    with closing(Router(crowd.joined[0])):
        for _ in range(8):
            with closing(Lab(crowd.joined[0], "a")), closing(Lab(crowd.joined[1], "b")) as b:
                until(b.wire.peers)
            counts.append(len(list(tasks.iterdir())))

    assert threading.active_count() == before
    assert counts[-1] - counts[0] < 7  # a pool of zenoh's breathes a little; sixteen sessions leave nothing behind


LEAVER = """
import sys, threading
from pathlib import Path
from nightlab.swarm.membership import open
from nightlab.swarm.wire import Router, Zenoh
a, b = (open(Path(home), "night") for home in sys.argv[1:])
router, heard = Router(a), threading.Event()
one = Zenoh(a, "a" * 64, heard=lambda _: heard.set(), asked=bytes)
two = Zenoh(b, "b" * 64, heard=bytes, asked=bytes)
def talk():
    while True:
        two.broadcast(b"and another thing")
threading.Thread(target=talk, daemon=True).start()
heard.wait(30)
sys.exit(7)
"""


def test_a_process_that_ends_in_the_middle_of_talk_ends_in_order(team: Site) -> None:
    homes = [str(team.home / name) for name in "ab"]

    ended = subprocess.run([sys.executable, "-c", LEAVER, *homes], capture_output=True, timeout=60, check=False)

    assert (ended.returncode, ended.stderr) == (7, b"")


def test_a_lab_alone_works_alone_and_says_so(crowd: Site) -> None:
    a = crowd.lab(0)

    a.wire.broadcast(b"anybody?")

    assert a.wire.ask("b" * 64, b"?", timeout=0.1) is None
    assert a.wire.peers() == []
    assert str(crowd.ports[0]) in str(a.wire.trouble())
    assert ".rs" not in str(a.wire.trouble())


def test_one_machine_has_a_wire_to_nobody(tmp_path: Path) -> None:
    joined = create(tmp_path, "here", label="a", setting="machine")

    with closing(wire(joined, "a" * 64, heard=print, asked=bytes)) as alone:
        alone.broadcast(b"anybody?")
        assert isinstance(alone, Alone)
        assert (alone.peers(), alone.ask("b" * 64, b"?", timeout=1.0)) == ([], None)
    with pytest.raises(BadSwarm, match="need no wire"):
        Zenoh(joined, "a" * 64, heard=print, asked=bytes)


def test_a_router_that_cannot_listen_says_where(crowd: Site) -> None:
    with closing(Router(crowd.joined[0])), pytest.raises(BadSwarm, match=f"cannot listen on .*{crowd.ports[0]}"):
        Router(crowd.joined[0])
    with pytest.raises(BadSwarm, match="needs an address"):
        Router(crowd.joined[1])


def test_settings_of_zenohs_own_change_nothing(crowd: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "zenoh.json5").write_text('{"mode": "peer", "connect": {"endpoints": ["tcp/127.0.0.1:1"]}}')
    monkeypatch.setenv("ZENOH_CONFIG", str(tmp_path / "zenoh.json5"))
    monkeypatch.setenv("ZENOH_RUNTIME", "nonsense")
    crowd.router()

    labs = crowd.labs()

    say(labs[0], *labs[1:])


def test_the_routers_of_a_swarm_link_themselves_and_nothing_is_heard_twice(tmp_path: Path) -> None:
    addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
    joined = create(tmp_path, "all", label="a", setting="open", routers=addresses)
    with ExitStack() as stack:
        for address in addresses:
            stack.enter_context(closing(Router(joined, listen=[address])))
        at = [replace(joined, routers=(address,)) for address in addresses]
        a, b, c = (stack.enter_context(closing(Lab(one, name))) for one, name in zip(at, "abc", strict=True))
        until(lambda: all(len(lab.wire.peers()) == 2 for lab in (a, b, c)))
        say(a, b, c)

        for number in range(50):
            a.wire.broadcast(b"%d" % number)
        say(a, b, c)

        numbers = [message for message in b.got + c.got if message.isdigit() and len(message) < 3]
        assert len(numbers) > 0
        assert max(b.got.count(number) for number in numbers) == 1


def has_multicast() -> bool:
    """Whether this machine hears what it says to a group: a container may have no network but its own."""
    group = "224.0.0.224"
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        probe.bind(("", 0))
        probe.settimeout(2)
        try:
            probe.setsockopt(
                socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton("0.0.0.0")
            )
            probe.sendto(b"anybody?", (group, probe.getsockname()[1]))
            address: tuple[str, int] = probe.recvfrom(100)[1]
        except OSError:
            return False
        return not address[0].startswith("127.")


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["team", "open"])
def test_labs_without_routers_find_each_other_on_the_network_and_no_other_swarm(tmp_path: Path, setting: str) -> None:
    if not has_multicast():
        pytest.skip("this machine has no network with multicast")
    site = Site(tmp_path, setting=setting, routers=0)
    other = create(tmp_path / "o", "night", label="o", setting="open")
    with site.stack, closing(Lab(other, "o")) as stranger:
        a, b, c = site.labs()

        say(a, b, c)

        assert answer(a, c.author, b"abc") == b"cba"
        assert (stranger.wire.peers(), stranger.got) == ([], [])
        c.close()
        until(lambda: a.wire.peers() == [b.author])


# --- who is kept out ---------------------------------------------------------------------------------------------


def test_a_certificate_of_another_authority_gets_nothing(team: Site, tmp_path: Path) -> None:
    """Mallory knows all that is public: the name, the id, the router."""
    create(tmp_path / "m", "night", label="mallory", routers=[f"127.0.0.1:{team.ports[0]}"])
    other = tmp_path / "m" / "swarms" / "night"
    mallory = Membership("night", team.joined[0].id, "m", "team", team.joined[0].routers, (), other)
    with closing(Router(team.joined[0])) as router:
        a, b, c = team.labs()
        m = team.lab(0, mallory)
        say(a, b)

        m.wire.broadcast(b"let me in")

        assert m.wire.trouble() is not None
        assert (m.wire.peers(), m.got, router.sessions()) == ([], [], 3)
        assert b"let me in" not in a.got + b.got + c.got


def test_who_has_no_certificate_gets_nothing(team: Site) -> None:
    joined = team.joined[0]
    with closing(Router(joined)) as router:
        team.labs()

        with pytest.raises(zenoh.ZError):
            stranger("client", team.ports[0])
        with pytest.raises(zenoh.ZError):
            stranger("client", team.ports[0], root_ca_certificate=str(joined.ca))
        assert router.sessions() == 3


def test_a_router_of_another_authority_is_not_believed(team: Site, tmp_path: Path) -> None:
    other = create(tmp_path / "m", "night", label="mallory", routers=[f"127.0.0.1:{team.ports[0]}"])
    with closing(Router(other)) as router:
        a = team.lab(0)

        assert a.wire.trouble() is not None
        assert router.sessions() == 0


def test_nothing_passes_a_router_but_the_keys_of_its_swarm(crowd: Site) -> None:
    root = f"nightlab/{crowd.joined[0].id}"
    with (
        closing(Router(crowd.joined[0])),
        stranger("client", crowd.ports[0]) as one,
        stranger("client", crowd.ports[0]) as two,
    ):
        got: list[str] = []
        one.declare_subscriber("**", lambda sample: got.append(str(sample.key_expr)))
        for key in (f"{root}/heard/*", f"{root}/other/x", "elsewhere", f"{root}/alive/*", f"{root}/ask/*"):
            one.declare_subscriber(key, lambda sample: got.append(str(sample.key_expr)))
        key = f"{root}/heard/x"

        def is_through() -> bool:
            for other in ("elsewhere", f"{root}/other/x", f"{root}/alive/x", f"{root}/ask/x", "nightlab/x/heard/x"):
                two.put(other, b"smuggled")
            two.delete(key)
            two.put(key, b"proper")
            return key in got

        until(is_through)
        until(is_through)

        assert set(got) == {key}


@pytest.mark.slow
def test_who_is_barred_by_the_name_of_the_certificate_is_heard_no_more(team: Site) -> None:
    with closing(Router(team.joined[0])):
        a, b, c = team.labs()
        say(c, a, b)

        bar(team.home / "a", "night", (team.home / "a/swarms/night/invited.txt").read_text().split()[1])

        until(lambda: a.wire.peers() == [b.author])
        c.wire.broadcast(b"still here")
        assert c.wire.ask(a.author, b"?", timeout=1.0) is None
        assert c.wire.peers() == []
        say(b, a)
        assert b"still here" not in a.got + b.got
        assert len(c.got) == 0

        d = team.stack.enter_context(closing(Lab(late(team), "d")))
        say(d, a, b)


def late(team: Site) -> Membership:
    """One that is asked in while the router runs."""
    return join(team.home / "d", invite(team.home / "a", "night", label="d"))


# --- what breaks -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_labs_that_start_before_their_router_are_connected_once_it_comes(team: Site) -> None:
    a, b, c = (team.lab(number) for number in range(3))
    assert a.wire.trouble() is not None

    team.router()

    took = say(a, b, c)
    print(f"heard {took:.1f} s after the router came up")
    assert took < 10


@pytest.mark.slow
def test_messages_flow_again_after_a_router_was_killed(team: Site) -> None:
    process = team.router()
    a, b, c = team.labs()
    end(process)
    time.sleep(5)
    assert a.wire.peers() == []

    team.router()

    took = say(a, b, c)
    print(f"heard {took:.1f} s after the router came back")
    assert took < 10
    until(lambda: all(len(lab.wire.peers()) == 2 for lab in (a, b, c)))
    assert answer(a, c.author, b"abc") == b"cba"


@pytest.mark.slow
def test_a_router_that_hangs_is_left_for_the_next_one(tmp_path: Path) -> None:
    site = Site(tmp_path, setting="team", routers=2)
    with site.stack:
        first = site.router(0)
        both = tuple(f"127.0.0.1:{port}" for port in site.ports)
        second = site.router(1, both[0])
        joined = [replace(one, routers=both) for one in site.joined]
        a, b, c = (site.lab(number, joined[number]) for number in range(3))
        say(a, b, c)

        for router in (first, second):  # each lab sits at one of them
            router.send_signal(signal.SIGSTOP)
            print(f"heard {say(a, b, c, seconds=60):.1f} s after a router hung")
            router.send_signal(signal.SIGCONT)


class Cable:
    """A link between two routers that can be pulled: closed at once, or so that neither side is told."""

    def __init__(self, port: int) -> None:
        self._to, self.is_in, self._ends = port, threading.Event(), list[socket.socket]()
        self.is_in.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self.is_in.clear()
        self._hang_up()

    def stall(self) -> None:
        self.is_in.clear()

    def heal(self) -> None:
        self._hang_up()  # what was on its way is lost
        self.is_in.set()

    def close(self) -> None:
        self._listener.close()
        self._hang_up()

    def _hang_up(self) -> None:
        ends, self._ends = self._ends, []
        for one in ends:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._ends.append(near)
            if not self.is_in.is_set():
                continue
            far = socket.create_connection(("127.0.0.1", self._to))
            self._ends.append(far)
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while some := source.recv(65_536):
                if self.is_in.is_set():
                    sink.sendall(some)
        except OSError:
            pass


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut", "stall"])
def test_two_routers_whose_link_was_cut_carry_on_apart_and_join_again(tmp_path: Path, how: str) -> None:
    site = Site(tmp_path, setting="team", routers=2)
    with site.stack, closing(Cable(site.ports[0])) as cable:
        site.router(0)
        site.router(1, f"127.0.0.1:{cable.port}")
        far = replace(site.joined[2], routers=(f"127.0.0.1:{site.ports[1]}",))
        a, b, c = site.lab(0), site.lab(1), site.lab(2, far)
        say(a, b, c)

        getattr(cable, how)()
        until(lambda: len(a.wire.peers()) == 1)
        say(a, b)
        time.sleep(8)
        assert c.wire.peers() == []
        cable.heal()

        took = say(a, b, c)
        print(f"heard {took:.1f} s after the link was whole again ({how})")
        assert took < 15
        until(lambda: len(c.wire.peers()) == 2)
        assert answer(c, a.author, b"abc") == b"cba"
