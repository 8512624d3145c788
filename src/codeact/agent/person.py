"""The person beside a run: asked what the code wants to know, and not hurried by the run's clock."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Literal, cast

from codeact.agent.options import Asker, Reaction
from codeact.budget import Meter
from codeact.contracts import Answer, Question


class Person:
    """Whoever answers questions of one execution. ``answer`` takes the answers."""

    def __init__(
        self, asker: Asker | Literal["events"] | None, limit: float, answer: Callable[[str, Answer], bool]
    ) -> None:
        self.patience = 0.0 if asker is None else limit
        self._asker = None if asker == "events" else asker
        self._answer = answer
        self._asking: dict[str, asyncio.Task[None]] = {}

    def ask(self, question: Question) -> None:
        """Begin to ask, where that is our part."""
        if self._asker is not None:
            self._asking[question.id] = asyncio.create_task(self._ask(self._asker, question))

    async def _ask(self, asker: Asker, question: Question) -> None:
        answer = Answer()
        told: Any
        try:
            if inspect.iscoroutinefunction(asker):
                told = asker(question)
            else:
                told = await asyncio.to_thread(cast(Any, asker), question)
            answer = _answer(await told if inspect.isawaitable(told) else told, question)
        finally:  # an asker that fails refuses
            self._answer(question.id, answer)

    def answered(self, question: str) -> None:
        """It is settled: whoever is still being asked need not answer any more."""
        task = self._asking.get(question)
        if task is not None and not task.done():
            task.cancel()

    async def leave(self) -> None:
        """The execution is over. Raises what the function that asks has raised."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


def _answer(told: Reaction, question: Question) -> Answer:
    match told:
        case Answer():
            return told
        case str():
            return Answer(text=told)
        case None:
            return Answer()
    return Answer(approved=told is True, text=None)


class Alarm:
    """Stops the code when the run's time is over; while a question is open, the clock stands still."""

    def __init__(self, meter: Meter, stop: Callable[[], object]) -> None:
        self._meter = meter
        self._stop = stop
        self._open: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._start()

    def _start(self) -> None:
        left = self._meter.seconds_left
        if left is not None:
            self._timer = asyncio.get_running_loop().call_later(left, self._stop)

    def hold(self, question: str) -> None:
        self._open.add(question)
        self.cancel()

    def go_on(self, question: str, waited: float) -> None:
        """A call has ended, for which a person was waited for so long."""
        self._meter.waited += waited
        if question in self._open:
            self._open.remove(question)
            if not self._open:
                self._start()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
