"""Requests to an engine: retried where it is full, its refusals as our exceptions, its events as they come."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
from pydantic import BaseModel, ValidationError

from codeact.errors import (
    CodeActError,
    FileTransferError,
    IsolationUnavailable,
    KernelStartError,
    SandboxError,
    SessionClosed,
    StateLost,
    UsageError,
)
from codeact.sandbox.api import EVENTS, Refusal

_PATIENCE = 60.0  # seconds to try again where the engine is full
_SILENCE = 60.0  # seconds without a byte, of a stream that says every 15 that it lives
_ANSWER = 700.0  # seconds for an answer: longer than anything waits in an engine
_LONGEST_EVENT = 128 << 20

_KINDS: dict[str, type[CodeActError]] = {
    "state_lost": StateLost,
    "session_closed": SessionClosed,
    "not_found": SessionClosed,
    "file_transfer": FileTransferError,
    "file_size": FileTransferError,
    "body_size": FileTransferError,
    "isolation_unavailable": IsolationUnavailable,
    "kernel_start": KernelStartError,
    "usage": UsageError,
    "invalid": UsageError,
    "exists": UsageError,
    "differs": UsageError,
    "unauthorized": UsageError,
    "not_local": UsageError,
    "code_size": UsageError,
}

V = TypeVar("V", bound=BaseModel)


class Event(BaseModel):
    """One server-sent event; ``data`` is JSON text."""

    number: int
    kind: str
    data: bytes


class Link:
    """One engine by URL and key. Raises UsageError for what is no URL of HTTP."""

    def __init__(self, url: str, key: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} is not the URL of an engine: write http://HOST:PORT")
        key = key or os.environ.get("CODEACT_ENGINE_KEY")
        self.url = url.rstrip("/")
        self._client = httpx2.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(_ANSWER, connect=10.0, write=60.0),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=32),
            trust_env=parts.hostname not in ("localhost", "127.0.0.1", "::1"),  # no proxy on the way to oneself
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def ask(self, method: str, path: str, into: type[V], body: BaseModel | None = None, **query: object) -> V:
        """The answer as a value. Raises what the engine's refusal stands for, SandboxError where none answers."""
        answer = await self.send(method, path, body, **query)
        try:
            return into.model_validate_json(answer.content)
        except ValidationError as error:
            raise SandboxError(f"{self.url} does not answer as an engine does ({method} {path})") from error

    async def send(self, method: str, path: str, body: BaseModel | None = None, **query: object) -> httpx2.Response:
        """The same, as it came. Tries again for a while where the engine is full."""
        content = None if body is None else body.model_dump_json(exclude_defaults=True)
        headers = {} if content is None else {"Content-Type": "application/json"}
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                params: dict[str, Any] = query
                answer = await self._client.request(method, path, content=content, headers=headers, params=params)
            except httpx2.HTTPError as error:
                raise self.unreachable(error) from error
            pause = _pause(answer)
            if answer.is_success:
                return answer
            if pause is None or time.monotonic() + pause > deadline:
                raise refused(answer.status_code, answer.content)
            await asyncio.sleep(pause)

    async def upload(self, path: str, pieces: AsyncIterator[bytes]) -> None:
        try:
            answer = await self._client.put(path, content=pieces)
        except httpx2.HTTPError as error:
            raise self.unreachable(error) from error
        if not answer.is_success:
            raise refused(answer.status_code, answer.content)

    async def download(self, path: str) -> AsyncIterator[bytes]:
        """The pieces of a file. Raises FileTransferError where it does not arrive whole."""
        try:
            async with self._client.stream("GET", path) as answer:
                if not answer.is_success:
                    raise refused(answer.status_code, await answer.aread())
                async for piece in answer.aiter_bytes(1 << 18):
                    yield piece
        except httpx2.HTTPError as error:
            raise FileTransferError(f"the file did not arrive whole: {error or type(error).__name__}") from error

    @asynccontextmanager
    async def events(self, method: str, path: str, body: BaseModel | None = None, after: int = 0) -> AsyncIterator[
        AsyncIterator[Event]
    ]:  # fmt: skip
        """A stream of events. Raises httpx2.HTTPError where it breaks, else as ``ask``."""
        headers = {"Accept": EVENTS, "Content-Type": "application/json", "Last-Event-ID": str(after)}
        content = None if body is None else body.model_dump_json(exclude_defaults=True)
        timeout = httpx2.Timeout(_SILENCE, connect=10.0)
        async with self._client.stream(method, path, content=content, headers=headers, timeout=timeout) as answer:
            if not answer.is_success:
                pause = _pause(answer)
                error = refused(answer.status_code, await answer.aread())
                if pause is not None:
                    raise Full(error, pause)
                raise error
            yield _events(answer.aiter_raw())

    def unreachable(self, error: Exception) -> SandboxError:
        return SandboxError(f"no engine answers at {self.url}: {error or type(error).__name__}")


class Full(Exception):
    """The engine is full for now: to be tried again after ``pause`` seconds."""

    def __init__(self, error: CodeActError, pause: float) -> None:
        super().__init__(str(error))
        self.error = error
        self.pause = pause


def _pause(answer: httpx2.Response) -> float | None:
    after = answer.headers.get("retry-after", "")
    return float(after) if answer.status_code == 429 and after.isdecimal() and len(after) < 4 else None


async def _events(pieces: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """Server-sent events as the engine writes them: three lines each, the data in one."""
    buffer = bytearray()
    async for piece in pieces:
        searched = max(0, len(buffer) - 1)
        buffer += piece
        while (end := buffer.find(b"\n\n", searched)) >= 0:
            block = bytes(buffer[:end])
            del buffer[: end + 2]
            searched = 0
            if not block.startswith(b":"):
                yield _event(block)
        if len(buffer) > _LONGEST_EVENT:
            raise SandboxError("the engine sent an event that is too large to be read")


def _event(block: bytes) -> Event:
    fields = dict(line.split(b": ", 1) for line in block.split(b"\n", 2) if b": " in line)
    try:
        return Event(number=int(fields[b"id"]), kind=fields[b"event"].decode(), data=fields[b"data"])
    except (KeyError, ValueError) as error:
        raise SandboxError("the engine sent an event that cannot be read") from error


def refused(status: int, content: bytes) -> CodeActError:
    """The exception that a refusal stands for."""
    try:
        fault = Refusal.model_validate_json(content).error
    except ValidationError:
        return SandboxError(f"the engine refused with status {status}")
    return fault_error(fault.code, fault.message)


def fault_error(code: str, message: str) -> CodeActError:
    return _KINDS.get(code, SandboxError)(message)


def parsed(into: type[V], data: bytes | str) -> V:
    """A value that the engine sent. Raises SandboxError."""
    try:
        return into.model_validate_json(data)
    except (ValidationError, json.JSONDecodeError) as error:
        raise SandboxError(f"the engine sent a {into.__name__} that cannot be read") from error
