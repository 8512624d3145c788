"""Attacks on the host by bytes: the code has the connections themselves among its descriptors."""

from __future__ import annotations

import contextlib
import os
import socket
import time

from codeact.sandbox.attacks.ground import Facts, attack, own_sockets


def connections() -> dict[str, socket.socket]:
    """The kernel's ends of the connections with the host, by channel."""
    found = {}
    for end in own_sockets():
        address = end.getsockname() if end.family == socket.AF_UNIX else ""
        listens = end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if isinstance(address, str) and "-" in address and not listens:
            found[address.rpartition("-")[2]] = end.dup()
    if not {"shell", "iopub", "stdin"} <= set(found):
        raise RuntimeError(f"the connections with the host were not found: {sorted(found)}")
    return found


def write(data: bytes, *channels: str) -> None:
    """Past libzmq, which may be in the middle of a message."""
    ends = connections()
    for channel in channels or ("iopub", "stdin", "shell"):
        ends[channel].settimeout(2)
        with contextlib.suppress(TimeoutError):
            ends[channel].sendall(data)


@attack("protocol", seconds=2)
def garbage(facts: Facts) -> str | None:
    """Write bytes that are no frames to every channel."""
    write(bytes(range(256)) * 400)
    return None


@attack("protocol", seconds=2)
def garbage_to_the_shell_channel(facts: Facts) -> str | None:
    """Write bytes that are no frames where the reply is awaited."""
    write(b"\xff" * 100_000, "shell")
    return None


@attack("protocol", seconds=2)
def half_a_frame(facts: Facts) -> str | None:
    """Announce a megabyte on every channel and send half of it, so that what follows is taken for the rest."""
    write(b"\x02" + (1 << 20).to_bytes(8, "big") + bytes(1 << 19))
    return None


@attack("protocol", seconds=2)
def frame_of_a_million_terabytes(facts: Facts) -> str | None:
    """Announce a frame of 2**62 bytes on every channel."""
    write(b"\x02" + (1 << 62).to_bytes(8, "big"))
    return None


@attack("protocol", seconds=2)
def frame_of_a_terabyte(facts: Facts) -> str | None:
    """Announce a frame of just under a terabyte on every channel, and send what there is time for."""
    write(b"\x03" + (1 << 39).to_bytes(8, "big") + bytes(64 << 20))
    return None


@attack("protocol", seconds=2)
def commands_of_the_transport(facts: Facts) -> str | None:
    """Send the transport's own commands in the middle of the talk: READY, ERROR, PING, unknown, empty ones."""
    for body in (b"\x05READY", b"\x05ERROR\x00", b"\x04PING\x00\x0a", b"\x09SUBSCRIBE", b"\xff", b"", b"\x05READY" * 9):
        write(bytes((4, len(body))) + body, "iopub", "stdin")
    return None


@attack("protocol", seconds=2)
def another_greeting(facts: Facts) -> str | None:
    """Greet again, as another version of the protocol."""
    write(b"\xff\0\0\0\0\0\0\0\x01\x7f\x01\x00NULL" + bytes(48))
    return None


@attack("protocol", seconds=2)
def tiny_frames(facts: Facts) -> str | None:
    """Write 300,000 empty frames to every channel."""
    write(b"\0\0" * 150_000 + b"\1\0" * 150_000 + b"\0\0")
    return None


@attack("protocol", seconds=2)
def closed_connections(facts: Facts) -> str | None:
    """Shut every connection with the host down in the middle of an execution."""
    for end in connections().values():
        end.shutdown(socket.SHUT_RDWR)
    time.sleep(0.3)
    return None


@attack("protocol", seconds=2)
def closed_shell_channel(facts: Facts) -> str | None:
    """Shut the connection down over which the reply would go."""
    connections()["shell"].shutdown(socket.SHUT_RDWR)
    return None


@attack("protocol", seconds=2)
def closed_output_channel(facts: Facts) -> str | None:
    """Shut the connection down over which output goes."""
    connections()["iopub"].shutdown(socket.SHUT_WR)
    return None


@attack("protocol", seconds=2)
def closed_after_half_a_message(facts: Facts) -> str | None:
    """Send half a message and shut the connection down."""
    write(b"\x01\x05topic\x03" + (1 << 20).to_bytes(8, "big") + bytes(1000))
    for end in connections().values():
        end.shutdown(socket.SHUT_RDWR)
    return None


@attack("protocol", seconds=2)
def deaf_kernel(facts: Facts) -> str | None:
    """Shut down the kernel's ears: what the host sends finds nobody."""
    for end in connections().values():
        end.shutdown(socket.SHUT_RD)
    time.sleep(0.3)
    return None


@attack("protocol", seconds=2)
def other_ends_of_the_listening_sockets(facts: Facts) -> str | None:
    """Take the place of the kernel: close its descriptors and answer on the listening sockets."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                os.close(int(name))
    return None
