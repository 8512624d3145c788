"""The values that travel between the parts of codeact, and the protocols of the parts.

Nothing here does I/O. All values are frozen and turn into JSON and back (pydantic).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import IO, Annotated, Literal, Protocol, TypeAlias, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class Value(BaseModel):
    """Base of all frozen values."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- what an execution gives back --------------------------------------------------------------------------------


class Image(Value):
    """A picture: ``data`` is base64, ``mime`` for example ``image/png``."""

    mime: str
    data: str


class StreamOutput(Value):
    """Text that the code wrote to stdout or stderr."""

    type: Literal["stream"] = "stream"
    name: Literal["stdout", "stderr"]
    text: str


class DisplayOutput(Value):
    """One displayed object in all its representations (a Jupyter MIME bundle).

    ``data`` maps a MIME type to text; binary types (``image/png`` …) hold base64; JSON types hold JSON text.
    ``is_result`` tells the value of the last expression (Jupyter's ``execute_result``) from ``display(…)``.
    Untrusted: it comes from the sandbox. Never render ``text/html`` or ``image/svg+xml`` raw.
    """

    type: Literal["display"] = "display"
    data: dict[str, str]
    is_result: bool = False

    @property
    def text(self) -> str:
        """The plain text representation, or an empty string."""
        return self.data.get("text/plain", "")

    @property
    def html(self) -> str | None:
        """The HTML representation, unsanitised, or None."""
        return self.data.get("text/html")

    @property
    def images(self) -> tuple[Image, ...]:
        """The raster pictures in this bundle (PNG, JPEG, GIF, WebP)."""
        rasters = ("image/png", "image/jpeg", "image/gif", "image/webp")
        return tuple(Image(mime=m, data=self.data[m]) for m in rasters if m in self.data)


class ErrorOutput(Value):
    """An exception that the code raised and did not catch.

    ``traceback`` holds the lines as the kernel formatted them (ANSI colours included). ``line`` is the 1-based
    line of the executed code where it happened (for a SyntaxError, where the syntax is wrong), if known.
    """

    type: Literal["error"] = "error"
    name: str
    message: str
    traceback: tuple[str, ...] = ()
    line: int | None = None


Output: TypeAlias = Annotated[StreamOutput | DisplayOutput | ErrorOutput, Field(discriminator="type")]


class Variable(Value):
    """One live name of the kernel. ``shape`` for arrays and frames, ``length`` for sized builtins."""

    name: str
    type: str
    shape: tuple[int, ...] | None = None
    length: int | None = None


class StateChanges(Value):
    """Which names appeared, changed or vanished during one execution.

    A rebinding, a new shape or a new length is seen; a change inside an object that keeps all three is not.
    """

    added: tuple[Variable, ...] = ()
    changed: tuple[Variable, ...] = ()
    removed: tuple[str, ...] = ()


ExecutionStatus: TypeAlias = Literal["ok", "error", "timeout", "interrupted", "died"]


class ExecutionResult(Value):
    """What happened when one piece of code ran.

    ``status``: ``ok``; ``error`` (the code raised); ``timeout`` (stopped at the limit, outputs so far kept);
    ``interrupted`` (somebody stopped it); ``died`` (the kernel is gone and its state with it).
    ``duration`` is in seconds. ``notice`` is one sentence for the reader on anything unusual: what was stopped,
    what was lost, what was cut. ``dropped`` counts the characters of output beyond what is kept in ``outputs``;
    ``full_output`` then names the file of the workspace that holds the whole (up to its own bound).
    ``fresh_kernel`` is true when this code was the first to run in a new kernel that replaced a lost one.
    ``changes`` is None where the kernel cannot tell.
    """

    status: ExecutionStatus
    outputs: tuple[Output, ...] = ()
    execution_count: int | None = None
    duration: float = 0.0
    changes: StateChanges | None = None
    notice: str | None = None
    dropped: int = 0
    full_output: str | None = None
    fresh_kernel: bool = False

    @property
    def stdout(self) -> str:
        return "".join(o.text for o in self.outputs if isinstance(o, StreamOutput) and o.name == "stdout")

    @property
    def stderr(self) -> str:
        return "".join(o.text for o in self.outputs if isinstance(o, StreamOutput) and o.name == "stderr")

    @property
    def result(self) -> str | None:
        """The plain text of the last expression's value, or None."""
        for output in reversed(self.outputs):
            if isinstance(output, DisplayOutput) and output.is_result:
                return output.text
        return None

    @property
    def error(self) -> ErrorOutput | None:
        """The exception that ended the code, or None."""
        for output in reversed(self.outputs):
            if isinstance(output, ErrorOutput):
                return output
        return None

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(i for o in self.outputs if isinstance(o, DisplayOutput) for i in o.images)

    @property
    def html(self) -> tuple[str, ...]:
        """Every HTML representation shown, unsanitised."""
        return tuple(o.html for o in self.outputs if isinstance(o, DisplayOutput) and o.html is not None)


class CallRecord(Value):
    """What is told of a call of a host function that has ended.

    ``arguments`` and ``result`` are JSON values in the form of ``payload``, as they went to and from the kernel;
    ``error`` is what the code got as an exception instead of a result, ``error_kind`` and ``error_type`` are its
    ``kind`` and ``type_name`` (see ToolError). ``input()`` is told as a call of ``input``.
    ``duration`` is in seconds, ``waited`` how many of these a person took to decide. ``approval`` is empty where nobody
    was asked.
    """

    id: str
    tool: str
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    result: JsonValue = None
    error: str | None = None
    error_kind: str = ""
    error_type: str = ""
    duration: float = 0.0
    waited: float = 0.0
    approval: Literal["", "approved", "refused"] = ""


class HostCall(CallRecord):
    """The code has called a function of the host, and the call has ended."""

    type: Literal["call"] = "call"


class Question(Value):
    """The code waits for a person: to allow a call of ``tool`` with ``arguments``, or to type what ``input()`` asks.

    ``id`` is that of the HostCall that will follow. ``password``: what is typed should not be seen. Untrusted: prompt
    and arguments come from the sandbox; ``payload.shown`` makes text of arguments that is safe to show.
    """

    type: Literal["question"] = "question"
    id: str
    kind: Literal["approval", "input"]
    tool: str = ""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    prompt: str = ""
    password: bool = False


class Answer(Value):
    """What a person says to a Question. ``text``: why a call is refused, or what was typed; None: nothing was."""

    approved: bool = False
    text: str | None = None


Happening: TypeAlias = Output | HostCall | Question | ExecutionResult
"""What an execution tells."""


# --- what goes to a model and comes back --------------------------------------------------------------------------


class ToolCall(Value):
    """A native tool call as the model wrote it. ``arguments`` is the raw JSON text, possibly broken."""

    id: str
    name: str
    arguments: str


class Message(Value):
    """One message of a conversation as a model reads it."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str
    images: tuple[Image, ...] = ()
    tool_call: ToolCall | None = None
    tool_call_id: str | None = None


class ModelRequest(Value):
    """One turn asked of a model. ``tools`` are OpenAI function schemas (used by the native tool-call format)."""

    messages: tuple[Message, ...]
    stop: tuple[str, ...] = ()
    tools: tuple[dict[str, object], ...] = ()
    max_tokens: int | None = None
    temperature: float | None = None


class Usage(Value):
    """Tokens of one reply as the server counted them (``estimated`` where it did not)."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            estimated=self.estimated or other.estimated,
        )


class TextDelta(Value):
    """The next piece of the reply's text, cut anywhere."""

    type: Literal["text"] = "text"
    text: str


class ToolCallDelta(Value):
    """The next piece of a native tool call. ``id`` and ``name`` come with the first piece of each ``index``."""

    type: Literal["tool_call"] = "tool_call"
    index: int = 0
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class UsageReport(Value):
    """The server's count for this reply. ``model`` is the name that the server gave itself."""

    type: Literal["usage"] = "usage"
    usage: Usage
    model: str | None = None


class Finish(Value):
    """The reply ended by itself. ``reason`` as the server said: ``stop``, ``length``, ``tool_calls`` …"""

    type: Literal["finish"] = "finish"
    reason: str | None = None


class Restart(Value):
    """The stream broke and begins again from the start of the turn: forget the deltas seen so far."""

    type: Literal["restart"] = "restart"
    reason: str


ModelChunk: TypeAlias = TextDelta | ToolCallDelta | UsageReport | Finish | Restart


@runtime_checkable
class Model(Protocol):
    """Something that continues a conversation.

    ``stream`` yields chunks until the reply ends; closing the iterator early (``aclose``) stops the generation.
    It raises ``ModelError`` and nothing else for whatever the server does.
    """

    name: str
    accepts_images: bool
    context_window: int | None

    def stream(self, request: ModelRequest) -> AsyncIterator[ModelChunk]: ...

    async def close(self) -> None: ...


@runtime_checkable
class TokenCounter(Protocol):
    """A model whose tokenizer can be asked."""

    async def count_tokens(self, texts: Sequence[str]) -> Sequence[int] | None:
        """The tokens of each text, without what a chat template adds. None where the server does not tell. Raises
        ModelError where the model is not there."""
        ...


# --- the action format --------------------------------------------------------------------------------------------


class Reply(Value):
    """A model's reply taken apart.

    Exactly one of ``code`` and ``answer`` is set. ``thought`` is the plain text before it. ``text`` is what goes
    into the history as the assistant's message: the reply up to and including its first complete action, never
    what came after. ``dropped`` tells that something after the action was ignored. ``problem`` is a sentence for
    the model where its reply could not be followed as written (for example broken tool call arguments).
    ``neighbouring``: the action stood in another form than the one asked for, and was accepted all the same.
    """

    text: str
    thought: str = ""
    code: str | None = None
    answer: str | None = None
    dropped: bool = False
    tool_call: ToolCall | None = None
    problem: str | None = None
    neighbouring: bool = False


class ReplyDelta(Value):
    """A piece of a reply while it streams, told apart for whoever watches. An answer streams as a thought: only its
    end tells that no action follows."""

    kind: Literal["thought", "code"]
    text: str


class ReplyParser(Protocol):
    """Cuts one streamed reply. The outcome never depends on how the text was cut into chunks."""

    @property
    def complete(self) -> bool:
        """True when nothing that may follow can change the reply: the stream can be closed."""
        ...

    def feed(self, chunk: TextDelta | ToolCallDelta) -> Sequence[ReplyDelta]: ...

    def finish(self) -> Reply:
        """The reply, the stream having ended (by itself or by being closed)."""
        ...


@runtime_checkable
class ActionFormat(Protocol):
    """How a model writes an action, and how it is shown what happened."""

    name: str
    stop: tuple[str, ...]
    tools: tuple[dict[str, object], ...]

    def system_prompt(self, environment: str) -> str:
        """The instructions for the model. ``environment`` describes the sandbox (packages, files, tools)."""
        ...

    def parser(self, *, lenient: bool = True) -> ReplyParser:
        """A parser for the next reply. ``lenient``: accept neighbouring forms that weak models write instead."""
        ...

    def render_reply(self, reply: Reply) -> Message:
        """The reply as the history shows it to the model."""
        ...

    def render_observation(self, reply: Reply, text: str, images: tuple[Image, ...] = ()) -> Message:
        """What happened, as the message that answers ``reply``."""
        ...


@dataclass(frozen=True)
class ToolRules:
    """How a host tool may be called.

    ``quota``: calls in one run. ``timeout``: seconds that one call may take, a person's decision not counted.
    ``approval``: whether a person is asked before each call. ``group``: what the tool is listed under.
    ``listed``: whether its description may stand in the prompt; it is found by searching in any case.
    """

    quota: int | None = None
    timeout: float | None = None
    approval: Literal["never", "always"] = "never"
    group: str = ""
    listed: bool = True


@runtime_checkable
class HostTool(Protocol):
    """A function of the host that code in the sandbox can call by name.

    It may have two attributes besides: ``rules``, a ToolRules; and ``needs_approval(arguments) -> bool``, which decides
    for one call whether a person is asked (it raises ToolError where the arguments are wrong).
    """

    name: str
    stub: str
    """Python source that defines the function in the kernel, with signature and docstring."""
    description: str
    """Signature and purpose in a line or two, for the model."""

    def call(self, arguments: dict[str, object]) -> object:
        """Run it. ``arguments`` and the result are JSON values in the form of ``payload``; may return an awaitable.

        Raises ToolError.
        """
        ...


# --- where code runs ----------------------------------------------------------------------------------------------


OUTSIDE_EFFECTS = "# codeact: outside effects"
"""A line of code that says so: running the code again would do again what it does outside of the sandbox."""


class FileInfo(Value):
    """A file of the workspace; ``path`` is relative to it, ``size`` in bytes."""

    path: str
    size: int


@runtime_checkable
class Session(Protocol):
    """One stateful kernel and its workspace. One execution at a time; a second one waits.

    ``description`` tells a model in a few sentences what it has here: language, packages, files, limits.
    """

    id: str

    @property
    def description(self) -> str: ...

    def execute(
        self, code: str, *, timeout: float | None = None, ask: float = 0, run: str = ""
    ) -> AsyncIterator[Happening]:
        """Run code. Yields outputs, questions and calls of host tools while it runs and, last, one ExecutionResult.

        ``timeout`` in seconds (None: the session's own limit), in which the time that a person takes for an answer is
        not counted. ``ask``: how many seconds somebody has for each answer; 0: nobody answers, so that questions are
        refused at once. ``run``: a name; the quotas of tools are counted anew when it changes, or for each execution
        where it is empty. Closing the iterator early interrupts the code.
        Raises ``SandboxError`` where the sandbox itself failed, never for what the code did.
        """
        ...

    async def run(self, code: str, *, timeout: float | None = None) -> ExecutionResult:
        """Run code and wait for its result."""
        ...

    def answer(self, question: str, answer: Answer) -> bool:
        """Answer the Question with that id. False where it is not open (any more)."""
        ...

    async def interrupt(self) -> None:
        """Stop the running code, keep the state. Does nothing when nothing runs."""
        ...

    async def restart(self) -> None:
        """Give up the kernel and its variables; files stay. The next execution starts a fresh one."""
        ...

    async def variables(self) -> tuple[Variable, ...]:
        """The live names of the kernel."""
        ...

    async def put(self, path: str, data: bytes | IO[bytes]) -> None:
        """Write a file of the workspace; ``path`` is relative to it. Raises FileTransferError."""
        ...

    async def get(self, path: str) -> bytes:
        """Read a file of the workspace. Raises FileTransferError."""
        ...

    async def get_into(self, path: str, target: IO[bytes]) -> None:
        """Copy a file of the workspace into an open file. Raises FileTransferError, OSError of ``target``."""
        ...

    async def files(self) -> tuple[FileInfo, ...]:
        """The files of the workspace, hidden ones left out."""
        ...

    async def fork(self) -> Session:
        """A second session with the same live variables, files and working directory; then neither sees the other.

        Waits for a running execution. What cannot be carried (threads, sockets, processes) is told with the first
        execution of the new session. Raises SandboxError where this sandbox cannot, or the state is too large.
        """
        ...

    async def forks(self, count: int) -> tuple[Session, ...]:
        """That many of them, from one state: cheaper than one after the other."""
        ...

    async def close(self) -> None:
        """End the kernel and remove everything that the session had. Safe to call twice."""
        ...


@runtime_checkable
class Sandbox(Protocol):
    """Makes sessions. Use as an async context manager; leaving it ends every session."""

    name: str

    async def session(self, id: str | None = None, *, tools: Sequence[HostTool] = ()) -> Session:
        """A new session with a running kernel. Raises SandboxError, UsageError for an id in use."""
        ...

    async def close(self) -> None: ...

    async def __aenter__(self) -> Sandbox: ...

    async def __aexit__(self, *exc: object) -> None: ...
