"""``unsafe-process``: a kernel as an ordinary process of the user who starts it. **There is no boundary.**

The code can read, change and send whatever this user can. For machines that are a sandbox themselves (a throw-away
container or virtual machine) and for systems without Linux's namespaces. Never chosen by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from jupyter_client.connect import write_connection_file

from codeact.contracts import FileInfo, HostTool
from codeact.errors import FileTransferError, SessionClosed
from codeact.sandbox.channels import Channels
from codeact.sandbox.kernel import KernelSandbox, KernelSession
from codeact.sandbox.limits import Limits, copy_bounded
from codeact.sandbox.rundir import RunDirectory

_LISTED = 2000
_SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")


class ProcessSandbox(KernelSandbox):
    """Sessions without a boundary. Of the limits only the times and the sizes of files carried in and out hold."""

    name = "unsafe-process"

    async def _make(self, id: str, tools: Mapping[str, HostTool]) -> ProcessSession:
        return ProcessSession(id, self.limits, tools)


class ProcessSession(KernelSession):
    """A kernel process with a temporary directory as its workspace and working directory."""

    network = ""

    def __init__(self, id: str, limits: Limits, tools: Mapping[str, HostTool]) -> None:
        super().__init__(id, limits, tools)
        self._directory = RunDirectory()
        self.workspace = self._directory.path / "workspace"
        self.workspace.mkdir()
        self.workspace_name = str(self.workspace)
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def start_kernel(self) -> tuple[Channels, asyncio.Future[str]]:
        run = self._directory.path / secrets.token_hex(4)
        file, info = write_connection_file(
            f"{run}.json", transport="ipc", ip=str(run), key=secrets.token_hex(32).encode()
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "codeact.sandbox.kernelserver", "-f", file],
            cwd=self.workspace,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        exited: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._watcher = asyncio.create_task(self._watch(self._process, exited))
        ports = {name: port for name, port in info.items() if name.endswith("_port")}
        addresses = {name.removesuffix("_port"): f"ipc://{run}-{port}" for name, port in ports.items()}
        return Channels(addresses, str(info["key"]).encode()), exited

    @staticmethod
    async def _watch(process: subprocess.Popen[bytes], exited: asyncio.Future[str]) -> None:
        while process.poll() is None:  # noqa: ASYNC110  # macOS has no pidfd to wait on
            await asyncio.sleep(0.1)
        code = process.returncode
        cause = f"it was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"it exited with {code}"
        if not exited.done():
            exited.set_result(cause)

    async def interrupt_kernel(self) -> None:
        self._signal(signal.SIGINT)

    async def kill_kernel(self) -> None:
        self._signal(signal.SIGKILL)
        if self._watcher is not None:
            await asyncio.wait({self._watcher}, timeout=10)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    async def _release(self) -> None:
        await self.kill_kernel()
        self._directory.remove()

    # --- files ---

    def _resolve(self, path: str) -> Path:
        if self.closed:
            raise SessionClosed(f"session {self.id} is closed")
        try:
            target = (self.workspace / path).resolve()
        except (ValueError, OSError, RuntimeError) as error:  # a NUL, a loop of links
            raise FileTransferError(f"{path}: {error}") from error
        if not path or not target.is_relative_to(self.workspace.resolve()):
            raise FileTransferError(f"{path}: a path is relative to the workspace and stays in it")
        return target

    async def put(self, path: str, data: bytes | IO[bytes]) -> None:
        target = self._resolve(path)
        try:
            if target.exists() and not target.is_file():
                raise FileTransferError(f"{path}: not a plain file")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                copy_bounded(data, file, self.limits.file)
        except OSError as error:
            raise FileTransferError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise FileTransferError(f"{path}: {error}") from error

    async def get(self, path: str) -> bytes:
        target = self._resolve(path)
        try:
            if not target.is_file():
                raise FileTransferError(f"{path}: {'not a plain file' if target.exists() else 'No such file'}")
            if target.stat().st_size > self.limits.file:
                raise FileTransferError(f"{path}: larger than the limit of {self.limits.file} bytes")
            return target.read_bytes()
        except OSError as error:
            raise FileTransferError(f"{path}: {error.strerror}") from error

    async def files(self) -> tuple[FileInfo, ...]:
        found = []
        for path in sorted(self._resolve(".").rglob("*")):
            relative = path.relative_to(self.workspace)
            if path.is_file() and not path.is_symlink() and not any(p.startswith(".") for p in relative.parts):
                found.append(FileInfo(path=str(relative), size=path.stat().st_size))
        return tuple(found[:_LISTED])


def _environment() -> dict[str, str]:
    """The host's environment less what looks like a secret: politeness, not a boundary."""
    kept = {k: v for k, v in os.environ.items() if not any(word in k.upper() for word in _SECRET_WORDS)}
    # with its parent's id a kernel ends itself when the parent is gone, however that went
    return kept | {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "JPY_PARENT_PID": str(os.getpid())}
