"""The default sandbox: kernels forked from a zygote, each locked in namespaces of its own. Linux only.

Needs no Docker, no privileges and no daemon. The boundary is described and listed in ``isolation``; how it is
tested in docs/security.md.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import importlib.util
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from codeact.contracts import FileInfo, HostTool, Variable
from codeact.errors import FileTransferError, KernelStartError, SandboxError, UsageError
from codeact.sandbox import wire
from codeact.sandbox.box import KERNEL_ENVIRONMENT, Box
from codeact.sandbox.channels import Channels, encodable
from codeact.sandbox.forkserver import ForkServer, settle
from codeact.sandbox.kernel import KernelSandbox, KernelSession
from codeact.sandbox.kernelspec import find
from codeact.sandbox.limits import Limits, copy_bounded
from codeact.sandbox.network import Network

if TYPE_CHECKING:
    from codeact.sandbox.proxy import Proxy

KNOWN_PACKAGES = (
    "numpy", "pandas", "matplotlib", "scipy", "sklearn", "seaborn", "statsmodels", "sympy", "polars", "pyarrow",
    "duckdb", "openpyxl", "networkx", "torch", "transformers", "requests", "bs4", "PIL", "cv2", "nltk",
)  # fmt: skip

_FORK_LIMIT = 120.0  # seconds: gigabytes take some
PROXY_PORT = 3128
"""Where a session whose network is allowed by name finds its proxy, on its own loopback."""

_PROXY_ENVIRONMENT = {
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), f"http://127.0.0.1:{PROXY_PORT}"),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), "localhost,127.0.0.1,::1"),
}


@functools.cache
def _packages() -> str:
    """The packages of the field that are installed here and so in every session, for the model to know."""
    found = [name for name in KNOWN_PACKAGES if importlib.util.find_spec(name) is not None]
    return f" with {', '.join(found)}" if found else ""


class LocalSandbox(KernelSandbox):
    """Sessions on this machine. ``async with LocalSandbox() as sandbox: session = await sandbox.session()``.

    The zygote starts with the first session (a second or two) and serves all later ones. ``kernel`` names an installed
    kernelspec, whose kernel runs within the same boundary in the place of our own Python; it is not told of host tools.
    Raises UsageError where there is none of that name.
    """

    name = "local"

    def __init__(self, limits: Limits | None = None, network: Network | None = None, kernel: str | None = None) -> None:
        super().__init__(limits)
        self.network = network or Network()
        self.foreign = find(kernel) if kernel is not None else None
        if self.foreign is not None and self.network.kind == "host":
            raise UsageError(
                f"the kernel {kernel!r} cannot have the network of the host: the ports where it listens would be open "
                "to everybody on this machine; allow hosts by name (allow_net)"
            )
        self._zygote: ForkServer | None = None
        self._starting = asyncio.Lock()
        self._source = self

    def sharing(self, limits: Limits, network: Network) -> LocalSandbox:
        """A sandbox with other limits and another network, whose sessions come from the zygote of this one.

        It is closed before this one is. Raises UsageError where one has the host's network and the other has not: their
        sessions see different files.
        """
        if (network.kind == "host") != (self.network.kind == "host"):
            raise UsageError("sandboxes that share a zygote have the network of the host both, or neither")
        other = LocalSandbox(limits, network)
        other.foreign = self.foreign
        other._source = self._source
        return other

    async def session(self, id: str | None = None, *, tools: Sequence[HostTool] = ()) -> KernelSession:
        try:
            return await super().session(id, tools=tools)
        except KernelStartError:
            zygote = self._source._zygote
            if zygote is None or zygote.alive:
                raise
        return await super().session(id, tools=tools)  # the zygote died just now: another one may do better

    async def forks(self, parent: LocalSession, count: int) -> tuple[LocalSession, ...]:
        """Copies of a session of this sandbox. See ``codeact.contracts.Session``."""
        if self.foreign is not None:
            raise SandboxError(f"the kernel {self.foreign.name!r} cannot be forked: only codeact's own Python can")
        if parent.zygote is not self._source._zygote or not parent.zygote.alive:
            raise SandboxError("this session cannot be forked: the zygote that it comes from is gone")
        sessions: list[LocalSession] = []
        image = Image(self.limits, parent.names)
        work: list[asyncio.Future[Any]] = []
        try:
            for _ in range(count):
                session = await self._add(None, parent.tools)
                assert isinstance(session, LocalSession)
                sessions.append(session)
            work.append(asyncio.ensure_future(parent.capture(image)))
            work += [asyncio.ensure_future(session.open_from(image)) for session in sessions]
            await asyncio.gather(*work)
        except BaseException:
            for one in work:
                one.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            await asyncio.gather(*(session.close() for session in sessions))
            raise
        finally:
            image.close()
        return tuple(sessions)

    async def _make(self, id: str, tools: Mapping[str, HostTool]) -> LocalSession:
        if tools and self.foreign is not None:
            raise UsageError(f"the kernel {self.foreign.name!r} cannot call host tools: only codeact's own Python can")
        return LocalSession(id, self, tools, await self._source._living_zygote())

    async def _living_zygote(self) -> ForkServer:
        async with self._starting:
            if self._zygote is None or not self._zygote.alive:
                if self._zygote is not None:
                    await self._zygote.close()
                resolves = self.network.kind == "host"
                self._zygote = (
                    await ForkServer.start(resolves, preload=(), visible=self.foreign.readable)
                    if self.foreign
                    else await ForkServer.start(resolves)
                )
            return self._zygote

    async def close(self) -> None:
        await super().close()
        if self._zygote is not None:
            await self._zygote.close()
            self._zygote = None


class Image:
    """The state of a session in anonymous files: two for its kernel's memory, and its workspace as a tar archive.

    Written by the kernel, so not to be trusted: only a kernel reads it again, locked in as the first one was.
    """

    def __init__(self, limits: Limits, names: Mapping[str, Variable]) -> None:
        self.names = dict(names)
        self.lost: tuple[str, ...] = ()
        self.files: tuple[int, ...] = ()
        loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[None] = loop.create_future()  # from when on a kernel can get ready for it
        self.written: asyncio.Future[None] = loop.create_future()
        half = limits.memory // 2  # of either as much as the whole may take, see ``image.capture``
        room = limits.disk + limits.disk // 8 + (1 << 20)
        for name, size in (("memory", half), ("memory", half), ("files", room)):
            file = os.memfd_create(f"codeact-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            self.files += (file,)
            os.ftruncate(file, size)  # it takes room as it is written; more than this the kernel cannot write
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)

    def finish(self, reply: dict[str, Any]) -> None:
        """The kernel has written it, or says why not. Raises SandboxError."""
        if reply.get("status") != "ok":
            raise SandboxError(f"this session cannot be forked: {encodable(reply.get('evalue'))}")
        listed = reply.get("lost")
        self.lost = tuple(encodable(text)[:200] for text in listed[:50]) if isinstance(listed, list) else ()
        for file in self.files:  # nobody changes it under those who read it
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        settle(self.begun)
        settle(self.written)

    def close(self) -> None:
        for file in self.files:
            os.close(file)
        self.files = ()
        for waited_for in (self.begun, self.written):
            waited_for.cancel()


class LocalSession(KernelSession):
    """One session: a kernel in a box of its own."""

    def __init__(self, id: str, sandbox: LocalSandbox, tools: Mapping[str, HostTool], zygote: ForkServer) -> None:
        super().__init__(id, sandbox.limits, tools)
        self._foreign = foreign = sandbox.foreign
        self.ours = foreign is None
        self.language = foreign.display_name if foreign else self.language + _packages()
        self.network = sandbox.network.description
        self.zygote = zygote
        self._sandbox = sandbox
        self._box = Box(self.limits, zygote, sandbox.network, foreign)
        self._proxy: Proxy | None = None
        self._image: Image | None = None
        self._lost: tuple[str, ...] = ()  # of a fork, until it is told

    async def open(self) -> None:
        await self.prepare()
        await super().open()

    async def prepare(self) -> None:
        """Make the box, without a kernel."""
        await self._box.spawn()
        if self._box.network.kind == "names":
            from codeact.sandbox.proxy import Proxy  # few sessions need it

            self._proxy = Proxy(self._box.network, self.id)
            self._proxy.start(await self._box.listen(PROXY_PORT))

    async def start_kernel(self) -> tuple[Channels, asyncio.Future[str]]:
        key = secrets.token_hex(32)
        environment = KERNEL_ENVIRONMENT | (_PROXY_ENVIRONMENT if self._proxy else {})
        given = self._image.files if self._image else ()
        exited = await self._box.start(given, key=key, environment=environment)
        if self._image:
            for part in (self._image.begun, self._image.written):
                await part
                await self._box.lend(())
        addresses = {channel: f"ipc://{self._box.address(channel)}" for channel in wire.CHANNELS}
        return Channels(addresses, key.encode()), exited

    # --- forks ---

    async def forks(self, count: int) -> tuple[KernelSession, ...]:
        return await self._sandbox.forks(self, count)

    async def capture(self, image: Image) -> None:
        """Have the state of this session written, for others to begin with. Raises SandboxError."""
        async with self._lock:
            if self._channels is None or self._exited is None or self._exited.done():
                raise SandboxError("this session cannot be forked: it has no running kernel")
            channels, exited = self._channels, self._exited
            await self._box.lend(image.files)
            reply = await self._request(
                channels, exited, channels.shell, "codeact_fork_request", {}, _FORK_LIMIT, lambda _: settle(image.begun)
            )
            image.finish(reply)

    async def open_from(self, image: Image) -> None:
        """Start the kernel as the copy of another session's."""
        await self.prepare()
        self._image, self._has_tools = image, True
        try:
            await super().open()
        finally:
            self._image = None  # a kernel started later is a new one
        self.names, self._lost = dict(image.names), image.lost

    async def interrupt_kernel(self) -> None:
        if self._foreign is not None and self._foreign.interrupt_mode == "message":
            await self.interrupt_by_message()
        else:
            await self._box.interrupt()

    async def kill_kernel(self) -> None:
        await self._box.kill()

    def notice(self) -> str | None:
        said = [self._proxy.refusals.told() if self._proxy else None]
        if self._lost:
            said.append(f"This session is a fork of another one. Not carried over: {', '.join(self._lost)}.")
            self._lost = ()
        if killed := self._box.killed_for_memory():
            limit = f"over the limit of {self.limits.memory >> 20} MiB"
            said.append(f"Of the processes that the code had started, {killed} were killed: {limit}.")
        return " ".join(filter(None, said)) or None

    async def _release(self) -> None:
        if self._proxy is not None:
            await self._proxy.close()
        await self._box.remove()

    # --- files ---

    async def put(self, path: str, data: bytes | IO[bytes]) -> None:
        descriptor = await self._box.open_file(path, writing=True)
        try:
            await asyncio.to_thread(_write, descriptor, data, self.limits.file)
        except OSError as error:
            raise FileTransferError(f"{path}: {error.strerror} in the workspace") from error
        except ValueError as error:
            raise FileTransferError(f"{path}: {error}") from error

    async def get(self, path: str) -> bytes:
        with open(await self._box.open_file(path, writing=False), "rb") as file:
            size = os.fstat(file.fileno()).st_size  # as it is now: it may grow while it is read
            if size > self.limits.file:
                raise FileTransferError(f"{path}: larger than the limit of {self.limits.file} bytes")
            return await asyncio.to_thread(file.read, size)

    async def get_into(self, path: str, target: IO[bytes]) -> None:
        with open(await self._box.open_file(path, writing=False), "rb") as file:
            await asyncio.to_thread(_copy, path, file, target, self.limits.file)

    async def files(self) -> tuple[FileInfo, ...]:
        return tuple(FileInfo(path=path, size=size) for path, size in await self._box.files())


def _copy(path: str, file: IO[bytes], target: IO[bytes], limit: int) -> None:
    """Raises FileTransferError where the file is too large, OSError where ``target`` cannot take it."""
    try:
        copy_bounded(file, target, limit)
    except ValueError as error:
        raise FileTransferError(f"{path}: {error}") from error


def _write(descriptor: int, data: bytes | IO[bytes], limit: int) -> None:
    """Fill an open file and close it. Raises OSError, ValueError; the file is empty then: it may hold all the room."""
    with open(descriptor, "wb", 0) as file:
        try:
            copy_bounded(data, file, limit)
        except BaseException:
            file.truncate(0)
            raise
