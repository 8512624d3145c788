"""Servers of the tests: plain HTTP and TLS that record what reached them, hellos of TLS, and a package index."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import trustme

AUTHORITY = trustme.CA()
"""Who signs the certificates here. Nobody else trusts it."""


@dataclass(frozen=True)
class Seen:
    """A request as it reached a server."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Site:
    """A running server: its port and what it has seen. ``files`` are served by their path."""

    port: int
    seen: list[Seen] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.body()
            site.seen.append(Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            url = urlsplit(self.path)
            if url.path == "/redirect":
                self.reply(302, b"", Location=parse_qs(url.query)["to"][0])
            elif url.path == "/echo":
                self.reply(200, body)
            elif url.path == "/chunks":
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.send_header("Connection", "X-Private, keep-alive")
                self.send_header("X-Private", "1")
                self.end_headers()
                self.wfile.write(b"4\r\nfour\r\n3\r\n-3-\r\n0\r\n\r\n")
            elif url.path == "/nothing":
                self.send_response(204)
                self.end_headers()
            elif url.path in site.files:
                self.reply(200, site.files[url.path])
            elif url.path == "/":
                self.reply(200, b"hello")
            else:
                self.reply(404, b"not here")

        do_GET = do_POST = do_PUT = do_HEAD = answer

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def reply(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            kind = "text/html" if self.path.startswith("/simple") else "application/octet-stream"
            for name, value in {"Content-Length": str(len(body)), "Content-Type": kind, **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that breaks off is part of the tests."""


@contextlib.contextmanager
def http(tls: str | None = None) -> Iterator[Site]:
    """A server on a port of 127.0.0.1; with ``tls`` over TLS, with a certificate for that name."""
    site = Site(0)
    with _Server(("127.0.0.1", 0), _handler(site)) as server:
        site.port = server.server_address[1]
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            AUTHORITY.issue_cert(tls).configure_cert(context)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        with _running(server):
            yield site


@contextlib.contextmanager
def _running(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


@dataclass
class Raw:
    """A server that answers with given bytes, or waits. ``connections``: what each of them brought."""

    port: int = 0
    answer: bytes = b""
    connections: list[bytearray] = field(default_factory=list)

    @property
    def received(self) -> bytes:
        return b"".join(map(bytes, self.connections))


@contextlib.contextmanager
def raw(answer: bytes = b"", host: str = "127.0.0.1") -> Iterator[Raw]:
    """It sends ``answer`` after the first bytes and closes; without an answer it reads to the end."""
    record = Raw(answer=answer)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            taken = bytearray()
            record.connections.append(taken)
            with contextlib.suppress(OSError):
                while piece := self.request.recv(65536):
                    taken.extend(piece)
                    if record.answer:
                        self.request.sendall(record.answer)
                        self.request.shutdown(socket.SHUT_WR)
                        return

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server((host, 0), Handler) as server:
        record.port = server.server_address[1]
        with _running(server):
            yield record


def hello(name: str | None) -> bytes:
    """The TLS hello that OpenSSL sends for this name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def with_extension(hello: bytes, kind: int, data: bytes = b"") -> bytes:
    """The hello, one extension more at its end."""
    message = bytearray(hello[5:])
    added = kind.to_bytes(2) + len(data).to_bytes(2) + data
    at = 4 + 2 + 32
    at += 1 + message[at]
    at += 2 + int.from_bytes(message[at : at + 2])
    at += 1 + message[at]
    message[at : at + 2] = (int.from_bytes(message[at : at + 2]) + len(added)).to_bytes(2)
    message[1:4] = (len(message) - 4 + len(added)).to_bytes(3)
    return records(bytes(message + added), 1 << 14)


def records(message: bytes, size: int) -> bytes:
    """A handshake message in TLS records of at most that many bytes."""
    pieces = [message[i : i + size] for i in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2) + piece for piece in pieces)


def wheel(directory: Path, name: str, version: str, source: str) -> Path:
    """A wheel with one module of that name."""
    path = directory / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)
    return path
