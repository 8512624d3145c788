"""The system call filter, evaluated by a small interpreter of classic BPF: for both architectures, on any machine."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeact.errors import IsolationUnavailable
from codeact.sandbox import seccomp

ALLOW, KILL = "allow", "kill"
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
COLUMN = {"x86_64": 0, "aarch64": 1}
MACHINES = pytest.mark.parametrize("machine", list(AUDIT))


def evaluate(program: bytes, audit: int, number: int, *arguments: int) -> str | int:
    """``allow``, ``kill`` or the errno that a call gets."""
    padded = [a & 0xFFFFFFFFFFFFFFFF for a in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, audit, 0, *padded)
    steps = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        code, then, otherwise, k = steps[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, k)
            case 0x54:
                accumulator &= k
            case 0x15 | 0x25 | 0x35 | 0x45:
                holds = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k}
                at += then if holds.get(code, bool(accumulator & k)) else otherwise
            case 0x06:
                action = k & 0xFFFF0000
                return {0x7FFF0000: ALLOW, 0x80000000: KILL}.get(action) or (k & 0xFFFF)
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


def ask(machine: str, number: int, *arguments: int) -> str | int:
    return evaluate(seccomp.filter_program(machine), AUDIT[machine], number, *arguments)


def special(machine: str) -> set[int]:
    """Numbers whose arguments decide."""
    calls = (seccomp._CLONE, seccomp._CLONE3, seccomp._SOCKET, seccomp._SOCKETPAIR, seccomp._IOCTL)
    return {call[COLUMN[machine]] for call in (*calls, seccomp._PERSONALITY, seccomp._FCNTL)}


def denied(machine: str) -> set[int]:
    return {n for pair in seccomp._DENIED.values() if (n := pair[COLUMN[machine]]) is not None}


@MACHINES
def test_every_number(machine: str) -> None:
    program = seccomp.filter_program(machine)
    for number in range(1200):
        outcome = evaluate(program, AUDIT[machine], number)
        if number in denied(machine):
            assert outcome == errno.EPERM, number
        elif number > seccomp._NEWEST_KNOWN:
            assert outcome == errno.ENOSYS, number
        elif number not in special(machine):
            assert outcome == ALLOW, number


@MACHINES
@given(number=st.integers(seccomp._NEWEST_KNOWN + 1, 0xFFFFFFFF))
def test_what_the_table_does_not_know_is_not_there(machine: str, number: int) -> None:
    assert ask(machine, number) == errno.ENOSYS


@MACHINES
@given(audit=st.integers(0, 0xFFFFFFFF), number=st.integers(0, 500))
def test_other_entry_points_kill(machine: str, audit: int, number: int) -> None:
    if audit != AUDIT[machine]:
        assert evaluate(seccomp.filter_program(machine), audit, number) == KILL


@MACHINES
def test_clone(machine: str) -> None:
    number = seccomp._CLONE[COLUMN[machine]]
    assert ask(machine, number, 0x11) == ALLOW  # fork
    assert ask(machine, number, 0x3D0F00) == ALLOW  # a thread
    for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert ask(machine, number, bit | 0x11) == errno.EPERM, hex(bit)
    assert ask(machine, seccomp._CLONE3[COLUMN[machine]], 0, 88) == errno.ENOSYS


@MACHINES
@given(family=st.integers(0, 0xFFFFFFFF), kind=st.integers(0, 10), protocol=st.integers(0, 300))
def test_sockets(machine: str, family: int, kind: int, protocol: int) -> None:
    fine = family in (1, 2, 10) or (family == 16 and protocol == 0)
    for call in (seccomp._SOCKET, seccomp._SOCKETPAIR):
        expected = ALLOW if fine else errno.EAFNOSUPPORT
        assert ask(machine, call[COLUMN[machine]], family, kind, protocol) == expected


@MACHINES
def test_known_sockets(machine: str) -> None:
    number = seccomp._SOCKET[COLUMN[machine]]
    for family in (1, 2, 10):
        assert ask(machine, number, family, 1, 0) == ALLOW
    assert ask(machine, number, 16, 3, 0) == ALLOW  # NETLINK_ROUTE
    for family, protocol in ((16, 12), (16, 15), (17, 0), (38, 0), (40, 0), (2 | 1 << 31, 0)):
        assert ask(machine, number, family, 3, protocol) == errno.EAFNOSUPPORT


@MACHINES
def test_typing_into_a_terminal(machine: str) -> None:
    number = seccomp._IOCTL[COLUMN[machine]]
    assert ask(machine, number, 0, 0x5412) == errno.EPERM
    assert ask(machine, number, 0, 0x541C) == errno.EPERM
    assert ask(machine, number, 0, 1 << 32 | 0x5412) == errno.EPERM  # the kernel reads the low half
    assert ask(machine, number, 0, 0x5413) == ALLOW


@MACHINES
def test_leases(machine: str) -> None:
    number = seccomp._FCNTL[COLUMN[machine]]
    assert ask(machine, number, 3, 1024) == errno.EPERM
    for command in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1025, 1030, 1031, 1032, 1033):
        assert ask(machine, number, 3, command) == ALLOW


@MACHINES
def test_personality(machine: str) -> None:
    number = seccomp._PERSONALITY[COLUMN[machine]]
    assert ask(machine, number, 0) == ask(machine, number, 0xFFFFFFFF) == ALLOW
    assert ask(machine, number, 0x0040000) == errno.EPERM


def test_x32() -> None:
    assert ask("x86_64", 0x40000000) == ask("x86_64", 0x40000000 + 59) == errno.ENOSYS


def test_unknown_architecture_is_refused() -> None:
    with pytest.raises(IsolationUnavailable, match="riscv64"):
        seccomp.filter_program("riscv64")


HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h",),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}


@MACHINES
def test_numbers_are_those_of_the_headers(machine: str) -> None:
    header = next((Path(p) for p in HEADERS[machine] if Path(p).exists()), None)
    if header is None:
        pytest.skip(f"the kernel's headers are not installed: {HEADERS[machine][0]}")
    numbers = {name: int(n) for name, n in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())}
    compared = 0
    for name, pair in seccomp._DENIED.items():
        number = pair[COLUMN[machine]]
        if number is not None and name in numbers:
            assert numbers[name] == number, name
            compared += 1
    assert compared > 60
