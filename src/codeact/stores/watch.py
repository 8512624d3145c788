"""Waiting for what is new in a conversation, whoever writes it.

A writer in this process tells at once. For writers elsewhere the database is asked, once for all who wait here, as long
as somebody waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

POLL = 0.1
"""Seconds between two questions to the database while somebody waits."""
_REMEMBERED = 10_000

Heads = Callable[[Sequence[str]], Awaitable[Mapping[str, int]]]


class Watch:
    """Who waits for which conversation. ``heads`` asks the database for the last sequence numbers."""

    def __init__(self, heads: Heads) -> None:
        self._heads = heads
        self._told: dict[str, int] = {}
        self._waiting: dict[str, set[asyncio.Future[int | None]]] = {}
        self._after: dict[asyncio.Future[int | None], int] = {}
        self._poller: asyncio.Task[None] | None = None

    def tell(self, id: str, head: int | None) -> None:
        """The conversation has come to ``head``; None: it is gone."""
        if head is None:
            self._told.pop(id, None)
        else:
            if len(self._told) >= _REMEMBERED:
                self._told.clear()  # who asks is then told by the database, a little later
            self._told[id] = max(head, self._told.get(id, 0))
        for waiter in tuple(self._waiting.get(id, ())):
            if not waiter.done() and (head is None or head > self._after[waiter]):
                waiter.set_result(head)

    async def wait(self, id: str, after: int, timeout: float) -> int | None:
        """The head once it is beyond ``after``, or ``after`` itself after ``timeout`` seconds; None: it is gone.

        Raises what ``heads`` raises.
        """
        if (told := self._told.get(id, 0)) > after:  # written between the caller's last look and now
            return told
        waiter: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(id, set()).add(waiter)
        self._after[waiter] = after
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll())
        try:
            async with asyncio.timeout(timeout):
                return await waiter
        except TimeoutError:
            return after
        finally:
            del self._after[waiter]
            self._waiting[id].discard(waiter)
            if not self._waiting[id]:
                del self._waiting[id]

    async def close(self) -> None:
        """Stop asking; who still waits does so until its time is over."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)

    async def _poll(self) -> None:
        try:
            while self._waiting:  # asked at once the first time: the writer may have been faster
                ids = tuple(self._waiting)
                for start in range(0, len(ids), 500):
                    part = ids[start : start + 500]
                    heads = await self._heads(part)
                    for id in part:
                        self.tell(id, heads.get(id))
                await asyncio.sleep(POLL)
        except Exception as error:
            for waiter in tuple(self._after):
                if not waiter.done():
                    waiter.set_exception(error)
        finally:
            self._poller = None
