"""Who is next: a bounded number of slots, given out in turn to those owners who wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(eq=False)
class _Turn:
    key: str
    most: int | None
    come: asyncio.Future[None]


class Gate:
    """``async with gate.slot(owner, key, most):`` holds one of ``slots``, and at most ``most`` of them for that key.

    Owners are served in turn, one slot each, however many requests and keys one of them has.
    """

    def __init__(self, slots: int) -> None:
        self.free = slots
        self._waiting: dict[str, list[_Turn]] = {}  # by owner, in the order of who is next
        self._held: Counter[str] = Counter()  # by key

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def held(self) -> int:
        return self._held.total()

    @asynccontextmanager
    async def slot(self, owner: str, key: str = "", most: int | None = None) -> AsyncIterator[None]:
        turn = _Turn(key, most, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(owner, []).append(turn)
        self._serve()
        try:
            await turn.come
        except asyncio.CancelledError:
            if turn.come.done() and not turn.come.cancelled():
                self._give_back(key)
            else:
                self._remove(owner, turn)
            raise
        try:
            yield
        finally:
            self._give_back(key)

    def _serve(self) -> None:
        while self.free and (found := self._next()):
            owner, turn = found
            self._remove(owner, turn)
            if owner in self._waiting:
                self._waiting[owner] = self._waiting.pop(owner)  # behind the others now
            if not turn.come.done():
                self.free -= 1
                self._held[turn.key] += 1
                turn.come.set_result(None)

    def _next(self) -> tuple[str, _Turn] | None:
        for owner, turns in self._waiting.items():
            for turn in turns:
                if turn.most is None or self._held[turn.key] < turn.most:
                    return owner, turn
        return None

    def _remove(self, owner: str, turn: _Turn) -> None:
        turns = self._waiting.get(owner, [])
        if turn in turns:
            turns.remove(turn)
        if not turns:
            self._waiting.pop(owner, None)

    def _give_back(self, key: str) -> None:
        self.free += 1
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
        self._serve()
