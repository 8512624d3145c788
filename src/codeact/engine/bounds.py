"""What a request may be, before any route sees it: from where, how large, how slow."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codeact.engine.errors import Refused
from codeact.engine.metrics import Metrics
from codeact.engine.options import Options
from codeact.sandbox.api import Fault, Refusal

_DRAINED = 1 << 30  # bytes of a refused request that are read and thrown away,
_DRAINING = 10.0  # and seconds
_UPLOAD = re.compile(r"/v1/sessions/[^/]+/files/")


class Bounds:
    """An ASGI application around another. ``open_to_all``: the engine has no keys, so only this machine is served."""

    def __init__(self, app: ASGIApp, options: Options, metrics: Metrics, open_to_all: Callable[[], bool]) -> None:
        self._app = app
        self._options = options
        self._metrics = metrics
        self._open_to_all = open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status = 0
        body = _Body(receive, self._options.request)

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body", False) and not body.complete:
                # closing a connection with unread input takes the answer away from who still sends
                await send({**message, "more_body": True})
                await body.drain()
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        try:
            try:
                body.limit = self._admit(scope)
            except Refused as error:
                await refusal(error, self._metrics)(scope, receive, noted)
                return
            await self._app(scope, body, noted)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in ("GET", "POST", "PUT", "DELETE") else "other"
            self._metrics.requests.labels(method, route, str(status)).observe(time.monotonic() - began)

    def _admit(self, scope: Scope) -> int:
        """The most bytes that the body may have. Raises Refused."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if self._open_to_all():
            _check_local(scope, headers)
        upload = scope["method"] == "PUT" and _UPLOAD.match(scope["path"])
        limit = self._options.limits.file if upload else self._options.max_body
        length = headers.get(b"content-length", "0")
        if length.isdecimal() and int(length[:20]) > limit:
            raise _too_large(limit)
        return limit


class _Body:
    """A request's body as it arrives: so much, and no slower than a piece each ``pause`` seconds."""

    def __init__(self, receive: Receive, pause: float) -> None:
        self.limit = 0
        self.complete = False
        self._receive = receive
        self._pause = pause
        self._received = 0

    async def __call__(self) -> Message:
        """The next piece; after the last one, the end of the connection, whenever that is. Raises HTTPException."""
        if self.complete:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._pause)
        except TimeoutError as error:
            raise HTTPException(408, f"the request stopped for {self._pause:g} seconds") from error
        self.complete = not message.get("more_body", False)
        self._received += len(message.get("body", b""))
        if self._received > self.limit:
            raise HTTPException(413, str(_too_large(self.limit)))
        return message

    async def drain(self) -> None:
        """Read on for a moment and keep nothing."""
        left = _DRAINED
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAINING):
                while left > 0 and not self.complete:
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    self.complete = not message.get("more_body", False)


def _too_large(limit: int) -> Refused:
    return Refused(413, "body_size", f"the request is larger than the limit of {limit} bytes")


def _check_local(scope: Scope, headers: dict[bytes, str]) -> None:
    """Without keys: no other machine, and no page that a browser of this machine shows. Raises Refused."""
    remedy = "make a key with: codeact engine key add OWNER"
    client = scope.get("client")
    if client is None or not is_loopback(client[0]):
        raise Refused(403, "not_local", f"this engine has no keys and serves its own machine only; {remedy}")
    if not is_loopback(_host_of(f"//{headers.get(b'host', '')}")):  # a name of somebody's that resolves to this machine
        raise Refused(403, "not_local", f"this engine has no keys and answers to localhost only; {remedy}")
    origin = headers.get(b"origin")
    if origin is not None and not is_loopback(_host_of(origin)):
        raise Refused(403, "not_local", f"this engine has no keys and answers no page of another site; {remedy}")


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether this names the machine itself, to itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refusal(error: Refused, metrics: Metrics) -> Response:
    """How a refusal is told."""
    metrics.refusals.labels(error.cause).inc()
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status in (408, 413):
        headers["Connection"] = "close"  # nobody reads the rest
    body = Refusal(error=Fault(code=error.cause, message=str(error))).model_dump_json()
    return Response(body, error.status, headers, "application/json")
