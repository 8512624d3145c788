"""A connection as a pair of streams, and how long nothing may move on it. For the proxy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

PIECE = 64 << 10
"""Bytes that are carried at once."""

_LINGER = 1.0  # seconds


class Link:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def read(self) -> bytes:
        return await self.reader.read(PIECE)

    async def send(self, data: bytes | None) -> None:
        """Write, and wait while the other side is slow to read."""
        if data:
            self.writer.write(data)
            await self.writer.drain()

    async def close(self) -> None:
        """Close, with a moment for the other side to read what was sent; at once where this task is being ended."""
        task = asyncio.current_task()
        try:
            if task is not None and not task.cancelling():
                with contextlib.suppress(OSError):  # TimeoutError is one
                    async with asyncio.timeout(_LINGER):
                        await self._linger()
        finally:
            self.writer.transport.abort()

    async def _linger(self) -> None:
        """Closed with bytes unread, Linux would reset the connection, and what was sent last be lost."""
        await self.writer.drain()
        self.writer.write_eof()
        for _ in range(16):
            if not await self.read():
                return


class Pulse:
    """How long nothing has moved. ``beat`` says that something did."""

    def __init__(self, limit: float) -> None:
        """``limit`` in seconds."""
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self.beat()

    def beat(self) -> None:
        self._last = self._loop.time()

    async def during(self, *work: Coroutine[Any, Any, None]) -> None:
        """Until all of the work is done. The first failure ends it, and silence does, with ConnectionAbortedError."""
        tasks = {asyncio.create_task(part) for part in work}
        waiting = set(tasks)
        try:
            while waiting:
                left = self._last + self._limit - self._loop.time()
                if left <= 0:
                    raise ConnectionAbortedError(f"nothing moved for {self._limit:g} seconds")
                done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
