"""The engine's HTTP interface as values: what a client sends and what the engine answers.

Both ends import this, so that they cannot differ. How the routes behave is told in docs/engine.md.
"""

from __future__ import annotations

import keyword
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Base64Bytes, Field, JsonValue, field_validator

from codeact.contracts import ExecutionResult, FileInfo, Value, Variable
from codeact.sandbox.limits import Limits

ID_PATTERN = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$"
Id: TypeAlias = Annotated[str, Field(pattern=ID_PATTERN, description="Letters, digits, dot, dash, underscore.")]


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("text that UTF-8 cannot write") from error
    return text


Text: TypeAlias = Annotated[str, AfterValidator(_encodable)]

EVENTS = "text/event-stream"
"""The media type that asks ``/execute`` for its events while it runs, instead of for its result at the end."""


class ToolSpec(Value):
    """A host tool that the client answers. See HostTool and ToolRules in ``codeact.contracts``."""

    name: Text = Field(max_length=100)
    stub: Text = Field(max_length=1 << 16)
    description: Text = Field(max_length=1 << 14)
    group: Text = Field("", max_length=100)
    listed: bool = True

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError("a tool's name is a Python identifier")
        return name


class GivenFile(Value):
    """A file that the workspace begins with; ``data`` is base64."""

    path: Text = Field(max_length=4096)
    data: Base64Bytes


class NewSession(Value):
    """What a session is to be. Limits not named are the engine's own, which is also the most that can be asked for.

    Idempotent: the same ``id`` and the same options give the session that is there already, unless it has to be new
    (``exclusive``). ``network``, ``allow_net``: as ``codeact.sandbox.Sandbox`` has them, as far as the engine allows.
    """

    id: Id | None = None
    exclusive: bool = False
    memory: int | None = Field(None, ge=128 << 20, lt=1 << 53, description="Bytes.")
    disk: int | None = Field(None, ge=1 << 20, lt=1 << 53, description="Bytes.")
    processes: int | None = Field(None, ge=16, lt=1 << 31)
    open_files: int | None = Field(None, ge=64, lt=1 << 31)
    timeout: float | None = Field(None, gt=0, allow_inf_nan=False, description="Seconds of one execution.")
    file: int | None = Field(None, ge=0, lt=1 << 53, description="Bytes of one file carried in or out.")
    network: Literal["none", "host"] = "none"
    allow_net: tuple[Text, ...] = Field((), max_length=100)
    kernel: str | None = Field(
        None, pattern=ID_PATTERN, description="An installed kernelspec, in place of our own Python."
    )
    files: tuple[GivenFile, ...] = Field((), max_length=1000)
    tools: tuple[ToolSpec, ...] = Field((), max_length=256)


class SessionInfo(Value):
    """A session as it is now. Times in seconds; ``created`` since the epoch; ``busy`` is the time spent running code.

    ``existed``: the session was there already when this request to create it came.
    """

    id: str
    state: Literal["idle", "queued", "running"]
    created: float
    age: float
    idle: float
    executions: int
    waiting: int
    calls: int
    busy: float
    limits: Limits
    network: str
    kernel: str | None
    workspace: str
    description: str
    existed: bool = False


class SessionList(Value):
    sessions: tuple[SessionInfo, ...]


class Execute(Value):
    """``execution`` names this one, so that asking twice runs the code once. ``timeout`` in seconds.

    ``ask``: seconds that somebody has to answer ``input()``, which comes as a call of ``input()``; 0: there is nobody.
    """

    code: str
    timeout: float | None = Field(None, gt=0, allow_inf_nan=False)
    execution: Id | None = None
    ask: float = Field(0, ge=0, le=3600, allow_inf_nan=False)


INPUT = "input()"
"""The tool of a call that asks a person; its arguments are ``prompt`` and ``password``, its result is text or null."""


class Executed(Value):
    execution: str
    result: ExecutionResult


class Interrupt(Value):
    """``execution``: only that one; None: the one that runs, or the next where it is about to."""

    execution: Id | None = None


class Interrupted(Value):
    interrupted: str | None


class Fork(Value):
    """``ids`` for the copies, as many as ``count``; without them the engine chooses."""

    count: int = Field(1, ge=1, le=64)
    ids: tuple[Id, ...] | None = Field(None, max_length=64)


class State(Value):
    variables: tuple[Variable, ...]


class Files(Value):
    files: tuple[FileInfo, ...]


class Call(Value):
    """A host tool that running code has called and that waits for the client's answer."""

    id: str
    execution: str
    tool: str
    arguments: dict[str, JsonValue]


class Calls(Value):
    calls: tuple[Call, ...]


class Answer(Value):
    """``result`` as JSON, or ``error``: the message that the code gets as an exception.

    ``kind`` and ``type_name`` of an error: see ``codeact.errors.ToolError``.
    """

    result: JsonValue = None
    error: str | None = Field(None, max_length=1 << 16)
    kind: str = Field("failed", max_length=20)
    type_name: str = Field("", max_length=100)


class Fault(Value):
    """Why something was refused. ``code`` is for programs, ``message`` one line for people."""

    code: str
    message: str


class Refusal(Value):
    error: Fault


class OldExecute(Value):
    """The request of the original system's execution API."""

    convid: Text = Field(min_length=1, max_length=256)
    code: str


class OldExecuted(Value):
    result: str
    new_kernel_created: bool
