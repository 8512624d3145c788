"""What the attacks have in common: how they are registered and run, and small tools for them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

Facts = dict[str, Any]
Attack = Callable[[Facts], str | None]


class Entry(NamedTuple):
    """One attack.

    ``harmless``: does no damage even where nothing stops it; ``seconds``: the time limit it is given; ``by_network``: a
    session that was given the host's network may succeed.
    """

    family: str
    harmless: bool
    seconds: float
    function: Attack
    by_network: bool = False


ATTACKS: dict[str, Entry] = {}
"""By name."""

REFUSED = {errno.EPERM, errno.EACCES, errno.ENOSYS}

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def attack(
    family: str, harmless: bool = False, seconds: float = 60.0, by_network: bool = False
) -> Callable[[Attack], Attack]:
    def register(function: Attack) -> Attack:
        ATTACKS[function.__name__.replace("_", "-")] = Entry(family, harmless, seconds, function, by_network)
        return function

    return register


def attempt(name: str, facts: Facts) -> None:
    """Run one attack and print its one line: BREACH, HELD or BROKEN."""
    try:
        got = ATTACKS[name].function(facts)
    except (OSError, MemoryError) as error:
        line = f"HELD: {type(error).__name__}: {error}"
    except Exception as error:
        line = f"BROKEN: {type(error).__name__}: {error}"
    else:
        line = "HELD: nothing was found" if got is None else f"BREACH: {got}"
    line = " ".join(line.split())[:500]
    with contextlib.suppress(OSError), open("verdict", "w") as file:  # for attacks on the way to the host
        file.write(line)
    print(line, flush=True)  # noqa: T201


def call(numbers: tuple[int, int], *arguments: Any) -> int:
    """A system call by its number on (x86_64, aarch64). Raises OSError."""
    number = numbers[0] if os.uname().machine == "x86_64" else numbers[1]
    plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    outcome = int(libc.syscall(ctypes.c_long(number), *plain))
    if outcome < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return outcome


def refused(numbers: tuple[int, int], *arguments: Any) -> str | None:
    """A call that has to be refused before its arguments are looked at."""
    try:
        return f"the call returned {call(numbers, *arguments)}"
    except OSError as error:
        if error.errno in REFUSED:
            raise
        return f"the kernel took the call and answered {error}"


def text_of(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(1 << 20)


def pids() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def search_processes(kind: str, holds: Callable[[bytes], bool]) -> str | None:
    for pid in pids():
        with contextlib.suppress(OSError):
            if holds(text_of(f"/proc/{pid}/{kind}")):
                return f"found in /proc/{pid}/{kind}"
    return None


def write_at(path: str) -> str:
    with open(path, "xb"):
        pass
    os.unlink(path)
    return f"could write {path}"


def connect(kind: int, family: int, address: Any, send: bytes = b"") -> str:
    with socket.socket(family, kind) as client:
        client.settimeout(2)
        client.connect(address)
        if send:
            client.send(send)
            client.recv(100)
    return f"connected to {address!r}"


def own_sockets() -> Iterator[socket.socket]:
    """Every socket among this process's descriptors, each under another number and closed afterwards."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as end:
                    yield end


# of a secret only the hash is known here, so that looking for it does not find the question, nor a copy of it


def holds(data: bytes, digest: str) -> bool:
    words = {word for word in re.findall(rb"[0-9a-f]{32,}", data) if len(word) == 32}
    return any(hashlib.sha256(word).hexdigest() == digest for word in words)


def holds_secret(facts: Facts, data: bytes) -> bool:
    return holds(data, facts["secret_sha256"])


def search_memory(digest: str) -> str | None:
    """Where a secret stands in this process's memory."""
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            bounds, rights, _, _, inode = line.split()[:5]
            if rights.startswith("rw") and inode == "0":
                start, end = (int(part, 16) for part in bounds.split("-"))
                with contextlib.suppress(OSError, ValueError, OverflowError):
                    memory.seek(start)
                    if holds(memory.read(min(end - start, 64 << 20)), digest):
                        return f"found at {bounds}"
    return None
