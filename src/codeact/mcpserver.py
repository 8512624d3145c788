"""``codeact mcp``: an MCP server whose tools are a stateful, sandboxed Python and the files of its workspace.

One session of the sandbox for each MCP session: the process's own over stdio, one for each ``Mcp-Session-Id`` over
HTTP.
The revision of the protocol without sessions (2026-07-28) is refused over HTTP, where a kernel could not be told whose
it is; clients fall back to the handshake, as that revision tells them.

Not protected: over HTTP, anybody who reaches the port can run code in the sandbox. There is no password; that is why it
listens on the loopback only, unless told otherwise, and refuses requests from web pages.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from codeact.errors import UsageError
from codeact.interrupts import Interrupts
from codeact.running import check_names, sandbox_of, say, warn_of

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server
    from starlette.types import ASGIApp, Receive, Scope, Send

    from codeact.contracts import Sandbox
    from codeact.mcpdesk import Desk
    from codeact.settings import Settings

MAX_LINE = 32 << 20
"""Bytes of one message over stdin."""

MOST_SESSIONS = 100
"""MCP sessions over HTTP at one time, each with a kernel."""

_LEAVING = 1  # seconds that open streams get when an HTTP server ends


async def serve(settings: Settings, http: str | None) -> int:
    """Serve until stdin ends (stdio) or a signal comes. ``http``: HOST:PORT. The exit status. Raises UsageError."""
    check_names(settings)
    where = _address(http) if http is not None else None
    try:
        from codeact.mcpdesk import Desk, server_of
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types"):
            raise
        raise UsageError('codeact mcp needs the extra "mcp": pip install "codeact[mcp]"') from error
    with Interrupts() as interrupts:
        try:
            async with sandbox_of(settings) as sandbox:
                warn_of(sandbox)
                if where is None:
                    desk = Desk(sandbox, settings.timeout)
                    await _over_stdio(server_of(settings, lambda context: desk))
                else:
                    await _over_http(settings, sandbox, *where, interrupts)
        except asyncio.CancelledError:
            if not interrupts.signals:
                raise
    return interrupts.status


# --- stdin and stdout ---------------------------------------------------------------------------------------------


async def _over_stdio(server: Server[Any]) -> None:
    async with _standard_streams() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


@asynccontextmanager
async def _standard_streams() -> AsyncIterator[tuple[Any, Any]]:
    """The transport over this process's stdin and stdout.

    While it lasts, descriptor 1 is stderr and 0 is empty, so that nothing but the protocol gets through. Threads that
    do not hold up the end of the process read and write: a client that neither speaks nor listens must not either.
    """
    import anyio
    from mcp.shared.message import SessionMessage
    from mcp_types import jsonrpc_message_adapter

    loop = asyncio.get_running_loop()
    wire_in, wire_out = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.dup2(2, 1)
    os.close(empty)
    lines: asyncio.Queue[bytes | None] = asyncio.Queue()
    heard, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, said = anyio.create_memory_object_stream[SessionMessage](0)

    async def hear() -> None:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            while (line := await lines.get()) is not None:
                try:
                    message: SessionMessage | Exception = SessionMessage(
                        jsonrpc_message_adapter.validate_json(line, by_name=False)
                    )
                except ValueError as error:
                    message = error
                await heard.send(message)
        await heard.aclose()

    async def say_all() -> None:
        async for message in said:
            data = message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
            if not await _in_thread(functools.partial(_write, wire_out, data)):
                await heard.aclose()  # nobody reads any more
                return

    threading.Thread(target=_read_lines, args=(wire_in, loop, lines), daemon=True).start()
    tasks = [asyncio.create_task(hear()), asyncio.create_task(say_all())]
    try:
        yield incoming, outgoing
    finally:
        for stream in (heard, incoming, outgoing, said):
            stream.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _read_lines(descriptor: int, loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[bytes | None]) -> None:
    rest = b""
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: the loop has ended
        while len(rest) <= MAX_LINE and (chunk := os.read(descriptor, 1 << 16)):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, None)


def _write(descriptor: int, data: bytes) -> bool:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError:
        return False
    return True


async def _in_thread(work: Callable[[], bool]) -> bool:
    """The outcome of work that may block for ever, on a thread that does not hold up the end of the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bool] = loop.create_future()

    def deliver(outcome: bool) -> None:
        if not done.done():
            done.set_result(outcome)

    def run() -> None:
        outcome = work()
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(deliver, outcome)

    threading.Thread(target=run, daemon=True).start()
    return await done


# --- streamable HTTP ----------------------------------------------------------------------------------------------


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--http {text[:100]}: write HOST:PORT, as in 127.0.0.1:8000")
    return host.strip("[]") or "127.0.0.1", int(port)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _over_http(settings: Settings, sandbox: Sandbox, host: str, port: int, interrupts: Interrupts) -> None:
    import uvicorn
    from mcp.server.transport_security import TransportSecuritySettings

    from codeact.mcpdesk import server_of

    def desk_of(context: Any) -> Desk:
        return _desk_of(context, sandbox, settings.timeout)

    names = ["127.0.0.1", "localhost", "[::1]"] if _is_loopback(host) else [f"[{host}]" if ":" in host else host]
    anywhere = host in ("0.0.0.0", "::")
    app = server_of(settings, desk_of).streamable_http_app(
        max_sessions=MOST_SESSIONS,
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=not anywhere,
            allowed_hosts=[f"{name}:*" for name in names] + names,
            allowed_origins=[],
        ),
    )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(f"--http {host}:{port}: {error.strerror or error}") from error
    with listening:
        config = uvicorn.Config(
            _Gate(app), log_level="error", access_log=False, lifespan="on", timeout_graceful_shutdown=_LEAVING
        )
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]  # ours do it
        interrupts.stop = lambda: setattr(server, "should_exit", True)
        shown = f"[{host}]" if ":" in host else host
        say(f"MCP server: http://{shown}:{listening.getsockname()[1]}/mcp", "dim")
        if not _is_loopback(host):
            say("WARNING: whoever reaches this address can run code in the sandbox", "bold red")
        await server.serve(sockets=[listening])


def _desk_of(context: Any, sandbox: Sandbox, timeout: float) -> Desk:
    """The desk of a request's connection, closed with it."""
    from codeact.mcpdesk import Desk

    connection = context.session._connection  # the SDK has no public way to it from a handler's context
    desk = connection.state.get("codeact")
    if desk is None:
        desk = connection.state["codeact"] = Desk(sandbox, timeout)
        connection.exit_stack.push_async_callback(desk.close)
    assert isinstance(desk, Desk)
    return desk


class _Gate:
    """Refuses what must not get through: web pages, and the protocol without sessions."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from mcp_types import UNSUPPORTED_PROTOCOL_VERSION
        from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
        from starlette.responses import Response

        if scope["type"] == "http":
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            if "origin" in headers:  # only browsers send it
                await Response("web pages have no business here", 403)(scope, receive, send)
                return
            asked = headers.get("mcp-protocol-version")
            if asked is not None and asked not in HANDSHAKE_PROTOCOL_VERSIONS:
                data = {"supported": list(HANDSHAKE_PROTOCOL_VERSIONS), "requested": asked[:100]}
                error = {"code": UNSUPPORTED_PROTOCOL_VERSION, "message": "sessions are needed here", "data": data}
                body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error})
                await Response(body, 400, media_type="application/json")(scope, receive, send)
                return
        await self._app(scope, receive, send)
