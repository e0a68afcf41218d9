from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from sets import SWARM, TASK, Author, claim, key, named, result

from nightlab.swarm.record import LARGEST, BadRecord, Insight, Record, patch_key, read, write

SAID = Author("ada").wins(2.5, values=[1.0, 2.5e-7], milestones=["naïve idea"], hypothesis='a "quoted" ☂ idea')
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda one: st.lists(one, max_size=4) | st.dictionaries(st.text(), one, max_size=4),
    max_leaves=12,
)


def signed(said: dict[str, Any]) -> bytes:
    """What somebody with a key signs, whatever it is."""
    unsigned = {name: value for name, value in said.items() if name != "sig"}
    return rfc8785.dumps({**unsigned, "sig": key("ada").sign(rfc8785.dumps(unsigned)).hex()})


def refused(data: bytes, swarm: str = SWARM) -> bool:
    try:
        read(data, swarm=swarm)
    except BadRecord:
        return True
    return False


def test_a_record_says_what_was_written() -> None:
    again = read(SAID.data, swarm=SWARM)

    assert again == SAID
    assert again.body == SAID.body


@pytest.mark.parametrize("value", [0.0, -1.5, 1e-30, 2.0**53, 2.0**60, 3e20, 1e21, 1e99, 0.1 + 0.2])
def test_a_number_arrives_as_it_was_said(value: float) -> None:
    said = Author("ada").wins(value)

    assert said.body.gain == value


def test_no_record_survives_the_change_of_a_single_byte() -> None:
    for place in range(len(SAID.data)):
        for bit in (1, 2, 32):
            altered = bytearray(SAID.data)
            altered[place] ^= bit

            assert refused(bytes(altered)), bytes(altered)


def test_a_record_cut_short_or_followed_by_something_is_none() -> None:
    assert all(refused(SAID.data[:length]) for length in range(0, len(SAID.data), 7))
    assert refused(SAID.data + b"\n")
    assert refused(b" " + SAID.data)
    assert refused(b"\xef\xbb\xbf" + SAID.data)
    assert refused(SAID.data.decode().encode("utf-16"))


def test_a_record_for_one_swarm_is_none_in_another() -> None:
    assert refused(SAID.data, swarm="66" * 16)


def test_nobody_signs_for_somebody_else() -> None:
    said = json.loads(SAID.data) | {"author": key("eve").author}

    assert refused(signed(said))


@pytest.mark.parametrize(
    "changes",
    [
        {"v": True},
        {"v": 2},
        {"seq": -1},
        {"seq": True},
        {"seq": 1.5},
        {"seq": 2**53 - 1, "prev": ""},
        {"seq": 0, "prev": named("before")},
        {"seq": 1, "prev": 7},
        {"type": "claim"},
        {"type": ["result"]},
        {"type": {}},
        {"body": []},
        {"body": None},
        {"author": "AB" * 32},
        {"author": 5},
        {"more": 1},
    ],
    ids=str,
)
def test_what_is_signed_is_checked_all_the_same(changes: dict[str, Any]) -> None:
    said = json.loads(SAID.data)
    assert not refused(signed(said))

    assert refused(signed(said | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "task"},
        {"patch": named("x").upper()},
        {"change": None},
        {"gain": "5"},
        {"gain": True},
        {"gain": 1e200},
        {"stderr": -1},
        {"values": [1e300]},
        {"values": [0] * 25},
        {"values": {}},
        {"seeds": [1.5]},
        {"at": -1},
        {"at": 1e11},
        {"status": "won"},
        {"direction": "up"},
        {"budget": ["wall"]},
        {"label": "x" * 61},
        {"milestones": ["a"] * 7},
        {"inspired_by": [7]},
        {"sig": "0" * 128},
        {"unknown": 1},
    ],
    ids=lambda one: str(one)[:40],
)
def test_what_a_result_says_is_checked_field_by_field(changes: dict[str, Any]) -> None:
    said = json.loads(SAID.data)

    assert refused(signed(said | {"body": said["body"] | changes}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[" * 2000,
        b'{"a":' * 400 + b"1" + b"}" * 400,
        b"NaN",
        b"9" * 2000,
        b'"\\ud800"',
        SAID.data.replace(b'"v":1', b'"v":1.0'),
        SAID.data.replace(b'"v":1', b'"v":1,"v":1'),
        SAID.data.replace(b'"gain":2.5', b'"gain":2.50'),
        SAID.data.replace(b'"gain":2.5', b'"gain":NaN'),
        SAID.data.replace(b'"gain":2.5', b'"gain":1e999'),
        SAID.data.replace(b'"gain":2.5', b'"gain":' + b"9" * 900),
        SAID.data.replace(b"quoted", b"\\ud800"),
        SAID.data.replace(b"\xe2\x98\x82", b"\\u2602"),
        SAID.data.replace(b":", b": "),
        SAID.data.replace(b'"body":{', b'"body":' + b'{"a":' * 150 + b"1" + b"}" * 150 + b',"x":{'),
    ],
    ids=lambda one: str(one)[:24],
)
def test_malformed_bytes_are_refused_with_words(data: bytes) -> None:
    assert data != SAID.data

    assert refused(data)


def test_deep_nesting_in_a_signed_record_is_refused() -> None:
    deep: Any = 1
    for _ in range(180):
        deep = [deep]

    assert refused(signed(json.loads(SAID.data) | {"body": deep}))


def test_more_than_two_kilobytes_is_no_record() -> None:
    insight = Insight(task=TASK, label="ada", text="☂" * 600, evidence=[named(one) for one in range(8)], at=1.0)

    with pytest.raises(BadRecord, match=f"{LARGEST} are allowed"):
        write(insight, key("ada"), swarm=SWARM, seq=0, prev="")


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    assert refused(data)


@settings(deadline=None)
@given(st.sampled_from(["author", "body", "prev", "seq", "sig", "swarm", "type", "v"]), JSON)
def test_any_json_in_any_field_is_refused_or_the_same(name: str, value: Any) -> None:
    said = json.loads(SAID.data)
    data = json.dumps(said | {name: value}).encode()

    assert refused(data) or data == SAID.data


def test_a_signature_stands_beside_the_id_and_not_in_it() -> None:
    again = write(SAID.body, key("ada"), swarm=SWARM, seq=0, prev="")

    assert isinstance(again, Record)
    assert again.id == SAID.id
    assert replace(claim("ada", 1), at=3.0) != replace(claim("ada", 1), at=4.0)
    assert result("ada", 1).patch != result("ada", 2).patch


def test_a_change_has_one_name_however_it_is_indented() -> None:
    head = "diff --git a/train.py b/train.py\n--- a/train.py\n+++ b/train.py\n"

    one = patch_key(TASK, head + "@@ -1 +1 @@\n-RATE = 1\n+RATE = 2\n")

    assert one == patch_key(TASK, head + "@@ -9 +9 @@\n context\n-  RATE =  1\n+    RATE = 2\n")
    assert one != patch_key(TASK, head + "@@ -1 +1 @@\n-RATE = 1\n+RATE = 3\n")
    assert one != patch_key(named("other"), head + "@@ -1 +1 @@\n-RATE = 1\n+RATE = 2\n")
