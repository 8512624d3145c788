"""What the tests do as an ordinary user: ``python -m tests.sandbox.as_user ACT`` prints one JSON value."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import platform
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

from codeact.errors import IsolationUnavailable, SandboxError
from codeact.sandbox import Sandbox, canaries, linux

LIMITS: dict[str, Any] = {"memory": 512 << 20, "disk": 64 << 20}

HOG = """
import os, signal, time
for _ in range(6):
    if os.fork() == 0:
        held = bytearray(b"x" * (150 << 20))
        while True: signal.pause()
time.sleep(600)
"""


async def attacks() -> Any:
    async with Sandbox("local", **LIMITS) as sandbox:
        outcomes = await canaries.run_canaries(sandbox, canaries.ALL)
    return [outcome.model_dump() for outcome in outcomes]


async def hog() -> Any:
    async with Sandbox("local", **LIMITS) as sandbox:
        session = await sandbox.session()
        before = await session.run("lost = 1")
        result = await session.run(HOG, timeout=30)
        after = await session.run("'lost' in globals()")
    return {
        "before": before.status,
        "status": result.status,
        "notice": result.notice,
        "after": after.result,
        "user": os.getuid(),
        "cgroups": [path for path in Path("/sys/fs/cgroup").rglob(f"codeact-{os.getpid()}-*")] != [],
    }


async def fork() -> Any:
    async with Sandbox("local", **LIMITS) as sandbox:
        session = await sandbox.session()
        await session.run("line = [1]\nopen('file', 'w').write('text')")
        fork = await session.fork()
        await fork.run("line.append(2)")
        look = "line, open('file').read()"
        return {
            "fork": (await fork.run(look)).result,
            "first": (await session.run(look)).result,
            "user": os.getuid(),
        }


async def full() -> Any:
    """A host whose directory for temporary files is full, and then is not."""
    folder = Path(tempfile.gettempdir())  # asked for while there is room: else Python takes another one
    assert str(folder) == os.environ["TMPDIR"]
    for number in range(1000):
        try:
            (folder / f"filler-{number}").touch()
        except OSError:
            break
    told: dict[str, Any] = {"refused": None}
    async with Sandbox("local", **LIMITS) as sandbox:
        try:
            await sandbox.session()
        except SandboxError as error:
            told["refused"] = str(error)
        told["left"] = [name for name in os.listdir(folder) if not name.startswith("filler")]
        for filler in folder.glob("filler-*"):
            filler.unlink()
        session = await sandbox.session()
        told["room"] = (await session.run("6 * 7")).result
        with open(folder / "filler", "wb", 0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        result = await session.run("print('x' * 5_000_000)")
        told["printed"], told["notice"] = result.status, result.notice
        other = await sandbox.session()
        told["other"] = (await other.run("6 * 7")).result
        (folder / "filler").unlink()
        told["kept"] = (await session.run("print('x' * 1_000_000)")).full_output
    told["left at the end"] = os.listdir(folder)
    return told


def _refuse_unshare() -> None:
    """What a container's system call filter does: unshare answers EPERM."""
    number = {"x86_64": 272, "aarch64": 97}[platform.machine()]
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | errno.EPERM), (0x06, 0, 0, 0x7FFF0000)]
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.install_seccomp(b"".join(struct.pack("=HBBI", *step) for step in steps))


async def forbidden() -> Any:
    """A machine that forbids user namespaces to ordinary users."""
    _refuse_unshare()
    ran = Path.home() / "ran"
    async with Sandbox("local", **LIMITS) as sandbox:
        try:
            session = await sandbox.session()
        except IsolationUnavailable as error:
            return {"refused": str(error)}
        await session.run(f"open({str(ran)!r}, 'w')")
    return {"refused": None}


_FETCH = """
import socket, urllib.error, urllib.request
def fetch(url):
    try:
        return urllib.request.urlopen(url, timeout=20).read().decode()
    except urllib.error.HTTPError as error:
        return error.code
def reach(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5)
    except OSError as error:
        return type(error).__name__
"""


async def network() -> Any:
    """A session with some names and one with the host's network; the last argument is a web server's port."""
    port = int(sys.argv[2])
    async with Sandbox("local", allow_net=f"web.example.org=127.0.0.1:{port}", **LIMITS) as sandbox:
        code = f"[fetch('http://web.example.org/'), fetch('http://evil.example.org/'), reach({port})]"
        names = await (await sandbox.session()).run(_FETCH + code)
    async with Sandbox("local", network="host", **LIMITS) as sandbox:
        host = await (await sandbox.session()).run(f"{_FETCH}fetch('http://127.0.0.1:{port}/')")
    return {"names": names.result, "host": host.result}


async def forbidden_jupyter() -> Any:
    """The same machine, asked by a program of Jupyter that finds kernelspecs where the argument says."""
    from jupyter_client.manager import AsyncKernelManager

    _refuse_unshare()
    os.environ["JUPYTER_PATH"] = str(Path(sys.argv[2]) / "share" / "jupyter")
    manager = AsyncKernelManager(kernel_name="codeact")
    error: Exception | None = None
    try:
        await manager.start_kernel()
    except Exception as raised:
        error = raised
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {"error": type(error).__name__, "said": str(error), "processes": len(children)}


if __name__ == "__main__":
    acts = {
        "attacks": attacks,
        "hog": hog,
        "full": full,
        "forbidden": forbidden,
        "forbidden-jupyter": forbidden_jupyter,
        "network": network,
        "fork": fork,
    }
    act = acts[sys.argv[1]]
    print(json.dumps(asyncio.run(act())))  # noqa: T201
