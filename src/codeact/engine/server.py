"""The engine as a process: it listens, serves, and on SIGTERM ends so that everybody is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Generator
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from codeact.engine import database
from codeact.engine.app import make_app
from codeact.engine.bounds import is_loopback
from codeact.engine.manager import Manager
from codeact.engine.options import Options
from codeact.errors import UsageError

_UNHEARD = 60.0  # seconds for a peer to take what it was sent, or to begin a request
_CLOSING = 10  # seconds for answers to leave, everything having ended


class Protocol(H11Protocol):
    """A connection on which no whole request arrives in time is closed."""

    _unheard: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(False)
        super().connection_lost(exc)

    def _expect(self, expected: bool = True) -> None:
        """Between requests, the next one has to be there before long: it is not put off by pieces of it."""
        if expected and (self.cycle is None or self.cycle.response_complete):
            self._unheard = self._unheard or self.loop.call_later(_UNHEARD, self._close_unheard)
        elif self._unheard is not None:
            self._unheard.cancel()
            self._unheard = None

    def _close_unheard(self) -> None:
        self._unheard = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """Drains before it closes; signals ask for that, and end nothing by themselves."""

    def __init__(self, config: uvicorn.Config, manager: Manager, started: Callable[[], object]) -> None:
        super().__init__(config)
        self._manager = manager
        self._told_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._told_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._manager.drain()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def serve(host: str, port: int, kind: str, options: Options, directory: Path, started: Callable[[str], object]) -> int:
    """Serve until a signal asks to stop; ``started`` is told the URL. Raises UsageError before it listens."""
    connection = database.connect(directory)
    try:
        locked = database.lock(directory)
        try:
            manager = Manager(kind, options, connection)
            if not manager.keys.exist() and kind == "unsafe-process":
                raise UsageError(
                    "without a boundary and without a key, every user of this machine could run code as you: "
                    "make a key with codeact engine key add OWNER"
                )
            if not manager.keys.exist() and not _all_loopback(host):
                raise UsageError(
                    f"without a key the engine listens on this machine only, and {host} is more: "
                    "make one with codeact engine key add OWNER, or use --host 127.0.0.1"
                )
            with _listen(host, port) as listener:
                url = _url(listener)
                config = uvicorn.Config(
                    make_app(manager), http=Protocol, ws="none", lifespan="on", log_config=None, log_level="error",
                    access_log=False, server_header=False, timeout_graceful_shutdown=_CLOSING, timeout_keep_alive=75,
                    backlog=2048, proxy_headers=False, h11_max_incomplete_event_size=64 << 10,
                )  # fmt: skip
                server = Server(config, manager, lambda: started(url))
                asyncio.run(server.serve([listener]))
        finally:
            os.close(locked)
    finally:
        connection.close()
    return 0


def _all_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"--host {host}: {error.strerror}") from error
    return all(is_loopback(str(address[4][0])) for address in found)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # connections inherit these: the system ends one whose peer takes nothing, or is gone without a word
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_UNHEARD * 1000))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}. Choose another --port") from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
