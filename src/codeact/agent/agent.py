"""An agent: the ways to give it a task."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from codeact import sync
from codeact.agent.conversation import Check, Conversation
from codeact.agent.options import Options
from codeact.events import Event
from codeact.results import BestOf, RunResult


class Agent(Options):
    """A model, a sandbox and how they talk. ``model`` and ``sandbox`` may be names; what the agent opens, it closes.

    ``format``: ``tags``, ``fences`` or ``tool_call``; None: what the model is known for. ``instructions`` are added to
    the system prompt. ``tools`` are functions of this process that the code can call (see ``codeact.tool``).
    ``observation_limit``: characters of output that the model reads of one execution. ``context``: what is done where
    the conversation fills the model's window: ``none``, ``truncate``, ``elide``, ``summarize`` or a function (see
    ``codeact.context``). ``context_window`` in tokens; None: what the model or its server says.
    """

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
