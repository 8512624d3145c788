"""Runs for the command line: a task solved, a recording played again, a piece of code executed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError
from rich.text import Text

from codeact import asking, events
from codeact.agent import Agent, Conversation
from codeact.agent.person import Person
from codeact.budget import Budget
from codeact.contracts import ExecutionResult, HostCall, HostTool, Model, Question, Sandbox, Session
from codeact.errors import SandboxError, UsageError
from codeact.events import Event
from codeact.interrupts import Interrupts
from codeact.outbox import Outbox
from codeact.plaintext import plain, short
from codeact.screen import Passthrough, Screen, console
from codeact.tools.files import load as load_tools
from codeact.trajectory import Trajectory, TrajectoryWriter, dump

if TYPE_CHECKING:
    from codeact.settings import Settings

STATUS: dict[events.EndReason, int] = {
    "answered": 0,
    "error": 1,
    "turns": 3,
    "executions": 3,
    "tokens": 3,
    "time": 3,
    "cost": 3,
    "model_error": 4,
    "sandbox_error": 5,
    "cancelled": 130,
}
"""How the process exits for each end of a run."""

NO_BOUNDARY = (
    "WARNING: no boundary: the code runs as a process of yours and can read, change and send whatever you can "
    "(--sandbox unsafe-process)"
)


@dataclass(frozen=True)
class Wish:
    """What a run is to do besides its task: ``files`` to put in, where to ``save`` the events and what the code made.

    ``tools`` are Python files whose ``@tool`` functions the code may call; they are run here.
    ``show``: ``events`` for people, ``json`` lines, or only the ``answer``. Paths are checked when it is made; raises
    UsageError.
    """

    settings: Settings
    files: Sequence[Path] = ()
    save: Path | None = None
    out: Path | None = None
    show: Literal["events", "json", "answer"] = "events"
    tools: Sequence[Path] = ()
    outbox: Outbox = field(init=False)
    host: tuple[HostTool, ...] = field(init=False)

    def __post_init__(self) -> None:
        check_files(self.files)
        check_names(self.settings)
        check_files(self.tools)
        object.__setattr__(self, "host", load_tools(self.tools) if self.tools else ())
        object.__setattr__(self, "outbox", Outbox(self.out, reserved=[self.save] if self.save else []))

    def budget(self) -> Budget:
        settings = self.settings
        return Budget(
            turns=settings.max_turns,
            tokens=settings.max_tokens_total,
            seconds=settings.max_seconds,
            cost=settings.max_cost,
        )


Progress = Callable[[str], object]
"""Shows a line on what goes on, in the place of the one before."""


class Reader(Protocol):
    """Something that is told every event of a run."""

    def show(self, event: Event) -> None: ...


class JsonLines:
    """Every event, live ones included, as one JSON object a line."""

    def show(self, event: Event) -> None:
        sys.stdout.buffer.write(dump(event) + b"\n")
        sys.stdout.buffer.flush()


class AnswerOnly:
    """Nothing but the answer, on stdout."""

    def show(self, event: Event) -> None:
        if isinstance(event, events.RunFinished) and event.answer is not None:
            sys.stdout.write(plain(event.answer).rstrip("\n") + "\n")
            sys.stdout.flush()


def readers(wish: Wish) -> list[Reader]:
    """Who is told: a terminal everything; where stdout is none, the answer goes there and the rest to stderr."""
    if wish.show == "json":
        return [JsonLines()]
    if wish.show == "answer":
        return [AnswerOnly()]
    if sys.stdout.isatty():
        return [Screen(sys.stdout, on_image=wish.outbox.keep_image)]
    return [Screen(sys.stderr, answers=False, on_image=wish.outbox.keep_image), AnswerOnly()]


def say(text: str, style: str = "") -> None:
    """A line to stderr, for people."""
    console(sys.stderr).print(Text(text, style), soft_wrap=True)


def warn_of(sandbox: Sandbox) -> None:
    """The warning that a sandbox without a boundary gives at each start."""
    if sandbox.name == "unsafe-process":
        say(NO_BOUNDARY, "bold red")


def check_files(files: Sequence[Path]) -> None:
    """Raises UsageError for what cannot be put into a workspace, before anything is started."""
    for path in files:
        if not path.exists():
            raise UsageError(f"there is no file {path}")
        if not path.is_file():
            raise UsageError(f"{path} is not a file: name the files one by one")
        try:
            path.open("rb").close()
        except OSError as error:
            raise UsageError(f"the file {path} cannot be read: {error.strerror}") from error


def check_names(settings: Settings) -> None:
    """Raises UsageError for a sandbox, a network or an action format that cannot be, before anything is started."""
    from codeact.formats import get_format
    from codeact.sandbox import KINDS, is_url
    from codeact.sandbox.network import Network

    if settings.sandbox not in KINDS and not is_url(settings.sandbox):
        raise UsageError(
            f"there is no sandbox {settings.sandbox!r}: choose one of {', '.join(KINDS)}, or an engine's URL"
        )
    Network.of(settings.network, settings.allow_net, settings.sandbox)
    if settings.format is not None:
        get_format(settings.format)


@contextlib.asynccontextmanager
async def sandbox_of(settings: Settings) -> AsyncIterator[Sandbox]:
    """The sandbox that the settings name, not started."""
    from codeact.sandbox import Sandbox as open_sandbox

    logging.getLogger("codeact").addHandler(logging.NullHandler())  # people read of refusals with the code's output
    limits: dict[str, Any] = {"memory": settings.memory << 20, "timeout": settings.timeout}
    network, allowed = settings.network, settings.allow_net
    async with open_sandbox(settings.sandbox, network=network, allow_net=allowed, **limits) as sandbox:
        yield sandbox


@contextlib.asynccontextmanager
async def model_of(settings: Settings) -> AsyncIterator[Model]:
    """The model that the settings name."""
    from codeact.models import open_model

    key = settings.api_key.get_secret_value() if settings.api_key else None
    window = settings.context_window
    model = await open_model(settings.model, base_url=settings.base_url, api_key=key, context_window=window)
    try:
        yield model
    finally:
        await model.close()


@contextlib.asynccontextmanager
async def opened(
    wish: Wish,
    model: Model,
    format: str | None,
    budget: Budget,
    begin: Callable[[Agent, Progress], Conversation] = lambda agent, progress: agent.conversation(),
) -> AsyncIterator[Conversation]:
    """A conversation as ``begin`` makes it, and who takes part in it told on stderr."""
    from codeact.models import describe

    async with sandbox_of(wish.settings) as sandbox:
        warn_of(sandbox)
        if wish.show != "answer":
            say(f"model: {short(describe(model), 300)} · code runs in: {sandbox.name}{_reach(wish.settings)}", "dim")
        ask = asking.ask_at_terminal if wish.show == "events" and asking.somebody() else None
        async with contextlib.AsyncExitStack() as stack:
            with starting(wish.show != "answer") as progress:
                tools = (*wish.host, *await stack.enter_async_context(mcp_tools_of(wish.settings)))
                agent = Agent(
                    model,
                    sandbox=sandbox,
                    format=format,
                    budget=budget,
                    tools=tools,
                    ask=ask,
                    ask_limit=asking.PATIENCE,
                    context=wish.settings.context,
                )
                conversation = await stack.enter_async_context(begin(agent, progress))
            yield conversation


@contextlib.asynccontextmanager
async def mcp_tools_of(settings: Settings) -> AsyncIterator[Sequence[HostTool]]:
    """The functions of the MCP servers that the settings name, for as long as they are there."""
    if settings.mcp is None:
        yield ()
        return
    from codeact.tools.mcp import McpServers

    # less than a piece of code may take, so that the code is told of a server that hangs, and goes on
    async with McpServers.from_file(settings.mcp, call_limit=0.75 * settings.timeout) as servers:
        for warning in servers.warnings:
            say(f"warning: {short(warning, 1000)}", "yellow")
        yield servers.tools


def _reach(settings: Settings) -> str:
    """What the code may reach, where that is anything."""
    hosts = short(", ".join(settings.allow_net), 300)
    return f" · network: {hosts or 'the host’s'}" if hosts or settings.network == "host" else ""


@contextlib.contextmanager
def starting(shown: bool = True) -> Iterator[Progress]:
    """A word to whoever waits at a terminal while a sandbox starts, and the way to tell more of what goes on."""
    if not shown:
        yield lambda text: None
    elif not sys.stderr.isatty():
        yield lambda text: say(text, "dim")
    else:
        with console(sys.stderr).status(Text("starting the sandbox …", "dim")) as status:
            yield lambda text: status.update(Text(text, "dim"))


async def tell(
    conversation: Conversation,
    message: str,
    files: Sequence[Path],
    readers: Sequence[Reader],
    writer: TrajectoryWriter | None,
) -> events.RunFinished:
    """Send one message; every event is saved, then shown. However it ends, its last event is saved."""
    before = len(conversation.events)
    last: Event | None = None
    try:
        async with contextlib.aclosing(conversation.send(message, files)) as told:
            async for event in told:
                last = event
                if writer:
                    writer.write(event)
                for reader in readers:
                    reader.show(event)
    finally:
        end = conversation.events[-1] if len(conversation.events) > before else None
        if writer and isinstance(end, events.RunFinished) and end is not last:
            writer.write(end)
    assert isinstance(last, events.RunFinished)
    return last


async def deliver(wish: Wish, session: Session, given: Sequence[Path]) -> bool:
    """Carry out what the code made and say where it is. False where something could not be saved."""
    paths, failed = await wish.outbox.collect(session, given)
    if paths and wish.show != "answer":
        if wish.out is None:
            say(f"files in the workspace, gone with it (keep them with --out DIR): {', '.join(paths)}", "dim")
        else:
            say(f"saved: {', '.join(paths)}", "dim")
    for line in failed:
        say(f"error: {line}", "red")
    return not failed


async def solve(wish: Wish, task: str) -> int:
    """One task, in a session of its own. The exit status."""
    if not task.strip():
        raise UsageError("the task is empty: say what is to be done")
    format = wish.settings.format
    return await _converse(wish, model_of(wish.settings), format, wish.budget(), [(task, wish.files)])


async def replay(wish: Wish, recording: Trajectory) -> int:
    """A recording once more: the model's replies come from it, the code runs now. The exit status."""
    from codeact.models.replay import ReplayModel

    starts = [event for event in recording.events if isinstance(event, events.RunStarted)]
    if not starts:
        raise UsageError("the recording holds no run: there is nothing to run again")
    given = {path.name: path for path in wish.files}
    missing = sorted({name for start in starts for name in start.files} - set(given))
    if missing:
        raise UsageError(f"the recorded run had the file {short(missing[0], 200)}: name it with --file")
    model = contextlib.nullcontext(ReplayModel.from_events(recording.events))
    tasks = [(start.task, [given[name] for name in start.files]) for start in starts]
    return await _converse(wish, model, starts[0].format or None, Budget(turns=None), tasks)


async def _converse(
    wish: Wish,
    model: contextlib.AbstractAsyncContextManager[Model],
    format: str | None,
    budget: Budget,
    tasks: Sequence[tuple[str, Sequence[Path]]],
) -> int:
    """One conversation in which these tasks are given one after the other, as long as they are answered."""
    with contextlib.ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        writer = stack.enter_context(TrajectoryWriter(wish.save)) if wish.save else None
        try:
            async with model as speaker, opened(wish, speaker, format, budget) as conversation:
                interrupts.stop = lambda: stop(conversation)
                told = readers(wish)
                for task, files in tasks:
                    end = await tell(conversation, task, files, told, writer)
                    if end.reason != "answered":
                        break
                if not any(isinstance(event, events.ExecutionStarted) for event in conversation.events):
                    say_never_acted(end, conversation.events)
                delivered = await deliver(wish, conversation.session, wish.files)
        except asyncio.CancelledError:
            if not interrupts.signals:
                raise
            return interrupts.status
    say_why(end)
    if end.reason == "cancelled" and interrupts.signals:
        return interrupts.status
    return STATUS[end.reason] or (0 if delivered else 1)


def stop(conversation: Conversation, words: str = "stopping … (once more to force it)") -> None:
    """End the run that is under way and say so."""
    say(f"\n{words}", "yellow")
    conversation.cancel()


def say_why(end: events.RunFinished) -> None:
    """Why there is no answer, where there is none."""
    if end.reason != "answered":
        word = "error" if end.reason.endswith("error") else "ended" if STATUS[end.reason] == 3 else "stopped"
        say(f"{word}: {short(end.message or end.reason, 1000)}", "yellow" if word == "stopped" else "red")


def say_never_acted(end: events.RunFinished, seen: Sequence[Event]) -> None:
    """A hint where there is an answer and nothing was ever run."""
    used = next((event.format for event in seen if isinstance(event, events.RunStarted)), "")
    if end.reason == "answered":
        say(
            "hint: the model never ran any code. If it should have, it is too weak for this, or it does not follow the "
            f"action format {used!r}: try --format {'tags' if used == 'fences' else 'fences'}",
            "yellow",
        )


async def execute(wish: Wish, code: str) -> int:
    """One piece of code without a model. The exit status."""
    with Interrupts() as interrupts:
        try:
            async with sandbox_of(wish.settings) as sandbox:
                warn_of(sandbox)
                with starting():
                    session = await sandbox.session()
                for path in wish.files:
                    with path.open("rb") as file:
                        await session.put(path.name, file)
                interrupts.stop = lambda: asyncio.ensure_future(session.interrupt())
                result = await _show_execution(wish, session, code)
                delivered = await deliver(wish, session, wish.files)
        except asyncio.CancelledError:
            if not interrupts.signals:
                raise
            return interrupts.status
    return interrupts.status or (0 if result.status == "ok" and delivered else 1)


async def _show_execution(wish: Wish, session: Session, code: str) -> ExecutionResult:
    as_json = wish.show == "json"
    shown = Passthrough(sys.stdout, sys.stderr, wish.outbox.keep_image)
    result: ExecutionResult | None = None
    asker = asking.ask_at_terminal if asking.somebody() and not as_json else None
    person = Person(asker, asking.PATIENCE, session.answer)
    stream = session.execute(code, ask=person.patience)
    try:
        async for item in stream:
            match item:
                case ExecutionResult():
                    result = item
                case Question():
                    shown.end_line()
                    person.ask(item)
                case HostCall():
                    person.answered(item.id)
                case _ if not as_json:
                    shown.show(item)
                case _:
                    pass
    finally:
        await person.leave()
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
    if result is None:
        raise SandboxError("the execution ended without a result")
    if as_json:
        for image in result.images:
            wish.outbox.keep_image(image)
        sys.stdout.buffer.write(to_json(result) + b"\n")
        sys.stdout.buffer.flush()
    else:
        shown.end(result)
    return result


def to_json(value: BaseModel) -> bytes:
    """A value as one line of JSON. Lone surrogates, which UTF-8 cannot hold, become ``?``."""
    try:
        return value.model_dump_json().encode()
    except PydanticSerializationError:
        return json.dumps(value.model_dump(), ensure_ascii=False).encode("utf-8", "replace")


def show(recording: Trajectory, how: Literal["events", "json", "answer"]) -> int:
    """A recording as it was, on stdout. The exit status."""
    reader: Reader
    if how == "events":
        reader = Screen(sys.stdout, tasks=True)
    else:
        reader = JsonLines() if how == "json" else AnswerOnly()
    for event in recording.events:
        reader.show(event)
    if recording.torn:
        say("the recording was cut off in its last line, as by a kill: that line is left out", "yellow")
    return 0
