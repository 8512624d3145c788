"""A session over one Jupyter kernel: what every backend shares.

A backend says how its kernel is started, interrupted and killed and how files travel; this class runs code in it,
bounds what comes out, stops it at its limit, and tells what was lost when a kernel is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import IO, Any

import zmq
import zmq.asyncio

from codeact.contracts import (
    ErrorOutput,
    ExecutionResult,
    ExecutionStatus,
    FileInfo,
    HostTool,
    Output,
    StateChanges,
    Variable,
)
from codeact.errors import KernelStartError, SandboxError, SessionClosed, ToolError
from codeact.sandbox.channels import Channels, error_output, output_of, plain, variables_of
from codeact.sandbox.collector import Collector
from codeact.sandbox.limits import Limits

_STOP_GRACE = 5.0  # seconds between an interrupt and a kill
_IDLE_GRACE = 5.0  # seconds between a reply and the last of its output
_READY_LIMIT = 60.0
_CALL_MARK = "\x00codeact-call:"
_WHOLE_ABOVE = 4000  # characters of output beyond which the whole is kept as a file
_NAMED = 20
_LAST_WORDS = 0.1  # seconds in which the messages of a kernel that is gone arrive


class KernelSession(ABC):
    """One stateful kernel. See ``codeact.contracts.Session`` for what the public methods promise."""

    language = f"Python {platform.python_version()}"
    workspace_name = "/workspace"
    network = "There is no network."

    def __init__(self, id: str, limits: Limits, tools: Mapping[str, HostTool]) -> None:
        self.id = id
        self.limits = limits
        self.tools = dict(tools)
        self._lock = asyncio.Lock()
        self._channels: Channels | None = None
        self._exited: asyncio.Future[str] | None = None
        self._names: dict[str, Variable] = {}
        self._closed = False
        self._execution: _Execution | None = None
        self._stop_reason: ExecutionStatus | None = None
        self._started_before = False

    # --- what a backend provides ---

    @abstractmethod
    async def _start_kernel(self) -> tuple[Channels, asyncio.Future[str]]:
        """Start a kernel; the future ends with one sentence on why it is gone, once it is."""

    @abstractmethod
    async def _interrupt_kernel(self) -> None: ...

    @abstractmethod
    async def _kill_kernel(self) -> None: ...

    def _notice(self) -> str | None:
        """What the backend has to say about the execution that just ended, or None."""
        return None

    @abstractmethod
    async def _release(self) -> None:
        """Free what the backend holds for this session."""

    @abstractmethod
    async def put(self, path: str, data: bytes | IO[bytes]) -> None: ...

    @abstractmethod
    async def get(self, path: str) -> bytes: ...

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
        if self.tools:
            listed = "\n".join(f"- {tool.description}" for tool in self.tools.values())
            lines.append(f"These functions are defined and run outside of the notebook; call them directly:\n{listed}")
        return "\n".join(lines)

    # --- the kernel's life ---

    async def open(self) -> None:
        """Start the kernel now rather than with the first execution."""
        async with self._lock:
            await self._ensure_kernel()

    async def _ensure_kernel(self) -> str | None:
        """A running kernel. Returns what was lost where an earlier one is gone, else None."""
        if self._closed:
            raise SessionClosed(f"session {self.id} is closed")
        lost = None
        if self._exited is not None and self._exited.done():
            lost = self._mourn(self._exited.result())
        if self._channels is None:
            self._channels, self._exited = await self._start_kernel()
            try:
                await self._wait_ready(self._channels, self._exited)
            except BaseException:
                self._drop_channels()
                await self._kill_kernel()
                raise
            if self.tools:
                await self._install_tools()
            self._started_before = True
        return lost

    async def _wait_ready(self, channels: Channels, exited: asyncio.Future[str]) -> None:
        """Until the kernel answers and its output is known to reach us."""
        deadline = time.monotonic() + _READY_LIMIT
        heard = answered = False
        while not (heard and answered):
            if time.monotonic() > deadline:
                raise KernelStartError(f"the kernel did not answer within {_READY_LIMIT:.0f} seconds")
            await channels.send(channels.control, "kernel_info_request", {})
            until = time.monotonic() + 0.5
            while not (heard and answered) and time.monotonic() < until:
                if exited.done():
                    raise KernelStartError(f"the kernel ended while it started: {exited.result()}")
                for socket, _ in await self._arrivals(channels, exited, 0.1, with_control=True):
                    heard = heard or socket is channels.iopub
                    answered = answered or socket is channels.control
        if not await channels.stdin_connected(max(deadline - time.monotonic(), 0)):
            raise KernelStartError(f"the kernel did not connect its stdin within {_READY_LIMIT:.0f} seconds")

    def _drop_channels(self) -> None:
        if self._channels is not None:
            self._channels.close()
        self._channels = None
        self._exited = None

    def _mourn(self, cause: str) -> str:
        """The kernel is gone: forget it, and say what went with it."""
        names = sorted(self._names)
        shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        lost = f"All variables are lost ({shown})." if names else "It held no variables."
        self._drop_channels()
        self._names = {}
        return f"The kernel died: {cause}. {lost} Files in {self.workspace_name} are kept."

    # --- running code ---

    async def run(self, code: str, *, timeout: float | None = None) -> ExecutionResult:
        """Run code and wait for its result."""
        async with contextlib.aclosing(self.execute(code, timeout=timeout)) as items:
            async for item in items:
                if isinstance(item, ExecutionResult):
                    return item
        raise SandboxError("the execution ended without a result")

    async def execute(self, code: str, *, timeout: float | None = None) -> AsyncGenerator[Output | ExecutionResult]:
        """Run code: outputs while it runs and, last, one ExecutionResult."""
        async with self._lock:
            had_run = self._started_before
            was_without = self._channels is None
            lost = await self._ensure_kernel()
            execution = _Execution(self, timeout or self.limits.timeout)
            execution.fresh = had_run and (lost is not None or was_without)
            execution.lost_before = lost
            self._execution, self._stop_reason = execution, None
            try:
                async for output in execution.outputs(code):
                    yield output
                yield await execution.result()
            finally:
                self._execution = None
                if not execution.over:
                    await self._stop_abandoned(execution)
                for call in execution.calls:
                    call.cancel()
                execution.collector.close()

    async def _stop_abandoned(self, execution: _Execution) -> None:
        """The watcher went away in mid-run: stop the code, keep the state where the code lets itself be stopped."""
        if self._channels is None or self._exited is None or self._exited.done():
            return
        await execution.stop()
        execution.stop_by = time.monotonic() + _STOP_GRACE
        async for _ in execution.remaining():
            pass

    async def interrupt(self) -> None:
        """Stop the running code. Does nothing when nothing runs."""
        if self._execution is not None and self._channels is not None:
            self._stop_reason = self._stop_reason or "interrupted"
            await self._execution.stop()

    async def restart(self) -> None:
        """Give up the kernel and its variables; files stay. The next execution starts a fresh one."""
        async with self._lock:
            if self._channels is not None:
                await self._kill_kernel()
                self._drop_channels()
                self._names = {}

    async def variables(self) -> tuple[Variable, ...]:
        """The live names of the kernel, empty when none runs."""
        channels, exited = self._channels, self._exited
        if channels is None or exited is None or exited.done():
            return ()
        if self._lock.locked():
            return tuple(self._names.values())  # as of the end of the last execution
        async with self._lock:
            await channels.send(channels.control, "codeact_state_request", {})
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline and not exited.done():
                for socket, message in await self._arrivals(channels, exited, 1, with_control=True):
                    if socket is channels.control and message["header"].get("msg_type") == "codeact_state_reply":
                        return variables_of(message["content"].get("variables"))
        return tuple(self._names.values())

    async def close(self) -> None:
        """End the kernel and remove everything that the session had."""
        if not self._closed:
            self._closed = True
            await self._release()  # ends an execution that is under way, which may then let go of the channels
            self._drop_channels()

    # --- host tools ---

    async def _install_tools(self) -> None:
        """Define a stub for every host tool in the kernel."""
        assert self._channels is not None and self._exited is not None
        source = "\n".join(tool.stub for tool in self.tools.values())
        request = {"code": source, "silent": True, "store_history": False, "allow_stdin": False}
        message_id = await self._channels.send(self._channels.shell, "execute_request", request)
        deadline = time.monotonic() + _READY_LIMIT
        while time.monotonic() < deadline and not self._exited.done():
            for socket, message in await self._arrivals(self._channels, self._exited, 1):
                if socket is self._channels.shell and message["parent_header"].get("msg_id") == message_id:
                    if message["content"].get("status") != "ok":
                        raise KernelStartError(
                            f"the host tools could not be defined: {message['content'].get('evalue')}"
                        )
                    return
        raise KernelStartError("the host tools could not be defined: the kernel did not answer")

    async def call_tool(self, prompt: str) -> str:
        """Answer one ``input_request`` of the kernel: the JSON reply to a tool call."""
        try:
            call = json.loads(prompt.removeprefix(_CALL_MARK)) if prompt.startswith(_CALL_MARK) else None
            if not isinstance(call, dict) or not isinstance(call.get("arguments"), dict):
                return json.dumps({"error": "there is nobody to answer input() here"})
            tool = self.tools.get(str(call.get("tool")))
            if tool is None:
                return json.dumps({"error": f"there is no host tool {call.get('tool')!r}"})
            outcome = tool.call(call["arguments"])
            if inspect.isawaitable(outcome):
                outcome = await outcome
            return json.dumps({"result": outcome})
        except ToolError as error:
            return json.dumps({"error": str(error)})
        except (ValueError, TypeError, RecursionError) as error:
            return json.dumps({"error": f"the call or its result is not JSON: {error}"})
        except Exception as error:  # a mistake in the tool is told where it was called, and ends nothing here
            return json.dumps({"error": f"the tool failed: {type(error).__name__}: {error}"})

    # --- messages ---

    async def _arrivals(
        self, channels: Channels, exited: asyncio.Future[str], limit: float, *, with_control: bool = False
    ) -> list[tuple[zmq.asyncio.Socket, dict[str, Any]]]:
        """Messages that have come, waiting at most ``limit`` seconds for the first; none when the kernel exits."""
        if self._closed:
            raise SessionClosed(f"session {self.id} is closed")
        sockets = [channels.iopub, channels.shell, channels.stdin]
        if with_control:
            sockets.append(channels.control)
        poller = zmq.asyncio.Poller()
        for socket in sockets:
            poller.register(socket, zmq.POLLIN)
        limit = min(limit, _LAST_WORDS) if exited.done() else max(limit, 0)
        poll = asyncio.ensure_future(poller.poll(limit * 1000))
        try:
            both: set[asyncio.Future[Any]] = {poll} if exited.done() else {poll, exited}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not poll.done():
                return []
            ready = {socket for socket, _ in poll.result()}
        finally:
            if not poll.done():
                poll.cancel()
        messages = []
        for socket in (s for s in sockets if s in ready):
            message = channels.read(await socket.recv_multipart())
            if message is not None:
                messages.append((socket, message))
        return messages


class _Execution:
    """One execution under way."""

    def __init__(self, session: KernelSession, limit: float) -> None:
        assert session._channels is not None and session._exited is not None
        self.session = session
        self.channels = session._channels
        self.exited = session._exited
        self.limit = limit
        self.collector = Collector()
        self.reply: dict[str, Any] | None = None
        self.begun = False
        self.stopping = False
        self.idle = False
        self.over = False
        self.killed = False
        self.fresh = False
        self.lost_before: str | None = None
        self.stop_by: float | None = None
        self.replied_at = 0.0
        self.message_id = ""
        self.started = time.monotonic()
        self.error: ErrorOutput | None = None
        self.calls: list[asyncio.Task[None]] = []

    async def outputs(self, code: str) -> AsyncIterator[Output]:
        request = {
            "code": code.encode("utf-8", "backslashreplace").decode(),  # a lone surrogate cannot be sent
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": True,
            "stop_on_error": False,
        }
        self.message_id = await self.channels.send(self.channels.shell, "execute_request", request)
        async for output in self.remaining():
            yield output

    async def remaining(self) -> AsyncIterator[Output]:
        """Outputs until the execution is over, stopping it where its time is up."""
        while not self.over:
            if self.reply is not None and (self.idle or time.monotonic() - self.replied_at > _IDLE_GRACE):
                break
            gone = self.exited.done()  # then what it still said is read first
            arrivals = await self.session._arrivals(self.channels, self.exited, await self._pause())
            for socket, message in arrivals:
                output = await self._take(socket, message)
                if output is not None and self.collector.add(output):
                    yield output
            if not arrivals and gone:
                break
        self.over = True
        for call in self.calls:
            call.cancel()

    async def stop(self) -> None:
        """Interrupt the code, or as soon as it has begun: an earlier signal would be lost."""
        self.stopping = True
        if self.begun:
            await self.session._interrupt_kernel()

    async def _pause(self) -> float:
        """How long to wait for the next message; interrupts and kills when their times have come."""
        now = time.monotonic()
        if self.reply is not None:
            return self.replied_at + _IDLE_GRACE - now
        if self.stop_by is None:
            if self.session._stop_reason == "interrupted":
                self.stop_by = now + _STOP_GRACE
            elif now - self.started >= self.limit:
                self.session._stop_reason = "timeout"
                await self.stop()
                self.stop_by = now + _STOP_GRACE
            else:
                # short enough to notice an interrupt asked for meanwhile
                return min(self.started + self.limit - now, 1.0)
        if now >= self.stop_by and not self.killed:
            self.killed = True
            await self.session._kill_kernel()
        return max(self.stop_by - now, 0.2)

    async def _take(self, socket: zmq.asyncio.Socket, message: dict[str, Any]) -> Output | None:
        ours = message["parent_header"].get("msg_id") == self.message_id
        kind = message["header"].get("msg_type")
        if socket is self.channels.shell:
            if ours and kind == "execute_reply":
                self.reply, self.replied_at = message["content"], time.monotonic()
            return None
        if socket is self.channels.stdin:
            if kind == "input_request":
                prompt = str(message["content"].get("prompt", ""))
                # beside this loop, so that output, interrupts and the time limit go on while the tool runs
                self.calls.append(asyncio.create_task(self._call_tool(message["header"], prompt)))
            return None
        if kind == "status":
            self.idle = self.idle or (ours and message["content"].get("execution_state") == "idle")
            return None
        if kind == "execute_input" and ours and not self.begun:
            self.begun = True
            if self.stopping:
                await self.session._interrupt_kernel()
        output = output_of(message)
        if isinstance(output, ErrorOutput):
            self.error = output
        return output

    async def _call_tool(self, parent: dict[str, Any], prompt: str) -> None:
        value = await self.session.call_tool(prompt)
        if not self.over:
            await self.channels.answer(parent, value)

    async def result(self) -> ExecutionResult:
        """The result, the execution being over."""
        notices = [self.lost_before and f"{self.lost_before} This code ran in a new kernel."]
        session = self.session
        reply = self.reply
        status: ExecutionStatus = "ok"
        changes = None
        if reply is None:
            status = "died"
            cause = await asyncio.wait_for(asyncio.shield(self.exited), 10)
            if self.killed:
                cause = f"the code did not stop {_STOP_GRACE:.0f} seconds after it was interrupted, so it was killed"
                if session._stop_reason == "timeout":
                    cause = f"the time limit of {self.limit:g} seconds was over and {cause}"
            notices.append(session._mourn(cause) + " The next code runs in a new kernel.")
        else:
            if reply.get("status") != "ok":
                status = "error"
                if self.error is None:
                    self.collector.add(error_output(reply.get("ename"), reply.get("evalue"), reply.get("traceback")))
            if session._stop_reason == "timeout":
                status = "timeout"
                notices.append(f"Stopped at the time limit of {self.limit:g} seconds. Variables are kept.")
            elif session._stop_reason == "interrupted" and status == "error":
                status = "interrupted"
                notices.append("Interrupted by the user. Variables are kept.")
            changes = self._changes(reply)
            notices.append(session._notice())
        collector = self.collector
        if collector.dropped_displays:
            notices.append(f"{collector.dropped_displays} displayed objects were too large to keep.")
        duration = time.monotonic() - self.started
        path = await self._keep_whole(reply)
        count = (reply or {}).get("execution_count")
        return ExecutionResult(
            status=status,
            outputs=collector.outputs,
            execution_count=count if isinstance(count, int) else None,
            duration=duration,
            changes=changes,
            notice=" ".join(n for n in notices if n) or None,
            dropped=collector.dropped,
            full_output=path,
            fresh_kernel=self.fresh,
        )

    def _changes(self, reply: dict[str, Any]) -> StateChanges | None:
        told = reply.get("codeact")
        if not isinstance(told, dict):
            return None
        listed = told.get("removed")
        removed = tuple(plain(name) for name in listed) if isinstance(listed, list) else ()
        changes = StateChanges(
            added=variables_of(told.get("added")), changed=variables_of(told.get("changed")), removed=removed
        )
        for variable in (*changes.added, *changes.changed):
            self.session._names[variable.name] = variable
        for name in removed:
            self.session._names.pop(name, None)
        return changes

    async def _keep_whole(self, reply: dict[str, Any] | None) -> str | None:
        """Put output that is too long to read whole into the workspace; its path, or None."""
        if self.collector.text <= _WHOLE_ABOVE:
            return None
        path = f".codeact/output-{(reply or {}).get('execution_count') or 'last'}.txt"
        self.collector.whole.seek(0)
        try:
            await self.session.put(path, self.collector.whole)
        except SandboxError:
            return None  # no room left in the workspace: what is kept is in the result
        return f"{self.session.workspace_name}/{path}"
