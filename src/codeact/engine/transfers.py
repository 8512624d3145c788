"""Files in and out of a session's workspace, piece by piece: no file is whole in memory here."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from typing import IO, Annotated
from urllib.parse import quote

from fastapi import APIRouter, Path, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from codeact.engine import answers
from codeact.engine.errors import Refused
from codeact.engine.wiring import AManager, ATenant, SessionId
from codeact.errors import FileTransferError
from codeact.sandbox import api

_PIECE = 1 << 18
_IN_MEMORY = 1 << 20

router = APIRouter(tags=["files"])
FilePath = Annotated[str, Path(max_length=4096)]


@router.get("/v1/sessions/{id}/files", response_model=api.Files)
async def files(id: SessionId, manager: AManager, tenant: ATenant) -> Response:
    """The files of the workspace, hidden ones left out."""
    async with manager.find(tenant, id).use() as session:
        return answers.value(api.Files(files=await session.files()))


@router.put("/v1/sessions/{id}/files/{path:path}", status_code=204, openapi_extra={
    "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
})  # fmt: skip
async def upload(id: SessionId, path: FilePath, request: Request, manager: AManager, tenant: ATenant) -> None:
    """Write a file of the workspace: the request's body is its content."""
    found = manager.find(tenant, id)
    async with found.use() as session:
        with _file() as file:
            received = 0
            try:
                async for piece in request.stream():
                    received += len(piece)
                    if received > found.limits.file:
                        raise Refused(413, "file_size", f"{path}: larger than the limit of {found.limits.file} bytes")
                    _keep(file, piece)
            except ClientDisconnect as error:
                raise Refused(400, "disconnected", "the client went away before the file was whole") from error
            file.seek(0)
            await session.put(path, file)


@router.get("/v1/sessions/{id}/files/{path:path}", response_class=StreamingResponse,
            responses={200: {"content": {"application/octet-stream": {}}}})  # fmt: skip
async def download(id: SessionId, path: FilePath, manager: AManager, tenant: ATenant) -> Response:
    """Read a file of the workspace."""
    file = _file()
    try:
        async with manager.find(tenant, id).use() as session:
            try:
                await session.get_into(path, file)
            except FileTransferError as error:
                missing = "No such file" in str(error)
                raise (Refused(404, "file_transfer", str(error)) if missing else error) from error
        size = file.seek(0, 2)
        file.seek(0)
    except OSError as error:
        file.close()
        raise _no_room() from error
    except BaseException:
        file.close()
        raise
    # never shown as a page: it is the sandbox's, and so untrusted
    name = quote(path.rpartition("/")[2], safe="")
    headers = {
        "Content-Length": str(size),
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(_pieces(file), headers=headers, media_type="application/octet-stream")


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece


def _file() -> IO[bytes]:
    return tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)


def _keep(file: IO[bytes], piece: bytes) -> None:
    try:
        file.write(piece)
    except OSError as error:
        raise _no_room() from error


def _no_room() -> Refused:
    folder = tempfile.gettempdir()
    return Refused(507, "no_room", f"the engine has no room in {folder}: make some there, or set TMPDIR", 30)
