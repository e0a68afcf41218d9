"""The author's key: made once, kept to oneself, refused in words."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from nightlab.swarm.identity import BadKey, Identity, home, verifies


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "nightlab"


def put(own: Path, text: bytes, mode: int = 0o600) -> Path:
    own.mkdir(mode=0o700)
    path = own / "key.pem"
    path.write_bytes(text)
    path.chmod(mode)
    return path


def test_a_key_is_made_once_and_only_its_owner_may_read_it(own: Path) -> None:
    first, second = Identity.load(own), Identity.load(own)

    assert first == second
    assert stat.S_IMODE((own / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert [one.name for one in own.iterdir()] == ["key.pem"]


def test_labs_that_start_at_once_end_up_with_one_key(own: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        authors = {one.author for one in pool.map(lambda _: Identity.load(own), range(32))}

    assert len(authors) == 1
    assert [one.name for one in own.iterdir()] == ["key.pem"]


def test_what_the_author_signed_verifies_and_nothing_else_does(own: Path, tmp_path: Path) -> None:
    alice, bob = Identity.load(own), Identity.load(tmp_path / "bob")

    signature = alice.sign(b"it is better by 2 %")

    assert verifies(alice.author, signature, b"it is better by 2 %")
    assert not verifies(alice.author, signature, b"it is better by 9 %")
    assert not verifies(bob.author, signature, b"it is better by 2 %")
    assert not verifies(alice.author, signature[:-1], b"it is better by 2 %")


@pytest.mark.parametrize("author", ["", "00", "g" * 64, "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n", "é" * 64])
def test_who_is_no_author_signed_nothing(author: str) -> None:
    assert not verifies(author, b"\0" * 64, b"")


P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
WEAK = [y | sign << 255 for y in (0, 1, P - 1, P, P + 1, ORDER_8, P - ORDER_8) for sign in (0, 1)]


def test_the_points_of_order_eight_are_the_ones_of_the_curve() -> None:
    """Twice such a point has y = 0, which on this curve says d y^4 + 2 y^2 = 1."""
    assert (D * pow(ORDER_8, 4, P) + 2 * pow(ORDER_8, 2, P) - 1) % P == 0


@pytest.mark.parametrize("y", WEAK)
def test_a_weak_key_does_not_sign_for_everybody(y: int) -> None:
    author = y.to_bytes(32, "little").hex()
    forged = (1).to_bytes(32, "little") + b"\0" * 32  # the neutral point, and a zero

    assert not any(verifies(author, forged, b"message %d" % n) for n in range(40))


def test_the_key_is_never_shown(own: Path) -> None:
    assert "_key" not in repr(Identity.load(own))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_that_others_may_read_is_refused_with_the_line_that_mends_it(own: Path, mode: int) -> None:
    author = Identity.load(own).author
    path = own / "key.pem"
    path.chmod(mode)

    with pytest.raises(BadKey, match=f"chmod 600 {path}"):
        Identity.load(own)

    path.chmod(0o600)
    assert Identity.load(own).author == author


def test_a_folder_that_others_may_write_in_is_refused(own: Path) -> None:
    own.mkdir()
    own.chmod(0o777)

    with pytest.raises(BadKey, match=f"chmod 700 {own}"):
        Identity.load(own)
    assert not (own / "key.pem").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "broken"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "broken"),
        (b"\xff" * 5000, "not an Ed25519"),
        (
            ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "not an Ed25519",
        ),
        (
            Ed25519PrivateKey.generate().private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
            ),
            "passphrase",
        ),
    ],
    ids=["empty", "torn", "huge", "another kind", "under a passphrase"],
)
def test_a_key_that_cannot_be_used_is_refused_and_left_alone(own: Path, text: bytes, says: str) -> None:
    path = put(own, text)

    with pytest.raises(BadKey, match=says):
        Identity.load(own)

    assert path.read_bytes() == text


def test_a_link_in_place_of_the_key_is_not_followed(own: Path, tmp_path: Path) -> None:
    Identity.load(tmp_path / "other")
    own.mkdir(mode=0o700)
    (own / "key.pem").symlink_to(tmp_path / "other" / "key.pem")

    with pytest.raises(BadKey, match="is a link"):
        Identity.load(own)


def test_a_home_that_cannot_be_made_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(BadKey, match=r"cannot use the key .*key\.pem"):
        Identity.load(tmp_path / "file" / "nightlab")


def test_the_home_is_where_the_environment_says() -> None:
    assert home({"NIGHTLAB_HOME": "/a/b", "XDG_CONFIG_HOME": "/c"}) == Path("/a/b")
    assert home({"XDG_CONFIG_HOME": "/c", "HOME": "/h"}) == Path("/c/nightlab")
    assert home({"HOME": "/h"}) == Path("/h/.config/nightlab")
    assert home({"XDG_CONFIG_HOME": "here", "HOME": "/h"}) == Path("/h/.config/nightlab")
