"""One session of the engine: executions queue, run one after the other, and are remembered for a while."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Protocol, assert_never

from codeact.contracts import (
    Answer,
    DisplayOutput,
    ErrorOutput,
    ExecutionResult,
    HostCall,
    Output,
    Question,
    Session,
    StreamOutput,
    Value,
    Variable,
)
from codeact.engine.errors import Refused, full, not_found
from codeact.engine.gate import Gate
from codeact.engine.keys import Tenant
from codeact.engine.metrics import Metrics
from codeact.engine.options import Options
from codeact.engine.stream import Execution
from codeact.engine.tools import running
from codeact.errors import CodeActError, SandboxError, SessionClosed, StateLost, ToolError
from codeact.sandbox import api
from codeact.sandbox.api import Call, NewSession, SessionInfo
from codeact.sandbox.limits import Limits

logger = logging.getLogger("codeact.engine")

_REMEMBERED = 16  # executions of a session whose events are kept


class Shared(Protocol):
    """What all sessions of an engine have in common."""

    options: Options
    metrics: Metrics
    gate: Gate
    draining: bool


class EngineSession:
    """A session, its owner and its executions. ``id`` is the client's name for it."""

    def __init__(
        self, id: str, tenant: Tenant, asked: NewSession, limits: Limits, inner: Session, shared: Shared
    ) -> None:
        self.id = id
        self.tenant = tenant
        self.asked = asked
        self.limits = limits
        self.inner = inner
        self.created = time.time()
        self.gone: str | None = None
        """Why it has ended."""
        self._shared = shared
        self._born = self._touched = time.monotonic()
        self._lock = asyncio.Lock()
        self._executions: dict[str, Execution] = {}
        self._current: Execution | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._uses = 0
        self._called = asyncio.Event()
        self._count = 0
        self._busy = 0.0

    # --- what it is ---

    def touch(self) -> None:
        self._touched = time.monotonic()

    @property
    def age(self) -> float:
        return time.monotonic() - self._born

    @property
    def idle(self) -> float:
        """Seconds since it was last used; 0 while it is."""
        return 0.0 if self._tasks or self._uses else time.monotonic() - self._touched

    @property
    def waiting(self) -> int:
        return len(self._tasks) - (self._current is not None)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """Executions under way or waiting."""
        return list(self._tasks.values())

    def calls(self) -> tuple[Call, ...]:
        """Calls of host tools that wait for an answer."""
        return tuple(call for execution in self._executions.values() for call in execution.calls.values())

    async def wait_for_calls(self, limit: float) -> tuple[Call, ...]:
        """The same; up to ``limit`` seconds for the first one."""
        deadline = time.monotonic() + limit
        while not (found := self.calls()) and self.gone is None and not self._shared.draining:
            rest = deadline - time.monotonic()
            if rest <= 0:
                break
            self._called.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._called.wait(), rest)
        return found

    def answer(self, call: str, answer: api.Answer) -> None:
        """Raises Refused where no such call waits."""
        if not any(execution.answer(call, answer) for execution in self._executions.values()):
            raise not_found(f"no call {call!r} waits for an answer")

    def info(self, existed: bool = False) -> SessionInfo:
        return SessionInfo(
            id=self.id,
            state="running" if self._current else "queued" if self._tasks else "idle",
            created=self.created,
            age=self.age,
            idle=self.idle,
            executions=self._count,
            waiting=self.waiting,
            calls=len(self.calls()),
            busy=self._busy,
            limits=self.limits,
            network=", ".join(self.asked.allow_net) or self.asked.network,
            kernel=self.asked.kernel,
            workspace=getattr(self.inner, "workspace_name", "/workspace"),
            description=self.inner.description,
            existed=existed,
        )

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[Session]:
        """The session inside, for files and such: they do not wait for code that runs."""
        self._uses += 1
        try:
            yield self.inner
        except SessionClosed as error:
            raise self.ended(error) from error
        finally:
            self._uses -= 1
            self.touch()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[Session]:
        """The same, while no code runs."""
        async with self._in_turn(), self.use() as inner:
            yield inner

    def ended(self, error: Exception) -> CodeActError:
        """What to tell where the session inside is closed."""
        return StateLost(f"state lost: session {self.id!r} has ended: {self.gone or error}")

    @contextlib.asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._shared.options.max_wait):
                await self._lock.acquire()
        except TimeoutError as error:
            raise full("wait", f"the session was busy for {self._shared.options.max_wait:g} seconds") from error
        try:
            yield
        finally:
            self._lock.release()

    # --- executions ---

    def execute(self, code: str, timeout: float | None, id: str | None, ask: float = 0) -> Execution:
        """Begin to run code; the execution of that id where there is one. Raises Refused.

        ``ask``: seconds that somebody has to answer ``input()``.
        """
        options = self._shared.options
        known = self._executions.get(id) if id else None
        if known is not None:
            return known
        if self._shared.draining:
            raise Refused(503, "draining", "the engine is being stopped", 5)
        if len(code.encode("utf-8", "surrogatepass")) > options.max_code:
            raise Refused(413, "code_size", f"the code is larger than the limit of {options.max_code} bytes")
        if timeout is not None and timeout > options.max_timeout:
            raise Refused(422, "usage", f"the engine lets code run for {options.max_timeout:g} seconds at most")
        if self._current is not None or self._tasks:
            if self.waiting >= options.max_waiting_session:
                raise full("session_queue", f"{self.waiting} executions of this session wait already")
        if self._shared.gate.waiting >= options.max_waiting:
            raise full("queue", f"{options.max_waiting} executions wait already")
        self._forget()
        execution = Execution(id, options.buffer, options.call, self._called)
        self._executions[execution.id] = execution
        task = asyncio.create_task(self._run(execution, code, timeout, ask))
        self._tasks[execution.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(execution.id, None))
        return execution

    async def _run(self, execution: Execution, code: str, timeout: float | None, ask: float) -> None:
        """From waiting to the last event; raises nothing."""
        metrics, began = self._shared.metrics, time.monotonic()
        try:
            async with self._in_turn(), self._slot(began):
                metrics.waited.observe(time.monotonic() - began)
                outcome = await self._run_now(execution, code, timeout, ask)
        except asyncio.CancelledError:
            why = execution.stopped or "the session has ended"
            outcome = ExecutionResult(status="interrupted", notice=f"Stopped before it began: {why}.")
        except CodeActError as error:
            outcome = error
        except Exception as error:
            logger.exception("session %s: an execution failed", self.id)
            outcome = SandboxError(f"the engine failed: {type(error).__name__}")
        self.touch()
        status = outcome.status if isinstance(outcome, ExecutionResult) else "failed"
        metrics.executions.labels(status).inc()
        execution.finish(outcome)

    @contextlib.asynccontextmanager
    async def _slot(self, began: float) -> AsyncIterator[None]:
        """One of those that the engine gives out; waiting for it counts with waiting for the session."""
        limit = self._shared.options.max_wait
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(max(0.0, limit - (time.monotonic() - began))):
                    tenant = self.tenant
                    slot = self._shared.gate.slot(tenant.owner, tenant.id, tenant.max_executions)
                    await stack.enter_async_context(slot)
            except TimeoutError as error:
                raise full("wait", f"no execution slot was free for {limit:g} seconds") from error
            yield

    async def _run_now(
        self, execution: Execution, code: str, timeout: float | None, ask: float
    ) -> ExecutionResult | CodeActError:
        running.set(execution)  # for this task: calls of host tools find their way by it
        began = time.monotonic()
        self._current = execution
        self._count += 1
        questions: list[asyncio.Task[None]] = []
        execution.begin()
        try:
            items = self.inner.execute(code, timeout=timeout, ask=ask)
            async with aclosing(items):  # type: ignore[type-var]
                async for item in items:
                    match item:
                        case ExecutionResult():
                            return bounded(item, self._shared.options.max_output)
                        case Question():
                            questions.append(asyncio.create_task(self._ask(execution, item)))
                        case HostCall():
                            pass  # the client has answered it, and knows
                        case _:
                            execution.output(item)
        except SessionClosed as error:
            return self.ended(error)
        finally:
            for question in questions:
                question.cancel()
            self._current = None
            self._busy += time.monotonic() - began
            self._shared.metrics.run.observe(time.monotonic() - began)
        return SandboxError("the execution ended without a result")

    async def _ask(self, execution: Execution, question: Question) -> None:
        """Have the client ask a person what ``input()`` wants to know."""
        asked: dict[str, object] = {"prompt": question.prompt, "password": question.password}
        try:
            typed = await execution.ask(api.INPUT, asked)
        except ToolError:
            typed = None
        self.inner.answer(question.id, Answer(text=typed if isinstance(typed, str) else None))

    def find(self, id: str) -> Execution:
        found = self._executions.get(id)
        if found is None:
            raise not_found(f"there is no execution {id!r}, or its events are not kept any more")
        return found

    def _forget(self) -> None:
        """Let go of the events of old executions."""
        keep = self._shared.options.keep
        ended = [e for e in self._executions.values() if e.ended_at is not None]
        spare = len(self._executions) - _REMEMBERED + 1
        for number, execution in enumerate(ended):
            assert execution.ended_at is not None
            if number < spare or time.monotonic() - execution.ended_at > keep:
                del self._executions[execution.id]

    def tidy(self) -> None:
        self._forget()

    async def interrupt(self, id: str | None = None, why: str = "it was interrupted") -> str | None:
        """Stop that execution, or the one that runs or is about to; which one it was, None where there is none."""
        execution = self._executions.get(id) if id else self._current or self._next()
        if execution is None or execution.ended.is_set():
            return None
        if execution is self._current:
            await self.inner.interrupt()
        elif not execution.begun:
            execution.stopped = why
            self._tasks[execution.id].cancel()
        return execution.id

    def wake(self) -> None:
        """Whoever waits for calls looks again."""
        self._called.set()

    async def interrupt_waiting(self, why: str) -> bool:
        """Give up one execution that has not begun. False where none waits."""
        waiting = [id for id in self._tasks if not self._executions[id].begun and not self._executions[id].stopped]
        return bool(waiting) and await self.interrupt(waiting[0], why) is not None

    def _next(self) -> Execution | None:
        return next((self._executions[id] for id in self._tasks), None)

    async def variables(self) -> tuple[Variable, ...]:
        """The live names; while code runs, as of the end of the execution before."""
        if self._tasks or self._lock.locked():
            return await self.inner.variables()
        async with self.alone() as inner:
            return await inner.variables()

    async def restart(self) -> None:
        """A fresh kernel with the next execution; what runs is stopped first."""
        await self.interrupt(why="the session was restarted")
        async with self.alone() as inner:
            await inner.restart()

    async def close(self, why: str) -> None:
        """End it; executions end with the reason."""
        self.gone = self.gone or why
        self._called.set()
        for id, execution in list(self._executions.items()):
            if not execution.begun and id in self._tasks:
                execution.stopped = why
                self._tasks[id].cancel()
        await self.inner.close()
        if self._tasks:
            await asyncio.wait(self.tasks, timeout=10)


def bounded(result: ExecutionResult, limit: int) -> ExecutionResult:
    """The result, without its largest displays where it is longer than ``limit`` as JSON."""
    characters = sum(map(_characters, result.outputs))
    if 12 * characters + 10_000 * len(result.outputs) < limit:  # as JSON, a character takes 12 bytes at most
        return result
    size = _bytes(result)
    if size <= limit:
        return result
    outputs = list(result.outputs)
    left_out = 0
    for output in sorted(outputs, key=_bytes, reverse=True):
        if size <= limit:
            break
        size -= _bytes(output)
        outputs.remove(output)
        left_out += 1
    notice = f"{left_out} outputs were left out: together they were over the engine's limit of {limit} bytes."
    return result.model_copy(
        update={"outputs": tuple(outputs), "notice": " ".join(filter(None, (result.notice, notice)))}
    )


def _characters(output: Output) -> int:
    match output:
        case StreamOutput():
            return len(output.text)
        case DisplayOutput():
            return sum(len(mime) + len(data) for mime, data in output.data.items())
        case ErrorOutput():
            return len(output.name) + len(output.message) + sum(map(len, output.traceback))
        case _:
            assert_never(output)


def _bytes(value: Value) -> int:
    """As JSON."""
    return len(value.model_dump_json().encode())
