"""Kernels in the sandbox for Jupyter's own programs: the provisioner ``codeact-local``.

A kernelspec that names it is run within the boundary of ``local`` by whatever starts kernels through jupyter_client:
JupyterLab, ``jupyter console``, nbclient. Where the boundary cannot be had the start fails; never is a kernel started
without it. The notebook's directory, the variables and the arguments that the client offers do not reach the kernel.

Source: jupyter-client.readthedocs.io/en/stable/provisioning.html
"""

from __future__ import annotations

import asyncio
import atexit
import os
import secrets
import signal
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from pydantic import ValidationError

from codeact import sync
from codeact.errors import SandboxError, UsageError
from codeact.sandbox import kernelspec, wire
from codeact.sandbox.box import KERNEL_ENVIRONMENT, Box
from codeact.sandbox.forkserver import ForkServer
from codeact.sandbox.kernelspec import Foreign
from codeact.sandbox.limits import Limits
from codeact.sandbox.rundir import RunDirectory

T = TypeVar("T")
_LONGEST_PATH = 107  # bytes of a Unix socket's path
_COME_BACK = 0.25  # seconds within which a client's ZeroMQ tries again: every 0.1 to 0.2
_SETTINGS = ("memory", "disk", "processes", "open_files", "kernel")


class _Hold:
    """What all kernels of this process share: the zygotes, and the directory of the paths that clients are given.

    Lives on the event loop of ``codeact.sync``, because the programs that ask run theirs only now and then.
    """

    def __init__(self) -> None:
        self._starting = asyncio.Lock()
        self._zygotes: dict[tuple[str, ...] | None, ForkServer] = {}  # by what a kernel sees that is not ours
        self._directory: RunDirectory | None = None
        self._descriptor: int | None = None  # of that directory, where its path is too long
        self._base = ""

    async def box(self, limits: Limits, foreign: Foreign | None) -> Box:
        """A locked-in session without a kernel yet. Raises IsolationUnavailable, KernelStartError."""
        kind = foreign.readable if foreign is not None else None
        async with self._starting:
            zygote = self._zygotes.get(kind)
            if zygote is None or not zygote.alive:
                if zygote is not None:
                    await zygote.close()
                zygote = self._zygotes[kind] = (
                    await ForkServer.start() if kind is None else await ForkServer.start(preload=(), visible=kind)
                )
            box = Box(limits, zygote, foreign=foreign)
        try:
            await box.spawn()
        except BaseException:
            await box.remove()
            raise
        return box

    def prefix(self) -> str:
        """How the paths of a new kernel's sockets begin. Short, wherever temporary files are kept."""
        if self._directory is None:
            self._directory = RunDirectory()
            self._base = str(self._directory.path)
            if len(os.fsencode(f"{self._base}/012345678901-5")) > _LONGEST_PATH:
                self._descriptor = os.open(self._directory.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                self._base = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        return f"{self._base}/{secrets.token_hex(6)}"

    async def close(self) -> None:
        for zygote in self._zygotes.values():
            await zygote.close()
        self._zygotes.clear()
        self._remove()

    def leave(self) -> None:
        """At the end of the process: no directory stays behind. Its processes end with it."""
        for zygote in self._zygotes.values():
            zygote.abandon()
        self._remove()

    def _remove(self) -> None:
        if self._directory is not None:
            self._directory.remove()
            if self._descriptor is not None:
                os.close(self._descriptor)
        self._directory = self._descriptor = None


_holds: dict[int, _Hold] = {}  # by the process: a forked child has no part in its parent's


def _hold() -> _Hold:
    if os.getpid() not in _holds:
        _holds[os.getpid()] = _Hold()
        atexit.register(_leave)
    return _holds[os.getpid()]


def _leave() -> None:
    if (hold := _holds.pop(os.getpid(), None)) is not None:
        hold.leave()


def close() -> None:
    """End what is kept for the next kernel. To be called when none runs; by itself it ends with the process."""
    if (hold := _holds.pop(os.getpid(), None)) is not None:
        atexit.unregister(_leave)
        sync.wait_for(hold.close())


async def _there(coroutine: Coroutine[Any, Any, T]) -> T:
    """What ``coroutine`` comes to on the loop of ``codeact.sync``, waited for on this one."""
    return await asyncio.wrap_future(sync.hand_over(coroutine))


class LocalProvisioner(KernelProvisionerBase):
    """One kernel in a box of its own, which outlives it: what restarts is the kernel, and /workspace stays.

    ``kernel_provisioner.config`` of the kernelspec takes ``memory`` and ``disk`` in bytes, ``processes``,
    ``open_files``, and ``kernel``, the name of another kernelspec to run. Raises UsageError for anything else.
    """

    def __init__(self, **options: Any) -> None:
        config = {name: options.pop(name) for name in list(options) if name not in self.class_traits()}
        super().__init__(**options)
        self._limits = _limits(config)
        self._foreign = kernelspec.of_spec(str(self.kernel_spec.display_name), self.kernel_spec)
        self._box: Box | None = None
        self._exited: asyncio.Future[str] | None = None
        self._prefix = ""
        self._restarting = False
        self._wanted = True  # that the kernel runs: else its end is no news

    @property
    def has_process(self) -> bool:
        return self._exited is not None

    async def poll(self) -> int | None:
        if self._exited is None:
            return 0
        if not self._exited.done():
            return None
        if self._wanted:
            self._wanted = False
            self.log.warning("The kernel %s died: %s.", self.kernel_id, self._exited.result())
        code = self._box.exit_code if self._box is not None else None
        return -signal.SIGKILL if code is None else code

    async def wait(self) -> int | None:
        if self._exited is not None:
            await _there(_ended(self._exited))
        code = await self.poll()
        self._exited = None
        return code

    async def send_signal(self, signum: int) -> None:
        """SIGINT interrupts, SIGTERM and SIGKILL kill; other signals do not reach into a session."""
        if self._box is None or self._exited is None or self._exited.done():
            return
        if signum == signal.SIGINT:
            await _there(self._box.interrupt())
        elif signum in (signal.SIGTERM, signal.SIGKILL):
            self._wanted = False
            await _there(self._box.kill())
        elif signum:
            self.log.warning("Signal %d does not reach a kernel in the sandbox: it was not sent.", signum)

    async def kill(self, restart: bool = False) -> None:
        await self.send_signal(signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        await self.send_signal(signal.SIGTERM)

    async def shutdown_requested(self, restart: bool = False) -> None:
        self._wanted = False

    async def cleanup(self, restart: bool = False) -> None:
        if not restart and self._box is not None:
            await _there(self._box.remove())
            self._box = None
            self._unlink()

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        if kwargs.get("extra_arguments"):
            raise UsageError("a kernel in the sandbox takes no arguments of its own")
        return {"cmd": list(self.kernel_spec.argv)}

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel in its box; ``cmd`` is not used. Raises SandboxError, the box then being gone."""
        key = self.parent.session.key if self.parent else secrets.token_hex(32).encode()
        self._exited = await _there(self._launch(key.decode()))
        self._wanted = True
        ports = {f"{channel}_port": number for number, channel in enumerate(wire.CHANNELS, 1)}
        told = {"transport": "ipc", "ip": self._prefix, "key": key, "signature_scheme": "hmac-sha256", **ports}
        self.connection_info = cast(KernelConnectionInfo, told)
        return self.connection_info

    async def get_provisioner_info(self) -> dict[str, Any]:
        """What there is to know of the kernel. It ends with this process, so no other one can take it over."""
        kernel = self._foreign.name if self._foreign else "codeact"
        return {**await super().get_provisioner_info(), "kernel": kernel, "limits": self._limits.model_dump()}

    async def _launch(self, key: str) -> asyncio.Future[str]:
        hold = _hold()
        if self._box is not None:
            try:
                return await self._connected(await self._box.start(key=key, environment=KERNEL_ENVIRONMENT))
            except SandboxError as error:
                self.log.warning("The session of kernel %s is gone with its files: %s", self.kernel_id, error)
                await self._box.remove()
        self._box = await hold.box(self._limits, self._foreign)
        self._prefix = self._prefix or hold.prefix()
        try:
            return await self._connected(await self._box.start(key=key, environment=KERNEL_ENVIRONMENT))
        except BaseException:
            await self._box.remove()
            self._box = None
            raise

    async def _connected(self, exited: asyncio.Future[str]) -> asyncio.Future[str]:
        """Name the box's sockets as clients expect, for as long as this kernel lives.

        The clients of the kernel before come back one socket after the other. Requests go over the shell, so that one
        is named last: else there could be answers before the output has somebody to hear it.
        """
        assert self._box is not None
        self._unlink()
        exited.add_done_callback(lambda _: self._unlink())
        shell, *others = (
            (self._box.path(channel), f"{self._prefix}-{number}") for number, channel in enumerate(wire.CHANNELS, 1)
        )
        for path, name in others:
            os.symlink(path, name)
        if self._restarting:
            await asyncio.sleep(_COME_BACK)
        self._restarting = True
        os.symlink(*shell)
        return exited

    def _unlink(self) -> None:
        for number in range(1, len(wire.CHANNELS) + 1):
            Path(f"{self._prefix}-{number}").unlink(missing_ok=True)


def _limits(config: Mapping[str, Any]) -> Limits:
    """The limits that a kernelspec sets. Raises UsageError."""
    for name in config:
        if name not in _SETTINGS:
            known = ", ".join(_SETTINGS)
            raise UsageError(
                f"unknown setting {name!r} in the kernelspec's kernel_provisioner.config: there is {known}"
            )
    try:
        return Limits(**{name: value for name, value in config.items() if name != "kernel"})
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(map(str, detail["loc"]))
        raise UsageError(f"{where} in the kernelspec's kernel_provisioner.config: {detail['msg']}") from error


async def _ended(exited: asyncio.Future[str]) -> None:
    await asyncio.wait({exited})
