"""The agent: a model writes Python, a session runs it, the model reads what happened, until it answers.

This file is the whole loop. What a prompt looks like is in ``formats`` and ``context``, what the model reads of an
execution in ``observation``, where code runs in ``sandbox``; the loop knows them by the contracts only.

Source of the idea: "Executable Code Actions Elicit Better LLM Agents", Wang et al., ICML 2024, arXiv 2402.01030.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, assert_never

from codeact import contracts, events, sync
from codeact.budget import Budget, Meter
from codeact.context import Context
from codeact.contracts import ExecutionResult, HostTool, Model, Reply, Sandbox, Session, Usage
from codeact.errors import ContextOverflow, ModelError, SandboxError, UsageError
from codeact.events import Event
from codeact.formats import DROPPED_NOTICE, format_for_model, get_format
from codeact.models import open_model
from codeact.models.estimate import estimate_usage
from codeact.models.prices import price
from codeact.observation import render
from codeact.results import BestOf, RunResult
from codeact.sandbox import Sandbox as open_sandbox

T = TypeVar("T")

Check = Callable[[RunResult, Session], bool | Awaitable[bool]]
"""Whether a continuation is good: told how it ended, and free to look at its session."""

SAME_ERROR = 3
"""How many times in a row the same error must come before the model is told that it goes in circles."""


class Agent:
    """A model, a sandbox and how they talk. ``model`` and ``sandbox`` may be names; what the agent opens, it closes.

    ``format``: ``tags``, ``fences`` or ``tool_call``; None: what the model is known for. ``instructions`` are added to
    the system prompt. ``tools`` are functions of this process that the code can call (see ``codeact.tool``).
    ``observation_limit``: characters of output that the model reads of one execution.
    """

    def __init__(
        self,
        model: Model | str | None = None,
        *,
        sandbox: Sandbox | str = "local",
        format: str | None = None,
        budget: Budget | None = None,
        instructions: str = "",
        tools: Sequence[HostTool] = (),
        timeout: float | None = None,
        observation_limit: int = 4000,
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> None:
        self.model = model
        self.sandbox = sandbox
        self.format = format
        self.budget = budget or Budget()
        self.instructions = instructions
        self.tools = tuple(tools)
        self.timeout = timeout
        self.observation_limit = observation_limit
        self.max_tokens = max_tokens
        self.temperature = temperature

    def conversation(self) -> Conversation:
        """A conversation whose kernel and history live from message to message: ``async with`` it."""
        return Conversation(self)

    async def stream(self, task: str, files: Sequence[str | Path] = ()) -> AsyncGenerator[Event]:
        """Solve one task in a fresh session, telling everything as it happens. The last event is RunFinished."""
        async with self.conversation() as conversation, contextlib.aclosing(conversation.send(task, files)) as told:
            async for event in told:
                yield event

    async def arun(self, task: str, files: Sequence[str | Path] = ()) -> RunResult:
        """Solve one task in a fresh session.

        Raises UsageError, ModelError or SandboxError where it cannot begin; what breaks later is in the result.
        """
        return RunResult.of([event async for event in self.stream(task, files)])

    def run(self, task: str, files: Sequence[str | Path] = ()) -> RunResult:
        """``arun`` for ordinary code."""
        return sync.wait_for(self.arun(task, files))

    async def abest_of(self, n: int, check: Check, task: str, files: Sequence[str | Path] = ()) -> BestOf:
        """Solve one task ``n`` times in parallel, in forks of one fresh session; see ``Conversation.best_of``."""
        async with self.conversation() as conversation:
            return await conversation.best_of(n, check, task, files)

    def best_of(self, n: int, check: Check, task: str, files: Sequence[str | Path] = ()) -> BestOf:
        """``abest_of`` for ordinary code."""
        return sync.wait_for(self.abest_of(n, check, task, files))


class Conversation:
    """One session and the history over it. ``events`` is the history, live events left out."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.events: list[Event] = []
        self.model: Model
        self.session: Session
        self.sandbox: Sandbox
        self._stack = contextlib.AsyncExitStack()
        self.context: Context
        self.format: contracts.ActionFormat
        self.lenient = True
        self.cancelled = False
        self.waiting: asyncio.Timeout | None = None
        self.running_code = False
        self.branches: list[Conversation] = []  # continuations under way, see best_of

    async def __aenter__(self) -> Conversation:
        agent = self.agent
        async with contextlib.AsyncExitStack() as stack:
            self.model = agent.model if isinstance(agent.model, Model) else await open_model(agent.model)
            if self.model is not agent.model:
                stack.push_async_callback(self.model.close)
            self.format = get_format(agent.format or format_for_model(self.model.name))
            self.sandbox = open_sandbox(agent.sandbox) if isinstance(agent.sandbox, str) else agent.sandbox
            if self.sandbox is not agent.sandbox:
                stack.push_async_callback(self.sandbox.close)
            self.session = await self.sandbox.session(tools=agent.tools)
            stack.push_async_callback(self.session.close)
            self.context = Context(
                self.format, self.model.context_window, max_images=4 if self.model.accepts_images else 0
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def cancel(self) -> None:
        """End the run that is under way: stops the model's stream, interrupts the code. Its last event tells so."""
        self.cancelled = True
        for branch in self.branches:
            branch.cancel()
        if self.running_code:
            self.stop_code()
        elif self.waiting is not None:
            self.waiting.reschedule(0)

    def stop_code(self) -> None:
        """Interrupt the code that runs; its result tells so."""
        self._interrupting = asyncio.ensure_future(self.session.interrupt())
        self._interrupting.add_done_callback(lambda done: done.cancelled() or done.exception())  # the code's end tells

    async def send(self, message: str, files: Sequence[str | Path] = ()) -> AsyncGenerator[Event]:
        """Give the agent a message and yield everything that happens up to its answer, RunFinished last.

        ``files`` of this machine are put into the workspace first. Raises UsageError for an empty message or a file
        that cannot be read, FileTransferError for one that the workspace does not take; whatever breaks later ends the
        run with an event that says so.
        """
        if not message.strip():
            raise UsageError("the task is empty: say what is to be done")
        run = _Run(self)
        self.cancelled = False
        names = await self._put_files(files)
        try:
            async with contextlib.aclosing(run.play(message, names)) as told:
                async for event in told:
                    if not isinstance(event, events.LIVE):
                        self.events.append(event)
                    yield event
        except (GeneratorExit, asyncio.CancelledError):
            self.events.append(run.meter.cancelled())
            raise

    async def best_of(self, n: int, check: Check, message: str, files: Sequence[str | Path] = ()) -> BestOf:
        """Give the agent a message ``n`` times in parallel, each in a fork of the session; go on as the best.

        That is the first, in order, that ``check`` passes: its session and history become the conversation's. Where
        none passes, the conversation stays as it was. The continuations differ by what the model says: give the agent
        a ``temperature``. Raises as ``send`` does, and SandboxError where the session cannot be forked.
        """
        if n < 1:
            raise UsageError("best_of needs at least one continuation")
        before, best = tuple(self.events), None
        self.branches = [self._branch(session) for session in await self.session.forks(n)]
        try:
            results = await _together(branch._collect(message, files) for branch in self.branches)
            pairs = zip(results, self.branches, strict=True)
            passed = await _together(_checked(check, result, branch.session) for result, branch in pairs)
            if any(passed):
                best = passed.index(True)
                chosen = self.branches.pop(best)
                self._stack.push_async_callback(chosen.session.close)
                old, self.session, self.events = self.session, chosen.session, chosen.events
                self.context, self.lenient = chosen.context, chosen.lenient
                await old.close()
        finally:
            left, self.branches = self.branches, []
            await asyncio.gather(*(branch.session.close() for branch in left))
        return BestOf(results=tuple(results), passed=tuple(passed), best=best, before=before)

    def _branch(self, session: Session) -> Conversation:
        """A conversation that goes on from here in that session."""
        branch = Conversation(self.agent)
        branch.model, branch.sandbox, branch.session = self.model, self.sandbox, session
        branch.format, branch.context, branch.lenient = self.format, copy.deepcopy(self.context), self.lenient
        branch.events = list(self.events)
        return branch

    async def _collect(self, message: str, files: Sequence[str | Path]) -> RunResult:
        return RunResult.of([event async for event in self.send(message, files)])

    async def _put_files(self, files: Sequence[str | Path]) -> tuple[str, ...]:
        names: list[str] = []
        for path in map(Path, files):
            if path.name in names:
                raise UsageError(f"two files are called {path.name}; rename one")
            if path.exists() and not path.is_file():
                raise UsageError(f"{path} is not a plain file")
            try:
                with path.open("rb") as file:
                    await self.session.put(path.name, file)
            except OSError as error:
                raise UsageError(f"cannot read the file {path}: {error.strerror}") from error
            names.append(path.name)
        return tuple(names)


async def _together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All of them at once; where one fails, the others are ended first."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _checked(check: Check, result: RunResult, session: Session) -> bool:
    verdict = check(result, session)
    return bool(await verdict if inspect.isawaitable(verdict) else verdict)


class _Run:
    """One message of the user and the turns that answer it."""

    def __init__(self, conversation: Conversation) -> None:
        self.of = conversation
        self.meter = Meter(conversation.agent.budget, price(conversation.model.name))
        self.errors: list[tuple[str, str]] = []
        self.reply: Reply | None = None

    async def play(self, task: str, files: tuple[str, ...]) -> AsyncGenerator[Event]:
        of, meter = self.of, self.meter
        environment = "\n".join(t for t in (of.session.description, of.agent.instructions) if t)
        yield events.RunStarted(
            task=task,
            files=files,
            model=of.model.name,
            format=of.format.name,
            sandbox=of.sandbox.name,
            prompt=of.format.system_prompt(environment),
        )
        try:
            while (over := self._stopped() or meter.over()) is None:
                meter.turns += 1
                yield events.TurnStarted(turn=meter.turns)
                async with contextlib.aclosing(self._ask_model()) as told:
                    async for event in told:
                        yield event
                reply = self.reply
                if reply is None:
                    continue  # stopped in mid-reply: the budget or a cancel ends the run
                if reply.problem and not reply.code:
                    yield events.Observed(turn=meter.turns, text=reply.problem)  # nothing to run: ask again
                elif reply.code is None:
                    yield meter.end("answered", answer=reply.answer)
                    return
                elif (over := meter.over_executions()) is not None:
                    break
                else:
                    async with contextlib.aclosing(self._run_code(reply, reply.code)) as told:
                        async for event in told:
                            yield event
            yield over
        except ModelError as error:
            yield meter.end("model_error", message=str(error))
        except SandboxError as error:
            yield meter.end("sandbox_error", message=str(error))
        except Exception as error:  # a mistake, not a failure: the record says so, and it is raised all the same
            yield meter.end("error", message=f"{type(error).__name__}: {error}")
            raise

    def _stopped(self) -> events.RunFinished | None:
        return self.meter.cancelled() if self.of.cancelled else None

    # --- the model's part of a turn ---

    async def _ask_model(self) -> AsyncGenerator[Event]:
        """One reply, cut at its first action. ``self.reply`` is None when the run was stopped meanwhile."""
        for last_try in (False, True):
            try:
                async with contextlib.aclosing(self._one_reply()) as told:
                    async for event in told:
                        yield event
                return
            except ContextOverflow as error:
                if last_try:
                    raise
                self.of.context.shrink(error)
                yield events.Notice(text=f"The prompt did not fit the model's window and is cut: {error}")

    async def _one_reply(self) -> AsyncGenerator[Event]:
        of, agent = self.of, self.of.agent
        self.reply = None
        request = contracts.ModelRequest(
            messages=of.context.messages(of.events),
            stop=of.format.stop,
            tools=of.format.tools,
            max_tokens=agent.max_tokens,
            temperature=agent.temperature,
        )
        parser = of.format.parser(lenient=of.lenient)
        usage: Usage | None = None
        cut_short = False
        written: list[str] = []
        started = time.monotonic()
        stream = of.model.stream(request)
        try:
            while not parser.complete and (chunk := await self._next_chunk(stream)) is not None:
                match chunk:
                    case contracts.TextDelta() | contracts.ToolCallDelta():
                        written.append(chunk.text if isinstance(chunk, contracts.TextDelta) else chunk.arguments)
                        for delta in parser.feed(chunk):
                            yield events.ModelDelta(kind=delta.kind, text=delta.text)
                    case contracts.Restart(reason=reason):
                        parser, written = of.format.parser(lenient=of.lenient), []
                        yield events.ModelRestarted(reason=reason)
                    case contracts.UsageReport():
                        usage = chunk.usage
                    case contracts.Finish(reason=reason):
                        cut_short = reason == "length"
                    case _:
                        assert_never(chunk)
        finally:
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()
            duration = time.monotonic() - started
            self.meter.model_time += duration
        # a stream that was cut did not come to the server's own count
        usage = usage or estimate_usage(request, written)
        self.meter.usage += usage
        if of.cancelled or self.meter.seconds_left == 0:
            return
        self.reply = parser.finish()
        if self.reply.code and not self.reply.neighbouring:
            of.lenient = False  # it knows the form: fences in its answers are text from now on
        yield events.ModelReplied(turn=self.meter.turns, reply=self.reply, usage=usage, duration=duration)
        if cut_short:
            yield events.Notice(text="The reply was cut off at the greatest length allowed.", to_model=True)

    async def _next_chunk(self, stream: AsyncIterator[contracts.ModelChunk]) -> contracts.ModelChunk | None:
        """The next chunk, or None at the end, when cancelled, or when the time is up."""
        if self.of.cancelled:
            return None
        try:
            async with asyncio.timeout(self.meter.seconds_left) as self.of.waiting:
                return await anext(stream)
        except (StopAsyncIteration, TimeoutError):
            return None
        finally:
            self.of.waiting = None

    # --- the sandbox's part of a turn ---

    async def _run_code(self, reply: Reply, code: str) -> AsyncGenerator[Event]:
        of, turn = self.of, self.meter.turns
        yield events.ExecutionStarted(turn=turn, code=code)
        if of.cancelled:
            return  # by whoever was just told
        self.meter.executions += 1
        result: ExecutionResult | None = None
        stream = of.session.execute(code, timeout=of.agent.timeout)
        of.running_code = True
        left = self.meter.seconds_left
        alarm = None if left is None else asyncio.get_running_loop().call_later(left, of.stop_code)
        try:
            async for item in stream:
                if isinstance(item, ExecutionResult):
                    result = item
                else:
                    yield events.ExecutionOutput(output=item)
        finally:
            of.running_code = False
            if alarm is not None:
                alarm.cancel()
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()
        if result is None:
            raise SandboxError("the execution ended without a result")
        self.meter.code_time += result.duration
        yield events.ExecutionFinished(turn=turn, result=result)
        seen = render(result, limit=of.agent.observation_limit)
        notes = (seen.text, reply.problem, DROPPED_NOTICE if reply.dropped else None, self._in_circles(result))
        yield events.Observed(turn=turn, text="\n".join(note for note in notes if note), images=seen.images)

    def _in_circles(self, result: ExecutionResult) -> str | None:
        """A word to the model where the same error has come SAME_ERROR times in a row."""
        if result.error is None:
            self.errors.clear()
            return None
        self.errors.append((result.error.name, result.error.message))
        last = self.errors[-SAME_ERROR:]
        if len(last) < SAME_ERROR or len(set(last)) > 1:
            return None
        return (
            f"The same error ({result.error.name}) has now come {SAME_ERROR} times in a row: you are in a loop. "
            "Do not send the same code again; find out why it fails, or go another way."
        )
