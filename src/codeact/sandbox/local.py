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
from typing import IO

from codeact.contracts import FileInfo, HostTool
from codeact.errors import FileTransferError, KernelStartError
from codeact.sandbox import wire
from codeact.sandbox.box import Box
from codeact.sandbox.channels import Channels
from codeact.sandbox.forkserver import ForkServer
from codeact.sandbox.kernel import KernelSandbox, KernelSession
from codeact.sandbox.limits import Limits, copy_bounded

KNOWN_PACKAGES = (
    "numpy", "pandas", "matplotlib", "scipy", "sklearn", "seaborn", "statsmodels", "sympy", "polars", "pyarrow",
    "duckdb", "openpyxl", "networkx", "torch", "transformers", "requests", "bs4", "PIL", "cv2", "nltk",
)  # fmt: skip
_KERNEL_ENVIRONMENT = {"MPLCONFIGDIR": "/tmp/home/.matplotlib", "PYTHONPATH": None}  # of the zygote, not of sessions


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
    """One session: a kernel in a box of its own."""

    def __init__(self, id: str, limits: Limits, tools: Mapping[str, HostTool], zygote: ForkServer) -> None:
        super().__init__(id, limits, tools)
        self.language += _packages()
        self._box = Box(limits, zygote)

    async def open(self) -> None:
        await self._box.spawn()
        await super().open()

    async def start_kernel(self) -> tuple[Channels, asyncio.Future[str]]:
        key = secrets.token_hex(32)
        exited = await self._box.start(key=key, environment=_KERNEL_ENVIRONMENT)
        addresses = {channel: f"ipc://{self._box.address(channel)}" for channel in wire.CHANNELS}
        return Channels(addresses, key.encode()), exited

    async def interrupt_kernel(self) -> None:
        await self._box.interrupt()

    async def kill_kernel(self) -> None:
        await self._box.kill()

    def notice(self) -> str | None:
        killed = self._box.killed_for_memory()
        if not killed:
            return None
        limit = self.limits.memory >> 20
        return f"Of the processes that the code had started, {killed} were killed: over the limit of {limit} MiB."

    async def _release(self) -> None:
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
