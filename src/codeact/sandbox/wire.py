"""One JSON message a packet over a Unix ``SOCK_SEQPACKET`` pair, file descriptors riding along.

The host speaks it with the zygote and with process 1 of each session; nobody else holds an end. Here too is what host
and kernel have to agree on beyond the Jupyter protocol.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
"""The order of the five sockets that a session's kernel is given."""

CALL_MARK = "\x00codeact-call:"
"""How the prompt of an ``input_request`` begins that is a call of a host tool; see ``kerneltools``."""

BATCH = 64
"""Calls in one question to the host."""

NO_ANSWER = "\x04"
"""What answers ``input()`` where the person ended the input: Jupyter's sign for it, which raises EOFError."""

_PACKET = 1 << 17
_DESCRIPTORS = 16


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends. An end that is closed reads as end of file on the other."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send one message of at most 128 KiB. Raises OSError when the other end is gone."""
    socket.send_fds(end, [json.dumps(message).encode()], list(descriptors))


def receive(end: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its descriptors, or None when the other end is closed."""
    try:
        data, descriptors, _, _ = socket.recv_fds(end, _PACKET, _DESCRIPTORS)
    except ConnectionResetError:
        return None
    if not data:
        return None
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("a message is a JSON object")
    return message, descriptors
