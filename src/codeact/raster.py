"""What a picture's own bytes say: is it what its MIME type claims, and how large is it. No decoder is run."""

from __future__ import annotations

import base64
import binascii
import struct

from codeact.contracts import Image

_HEADER = 1 << 18
"""Base64 characters looked at for the size; a JPEG may carry a long profile before it."""


def decode(image: Image) -> bytes | None:
    """The picture's bytes, or None where the base64 is broken or the bytes are not of the claimed MIME type.

    Only the file's signature and size fields are checked: a decoder may still refuse the rest.
    """
    try:
        data = base64.b64decode("".join(image.data.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if _size(image.mime, data) else None


def size(image: Image) -> tuple[int, int] | None:
    """Width and height in pixels, or None where this is not a readable PNG, JPEG, GIF or WebP header."""
    head = "".join(image.data[:_HEADER].split())
    try:
        data = base64.b64decode(head[: len(head) // 4 * 4], validate=True)
    except (binascii.Error, ValueError):
        return None
    return _size(image.mime, data)


def _size(mime: str, data: bytes) -> tuple[int, int] | None:
    try:
        match mime:
            case "image/png" if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
                found = struct.unpack(">II", data[16:24])
            case "image/gif" if data[:6] in (b"GIF87a", b"GIF89a"):
                found = struct.unpack("<HH", data[6:10])
            case "image/jpeg" if data[:2] == b"\xff\xd8":
                found = _jpeg(data)
            case "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
                found = _webp(data)
            case _:
                return None
    except (struct.error, IndexError):
        return None
    return (found[0], found[1]) if found[0] and found[1] else None


def _jpeg(data: bytes) -> tuple[int, int]:
    """Walk the segments to the frame header (ITU-T T.81, B.2)."""
    at = 2
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:  # fill bytes
            at += 1
        if data[at] != 0xFF:
            return 0, 0
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + max(2, struct.unpack(">H", data[at + 2 : at + 4])[0])


def _webp(data: bytes) -> tuple[int, int]:
    """The three kinds of first chunk (RFC 9649, section 2)."""
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = struct.unpack("<I", data[21:25])[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0
