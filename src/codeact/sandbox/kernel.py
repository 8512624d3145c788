"""A session over one Jupyter kernel: what every backend shares.

A backend says how its kernel is started, interrupted and killed and how files travel; this class runs code in it,
bounds what comes out, stops it at its limit, and tells what was lost when a kernel is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import IO, Any, Self

from codeact.contracts import (
    OUTSIDE_EFFECTS,
    Answer,
    ExecutionResult,
    ExecutionStatus,
    FileInfo,
    Happening,
    HostTool,
    Variable,
)
from codeact.errors import KernelStartError, SandboxError, SessionClosed, UsageError
from codeact.sandbox import hosttools
from codeact.sandbox.channels import Channels, language_of, variables_of
from codeact.sandbox.execution import STOP_GRACE, UNHEARD_GRACE, Execution
from codeact.sandbox.limits import Limits
from codeact.sandbox.zmtp import Connection

_READY_LIMIT = 60.0  # seconds
_ASK_EVERY = 0.5  # seconds
_NAMED = 20


class KernelSandbox(ABC):
    """Makes and ends sessions over kernels. See ``codeact.contracts.Sandbox``; a backend says how one is made."""

    name: str

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.closed = False
        self._sessions: dict[str, KernelSession] = {}

    @abstractmethod
    async def _make(self, id: str, tools: Mapping[str, HostTool]) -> KernelSession:
        """A session that is not open yet."""

    async def session(self, id: str | None = None, *, tools: Sequence[HostTool] = ()) -> KernelSession:
        named = {tool.name: tool for tool in tools}
        hosttools.check(named, len(tools))
        session = await self._add(id, named)
        try:
            await session.open()
        except BaseException:
            await session.close()
            raise
        return session

    async def _add(self, id: str | None, tools: Mapping[str, HostTool]) -> KernelSession:
        """Make a session that is not open yet and count it in."""
        if self.closed:
            raise SessionClosed("the sandbox is closed")
        id = id or secrets.token_hex(8)
        if id in self._sessions:
            raise UsageError(f"there is a session {id!r} already")
        session = await self._make(id, tools)
        if self._sessions.setdefault(id, session) is not session:  # another one came while this was made
            await session.close()
            raise UsageError(f"there is a session {id!r} already")
        session.on_close = lambda: self._sessions.pop(id, None)
        return session

    async def close(self) -> None:
        self.closed = True
        await asyncio.gather(*(session.close() for session in list(self._sessions.values())))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class KernelSession(ABC):
    """One stateful kernel. See ``codeact.contracts.Session`` for what the public methods promise."""

    language = f"Python {platform.python_version()}"
    workspace_name = "/workspace"
    network = "There is no network."
    ours = True  # the kernel is our own: it tells its state and calls host tools

    def __init__(self, id: str, limits: Limits, tools: Mapping[str, HostTool]) -> None:
        self.id = id
        self.limits = limits
        self.tools = dict(tools)
        self._quotas = hosttools.Quotas()
        self._lock = asyncio.Lock()
        self._channels: Channels | None = None
        self._exited: asyncio.Future[str] | None = None
        self.names: dict[str, Variable] = {}
        self.closed = False
        self.on_close: Callable[[], object] = lambda: None
        self._execution: Execution | None = None
        self._preparing = False
        self.stop_reason: ExecutionStatus | None = None
        self._started_before = False
        self._has_tools = False  # the next kernel comes with the stubs of its tools, being a copy of one

    # --- what a backend provides ---

    @abstractmethod
    async def start_kernel(self) -> tuple[Channels, asyncio.Future[str]]:
        """Start a kernel; the future ends with one sentence on why it is gone, once it is."""

    @abstractmethod
    async def interrupt_kernel(self) -> None: ...

    @abstractmethod
    async def kill_kernel(self) -> None: ...

    def notice(self) -> str | None:
        """What the backend has to say about the execution that just ended, or None."""
        return None

    @abstractmethod
    async def _release(self) -> None:
        """Free what the backend holds for this session."""

    @abstractmethod
    async def put(self, path: str, data: bytes | IO[bytes]) -> None: ...

    @abstractmethod
    async def get(self, path: str) -> bytes: ...

    async def get_into(self, path: str, target: IO[bytes]) -> None:
        """See ``codeact.contracts.Session``. A backend that can read piece by piece does so."""
        target.write(await self.get(path))

    @abstractmethod
    async def files(self) -> tuple[FileInfo, ...]: ...

    @property
    def description(self) -> str:
        """What a model should know of this session."""
        limits = self.limits
        lines = [
            f"The notebook runs {self.language}. Its working directory is {self.workspace_name}: the user's files are "
            f"there, and files that you save there reach the user. {self.network}",
            f"One piece of code may run for {limits.timeout:g} seconds and use {limits.memory >> 20} MiB of memory.",
        ]
        if self.network != KernelSession.network:
            lines.append(
                f"Begin code that changes something elsewhere (sends, posts, buys) with the line `{OUTSIDE_EFFECTS}`: "
                "it is not run again when this conversation is resumed."
            )
        lines.append(hosttools.description(self.tools))
        return "\n".join(filter(None, lines))

    # --- the kernel's life ---

    async def open(self) -> None:
        """Start the kernel now rather than with the first execution."""
        async with self._lock:
            await self._ensure_kernel()

    async def _ensure_kernel(self) -> str | None:
        """A running kernel. Returns what was lost where an earlier one is gone, else None."""
        if self.closed:
            raise SessionClosed(f"session {self.id} is closed")
        lost = None
        if self._exited is not None and self._exited.done():
            lost = self.mourn(self._exited.result())
        elif self._channels is not None and self._exited is not None and self._channels.fault:
            fault = self._channels.fault
            await asyncio.wait({self._exited}, timeout=UNHEARD_GRACE)
            ended = self._exited.result() if self._exited.done() else f"nothing could be heard from it ({fault})"
            await self.kill_kernel()
            lost = self.mourn(ended)
        if self._channels is None:
            self._channels, self._exited = await self.start_kernel()
            try:
                await self._wait_ready(self._channels, self._exited)
            except BaseException:
                self._drop_channels()
                await self.kill_kernel()
                raise
            if self.tools and not self._has_tools:
                await self._install_tools()
            self._has_tools = False
            self._started_before = True
        return lost

    async def _wait_ready(self, channels: Channels, exited: asyncio.Future[str]) -> None:
        """Until the kernel's output is known to reach us."""
        deadline = time.monotonic() + _READY_LIMIT
        while time.monotonic() < deadline and not exited.done() and not channels.fault:
            if await (self._is_greeted(channels, exited) if self.ours else self._is_answered(channels, exited)):
                return
        if exited.done() or channels.fault:
            why = exited.result() if exited.done() else channels.fault
            raise KernelStartError(f"the kernel ended while it started: {why}")
        raise KernelStartError(f"the kernel did not answer within {_READY_LIMIT:.0f} seconds")

    async def _is_greeted(self, channels: Channels, exited: asyncio.Future[str]) -> bool:
        """Our own kernel greets whoever has subscribed."""
        arrivals = await channels.arrivals(exited, 1)
        return any(message["header"].get("msg_type") == "iopub_welcome" for _, message in arrivals)

    async def _is_answered(self, channels: Channels, exited: asyncio.Future[str]) -> bool:
        """Any other is asked, until its answer and its output arrive."""
        channels.send(channels.shell, "kernel_info_request", {})
        heard = answered = False
        again = time.monotonic() + _ASK_EVERY
        while time.monotonic() < again and not exited.done() and not (heard and answered):
            for socket, message in await channels.arrivals(exited, again - time.monotonic()):
                heard = heard or socket is channels.iopub
                answered = answered or socket is channels.shell
                self.language = language_of(message) or self.language
        return heard and answered

    def _drop_channels(self) -> None:
        if self._channels is not None:
            self._channels.close()
        self._channels = None
        self._exited = None

    def mourn(self, cause: str) -> str:
        """The kernel is gone: forget it, and say what went with it."""
        names = sorted(self.names)
        shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        lost = f"All variables are lost ({shown})." if names else "It held no variables."
        if not self.ours:
            lost = "All variables are lost."
        self._drop_channels()
        self.names = {}
        return f"The kernel died: {cause}. {lost} Files in {self.workspace_name} are kept."

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
        """Run code: what happens while it runs and, last, one ExecutionResult."""
        async with self._lock:
            had_run = self._started_before
            was_without = self._channels is None
            self._preparing, self.stop_reason = True, None
            lost = await self._ensure_kernel()
            assert self._channels is not None and self._exited is not None
            self._quotas.begin(run)
            calls = hosttools.Calls(self.tools, self._quotas, ask, self._channels.wake)
            limit = timeout or self.limits.timeout
            execution = Execution(self, self._channels, self._exited, limit, calls, person=ask > 0)
            execution.fresh = had_run and (lost is not None or was_without)
            execution.lost_before = lost
            self._execution, self._preparing = execution, False
            execution.stopping = self.stop_reason is not None  # asked for while a new kernel was on its way
            try:
                async for output in execution.outputs(code):
                    yield output
                yield await execution.result()
            finally:
                self._execution = None
                if not execution.over:
                    await self._stop_abandoned(execution)
                await execution.cancel_calls()
                execution.collector.close()

    async def _stop_abandoned(self, execution: Execution) -> None:
        """The watcher went away in mid-run: stop the code, keep the state where the code lets itself be stopped."""
        if self._channels is None or self._exited is None or self._exited.done():
            return
        await execution.stop()
        execution.stop_by = time.monotonic() + STOP_GRACE
        async for _ in execution.remaining():
            pass

    def answer(self, question: str, answer: Answer) -> bool:
        """Answer a question of the running code. False where it is not open (any more)."""
        return self._execution is not None and self._execution.calls.answer(question, answer)

    async def interrupt(self) -> None:
        """Stop the running code. Does nothing when nothing runs."""
        if self._execution is not None or self._preparing:
            self.stop_reason = self.stop_reason or "interrupted"
        if self._execution is not None:
            await self._execution.stop()

    async def interrupt_by_message(self) -> None:
        """For a kernel that takes no signals."""
        if self._channels is not None:
            self._channels.send(self._channels.control, "interrupt_request", {})

    async def restart(self) -> None:
        """Give up the kernel and its variables; files stay. The next execution starts a fresh one."""
        async with self._lock:
            if self._channels is not None:
                await self.kill_kernel()
                self._drop_channels()
                self.names = {}

    async def variables(self) -> tuple[Variable, ...]:
        """The live names of the kernel, empty when none runs or when it is one that does not tell."""
        channels, exited = self._channels, self._exited
        if channels is None or exited is None or exited.done() or not self.ours:
            return ()
        if self._lock.locked():
            return tuple(self.names.values())  # as of the end of the last execution
        async with self._lock:
            try:
                content = await self._request(channels, exited, channels.control, "codeact_state_request", {}, 5)
            except SandboxError:
                return tuple(self.names.values())
        return variables_of(content.get("variables"))

    async def fork(self) -> KernelSession:
        """See ``codeact.contracts.Session``."""
        return (await self.forks(1))[0]

    async def forks(self, count: int) -> tuple[KernelSession, ...]:
        raise SandboxError("sessions of this sandbox cannot be forked; those of the local sandbox can")

    async def _request(
        self, channels: Channels, exited: asyncio.Future[str], channel: Connection, kind: str, content: dict[str, Any],
        limit: float, meanwhile: Callable[[str], None] = lambda kind: None,
    ) -> dict[str, Any]:  # fmt: skip
        """The content of the reply to a request, within ``limit`` seconds. Raises SandboxError.

        ``meanwhile`` is called with the kinds of other messages that answer it.
        """
        message_id = channels.send(channel, kind, content)
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline and not exited.done() and not channels.fault:
            for source, message in await channels.arrivals(exited, min(limit, 1)):
                if source is not channel or message["parent_header"].get("msg_id") != message_id:
                    continue
                kind = str(message["header"].get("msg_type"))
                if kind.endswith("_reply"):
                    return dict(message["content"])
                meanwhile(kind)
        raise SandboxError(f"the kernel did not answer to {kind} within {limit:g} seconds")

    async def close(self) -> None:
        """End the kernel and remove everything that the session had."""
        if not self.closed:
            self.closed = True
            self.on_close()
            await self._release()  # ends an execution that is under way, which may then let go of the channels
            self._drop_channels()

    # --- host tools ---

    async def _install_tools(self) -> None:
        """Define a stub for every host tool in the kernel."""
        assert self._channels is not None and self._exited is not None
        source = hosttools.source(self.tools)
        request = {"code": source, "silent": True, "store_history": False, "allow_stdin": False}
        channels = self._channels
        reply = await self._request(channels, self._exited, channels.shell, "execute_request", request, _READY_LIMIT)
        if reply.get("status") != "ok":
            raise KernelStartError(f"the host tools could not be defined: {reply.get('evalue')}")
