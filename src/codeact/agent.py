"""The agent: a model writes Python, a session runs it, the model reads what happened, until it answers.

This file is the whole loop. What a prompt looks like is in ``formats`` and ``context``, what the model reads of an
execution in ``observation``, where code runs in ``sandbox``; the loop knows them by the contracts only.

Source of the idea: "Executable Code Actions Elicit Better LLM Agents", Wang et al., ICML 2024, arXiv 2402.01030.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType

from codeact import contracts, events, sync
from codeact.context import Context, estimate_tokens
from codeact.contracts import ExecutionResult, HostTool, Model, Reply, Sandbox, Session, Usage
from codeact.errors import ContextOverflow, ModelError, SandboxError, UsageError
from codeact.events import EndReason, Event
from codeact.formats import DROPPED_NOTICE, format_for_model, get_format
from codeact.models import open_model
from codeact.models.prices import price
from codeact.observation import render
from codeact.sandbox import Sandbox as open_sandbox

SAME_ERROR = 3
"""How many times in a row the same error must come before the model is told that it goes in circles."""


class Budget(contracts.Value):
    """What one run may use; None is no limit. ``seconds`` of wall time, ``cost`` in US dollars (known prices only)."""

    turns: int | None = 20
    executions: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    cost: float | None = None


class RunResult(contracts.Value):
    """How a run ended. ``events`` holds all that happened; ``end`` the last of them, with usage, cost and times."""

    answer: str | None
    reason: EndReason
    message: str
    end: events.RunFinished
    events: tuple[Event, ...]


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
        """Solve one task in a fresh session. Raises UsageError before anything runs; see ``RunResult`` for the rest."""
        seen = [event async for event in self.stream(task, files)]
        end = seen[-1]
        assert isinstance(end, events.RunFinished)
        return RunResult(answer=end.answer, reason=end.reason, message=end.message, end=end, events=tuple(seen))

    def run(self, task: str, files: Sequence[str | Path] = ()) -> RunResult:
        """``arun`` for ordinary code."""
        return sync.wait_for(self.arun(task, files))


class Conversation:
    """One session and the history over it. ``events`` is the history, live events left out."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.events: list[Event] = []
        self.model: Model
        self.session: Session
        self.sandbox: Sandbox
        self._stack = contextlib.AsyncExitStack()
        self._context: Context
        self._format: contracts.ActionFormat
        self._lenient = True
        self._cancelled = False
        self._scope: asyncio.Timeout | None = None
        self._running_code = False

    async def __aenter__(self) -> Conversation:
        agent = self.agent
        async with contextlib.AsyncExitStack() as stack:
            self.model = agent.model if isinstance(agent.model, Model) else await open_model(agent.model)
            if self.model is not agent.model:
                stack.push_async_callback(self.model.close)
            self._format = get_format(agent.format or format_for_model(self.model.name))
            self.sandbox = open_sandbox(agent.sandbox) if isinstance(agent.sandbox, str) else agent.sandbox
            if self.sandbox is not agent.sandbox:
                stack.push_async_callback(self.sandbox.close)
            self.session = await self.sandbox.session(tools=agent.tools)
            stack.push_async_callback(self.session.close)
            self._context = Context(
                self._format, self.model.context_window, max_images=4 if self.model.accepts_images else 0
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def cancel(self) -> None:
        """End the run that is under way: stops the model's stream, interrupts the code. Its last event tells so."""
        self._cancelled = True
        if self._running_code:
            self._interrupting = asyncio.ensure_future(self.session.interrupt())
        elif self._scope is not None:
            self._scope.reschedule(0)

    async def send(self, message: str, files: Sequence[str | Path] = ()) -> AsyncGenerator[Event]:
        """Give the agent a message and yield everything that happens up to its answer, RunFinished last.

        ``files`` of this machine are put into the workspace first. Raises UsageError for an empty message or a file
        that cannot be read; whatever breaks later ends the run with an event that says so.
        """
        if not message.strip():
            raise UsageError("the task is empty: say what is to be done")
        run = _Run(self)
        self._cancelled = False
        names = await self._put_files(files)
        try:
            async with contextlib.aclosing(run.play(message, names)) as told:
                async for event in told:
                    if not isinstance(event, events.LIVE):
                        self.events.append(event)
                    yield event
        except (GeneratorExit, asyncio.CancelledError):
            self.events.append(run.end("cancelled", message="the run was cancelled"))
            raise

    async def _put_files(self, files: Sequence[str | Path]) -> tuple[str, ...]:
        names: list[str] = []
        for path in map(Path, files):
            if path.name in names:
                raise UsageError(f"two files are called {path.name}; rename one")
            try:
                with path.open("rb") as file:
                    await self.session.put(path.name, file)
            except OSError as error:
                raise UsageError(f"cannot read the file {path}: {error.strerror}") from error
            names.append(path.name)
        return tuple(names)


class _Run:
    """One message of the user and the turns that answer it."""

    def __init__(self, conversation: Conversation) -> None:
        self.of = conversation
        self.budget = conversation.agent.budget
        self.started = time.monotonic()
        self.turn = 0
        self.executions = 0
        self.usage = Usage()
        self.model_time = 0.0
        self.code_time = 0.0
        self.errors: list[tuple[str, str]] = []
        self.reply: Reply | None = None
        self.result: ExecutionResult | None = None

    async def play(self, task: str, files: tuple[str, ...]) -> AsyncGenerator[Event]:
        of = self.of
        environment = "\n".join(t for t in (of.session.description, of.agent.instructions) if t)
        yield events.RunStarted(
            task=task,
            files=files,
            model=of.model.name,
            format=of._format.name,
            sandbox=of.sandbox.name,
            prompt=of._format.system_prompt(environment),
        )
        try:
            while True:
                if (over := self._over_budget()) is not None:
                    yield over
                    return
                self.turn += 1
                yield events.TurnStarted(turn=self.turn)
                async for event in self._ask_model():
                    yield event
                if self.reply is None:
                    yield self._stopped()
                    return
                if self.reply.problem and not self.reply.code:
                    yield events.Observed(turn=self.turn, text=self.reply.problem)  # nothing to run: ask again
                    continue
                if self.reply.answer is not None:
                    yield self.end("answered", answer=self.reply.answer)
                    return
                async for event in self._run_code(self.reply):
                    yield event
                if of._cancelled:
                    yield self._stopped()
                    return
        except ModelError as error:
            yield self.end("model_error", message=str(error))
        except SandboxError as error:
            yield self.end("sandbox_error", message=str(error))

    # --- the model's part of a turn ---

    async def _ask_model(self) -> AsyncIterator[Event]:
        """One reply, cut at its first action. ``self.reply`` is None when the run was stopped meanwhile."""
        self.reply = None
        for attempt in (1, 2):
            try:
                async for event in self._one_reply():
                    yield event
                return
            except ContextOverflow as error:
                if attempt == 2:
                    raise
                self.of._context.shrink(error)
                yield events.Notice(text=f"The prompt did not fit the model's window and is cut: {error}")

    async def _one_reply(self) -> AsyncIterator[Event]:
        of = self.of
        agent = of.agent
        request = contracts.ModelRequest(
            messages=of._context.messages(of.events),
            stop=of._format.stop,
            tools=of._format.tools,
            max_tokens=agent.max_tokens,
            temperature=agent.temperature,
        )
        parser = of._format.parser(lenient=of._lenient)
        usage: Usage | None = None
        written = 0
        started = time.monotonic()
        stream = of.model.stream(request)
        try:
            while not parser.complete:
                chunk = await self._next_chunk(stream)
                if chunk is None:
                    break
                match chunk:
                    case contracts.TextDelta() | contracts.ToolCallDelta():
                        written += estimate_tokens(getattr(chunk, "text", "") or getattr(chunk, "arguments", ""))
                        for delta in parser.feed(chunk):
                            yield events.ModelDelta(kind=delta.kind, text=delta.text)
                    case contracts.Restart(reason=reason):
                        parser, written = of._format.parser(lenient=of._lenient), 0
                        yield events.ModelRestarted(reason=reason)
                    case contracts.UsageReport():
                        usage = chunk.usage
                    case contracts.Finish():
                        pass
        finally:
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()
            self.model_time += time.monotonic() - started
        if self._out_of_time() or of._cancelled:
            return
        self.reply = parser.finish()
        if usage is None:  # the stream was closed before the server's count came
            prompt = sum(estimate_tokens(message.text) for message in request.messages)
            usage = Usage(prompt_tokens=prompt, completion_tokens=written, estimated=True)
        self.usage += usage
        of._lenient = of._lenient and self.reply.code is None
        yield events.ModelReplied(turn=self.turn, reply=self.reply, usage=usage, duration=time.monotonic() - started)

    async def _next_chunk(self, stream: AsyncIterator[contracts.ModelChunk]) -> contracts.ModelChunk | None:
        """The next chunk, or None at the end, when cancelled, or when the time is up."""
        of = self.of
        if of._cancelled:
            return None
        limit = None if self.budget.seconds is None else self.budget.seconds - (time.monotonic() - self.started)
        try:
            async with asyncio.timeout(limit) as of._scope:
                return await anext(stream)
        except (StopAsyncIteration, TimeoutError):
            return None
        finally:
            of._scope = None

    # --- the sandbox's part of a turn ---

    async def _run_code(self, reply: Reply) -> AsyncIterator[Event]:
        of = self.of
        assert reply.code is not None
        self.executions += 1
        yield events.ExecutionStarted(turn=self.turn, code=reply.code)
        self.result = None
        of._running_code = True
        stream = of.session.execute(reply.code, timeout=self._time_for_code())
        try:
            async for item in stream:
                if isinstance(item, ExecutionResult):
                    self.result = item
                else:
                    yield events.ExecutionOutput(output=item)
        finally:
            of._running_code = False
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()
        if self.result is None:
            raise SandboxError("the execution ended without a result")
        self.code_time += self.result.duration
        yield events.ExecutionFinished(turn=self.turn, result=self.result)
        seen = render(self.result, limit=of.agent.observation_limit)
        notes = [seen.text, reply.problem, DROPPED_NOTICE if reply.dropped else None, self._going_in_circles()]
        text = "\n".join(note for note in notes if note)
        yield events.Observed(turn=self.turn, text=text, images=seen.images)

    def _time_for_code(self) -> float | None:
        if self.budget.seconds is None:
            return self.of.agent.timeout
        left = max(0.1, self.budget.seconds - (time.monotonic() - self.started))
        return min(left, self.of.agent.timeout or left)

    def _going_in_circles(self) -> str | None:
        """A word to the model where the same error has come SAME_ERROR times in a row."""
        error = self.result.error if self.result else None
        if error is None:
            self.errors.clear()
            return None
        self.errors.append((error.name, error.message))
        last = self.errors[-SAME_ERROR:]
        if len(last) < SAME_ERROR or len(set(last)) > 1:
            return None
        return (
            f"The same error ({error.name}) has now come {SAME_ERROR} times in a row: you are in a loop. "
            "Do not send the same code again; find out why it fails, or go another way."
        )

    # --- ends ---

    def _out_of_time(self) -> bool:
        return self.budget.seconds is not None and time.monotonic() - self.started >= self.budget.seconds

    def _cost(self) -> float | None:
        prices = price(self.of.model.name)
        if prices is None:
            return None
        return (self.usage.prompt_tokens * prices[0] + self.usage.completion_tokens * prices[1]) / 1e6

    def _over_budget(self) -> events.RunFinished | None:
        budget, cost = self.budget, self._cost()
        tokens = self.usage.prompt_tokens + self.usage.completion_tokens
        if budget.turns is not None and self.turn >= budget.turns:
            return self.end("turns", message=f"no answer after {self.turn} turns; allow more with --max-turns")
        if budget.executions is not None and self.executions >= budget.executions:
            return self.end("executions", message=f"no answer after {self.executions} executions")
        if budget.tokens is not None and tokens >= budget.tokens:
            return self.end("tokens", message=f"no answer after {tokens} tokens; {budget.tokens} were allowed")
        if budget.cost is not None and cost is not None and cost >= budget.cost:
            return self.end("cost", message=f"no answer after {cost:.4f} US dollars; {budget.cost} were allowed")
        return self._stopped() if self._out_of_time() else None

    def _stopped(self) -> events.RunFinished:
        if self.of._cancelled:
            return self.end("cancelled", message="the run was cancelled")
        return self.end("time", message=f"no answer after {self.budget.seconds:g} seconds")

    def end(self, reason: EndReason, *, answer: str | None = None, message: str = "") -> events.RunFinished:
        return events.RunFinished(
            reason=reason,
            answer=answer,
            message=message,
            turns=self.turn,
            executions=self.executions,
            usage=self.usage,
            cost=self._cost(),
            duration=time.monotonic() - self.started,
            model_time=self.model_time,
            code_time=self.code_time,
        )
