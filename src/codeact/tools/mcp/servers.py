"""MCP servers whose tools and resources are functions of the sandbox.

    async with McpServers.from_file("mcp.json") as servers:
        result = await Agent("gpt-5", tools=servers.tools).arun("…")

The servers are spoken to in the event loop that ``codeact.sync`` keeps, so that one set of them serves every agent of
the process, from whatever loop or thread.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

from codeact import payload, sync
from codeact.contracts import HostTool
from codeact.errors import ToolError, UsageError
from codeact.tools.mcp import config as configuration
from codeact.tools.mcp import results
from codeact.tools.mcp.config import ServerConfig
from codeact.tools.mcp.connection import Connection
from codeact.tools.mcp.functions import Function, McpTool
from codeact.tools.mcp.results import Answer
from codeact.tools.mcp.schema import Parameter, identifier, numbered

T = TypeVar("T")

START_LIMIT = 30.0
"""Seconds in which a server must be there."""

CALL_LIMIT = 45.0
"""Seconds that one call may take: less than the 60 that a piece of code may, so that the code is told."""

PROMPT_BUDGET = 12_000
"""Characters of the descriptions of all tools together, above which they are shortened to names."""

_OURS = ("list_mcp_tools", "call_mcp_tool", "list_resources", "read_resource")
_MOST_TOLD = 20  # functions named in a notice
_REFRESH_LIMIT = 5.0  # seconds
_MOST_LISTED = 200  # functions of one answer


class McpServers:
    """MCP servers, started by ``async with`` and ended with it. ``tools`` is what an Agent or a session takes.

    ``servers``: configurations by name. ``call_limit`` in seconds, where a server's own ``timeout`` does not say.
    Entering raises UsageError where a server cannot be started. ``warnings``: what else a person should know.
    """

    def __init__(
        self,
        servers: Mapping[str, ServerConfig],
        *,
        start_limit: float = START_LIMIT,
        call_limit: float = CALL_LIMIT,
    ) -> None:
        self.tools: tuple[HostTool, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self._functions: dict[str, McpTool] = {}
        self._late: set[str] = set()  # functions that came after the tools were handed out
        self._stale: dict[str, str] = {}  # servers whose list may have changed, and what else is to be told
        self._undefined: list[str] = []  # sources of functions that came, on their way to a kernel
        self._refreshing: asyncio.Lock | None = None
        self._connections = {
            name: Connection(name, server, start_limit=start_limit, call_limit=call_limit, changed=self._mark)
            for name, server in servers.items()
        }

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **limits: float) -> Self:
        """The servers of a file in the common ``mcpServers`` form; see ``config``. Raises UsageError."""
        return cls(configuration.read(path), **limits)

    # --- their life ---

    async def __aenter__(self) -> Self:
        logging.getLogger("mcp").addHandler(logging.NullHandler())  # the SDK's complaints are told as errors
        try:
            await _there(self._start())
        except ToolError as error:
            said = [f"{c.name}: {c.last_words}" for c in self._connections.values() if c.last_words]
            raise UsageError("; it said, ".join([str(error), *said])) from error
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.shield(_there(self._close()))

    async def _start(self) -> None:
        self._refreshing = asyncio.Lock()
        try:
            await _all(connection.start() for connection in self._connections.values())
            lists = await _all(connection.tools() for connection in self._connections.values())
        except BaseException:
            await self._close()
            raise
        self._stale.clear()
        counts: dict[str, int] = {}
        for name in (identifier(tool.name) for tools in lists for tool in tools):
            counts[name] = counts.get(name, 0) + 1
        for connection, tools in zip(self._connections.values(), lists, strict=True):
            for tool in tools:
                self._add(connection, tool, clashes=counts[identifier(tool.name)] > 1)
            if connection.left_out:
                self.warnings += (
                    f"the MCP server {connection.name!r} has {connection.left_out} tools too many: left out",
                )
        kept = _within_budget(list(self._functions.values()))
        self._late = set(self._functions) - {function.name for function in kept}
        self.tools = (*kept, *self._own(len(self._late)))

    async def _close(self) -> None:
        await asyncio.gather(*(connection.close() for connection in self._connections.values()))

    def _add(self, connection: Connection, tool: Any, clashes: bool = False) -> McpTool:
        """Give a tool its name as a function: its own where it is free, else with its server's before it."""
        taken = {*self._functions, *_OURS, *dir(builtins)}
        name = identifier(tool.name)
        if clashes or name in taken:
            name = numbered(identifier(f"{connection.name}_{tool.name}"), taken)
        function = McpTool(name, connection, tool, self._call)
        self._functions[name] = function
        return function

    # --- what changes ---

    def _mark(self, server: str, why: str) -> None:
        self._stale[server] = why or self._stale.get(server, "")

    async def _refresh(self) -> str:
        """Ask the servers that changed for their lists. What is to be told of it; functions that came are kept."""
        assert self._refreshing is not None
        notices: list[str] = []
        async with self._refreshing:
            for server, why in list(self._stale.items()):
                del self._stale[server]
                connection = self._connections[server]
                try:
                    async with asyncio.timeout(_REFRESH_LIMIT):  # the answer of another server may wait for this
                        tools = {tool.name: tool for tool in await connection.tools()}
                except (ToolError, TimeoutError):
                    notices.append(f"[MCP server {server!r}: its functions may have changed, and it does not tell how]")
                    continue
                known = {f.tool.name: f for f in self._functions.values() if f.group == server}
                gone = [function for name, function in known.items() if name not in tools]
                for function in gone:
                    del self._functions[function.name]
                new = [tool for name, tool in tools.items() if name not in known or known[name].tool != tool]
                came = [self._renew(connection, tool, known.get(tool.name)) for tool in new]
                self._undefined += [_late_stub(function) for function in came]
                notices += _told(server, why, came, gone)
        return "\n".join(notices)

    def _renew(self, connection: Connection, tool: Any, old: McpTool | None) -> McpTool:
        if old is None:
            function = self._add(connection, tool)
        else:
            function = self._functions[old.name] = McpTool(old.name, connection, tool, self._call)
        self._late.add(function.name)
        return function

    # --- calls ---

    async def _call(self, name: str, arguments: dict[str, object]) -> object:
        """What the stub of a tool asks for."""
        return await _there(self._answered(self._tool(name, arguments)))

    async def _tool(self, name: str, arguments: dict[str, object]) -> Answer:
        function = self._functions.get(name)
        if function is None:
            raise ToolError(f"there is no {name} any more: list_mcp_tools() tells what there is")
        return await function.answer(arguments)

    async def _answered(self, action: Awaitable[Answer]) -> object:
        """The answer and what is to be told with it, as ``codeact.sandbox.kernelmcp`` reads it."""
        try:
            answer = await action
        except ToolError as error:
            notice = await self._refresh() if self._stale else ""
            raise ToolError(f"{error}\n{notice}".strip()) from error
        notice = await self._refresh() if self._stale else ""
        define, self._undefined = "\n".join(self._undefined), []
        forged = isinstance(answer.value, dict) and set(answer.value) == {"$mcp"}
        if not (notice or define or forged):
            return payload.encode(answer.value)
        return {"$mcp": {"result": payload.encode(answer.value), "notice": notice, "define": define}}

    def _own(self, hidden: int) -> list[Function]:
        """The functions that are no tool of any server."""
        found = [
            self._function("list_mcp_tools", (_text("search", False),), "list[dict]", _LIST_TOOLS, self._list_tools),
            self._function(
                "call_mcp_tool",
                (_text("server"), _text("tool"), Parameter("arguments", "arguments", "dict", True, None, ())),
                "Any",
                _CALL_TOOL,
                self._call_tool,
            ),
        ]
        if hidden:
            found[0].description += f" {hidden} more functions can be found and used by it."
        if any(connection.has_resources for connection in self._connections.values()):
            server = _text("server", False)
            found += [
                self._function("list_resources", (server,), "list[dict]", _LIST_RESOURCES, self._list_resources),
                self._function("read_resource", (_text("uri"), server), "Any", _READ_RESOURCE, self._read_resource),
            ]
        return found

    def _function(
        self,
        name: str,
        parameters: tuple[Parameter, ...],
        returns: str,
        doc: str,
        action: Callable[[dict[str, Any]], Awaitable[Answer]],
    ) -> Function:
        return Function(name, parameters, returns, doc, lambda given: _there(self._answered(action(given))))

    async def _list_tools(self, given: dict[str, Any]) -> Answer:
        if self._stale:
            await self._refresh()
        word = (given.get("search") or "").lower()
        found = [f for f in self._functions.values() if word in f"{f.group} {f.name} {f.tool.description}".lower()]
        if len(found) > _MOST_LISTED:
            raise ToolError(f"{len(found)} functions fit: narrow it down, list_mcp_tools('word')")
        self._undefined = [_late_stub(function) for function in found if function.name in self._late]
        return Answer(
            [{"server": f.group, "function": f.name, "signature": f.signature, "description": f.purpose} for f in found]
        )

    async def _call_tool(self, given: dict[str, Any]) -> Answer:
        connection = self._connection(given["server"])
        for function in self._functions.values():
            if function.group == connection.name and given["tool"] in (function.name, function.tool.name):
                return await function.answer(given["arguments"])
        raise ToolError(f"the MCP server {connection.name!r} has no tool {given['tool'][:100]!r}: see list_mcp_tools()")

    async def _list_resources(self, given: dict[str, Any]) -> Answer:
        rows: list[dict[str, object]] = []
        for connection in self._with_resources(given.get("server")):
            rows += results.listed(connection.name, *await connection.resources())
        return Answer(rows)

    async def _read_resource(self, given: dict[str, Any]) -> Answer:
        uri = given["uri"]
        among = self._with_resources(given.get("server"))
        if len(among) > 1:
            among = [c for c in among if any(resource.uri == uri for resource in (await c.resources())[0])]
        if len(among) != 1:
            raise ToolError("say which server has it: read_resource(uri, server); list_resources() tells")
        return results.of_resource(uri, await among[0].read(uri))

    def _with_resources(self, server: str | None) -> list[Connection]:
        if server is not None:
            return [self._connection(server)]
        return [connection for connection in self._connections.values() if connection.has_resources]

    def _connection(self, server: str) -> Connection:
        if server not in self._connections:
            raise ToolError(f"there is no MCP server {server[:100]!r}; there is {', '.join(self._connections)}")
        return self._connections[server]


_LIST_TOOLS = """What the MCP servers offer now, functions that came since the start included.

They are defined by it, where they were not yet: call them by their names, help(name) tells more.
search: only those whose server, name or description holds this text."""
_CALL_TOOL = """Call a tool of an MCP server by its name; of use for one whose function is not defined.

See list_mcp_tools() for what there is."""
_LIST_RESOURCES = (
    """The resources of the MCP servers, or of one: server, uri (or uri_template), name, description, mime_type."""
)
_READ_RESOURCE = """What a resource of an MCP server holds: text as str, else bytes; several parts as a list.

server: needed where it cannot be told from the list which server has it."""


def _text(name: str, required: bool = True) -> Parameter:
    return Parameter(name, name, "str" if required else "str | None", required, None, ())


def _late_stub(function: McpTool) -> str:
    """A function that the session does not know as one of its tools is called by way of one that it knows."""
    return function.stub_for("call_mcp_tool", {"server": function.group, "tool": function.name})


def _told(server: str, why: str, came: Sequence[McpTool], gone: Sequence[McpTool]) -> list[str]:
    """The news of a server, one line."""
    news = [why] if why else []
    if came:
        shown = ", ".join(f.signature for f in came[:_MOST_TOLD]) + (" …" if len(came) > _MOST_TOLD else "")
        news.append(f"new or changed functions, defined now: {shown}")
    if gone:
        shown = ", ".join(f.name for f in gone[:_MOST_TOLD]) + (" …" if len(gone) > _MOST_TOLD else "")
        news.append(f"no longer there: {shown}")
    return [f"[MCP server {server!r}: {'; '.join(news)}]"] if news else []


def _within_budget(functions: list[McpTool]) -> list[McpTool]:
    """As many of them as fit the prompt, with shorter descriptions where there are many."""
    for length in (200, 60, 0):
        for function in functions:
            function.describe(length)
        if sum(len(function.description) + 3 for function in functions) <= PROMPT_BUDGET:
            return functions
    left = PROMPT_BUDGET
    return [function for function in functions if (left := left - len(function.description) - 3) >= 0]


async def _there(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run it in the servers' loop."""
    return await asyncio.wrap_future(sync.hand_over(coroutine))


async def _all(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All of them at once; where one fails, the others are ended first."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
