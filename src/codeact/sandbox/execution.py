"""One execution under way: what arrives while code runs, when it is stopped, and what its result says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import IO, Any, Protocol

from codeact.contracts import (
    ErrorOutput,
    ExecutionResult,
    ExecutionStatus,
    HostCall,
    Output,
    Question,
    StateChanges,
    Variable,
)
from codeact.errors import SandboxError, SessionClosed
from codeact.sandbox.channels import Channels, encodable, error_output, output_of, variables_of
from codeact.sandbox.collector import Collector
from codeact.sandbox.hosttools import Calls
from codeact.sandbox.limits import Limits
from codeact.sandbox.wire import CALL_MARK, NO_ANSWER
from codeact.sandbox.zmtp import Connection

STOP_GRACE = 5.0
"""Seconds between an interrupt and a kill."""

UNHEARD_GRACE = 0.5
"""Seconds in which a kernel whose connections broke may turn out to be ending."""

_IDLE_GRACE = 5.0  # seconds between a reply and the last of its output
_WHOLE_ABOVE = 1000  # characters of output beyond which the whole is kept as a file
_MOST_CALLS = 256  # questions of the kernel under way at once
_CALLS_SIZE = 16 << 20  # characters of these questions together
_CALLS_END = 1.0  # seconds in which calls that are cancelled end
_INTERRUPT_FIRST = 0.2  # seconds in which an interrupt arrives before a call that it ended is answered
_MOST_NAMES = 5000  # of live variables that are remembered for the notice of their loss


class Owner(Protocol):
    """The session that an execution belongs to."""

    id: str
    limits: Limits
    workspace_name: str
    closed: bool
    names: dict[str, Variable]
    stop_reason: ExecutionStatus | None

    async def interrupt_kernel(self) -> None: ...

    async def kill_kernel(self) -> None: ...

    def mourn(self, cause: str) -> str: ...

    def notice(self) -> str | None: ...

    async def put(self, path: str, data: bytes | IO[bytes]) -> None: ...


class Execution:
    """One execution under way."""

    def __init__(
        self, session: Owner, channels: Channels, exited: asyncio.Future[str], limit: float, calls: Calls, person: bool
    ) -> None:
        self.session = session
        self.channels = channels
        self.calls = calls
        self.person = person
        self.exited = exited
        self.limit = limit
        self.collector = Collector()
        self.reply: dict[str, Any] | None = None
        self.begun = False
        self.stopping = False
        self.idle = False
        self.over = False
        self.killed = False
        self.unheard = False
        self.passed_over = channels.passed_over
        self.fresh = False
        self.lost_before: str | None = None
        self.stop_by: float | None = None
        self.replied_at = 0.0
        self.message_id = ""
        self.started = time.monotonic()
        self.error: ErrorOutput | None = None
        self.asked: dict[asyncio.Task[None], int] = {}  # questions of the kernel, and the size of each

    async def outputs(self, code: str) -> AsyncIterator[Output | HostCall | Question]:
        request = {
            "code": code.encode("utf-8", "backslashreplace").decode(),  # a lone surrogate cannot be sent
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": self.person,  # calls of host tools come all the same
            "stop_on_error": False,
        }
        self.message_id = self.channels.send(self.channels.shell, "execute_request", request)
        async for output in self.remaining():
            yield output

    async def remaining(self) -> AsyncIterator[Output | HostCall | Question]:
        """Outputs, questions and calls until the execution is over, stopping it where its time is up."""
        while not self.over:
            heard_all = self.idle or self.channels.fault or time.monotonic() - self.replied_at > _IDLE_GRACE
            if self.reply is not None and heard_all:
                break
            if self.session.closed:
                raise SessionClosed(f"session {self.session.id} is closed")
            gone = self.exited.done()  # then what it still said is read first
            pause = await self._pause()
            arrivals = await self.channels.arrivals(self.exited, 0 if self.calls.told else pause)
            while self.calls.told:
                yield self.calls.told.popleft()
            for socket, message in arrivals:
                output = await self._take(socket, message)
                if output is not None and self.collector.add(output):
                    yield output
            if not arrivals and gone:
                break
        self.over = True
        await self.cancel_calls()
        while self.calls.told:
            yield self.calls.told.popleft()

    async def cancel_calls(self) -> None:
        """End the calls that are under way, and withdraw questions."""
        asked = tuple(self.asked)
        for call in asked:
            call.cancel()
        if asked:
            await asyncio.wait(asked, timeout=_CALLS_END)

    async def stop(self) -> None:
        """Interrupt the code, or as soon as it has begun: an earlier signal would be lost."""
        self.stopping = True
        if self.begun:
            await self.session.interrupt_kernel()
            await self.cancel_calls()  # nobody waits for them any more, and none shall be allowed later

    async def _pause(self) -> float:
        """How long to wait for the next message; interrupts and kills when their times have come."""
        now = time.monotonic()
        if self.reply is not None:
            return self.replied_at + _IDLE_GRACE - now
        if self.channels.fault and not (self.unheard or self.killed):
            self.unheard = True
            self.stop_by = now + UNHEARD_GRACE
        if self.stop_by is None:
            if self.session.stop_reason == "interrupted":
                self.stop_by = now + STOP_GRACE
            elif now - self.started - self.calls.waited >= self.limit:
                self.session.stop_reason = "timeout"
                await self.stop()
                self.stop_by = now + STOP_GRACE
            else:
                # short enough to notice an interrupt asked for meanwhile
                return min(self.started + self.calls.waited + self.limit - now, 1.0)
        if now >= self.stop_by and not self.killed:
            self.killed = True
            await self.session.kill_kernel()
        return max(self.stop_by - now, 0.2)

    async def _take(self, socket: Connection, message: dict[str, Any]) -> Output | None:
        ours = message["parent_header"].get("msg_id") == self.message_id
        kind = message["header"].get("msg_type")
        if socket is self.channels.shell:
            if ours and kind == "execute_reply":
                self.reply, self.replied_at = message["content"], time.monotonic()
            return None
        if socket is self.channels.stdin:
            prompt = encodable(message["content"].get("prompt", ""))
            room = len(self.asked) < _MOST_CALLS and sum(self.asked.values()) + len(prompt) <= _CALLS_SIZE
            if kind == "input_request" and room:
                # beside this loop, so that output, interrupts and the time limit go on while the tool runs
                password = message["content"].get("password") is True
                call = asyncio.create_task(self._serve(message["header"], prompt, password))
                self.asked[call] = len(prompt)
                call.add_done_callback(self.asked.pop)
            return None
        if kind == "status":
            self.idle = self.idle or (ours and message["content"].get("execution_state") == "idle")
            return None
        if kind == "execute_input" and ours and not self.begun:
            self.begun = True
            if self.stopping:
                await self.session.interrupt_kernel()
        output = output_of(message)
        if isinstance(output, ErrorOutput):
            self.error = output
        return output

    async def _serve(self, parent: dict[str, Any], prompt: str, password: bool) -> None:
        """Answer one question of the kernel."""
        is_call = prompt.startswith(CALL_MARK)
        try:
            if is_call:
                value = await self.calls.serve(prompt.removeprefix(CALL_MARK))
            else:
                value = await self.calls.input(prompt, password)
        except asyncio.CancelledError:
            value = json.dumps({"error": "the code was stopped", "kind": "failed"}) if is_call else NO_ANSWER
            if self.stopping and not self.over:
                await asyncio.sleep(_INTERRUPT_FIRST)  # only for other threads of the code, which nothing interrupts
        if not self.over:
            self.channels.answer(parent, value)

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
                cause = f"the code did not stop {STOP_GRACE:.0f} seconds after it was interrupted, so it was killed"
                if session.stop_reason == "timeout":
                    cause = f"the time limit of {self.limit:g} seconds was over and {cause}"
            if self.killed and self.unheard:
                cause = f"nothing can be heard from it any more ({self.channels.fault}), so it was killed"
            notices.append(session.mourn(cause) + " The next code runs in a new kernel.")
        else:
            if reply.get("status") != "ok":
                status = "error"
                if self.error is None:
                    name = reply.get("ename") or reply.get("status")  # some kernels only say that it was aborted
                    self.collector.add(error_output(name, reply.get("evalue") or "", reply.get("traceback")))
            if session.stop_reason == "timeout":
                status = "timeout"
                notices.append(f"Stopped at the time limit of {self.limit:g} seconds. Variables are kept.")
            elif session.stop_reason == "interrupted" and status == "error":
                status = "interrupted"
                notices.append("Interrupted before its end. Variables are kept.")
            if not self.idle:  # a kernel of another make sent too much in one message, or never says that it is idle
                notices.append(f"Not all output arrived within {_IDLE_GRACE:.0f} seconds of the end: some may be lost.")
            changes = self._changes(reply)
            notices.append(session.notice())
        collector = self.collector
        if collector.dropped_displays:
            notices.append(f"{collector.dropped_displays} displayed objects were too large to keep.")
        lost = self.channels.passed_over - self.passed_over
        if lost:
            notices.append(f"Output was lost: {lost} messages of the kernel were too large to be read.")
        duration = time.monotonic() - self.started
        told = (reply or {}).get("execution_count")
        count = told if type(told) is int and 0 <= told < 1 << 53 else None
        path = await self._keep_whole(count)
        if collector.no_room:
            notices.append("The whole output is not kept: there is no room in the host's temporary directory.")
        return ExecutionResult(
            status=status,
            outputs=collector.outputs,
            execution_count=count,
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
        removed = tuple(encodable(name)[:1000] for name in listed[:500]) if isinstance(listed, list) else ()
        changes = StateChanges(
            added=variables_of(told.get("added")), changed=variables_of(told.get("changed")), removed=removed
        )
        for variable in (*changes.added, *changes.changed):
            if len(self.session.names) < _MOST_NAMES or variable.name in self.session.names:
                self.session.names[variable.name] = variable
        for name in removed:
            self.session.names.pop(name, None)
        return changes

    async def _keep_whole(self, count: int | None) -> str | None:
        """Put output that is too long to read whole into the workspace; its path, or None."""
        if self.collector.text <= _WHOLE_ABOVE or self.collector.no_room:
            return None
        path = f".codeact/output-{'last' if count is None else count}.txt"
        try:
            self.collector.whole.truncate(min(self.collector.whole.tell(), self.session.limits.file))
            self.collector.whole.seek(0)
        except OSError:
            self.collector.no_room = True
            return None
        try:
            await self.session.put(path, self.collector.whole)
        except SandboxError:
            return None  # no room left in the workspace: what is kept is in the result
        return f"{self.session.workspace_name}/{path}"
