"""Models that need no model: one that walks the reference solutions, one that says what was said before."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping

from codeact.contracts import Finish, Model, ModelChunk, ModelRequest, TextDelta
from codeact.errors import UsageError
from codeact.evals.sample import Sample
from codeact.evals.task import Task
from codeact.models.replay import ReplayModel

_STATE = re.compile(r"(?:\n|^)\[[A-Z][^\n]*\]\s*$")
"""The line of an observation that tells which names are new."""


class ReferenceModel:
    """Sends a task's reference solution cell by cell; its answer is made of what the last cell really printed.

    Writes the format ``tags``. So it confirms, through the agent and the sandbox, the outcome that the task expects.
    """

    def __init__(self, task: Task) -> None:
        self.name = "reference"
        self.accepts_images = False
        self.context_window: int | None = None
        self._task = task

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        said = sum(message.role == "assistant" for message in request.messages)
        if said < len(self._task.reference):
            yield TextDelta(text=f"<execute>\n{self._task.reference[said]}\n</execute>")
        else:
            read = _STATE.sub("", request.messages[-1].text.removeprefix("Execution Output:\n")).strip()
            yield TextDelta(text=self._task.reply.replace("{output}", read))
        yield Finish(reason="stop")

    async def close(self) -> None:
        """Nothing to release."""


def replayed(task: Task, samples: Mapping[str, Sample]) -> Model:
    """The model that says again what was said in a recorded attempt at this task. Raises UsageError without one."""
    sample = samples.get(task.id)
    if sample is None:
        raise UsageError(f"the recording holds no attempt at {task.id}: use its --split, --seed and --limit")
    return ReplayModel([said.content for said in sample.messages if said.role == "assistant"], sample.model)
