"""A conversation at the terminal: messages, and commands that begin with a slash."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codeact import saved
from codeact.agent import Agent, Cell, Conversation, ResumedConversation
from codeact.contracts import Session
from codeact.errors import SandboxError, TrajectoryError, UsageError
from codeact.interrupts import Interrupts
from codeact.outbox import size_text
from codeact.plaintext import short
from codeact.running import (
    STATUS,
    Progress,
    Wish,
    check_files,
    deliver,
    model_of,
    opened,
    readers,
    say,
    say_why,
    stop,
    tell,
)
from codeact.trajectory import Trajectory, TrajectoryWriter, load, save

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

HELP = """\
/files               the files of the workspace
/files put PATH      put a file of this machine into it
/files get NAME      copy a file of it here (/files get NAME PATH: there)
/state               the variables of the kernel
/save PATH           record the conversation so far
/help                this
/quit                leave (Ctrl-D does too)
Ctrl-C stops the reply or the code that runs; the variables stay."""


async def chat(wish: Wish, resume: Path | None = None) -> int:
    """Messages until the end of input. The exit status: of the last message where no terminal asks for them, else 0.

    ``resume``: the recording of a conversation to go on with.
    """
    interactive = sys.stdin.isatty()
    with contextlib.ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts(patient=True))
        writer, recording = _records(wish, resume)
        record = stack.enter_context(_Record(wish, writer, asked=wish.save is not None or resume is not None))
        settings = wish.settings

        def begin(agent: Agent, progress: Progress) -> Conversation:
            if recording is None:
                return agent.conversation()

            def watch(cell: Cell, cells: int) -> None:
                progress(f"running the code again: cell {cell.number} of {cells} …")

            resumed = agent.resume(recording, files=wish.files, watch=watch)
            interrupts.stop = lambda: stop(resumed, "stopping …")
            return resumed

        try:
            async with (
                model_of(settings) as model,
                opened(wish, model, settings.format, wish.budget(), begin) as conversation,
            ):
                talk = _Talk(wish, conversation, interrupts, record)
                talk.end_interrupt()
                if isinstance(conversation, ResumedConversation):
                    talk.tell_resumed(conversation)
                if interactive:
                    say("/help lists the commands, Ctrl-D ends", "dim")
                async for message in _typed() if interactive else _lines():
                    if not await talk.take(message):
                        break
                delivered = await deliver(wish, conversation.session, talk.given)
        except asyncio.CancelledError:
            if not interrupts.signals:
                raise
            return interrupts.status
    return (0 if interactive else talk.status) or (0 if delivered else 1)


def _records(wish: Wish, resume: Path | None) -> tuple[TrajectoryWriter | None, Trajectory | None]:
    """Where to write what happens, if it is known already, and what happened before.

    A conversation that is resumed goes on in its own file, or in a new one that begins with the old.
    """
    if resume is None:
        return (TrajectoryWriter(wish.save) if wish.save else None), None
    if wish.save is None or (wish.save.exists() and wish.save.samefile(resume)):
        return TrajectoryWriter.reopen(resume)
    recording = load(resume)
    writer = TrajectoryWriter(wish.save)
    for event in recording.events:
        writer.write(event)
    return writer, recording


class _Record:
    """The recording of a chat. Nobody has to ask for it: it is begun with the first message."""

    def __init__(self, wish: Wish, writer: TrajectoryWriter | None, asked: bool) -> None:
        self.wish = wish
        self.writer = writer
        self.asked = asked
        self._tried = False

    def begin(self) -> TrajectoryWriter | None:
        """The writer, None where the conversation cannot be kept, which is told once."""
        if self.writer is None and not self._tried:
            self._tried = True
            try:
                self.writer = saved.begin()
            except UsageError as error:
                say(f"warning: {error}", "yellow")
        return self.writer

    def give_up(self) -> None:
        """The disk refuses what nobody asked for: the conversation goes on all the same."""
        self.writer = None

    def __enter__(self) -> _Record:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.writer is not None:
            self.writer.close()
            if self.wish.show != "answer" and (id := saved.id_of(self.writer.path)):
                say(f"kept: go on with codeact chat --resume {id}", "dim")


class _Talk:
    """A conversation and what the commands need of it."""

    def __init__(self, wish: Wish, conversation: Conversation, interrupts: Interrupts, record: _Record) -> None:
        self.wish = wish
        self.conversation = conversation
        self.interrupts = interrupts
        self.record = record
        self.readers = readers(wish)
        self.given = list(wish.files)
        self.untold = list(wish.files)
        """Files that go with the next message, so that the model is told of them."""
        self.status = 0

    @property
    def session(self) -> Session:
        return self.conversation.session

    async def take(self, line: str) -> bool:
        """Do what one line says. False to end."""
        line = line.strip()
        if not line:
            return True
        if line in ("/quit", "/exit"):
            return False
        try:
            if line.startswith("/"):
                await self._command(line)
            else:
                await self._message(line)
        except (UsageError, SandboxError, TrajectoryError) as error:
            if isinstance(error, TrajectoryError) and self.record.asked:
                raise  # the recording that was asked for cannot go on
            if isinstance(error, TrajectoryError):
                self.record.give_up()
            say(f"error: {short(str(error), 1000)}", "red")
            self.status = 5 if isinstance(error, SandboxError) else 2
        return True

    async def _message(self, text: str) -> None:
        self.interrupts.signals.clear()
        self.interrupts.stop = lambda: stop(self.conversation, "stopping …")
        try:
            end = await tell(self.conversation, text, self.untold, self.readers, self.record.begin())
        finally:
            self.interrupts.stop = None
        self.untold = []
        say_why(end)
        self.status = STATUS[end.reason]
        if end.reason == "cancelled":
            self.end_interrupt()

    def end_interrupt(self) -> None:
        """What was to be stopped has ended: go on, unless the signal asked for more than that."""
        self.interrupts.stop = None
        if self.interrupts.signals and self.interrupts.signals[0] != signal.SIGINT:  # asked to end, not only to stop
            raise asyncio.CancelledError
        self.interrupts.signals.clear()

    def tell_resumed(self, conversation: ResumedConversation) -> None:
        """Record and show what came back."""
        names = {path.name for path in conversation.restored}
        self.given = [*conversation.restored, *(file for file in self.given if file.name not in names)]
        self.untold = [file for file in self.untold if file.name not in names]
        writer = self.record.begin()
        for event in conversation.events[conversation.recorded :]:
            if writer:
                writer.write(event)
        for reader in self.readers:
            reader.show(conversation.resumed)

    async def _command(self, line: str) -> None:
        command, *arguments = line.split(maxsplit=2)
        match command, arguments:
            case "/help", []:
                _print(HELP)
            case "/files", []:
                _print_table([(short(f.path, 200), size_text(f.size)) for f in await self.session.files()], "no files")
            case "/files", ["put", path]:
                await self._put(_path(path))
            case "/files", ["get", rest]:
                await self._get(*rest.split(maxsplit=1))
            case "/state", []:
                variables = await self.session.variables()
                rows = [(short(v.name, 40), short(v.type, 40), _size(v.shape, v.length)) for v in variables]
                _print_table(rows, "no variables")
            case "/save", [path, *rest]:
                target = _path(" ".join([path, *rest]))
                save(target, self.conversation.events)
                say(f"saved: {target}", "dim")
            case _:
                raise UsageError(f"there is no command {short(line, 60)!r}; /help lists them")

    async def _put(self, path: Path) -> None:
        check_files([path])
        with path.open("rb") as file:
            await self.session.put(path.name, file)
        self.given = [f for f in self.given if f.name != path.name] + [path]
        self.untold = [f for f in self.untold if f.name != path.name] + [path]
        say(f"{path.name} is in the workspace; the model is told with your next message", "dim")

    async def _get(self, name: str, target: str = "") -> None:
        path = _path(target, Path(name).name)
        data = await self.session.get(name)
        try:
            with path.open("xb") as file:
                file.write(data)
        except FileExistsError as error:
            raise UsageError(f"{path} exists: name another with /files get {name} PATH") from error
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error
        say(f"saved: {path}", "dim")


def _path(given: str, name: str = "") -> Path:
    """A path as somebody types it; ``name`` is added to a directory."""
    path = Path(given).expanduser()
    return path / name if name and path.is_dir() else path


def _size(shape: tuple[int, ...] | None, length: int | None) -> str:
    return "×".join(map(str, shape)) if shape is not None else "" if length is None else str(length)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _print_table(rows: Sequence[tuple[str, ...]], empty: str) -> None:
    if not rows:
        say(empty, "dim")
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        _print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


# --- where messages come from -------------------------------------------------------------------------------------


async def _typed() -> AsyncIterator[str]:
    """What somebody types, with editing and a history that outlives the process."""
    session = _prompt_session()
    while True:
        try:
            yield await session.prompt_async("› ", handle_sigint=False)
        except KeyboardInterrupt:
            say("nothing runs; Ctrl-D or /quit ends", "dim")
        except EOFError:
            return


def _prompt_session() -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codeact" / "history"
    history: History
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        history = FileHistory(str(path))
    except OSError:
        history = InMemoryHistory()
    return PromptSession(history=history)


async def _lines() -> AsyncIterator[str]:
    """Lines of stdin, whatever it is. A thread reads: regular files cannot be waited for, and a read not be ended."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()

    def read() -> None:
        rest = b""
        while chunk := os.read(0, 65536):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                loop.call_soon_threadsafe(lines.put_nowait, line.decode("utf-8", "replace"))
        loop.call_soon_threadsafe(lines.put_nowait, rest.decode("utf-8", "replace"))
        loop.call_soon_threadsafe(lines.put_nowait, None)

    threading.Thread(target=read, daemon=True).start()
    while (line := await lines.get()) is not None:
        yield line
