"""Attacks on other sessions."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket
import subprocess
import sys
import threading
import time

from codeact.sandbox.attacks.ground import (
    Facts,
    attack,
    call,
    connect,
    libc,
    own_sockets,
    search_memory,
    search_processes,
)

HELD: dict[str, object] = {}
"""What stays taken after an attack, for the host to see whether a neighbour lacks it."""


@attack("neighbours")
def files_of_a_neighbour(facts: Facts) -> str | None:
    """Find a file of another session."""
    for folder in ("/workspace", "/tmp", "/dev/shm", "/mnt", "/var/tmp"):
        for place, _, names in os.walk(folder):
            if facts["neighbour"] in names:
                return place
    return None


@attack("neighbours", harmless=True)
def processes_of_a_neighbour(facts: Facts) -> str | None:
    """Find a process of another session."""
    return search_processes("cmdline", lambda data: facts["neighbour"].encode() in data)


@attack("neighbours", harmless=True, by_network=True)
def tcp_to_a_neighbour(facts: Facts) -> str | None:
    """Connect to a server of another session."""
    return connect(socket.SOCK_STREAM, socket.AF_INET, ("127.0.0.1", facts["neighbour_port"]))


@attack("neighbours", harmless=True)
def abstract_socket_of_a_neighbour(facts: Facts) -> str | None:
    """Connect to a server of another session by an abstract name."""
    return connect(socket.SOCK_STREAM, socket.AF_UNIX, "\0" + facts["neighbour"])


@attack("neighbours", harmless=True)
def kernel_sockets_of_a_neighbour(facts: Facts) -> str | None:
    """Find the sockets over which the host speaks with the kernels."""
    found = [name for name in os.listdir("/tmp") if name.startswith("codeact-")]
    return str(found) if found else None


@attack("neighbours", harmless=True)
def system_v_objects_of_a_neighbour(facts: Facts) -> str | None:
    """Open a System V message queue of another session by its key."""
    return f"queue {call((68, 186), facts['neighbour_key'], 0)}"


@attack("neighbours")
def guess_sockets_of_a_neighbour(facts: Facts) -> str | None:
    """Guess the sockets of another session's kernel from the names of one's own."""
    own, names = set(), set()
    for end in own_sockets():
        address = end.getsockname()
        if isinstance(address, str) and address:
            own.add(address)
    for address in own:
        folder, _, channel = address.rpartition("/")
        for descriptor in range(64):
            for kept in (channel, "", facts["neighbour"], "." * 12 + channel[12:]):
                names.add(f"/proc/self/fd/{descriptor}/{kept}")
                names.add(f"/proc/1/fd/{descriptor}/{kept}")
        names.add(f"\0{folder}/{channel}")
    with open("/proc/net/unix") as table:
        names |= {line.split()[7].replace("@", "\0", 1) for line in table if len(line.split()) > 7}
    names |= {f"/kernel-{number}" for number in range(1, 6)}
    for name in names - own:
        with contextlib.suppress(OSError, ValueError):
            return connect(socket.SOCK_STREAM, socket.AF_UNIX, name)
    return None


@attack("neighbours")
def memory_left_by_a_neighbour(facts: Facts) -> str | None:
    """Find what another session holds in one's own memory, or in fresh memory that the kernel gives out."""
    fresh = bytes(mmap.mmap(-1, 32 << 20))
    if fresh.count(0) != len(fresh):
        return "fresh memory is not empty"
    return search_memory(facts["neighbour_secret_sha256"])


@attack("neighbours")
def use_up_watches(facts: Facts) -> str | None:
    """Take every file watcher that there is for a user, so that a neighbour gets none."""
    held: list[int] = []
    while len(held) < 100_000:
        number = libc.inotify_init1(os.O_CLOEXEC)
        if number < 0:
            break
        held.append(number)
    HELD["watches"] = held
    return None


@attack("neighbours")
def use_up_processes(facts: Facts) -> str | None:
    """Take every process that there is for a user."""
    code = """
import os, time
try:
    while True:
        if not os.fork():
            time.sleep(20)
            os._exit(0)
except OSError:
    time.sleep(20)
"""
    HELD["processes"] = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    threading.Event().wait(0.5)
    return None


@attack("neighbours")
def use_up_pipes(facts: Facts) -> str | None:
    """Take all the room for pipes that there is for a user, so that a neighbour has none."""
    held: list[int] = []
    with contextlib.suppress(OSError):
        while len(held) < facts["open_files"] // 2:
            held += os.pipe()
            with contextlib.suppress(PermissionError):
                fcntl.fcntl(held[-1], 1031, 1 << 20)  # F_SETPIPE_SZ
    HELD["pipes"] = held
    return None


@attack("neighbours", seconds=20)
def take_the_processor(facts: Facts) -> str | None:
    """Compute in as many processes as there may be, each the leader of its own group, while a neighbour works."""
    started: list[int] = []
    end = time.monotonic() + 1.0
    with contextlib.suppress(OSError):
        while len(started) < facts["processes"]:
            child = os.fork()
            if child == 0:
                os.setsid()
                while time.monotonic() < end:
                    pass
                os._exit(0)
            started.append(child)
    for child in started:
        os.waitpid(child, 0)
    return None
