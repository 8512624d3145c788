"""How answers travel: a value as JSON, the end of an execution, or its events while they come."""

from __future__ import annotations

import asyncio
import contextlib

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from codeact.contracts import ExecutionResult
from codeact.engine.session import EngineSession
from codeact.engine.stream import Execution
from codeact.errors import SandboxError
from codeact.sandbox.api import EVENTS

_BEAT = 15.0  # seconds without an event, after which a comment says that the stream lives


def value(answer: BaseModel, status: int = 200) -> Response:
    return Response(answer.model_dump_json(), status, media_type="application/json")


def executed(execution: Execution) -> Response:
    """An ``Executed``, of what is JSON already."""
    body = b'{"execution":"%s","result":%s}' % (execution.id.encode(), execution.outcome)
    return Response(body, media_type="application/json")


async def result(session: EngineSession, execution: Execution, request: Request) -> ExecutionResult:
    """The result, once it is there. Who asked for it and goes away stops the code. Raises what failed."""
    gone = asyncio.create_task(_gone(request.receive))
    ended = asyncio.create_task(execution.ended.wait())
    try:
        await asyncio.wait({gone, ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        ended.cancel()
        if not execution.ended.is_set():
            with contextlib.suppress(SandboxError):
                await session.interrupt(execution.id, "its client went away")
    await execution.ended.wait()  # bounded by what a sandbox takes to stop or kill code
    if execution.failure is not None:
        raise execution.failure
    assert execution.result is not None
    return execution.result


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Events(Response):
    """An execution's events after a number. A reader that takes nothing for ``limit`` seconds is let go."""

    media_type = EVENTS

    def __init__(self, execution: Execution, after: int, limit: float) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.headers["X-Execution"] = execution.id
        self._execution = execution
        self._after = after
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writing = asyncio.create_task(self._write(send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({writing, gone}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                with contextlib.suppress(TimeoutError):  # it takes nothing: the connection is closed
                    writing.result()
        finally:
            for task in (writing, gone):
                task.cancel()
            await asyncio.gather(writing, gone, return_exceptions=True)

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with contextlib.aclosing(self._execution.events(self._after, _BEAT)) as events:  # type: ignore[type-var]
            async for event in events:
                body = b": alive\n\n" if event is None else event.wire
                async with asyncio.timeout(self._limit):
                    await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
