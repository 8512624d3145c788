"""What ``codeact mcp`` offers to one MCP session: tools over one session of the sandbox."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import mimetypes
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import mcp_types as types
from mcp.server.lowlevel import Server
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from codeact import __version__
from codeact.errors import CodeActError
from codeact.observation import render
from codeact.plaintext import short
from codeact.sandbox.kernel import KernelSession

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

    from codeact.contracts import ExecutionResult, Sandbox
    from codeact.settings import Settings

OUTPUT_LIMIT = 20_000
"""Characters of output that one answer shows; the whole of a longer one is a file of the workspace."""

MAX_FILE = 8 << 20
"""Bytes of a file that an answer carries."""

_TOLD_EVERY = 2.0  # seconds between two signs of life to whoever asked for progress


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Python(_Arguments):
    """Run Python."""

    code: str = Field(description="Python code. The value of its last expression is shown.")
    timeout: float | None = Field(None, gt=0, description="Seconds after which to stop it; no more than %g.")


class Restart(_Arguments):
    """Forget all variables and start with a new Python; the files of the workspace stay."""


class ListFiles(_Arguments):
    """List the files of the workspace with their sizes in bytes."""


class PutFile(_Arguments):
    """Write a file of the workspace."""

    path: str = Field(description="Relative to the workspace.")
    text: str | None = Field(None, description="What it is to hold, as text.")
    base64: str | None = Field(None, description="What it is to hold, as base64, in the place of text.")


class GetFile(_Arguments):
    """Read a file of the workspace: text as text, a picture as an image, anything else as base64."""

    path: str = Field(description="Relative to the workspace.")


_PURPOSE = (
    "Run Python in a sandboxed notebook. Variables, imports and files last from call to call. numpy, pandas and "
    "matplotlib are there; a figure that is shown comes back as an image. The working directory is the workspace. "
    "{network} One call may run for {timeout:g} seconds and use {memory} MiB of memory."
)


class Desk:
    """One session of the sandbox, opened when it is first needed, and what a client asks of it."""

    def __init__(self, sandbox: Sandbox, timeout: float) -> None:
        self._sandbox = sandbox
        self._timeout = timeout
        self._session: KernelSession | None = None
        self._opening = asyncio.Lock()
        self._turn = asyncio.Lock()
        self._left: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def session(self) -> KernelSession:
        async with self._opening:
            if self._session is None:
                session = await self._sandbox.session()
                assert isinstance(session, KernelSession)
                self._session = session
                if self._closed:
                    await session.close()
            return self._session

    async def close(self) -> None:
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def python(self, asked: Python, progress: Callable[[float], Awaitable[None]]) -> types.CallToolResult:
        """Run code. Being cancelled interrupts it; its variables stay."""
        session = await self._kept(self.session())
        limit = min(asked.timeout or self._timeout, self._timeout)
        begun = asyncio.Event()

        async def run() -> ExecutionResult:
            async with self._turn:
                begun.set()
                return await session.run(asked.code, timeout=limit)

        # beside the request's own task: code is stopped and its end awaited although the request is gone
        running = asyncio.create_task(run())
        self._left.add(running)
        running.add_done_callback(self._forget)
        started = time.monotonic()
        try:
            while not (await asyncio.wait({running}, timeout=_TOLD_EVERY))[0]:
                await progress(time.monotonic() - started)
        except asyncio.CancelledError:
            if not begun.is_set():
                running.cancel()
            elif not running.done():
                self._keep(session.interrupt())
            raise
        return _shown(running.result())

    async def restart(self, asked: Restart) -> types.CallToolResult:
        session = await self._kept(self.session())
        async with self._turn:
            await session.restart()
        return _said("The variables are gone, the files are there.")

    async def list_files(self, asked: ListFiles) -> types.CallToolResult:
        found = await (await self._kept(self.session())).files()
        rows = [f"{file.size:>12,}  {short(file.path, 500)}" for file in found]
        return _said("\n".join(rows) or "There are no files.")

    async def put_file(self, asked: PutFile) -> types.CallToolResult:
        if (asked.text is None) == (asked.base64 is None):
            return _said("give either text or base64", wrong=True)
        try:
            data = (
                (asked.text or "").encode() if asked.base64 is None else base64.b64decode(asked.base64, validate=True)
            )
        except ValueError:
            return _said("base64: this is not base64", wrong=True)
        await (await self._kept(self.session())).put(asked.path, data)
        return _said(f"{asked.path} holds {len(data):,} bytes")

    async def get_file(self, asked: GetFile) -> types.CallToolResult:
        session = await self._kept(self.session())
        size = next((file.size for file in await session.files() if file.path == asked.path.removeprefix("./")), 0)
        if size > MAX_FILE:
            return _said(
                f"{asked.path} has {size:,} bytes, more than {MAX_FILE:,}: read parts of it by code", wrong=True
            )
        data = await session.get(asked.path)
        mime = mimetypes.guess_type(asked.path)[0] or "application/octet-stream"
        if mime in ("image/png", "image/jpeg", "image/gif", "image/webp"):
            return types.CallToolResult(content=[_image(mime, base64.b64encode(data).decode())])
        with contextlib.suppress(UnicodeDecodeError):
            return _said(data.decode())
        blob = types.BlobResourceContents(
            uri=f"file:///workspace/{asked.path}", mime_type=mime, blob=base64.b64encode(data).decode()
        )
        return types.CallToolResult(content=[types.EmbeddedResource(type="resource", resource=blob)])

    async def _kept(self, opening: Any) -> KernelSession:
        """The session, opened to its end even where the request that needs it is cancelled."""
        task = self._keep(opening)
        await asyncio.wait({task})
        session: KernelSession = task.result()
        return session

    def _keep(self, coroutine: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.create_task(coroutine)
        self._left.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()  # told where it was asked for, or to nobody who is left


def server_of(settings: Settings, desk_of: Callable[[Any], Desk]) -> Server[Any]:
    """The MCP server; ``desk_of`` answers with the desk of a request's MCP session."""
    network = "There is no network."
    if settings.network == "host" or settings.allow_net:
        network = f"The network reaches {', '.join(settings.allow_net) or 'what this machine reaches'}."
    purpose = _PURPOSE.format(network=network, timeout=settings.timeout, memory=settings.memory)
    kinds: dict[str, type[_Arguments]] = {
        "python": Python, "restart": Restart, "list_files": ListFiles, "put_file": PutFile, "get_file": GetFile,
    }  # fmt: skip
    offered = []
    for name, kind in kinds.items():
        schema = kind.model_json_schema()
        said = schema.pop("description", "")
        if kind is Python:
            said = purpose
            schema["properties"]["timeout"]["description"] %= settings.timeout
        offered.append(types.Tool(name=name, description=said, input_schema=schema))

    async def list_tools(context: ServerRequestContext[Any], params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=offered)

    async def call_tool(
        context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        if params.name not in kinds:
            return _said(f"there is no tool {params.name[:100]!r}; there is {', '.join(kinds)}", wrong=True)
        try:
            asked = kinds[params.name].model_validate(params.arguments or {})
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            return _said(f"wrong arguments: {short(problems, 1000)}", wrong=True)
        desk = desk_of(context)
        try:
            if isinstance(asked, Python):
                return await desk.python(
                    asked, lambda seconds: context.session.report_progress(seconds, None, "running")
                )
            action: Callable[[Any], Awaitable[types.CallToolResult]] = getattr(desk, params.name)
            return await action(asked)
        except CodeActError as error:
            return _said(str(error), wrong=True)

    return Server(
        "codeact",
        version=__version__,
        instructions="A notebook of Python in a sandbox: variables and files last as long as this connection.",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def _shown(result: ExecutionResult) -> types.CallToolResult:
    """What a model reads of an execution, and its pictures."""
    seen = render(result, limit=OUTPUT_LIMIT)
    images = [_image(image.mime, image.data) for image in seen.images]
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=seen.text), *images], is_error=result.status != "ok"
    )


def _image(mime: str, data: str) -> types.ImageContent:
    return types.ImageContent(type="image", mime_type=mime, data=data)


def _said(text: str, wrong: bool = False) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=wrong)
