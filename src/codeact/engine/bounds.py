"""What a request may be, before any route sees it: from where, how large, how slow."""

from __future__ import annotations

import asyncio
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

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                limit = self._admit(scope)
            except Refused as error:
                await refusal(error, self._metrics)(scope, receive, noted)
                return
            await self._app(scope, self._bounded(receive, limit), noted)
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

    def _bounded(self, receive: Receive, limit: int) -> Receive:
        received = 0
        complete = False

        async def bounded() -> Message:
            nonlocal received, complete
            if complete:  # what comes now is the end of the connection, whenever that is
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self._options.request)
            except TimeoutError as error:
                raise HTTPException(408, f"the request stopped for {self._options.request:g} seconds") from error
            complete = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, str(_too_large(limit)))
            return message

        return bounded


def _too_large(limit: int) -> Refused:
    return Refused(413, "body_size", f"the request is larger than the limit of {limit} bytes")


def _check_local(scope: Scope, headers: dict[bytes, str]) -> None:
    """Without keys: no other machine, and no page that a browser of this machine shows. Raises Refused."""
    remedy = "make a key with: codeact engine key add OWNER"
    client = scope.get("client")
    if client is None or not is_loopback(client[0]):
        raise Refused(403, "not_local", f"this engine has no keys and serves its own machine only; {remedy}")
    host = urlsplit(f"//{headers.get(b'host', '')}").hostname or ""
    if not is_loopback(host):  # a name of somebody's that resolves to this machine
        raise Refused(403, "not_local", f"this engine has no keys and answers to localhost only; {remedy}")
    origin = headers.get(b"origin")
    if origin is not None and not is_loopback(urlsplit(origin).hostname or ""):
        raise Refused(403, "not_local", f"this engine has no keys and answers no page of another site; {remedy}")


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
