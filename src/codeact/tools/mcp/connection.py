"""One MCP server: connected to, called within a limit, and connected to again where it died or went silent.

All of it runs in one event loop. The SDK's client must be opened and closed by the same task: that is ``_serve``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import httpx2
import mcp_types as types
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import SubscriptionLost, ToolsListChanged
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from codeact import __version__
from codeact.errors import ToolError
from codeact.plaintext import short
from codeact.tools.mcp.config import HttpServer, ServerConfig, StdioServer
from codeact.tools.mcp.process import MAX_LINE, ServerProcess

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams
    from mcp.client.session import IncomingMessage

T = TypeVar("T")

_log = logging.getLogger(__name__)

MOST_RESTARTS = 5
"""How often a server of ours that died or went silent is started again in one run."""

_PROBE = 3.0  # seconds in which a server that once was silent must answer
_CLOSING = 10.0  # seconds
_MOST_PAGES = 50
_MOST_LISTED = 1000  # tools or resources of one server


class Connection:
    """A server by its name. Every method raises ToolError, with words for the code that called.

    ``changed`` is called when what the server offers may have changed: its name, and what else is to be told, or "".
    """

    def __init__(
        self,
        name: str,
        config: ServerConfig,
        *,
        start_limit: float,
        call_limit: float,
        changed: Callable[[str, str], None],
    ) -> None:
        self.name = name
        self.config = config
        self.start_limit = start_limit
        self.call_limit = config.timeout or call_limit
        self.changed = changed
        self.has_resources = False
        self.left_out = 0
        self._client: Client | None = None
        self._owner: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()
        self._process: ServerProcess | None = None
        self._starting = asyncio.Lock()
        self._starts = 0
        self._silent = False
        self._fault = ""
        self._closed = False

    # --- its life ---

    async def start(self) -> None:
        """Connect. Raises ToolError where the server does not start, or not in time."""
        async with self._starting:
            await self._start()

    async def _start(self) -> None:
        ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._silent, self._fault = False, ""
        self._starts += 1
        self._owner = asyncio.create_task(self._serve(ready, self._leave))
        try:
            await asyncio.wait({ready}, timeout=self.start_limit)
            if not ready.done():
                why = f"it did not answer within {self.start_limit:g} seconds"
                raise ToolError(f"the MCP server {self.name!r} did not start: {why}")
            self._client = ready.result()
        except BaseException:
            await self._stop()
            raise

    async def _serve(self, ready: asyncio.Future[Client], leave: asyncio.Event) -> None:
        """Hold the connection open until ``leave``."""
        try:
            async with Client(
                self._transport(),
                message_handler=self._heard,
                client_info=types.Implementation(name="codeact", version=__version__),
                read_timeout_seconds=self.call_limit,
                cache=None,
            ) as client:
                self.has_resources = client.server_capabilities.resources is not None
                if not ready.done():
                    ready.set_result(client)
                watch = None
                if client.protocol_version in MODERN_PROTOCOL_VERSIONS:
                    watch = asyncio.create_task(self._watch(client))
                try:
                    await leave.wait()
                finally:
                    if watch is not None:
                        watch.cancel()
                        await asyncio.wait({watch})
        except Exception as error:
            self._fault = f" ({self._reason(error)})"
            if not ready.done():
                failure = ToolError(f"the MCP server {self.name!r} did not start: {self._reason(error)}")
                failure.__cause__ = error
                ready.set_exception(failure)
        finally:
            ready.cancel()  # where it was ended before it was there

    def _transport(self) -> Any:
        if isinstance(self.config, StdioServer):
            self._process = ServerProcess(self.config)
            return self._process.streams()
        return _http(self.config)

    async def _watch(self, client: Client) -> None:
        """Be told of changes by a server of the protocol without a handshake."""
        with contextlib.suppress(MCPError, SubscriptionLost, TimeoutError, anyio.ClosedResourceError):
            async with client.listen(tools_list_changed=True) as told:
                async for event in told:
                    if isinstance(event, ToolsListChanged):
                        self.changed(self.name, "")

    async def _heard(self, message: IncomingMessage) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self.changed(self.name, "")

    async def _stop(self) -> None:
        starting, self._client = self._client is None, None
        owner, self._owner = self._owner, None
        if owner is None:
            return
        self._leave.set()
        if starting:
            owner.cancel()
        done, _ = await asyncio.wait({owner}, timeout=_CLOSING)
        if not done:
            owner.cancel()
            await asyncio.wait({owner}, timeout=_CLOSING)

    async def close(self) -> None:
        """End the connection, and a server of ours with all of its process group."""
        self._closed = True
        await self._stop()

    async def _connected(self) -> Client:
        """A client that answers, of a new process or connection where the old one is gone."""
        async with self._starting:
            if self._client is not None and not await self._lives(self._client):
                await self._stop()
            if self._client is None:
                if self._closed:
                    raise ToolError(f"the connection to the MCP server {self.name!r} is closed")
                if isinstance(self.config, StdioServer) and self._starts > MOST_RESTARTS:
                    raise ToolError(
                        f"the MCP server {self.name!r} was started again {MOST_RESTARTS} times and ended each time: "
                        "do without it"
                    )
                await self._start()
                self.changed(self.name, "it was started again, so that what it remembered is gone")
            assert self._client is not None
            return self._client

    async def _lives(self, client: Client) -> bool:
        if self._owner is None or self._owner.done() or (self._process is not None and self._process.ended):
            return False
        if self._silent:
            try:
                await asyncio.wait_for(client.session.list_tools(), _PROBE)
            except (MCPError, TimeoutError, ValidationError, anyio.ClosedResourceError):
                return False
            self._silent = False
        return True

    # --- what it is asked ---

    async def call(self, tool: str, arguments: dict[str, Any]) -> types.CallToolResult:
        """Call one of its tools by the server's own name for it."""
        return await self._ask(lambda client: client.call_tool(tool, arguments))

    async def read(self, uri: str) -> types.ReadResourceResult:
        return await self._ask(lambda client: client.read_resource(uri))

    async def tools(self) -> list[types.Tool]:
        """All that it offers, page by page; ``left_out`` counts what is beyond the limit."""

        async def pages(client: Client) -> list[types.Tool]:
            found: list[types.Tool] = []
            cursor = None
            for _ in range(_MOST_PAGES):
                page = await client.list_tools(cursor=cursor)
                found += page.tools
                cursor = page.next_cursor
                if cursor is None or len(found) > _MOST_LISTED:
                    break
            self.left_out = max(0, len(found) - _MOST_LISTED)
            return found[:_MOST_LISTED]

        return await self._ask(pages)

    async def resources(self) -> tuple[list[types.Resource], list[types.ResourceTemplate]]:
        """The resources that it lists, and its templates of addresses."""

        async def pages(client: Client) -> tuple[list[types.Resource], list[types.ResourceTemplate]]:
            found: list[types.Resource] = []
            cursor = None
            for _ in range(_MOST_PAGES):
                page = await client.list_resources(cursor=cursor)
                found += page.resources
                cursor = page.next_cursor
                if cursor is None or len(found) > _MOST_LISTED:
                    break
            try:
                templates = (await client.list_resource_templates()).resource_templates
            except MCPError:  # not every server with resources knows them
                templates = []
            return found[:_MOST_LISTED], templates[:_MOST_LISTED]

        return await self._ask(pages)

    async def _ask(self, question: Callable[[Client], Awaitable[T]]) -> T:
        client = await self._connected()
        try:
            async with asyncio.timeout(self.call_limit):
                return await question(client)
        except TimeoutError as error:
            raise self._too_late(client) from error
        except MCPError as error:
            if error.code == types.REQUEST_TIMEOUT:
                raise self._too_late(client) from error
            if error.code == types.CONNECTION_CLOSED:
                raise await self._died(client, error.message) from error
            if error.code == types.INVALID_REQUEST:
                self._silent = True  # so does a server answer that has forgotten our session: ask it before the next
            raise ToolError(f"the MCP server {self.name!r} refused: {short(error.message, 2000)}") from error
        except (anyio.ClosedResourceError, anyio.BrokenResourceError, OSError, httpx2.HTTPError) as error:
            raise await self._died(client, str(error)) from error
        except Exception as error:  # its answer does not keep to the protocol, or to its own schema
            raise ToolError(f"the MCP server {self.name!r} answered wrongly: {short(str(error), 1000)}") from error

    def _too_late(self, client: Client) -> ToolError:
        self._silent = self._silent or self._client is client
        return ToolError(
            f"the MCP server {self.name!r} did not answer within {self.call_limit:g} seconds; the call was given up "
            "(what it did so far may stand)"
        )

    async def _died(self, client: Client, why: str) -> ToolError:
        async with self._starting:
            if self._client is client:
                await self._stop()
        end = self._end() or f" ({short(why, 300)})"
        again = "it is started again" if isinstance(self.config, StdioServer) else "it is connected to again"
        return ToolError(f"the MCP server {self.name!r} ended during this call{end}; {again} with the next call")

    def _end(self) -> str:
        """How it ended, in brackets. The model may read it, so what the server said to people is not in it."""
        _log.warning("the MCP server %r ended; its last words: %s", self.name, self.last_words or "none")
        return f" ({self._process.end})" if self._process is not None and self._process.end else self._fault

    @property
    def last_words(self) -> str:
        """What a server of ours last wrote to stderr. For people only."""
        return self._process.last_words if self._process is not None else ""

    def _reason(self, error: BaseException) -> str:
        while isinstance(error, BaseExceptionGroup) and error.exceptions:
            error = error.exceptions[0]
        if isinstance(error, FileNotFoundError):
            assert isinstance(self.config, StdioServer)
            return f"there is no program {self.config.command!r}" + (
                f", or no directory {self.config.cwd!r}" if self.config.cwd else ""
            )
        end = f" ({self._process.end})" if self._process is not None and self._process.end else ""
        return short(f"{str(error) or type(error).__name__}{end}", 1000)


@asynccontextmanager
async def _http(config: HttpServer) -> AsyncIterator[TransportStreams]:
    """Streamable HTTP with the configured headers, and an end to what one answer may hold."""
    headers = {"Accept-Encoding": "identity", **config.headers}
    limits = httpx2.Timeout(30, read=300)  # seconds; a stream of events may be silent for long
    hooks = {"response": [_bound]}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=limits, event_hooks=hooks) as http,
        streamable_http_client(config.url, http_client=http, max_sse_event_size=MAX_LINE) as streams,
    ):
        yield streams


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for chunk in self._stream:
            seen += len(chunk)
            if seen > MAX_LINE:
                raise httpx2.StreamError(f"the answer is larger than {MAX_LINE >> 20} MiB")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bound(response: httpx2.Response) -> None:
    """The SDK bounds each event of a stream, but neither one answer nor what it unpacks to."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx2.StreamError("the answer is compressed although that was not asked for")
    if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(response.stream)
