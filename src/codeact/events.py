"""Everything that happens in a conversation, as a frozen tagged union.

The command line, the web page, the store, the evaluator and the trainer are readers of one stream of these.
Match on them with a closing ``assert_never`` so that a new kind is noticed by the type checker.
Events marked *live* are for whoever watches; what they carry is repeated whole in a later event, so that a
trajectory on disk leaves them out.
"""

from __future__ import annotations

import time
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from codeact.contracts import CallRecord, ExecutionResult, Image, Output, Question, Reply, Usage, Value, Variable


class BaseEvent(Value):
    """``time`` is seconds since the epoch (UTC)."""

    time: float = Field(default_factory=time.time)


class GivenFile(Value):
    """A file of this machine that was put into the workspace as ``name``, so that it can be found and known again.

    ``path`` is absolute, ``size`` in bytes; ``sha256`` is empty where all this is not known.
    """

    name: str
    path: str = ""
    size: int = 0
    sha256: str = ""


class RunStarted(BaseEvent):
    """A message of the user begins a run. ``prompt`` is the system prompt; ``files`` were put into the workspace, and
    ``given`` says where they came from."""

    type: Literal["run_started"] = "run_started"
    task: str
    files: tuple[str, ...] = ()
    given: tuple[GivenFile, ...] = ()
    model: str = ""
    format: str = ""
    sandbox: str = ""
    prompt: str = ""


class Resumed(BaseEvent):
    """The conversation goes on in a fresh session, in which its ``cells`` pieces of code were run once more.

    ``text`` is what the model and the person are told. Cells are numbered from 1 over the whole conversation:
    ``skipped`` were left out on purpose, ``unrun`` because somebody stopped it, ``failed`` ended otherwise than
    recorded. ``variables`` are those alive now, compared with the record by type, shape and length: ``back``,
    ``differing`` (as recorded, as now) and ``lost``. ``files`` were put in again, ``missing_files`` could not be.
    """

    type: Literal["resumed"] = "resumed"
    text: str
    cells: int = 0
    skipped: tuple[int, ...] = ()
    unrun: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    variables: tuple[Variable, ...] = ()
    back: tuple[str, ...] = ()
    differing: tuple[tuple[Variable, Variable], ...] = ()
    lost: tuple[Variable, ...] = ()
    files: tuple[str, ...] = ()
    missing_files: tuple[str, ...] = ()


class TurnStarted(BaseEvent):
    """The model is asked for its next reply. ``turn`` counts from 1 within the run."""

    type: Literal["turn_started"] = "turn_started"
    turn: int


class ModelDelta(BaseEvent):
    """*Live.* A piece of the reply while it streams."""

    type: Literal["model_delta"] = "model_delta"
    kind: Literal["thought", "code"]
    text: str


class ModelRestarted(BaseEvent):
    """The model's stream broke and begins again: deltas of this turn seen so far are void."""

    type: Literal["model_restarted"] = "model_restarted"
    reason: str


class ModelReplied(BaseEvent):
    """The model's whole reply. ``duration`` in seconds, from the request to the cut."""

    type: Literal["model_replied"] = "model_replied"
    turn: int
    reply: Reply
    usage: Usage = Usage()
    duration: float = 0.0


class ExecutionStarted(BaseEvent):
    type: Literal["execution_started"] = "execution_started"
    turn: int
    code: str


class ExecutionOutput(BaseEvent):
    """*Live.* An output while the code runs."""

    type: Literal["execution_output"] = "execution_output"
    output: Output


class ToolCalled(BaseEvent, CallRecord):
    """The running code has called a function of the host, and the call has ended."""

    type: Literal["tool_called"] = "tool_called"
    turn: int


class Asked(BaseEvent):
    """The running code waits for a person; see ``contracts.Question``. The ToolCalled of the same id ends it."""

    type: Literal["asked"] = "asked"
    turn: int
    question: Question


class ExecutionFinished(BaseEvent):
    type: Literal["execution_finished"] = "execution_finished"
    turn: int
    result: ExecutionResult


class Observed(BaseEvent):
    """What the model is shown of the execution."""

    type: Literal["observed"] = "observed"
    turn: int
    text: str
    images: tuple[Image, ...] = ()


class Notice(BaseEvent):
    """Something the watcher should know and the model was or was not told (``to_model``)."""

    type: Literal["notice"] = "notice"
    text: str
    to_model: bool = False


class Compacted(BaseEvent):
    """From here on the model is sent less of what came before; the history itself stays whole.

    Each such event says all that is left out from now on, so that the last one holds. Messages count from 0 in the
    order of the history, the system prompt not among them. The outputs of those before ``elided`` are left out. Those
    before ``dropped`` are gone but for the task that is being worked on; ``summary``, by the model and untrusted, and
    ``state``, the live variables of the kernel, stand in their place. ``shortened``: messages too long for the window,
    each with the characters kept of it. ``usage`` is what the summary cost, zero where the model was not asked.
    """

    type: Literal["compacted"] = "compacted"
    elided: int = 0
    dropped: int = 0
    shortened: tuple[tuple[int, int], ...] = ()
    summary: str = ""
    state: str = ""
    usage: Usage = Usage()


EndReason: TypeAlias = Literal[
    "answered", "turns", "executions", "tokens", "time", "cost", "cancelled", "model_error", "sandbox_error", "error"
]


class RunFinished(BaseEvent):
    """The last event of every run, however it ended.

    ``answer`` is None unless ``reason`` is ``answered``. ``message`` says in one line why the run ended otherwise.
    Times in seconds: ``model_time`` waiting for the model, ``code_time`` running code, ``duration`` all of it.
    ``cost`` in US dollars, None where the model's prices are not known.
    """

    type: Literal["run_finished"] = "run_finished"
    reason: EndReason
    answer: str | None = None
    message: str = ""
    turns: int = 0
    executions: int = 0
    usage: Usage = Usage()
    cost: float | None = None
    duration: float = 0.0
    model_time: float = 0.0
    code_time: float = 0.0


Event: TypeAlias = Annotated[
    RunStarted
    | Resumed
    | TurnStarted
    | ModelDelta
    | ModelRestarted
    | ModelReplied
    | ExecutionStarted
    | ExecutionOutput
    | ToolCalled
    | Asked
    | ExecutionFinished
    | Observed
    | Notice
    | Compacted
    | RunFinished,
    Field(discriminator="type"),
]

EVENT: TypeAdapter[Event] = TypeAdapter(Event)
"""Turns an event into JSON and back: ``EVENT.dump_json(event)``, ``EVENT.validate_json(line)``."""

LIVE = (ModelDelta, ExecutionOutput)
"""The kinds that a trajectory on disk leaves out."""
