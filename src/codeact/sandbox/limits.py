"""What a session may use."""

from __future__ import annotations

import io
from typing import IO

from pydantic import Field

from codeact.contracts import Value


class Limits(Value):
    """Sizes in bytes, times in seconds.

    ``memory`` holds for the processes of a session together (and for each of them alone); ``disk`` for /workspace,
    /tmp and shared memory together; ``timeout`` for one execution where it names no other; ``file`` for one file
    carried in or out.
    """

    memory: int = Field(4 << 30, ge=128 << 20)
    disk: int = Field(1 << 30, ge=1 << 20)
    processes: int = Field(256, ge=16)
    open_files: int = Field(1024, ge=64)
    timeout: float = Field(60.0, gt=0)
    file: int = Field(512 << 20, ge=0)


def copy_bounded(source: bytes | IO[bytes], target: IO[bytes], limit: int) -> None:
    """Copy at most ``limit`` bytes. Raises ValueError where there are more, OSError where there is no room."""
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    copied = 0
    while chunk := source.read(1 << 20):
        copied += len(chunk)
        if copied > limit:
            raise ValueError(f"larger than the limit of {limit} bytes")
        rest = memoryview(chunk)
        while rest:
            rest = rest[target.write(rest) :]
    target.flush()
