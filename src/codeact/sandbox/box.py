"""The host's hold on one locked-in session: process 1 behind a pair of sockets, the kernel behind five that listen.

Our own kernel inherits the five. For the kernel of an installed kernelspec the host keeps them, and a relay carries
what they are sent to the ports where it listens inside.

What runs in the box and how it is spoken to is the business of ``local``: here it is made, told to start, interrupt
and kill its kernel, asked for files, and taken away again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from codeact.errors import FileTransferError, IsolationUnavailable, KernelStartError, SandboxError, SessionClosed
from codeact.sandbox import cgroups, wire
from codeact.sandbox.forkserver import REMEDY, ForkServer, settle
from codeact.sandbox.isolation import Jail
from codeact.sandbox.kernelspec import Foreign
from codeact.sandbox.limits import Limits
from codeact.sandbox.network import Network
from codeact.sandbox.relay import Relay, established
from codeact.sandbox.rundir import no_room

ANSWER_LIMIT = 20.0
"""Seconds within which process 1 answers."""

KERNEL_ENVIRONMENT = {"MPLCONFIGDIR": "/tmp/home/.matplotlib", "PYTHONPATH": None}  # of the zygote, not of sessions
_LONGEST_PATH = 4000  # characters; Linux takes 4,096 bytes
_PORTS = range(20000, 30000)  # below those that the system hands out


class Box:
    """One session's processes, from the spawn to the last of them. ``exited`` ends when the kernel is gone."""

    def __init__(
        self, limits: Limits, zygote: ForkServer, network: Network | None = None, foreign: Foreign | None = None
    ) -> None:
        self.limits = limits
        self.network = network or Network()
        self.foreign = foreign
        self.exited: asyncio.Future[str] | None = None
        self._zygote = zygote
        zygote.sessions += 1
        self._counted = True
        self._control: socket.socket | None = None
        self._process: int | None = None  # pidfd of process 1
        self._cgroup: cgroups.Cgroup | None = None
        self._kills_seen = 0
        self._name = secrets.token_hex(6)
        self._replies: dict[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}
        self._next = 0
        self._ready: asyncio.Future[None] | None = None
        self._listening: list[socket.socket] = []  # of a foreign kernel
        self._relay: Relay | None = None
        self._port = _PORTS.start
        self.exit_code: int | None = None

    # --- process 1 ---

    async def spawn(self) -> None:
        """Fork the session off the zygote. Raises IsolationUnavailable where the boundary cannot be built."""
        loop = asyncio.get_running_loop()
        limits = self.limits
        self._cgroup = cgroups.create(f"{os.getpid()}-{self._name}", limits.memory, limits.processes)
        self._control, theirs = wire.pair()
        self._control.setblocking(False)
        self._ready = loop.create_future()
        doors = self._cgroup.doors() if self._cgroup else []
        listening: list[socket.socket] = []
        try:
            for channel in wire.CHANNELS:
                listening.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                self._listen(listening[-1], channel)
            inherited = [] if self.foreign else listening
            descriptors = [theirs.fileno(), *(s.fileno() for s in inherited), *doors]
            jail = Jail(limits=limits, network=self.network.kind)
            request = {"jail": jail.model_dump(), "sockets": len(inherited)}
            wire.send(self._zygote.end, request, descriptors)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise KernelStartError(no_room(error) if full else f"the zygote is gone: {error}") from error
        finally:
            theirs.close()
            if self.foreign:
                self._listening = listening
            else:
                for listener in listening:
                    listener.close()
            for door in doors:
                os.close(door)
        loop.add_reader(self._control, self._on_control)
        try:
            async with asyncio.timeout(ANSWER_LIMIT):
                await self._ready
        except TimeoutError as error:
            raise KernelStartError(f"the session did not come up within {ANSWER_LIMIT:.0f} seconds") from error

    def _listen(self, listener: socket.socket, channel: str) -> None:
        """Have a socket listen that the kernel inherits, so that it needs no path of the host to be reached."""
        # through the descriptor: short whatever TMPDIR is, and what the kernel can read of it tells nothing
        listener.bind(self.address(channel))
        listener.listen(16)
        listener.setblocking(False)

    def address(self, channel: str) -> str:
        """The path of that channel's socket, good in this process only."""
        return f"/proc/self/fd/{self._zygote.folder}/{self._name}-{channel}"

    def path(self, channel: str) -> str:
        """The path of that channel's socket for every process of this user; it may be too long to connect to."""
        return str(self._zygote.directory / f"{self._name}-{channel}")

    def _on_control(self) -> None:
        assert self._control is not None and self._ready is not None
        try:
            received = wire.receive(self._control)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            received = None
        if received is None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._on_gone("the session's first process is gone")
            return
        message, descriptors = received
        match message.get("event"):
            case "spawned":
                self._process = descriptors.pop()
            case "ready":
                settle(self._ready)
            case "failed":
                self._on_failed(message)
            case "exit":
                if self.exited is not None and not self.exited.done():
                    self.exit_code = int(message.get("code", 0))
                    self.exited.set_result(self._cause(message))
            case _:
                waiting = self._replies.pop(int(message.get("reply", -1)), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result((message, descriptors))
                    descriptors = []
        for descriptor in descriptors:
            os.close(descriptor)

    def _on_failed(self, message: dict[str, Any]) -> None:
        why = str(message.get("error"))
        self._fail_start(IsolationUnavailable(f"the isolation cannot be built here: {why}. {REMEDY}"))

    def _fail_start(self, error: SandboxError) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(error)

    def _on_gone(self, why: str) -> None:
        if self.exited is not None and not self.exited.done():
            self.exited.set_result(why)
        self._fail_start(KernelStartError(why))
        for waiting in self._replies.values():
            if not waiting.done():
                waiting.set_exception(KernelStartError(why))
        self._replies.clear()

    def _cause(self, message: dict[str, Any]) -> str:
        code = int(message.get("code", 0))
        kills = self._cgroup.out_of_memory_kills() if self._cgroup else 0
        if message.get("over_memory") or (kills > self._kills_seen and code == -signal.SIGKILL):
            self._kills_seen = kills
            return f"it used more memory than its limit of {self.limits.memory >> 20} MiB"
        said = str(message.get("said", "")).splitlines()
        last = f": {said[-1][:200]}" if said else ""
        if code < 0:
            return f"it was ended by signal {-code} ({signal.strsignal(-code)}){last}"
        return f"it exited with status {code}{last}"

    def killed_for_memory(self) -> int:
        """How many processes were killed over the memory limit since this was last asked."""
        killed = (self._cgroup.out_of_memory_kills() if self._cgroup else 0) - self._kills_seen
        self._kills_seen += killed
        return killed

    async def _ask(self, op: str, given: Sequence[int] = (), /, **request: Any) -> tuple[dict[str, Any], list[int]]:
        if self._control is None:
            raise SessionClosed("the session is closed")
        number = self._next = self._next + 1
        waiting: asyncio.Future[tuple[dict[str, Any], list[int]]] = asyncio.get_running_loop().create_future()
        self._replies[number] = waiting
        try:
            wire.send(self._control, {"op": op, "id": number, **request}, given)
            return await asyncio.wait_for(waiting, ANSWER_LIMIT)
        except TimeoutError as error:
            raise SandboxError(f"the session did not answer within {ANSWER_LIMIT:.0f} seconds") from error
        except OSError as error:
            raise SandboxError(f"the session is gone: {error}") from error
        finally:
            self._replies.pop(number, None)

    # --- the kernel ---

    async def start(
        self, given: Sequence[int] = (), /, *, key: str, environment: Mapping[str, str | None]
    ) -> asyncio.Future[str]:
        """Start a kernel, from the files of another one where they are given (see ``local.Image``).

        The future ends with one sentence on why it is gone, once it is.
        """
        self.exited = asyncio.get_running_loop().create_future()
        self.exit_code = None
        request: dict[str, Any] = {"key": key, "environment": environment}
        ports = self._next_ports()
        if self.foreign is not None:
            request |= self.foreign.request(key, ports)
            request["environment"] = {**environment, "MPLBACKEND": None}  # which is our own kernel's
        reply, _ = await self._ask("start", given, **request)
        if "error" in reply:
            raise KernelStartError(f"the kernel could not be started: {reply['error']}")
        if self.foreign is not None:
            await self._end_relay()  # of the kernel before
            listeners = dict(zip(ports.values(), self._listening, strict=True))
            self._relay = Relay(listeners, self._connect, self.exited)
        return self.exited

    async def lend(self, files: Sequence[int]) -> None:
        """Hand descriptors to the running kernel."""
        reply, _ = await self._ask("lend", files)
        if "error" in reply:
            raise SandboxError(f"the kernel takes no files: {reply['error']}")

    def _next_ports(self) -> dict[str, int]:
        """A port for each channel, free since the network is the session's own; new ones for each kernel."""
        first = self._port
        self._port = first + len(wire.CHANNELS) if first + 2 * len(wire.CHANNELS) < _PORTS.stop else _PORTS.start
        return {channel: port for port, channel in enumerate(wire.CHANNELS, first)}

    async def _connect(self, port: int) -> socket.socket | None:
        """A connection to a port inside, None where nobody listens there."""
        reply, descriptors = await self._ask("connect", port=port)
        if "error" in reply or not descriptors:
            return None
        connection = socket.socket(fileno=descriptors[0])
        try:
            connection.setblocking(False)
            if await established(connection):
                return connection
        except BaseException:
            connection.close()
            raise
        connection.close()
        return None

    async def _end_relay(self) -> None:
        if self._relay is not None:
            await self._relay.close()
            self._relay = None

    async def interrupt(self) -> None:
        await self._ask("interrupt")

    async def kill(self) -> None:
        """Kill the kernel and everything it started; returns when it is gone."""
        await self._ask("kill")
        if self.exited is not None:
            await asyncio.wait_for(asyncio.shield(self.exited), ANSWER_LIMIT)

    async def remove(self) -> None:
        """End everything in the box and free what it held. Safe to call twice."""
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()  # process 1 reads the end of file and takes everything with it
            self._control = None
        self._on_gone("the session was closed")
        await self._end_relay()
        for listener in self._listening:
            listener.close()
        self._listening = []
        if self._process is not None:
            await self._wait_gone(self._process)
            os.close(self._process)
            self._process = None
        for channel in wire.CHANNELS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._zygote.directory / f"{self._name}-{channel}")
        if self._counted:
            self._counted = False
            self._zygote.leave()
        if self._cgroup is not None:
            await asyncio.to_thread(self._cgroup.remove)
            self._cgroup = None

    @staticmethod
    async def _wait_gone(process: int) -> None:
        """Until process 1 has ended; after two seconds it is killed."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        loop.add_reader(process, lambda: settle(ended))
        try:
            for _ in range(2):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(ended), 2)
                    return
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            loop.remove_reader(process)

    # --- network and files ---

    async def listen(self, port: int) -> socket.socket:
        """A socket that listens on the session's own 127.0.0.1: what connects to it inside is accepted out here."""
        reply, descriptors = await self._ask("listen", port=port)
        if "error" in reply or not descriptors:
            raise SandboxError(f"the session cannot listen on port {port}: {reply.get('error', 'no socket came back')}")
        os.set_inheritable(descriptors[0], False)
        return socket.socket(fileno=descriptors[0])

    async def open_file(self, path: str, writing: bool) -> int:
        """A descriptor of a plain file in the workspace. Raises FileTransferError."""
        if len(path) > _LONGEST_PATH:
            raise FileTransferError(f"{path[:50]}…: File name too long")
        reply, descriptors = await self._ask("open", path=path, writing=writing)
        if "error" in reply or not descriptors:
            raise FileTransferError(f"{path}: {reply.get('error', 'no file came back')}")
        return descriptors[0]

    async def files(self) -> list[tuple[str, int]]:
        """Path and size in bytes of the plain files in the workspace."""
        reply, _ = await self._ask("list")
        return [(str(path), int(size)) for path, size in reply.get("files", ())]
