"""The default sandbox: kernels forked from a zygote, each locked in namespaces of its own. Linux only.

Needs no Docker, no privileges and no daemon. The boundary is described and listed in ``isolation``; how it is
tested in docs/security.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import os
import secrets
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import IO, Any

from codeact.contracts import FileInfo, HostTool
from codeact.errors import (
    FileTransferError,
    IsolationUnavailable,
    KernelStartError,
    SandboxError,
    SessionClosed,
)
from codeact.sandbox import cgroups, wire
from codeact.sandbox.channels import Channels
from codeact.sandbox.forkserver import ForkServer, readable, settle
from codeact.sandbox.isolation import Jail
from codeact.sandbox.kernel import KernelSandbox, KernelSession
from codeact.sandbox.limits import Limits, copy_bounded

_ANSWER_LIMIT = 20.0
KNOWN_PACKAGES = (
    "numpy", "pandas", "matplotlib", "scipy", "sklearn", "seaborn", "statsmodels", "sympy", "polars", "pyarrow",
    "duckdb", "openpyxl", "networkx", "torch", "transformers", "requests", "bs4", "PIL", "cv2", "nltk",
)  # fmt: skip
_KERNEL_ENVIRONMENT = {"MPLCONFIGDIR": "/tmp/home/.matplotlib", "PYTHONPATH": None}  # of the zygote, not of sessions
REMEDY = (
    "Remedy: allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
    "kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces>0), run as root, or give up the "
    "boundary with --sandbox unsafe-process."
)


@functools.cache
def _packages() -> str:
    """The packages of the field that are installed here and so in every session, for the model to know."""
    found = [name for name in KNOWN_PACKAGES if importlib.util.find_spec(name) is not None]
    return f" with {', '.join(found)}" if found else ""


class LocalSandbox(KernelSandbox):
    """Sessions on this machine. ``async with LocalSandbox() as sandbox: session = await sandbox.session()``.

    The zygote starts with the first session (a second or two) and serves all later ones.
    """

    name = "local"

    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__(limits)
        self._zygote: ForkServer | None = None
        self._starting = asyncio.Lock()

    async def session(self, id: str | None = None, *, tools: Sequence[HostTool] = ()) -> KernelSession:
        try:
            return await super().session(id, tools=tools)
        except KernelStartError:
            if self._zygote is None or self._zygote.alive:
                raise
        return await super().session(id, tools=tools)  # the zygote died just now: another one may do better

    async def _make(self, id: str, tools: Mapping[str, HostTool]) -> LocalSession:
        async with self._starting:
            if self._zygote is None or not self._zygote.alive:
                if self._zygote is not None:
                    await self._zygote.close()
                self._zygote = await ForkServer.start()
            return LocalSession(id, self.limits, tools, self._zygote)

    async def close(self) -> None:
        await super().close()
        if self._zygote is not None:
            await self._zygote.close()
            self._zygote = None


class LocalSession(KernelSession):
    """One session: process 1 behind a pair of sockets, the kernel behind five that listen on the host."""

    def __init__(self, id: str, limits: Limits, tools: Mapping[str, HostTool], zygote: ForkServer) -> None:
        super().__init__(id, limits, tools)
        self.language += _packages()
        self._zygote = zygote
        zygote.sessions += 1
        self._control: socket.socket | None = None
        self._process: int | None = None  # pidfd of process 1
        self._cgroup: cgroups.Cgroup | None = None
        self._kills_seen = 0
        self._name = secrets.token_hex(6)
        self._replies: dict[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}
        self._next = 0
        self._gone: asyncio.Future[str] | None = None
        self._ready: asyncio.Future[None] | None = None

    # --- process 1 ---

    async def open(self) -> None:
        await self._spawn()
        await super().open()

    async def _spawn(self) -> None:
        """Fork the session off the zygote. Raises IsolationUnavailable where the boundary cannot be built."""
        loop = asyncio.get_running_loop()
        limits = self.limits
        self._cgroup = cgroups.create(f"{os.getpid()}-{self._name}", limits.memory, limits.processes)
        self._control, theirs = wire.pair()
        self._control.setblocking(False)
        listening = [self._listen(channel) for channel in wire.CHANNELS]
        jail = Jail(
            mount_point=str(self._zygote.directory / "root"),
            readable=readable(),
            limits=limits,
        )
        paths = [str(path) for path in self._cgroup.paths] if self._cgroup else []
        self._ready = loop.create_future()
        try:
            descriptors = [theirs.fileno(), *(s.fileno() for s in listening)]
            wire.send(self._zygote.end, {"jail": jail.model_dump(), "cgroups": paths}, descriptors)
        except OSError as error:
            raise KernelStartError(f"the zygote is gone: {error}") from error
        finally:
            theirs.close()
            for listener in listening:
                listener.close()
        loop.add_reader(self._control, self._on_control)
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), _ANSWER_LIMIT)
        except TimeoutError as error:
            raise KernelStartError(f"the session did not come up within {_ANSWER_LIMIT:.0f} seconds") from error

    def _listen(self, channel: str) -> socket.socket:
        """A listening socket that the kernel inherits, so that it needs no path of the host to be reached."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # through the descriptor: short whatever TMPDIR is, and what the kernel can read of it tells nothing
        listener.bind(f"/proc/self/fd/{self._zygote.folder}/{self._name}-{channel}")
        listener.listen(16)
        return listener

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
                if self._gone is not None and not self._gone.done():
                    self._gone.set_result(self._cause(message))
            case _:
                waiting = self._replies.pop(int(message.get("reply", -1)), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result((message, descriptors))
                    descriptors = []
        for descriptor in descriptors:
            os.close(descriptor)

    def _on_failed(self, message: dict[str, Any]) -> None:
        assert self._ready is not None
        why = str(message.get("error"))
        error: SandboxError = IsolationUnavailable(f"the isolation cannot be built here: {why}. {REMEDY}")
        if not self._ready.done():
            self._ready.set_exception(error)

    def _on_gone(self, why: str) -> None:
        for waiting in [self._ready, self._gone, *self._replies.values()]:
            if waiting is not None and not waiting.done():
                if waiting is self._gone:
                    self._gone.set_result(why)
                else:
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

    def notice(self) -> str | None:
        killed = (self._cgroup.out_of_memory_kills() if self._cgroup else 0) - self._kills_seen
        self._kills_seen += killed
        if not killed:
            return None
        limit = self.limits.memory >> 20
        return f"Of the processes that the code had started, {killed} were killed: over the limit of {limit} MiB."

    async def _ask(self, op: str, **request: Any) -> tuple[dict[str, Any], list[int]]:
        if self._control is None:
            raise SessionClosed(f"session {self.id} is closed")
        self._next += 1
        waiting: asyncio.Future[tuple[dict[str, Any], list[int]]] = asyncio.get_running_loop().create_future()
        self._replies[self._next] = waiting
        try:
            wire.send(self._control, {"op": op, "id": self._next, **request})
            return await asyncio.wait_for(waiting, _ANSWER_LIMIT)
        except TimeoutError as error:
            raise SandboxError(f"the session did not answer within {_ANSWER_LIMIT:.0f} seconds") from error
        except OSError as error:
            raise SandboxError(f"the session is gone: {error}") from error

    # --- the kernel ---

    async def start_kernel(self) -> tuple[Channels, asyncio.Future[str]]:
        key = secrets.token_hex(32)
        self._gone = asyncio.get_running_loop().create_future()
        reply, _ = await self._ask("start", key=key, environment=_KERNEL_ENVIRONMENT)
        if "error" in reply:
            raise KernelStartError(f"the kernel could not be forked: {reply['error']}")
        base = f"ipc:///proc/self/fd/{self._zygote.folder}/{self._name}-"
        return Channels({channel: base + channel for channel in wire.CHANNELS}, key.encode()), self._gone

    async def interrupt_kernel(self) -> None:
        await self._ask("interrupt")

    async def kill_kernel(self) -> None:
        await self._ask("kill")
        if self._gone is not None:
            await asyncio.wait_for(asyncio.shield(self._gone), _ANSWER_LIMIT)

    async def _release(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()  # process 1 reads the end of file and takes everything with it
            self._control = None
        self._on_gone("the session was closed")
        if self._process is not None:
            await self._wait_gone(self._process)
            os.close(self._process)
            self._process = None
        for channel in wire.CHANNELS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._zygote.directory / f"{self._name}-{channel}")
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

    # --- files ---

    async def _open(self, path: str, writing: bool) -> int:
        reply, descriptors = await self._ask("open", path=path, writing=writing)
        if "error" in reply or not descriptors:
            raise FileTransferError(f"{path}: {reply.get('error', 'no file came back')}")
        return descriptors[0]

    async def put(self, path: str, data: bytes | IO[bytes]) -> None:
        with open(await self._open(path, writing=True), "wb") as file:
            try:
                await asyncio.to_thread(copy_bounded, data, file, self.limits.file)
            except OSError as error:
                raise FileTransferError(f"{path}: {error.strerror} in the workspace") from error
            except ValueError as error:
                raise FileTransferError(f"{path}: {error}") from error

    async def get(self, path: str) -> bytes:
        with open(await self._open(path, writing=False), "rb") as file:
            data = await asyncio.to_thread(file.read, self.limits.file + 1)
        if len(data) > self.limits.file:
            raise FileTransferError(f"{path}: larger than the limit of {self.limits.file} bytes")
        return data

    async def files(self) -> tuple[FileInfo, ...]:
        reply, _ = await self._ask("list")
        return tuple(FileInfo(path=path, size=size) for path, size in reply.get("files", ()))
