"""A real MCP server with every habit that servers have: ``python mcp_program.py stdio``, or ``http`` (prints its port).

``--token T``: over HTTP, requests must carry it. ``--legacy``: only the protocol with a handshake.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
from typing import Any, Literal

import uvicorn
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import BaseModel, Field
from starlette.responses import PlainTextResponse, Response

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001a5f64540"
    "0000000049454e44ae426082"
)
server = MCPServer("habits")


class Place(BaseModel):
    """Where something is."""

    city: str = Field(description="The city's name.")
    zip: str | None = None


@server.tool()
def add(a: int, b: int = 2) -> int:
    """Add two numbers.

    More than one paragraph.
    """
    return a + b


@server.tool()
def visit(place: Place, mode: Literal["walk", "ride"] = "walk") -> dict[str, Any]:
    """Go somewhere."""
    return {"went": place.city, "mode": mode}


@server.tool(structured_output=False)
def greet(name: str) -> str:
    """Say hello."""
    return f"hello {name}"


@server.tool(structured_output=False)
def picture() -> Image:
    """A picture of one point."""
    return Image(data=PIXEL, format="png")


@server.tool()
def fail(reason: str) -> str:
    """Never works."""
    raise ToolError(reason)


@server.tool()
def die() -> str:
    """End the server."""
    sys.stderr.write("my last words\x1b[31m\n")
    sys.stderr.flush()
    os._exit(3)


@server.tool()
async def hang() -> str:
    """Never answer, and ignore being cancelled."""
    await asyncio.to_thread(lambda: [None for _ in iter(lambda: __import__("time").sleep(0.1), 0)])
    return "never"


@server.tool()
def stop_listening() -> str:
    """Stop the whole process with its stdin open."""
    import signal

    os.kill(os.getpid(), signal.SIGSTOP)
    return "woken"


@server.tool(structured_output=False)
def repeat(size: int) -> str:
    """Much text."""
    return "x" * size


@server.tool()
def shrink() -> str:
    """What is not there for long."""
    return "still there"


@server.tool()
def pid() -> int:
    """The server's process."""
    return os.getpid()


@server.tool()
def variables() -> list[str]:
    """The names in the server's environment."""
    return sorted(os.environ)


@server.tool()
def variable(of: str) -> str | None:
    return os.environ.get(of)


@server.tool()
def leave_child() -> int:
    """Start a process that outlives the server, and tell its number."""
    return subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).pid


@server.tool()
async def grow(context: Context) -> str:
    """Learn another tool."""

    def multiply(a: int, b: int) -> int:
        """Multiply two numbers."""
        return a * b

    server.add_tool(multiply)
    server.remove_tool("shrink")
    await context.session.send_tool_list_changed()
    await context.notify_tools_changed()
    return "grown"


@server.resource("notes://today", mime_type="text/plain")
def today() -> str:
    """What is to be done."""
    return "buy milk"


@server.resource("notes://point", mime_type="image/png")
def point() -> bytes:
    return PIXEL


class Door:
    """Lets in who has the token, and, where asked to, only who speaks the older protocol."""

    def __init__(self, app: Any, token: str | None, legacy: bool) -> None:
        self.app, self.token, self.legacy = app, token, legacy

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope.get("headers", ())}
        answer: Response | None = None
        if scope["type"] == "http":
            if self.token is not None and headers.get("authorization") != f"Bearer {self.token}":
                answer = PlainTextResponse("who are you?", 401)
            elif self.legacy and headers.get("mcp-protocol-version") not in (None, *HANDSHAKE_PROTOCOL_VERSIONS):
                answer = PlainTextResponse("not here", 404)
        await (answer or self.app)(scope, receive, send)


def serve_http(token: str | None, legacy: bool, port: int) -> None:
    app = Door(server.streamable_http_app(), token, legacy)
    with socket.create_server(("127.0.0.1", port)) as listening:
        sys.stdout.write(f"{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        config = uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=1)
        asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("transport", choices=["stdio", "http"])
    parser.add_argument("--token")
    parser.add_argument("--legacy", action="store_true")
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    if given.transport == "stdio":
        server.run()
    else:
        serve_http(given.token, given.legacy, given.port)
