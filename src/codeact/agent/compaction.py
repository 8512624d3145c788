"""Before the model is asked: what no longer fits its window is left out, old turns for notes that the model makes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

from codeact import events
from codeact.budget import Meter
from codeact.context import Context, Plan
from codeact.context.summary import summary_problem, summary_text
from codeact.contracts import (
    ActionFormat,
    Finish,
    Model,
    ModelChunk,
    ModelRequest,
    Restart,
    Session,
    TextDelta,
    TokenCounter,
    Usage,
    UsageReport,
    Variable,
)
from codeact.errors import ModelError, SandboxError
from codeact.events import Event
from codeact.models.estimate import estimate_usage

NextChunk = Callable[[AsyncIterator[ModelChunk]], Awaitable[ModelChunk | None]]

_STEPS = 3  # a step may leave too much where notes came out longer than expected


class Compaction:
    """Makes the prompt of the next turn fit. ``next_chunk`` gives None at the end, and when the run is ``stopped``."""

    def __init__(
        self,
        context: Context,
        model: Model,
        session: Session,
        format: ActionFormat,
        meter: Meter,
        next_chunk: NextChunk,
        stopped: Callable[[], bool],
    ) -> None:
        self.context = context
        self.model = model
        self.session = session
        self.format = format
        self.meter = meter
        self.next_chunk = next_chunk
        self.stopped = stopped

    async def play(self, history: Sequence[Event]) -> AsyncGenerator[Event]:
        """What is left out, as events that the caller adds to ``history`` as they come.

        Raises ContextOverflow where not even the system prompt fits. Where a summary fails, turns are left out without
        one, and a notice tells so.
        """
        asked = False
        for _ in range(_STEPS):
            await self._count(history)
            plan = self.context.plan(history)
            if plan is None:
                return
            summary, usage, problem = None, Usage(), None
            if plan.request is not None and not asked:
                asked = True
                summary, usage, problem = await self._summary(plan, plan.request)
                if self.stopped():
                    return  # the next run asks again
            if problem is not None:
                yield events.Notice(text=f"Old turns are left out without notes on them: {problem}.")
            variables = await self._variables() if plan.loses_turns else ()
            yield plan.event(variables, summary, usage=usage)

    async def _count(self, history: Sequence[Event]) -> None:
        """Ask the server's tokenizer about what only an estimate is known of, where it has one."""
        if isinstance(self.model, TokenCounter) and (texts := self.context.uncounted(history)):
            counts = await self.model.count_tokens(texts)
            if counts is not None:
                self.context.learn(dict(zip(texts, counts, strict=True)))

    async def _variables(self) -> tuple[Variable, ...]:
        try:
            return await self.session.variables()
        except SandboxError:
            return ()  # the next execution tells what became of the kernel

    async def _summary(self, plan: Plan, request: ModelRequest) -> tuple[str | None, Usage, str | None]:
        """The notes, what they cost, and why there are none."""
        written: list[str] = []
        usage: Usage | None = None
        finish: Finish | None = None
        problem: str | None = None
        started = time.monotonic()
        stream = self.model.stream(request)
        try:
            while (chunk := await self.next_chunk(stream)) is not None:
                match chunk:
                    case TextDelta():
                        written.append(chunk.text)
                    case Restart():
                        written.clear()
                    case UsageReport():
                        usage = chunk.usage
                    case Finish():
                        finish = chunk
                    case _:
                        pass
        except ModelError as error:
            problem = f"asking for a summary failed ({error})"
        finally:
            if isinstance(stream, AsyncGenerator):
                with contextlib.suppress(ModelError):
                    await stream.aclose()
            self.meter.model_time += time.monotonic() - started
        if usage is None and (written or finish):
            usage = estimate_usage(request, written)
        usage = usage or Usage()
        self.meter.usage += usage
        if problem is None:
            text, cut_short = summary_text("".join(written)), finish is not None and finish.reason == "length"
            if wrong := summary_problem(text, self.format, longest=plan.longest, cut_short=cut_short):
                problem = f"asking for a summary failed: {wrong}"
        return (None if problem else text), usage, problem
