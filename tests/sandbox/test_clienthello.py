"""The server's name in TLS hellos: real ones, cut in any way, and whatever else may come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeact.sandbox.clienthello import LARGEST, server_name
from tests.sandbox.web import hello, records, with_extension

REAL = hello("files.example.org")


def test_name_of_a_real_hello() -> None:
    assert server_name(REAL) == "files.example.org"


@given(st.integers(0, len(REAL) - 1))
def test_a_part_asks_for_more(length: int) -> None:
    assert server_name(REAL[:length]) is None


@given(st.integers(20, 1 << 14), st.binary(max_size=20))
def test_cut_into_records_and_followed_by_more(size: int, following: bytes) -> None:
    assert server_name(records(REAL[5:], size) + following) == "files.example.org"


@given(st.binary(max_size=300), st.booleans())
def test_anything_gives_a_name_or_a_reason(data: bytes, framed: bool) -> None:
    try:
        name = server_name(records(b"\x01" + len(data).to_bytes(3) + data, 64) if framed else data)
    except ValueError as error:
        assert "TLS" in str(error)
    else:
        assert name is None or name.isascii()


@given(st.integers(5, len(REAL) - 1), st.integers(0, 255))
def test_a_changed_byte_gives_a_name_or_a_reason(at: int, value: int) -> None:
    changed = REAL[:at] + bytes([value]) + REAL[at + 1 :]
    try:
        name = server_name(changed)
    except ValueError as error:
        assert "TLS" in str(error)
    else:
        assert name is None or len(name) <= len("files.example.org")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "not TLS"),
        (b"SSH-2.0-x\r\n", "not TLS"),
        (b"\x80\x2e\x01\x00\x02", "not TLS"),  # the hello of SSL 2
        (b"\x16\x02", "not TLS"),
        (b"\x16\x03\x01\x00\x00", "malformed"),  # an empty record
        (b"\x16\x03\x01\xff\xff", "malformed"),
        (records(b"\x02\x00\x00\x01x", 99), "not a TLS hello"),
        (records(b"\x01" + (LARGEST + 1).to_bytes(3), 99), "too large"),
        (records(REAL[5:], 10), "too many pieces"),
        (records(REAL[5:] + b"\x01", 1 << 14), "malformed"),  # another message in the same record
        (hello(None), "without a server name"),
        (with_extension(REAL, 0xFE0D), "hide another name"),
        (with_extension(REAL, 0, b"\x00\x0e\x00\x00\x0bexample.com"), "malformed"),  # a second name
    ],
)
def test_what_is_no_such_hello(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        server_name(data)


def test_the_added_extension_alone_is_no_fault() -> None:
    assert server_name(with_extension(REAL, 0xFAFA)) == "files.example.org"
