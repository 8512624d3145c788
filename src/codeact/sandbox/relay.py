"""The host's side of a kernel that listens on TCP inside its session: carries bytes between its ports and the sockets
that clients know.

Nothing is read into what is carried, and nothing is heaped up: a piece is sent on before the next one is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from codeact.errors import SandboxError
from codeact.sandbox.forkserver import settle

_PIECE = 1 << 16  # bytes
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5  # seconds between two attempts to reach a kernel that is on its way
_ANSWER = 10.0  # seconds in which a connection inside one machine is there, or is none

Connect = Callable[[int], Awaitable[socket.socket | None]]


class Relay:
    """Accepts clients for one kernel, from its start until ``gone``; what it still said then is carried to its end.

    ``listeners`` are non-blocking and stay open, by the port of the kernel that each stands for; ``connect`` opens a
    connection to a port inside, or answers None where nobody listens there yet.
    """

    def __init__(self, listeners: Mapping[int, socket.socket], connect: Connect, gone: asyncio.Future[str]) -> None:
        self._connect = connect
        self._gone = gone
        self._carrying: set[asyncio.Task[None]] = set()
        self._accepting = [self._begin(self._accept(listener, port)) for port, listener in listeners.items()]
        gone.add_done_callback(self._stop_accepting)

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        return task

    def _stop_accepting(self, _: object = None) -> None:
        for task in self._accepting:
            task.cancel()

    async def close(self) -> None:
        """End every connection."""
        self._gone.remove_done_callback(self._stop_accepting)
        tasks = tuple(self._carrying)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, listener: socket.socket, port: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError:  # the client is gone again, or there is no descriptor to be had now
                await asyncio.sleep(_LONGEST_PAUSE)
                continue
            self._begin(self._carry(client, port))

    async def _carry(self, client: socket.socket, port: int) -> None:
        """One connection, until the kernel's end of it is closed and all it said has been passed on."""
        client.setblocking(False)
        with client, contextlib.suppress(OSError, SandboxError):
            inside = await self._reach(port)
            if inside is None:
                return
            with inside:
                asking = self._begin(_ask(client, inside))
                try:
                    await _pump(inside, client)
                finally:
                    asking.cancel()
                    await asyncio.wait({asking})  # it must be done with the sockets before they are closed

    async def _reach(self, port: int) -> socket.socket | None:
        """A connection to the kernel, as soon as it listens; None once it is gone."""
        pause = _FIRST_PAUSE
        while not self._gone.done():
            connection = await self._connect(port)
            if connection is not None:
                return connection
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return None


async def _ask(client: socket.socket, inside: socket.socket) -> None:
    """The client's words to the kernel. When the client is gone nobody is left to hear the kernel either."""
    with contextlib.suppress(OSError):
        await _pump(client, inside)
        inside.shutdown(socket.SHUT_RDWR)


async def _pump(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, _PIECE):
        await loop.sock_sendall(target, data)


async def established(connection: socket.socket) -> bool:
    """Whether a connection that is on its way comes to be. Raises TimeoutError after ten seconds."""
    loop = asyncio.get_running_loop()
    decided: asyncio.Future[None] = loop.create_future()
    loop.add_writer(connection, settle, decided)
    try:
        await asyncio.wait_for(decided, _ANSWER)
    finally:
        loop.remove_writer(connection)
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
