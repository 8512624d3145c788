"""Who is next: a bounded number of slots, given out in turn to those owners who wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """``async with gate.slot(owner, most):`` holds one of ``slots``, and at most ``most`` of them for that owner.

    Owners are served in turn, one slot each, however many requests one of them has waiting.
    """

    def __init__(self, slots: int) -> None:
        self.free = slots
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # in the order of whose turn is next
        self._held: dict[str, int] = {}
        self._most: dict[str, int | None] = {}

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def held(self) -> int:
        return sum(self._held.values())

    @asynccontextmanager
    async def slot(self, owner: str, most: int | None = None) -> AsyncIterator[None]:
        await self._take(owner, most)
        try:
            yield
        finally:
            self._give_back(owner)

    async def _take(self, owner: str, most: int | None) -> None:
        self._most[owner] = most
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(owner)
            else:
                self._forget(owner, turn)
            raise

    def _serve(self) -> None:
        while self.free:
            for owner in self._waiting:
                most = self._most[owner]
                if most is None or self._held.get(owner, 0) < most:
                    break
            else:
                return
            turns = self._waiting.pop(owner)
            turn = turns.popleft()
            if turns:
                self._waiting[owner] = turns  # behind the others now
            if not turn.done():
                self.free -= 1
                self._held[owner] = self._held.get(owner, 0) + 1
                turn.set_result(None)

    def _give_back(self, owner: str) -> None:
        self.free += 1
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        self._serve()
        if owner not in self._held and owner not in self._waiting:
            self._most.pop(owner, None)

    def _forget(self, owner: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(owner)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[owner]
