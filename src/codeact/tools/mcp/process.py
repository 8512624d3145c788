"""A stdio server: a process of its own session, spoken to in lines of JSON.

It gets a minimal environment and what the configuration gives it, never ours. What it writes to stderr is read and its
end kept for error messages; nothing of it reaches the terminal. When it is ended, all of its process group is.

Not protected: the program itself. It runs on the host with the rights of this process's user.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from codeact.plaintext import short
from codeact.tools.mcp.config import StdioServer

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

MAX_LINE = 16 << 20
"""Bytes of one message of a server. A longer one ends the connection."""

_INHERITED = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER")
_LAST_WORDS = 2000  # bytes of stderr that are kept
_PATIENCE = 1.0  # seconds: after stdin was closed, and again after SIGTERM
_POLL = 0.02  # seconds


def environment(config: StdioServer, ours: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the server's process gets: the minimal set of ours, and what its configuration says."""
    ours = os.environ if ours is None else ours
    return {name: ours[name] for name in _INHERITED if name in ours} | dict(config.env)


class ServerProcess:
    """A server's process. ``streams()`` starts it, carries its messages and ends it, whatever happens."""

    def __init__(self, config: StdioServer) -> None:
        self.config = config
        self.pid: int | None = None
        self.fault: str | None = None
        """Why nothing more can be heard from it, where that was its doing."""
        self._words = b""
        self._process: asyncio.subprocess.Process | None = None

    @property
    def ended(self) -> bool:
        return self.fault is not None or (self._process is not None and self._process.returncode is not None)

    @property
    def end(self) -> str:
        """How it ended, for people and models; empty while it lives."""
        code = self._process.returncode if self._process is not None else None
        how = "" if code is None else f"exit status {code}" if code >= 0 else signal.Signals(-code).name
        return self.fault or how

    @property
    def last_words(self) -> str:
        """The end of what it wrote to stderr, on one line. For people only: it may name paths and secrets."""
        return " ".join(short(self._words.decode("utf-8", "replace"), _LAST_WORDS).split())[-500:]

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[TransportStreams]:
        """The transport for the SDK's client. Raises OSError or ValueError where the program cannot be started."""
        config = self.config
        self._process = process = await asyncio.create_subprocess_exec(
            config.command,
            *config.args,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(config),
            cwd=config.cwd,
            start_new_session=True,  # no Ctrl-C of our terminal reaches it, and its group can be ended as one
            limit=MAX_LINE,
        )
        self.pid = process.pid
        heard, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        outgoing, said = anyio.create_memory_object_stream[SessionMessage](0)
        tasks = [
            asyncio.create_task(self._hear(process, heard)),
            asyncio.create_task(self._say(process, said, heard)),
            asyncio.create_task(self._listen_to_stderr(process)),
        ]
        try:
            yield incoming, outgoing
        finally:
            # a task of its own: whoever leaves may be cancelled, and the process must go all the same
            await _finish(asyncio.create_task(self._close(process, tasks)))
            for stream in (heard, incoming, outgoing, said):
                stream.close()

    async def _hear(
        self, process: asyncio.subprocess.Process, heard: anyio.abc.ObjectSendStream[SessionMessage | Exception]
    ) -> None:
        """Messages of the server until its stdout ends. What is no message is passed over: some print a banner."""
        assert process.stdout is not None
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            try:
                while line := await process.stdout.readline():
                    with contextlib.suppress(ValueError, RecursionError):
                        await heard.send(SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False)))
            except ValueError:  # how a StreamReader tells of a line beyond its limit
                self.fault = f"it sent a message of more than {MAX_LINE >> 20} MiB"
            if self.fault is None:
                await _within(_PATIENCE, lambda: process.returncode is not None)  # to tell how it ended
            await heard.aclose()

    async def _say(
        self,
        process: asyncio.subprocess.Process,
        said: anyio.abc.ObjectReceiveStream[SessionMessage],
        heard: anyio.abc.ObjectSendStream[SessionMessage | Exception],
    ) -> None:
        assert process.stdin is not None
        try:
            async for message in said:
                process.stdin.write(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                await process.stdin.drain()
        except OSError:
            await _within(_PATIENCE, lambda: process.returncode is not None)
            await heard.aclose()  # or a request would wait for ever

    async def _listen_to_stderr(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while some := await process.stderr.read(65536):
            self._words = (self._words + some)[-_LAST_WORDS:]

    async def _close(self, process: asyncio.subprocess.Process, tasks: list[asyncio.Task[None]]) -> None:
        """Close its stdin, which asks it to end; then end what is left of its group. Bounded."""
        tasks[1].cancel()
        assert process.stdin is not None
        process.stdin.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if await _within(_PATIENCE, lambda: process.returncode is not None and not _alive(process.pid)):
                break
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
        await _within(_PATIENCE, lambda: process.returncode is not None)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        process._transport.close()  # type: ignore[attr-defined]  # a grandchild may hold a pipe open


async def _within(limit: float, condition: Callable[[], bool]) -> bool:
    """Whether it comes true within ``limit`` seconds. For ends: ``Process.wait()`` waits for the pipes too."""
    loop = asyncio.get_running_loop()
    until = loop.time() + limit
    while not condition() and loop.time() < until:  # noqa: ASYNC110  # the end of a process group is no event
        await asyncio.sleep(_POLL)
    return condition()


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


async def _finish(task: asyncio.Task[None]) -> None:
    """Wait for the task even while being cancelled, and be cancelled then."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
