"""Live proof of a boundary: every attack of ``codeact.sandbox.attacks`` is run inside, against bait on the host.

    async with Sandbox("local", memory=512 << 20, disk=64 << 20) as sandbox:
        outcomes = await run_canaries(sandbox, DOCTOR)

The bait is a secret in the environment, a file, servers, a process, and a second session as a neighbour. What is
proved is that these attacks fail here and now, not that no other would succeed. An attack that ends without a word is
never taken for one that was held back.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import json
import os
import secrets
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from codeact.contracts import ExecutionResult, Sandbox, Session, Value
from codeact.errors import SandboxError, UsageError
from codeact.sandbox import attacks
from codeact.sandbox.limits import Limits

FAMILIES = ("secrets", "filesystem", "processes", "network", "kernel", "neighbours", "resources")
"""In the order in which they are run and told."""

_SECRET_NAME = "CODEACT_CANARY"
_FILES = 200_000  # more than any session may make
_LIMIT = 60.0  # seconds for one attack
_SLOW = {"many-files", "memory-of-many", "shared-memory-bomb", "memory-file-bomb", "system-v-memory-bomb"}


class Canary(Value):
    """One attack. ``harmless``: does no damage even where nothing stops it."""

    name: str
    family: str
    purpose: str
    harmless: bool

    def code(self, facts: dict[str, Any]) -> str:
        """What to run, the source of ``attacks`` having been run before: prints ``BREACH:`` or ``HELD:`` and why."""
        return f"import json\nattempt({self.name!r}, json.loads({json.dumps(json.dumps(facts))}))"

    def verdict(self, result: ExecutionResult) -> tuple[bool | None, str]:
        """Whether the boundary held (None: cannot be told from this), and one line on why."""
        for line in result.stdout.splitlines():
            for word, held in (("BREACH: ", False), ("HELD: ", True)):
                if line.startswith(word):
                    return held, line.removeprefix(word)
        error = result.error
        said = result.stdout.strip() or (f"{error.name}: {error.message}" if error else "")
        return None, " ".join(filter(None, (result.status, said, result.notice)))[:500]


class Outcome(Value):
    """How one attack ended. ``held`` is False for a breach and for whatever could not be decided."""

    name: str
    family: str
    held: bool
    detail: str


ALL = tuple(
    sorted(
        (
            Canary(name=name, family=family, purpose=(function.__doc__ or "").strip(), harmless=harmless)
            for name, (family, harmless, function) in attacks.ATTACKS.items()
        ),
        key=lambda canary: FAMILIES.index(canary.family),
    )
)
"""Every attack, by family."""

DOCTOR = tuple(canary for canary in ALL if canary.name not in _SLOW)
"""Those that take seconds together, given a sandbox with small limits of memory and disk."""


async def run_canaries(sandbox: Sandbox, canaries: Iterable[Canary] = DOCTOR) -> list[Outcome]:
    """Run these attacks in sessions of that sandbox, in order.

    An attack of the family ``resources`` that ends its kernel is held when a new session works.
    Raises UsageError for an attack that could do damage in a sandbox without a boundary, SandboxError where no
    session can be had.
    """
    canaries = tuple(canaries)
    dangerous = [canary.name for canary in canaries if not canary.harmless]
    if sandbox.name == "unsafe-process" and dangerous:
        raise UsageError(f"there is no boundary to hold these attacks, so they are not run: {', '.join(dangerous)}")
    outcomes = []
    async with _bait(sandbox) as facts, contextlib.AsyncExitStack() as stack:
        session: Session | None = None
        for canary in canaries:
            if session is None:
                await stack.aclose()
                session = await _prepared(sandbox)
                stack.push_async_callback(session.close)
            held, detail, died = await _attempt(session, canary, facts)
            if canary.family == "resources" and held is None and died:
                held = await _works(sandbox)
                detail += "; a new session works" if held else "; no new session works"
            if died:
                session = None
            outcomes.append(Outcome(name=canary.name, family=canary.family, held=held is True, detail=detail))
    return outcomes


async def _prepared(sandbox: Sandbox) -> Session:
    session = await sandbox.session()
    result = await session.run(inspect.getsource(attacks))
    if result.status != "ok":
        await session.close()
        raise SandboxError(f"the attacks could not be put into the sandbox: {result.notice or result.error}")
    return session


async def _attempt(session: Session, canary: Canary, facts: dict[str, Any]) -> tuple[bool | None, str, bool]:
    try:
        result = await session.run(canary.code(facts), timeout=_LIMIT)
    except SandboxError as error:
        return None, f"the sandbox failed: {error}", True
    return *canary.verdict(result), result.status == "died"


async def _works(sandbox: Sandbox) -> bool:
    try:
        session = await sandbox.session()
    except SandboxError:
        return False
    try:
        return (await session.run("6 * 7")).result == "42"
    except SandboxError:
        return False
    finally:
        await session.close()


@contextlib.asynccontextmanager
async def _bait(sandbox: Sandbox) -> AsyncIterator[dict[str, Any]]:
    """What the attacks look for, put up on the host and in a session of its own. Yields the facts about it."""
    secret, marker = secrets.token_hex(16), f"canary-{secrets.token_hex(8)}"
    limits = getattr(sandbox, "limits", Limits())
    address, home = _own_address(), str(Path.home())
    os.environ[_SECRET_NAME] = secret
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(os.environ.pop, _SECRET_NAME, None)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="canary-"))
        servers = [
            await asyncio.start_server(_hang_up, "127.0.0.1", 0),
            await asyncio.start_server(_hang_up, address, 0),
            await asyncio.start_unix_server(_hang_up, f"{folder}/socket"),
            await asyncio.start_unix_server(_hang_up, f"\0{marker}"),
        ]
        for server in servers:
            stack.callback(server.close)
        udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(_Echo, ("127.0.0.1", 0))
        stack.callback(udp.close)
        child = subprocess.Popen(["sh", "-c", "read line", marker], stdin=subprocess.PIPE)
        stack.callback(_end, child)
        yield {
            "home": home,
            "file": _file(folder),
            "marker": marker,
            "child": child.pid,
            "port": servers[0].sockets[0].getsockname()[1],
            "address": address,
            "address_port": servers[1].sockets[0].getsockname()[1],
            "udp_port": udp.get_extra_info("sockname")[1],
            "unix_path": f"{folder}/socket",
            "abstract": marker,
            "host_name": socket.gethostname(),
            "secret_name": _SECRET_NAME,
            "secret_sha256": hashlib.sha256(secret.encode()).hexdigest(),
            "memory": limits.memory,
            "disk": limits.disk,
            "processes": limits.processes,
            "open_files": limits.open_files,
            "files": _FILES,
            **await _neighbour(sandbox, stack),
        }


async def _neighbour(sandbox: Sandbox, stack: contextlib.AsyncExitStack) -> dict[str, Any]:
    """A second session with a file, a process, servers and a message queue of its own."""
    name, key = f"neighbour-{secrets.token_hex(8)}", 1 + secrets.randbelow(1 << 30)
    session = await sandbox.session()
    stack.push_async_callback(session.close)
    result = await session.run(_NEIGHBOUR.format(name=name, key=key))
    if result.status != "ok":
        raise SandboxError(f"a neighbour for the attacks could not be had: {result.notice or result.error}")
    stack.push_async_callback(session.run, "process.kill(); process.wait(); libc.msgctl(queue, 0, None)")
    return {"neighbour": name, "neighbour_key": key, "neighbour_port": int(result.stdout)}


_NEIGHBOUR = """
import ctypes, os, socket, subprocess
libc = ctypes.CDLL(None)
name = {name!r}
for folder in (".", "/tmp", "/dev/shm") if os.getcwd() == "/workspace" else (".",):
    open(os.path.join(folder, name), "w").close()
process = subprocess.Popen(["sh", "-c", "read line", name], stdin=subprocess.PIPE)
server = socket.create_server(("127.0.0.1", 0))
abstract = socket.socket(socket.AF_UNIX)
abstract.bind("\\0" + name)
abstract.listen()
queue = libc.msgget({key}, 0o1666)
print(server.getsockname()[1])
"""


def _file(folder: str) -> str:
    path = Path(folder, "bait")
    path.write_text("bait")
    return str(path)


def _own_address() -> str:
    """The address by which this machine reaches others, or a second loopback address where it has none."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])
    return "127.0.0.2"


async def _hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.communicate()


class _Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.transport.sendto(data, address)
