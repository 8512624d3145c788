"""The loop: a model writes Python, a session runs it, the model reads what happened, until it answers.

This file is the whole of it. What a prompt looks like is in ``formats`` and ``context``, what the model reads of an
execution in ``observation``, where code runs in ``sandbox``; the loop knows them by the contracts only.

Source of the idea: "Executable Code Actions Elicit Better LLM Agents", Wang et al., ICML 2024, arXiv 2402.01030.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import assert_never

from codeact import contracts, events
from codeact.agent.compaction import Compaction
from codeact.agent.options import Options
from codeact.agent.person import Alarm, Person
from codeact.budget import Meter
from codeact.context import Context
from codeact.contracts import ActionFormat, ExecutionResult, Model, Reply, Sandbox, Session, Usage
from codeact.errors import ContextOverflow, ModelError, SandboxError
from codeact.events import Event
from codeact.formats import DROPPED_NOTICE
from codeact.models.estimate import estimate_usage
from codeact.models.prices import price
from codeact.observation import render

SAME_ERROR = 3
"""How many times in a row the same error must come before the model is told that it goes in circles."""


class State:
    """What the loop works on. ``model``, ``session`` and what follows from them are set by whoever opens them."""

    model: Model
    session: Session
    sandbox: Sandbox
    format: ActionFormat
    context: Context

    def __init__(self, agent: Options) -> None:
        self.agent = agent
        self.events: list[Event] = []
        self.lenient = True
        self.cancelled = False
        self.waiting: asyncio.Timeout | None = None
        self.running_code = False

    def stop_code(self) -> None:
        """Interrupt the code that runs; its result tells so."""
        self._interrupting = asyncio.ensure_future(self.session.interrupt())
        self._interrupting.add_done_callback(lambda done: done.cancelled() or done.exception())  # the code's end tells


class Run:
    """One message of the user and the turns that answer it."""

    def __init__(self, conversation: State) -> None:
        self.of = conversation
        self.meter = Meter(conversation.agent.budget, price(conversation.model.name))
        self.id = secrets.token_hex(8)
        self.errors: list[tuple[str, str]] = []
        self.reply: Reply | None = None

    async def play(self, task: str, given: tuple[events.GivenFile, ...]) -> AsyncGenerator[Event]:
        of, meter = self.of, self.meter
        environment = "\n".join(t for t in (of.session.description, of.agent.instructions) if t)
        yield events.RunStarted(
            task=task,
            files=tuple(file.name for file in given),
            given=given,
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
        of = self.of
        parts = (of.context, of.model, of.session, of.format, self.meter)
        compaction = Compaction(*parts, self._next_chunk, lambda: of.cancelled or self.meter.seconds_left == 0)
        for last_try in (False, True):
            async with contextlib.aclosing(compaction.play(of.events)) as cuts:
                async for event in cuts:
                    yield event
            try:
                async with contextlib.aclosing(self._one_reply()) as told:
                    async for event in told:
                        yield event
                return
            except ContextOverflow as error:
                if last_try or not of.context.shrink(error):
                    raise
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
        person = Person(of.agent.ask, of.agent.ask_limit, of.session.answer)
        stream = of.session.execute(code, timeout=of.agent.timeout, ask=person.patience, run=self.id)
        of.running_code = True
        alarm = Alarm(self.meter, of.stop_code)
        try:
            async for item in stream:
                match item:
                    case ExecutionResult():
                        result = item
                    case contracts.Question():
                        alarm.hold(item.id)
                        yield events.Asked(turn=turn, question=item)
                        person.ask(item)
                    case contracts.HostCall():
                        person.answered(item.id)
                        alarm.go_on(item.id, item.waited)
                        yield events.ToolCalled(turn=turn, **item.model_dump(exclude={"type"}))
                    case _:
                        yield events.ExecutionOutput(output=item)
        finally:
            of.running_code = False
            alarm.cancel()
            await person.leave()
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
