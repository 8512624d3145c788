"""The host's side of the zygote: starts it, keeps the directory where the sessions' sockets listen, ends it."""

from __future__ import annotations

import asyncio
import functools
import os
import site
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from codeact.errors import IsolationUnavailable, KernelStartError
from codeact.sandbox import cgroups, environment, wire
from codeact.sandbox.isolation import Root
from codeact.sandbox.rundir import RunDirectory, no_room

_START_LIMIT = 120.0  # seconds: a cold disk and the data stack
REMEDY = (
    "Remedy: allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
    "kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces>0), run as root, or give up the "
    "boundary with --sandbox unsafe-process."
)

PRELOAD = (
    "codeact.sandbox.kernelserver",
    "numpy",
    "pandas",
    "matplotlib.pyplot",
    # what ipykernel and IPython import only when a kernel starts
    "IPython.core.completer",
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "tornado.platform.asyncio",
    # and when the first cell runs and the first error or plot is shown
    "faulthandler",
    "IPython.core.ultratb",
    "stack_data",
    "matplotlib.backends.backend_agg",
)
"""What the zygote imports before the first fork, where it is installed."""


class ForkServer:
    """The host's hold on the zygote process and on the directory where the sessions' sockets listen."""

    def __init__(
        self, process: subprocess.Popen[bytes], end: socket.socket, run: RunDirectory, errors: IO[bytes]
    ) -> None:
        self.process = process
        self.end = end
        self.directory = run.path
        self.sessions = 0  # that listen in the directory: it stays as long as they do, even when the zygote dies
        self._run = run
        self._errors = errors
        self._closed = False
        self.folder = os.open(run.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    @classmethod
    async def start(
        cls, resolves: bool = False, preload: Sequence[str] = PRELOAD, visible: Sequence[str] = ()
    ) -> ForkServer:
        """Start the zygote and wait until it has imported all. Raises IsolationUnavailable, KernelStartError.

        ``resolves``: the sessions resolve names as the host does. ``visible`` are host paths that they see besides the
        Python installation.
        """
        if sys.platform != "linux":
            raise IsolationUnavailable(
                f"the local sandbox needs Linux, this is {sys.platform}; use a Linux machine, "
                "or give up the boundary with --sandbox unsafe-process"
            )
        cgroups.sweep()
        run = RunDirectory()
        try:
            errors = tempfile.TemporaryFile()  # closed by close()
        except OSError as error:
            run.remove()
            raise KernelStartError(no_room(error)) from error
        ours, theirs = wire.pair()
        try:
            (run.path / "root").mkdir()
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "codeact.sandbox.zygote", str(theirs.fileno())],
                    env=_environment(),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    cwd="/",
                    start_new_session=True,
                )
            server = cls(process, ours, run, errors)
            paths = tuple(sorted({*readable(), *visible}))
            root = Root(mount_point=str(run.path / "root"), readable=paths, resolves=resolves)
            wire.send(ours, {"preload": preload, "root": root.model_dump()})
        except BaseException as error:
            ours.close()
            errors.close()
            run.remove()
            if isinstance(error, OSError):
                raise KernelStartError(f"the zygote cannot be started: {error}") from error
            raise
        try:
            answer = await _receive(ours, _START_LIMIT)
            if answer is None:
                raise KernelStartError(f"the zygote did not start: {server.last_words()}")
            if "error" in answer:
                raise IsolationUnavailable(f"the isolation cannot be built here: {answer['error']}. {REMEDY}")
        except BaseException:
            process.kill()
            await server.close()
            raise
        return server

    def last_words(self) -> str:
        """The last line that the zygote wrote to its stderr."""
        self._errors.seek(0)
        lines = self._errors.read(1 << 20).decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no word of why"

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    async def close(self) -> None:
        self.end.close()
        try:
            await asyncio.to_thread(self.process.wait, 5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            await asyncio.to_thread(self.process.wait)
        self._errors.close()
        self._closed = True
        self._tidy()

    def abandon(self) -> None:
        """Remove the directory at the end of this process, with which the zygote and its sessions end by themselves."""
        self.end.close()
        self._run.remove()

    def leave(self) -> None:
        """One session less listens in the directory."""
        self.sessions -= 1
        self._tidy()

    def _tidy(self) -> None:
        if self._closed and not self.sessions:
            os.close(self.folder)
            self._run.remove()


def settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _receive(end: socket.socket, limit: float) -> dict[str, Any] | None:
    """The next message within ``limit`` seconds, or None at the end of file. Raises KernelStartError."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[None] = loop.create_future()
    loop.add_reader(end, lambda: settle(arrived))
    try:
        await asyncio.wait_for(arrived, limit)
    except TimeoutError as error:
        raise KernelStartError(f"the zygote did not start within {limit:.0f} seconds") from error
    finally:
        loop.remove_reader(end)
    received = wire.receive(end)
    return None if received is None else received[0]


def _environment() -> dict[str, str]:
    """All that a session inherits: nothing of the host's environment but its time zone."""
    scripts = sysconfig.get_path("scripts")
    variables = {
        "PATH": f"{environment.PLACE}/bin:{scripts}:/usr/local/bin:/usr/bin:/bin",
        "VIRTUAL_ENV": environment.PLACE,
        "PIP_NO_CACHE_DIR": "1",  # the session's disk is its memory
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "HOME": "/tmp/home",
        "USER": "user",
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MPLCONFIGDIR": str(_font_cache()),
        "IPYTHONDIR": "/tmp/home/.ipython",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    if "TZ" in os.environ:
        variables["TZ"] = os.environ["TZ"]
    package = Path(__file__).parents[2]
    if not package.name.endswith("-packages"):
        variables["PYTHONPATH"] = str(package)
    if site.ENABLE_USER_SITE:  # else it would be looked for in the session's home
        variables["PYTHONUSERBASE"] = site.getuserbase()
    return variables


def _font_cache() -> Path:
    """Where matplotlib keeps its list of fonts, which takes seconds to make."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = base / "codeact" / "matplotlib"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir())
    return path


@functools.cache
def readable() -> tuple[str, ...]:
    """The host paths that a session sees: the Python it runs on, and this package."""
    paths = {Path(sys.base_prefix).resolve(), Path(sys.base_exec_prefix).resolve(), Path(sys.prefix).resolve()}
    paths.update(Path(p).resolve() for p in sysconfig.get_paths().values())
    paths.add(Path(__file__).resolve().parents[1])
    if site.ENABLE_USER_SITE:
        paths.add(Path(site.getusersitepackages()).resolve())
    forbidden = {Path("/"), Path("/home"), Path("/root"), Path("/etc"), Path("/tmp"), Path("/var"), Path.home()}
    return tuple(sorted(str(p) for p in paths if p.is_dir() and p not in forbidden))
