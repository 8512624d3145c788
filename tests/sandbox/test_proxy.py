"""The proxy alone, on a port of this machine, with real servers behind it: what passes, and what does not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

import codeact
from codeact.sandbox.network import Network
from codeact.sandbox.proxy import CONNECTIONS, Patience, Proxy
from codeact.sandbox.refusals import Refusals
from tests.sandbox.processes import until
from tests.sandbox.web import AUTHORITY, Seen, hello, http, raw, records, with_extension

SOURCE = str(Path(codeact.__file__).parents[1])
CONNECT = "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
Resolve = Callable[[str], Awaitable[Sequence[str]]]


@contextlib.asynccontextmanager
async def proxy(
    *rules: str,
    resolve: Resolve | None = None,
    permitted: Callable[[str], bool] | None = None,
    patience: Patience | None = None,
) -> AsyncIterator[tuple[Proxy, int]]:
    """A running proxy and its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    options = {} if permitted is None else {"permitted": permitted}
    served = Proxy(Network.of(allow_net=rules), "s1", resolve=resolve or nowhere, patience=patience, **options)
    served.start(listener)
    try:
        yield served, listener.getsockname()[1]
    finally:
        await served.close()


async def nowhere(name: str) -> list[str]:
    raise OSError(f"nobody is to look up {name} here")


async def ask(port: int, *pieces: bytes | str, end: bool = False) -> bytes:
    """What the proxy sends, to its end, to who sends these pieces."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(20):
            for piece in pieces:
                writer.write(piece.encode("latin-1") if isinstance(piece, str) else piece)
                await writer.drain()
            if end:
                writer.write_eof()
            return await reader.read()
    finally:
        writer.transport.abort()


def get(url: str, host: str | None = None, more: str = "") -> str:
    host = host if host is not None else url.split("/")[2]
    return f"GET {url} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n"


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


# --- what passes ---


async def test_a_request_reaches_the_server_as_a_clients_own() -> None:
    with http() as site:
        async with proxy(f"web.example.org={site.address}") as (served, port):
            more = (
                "Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nConnection: X-Hop\r\nX-Hop: 1\r\n"
            )
            answer = await ask(port, get("http://WEB.Example.ORG.:80/?a=1", more=f"{more}X-End: 1\r\n"))
        assert (status(answer), body(answer)) == (200, b"hello")
        headers = {"host": "web.example.org", "connection": "close", "x-end": "1"}
        assert site.seen == [Seen("GET", "/?a=1", headers, b"")]
        assert served.refusals.told() is None


@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_pass(chunked: bool) -> None:
    data = os.urandom(300_000)
    with http() as site:
        async with proxy(f"web.example.org={site.address}") as (_, port):
            head = "POST http://web.example.org/echo HTTP/1.1\r\nHost: web.example.org\r\n"
            if chunked:
                sent = [f"{head}Transfer-Encoding: chunked\r\n\r\n".encode(), b"%x\r\n%b\r\n" % (len(data), data)]
                answer = await ask(port, *sent, b"0\r\nTrailer: x\r\n\r\n")
            else:
                answer = await ask(port, f"{head}Content-Length: {len(data)}\r\n\r\n", data)
        assert (status(answer), body(answer)) == (200, data) and site.seen[0].body == data


async def test_a_client_that_waits_to_be_told_sends_its_body() -> None:
    with http() as site:
        async with proxy(f"a.org={site.address}") as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = "POST http://a.org/echo HTTP/1.1\r\nHost: a.org\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
            writer.write(head.encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 Continue\r\n")
            writer.write(b"body")
            answer = await reader.read()
            writer.transport.abort()
        assert (status(answer), body(answer)) == (200, b"body")


async def test_answers_of_every_shape_pass() -> None:
    with http() as site, raw(b"HTTP/1.0 200 OK\r\n\r\nuntil the end") as old:
        async with proxy(f"web.org={site.address}", f"old.org=127.0.0.1:{old.port}") as (_, port):
            chunks = await ask(port, get("http://web.org/chunks"))
            assert body(chunks) == b"4\r\nfour\r\n3\r\n-3-\r\n0\r\n\r\n"
            assert b"x-private" not in chunks.lower() and b"connection: close" in chunks.lower()
            assert status(await ask(port, get("http://web.org/nothing"))) == 204
            head = await ask(port, get("http://web.org/").replace("GET", "HEAD"))
            assert b"content-length: 5" in head.lower() and body(head) == b""
            assert b"until the end" in body(await ask(port, get("http://old.org/")))
            plain = await ask(port, "GET http://old.org/ HTTP/1.0\r\n\r\n")
            assert body(plain) == b"until the end"


async def test_tls_passes_from_end_to_end() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(context)
    with http(tls="files.example.org") as site:
        async with proxy(f"*.example.org:8443={site.address}") as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(CONNECT.format("files.example.org:8443").encode())
            assert await reader.readexactly(len(ESTABLISHED)) == ESTABLISHED
            await writer.start_tls(context, server_hostname="files.example.org")
            writer.write(b"GET / HTTP/1.1\r\nHost: files.example.org\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).endswith(b"hello")
            writer.transport.abort()
        assert [seen.path for seen in site.seen] == ["/"]


async def test_a_hello_in_many_pieces_passes_whole() -> None:
    whole = records(hello("a.org")[5:], 40)
    with raw(b"answer") as server:
        async with proxy(f"a.org={'127.0.0.1'}:{server.port}") as (served, port):
            pieces = [whole[i : i + 7] for i in range(0, len(whole), 7)]
            assert await ask(port, CONNECT.format("A.org.:443"), *pieces) == ESTABLISHED + b"answer"
        assert whole.startswith(server.received) and server.received
        assert served.refusals.count == 0


# --- what does not ---

ADDRESSES = (
    "127.0.0.1", "169.254.169.254", "8.8.8.8", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "0",
    "[::1]", "[::ffff:127.0.0.1]", "[fe80::1%25eth0]", "[fd00:ec2::254]", "[64:ff9b::7f00:1]", "1.2.3.4.5", "1.2.3.",
    "0X7F.0.0.1",
)  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
async def test_addresses_are_refused_in_every_notation(address: str) -> None:
    async with proxy("a.org") as (served, port):
        for sent in (CONNECT.format(f"{address}:443"), get(f"http://{address}/"), get(f"http://{address}:80/x")):
            answer = await ask(port, sent)
            assert status(answer) == 403 and b"an IP address, not a name" in body(answer), answer
        assert served.refusals.count == 3
        assert f"{address}:443 (an IP address, not a name)" in (served.refusals.told() or "")


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (CONNECT.format("evil.org:443"), "evil.org:443: not in --allow-net"),
        (CONNECT.format("sub.a.org:443"), "not in --allow-net"),
        (CONNECT.format("a.org.evil.org:443"), "not in --allow-net"),
        (CONNECT.format("b.org:443"), "not in --allow-net"),  # *.b.org is its subdomains only
        (CONNECT.format("xb.org:443"), "not in --allow-net"),
        (CONNECT.format("a.org:25"), "not a port that is allowed there"),
        (CONNECT.format("a.org:80"), "not a port that is allowed there"),
        (CONNECT.format("p.org:443"), "not a port that is allowed there"),
        (get("http://a.org:443/"), "not a port that is allowed there"),
        (get("http://evil.org/"), "evil.org:80: not in --allow-net"),
        (get("http://evil.org/", host="a.org"), "evil.org:80: not in --allow-net"),
        (get("http://a_very%20strange/"), "not a host name"),
        (get("http://:80/"), "not a host name"),
    ],
)
async def test_what_no_rule_allows_is_refused_and_told(sent: str, reason: str) -> None:
    async with proxy("a.org", "*.b.org", "p.org:8443") as (served, port):
        answer = await ask(port, sent)
        told = served.refusals.told() or ""
    assert status(answer) == 403 and reason in body(answer).decode() and reason in answer.decode().splitlines()[0]
    assert "a.org, *.b.org, p.org:8443" in body(answer).decode() and "--allow-net NAME" in body(answer).decode()
    assert reason.split(": ")[-1] in told


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (hello("evil.org"), "the TLS hello names evil.org"),
        (hello("sub.a.org"), "the TLS hello names sub.a.org"),
        (hello(None), "without a server name"),
        (with_extension(hello("a.org"), 0xFE0D), "hide another name"),
        (b"GET / HTTP/1.1\r\nHost: a.org\r\n\r\n", "not TLS"),
        (b"SSH-2.0-OpenSSH_9\r\n", "not TLS"),
        (b"EHLO me\r\n", "not TLS"),
        (b"", "no TLS hello came"),
    ],
)
async def test_a_tunnel_is_for_tls_with_that_name_only(sent: bytes, reason: str) -> None:
    with raw() as server:
        async with proxy(f"a.org=127.0.0.1:{server.port}", patience=Patience(head=0.5)) as (served, port):
            assert await ask(port, CONNECT.format("a.org:443"), sent) == ESTABLISHED
            told = served.refusals.told() or ""
            assert "a.org:443 (" in told and reason in told
        assert server.received == b""


@pytest.mark.parametrize(
    "sent",
    [
        "POST http://a.org/ HTTP/1.1\r\nHost: a.org\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        "POST http://a.org/ HTTP/1.1\r\nHost: a.org\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
        "POST http://a.org/ HTTP/1.1\r\nHost: a.org\r\nContent-Length: +4\r\n\r\nabcd",
        "POST http://a.org/ HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: identity\r\n\r\n",
        "POST http://a.org/ HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: x, chunked\r\n\r\n0\r\n\r\n",
        "POST http://a.org/ HTTP/1.0\r\nHost: a.org\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST http://a.org/ HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "GET http://a.org/ HTTP/1.1\r\nHost: a.org\r\nHost: b.org\r\n\r\n",
        "GET http://a.org/ HTTP/1.1\r\n\r\n",
        get("http://a.org/", host="evil.org"),
        get("http://a.org/", host="a.org:81"),
        get("http://a.org/", host="a.org, evil.org"),
        get("http://a.org/", more="X: 1\r\n folded\r\n"),
        get("http://a.org/", more="X: 1\nY: 2\r\n"),
        get("http://a.org/", more="X: 1\rY: 2\r\n"),
        get("http://a.org/", more="X: \0\r\n"),
        "GET http://a.org/ HTTP/1.1\nHost: a.org\n\n",
        "GET http://a.org/ x HTTP/1.1\r\nHost: a.org\r\n\r\n",
        get("http://a.org@evil.org/", host="a.org"),
        get("http://user:word@a.org/", host="a.org"),
        get("http://a.org/#x", host="a.org"),
        get("http://a.org:99999/", host="a.org"),
        get("https://a.org/"),
        get("ftp://a.org/"),
        get("/", host="a.org"),
        get("*", host="a.org"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "CONNECT a.org HTTP/1.1\r\nHost: a.org\r\n\r\n",
        "CONNECT a.org:443 HTTP/1.1\r\nHost: a.org\r\nContent-Length: 3\r\n\r\nabc",
        "\x16\x03\x01\x00\x05hello\r\n\r\n",
        "\r\n\r\n",
        get("http://a.org/", more="X: " + "x" * 40_000 + "\r\n"),
        get("http://a.org/", more="X: x\r\n" * 8000),
    ],
)
async def test_what_can_be_read_in_two_ways_reaches_nobody(sent: str) -> None:
    with raw(b"HTTP/1.1 200 OK\r\n\r\n") as server:
        async with proxy(f"a.org=127.0.0.1:{server.port}") as (_, port):
            assert status(await ask(port, sent)) in (400, 431)
        assert server.received == b""


@pytest.mark.parametrize(
    "chunk", ["zz\r\n", "5\r\nabcdeX", "-1\r\n", "5;\nabcde\r\n", "0x5\r\nabcde\r\n", "f" * 25 + "\r\n"]
)
async def test_a_broken_chunk_ends_the_request(chunk: str) -> None:
    head = "POST http://a.org/echo HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    with raw() as server:
        async with proxy(f"a.org=127.0.0.1:{server.port}") as (_, port):
            assert status(await ask(port, head + chunk)) == 400
            await until(lambda: b"\r\n\r\n3\r\nabc\r\n" in server.received, "what was sound has arrived")
    assert not server.received.endswith(b"0\r\n\r\n")


async def test_only_the_first_request_of_a_connection_is_served() -> None:
    with http() as site:
        async with proxy(f"a.org={site.address}") as (_, port):
            answer = await ask(port, get("http://a.org/") + get("http://evil.org/") + get("http://a.org/echo"))
        assert answer.count(b"HTTP/1.1") == 1 and len(site.seen) == 1


async def test_a_redirect_elsewhere_comes_back_and_leads_nowhere() -> None:
    with http() as site, http() as other:
        async with proxy(f"a.org={site.address}") as (served, port):
            elsewhere = f"http://127.0.0.1:{other.port}/"
            answer = await ask(port, get(f"http://a.org/redirect?to={elsewhere}"))
            assert status(answer) == 302 and elsewhere in answer.decode()
            assert status(await ask(port, get(elsewhere))) == 403
        assert served.refusals.count == 1 and not other.seen


# --- where names lead ---


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"], ["10.0.0.1"], ["172.16.0.1"], ["192.168.1.1"], ["169.254.169.254"], ["100.64.0.1"], ["0.0.0.0"],
        ["100.100.100.200"], ["168.63.129.16"], ["192.0.0.192"], ["224.0.0.1"], ["255.255.255.255"], ["::1"], ["::"],
        ["fe80::1"], ["fe80::1%lo"], ["fc00::1"], ["fd00:ec2::254"], ["::ffff:127.0.0.1"], ["::ffff:10.0.0.1"],
        ["64:ff9b::a00:1"], ["64:ff9b:1::a00:1"], ["2002:7f00:1::"], ["2001::1"], ["::127.0.0.1"], ["ff02::1"],
        ["2001:db8::1"], ["203.0.113.1"], ["240.0.0.1"], ["not an address"], [], ["127.0.0.1", "::1"],
    ],
)  # fmt: skip
async def test_an_allowed_name_leads_to_no_private_address(addresses: list[str]) -> None:
    async def resolve(name: str) -> list[str]:
        return addresses

    async with proxy("a.org", resolve=resolve) as (served, port):
        for sent in (CONNECT.format("a.org:443"), get("http://a.org/")):
            answer = await ask(port, sent)
            assert status(answer) == 403 and b"its address is not public" in body(answer)
        assert served.refusals.count == 2


async def test_the_address_that_was_checked_is_the_one_connected_to() -> None:
    """A name whose second answer is another machine: here 127.0.0.2 passes for public, and 127.0.0.1 is private."""
    asked: list[str] = []

    async def resolve(name: str) -> list[str]:
        asked.append(name)
        return ["127.0.0.2"] if len(asked) % 2 else ["127.0.0.1"]

    with raw(b"HTTP/1.1 200 OK\r\n\r\npublic", host="127.0.0.2") as public:
        rule = f"a.org:{public.port}"
        url = f"http://{rule}/"
        async with proxy(rule, resolve=resolve, permitted=lambda address: address == "127.0.0.2") as (_, port):
            assert b"public" in await ask(port, get(url)) and asked == ["a.org"]
            assert status(await ask(port, get(url))) == 403 and len(asked) == 2
            assert await ask(port, CONNECT.format(rule), hello("a.org")) == ESTABLISHED + public.answer
            assert status(await ask(port, CONNECT.format(rule))) == 403 and len(asked) == 4


async def test_of_several_addresses_only_permitted_ones_are_tried() -> None:
    async def resolve(name: str) -> list[str]:
        return ["127.0.0.1", "127.0.0.3", "127.0.0.2"]

    with raw(b"HTTP/1.1 200 OK\r\n\r\npublic", host="127.0.0.2") as public:
        rule = f"a.org:{public.port}"
        async with proxy(rule, resolve=resolve, permitted=lambda address: address != "127.0.0.1") as (_, port):
            assert b"public" in await ask(port, get(f"http://{rule}/"))


async def test_the_hosts_own_resolver_is_asked_and_its_loopback_refused() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    served = Proxy(Network.of(allow_net="no.such.host.invalid"), "s1")
    served.start(listener)
    try:
        assert status(await ask(listener.getsockname()[1], get("http://no.such.host.invalid/"))) in (502, 504)
    finally:
        await served.close()


def test_the_machines_own_addresses_are_not_outside() -> None:
    """In a network namespace with a public address: what listens there may be hidden from others by a firewall."""
    code = """
import fcntl, socket, struct
from codeact.sandbox.resolver import is_outside
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"lo", 1))
    fcntl.ioctl(s, 0x8916, struct.pack("16sHH4s8x", b"lo", socket.AF_INET, 0, socket.inet_aton("8.8.4.4")))
print(is_outside("8.8.4.4"), is_outside("1.1.1.1"))"""
    command = ["unshare", "-rn", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": SOURCE})
    assert done.stdout == "False True\n", done.stderr


# --- failures and limits ---


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"SMTP ready\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", 502),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40_000, 502),
        (b"HTTP/1.1 200 OK\r\nX", 502),
    ],
)
async def test_a_server_that_speaks_no_http_is_told(answer: bytes, expected: int) -> None:
    with raw(answer) as server:
        async with proxy(f"a.org=127.0.0.1:{server.port}") as (_, port):
            assert (
                status(await ask(port, get("http://a.org/", more="Upgrade: x\r\nConnection: upgrade\r\n"))) == expected
            )


async def test_an_answer_that_breaks_off_is_not_made_whole() -> None:
    with raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf") as server:
        async with proxy(f"a.org=127.0.0.1:{server.port}") as (_, port):
            answer = await ask(port, get("http://a.org/"))
    assert b"ength: 10\r\n" in answer and body(answer) == b"half"


async def test_a_server_that_is_not_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        gone = unused.getsockname()[1]
    async with proxy(f"a.org=127.0.0.1:{gone}") as (served, port):
        assert status(await ask(port, get("http://a.org/"))) == 502
        assert status(await ask(port, CONNECT.format("a.org:443"))) == 502
        assert served.refusals.count == 0


async def test_slow_and_silent_connections_end() -> None:
    async def resolve(name: str) -> list[str]:
        await asyncio.Event().wait()
        raise AssertionError

    with raw() as server:
        patience = Patience(head=0.2, connect=0.2, idle=0.2)
        async with proxy(f"a.org=127.0.0.1:{server.port}", "b.org", resolve=resolve, patience=patience) as (_, port):
            assert status(await ask(port, "GET http://a.org/ HT")) == 408
            assert status(await ask(port, get("http://a.org/"))) == 502
            assert status(await ask(port, CONNECT.format("b.org:443"))) == 504
            assert await ask(port, CONNECT.format("a.org:443"), hello("a.org")) == ESTABLISHED


async def test_more_connections_wait_for_an_end() -> None:
    with http() as site:
        async with proxy(f"a.org={site.address}") as (_, port):
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]
            one_more = asyncio.create_task(ask(port, get("http://a.org/")))
            for reader, writer in held[1:]:  # every one of these is served
                writer.write(b"\n")
                assert (await reader.read(12)) == b"HTTP/1.1 400"
                if writer is held[1][1]:
                    assert not one_more.done() and not site.seen
                writer.close()
            assert status(await one_more) == 200
            held[0][1].close()


async def test_closing_ends_tunnels_and_listening() -> None:
    with raw() as server:
        async with proxy(f"a.org=127.0.0.1:{server.port}") as (served, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(CONNECT.format("a.org:443").encode() + hello("a.org"))
            await reader.readexactly(len(ESTABLISHED))
            await until(lambda: server.received, "the hello arrives")
            loop = asyncio.get_running_loop()
            started = loop.time()
            await served.close()
            assert loop.time() - started < 1
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.transport.abort()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)


async def test_two_hundred_connections_leave_no_descriptor() -> None:
    with http() as site, raw(b"x") as server:
        async with proxy(f"a.org={site.address}", f"b.org=127.0.0.1:{server.port}") as (_, port):

            async def one(number: int) -> None:
                match number % 4:
                    case 0:
                        assert status(await ask(port, get("http://a.org/"))) == 200
                    case 1:
                        assert status(await ask(port, get("http://evil.org/"))) == 403
                    case 2:
                        assert await ask(port, CONNECT.format("b.org:443"), hello("b.org")) == ESTABLISHED + b"x"
                    case _:
                        await ask(port, CONNECT.format("b.org:443"), b"junk")

            await asyncio.gather(*map(one, range(8)))
            await until(lambda: len(asyncio.all_tasks()) == 2, "the first connections end")
            before = len(os.listdir("/proc/self/fd"))
            await asyncio.gather(*map(one, range(200)))
            await until(lambda: len(asyncio.all_tasks()) == 2, "all connections end")
            await until(lambda: len(os.listdir("/proc/self/fd")) == before, "their descriptors are closed")


def test_what_is_logged_and_told_is_bounded_and_harmless(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals("s1")
    with caplog.at_level(logging.WARNING, "codeact.network"):
        refusals.note("evil.org:443\n\x1b[31mé" + "x" * 1000, "why")
        for number in range(1500):
            refusals.note(f"{number}.org:443", "not in --allow-net")
        refusals.close()
    assert caplog.messages[0].startswith("session s1: refused evil.org:443??[31m?xx")
    assert all(message.isascii() and message.isprintable() and len(message) < 300 for message in caplog.messages)
    assert len(caplog.messages) == 1002 and caplog.messages[-1] == "session s1: 1501 refusals in all"
    told = refusals.told() or ""
    assert "0.org:443 (not in --allow-net)" in told and told.endswith("and 1493 more.") and len(told) < 1000
    assert refusals.told() is None
