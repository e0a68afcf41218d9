from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from sets import SWARM, Author, claim, key, lab, named

from nightlab.errors import BadLedger
from nightlab.swarm.gossip import Gossip
from nightlab.swarm.log import MUTED
from nightlab.swarm.record import Record
from nightlab.swarm.store import Store

HERE = Path(__file__).parent
WRITER = """\
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sets import SWARM, claim, key
from nightlab.swarm.store import Store
store = Store(Path(sys.argv[2]), SWARM)
for number in range(int(sys.argv[4])):
    record = store.write(claim("ada", (sys.argv[3], number)), key("ada"))
    print(record.seq, record.id, flush=True)
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(HERE), str(path), name, str(count)], stdout=subprocess.PIPE, text=True
    )


def opened(path: Path) -> Store:
    return Store(path, SWARM, clock=lambda: 50.0)


def is_whole(chain: list[Record]) -> bool:
    ids = ["", *[one.id for one in chain]]
    return all(one.seq == number and one.prev == ids[number] for number, one in enumerate(chain))


def test_what_was_said_is_there_after_opening_again(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "records")) as store:
        said = [store.write(claim("ada", number), key("ada")) for number in range(3)]
        digest = store.log.digest()

    with closing(opened(tmp_path / "records")) as store:
        assert list(store.log) == said
        assert store.log.digest() == digest
        assert store.received == {one.id: 50.0 for one in store.log}


def test_what_peers_said_is_there_after_opening_again_forks_too(tmp_path: Path) -> None:
    ada, bob = Author("ada"), Author("bob")
    twin = ada.forked(0)
    with closing(opened(tmp_path / "records")) as store:
        store.add([bob.claims(1), ada.claims(1), bob.claims(2), twin.claims("something else")])
        digest = store.log.digest()

    with closing(opened(tmp_path / "records")) as store:
        assert store.log.known(ada.id) == MUTED
        assert store.log.known(bob.id)[0] == 2
        assert store.log.digest() == digest


def test_a_muted_key_says_nothing_more(tmp_path: Path) -> None:
    ada = Author("ada")
    twin = ada.forked(0)
    with closing(opened(tmp_path / "records")) as store:
        store.add([ada.claims(1), twin.claims(2)])

        assert "muted" in str(store.write(claim("ada", 3), key("ada")))


def test_two_labs_on_one_machine_read_each_other(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "records")) as one, closing(opened(tmp_path / "records")) as other:
        first = one.write(claim("ada", 1), key("ada"))
        heard = []
        other.listen = heard.extend

        assert other.refresh() == [first]
        second = other.write(claim("ada", 2), key("ada"))
        assert one.refresh() == [second]
        assert heard == [first, second]
        assert one.log.digest() == other.log.digest()


def test_what_had_waited_in_memory_reaches_the_disk_once_another_lab_wrote_what_it_waited_for(tmp_path: Path) -> None:
    ada = Author("ada")
    first, second = ada.claims(1), ada.claims(2)
    with closing(opened(tmp_path / "records")) as one, closing(opened(tmp_path / "records")) as other:
        one.add([second])
        other.add([first])
        one.refresh()

        other.refresh()

        assert other.log.known(ada.id)[0] == 2
        assert one.log.digest() == other.log.digest()


def test_a_claim_is_looked_at_and_written_in_one_go(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "records")) as one, closing(opened(tmp_path / "records")) as other:
        one.write(claim("ada", "it"), key("ada"))

        said = other.write(
            claim("bob", "it"),
            key("bob"),
            lambda log: "taken" if any(r.body.patch == named("it") for r in log) else None,
        )

        assert said == "taken"
        assert len(other.log) == 1


def test_what_is_said_once_is_said_once(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "records")) as one, closing(opened(tmp_path / "records")) as other:
        one.write(claim("ada", 1), key("ada"), once="it")

        assert other.write(claim("ada", 1), key("ada"), once="it") == "this was said before"
        assert one.log.known(key("ada").author)[0] == 1


def test_a_file_that_is_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "records").write_bytes(b"something else entirely" * 100)

    with pytest.raises(BadLedger, match="move it away"):
        opened(tmp_path / "records")


def test_records_of_another_swarm_are_not_opened(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "records")) as store:
        store.write(claim("ada", 1), key("ada"))

    with pytest.raises(BadLedger, match="for swarm"):
        Store(tmp_path / "records", "66" * 16)


def test_patches_are_kept_by_their_names(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "records")) as store:
        name = store.keep("a patch")

        assert store.blob(name) == "a patch"
        assert store.blob("") == ""
        assert store.blob(named("another")) is None
        assert not store.take(name, "another")


def test_processes_that_write_with_one_key_at_once_leave_one_chain(tmp_path: Path) -> None:
    opened(tmp_path / "records").close()
    writers = [writer(tmp_path / "records", str(number), 15) for number in range(2)]

    said = [line.split() for one in writers for line in one.communicate(timeout=120)[0].splitlines()]

    assert [one.returncode for one in writers] == [0, 0]
    with closing(opened(tmp_path / "records")) as store:
        chain = store.log.chains[key("ada").author]
        assert {(str(one.seq), one.id) for one in chain} == {(seq, name) for seq, name in said}
        assert len(chain) == 30
        assert is_whole(chain)


@pytest.mark.slow
def test_a_killed_writer_leaves_a_whole_chain_and_forgets_nothing_it_had_told(tmp_path: Path) -> None:
    dice, told = Random(1), []
    for number in range(20):
        process = writer(tmp_path / "records", str(number), 10_000)
        assert process.stdout is not None
        told.append(process.stdout.readline())
        time.sleep(dice.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        told += process.communicate(timeout=60)[0].splitlines()

    with closing(opened(tmp_path / "records")) as store:
        chain = store.log.chains[key("ada").author]
        assert not store.log.forks
        assert is_whole(chain)
        known = {one.id for one in chain}
        assert all(line.split()[1] in known for line in told if len(line.split()) == 2 and len(line.split()[1]) == 64)
        assert store.write(claim("ada", "after"), key("ada")) == list(store.log)[-1]


def test_a_late_joiner_has_all_on_disk(tmp_path: Path) -> None:
    other = lab(*[Author(f"lab {name}").claims(1) for name in range(30)])
    with closing(opened(tmp_path / "records")) as store:
        Gossip(store, clock=lambda: 0.0).sync(other.answer)

    with closing(opened(tmp_path / "records")) as store:
        assert store.log.digest() == other.store.log.digest()
