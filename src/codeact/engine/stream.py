"""One execution as a numbered list of events, bounded, that any number of readers follow and come back to.

queued   {"execution"}                 accepted; it waits for its turn
started  {"execution"}                 the kernel has it
output   an Output                     (codeact.contracts)
call     a Call                        a host tool is called: the client answers it (codeact.sandbox.api)
gap      {"lost"}                      so many events are not kept any more: the result has what matters of them
result   an ExecutionResult            the last event
error    {"code", "message"}           the last event, where the sandbox failed
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from codeact.contracts import ExecutionResult, Output
from codeact.engine.errors import told
from codeact.errors import CodeActError, ToolError
from codeact.sandbox.api import Answer, Call, Fault

_OVERHEAD = 200  # bytes that an event counts for beyond its own


@dataclass(frozen=True)
class Event:
    number: int
    kind: str
    data: bytes

    @property
    def wire(self) -> bytes:
        """As server-sent events are written. JSON has no line break of its own."""
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (self.number, self.kind.encode(), self.data)


class Execution:
    """One piece of code on its way through a session."""

    def __init__(self, id: str | None, buffer: int, call_limit: float, called: asyncio.Event) -> None:
        """``called`` is set with each call of a host tool."""
        self.id = id or secrets.token_hex(8)
        self.result: ExecutionResult | None = None
        self.failure: CodeActError | None = None
        self.begun = False
        self.stopped: str | None = None
        """Why it was stopped before it began."""
        self.ended_at: float | None = None
        self.ended = asyncio.Event()
        self.calls: dict[str, Call] = {}
        self._answers: dict[str, asyncio.Future[object]] = {}
        self._call_limit = call_limit
        self._called = called
        self._events: deque[Event] = deque()
        self._size = 0
        self._room = buffer
        self._last = 0
        self._news = asyncio.Event()
        self._add("queued", self._named())

    @property
    def last(self) -> int:
        """The number of the last event so far."""
        return self._last

    @property
    def outcome(self) -> bytes:
        """The last event's data, once it has ended: the result or the fault as JSON."""
        return self._events[-1].data

    # --- what happens ---

    def begin(self) -> None:
        self.begun = True
        self._add("started", self._named())

    def output(self, output: Output) -> None:
        self._add("output", output.model_dump_json().encode())

    def finish(self, outcome: ExecutionResult | CodeActError) -> None:
        """The last event. What comes after it is no part of this execution."""
        if self.ended.is_set():
            return
        self.calls.clear()
        self.ended_at = time.monotonic()
        self.ended.set()
        if isinstance(outcome, ExecutionResult):
            self.result = outcome
            self._add("result", outcome.model_dump_json().encode())
        else:
            self.failure = outcome
            fault = Fault(code=told(outcome)[1], message=str(outcome))
            self._add("error", fault.model_dump_json().encode())

    def _named(self) -> bytes:
        return json.dumps({"execution": self.id}).encode()

    def _add(self, kind: str, data: bytes) -> None:
        self._last += 1
        self._events.append(Event(self._last, kind, data))
        self._size += len(data) + _OVERHEAD
        while self._size > self._room and len(self._events) > 1:
            self._size -= len(self._events.popleft().data) + _OVERHEAD
        news, self._news = self._news, asyncio.Event()
        news.set()

    # --- calls of host tools ---

    async def ask(self, tool: str, arguments: dict[str, object]) -> object:
        """Have the client run a host tool. Raises ToolError: what it answered so, or that it did not answer."""
        call = Call.model_validate(
            {"id": secrets.token_hex(8), "execution": self.id, "tool": tool, "arguments": arguments}
        )
        answer = self._answers[call.id] = asyncio.get_running_loop().create_future()
        self.calls[call.id] = call
        self._add("call", call.model_dump_json().encode())
        self._called.set()
        try:
            return await asyncio.wait_for(answer, self._call_limit)
        except TimeoutError as error:
            raise ToolError(f"{tool}: nobody answered the call within {self._call_limit:g} seconds") from error
        finally:
            self.calls.pop(call.id, None)
            self._answers.pop(call.id, None)

    def answer(self, call: str, answer: Answer) -> bool:
        """False where no such call waits for an answer."""
        waiting = self._answers.get(call)
        if waiting is None or waiting.done():
            return False
        if answer.error is None:
            waiting.set_result(answer.result)
        else:
            waiting.set_exception(ToolError(answer.error, answer.kind, answer.type_name))
        return True

    # --- who reads ---

    async def events(self, after: int = 0, beat: float = 15.0) -> AsyncIterator[Event | None]:
        """The events after that number, to the last. None after each ``beat`` seconds in which there was none."""
        while True:
            news = self._news
            missing = self._events[0].number - after - 1
            if missing > 0:
                after += missing
                yield Event(after, "gap", json.dumps({"lost": missing}).encode())
                continue
            position = len(self._events) - (self._last - after)
            if position < len(self._events):
                event = self._events[max(position, 0)]
                after = event.number
                yield event
            elif self.ended.is_set():
                return
            else:
                try:
                    await asyncio.wait_for(news.wait(), beat)
                except TimeoutError:
                    yield None
