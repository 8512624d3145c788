"""The way out of a session whose network is allowed by name: an HTTP proxy in the host process.

The session has no route. Its process 1 opened a socket that listens on the session's own loopback and gave it to the
host, which accepts here. What comes is checked, and only then is anything connected:

- ``CONNECT name:port``, then a TLS ClientHello whose server name is that name. The rest passes through unread.
- ``GET http://name/…``: taken apart and written anew, one request a connection.

A name must be allowed by a rule of the network. The host resolves it, once, and connects to the very address that was
checked; one that is not public is refused unless the rule pins it. Redirects are not followed: they go back to the
client, whose next request is checked like any other. What is refused is logged (logger ``codeact.network``), answered
with 403 and a plain reason, and kept to be told with the execution.

Not protected: what is sent to an allowed host, and which of the sites behind its address a client asks for once the
connection is encrypted.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import h11

from codeact.sandbox import clienthello
from codeact.sandbox.exchange import (
    Exchange,
    Failed,
    absolute_target,
    authority,
    check_host,
    parse_head,
    plain_answer,
    read_head,
)
from codeact.sandbox.link import PIECE, Link, Pulse
from codeact.sandbox.network import HTTP, HTTPS, Network, Rule, host_name
from codeact.sandbox.refusals import Refusals
from codeact.sandbox.resolver import Resolver, is_outside

CONNECTIONS = 64
"""Connections of a session that are served at once; more wait until one ends."""

_ADDRESSES = 4  # that are tried for one name


@dataclass(frozen=True)
class Patience:
    """Seconds: for a request's head or a TLS hello to come, for connecting, and of silence before the end."""

    head: float = 20.0
    connect: float = 15.0
    idle: float = 300.0


class Refused(Exception):
    """The target may not be reached."""

    def __init__(self, target: str, why: str) -> None:
        super().__init__(f"{target}: {why}")
        self.target = target
        self.why = why


class Proxy:
    """The proxy of one session, made in the event loop that it runs in.

    ``resolve`` gives the addresses of a name or raises OSError; ``permitted`` says whether a name that no rule pins
    may have that address.
    """

    def __init__(
        self,
        network: Network,
        session: str,
        *,
        resolve: Callable[[str], Awaitable[Sequence[str]]] | None = None,
        permitted: Callable[[str], bool] = is_outside,
        patience: Patience | None = None,
    ) -> None:
        self.network = network
        self.refusals = Refusals(session)
        self._resolve = resolve or Resolver()
        self._permitted = permitted
        self._patience = patience or Patience()
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None

    def start(self, listener: socket.socket) -> None:
        """Serve what connects to this listening socket, and own it."""
        listener.setblocking(False)
        self._listener = listener
        self._begin(self._accept(listener))

    async def close(self) -> None:
        """End every connection. Safe to call twice."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(set(self._tasks))
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            self.refusals.close()

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError:  # this process has no descriptor left, or the client went away
                self._room.release()
                await asyncio.sleep(0.1)
                continue
            self._begin(self._serve(connection)).add_done_callback(functools.partial(self._ended, connection))

    def _ended(self, connection: socket.socket, _: asyncio.Task[None]) -> None:
        connection.close()  # also where the task was ended before it began
        self._room.release()

    async def _serve(self, connection: socket.socket) -> None:
        """One connection, to its end."""
        client = Link(*await asyncio.open_connection(sock=connection, limit=PIECE))
        try:
            await self._answer(client)
        except (OSError, EOFError, h11.ProtocolError):
            pass  # one side hung up or broke off: there is nobody to tell
        finally:
            await client.close()

    async def _answer(self, client: Link) -> None:
        try:
            await self._handle(client)
        except Refused as refused:
            self.refusals.note(refused.target, refused.why)
            allowed = f"allowed: {self.network.listed}"
            text = f"The network of this session refused {refused} ({allowed}). "
            text += "Whoever runs codeact can allow more hosts with --allow-net NAME,NAME."
            await client.send(plain_answer(403, f"refused {refused} ({allowed})", text))
        except Failed as failed:
            await client.send(plain_answer(failed.status, str(failed), f"The proxy of codeact: {failed}."))

    async def _handle(self, client: Link) -> None:
        try:
            async with asyncio.timeout(self._patience.head):
                head, rest = await read_head(client)
        except TimeoutError as error:
            raise Failed(408, "the request did not come in time") from error
        request, protocol = parse_head(head)
        target = request.target.decode("ascii")
        if request.method == b"CONNECT":
            host, port = authority(target, None)
            name, rule = self._admit(host, port, HTTPS)
            await self._tunnel(client, name, port, rule, rest)
            return
        host, port, path = absolute_target(target)
        name, rule = self._admit(host, port, HTTP)
        check_host(request, name, port)
        server = await self._connect(name, port, rule)
        try:
            exchange = Exchange(client, server, protocol, Pulse(self._patience.idle))
            await exchange.run(request, name if port == HTTP else f"{name}:{port}", path, rest)
        finally:
            await server.close()

    # --- what may be reached ---

    def _admit(self, host: str, port: int, usual: int) -> tuple[str, Rule]:
        """The name in its normal form and the rule that allows it. Raises Refused."""
        target = f"{host}:{port}"
        try:
            name = host_name(host)
        except ValueError as error:
            raise Refused(target, str(error)) from error
        rule = self.network.find(name, port, usual)
        if rule is None:
            known = any(rule.covers(name) for rule in self.network.rules)
            raise Refused(target, "not a port that is allowed there" if known else "not in --allow-net")
        return name, rule

    async def _connect(self, name: str, port: int, rule: Rule) -> Link:
        """A connection to an address that was checked: there is no second lookup. Raises Refused, Failed."""
        try:
            async with asyncio.timeout(self._patience.connect):
                if rule.address is not None:
                    return await self._dial([rule.address], rule.address_port or port)
                found = await self._resolve(name)
                good = [address for address in found if self._permitted(address)]
                if not good:
                    raise Refused(f"{name}:{port}", f"its address is not public; to allow that, write {name}=ADDRESS")
                return await self._dial(good[:_ADDRESSES], port)
        except TimeoutError as error:
            raise Failed(504, f"{name}:{port} did not answer in time") from error
        except OSError as error:
            raise Failed(502, f"{name}:{port} cannot be reached") from error

    async def _dial(self, addresses: Sequence[str], port: int) -> Link:
        """The first of these addresses that answers. Raises OSError."""
        problem = OSError("no address")
        for address in addresses:
            try:
                async with asyncio.timeout(self._patience.connect / len(addresses)):
                    streams = await asyncio.open_connection(address, port, limit=PIECE, flags=socket.AI_NUMERICHOST)
                return Link(*streams)
            except OSError as error:
                problem = error
        raise problem

    # --- TLS ---

    async def _tunnel(self, client: Link, name: str, port: int, rule: Rule, rest: bytes) -> None:
        server = await self._connect(name, port, rule)
        try:
            await client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            hello = await self._hello(client, name, port, rest)
            if hello is not None:
                await server.send(hello)
                await self._splice(client, server)
        finally:
            await server.close()

    async def _hello(self, client: Link, name: str, port: int, data: bytes) -> bytes | None:
        """What the client sends first, where it is a TLS hello for this name. Else None, and nothing is sent on."""
        try:
            async with asyncio.timeout(self._patience.head):
                while (asked := clienthello.server_name(data)) is None:
                    piece = await client.read()
                    if not piece:
                        return None
                    data += piece
            if host_name(asked) != name:
                raise ValueError(f"the TLS hello names {asked}")
        except TimeoutError:
            self.refusals.note(f"{name}:{port}", "no TLS hello came")
            return None
        except ValueError as error:
            self.refusals.note(f"{name}:{port}", str(error))
            return None
        return data

    async def _splice(self, client: Link, server: Link) -> None:
        """Carry bytes both ways until both ends are through."""
        pulse = Pulse(self._patience.idle)

        async def carry(source: Link, target: Link) -> None:
            while piece := await source.read():
                pulse.beat()
                await target.send(piece)
                pulse.beat()
            target.writer.write_eof()

        await pulse.during(carry(client, server), carry(server, client))
