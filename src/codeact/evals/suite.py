"""Many attempts, some at a time: what was done before is not done again, and what stops it loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from codeact.agent import Agent, Conversation
from codeact.errors import ModelError, SandboxError
from codeact.evals.record import Record
from codeact.evals.rollout import attempt
from codeact.evals.sample import Sample, sample_of
from codeact.evals.task import Task
from codeact.results import RunResult

BROKEN = {"model_error": ModelError, "sandbox_error": SandboxError, "error": SandboxError}
IN_A_ROW = 3
"""Attempts that the model or the sandbox broke off before the whole is given up."""


class Suite:
    """Attempts at tasks. ``agent_for`` makes the agent of a task; its sandbox must be one object for all.

    ``show`` is told every sample, and how many of how many are done. ``broken`` holds the attempts that the model or
    the sandbox broke off, with the reason: they are not recorded, so that the next run tries them again.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        agent_for: Callable[[Task], Agent],
        record: Record | None = None,
        show: Callable[[Sample, int, int], object] | None = None,
    ) -> None:
        self.tasks = tasks
        self.samples: dict[str, Sample] = {}
        self.broken: dict[str, str] = {}
        self.stopped = False
        self._agent_for = agent_for
        self._record = record
        self._show = show
        self._running: set[Conversation] = set()
        self._in_a_row = 0

    async def run(self, parallel: int = 1) -> None:
        """Attempt what has not been attempted, that many at a time.

        Raises ModelError or SandboxError where IN_A_ROW attempts one after the other were broken off.
        """
        done = self._record.samples if self._record else {}
        self.samples |= {task.id: done[task.id] for task in self.tasks if task.id in done}
        waiting = iter([task for task in self.tasks if task.id not in self.samples])

        async def work() -> None:
            for task in waiting:
                if self.stopped:
                    return
                await self._attempt(task)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(max(1, parallel)):
                    group.create_task(work())
        except* (ModelError, SandboxError) as errors:
            raise errors.exceptions[0] from errors

    def stop(self) -> None:
        """Begin no further attempt and break off those under way; they are not recorded."""
        self.stopped = True
        for conversation in self._running:
            conversation.cancel()

    async def _attempt(self, task: Task) -> None:
        agent = self._agent_for(task)
        mine: list[Conversation] = []

        def opened(conversation: Conversation) -> None:
            mine.append(conversation)
            self._running.add(conversation)

        assert not isinstance(agent.sandbox, str)
        try:
            result, verdict = await attempt(task, agent, agent.sandbox, opened)
        finally:
            self._running.difference_update(mine)
        if result.reason in BROKEN:
            self._broke(task, result)
        elif result.reason != "cancelled":
            self._in_a_row = 0
            sample = sample_of(task, result, verdict)
            self.samples[task.id] = sample
            if self._record is not None:
                self._record.write(sample)
            if self._show is not None:
                self._show(sample, len(self.samples), len(self.tasks))

    def _broke(self, task: Task, result: RunResult) -> None:
        self.broken[task.id] = result.message
        self._in_a_row += 1
        if self._in_a_row >= IN_A_ROW and not self.stopped:
            raise BROKEN[result.reason](result.message)
