"""The relay between clients and the ports of a kernel: real sockets on both sides."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from codeact.sandbox.relay import Relay, established
from tests.sandbox.processes import until

PORT = 1  # stands for whichever port the kernel has


class Kernel:
    """What listens on TCP; ``connect`` is what process 1 does for the relay."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.listens = True
        self.asked = 0

    async def connect(self, port: int) -> socket.socket | None:
        assert port == PORT
        self.asked += 1
        if not self.listens:
            return None
        connection = socket.socket()
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.connect(self.socket.getsockname())
        assert await established(connection)
        return connection


@asynccontextmanager
async def relay(path: Path, kernel: Kernel) -> AsyncIterator[tuple[Relay, asyncio.Future[str]]]:
    gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    with kernel.socket, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path / "s"))
        listener.listen()
        listener.setblocking(False)
        made = Relay({PORT: listener}, kernel.connect, gone)
        try:
            yield made, gone
        finally:
            await made.close()


async def client(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, str(path / "s"))
    return connection


async def read_all(connection: socket.socket) -> bytes:
    data = b""
    while piece := await asyncio.wait_for(asyncio.get_running_loop().sock_recv(connection, 1 << 16), 10):
        data += piece
    return data


async def test_bytes_go_both_ways_once_the_kernel_listens(tmp_path: Path) -> None:
    loop, kernel = asyncio.get_running_loop(), Kernel()
    kernel.listens = False
    async with relay(tmp_path, kernel):
        with await client(tmp_path) as ours:
            await loop.sock_sendall(ours, b"said before it listens")
            await until(lambda: kernel.asked >= 3, "the relay tries again")
            kernel.listens = True
            theirs, _ = await asyncio.wait_for(loop.sock_accept(kernel.socket), 10)
            with theirs:
                assert await loop.sock_recv(theirs, 100) == b"said before it listens"
                await loop.sock_sendall(theirs, b"answer")
                assert await loop.sock_recv(ours, 100) == b"answer"
                ours.close()
                assert await asyncio.wait_for(loop.sock_recv(theirs, 100), 10) == b"", "a client that goes is told"


async def test_a_reader_that_does_not_read_slows_the_kernel_down(tmp_path: Path) -> None:
    loop, kernel = asyncio.get_running_loop(), Kernel()
    sent = 0
    async with relay(tmp_path, kernel):
        with await client(tmp_path) as ours:
            theirs, _ = await asyncio.wait_for(loop.sock_accept(kernel.socket), 10)
            with theirs:

                async def flood() -> None:
                    nonlocal sent
                    while sent < 64 << 20:
                        await asyncio.wait_for(loop.sock_sendall(theirs, bytes(1 << 16)), 0.5)
                        sent += 1 << 16

                with pytest.raises(TimeoutError):
                    await flood()
                assert 0 < sent < 32 << 20
                read = len(await loop.sock_recv(ours, 1 << 20))
                while read < sent:
                    read += len(await asyncio.wait_for(loop.sock_recv(ours, 1 << 20), 10))


async def test_the_last_words_of_a_kernel_are_passed_on(tmp_path: Path) -> None:
    loop, kernel = asyncio.get_running_loop(), Kernel()
    async with relay(tmp_path, kernel) as (_, gone):
        with await client(tmp_path) as ours:
            theirs, _address = await asyncio.wait_for(loop.sock_accept(kernel.socket), 10)
            await loop.sock_sendall(theirs, b"x" * 100_000)
            gone.set_result("killed")
            theirs.close()
            assert await read_all(ours) == b"x" * 100_000
        with await client(tmp_path) as late:  # waits for the next kernel's relay
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.sock_recv(late, 1), 0.1)
            assert kernel.asked == 1


async def test_closing_ends_every_connection(tmp_path: Path) -> None:
    loop, kernel = asyncio.get_running_loop(), Kernel()
    async with relay(tmp_path, kernel) as (made, _):
        with await client(tmp_path) as ours:
            theirs, _address = await asyncio.wait_for(loop.sock_accept(kernel.socket), 10)
            with theirs:
                await made.close()
                assert await asyncio.wait_for(loop.sock_recv(theirs, 1), 10) == b""
                assert await asyncio.wait_for(loop.sock_recv(ours, 1), 10) == b""
