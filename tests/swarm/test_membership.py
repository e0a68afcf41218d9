"""What one has joined: made whole, joined by a link that is looked through, left without a loss."""

from __future__ import annotations

import base64
import json
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from nightlab.errors import NightlabError, NotFound
from nightlab.swarm import membership
from nightlab.swarm.identity import Identity
from nightlab.swarm.membership import SCHEME, BadSwarm, Membership, bar, create, endpoint, invite, join, leave, names

ROUTER = "lab.example.org:7447"


@pytest.fixture
def alice(tmp_path: Path) -> Path:
    return tmp_path / "alice"


@pytest.fixture
def bob(tmp_path: Path) -> Path:
    return tmp_path / "bob"


def packed(said: dict[str, Any]) -> str:
    return SCHEME + base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")


def unpacked(link: str) -> dict[str, Any]:
    text = link.removeprefix(SCHEME)
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return found


def common_name(joined: Membership) -> str:
    cert = x509.load_pem_x509_certificate(joined.cert.read_bytes())
    return str(cert.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


def test_a_team_is_made_with_an_authority_of_its_own(alice: Path) -> None:
    joined = create(alice, "night", label="Alice & co", routers=[ROUTER])

    assert membership.open(alice, "night") == joined
    assert common_name(joined) == f"Alice-co-{Identity.load(alice).author[:8]}"
    assert endpoint(ROUTER, joined) == "tls/lab.example.org:7447"
    cert, ca = (x509.load_pem_x509_certificate(one.read_bytes()) for one in (joined.cert, joined.ca))
    cert.verify_directly_issued_by(ca)
    reached = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert reached.get_values_for_type(x509.DNSName) == ["localhost", "lab.example.org"]
    assert [str(one) for one in reached.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_private_keys_are_for_their_owner_alone(alice: Path) -> None:
    joined = create(alice, "night", label="alice")

    assert {stat.S_IMODE(one.stat().st_mode) for one in (joined.ca_key, joined.cert_key)} == {0o600}
    assert stat.S_IMODE(joined.folder.stat().st_mode) == 0o700


def test_who_gets_a_link_joins_by_it(alice: Path, bob: Path) -> None:
    made = create(alice, "night", label="alice", routers=[ROUTER])

    joined = join(bob, invite(alice, "night", label="bob", hosts=["10.1.2.3"]))

    assert (joined.name, joined.id, joined.label, joined.routers) == ("night", made.id, "bob", (ROUTER,))
    assert joined.ca.read_text() == made.ca.read_text()
    assert not joined.ca_key.exists()
    assert common_name(joined).startswith("bob-")
    assert stat.S_IMODE(joined.cert_key.stat().st_mode) == 0o600
    assert membership.open(bob, "night") == joined
    assert joined.warnings() == []


def test_only_who_made_a_swarm_can_invite_and_others_are_told_who_that_is(alice: Path, bob: Path) -> None:
    create(alice, "night", label="alice of lab 3")
    join(bob, invite(alice, "night", label="bob"))

    with pytest.raises(BadSwarm, match="only alice of lab 3 can invite"):
        invite(bob, "night", label="carol")


def test_a_newer_link_renews_and_keeps_the_records(alice: Path, bob: Path) -> None:
    create(alice, "night", label="alice")
    joined = join(bob, invite(alice, "night", label="bob"))
    joined.records.write_text("what was said")
    before = joined.cert.read_text()

    again = join(bob, invite(alice, "night", label="bob", days=300))

    assert again.records.read_text() == "what was said"
    assert again.cert.read_text() != before
    assert sorted(one.name for one in again.folder.iterdir()) == sorted(
        ["ca.pem", "cert.pem", "cert-key.pem", "swarm.toml", "records.sqlite"]
    )


def test_a_certificate_that_ends_soon_is_told_of(alice: Path, bob: Path) -> None:
    create(alice, "night", label="alice")

    joined = join(bob, invite(alice, "night", label="bob", days=2))

    assert "ask for a new link" in joined.warnings()[0]


def test_a_link_that_ended_is_refused(alice: Path, bob: Path) -> None:
    create(alice, "night", label="alice")
    link = invite(alice, "night", label="bob", days=2)

    with pytest.raises(BadSwarm, match="was good until"):
        join(bob, link, clock=lambda: time.time() + 3 * 86_400)
    assert names(bob) == []


def test_another_swarm_of_the_same_name_is_not_overwritten(alice: Path, bob: Path) -> None:
    create(alice, "night", label="alice")
    mine = create(bob, "night", label="bob")

    with pytest.raises(BadSwarm, match="leave it first: nightlab swarm leave night"):
        join(bob, invite(alice, "night", label="bob"))

    assert membership.open(bob, "night") == mine


def test_a_link_cannot_move_a_member_to_another_authority(alice: Path, bob: Path, tmp_path: Path) -> None:
    create(alice, "night", label="alice")
    create(tmp_path / "mallory", "night", label="mallory")
    joined = join(bob, invite(alice, "night", label="bob"))
    stranger = unpacked(invite(tmp_path / "mallory", "night", label="bob"))

    with pytest.raises(BadSwarm, match="another authority"):
        join(bob, packed(stranger | {"id": joined.id}))

    assert membership.open(bob, "night").ca.read_text() == (alice / "swarms/night/ca.pem").read_text()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"v": 2}, "torn or none of ours"),
        ({"more": "fields"}, "torn or none of ours"),
        ({"id": "../../etc"}, "torn or none of ours"),
        ({"name": "../night"}, "cannot be a swarm's name"),
        ({"name": ".night"}, "cannot be a swarm's name"),
        ({"name": "night.left-1"}, "cannot be a swarm's name"),
        ({"name": "night\n"}, "cannot be a swarm's name"),
        ({"label": "\x1b\x00"}, "empty label"),
        ({"routers": ["lab:7447#root_ca_certificate=/etc/passwd"]}, "no address"),
        ({"routers": ["udp/lab:7447"]}, "no address"),
        ({"routers": ["lab:0"]}, "no address"),
        ({"routers": ["lab:99999"]}, "no address"),
        ({"routers": ["lab:7447"] * 51}, "torn or none of ours"),
        ({"setting": "machine"}, "cannot be joined"),
        ({"setting": "other"}, "torn or none of ours"),
        ({"ca": "", "cert": ""}, "not by the swarm's authority"),
        ({"cert": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, "not by the swarm's authority"),
        ({"key": ""}, "not by the swarm's authority"),
    ],
)
def test_a_link_that_was_changed_is_refused_and_leaves_nothing(
    alice: Path, bob: Path, change: dict[str, Any], says: str
) -> None:
    create(alice, "night", label="alice")
    said = unpacked(invite(alice, "night", label="bob"))

    with pytest.raises(BadSwarm, match=says):
        join(bob, packed(said | change))

    assert not list(bob.glob("swarms/*"))


def test_a_certificate_by_another_authority_or_with_another_key_is_refused(
    alice: Path, bob: Path, tmp_path: Path
) -> None:
    create(alice, "night", label="alice")
    create(tmp_path / "mallory", "night", label="mallory")
    ours, theirs = (unpacked(invite(one, "night", label="bob")) for one in (alice, tmp_path / "mallory"))

    for one in ("ca", "cert", "key"):
        with pytest.raises(BadSwarm, match=r"authority|does not belong"):
            join(bob, packed(ours | {one: theirs[one]}))
    with pytest.raises(BadSwarm, match=r"does not belong|authority"):
        join(bob, packed(ours | {"ca": ours["cert"]}))


def test_what_stands_beside_a_certificate_in_a_link_is_not_kept(alice: Path, bob: Path) -> None:
    create(alice, "night", label="alice")
    said = unpacked(invite(alice, "night", label="bob"))

    joined = join(bob, packed(said | {"cert": said["cert"] + "# more\n", "key": said["key"] + "# more\n"}))

    assert "more" not in joined.cert.read_text() + joined.cert_key.read_text()


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda some: base64.urlsafe_b64encode(some).decode()))
def test_no_text_is_a_link_by_chance(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    for link in (text, SCHEME + text):
        with pytest.raises(NightlabError):
            join(tmp_path_factory.getbasetemp() / "nobody", link)


def test_a_link_of_a_megabyte_is_not_even_read(bob: Path) -> None:
    with pytest.raises(BadSwarm, match="at most"):
        join(bob, SCHEME + "A" * 1_000_000)
    with pytest.raises(BadSwarm):
        join(bob, SCHEME + base64.urlsafe_b64encode(b"[" * 10_000).decode())


def test_a_swarm_that_is_left_is_put_aside_with_all_it_holds(alice: Path) -> None:
    create(alice, "night", label="alice").records.write_text("what was said")

    first = leave(alice, "night")
    create(alice, "night", label="alice")
    second = leave(alice, "night")

    assert (first.name, second.name) == ("night.left-1", "night.left-2")
    assert (first / "records.sqlite").read_text() == "what was said"
    assert names(alice) == []
    with pytest.raises(NotFound):
        leave(alice, "night")


def test_a_swarm_that_is_not_there_is_answered_with_those_that_are(alice: Path) -> None:
    create(alice, "night", label="alice")
    create(alice, "day", label="alice", setting="open", routers=["a:1", "b:2", "c:3"])

    with pytest.raises(NotFound, match=r"no swarm called dusk \(in: day, night\)"):
        membership.open(alice, "dusk")


def test_one_machine_needs_no_certificates_and_no_routers(alice: Path) -> None:
    joined = create(alice, "here", label="alice", setting="machine")

    assert [one.name for one in joined.folder.iterdir()] == ["swarm.toml"]
    with pytest.raises(BadSwarm, match="on one machine"):
        invite(alice, "here", label="bob")
    with pytest.raises(BadSwarm, match="has no routers"):
        create(alice, "there", label="alice", setting="machine", routers=[ROUTER])


def test_anybody_in_an_open_swarm_can_invite(alice: Path, bob: Path, tmp_path: Path) -> None:
    routers = ["a.example.org:7447", "tls/b.example.org:7447", "[2001:db8::1]:7447"]
    made = create(alice, "all", label="alice", setting="open", routers=routers)
    joined = join(bob, invite(alice, "all", label="bob"))

    third = join(tmp_path / "carol", invite(bob, "all", label="carol"), label="Carol\x1b[31m")

    assert made.id == joined.id == third.id
    assert third.label == "Carol [31m"
    assert [endpoint(one, third) for one in third.routers] == [
        "tcp/a.example.org:7447",
        "tls/b.example.org:7447",
        "tcp/[2001:db8::1]:7447",
    ]
    assert third.warnings() == []


def test_an_open_swarm_with_fewer_than_three_routers_warns(alice: Path) -> None:
    joined = create(alice, "all", label="alice", setting="open", routers=[ROUTER])

    assert "should know 3 routers" in joined.warnings()[0]


def test_a_second_swarm_of_a_name_is_not_made(alice: Path) -> None:
    first = create(alice, "night", label="alice")

    with pytest.raises(BadSwarm, match="there is a swarm night already"):
        create(alice, "night", label="alice")

    assert membership.open(alice, "night") == first


def test_a_folder_that_was_broken_says_what_mends_it(alice: Path) -> None:
    joined = create(alice, "night", label="alice")
    joined.cert.unlink()

    with pytest.raises(BadSwarm, match=r"lacks cert\.pem; ask for a new link"):
        membership.open(alice, "night")

    (joined.folder / "swarm.toml").write_text("name = 3\n")
    with pytest.raises(BadSwarm, match=r"swarm\.toml"):
        membership.open(alice, "night")


def test_who_was_invited_can_be_barred_by_the_name_of_the_certificate(alice: Path, bob: Path) -> None:
    create(alice, "night", label="alice")
    joined = join(bob, invite(alice, "night", label="bob"))

    barred = bar(alice, "night", common_name(joined))

    assert membership.open(alice, "night").barred == barred.barred == (common_name(joined),)
    with pytest.raises(NotFound, match="nobody was invited to night as 'carol'"):
        bar(alice, "night", "carol")


def test_a_label_in_any_letters_survives_the_file(alice: Path) -> None:
    joined = create(alice, "night", label='Łukasz "the lab" \\ 実験')

    assert membership.open(alice, "night").label == joined.label == 'Łukasz "the lab" \\ 実験'
    assert common_name(joined).startswith("ukasz-the-lab-")
