"""The container of snapshots: what was sealed opens again; what is cut off, damaged, altered or too new is refused."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blazen._core.sealed import open_sealed, seal
from blazen.errors import ValidationError

KEY = b"sixteen bytes or more"
SECTIONS = {"state": b"\x01\x00\x80", "queue": b"", "öther": bytes(range(256))}


def refused(data: Any, key: bytes | None = None) -> str:
    with pytest.raises(ValidationError) as caught:
        open_sealed(data, key)
    assert str(caught.value).startswith("cannot open the snapshot: ")
    return str(caught.value).removeprefix("cannot open the snapshot: ")


def with_checksum(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def altered(data: bytes, change: Callable[[bytearray], None]) -> bytes:
    """`data` with a change that its checksum was made to fit."""
    body = bytearray(data[:-4])
    change(body)
    return with_checksum(bytes(body))


@given(st.dictionaries(st.text(max_size=5), st.binary(max_size=20)), st.none() | st.binary(min_size=16))
def test_what_was_sealed_opens_again(sections: dict[str, bytes], key: bytes | None) -> None:
    data = seal(sections, key)
    back = open_sealed(data, key)
    assert back == sections
    assert list(back) == list(sections)
    assert open_sealed(data) == sections


def test_other_kinds_of_bytes_are_taken() -> None:
    view = memoryview(bytes(range(10)))[::2]
    data = seal({"a": bytearray(b"x"), "b": view}, bytearray(KEY))
    for kind in (bytes, bytearray, memoryview):
        assert open_sealed(kind(data), KEY) == {"a": b"x", "b": bytes([0, 2, 4, 6, 8])}


@pytest.mark.parametrize("key", [None, KEY])
def test_every_truncation_is_refused(key: bytes | None) -> None:
    data = seal(SECTIONS, key)
    for length in range(1, len(data)):
        assert "cut off" in refused(data[:length], key)
    assert "no snapshot" in refused(b"", key)


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("sealed_with", [None, KEY])
def test_every_flipped_bit_is_refused(key: bytes | None, sealed_with: bytes | None) -> None:
    data = bytearray(seal(SECTIONS, sealed_with))
    for place in range(len(data)):
        for bit in range(8):
            data[place] ^= 1 << bit
            refused(data, key)
            data[place] ^= 1 << bit


def test_a_newer_version_is_named() -> None:
    data = bytearray(seal(SECTIONS))
    data[9] = 3
    assert "format version 3 and this blazen reads up to 2" in refused(data)


def test_bytes_that_follow_are_refused() -> None:
    assert "followed by 3 bytes" in refused(seal(SECTIONS) + b"abc")


def test_something_else_is_no_snapshot() -> None:
    assert "does not begin like a snapshot" in refused(b"PK\x03\x04" + bytes(50))
    assert "no snapshot of blazen" in refused(b"hello")
    assert "copied as text" in refused(seal(SECTIONS).decode("latin-1").encode())


def test_unsigned_is_refused_where_a_key_is_given() -> None:
    assert "it is not signed" in refused(seal(SECTIONS), KEY)


def test_altered_and_resealed_without_the_key_is_refused() -> None:
    def change(body: bytearray) -> None:
        body[-40] ^= 1

    data = altered(seal(SECTIONS, KEY), change)
    assert "altered, or signed with another key" in refused(data, KEY)
    assert open_sealed(data) != SECTIONS  # without the key nobody can tell


def test_another_key_is_refused() -> None:
    assert "another key" in refused(seal(SECTIONS, KEY), KEY + b"!")


def test_a_signature_taken_off_is_noticed() -> None:
    body = bytearray(seal(SECTIONS, KEY)[:-36])
    struct.pack_into("<HQ", body, 10, 0, len(body) + 4)
    data = with_checksum(bytes(body))
    assert open_sealed(data) == SECTIONS
    assert "it is not signed" in refused(data, KEY)


def test_damage_and_alteration_are_told_apart() -> None:
    data = bytearray(seal(SECTIONS, KEY))
    data[-50] ^= 1
    assert "neither its signature nor its checksum fits" in refused(data, KEY)
    assert "its checksum does not fit" in refused(data)


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        (struct.pack("<HQ", 1, 0)[:5], "a section has no beginning"),
        (struct.pack("<HQ", 1, 9) + b"a", "a section is longer than the whole"),
        (struct.pack("<HQ", 1, 2**64 - 1) + b"a", "a section is longer than the whole"),
        (struct.pack("<HQ", 1, 0) + b"\xff", "the name of a section is no UTF-8"),
        ((struct.pack("<HQ", 1, 0) + b"a") * 2, "there are two sections 'a'"),
    ],
)
def test_sections_that_do_not_fit_are_refused(sections: bytes, problem: str) -> None:
    body = seal({})[:-4] + sections
    data = with_checksum(body[:12] + struct.pack("<Q", len(body) + 4) + body[20:])
    assert problem in refused(data)


def test_unknown_flags_are_refused() -> None:
    assert "unknown flags 0x0002" in refused(altered(seal({}), lambda body: body.__setitem__(10, 2)))


@given(st.binary(max_size=100), st.none() | st.just(KEY))
def test_random_bytes_are_refused(data: bytes, key: bytes | None) -> None:
    refused(data, key)
    refused(seal(SECTIONS)[:20] + data, key)


@pytest.mark.parametrize("key", [b"", b"short", "text" * 10, 5])
def test_what_is_no_key_is_refused(key: Any) -> None:
    with pytest.raises(ValidationError, match="a key is at least 16 bytes"):
        seal(SECTIONS, key)
    assert "a key is at least 16 bytes" in refused(seal(SECTIONS, KEY), key)


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({1: b""}, "the name of a section is a str"),
        ({"a": "text"}, "section 'a' is a str, not bytes"),
        ({"x" * 70_000: b""}, "has 70000 bytes"),
        ({"\ud800": b""}, "no valid Unicode"),
    ],
)
def test_what_cannot_be_sealed_is_refused(sections: Any, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        seal(sections)


@pytest.mark.parametrize("data", ["text", None, 5])
def test_what_is_not_bytes_is_refused(data: Any) -> None:
    assert "it comes as bytes" in refused(data)
