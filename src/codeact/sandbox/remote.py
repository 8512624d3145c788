"""Sessions on an engine, over HTTP: ``Sandbox("http://host:8081", key=…)``.

The boundary is the engine's. Host tools run here, in the client's process. A connection that breaks while code runs is
taken up again where it broke, and the code goes on meanwhile.

Not protected: what travels, where the URL is not https.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import IO, Any, Self, TypeVar

import httpx2
from pydantic import BaseModel, TypeAdapter, ValidationError

from codeact.contracts import (
    Answer,
    ExecutionResult,
    FileInfo,
    Happening,
    HostCall,
    HostTool,
    Output,
    Question,
    StreamOutput,
    Variable,
)
from codeact.errors import FileTransferError, SandboxError, SessionClosed, UsageError
from codeact.sandbox import api, hosttools, wire
from codeact.sandbox.limits import copy_bounded
from codeact.sandbox.remotelink import Event, Full, Link, fault_error, parsed

logger = logging.getLogger("codeact.sandbox")

_REACH_AGAIN = 30.0  # seconds in which a broken stream is taken up again
_ACCEPTED = 30.0  # seconds for the engine to take an execution, before an interrupt goes out without it
_LET_GO = 10.0  # seconds for a request that only tidies up
_OUTPUT: TypeAdapter[Output] = TypeAdapter(Output)

V = TypeVar("V", bound=BaseModel)


class RemoteSandbox:
    """Makes sessions on an engine. ``options`` are those of ``codeact.sandbox.api.NewSession``, for each session.

    ``key``: the variable CODEACT_ENGINE_KEY where it is None. Raises UsageError for a bad URL or bad options.
    """

    name = "remote"

    def __init__(self, url: str, key: str | None = None, **options: Any) -> None:
        try:
            self._options = api.NewSession(**options)
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(f"the engine's sandbox: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        self.link = Link(url, key)
        self.closed = False
        self._sessions: dict[str, RemoteSession] = {}

    async def session(self, id: str | None = None, *, tools: Sequence[HostTool] = ()) -> RemoteSession:
        """A new session; UsageError for an id that this key has a session of already."""
        return await self._open(id, tools, exclusive=True)

    async def attach(self, id: str, *, tools: Sequence[HostTool] = ()) -> RemoteSession:
        """The session of that id and these options, made where there is none. Leaving the sandbox ends it, too.

        Raises StateLost where it was there once and has ended: ``forget(id)`` first, to begin anew.
        """
        return await self._open(id, tools, exclusive=False)

    async def forget(self, id: str) -> None:
        """End the session of that id, or take note that it is lost."""
        with contextlib.suppress(SessionClosed):
            await self.link.send("DELETE", f"/v1/sessions/{id}")

    async def _open(self, id: str | None, tools: Sequence[HostTool], exclusive: bool) -> RemoteSession:
        if self.closed:
            raise SessionClosed("the sandbox is closed")
        hosttools.check({tool.name: tool for tool in tools}, len(tools))
        specs = tuple(_spec(tool) for tool in tools)
        id = id or secrets.token_hex(8)
        asked = self._options.model_copy(update={"id": id, "tools": specs, "exclusive": exclusive})
        try:
            info = await self.link.ask("POST", "/v1/sessions", api.SessionInfo, asked)
        except BaseException as error:
            if exclusive and not isinstance(error, UsageError):  # it may be there all the same
                with contextlib.suppress(SandboxError, TimeoutError):
                    await asyncio.wait_for(asyncio.shield(self.forget(id)), _LET_GO)
            raise
        return self.add(info, {tool.name: tool for tool in tools})

    def add(self, info: api.SessionInfo, tools: Mapping[str, HostTool]) -> RemoteSession:
        """Count a session in that the engine has made."""
        session = RemoteSession(self, info, tools)
        self._sessions[session.id] = session
        session.on_close = lambda: self._sessions.pop(session.id, None)
        return session

    async def close(self) -> None:
        self.closed = True
        try:
            await asyncio.gather(*(session.close() for session in list(self._sessions.values())))
        finally:
            await self.link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class RemoteSession:
    """See ``codeact.contracts.Session``."""

    def __init__(self, sandbox: RemoteSandbox, info: api.SessionInfo, tools: Mapping[str, HostTool]) -> None:
        self.id = info.id
        self.limits = info.limits
        self.description = info.description
        self.workspace_name = info.workspace
        self.tools = dict(tools)
        self.closed = False
        self.on_close: Callable[[], object] = lambda: None
        self._sandbox = sandbox
        self._link = sandbox.link
        self._path = f"/v1/sessions/{info.id}"
        self._asked: dict[str, asyncio.Event] = {}  # executions on their way, and whether the engine has them
        self._execution: str | None = None
        self._quotas = hosttools.Quotas()
        self._calls: _Calls | None = None

    # --- running code ---

    async def run(self, code: str, *, timeout: float | None = None) -> ExecutionResult:
        """Run code and wait for its result."""
        async with contextlib.aclosing(self.execute(code, timeout=timeout)) as items:
            async for item in items:
                if isinstance(item, ExecutionResult):
                    return item
        raise SandboxError("the execution ended without a result")

    async def execute(
        self, code: str, *, timeout: float | None = None, ask: float = 0, run: str = ""
    ) -> AsyncGenerator[Happening]:
        """Run code: what happens while it runs and, last, one ExecutionResult. See ``codeact.contracts.Session``.

        The time that a person takes to allow a call counts in the limit of the code, which runs elsewhere.
        """
        self._check_open()
        code = code.encode("utf-8", "backslashreplace").decode()  # a lone surrogate cannot be sent
        id = secrets.token_hex(8)
        try:
            asked = api.Execute(code=code, timeout=timeout or None, execution=id, ask=min(ask, 3600))
        except ValidationError as error:
            raise UsageError(f"a time limit of {timeout} seconds cannot be") from error
        accepted = self._asked[id] = asyncio.Event()
        self._quotas.begin(run)
        news = asyncio.Event()
        calls = _Calls(self, hosttools.Calls(self.tools, self._quotas, ask, news.set), id)
        ended = False
        try:
            events = _merged(self._events(asked), calls.rules.told, news)
            async with contextlib.aclosing(events):
                async for event in events:
                    accepted.set()
                    if not isinstance(event, Event):
                        yield event
                        continue
                    self._execution = self._execution or id
                    self._calls = calls
                    match event.kind:
                        case "output":
                            yield _output(event)
                        case "call":
                            calls.begin(parsed(api.Call, event.data))
                        case "gap":
                            await calls.catch_up()
                            yield _gap(event)
                        case "result":
                            ended = True
                            yield parsed(ExecutionResult, event.data)
                        case "error":
                            ended = True
                            fault = parsed(api.Fault, event.data)
                            raise fault_error(fault.code, fault.message)
        finally:
            accepted.set()
            del self._asked[id]
            if self._execution == id:
                self._execution = next(iter(self._asked), None)
            await calls.cancel()
            if not ended and not self.closed:
                await self._stop(id)

    async def _stop(self, id: str) -> None:
        """The watcher went away in mid-run: stop the code."""
        with contextlib.suppress(SandboxError, TimeoutError):
            await asyncio.wait_for(
                self.ask("POST", "/interrupt", api.Interrupted, api.Interrupt(execution=id)), _LET_GO
            )

    async def _events(self, asked: api.Execute) -> AsyncGenerator[Event]:
        """The events of an execution to the last; a stream that breaks is taken up again.

        Asking again with the same id does not run the code again.
        """
        last = 0
        give_up = time.monotonic() + _REACH_AGAIN
        follow = f"{self._path}/executions/{asked.execution}/events"
        while True:
            again = last > 0
            method, path = ("GET", follow) if again else ("POST", f"{self._path}/execute")
            try:
                async with self._link.events(method, path, None if again else asked, last) as events:
                    async for event in events:
                        last = event.number
                        give_up = time.monotonic() + _REACH_AGAIN
                        yield event
                        if event.kind in ("result", "error"):
                            return
                problem: Exception = SandboxError("the engine's stream ended before its result")
                pause = 0.2
            except httpx2.HTTPError as error:
                problem, pause = self._link.unreachable(error), 0.2
            except Full as error:
                problem, pause = error.error, error.pause
            if self.closed:
                raise SessionClosed(f"session {self.id} is closed")
            if time.monotonic() + pause > give_up:
                raise problem
            await asyncio.sleep(pause)

    async def interrupt(self) -> None:
        """Stop the running code. Does nothing when nothing runs."""
        self._check_open()
        if self._asked:
            first = next(iter(self._asked.values()))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(first.wait(), _ACCEPTED)
        await self.ask("POST", "/interrupt", api.Interrupted, api.Interrupt())
        if self._calls is not None:  # what it waited for, nobody needs to answer any more
            await self._calls.cancel()

    async def restart(self) -> None:
        """Give up the kernel and its variables; files stay. The next execution starts a fresh one."""
        await self.ask("POST", "/restart", api.SessionInfo)

    async def variables(self) -> tuple[Variable, ...]:
        """The live names of the kernel."""
        return (await self.ask("GET", "/state", api.State)).variables

    def answer(self, question: str, answer: Answer) -> bool:
        """Answer the Question with that id. False where it is not open (any more)."""
        return self._calls is not None and self._calls.rules.answer(question, answer)

    # --- files ---

    async def put(self, path: str, data: bytes | IO[bytes]) -> None:
        self._check_open()
        source = io.BytesIO(data) if isinstance(data, bytes) else data
        await self._link.upload(self._file(path), _pieces(path, source, self.limits.file))

    async def get(self, path: str) -> bytes:
        target = io.BytesIO()
        await self.get_into(path, target)
        return target.getvalue()

    async def get_into(self, path: str, target: IO[bytes]) -> None:
        self._check_open()
        pieces = self._link.download(self._file(path))
        async with contextlib.aclosing(pieces):  # type: ignore[type-var]
            async for piece in pieces:
                copy_bounded(piece, target, len(piece))

    async def files(self) -> tuple[FileInfo, ...]:
        return (await self.ask("GET", "/files", api.Files)).files

    def _file(self, path: str) -> str:
        try:
            name = path.encode()
        except UnicodeEncodeError as error:
            raise FileTransferError(f"{path!a}: not a name that UTF-8 can write") from error
        if len(name) > 4096:
            raise FileTransferError(f"{path[:50]}…: File name too long")
        # every dot, too: on the way, nobody takes ".." for a step up
        return f"{self._path}/files/" + "".join(chr(b) if chr(b).isalnum() and b < 128 else f"%{b:02X}" for b in name)

    # --- life ---

    async def fork(self) -> RemoteSession:
        """See ``codeact.contracts.Session``."""
        return (await self.forks(1))[0]

    async def forks(self, count: int) -> tuple[RemoteSession, ...]:
        made = await self.ask("POST", "/fork", api.SessionList, api.Fork(count=count))
        return tuple(self._sandbox.add(info, self.tools) for info in made.sessions)

    async def close(self) -> None:
        """End the kernel and remove everything that the session had."""
        if not self.closed:
            self.closed = True
            self.on_close()
            try:
                await self._link.send("DELETE", self._path)
            except SessionClosed:
                pass  # it has ended already
            except SandboxError as error:
                logger.warning("session %s could not be ended, its engine does so when it is idle: %s", self.id, error)

    def _check_open(self) -> None:
        if self.closed:
            raise SessionClosed(f"session {self.id} is closed")

    async def ask(self, method: str, path: str, into: type[V], body: BaseModel | None = None) -> V:
        self._check_open()
        return await self._link.ask(method, self._path + path, into, body)

    async def send(self, method: str, path: str, body: BaseModel) -> None:
        self._check_open()
        await self._link.send(method, self._path + path, body)


class _Calls:
    """The calls of host tools of one execution: they come from the engine, their rules are kept here."""

    def __init__(self, session: RemoteSession, rules: hosttools.Calls, execution: str) -> None:
        self.rules = rules
        self._session = session
        self._execution = execution
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, call: api.Call) -> None:
        if call.id not in self._tasks:
            self._tasks[call.id] = asyncio.create_task(self._answer(call))

    async def catch_up(self) -> None:
        """Calls whose events were lost still wait."""
        for call in (await self._session.ask("GET", "/calls", api.Calls)).calls:
            if call.execution == self._execution:
                self.begin(call)

    async def cancel(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _answer(self, call: api.Call) -> None:
        """Run a host tool and send what came of it. The code's own time limit ends it where nobody answers."""
        if call.tool == api.INPUT:
            asked = call.arguments
            typed = await self.rules.input(str(asked.get("prompt", "")), bool(asked.get("password")))
            answer = api.Answer(result=None if typed == wire.NO_ANSWER else typed)
        else:
            asked = {"tool": call.tool, "arguments": call.arguments}
            told = json.loads(await self.rules.serve(json.dumps(asked)))
            answer = api.Answer(
                result=told.get("result"),
                error=told.get("error"),
                kind=told.get("kind") or "failed",
                type_name=told.get("type") or "",
            )
        with contextlib.suppress(SandboxError):  # the code has ended meanwhile
            await self._session.send("POST", f"/calls/{call.id}", answer)


async def _merged(
    events: AsyncGenerator[Event], told: deque[HostCall | Question], news: asyncio.Event
) -> AsyncGenerator[Event | HostCall | Question]:
    """What the engine sends, and what there is to tell of calls meanwhile."""
    coming: asyncio.Future[Event | None] | None = None
    woken: asyncio.Future[bool] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(events, None))
            woken = woken or asyncio.ensure_future(news.wait())
            both: set[asyncio.Future[Any]] = {coming, woken}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if woken.done():
                news.clear()
                woken = None
            while told:
                yield told.popleft()
            if coming.done():
                event, coming = coming.result(), None
                if event is None:
                    return
                yield event
    finally:
        waiting = [one for one in (coming, woken) if one is not None]
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await events.aclose()


def _spec(tool: HostTool) -> api.ToolSpec:
    rules = hosttools.rules_of(tool)
    return api.ToolSpec(
        name=tool.name, stub=tool.stub, description=tool.description, group=rules.group, listed=rules.listed
    )


def _output(event: Event) -> Output:
    try:
        return _OUTPUT.validate_json(event.data)
    except ValidationError as error:
        raise SandboxError("the engine sent an output that cannot be read") from error


def _gap(event: Event) -> StreamOutput:
    lost = parsed(_Gap, event.data).lost
    return StreamOutput(name="stderr", text=f"\n… {lost} outputs were not shown here: they came too fast …\n")


class _Gap(BaseModel):
    lost: int


async def _pieces(path: str, source: IO[bytes], limit: int) -> AsyncIterator[bytes]:
    sent = 0
    while piece := await asyncio.to_thread(source.read, 1 << 18):
        sent += len(piece)
        if sent > limit:
            raise FileTransferError(f"{path}: larger than the limit of {limit} bytes")
        yield piece


def remote(url: str, key: str | None, network: str, allow_net: str | Iterable[str], **options: Any) -> RemoteSandbox:
    """From what a user writes. Raises UsageError."""
    texts = [allow_net] if isinstance(allow_net, str) else list(allow_net)
    names = tuple(name.strip() for text in texts for name in text.split(",") if name.strip())
    return RemoteSandbox(url, key, network=network, allow_net=names, **options)
