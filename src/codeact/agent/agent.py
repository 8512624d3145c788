"""An agent: the ways to give it a task."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Iterable, Sequence
from pathlib import Path

from codeact import sync
from codeact.agent.conversation import Check, Conversation
from codeact.agent.options import Options
from codeact.agent.resume import ResumedConversation, Skip, Watch
from codeact.events import Event
from codeact.results import BestOf, RunResult
from codeact.trajectory import Trajectory


class Agent(Options):
    """A model, a sandbox and how they talk. ``model`` and ``sandbox`` may be names; what the agent opens, it closes.

    ``format``: ``tags``, ``fences`` or ``tool_call``; None: what the model is known for. ``instructions`` are added to
    the system prompt. ``tools`` are functions of this process that the code can call (see ``codeact.tool``).
    ``ask``: who answers when a tool needs approval or the code calls ``input()``: a function that gets the Question, or
    ``"events"``, where the stream holds an Asked event and ``Conversation.answer`` answers it; None: nobody, and such
    code gets an exception at once. ``ask_limit``: seconds for each answer; no other limit counts them.
    ``observation_limit``: characters of output that the model reads of one execution. ``context``: what is done where
    the conversation fills the model's window: ``none``, ``truncate``, ``elide``, ``summarize`` or a function (see
    ``codeact.context``). ``context_window`` in tokens; None: what the model or its server says.
    """

    def conversation(self) -> Conversation:
        """A conversation whose kernel and history live from message to message: ``async with`` it."""
        return Conversation(self)

    def resume(
        self,
        recording: Trajectory | str | os.PathLike[str] | Iterable[Event],
        *,
        skip: Skip = (),
        files: Sequence[str | Path] = (),
        watch: Watch | None = None,
    ) -> ResumedConversation:
        """A recorded conversation that goes on: ``async with`` it, and its code is run again in a fresh session first.

        Host tools answer from the recording meanwhile. Cells with the line ``# codeact: outside effects`` are left out,
        and those that ``skip`` names or says yes to; each of the others has the time limit. ``files`` stand in for
        recorded ones of the same name that are gone or changed. ``watch(cell, cells)`` is called before each cell.
        ``resumed`` of the conversation then tells what came back, and the model reads it with the next message.

        Raises UsageError and TrajectoryError for a recording that cannot be resumed; entering raises as
        ``conversation`` does. Not repeated and not compared: what values the names have.
        """
        return ResumedConversation(self, recording, skip=skip, files=files, watch=watch)

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
