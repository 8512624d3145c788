"""One attempt at a task: a fresh session, the task's files, the agent's run, the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from codeact.agent import Agent, Conversation
from codeact.contracts import Sandbox
from codeact.evals.judging import Verdict, judge
from codeact.evals.task import Task
from codeact.events import Event
from codeact.results import RunResult


async def attempt(
    task: Task, agent: Agent, sandbox: Sandbox, opened: Callable[[Conversation], object] | None = None
) -> tuple[RunResult, Verdict]:
    """Have the agent try the task in a session of its own, and judge it. ``sandbox`` is the agent's.

    ``opened`` is told the conversation before it begins, for whoever wants to cancel it. A run that the model or the
    sandbox broke off has no answer: look at the result's ``reason``. Raises SandboxError where no session can be had.
    """
    with tempfile.TemporaryDirectory(prefix="codeact-") as folder:
        paths = []
        for file in task.files:
            path = Path(folder) / file.name
            await asyncio.to_thread(path.write_bytes, file.data)
            paths.append(path)
        async with agent.conversation() as conversation:
            if opened is not None:
                opened(conversation)
            seen: list[Event] = []
            async with contextlib.aclosing(conversation.send(task.question, paths)) as told:
                async for event in told:
                    seen.append(event)
            result = RunResult.of(seen)
            verdict = await judge(task, result.answer, conversation.session, sandbox)
    if result.answer is None:
        verdict = Verdict(solved=False, why=result.message or result.reason)
    return result, verdict
