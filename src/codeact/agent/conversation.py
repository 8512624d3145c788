"""One session and the history over it, from message to message."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from codeact import events
from codeact.agent.loop import Run, State
from codeact.agent.options import Options
from codeact.context import Context
from codeact.contracts import Answer, HostTool, Model, Session
from codeact.errors import UsageError
from codeact.events import Event, GivenFile
from codeact.formats import format_for_model, get_format
from codeact.models import open_model
from codeact.models.replay import ReplayModel
from codeact.results import BestOf, RunResult
from codeact.sandbox import Sandbox as open_sandbox
from codeact.tools import Recording

T = TypeVar("T")

Check = Callable[[RunResult, Session], bool | Awaitable[bool]]
"""Whether a continuation is good: told how it ended, and free to look at its session."""


class Conversation(State):
    """One session and the history over it. ``events`` is the history, live events left out."""

    def __init__(self, agent: Options) -> None:
        super().__init__(agent)
        self._stack = contextlib.AsyncExitStack()
        self.branches: list[Conversation] = []  # continuations under way, see best_of

    async def __aenter__(self) -> Conversation:
        agent = self.agent
        async with contextlib.AsyncExitStack() as stack:
            given, window = agent.model, agent.context_window
            self.model = given if isinstance(given, Model) else await open_model(given, context_window=window)
            if self.model is not agent.model:
                stack.push_async_callback(self.model.close)
            self.format = get_format(agent.format or self._spoken() or format_for_model(self.model.name))
            self.sandbox = open_sandbox(agent.sandbox) if isinstance(agent.sandbox, str) else agent.sandbox
            if self.sandbox is not agent.sandbox:
                stack.push_async_callback(self.sandbox.close)
            self.session = await self.sandbox.session(tools=self._tools())
            stack.push_async_callback(self.session.close)
            self.context = Context(
                self.format,
                window or self.model.context_window,
                strategy=agent.context,
                max_images=4 if self.model.accepts_images else 0,
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _spoken(self) -> str | None:
        """The action format of the history, None where there is none."""
        starts = (event.format for event in reversed(self.events) if isinstance(event, events.RunStarted))
        return next(starts, None)

    def _tools(self) -> tuple[HostTool, ...]:
        """The tools that the code can call. A recorded model comes with the recorded results of the agent's tools."""
        calls = self.model.calls if isinstance(self.model, ReplayModel) else None
        if calls is None:
            return self.agent.tools
        had = sum(isinstance(event, events.ToolCalled) for event in self.events)
        return Recording(calls, self.agent.tools, skip=had).tools

    def cancel(self) -> None:
        """End the run that is under way: stops the model's stream, interrupts the code. Its last event tells so."""
        self.cancelled = True
        for branch in self.branches:
            branch.cancel()
        if self.running_code:
            self.stop_code()
        elif self.waiting is not None:
            self.waiting.reschedule(0)

    def answer(self, question: str, *, approved: bool = False, text: str | None = None) -> bool:
        """Answer the question with that id, of an Asked event: allow a call, or refuse it with ``text`` as the reason;
        or give ``text`` to ``input()``. False where the code does not wait for it any more.
        """
        told = Answer(approved=approved, text=text)
        return any(b.session.answer(question, told) for b in (self, *self.branches))

    async def send(self, message: str, files: Sequence[str | Path] = ()) -> AsyncGenerator[Event]:
        """Give the agent a message and yield everything that happens up to its answer, RunFinished last.

        ``files`` of this machine are put into the workspace first. Raises UsageError for an empty message or a file
        that cannot be read, FileTransferError for one that the workspace does not take; whatever breaks later ends the
        run with an event that says so.
        """
        if not message.strip():
            raise UsageError("the task is empty: say what is to be done")
        run = Run(self)
        self.cancelled = False
        given = await self._put_files(files)
        try:
            async with contextlib.aclosing(run.play(message, given)) as told:
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

    async def _put_files(self, files: Sequence[str | Path]) -> tuple[GivenFile, ...]:
        given: list[GivenFile] = []
        for path in map(Path, files):
            if any(file.name == path.name for file in given):
                raise UsageError(f"two files are called {path.name}; rename one")
            if path.exists() and not path.is_file():
                raise UsageError(f"{path} is not a plain file")
            try:
                with path.open("rb") as file:
                    digest = await asyncio.to_thread(hashlib.file_digest, file, "sha256")
                    size = file.tell()
                    file.seek(0)
                    await self.session.put(path.name, file)
            except OSError as error:
                raise UsageError(f"cannot read the file {path}: {error.strerror}") from error
            given.append(GivenFile(name=path.name, path=str(path.absolute()), size=size, sha256=digest.hexdigest()))
        return tuple(given)


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
