"""The server's name in the first message of a TLS connection: what a proxy can check without opening the connection.

The bytes come from untrusted code. They are parsed strictly: what is not exactly one ClientHello that names its server
in the clear raises ValueError.

Not protected: a second ClientHello, which some servers ask for, and everything that is encrypted after it, such as
the Host header. They reach the server that was checked and no other.

Sources: RFC 8446 section 4.1.2 and 5.1 (TLS 1.3), RFC 5246 (TLS 1.2), RFC 6066 section 3 (server_name),
draft-ietf-tls-esni (ECH).
"""

from __future__ import annotations

LARGEST = 32 << 10
"""Bytes that a ClientHello may have; those with keys that withstand quantum computers have some 2,000."""

_RECORDS = 32  # that it may be cut into: bounds the work that one byte more can cause
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _ENCRYPTED_CLIENT_HELLO = 0, 0xFE0D


def server_name(data: bytes) -> str | None:
    """The name in the ClientHello that ``data`` begins with; None when more bytes are needed.

    Raises ValueError with the reason where it is no TLS, is malformed, names no server or hides its name (ECH).
    """
    message = _message(data)
    return None if message is None else _name(message)


def _message(data: bytes) -> bytes | None:
    """The handshake message, put together from its records."""
    parts: list[bytes] = []
    at = size = 0
    wanted = 4
    while size < wanted:
        head = data[at : at + 5]
        if (head and head[0] != _HANDSHAKE) or (len(head) > 1 and head[1] != 3):
            raise ValueError("not TLS")
        if len(head) < 5:
            return None
        length = int.from_bytes(head[3:])
        if not 0 < length <= 1 << 14:
            raise ValueError("malformed TLS")
        if len(parts) == _RECORDS:
            raise ValueError("a TLS hello in too many pieces")
        if len(data) < at + 5 + length:
            return None
        parts.append(data[at + 5 : at + 5 + length])
        at += 5 + length
        size += length
        if size >= 4:
            start = b"".join(parts)[:4]
            if start[0] != _CLIENT_HELLO:
                raise ValueError("not a TLS hello")
            wanted = 4 + int.from_bytes(start[1:])
            if wanted > LARGEST:
                raise ValueError("a TLS hello that is too large")
    if size > wanted:
        raise ValueError("malformed TLS")  # another message in the same record
    return b"".join(parts)[4:]


class _Reader:
    """Takes fields off the front of a message. Raises ValueError where it is too short."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        self._at += count
        if self._at > len(self._data):
            raise ValueError("malformed TLS")
        return self._data[self._at - count : self._at]

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count))

    def vector(self, count: int) -> bytes:
        """A field that its own length precedes, in ``count`` bytes."""
        return self.take(self.number(count))

    def end(self) -> None:
        if self.more:
            raise ValueError("malformed TLS")


def _name(message: bytes) -> str:
    reader = _Reader(message)
    reader.take(2 + 32)  # version, random
    reader.vector(1)  # session id
    reader.vector(2)  # cipher suites
    reader.vector(1)  # compression methods
    extensions = _extensions(_Reader(reader.vector(2))) if reader.more else {}
    reader.end()
    if _ENCRYPTED_CLIENT_HELLO in extensions:
        raise ValueError("a TLS hello that may hide another name (ECH)")
    if _SERVER_NAME not in extensions:
        raise ValueError("a TLS hello without a server name")
    names = _Reader(extensions[_SERVER_NAME])
    entries = _Reader(names.vector(2))
    names.end()
    kind = entries.number(1)
    name = entries.vector(2)
    entries.end()
    if kind != 0 or not name or not all(32 < byte < 127 for byte in name):
        raise ValueError("malformed TLS")
    return name.decode("ascii")


def _extensions(reader: _Reader) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while reader.more:
        kind = reader.number(2)
        if kind in found:
            raise ValueError("malformed TLS")
        found[kind] = reader.vector(2)
    return found
