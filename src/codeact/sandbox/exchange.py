"""Plain HTTP through the proxy: a request's head, its target, and one exchange that is read and written anew.

Whatever two parsers could read in two ways is refused: bare line ends, folded fields, a length beside chunks. What is
sent on is written by ``h11`` from what it understood: the server sees the request that was checked and no other.

Sources: RFC 9110 section 7.6.1 (hop-by-hop fields), RFC 9112 (targets, framing).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable

import h11

from codeact.sandbox.link import Link, Pulse
from codeact.sandbox.network import HTTP, host_name, is_address
from codeact.sandbox.refusals import printable

LARGEST_HEAD = 32 << 10
"""Bytes of a request's or an answer's head."""

_AMBIGUOUS = re.compile(rb"(?<!\r)\n|\r[^\n]|\n[ \t]|\0")
_HOP_BY_HOP = {
    *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"),
    *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
}
_NEVER_DROPPED = {b"content-length"}  # whatever the Connection field says

_Headers = list[tuple[bytes, bytes]]


class Failed(Exception):
    """A request that cannot be served, through no rule: an HTTP status and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def plain_answer(status: int, reason: str, text: str) -> bytes:
    """A whole answer of the proxy's own, in plain text."""
    body = f"{printable(text, 4000)}\n".encode()
    head = f"HTTP/1.1 {status} {printable(reason, 400)}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


async def read_head(client: Link) -> tuple[bytes, bytes]:
    """The request's head and what came after it. Raises Failed, EOFError."""
    data = b""
    while True:
        piece = await client.read()
        if not piece:
            raise EOFError
        seen = max(0, len(data) - 3)
        data += piece
        end = data.find(b"\r\n\r\n", seen)
        head = data[: end + 4] if end >= 0 else data
        if len(head) > LARGEST_HEAD:
            raise Failed(431, f"a request's head has at most {LARGEST_HEAD} bytes")
        if _AMBIGUOUS.search(head, max(0, seen - 1)):
            raise Failed(400, "not HTTP: a line end or a folded field that is ambiguous")
        if end >= 0:
            return head, data[end + 4 :]


def parse_head(head: bytes) -> tuple[h11.Request, h11.Connection]:
    """The request and the protocol's state after it. Raises Failed."""
    protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=LARGEST_HEAD)
    protocol.receive_data(head)
    try:
        request = protocol.next_event()
    except h11.RemoteProtocolError as error:
        raise Failed(400, f"not HTTP: {error}") from error
    if not isinstance(request, h11.Request):
        raise Failed(400, "not HTTP")
    fields = [name for name, _ in request.headers]
    chunked = b"transfer-encoding" in fields
    if chunked and (b"content-length" in fields or request.http_version < b"1.1"):
        raise Failed(400, "a request has a length or comes in chunks, not both")
    if request.method == b"CONNECT" and (chunked or b"content-length" in fields):
        raise Failed(400, "CONNECT has no body")
    return request, protocol


def authority(text: str, usual: int | None) -> tuple[str, int]:
    """Host and port of ``HOST[:PORT]``. Raises Failed."""
    if is_address(text) and not text.startswith("["):
        host, digits = text, None
    else:
        parts = re.fullmatch(r"(\[[^\]]*\]|.*?)(?::([0-9]+))?", text, re.DOTALL)
        assert parts is not None
        host, digits = parts[1], parts[2]
    if digits is None and usual is None:
        raise Failed(400, "CONNECT needs a port")
    port = int(digits[:6]) if digits is not None else usual or 0
    if not 0 < port < 65536:
        raise Failed(400, "there is no such port")
    return host, port


def absolute_target(target: str) -> tuple[str, int, str]:
    """Host, port and path of ``http://HOST[:PORT]/PATH``. Raises Failed."""
    parts = re.fullmatch(r"http://([^/?#]+)([^#]*)", target, re.IGNORECASE)
    if parts is None:
        if target.lower().startswith("https:"):
            raise Failed(400, "https goes through a tunnel: ask for it with CONNECT")
        raise Failed(400, "this is a proxy: ask it for http://HOST/PATH")
    if "@" in parts[1]:
        raise Failed(400, "a URL with a user name or password is not carried")
    host, port = authority(parts[1], HTTP)
    return host, port, parts[2] if parts[2].startswith("/") else f"/{parts[2]}"


def check_host(request: h11.Request, name: str, port: int) -> None:
    """The Host field, where there is one, names the host of the URL. Raises Failed."""
    for field, value in request.headers:
        if field == b"host":
            try:
                host, its_port = authority(value.decode("latin-1"), HTTP)
                same = (host_name(host), its_port) == (name, port)
            except (ValueError, Failed):
                same = False
            if not same:
                raise Failed(400, "the Host field names another host than the URL")


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> _Headers:
    """The fields that are meant for the other end."""
    kept = list(headers)
    named = {part.strip().lower() for name, value in kept if name == b"connection" for part in value.split(b",")}
    dropped = _HOP_BY_HOP | (named - _NEVER_DROPPED)
    return [(name, value) for name, value in kept if name not in dropped]


class Exchange:
    """One request and its answer. Every connection carries one."""

    def __init__(self, client: Link, server: Link, protocol: h11.Connection, pulse: Pulse) -> None:
        self._client = client
        self._server = server
        self._asking = protocol  # with the client
        self._answering = h11.Connection(h11.CLIENT, max_incomplete_event_size=LARGEST_HEAD)  # with the server
        self._pulse = pulse
        self._answered = False

    async def run(self, request: h11.Request, host: str, path: str, rest: bytes) -> None:
        """Carry both. Raises Failed as long as nothing was answered, OSError and h11.ProtocolError later."""
        headers = [(n, v) for n, v in _end_to_end(request.headers) if n != b"host"]
        headers = [(b"host", host.encode()), *headers, (b"connection", b"close")]
        if any(field == b"transfer-encoding" for field, _ in request.headers):
            headers.append((b"transfer-encoding", b"chunked"))
        if rest:
            self._asking.receive_data(rest)
        try:
            start = h11.Request(method=request.method, target=path, headers=headers)
            await self._server.send(self._answering.send(start))
            body = asyncio.create_task(self._carry_body())
            try:
                await self._pulse.during(self._carry_answer(body))
            finally:
                body.cancel()
                await asyncio.gather(body, return_exceptions=True)
        except h11.ProtocolError as error:
            if self._answered:
                raise
            if self._asking.their_state is h11.ERROR:
                raise Failed(400, f"not HTTP: {error}") from error
            raise Failed(502, "the server's answer is not HTTP") from error
        except OSError as error:
            if self._answered:
                raise
            raise Failed(502, f"the server broke off: {error}") from error

    async def _carry_body(self) -> None:
        while True:
            event = self._asking.next_event()
            if event is h11.NEED_DATA:
                self._asking.receive_data(await self._client.read())
            elif isinstance(event, h11.Data):
                await self._server.send(self._answering.send(event))
            else:
                if isinstance(event, h11.EndOfMessage):  # without its trailers
                    await self._server.send(self._answering.send(h11.EndOfMessage()))
                return
            self._pulse.beat()

    async def _carry_answer(self, body: asyncio.Task[None]) -> None:
        while True:
            event = self._answering.next_event()
            self._pulse.beat()
            if event is h11.NEED_DATA:
                self._answering.receive_data(await self._read(body))
                continue
            if isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    raise h11.RemoteProtocolError("the server changes the protocol unasked")
                if event.status_code != 100 or not self._asking.they_are_waiting_for_100_continue:
                    continue
                event = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            elif isinstance(event, h11.Response):
                headers = [*_end_to_end(event.headers), (b"connection", b"close")]
                event = h11.Response(status_code=event.status_code, reason=event.reason, headers=headers)
                self._answered = True
            elif isinstance(event, h11.EndOfMessage):
                event = h11.EndOfMessage()
            elif not isinstance(event, h11.Data):
                raise h11.RemoteProtocolError("the server broke off")
            await self._client.send(self._asking.send(event))
            if isinstance(event, h11.EndOfMessage):
                return

    async def _read(self, body: asyncio.Task[None]) -> bytes:
        """The server's next bytes. A request that proves broken ends the wait; a server may answer before its end."""
        reading = asyncio.ensure_future(self._server.read())
        try:
            if not body.done():
                await asyncio.wait({reading, body}, return_when=asyncio.FIRST_COMPLETED)
            problem = body.exception() if body.done() else None
            if isinstance(problem, h11.ProtocolError):
                raise problem
            return await reading
        finally:
            reading.cancel()
