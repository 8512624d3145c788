"""The default sandbox: kernels forked from a zygote, each locked in namespaces of its own. Linux only.

Needs no Docker, no privileges and no daemon. The boundary is described and listed in ``isolation``; how it is
tested in docs/security.md.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import secrets
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING

from codeact.contracts import FileInfo, HostTool
from codeact.errors import FileTransferError, KernelStartError
from codeact.sandbox import wire
from codeact.sandbox.box import Box
from codeact.sandbox.channels import Channels
from codeact.sandbox.forkserver import ForkServer
from codeact.sandbox.kernel import KernelSandbox, KernelSession
from codeact.sandbox.limits import Limits, copy_bounded
from codeact.sandbox.network import Network

if TYPE_CHECKING:
    from codeact.sandbox.proxy import Proxy

KNOWN_PACKAGES = (
    "numpy", "pandas", "matplotlib", "scipy", "sklearn", "seaborn", "statsmodels", "sympy", "polars", "pyarrow",
    "duckdb", "openpyxl", "networkx", "torch", "transformers", "requests", "bs4", "PIL", "cv2", "nltk",
)  # fmt: skip
_KERNEL_ENVIRONMENT = {"MPLCONFIGDIR": "/tmp/home/.matplotlib", "PYTHONPATH": None}  # of the zygote, not of sessions

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

    The zygote starts with the first session (a second or two) and serves all later ones.
    """

    name = "local"

    def __init__(self, limits: Limits | None = None, network: Network | None = None) -> None:
        super().__init__(limits)
        self.network = network or Network()
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
                self._zygote = await ForkServer.start(resolves=self.network.kind == "host")
            return LocalSession(id, self.limits, tools, self._zygote, self.network)

    async def close(self) -> None:
        await super().close()
        if self._zygote is not None:
            await self._zygote.close()
            self._zygote = None


class LocalSession(KernelSession):
    """One session: a kernel in a box of its own."""

    def __init__(
        self, id: str, limits: Limits, tools: Mapping[str, HostTool], zygote: ForkServer, network: Network
    ) -> None:
        super().__init__(id, limits, tools)
        self.language += _packages()
        self.network = network.description
        self._box = Box(limits, zygote, network)
        self._proxy: Proxy | None = None

    async def open(self) -> None:
        await self._box.spawn()
        if self._box.network.kind == "names":
            from codeact.sandbox.proxy import Proxy  # few sessions need it

            self._proxy = Proxy(self._box.network, self.id)
            self._proxy.start(await self._box.listen(PROXY_PORT))
        await super().open()

    async def start_kernel(self) -> tuple[Channels, asyncio.Future[str]]:
        key = secrets.token_hex(32)
        environment = _KERNEL_ENVIRONMENT | (_PROXY_ENVIRONMENT if self._proxy else {})
        exited = await self._box.start(key=key, environment=environment)
        addresses = {channel: f"ipc://{self._box.address(channel)}" for channel in wire.CHANNELS}
        return Channels(addresses, key.encode()), exited

    async def interrupt_kernel(self) -> None:
        await self._box.interrupt()

    async def kill_kernel(self) -> None:
        await self._box.kill()

    def notice(self) -> str | None:
        said = [self._proxy.refusals.told() if self._proxy else None]
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
        with open(await self._box.open_file(path, writing=True), "wb") as file:
            try:
                await asyncio.to_thread(copy_bounded, data, file, self.limits.file)
            except OSError as error:
                raise FileTransferError(f"{path}: {error.strerror} in the workspace") from error
            except ValueError as error:
                raise FileTransferError(f"{path}: {error}") from error

    async def get(self, path: str) -> bytes:
        with open(await self._box.open_file(path, writing=False), "rb") as file:
            data = await asyncio.to_thread(file.read, self.limits.file + 1)
        if len(data) > self.limits.file:
            raise FileTransferError(f"{path}: larger than the limit of {self.limits.file} bytes")
        return data

    async def files(self) -> tuple[FileInfo, ...]:
        return tuple(FileInfo(path=path, size=size) for path, size in await self._box.files())
