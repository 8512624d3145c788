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
import json
import os
import secrets
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

from codeact.contracts import ExecutionResult, Sandbox, Session, Value
from codeact.errors import SandboxError, UsageError
from codeact.sandbox import attacks
from codeact.sandbox.hostparts import PARTS, Trial
from codeact.sandbox.hostwatch import Decoy, Watch, render
from codeact.sandbox.limits import Limits

FAMILIES = ("secrets", "filesystem", "processes", "network", "kernel", "neighbours", "protocol", "resources")
"""In the order in which they are run and told."""

_SECRET_NAME = "CODEACT_CANARY"
_FILES = 200_000  # more than any session may make
_LIMIT = 60.0  # seconds for one attack that is given no other limit
_MAY_END = ("resources", "protocol")  # families whose attacks may end their session: that it is gone is an answer
_SLOW = {
    "many-files", "memory-of-many", "shared-memory-bomb", "memory-file-bomb", "system-v-memory-bomb",
    "frame-of-a-terabyte", "half-a-frame", "flood-without-end", "flood-while-nobody-listens",
}  # fmt: skip


class Canary(Value):
    """One attack. ``harmless``, ``seconds``, ``by_network``: see ``attacks.ground.Entry``."""

    name: str
    family: str
    purpose: str
    harmless: bool
    seconds: float = _LIMIT
    by_network: bool = False

    def code(self, facts: dict[str, Any]) -> str:
        """What to run where the package ``attacks`` can be imported: prints ``BREACH:`` or ``HELD:`` and why."""
        return f"import attacks, json\nattacks.attempt({self.name!r}, json.loads({json.dumps(json.dumps(facts))}))"

    def verdict(self, result: ExecutionResult) -> tuple[bool | None, str]:
        """Whether the boundary held (None: cannot be told from this), and one line on why."""
        for line in result.stdout.splitlines():
            for word, held in (("BREACH: ", False), ("HELD: ", True)):
                if line.startswith(word):
                    return held, line.removeprefix(word)
        error = result.error
        said = result.stdout.strip() or (f"{error.name}: {error.message}" if error else "")
        return None, " ".join(filter(None, (result.status, said[:300], result.notice)))[:500]


class Outcome(Value):
    """How one attack ended. ``held`` is False for a breach and for whatever could not be decided.

    ``chosen``: it was not held because the sandbox was given what the attack needs: the network of the host.
    """

    name: str
    family: str
    held: bool
    chosen: bool = False
    detail: str


ALL = tuple(
    sorted(
        (
            Canary(
                name=name,
                family=entry.family,
                purpose=" ".join((entry.function.__doc__ or "").split()),
                harmless=entry.harmless,
                seconds=entry.seconds,
                by_network=entry.by_network,
            )
            for name, entry in attacks.ATTACKS.items()
        ),
        key=lambda canary: FAMILIES.index(canary.family),
    )
)
"""Every attack, by family."""

DOCTOR = tuple(canary for canary in ALL if canary.name not in _SLOW)
"""Those that take seconds together, given a sandbox with small limits of memory and disk."""


async def run_canaries(
    sandbox: Sandbox, canaries: Iterable[Canary] = DOCTOR, told: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """Run these attacks in sessions of that sandbox, in order; those that are to run into their time limit beside the
    others. Each outcome is ``told`` as soon as it and those before it are known.

    An attack of the families ``resources`` and ``protocol`` that ends its kernel is held when a new session works.
    Whatever an attack does, a neighbour has to be answered meanwhile, the host must not grow, must not fail over the
    result, and must call no tool.
    Raises UsageError for an attack that could do damage in a sandbox without a boundary, SandboxError where no
    session can be had.
    """
    canaries = tuple(canaries)
    dangerous = [canary.name for canary in canaries if not canary.harmless]
    if sandbox.name == "unsafe-process" and dangerous:
        raise UsageError(f"there is no boundary to hold these attacks, so they are not run: {', '.join(dangerous)}")
    async with _bait(sandbox) as (facts, neighbour), Watch(neighbour) as watch, asyncio.TaskGroup() as group:
        battery = _Battery(sandbox, facts, neighbour, watch)
        waiting = [canary for canary in canaries if canary.seconds <= _BESIDE]
        beside = {canary.name: group.create_task(battery.alone(canary)) for canary in waiting}
        outcomes = []
        try:
            for canary in canaries:
                outcomes.append(await (beside[canary.name] if canary.name in beside else battery.run(canary)))
                told(outcomes[-1])
        finally:
            await battery.close()
    return outcomes


_BESIDE = 2.0  # seconds: the time limit of the attacks that run into it


class _Battery:
    """Runs attacks against one sandbox, as many as possible in the same session."""

    def __init__(self, sandbox: Sandbox, facts: dict[str, Any], neighbour: Session, watch: Watch) -> None:
        self.sandbox = sandbox
        self.facts = facts
        self.neighbour = neighbour
        self.watch = watch
        self._has_network = getattr(getattr(sandbox, "network", None), "kind", None) == "host"
        self._session: Session | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def run(self, canary: Canary) -> Outcome:
        """In the session of the attacks before it, as long as that lives."""
        if canary.family == "protocol":
            return await self.alone(canary)
        if self._session is None:
            self._session = await self._prepared()
        outcome, died = await self._attempt(self._session, canary)
        if died or canary.name in PARTS:
            await self.close()
        return outcome

    async def alone(self, canary: Canary) -> Outcome:
        """In a session of its own."""
        session = await self._prepared()
        try:
            return (await self._attempt(session, canary))[0]
        finally:
            await session.close()

    async def _prepared(self) -> Session:
        foreign = getattr(self.sandbox, "foreign", None)  # such a kernel cannot call tools
        tools = () if foreign else (Decoy(self.facts["tool"], self.watch),)
        session = await self.sandbox.session(tools=tools)
        for file in Path(attacks.__file__).parent.glob("*.py"):
            source = file.read_text().replace(attacks.__name__, "attacks")  # for inside it stands by itself
            await session.put(f"attacks/{file.name}", source.encode())
        return session

    async def _attempt(self, session: Session, canary: Canary) -> tuple[Outcome, bool]:
        """The outcome, and whether the kernel did not outlive the attack."""
        before = self.watch.begin()
        died = False
        try:
            held, detail, died = await self._tried(session, canary)
        except Exception as error:  # whatever it is: the host is not to fail
            held, detail, died = False, f"the host failed: {type(error).__name__}: {error}"[:500], True
        if complaint := await self.watch.complaint(before):
            held, detail = False, complaint
        chosen = held is False and canary.by_network and self._has_network
        return Outcome(name=canary.name, family=canary.family, held=held is True, chosen=chosen, detail=detail), died

    async def _tried(self, session: Session, canary: Canary) -> tuple[bool | None, str, bool]:
        lost = None
        try:
            result = await session.run(canary.code(self.facts), timeout=canary.seconds)
        except SandboxError as error:
            lost, result = str(error), ExecutionResult(status="died", notice=f"the sandbox failed: {error}")
        if gained := render(result, self.facts["forgery"]):
            return False, gained, True
        held, detail = canary.verdict(result)
        died = result.status == "died"
        if canary.family == "protocol" and lost is None:
            held, detail = await self._afterwards(session, result, held, detail)
        if held and canary.name in PARTS:
            held, detail = await self._on_the_host(session, canary, detail)
        if held is None and canary.family in _MAY_END and result.status in ("died", "timeout"):
            held = await self._works()
            detail += "; a new session works" if held else "; no new session works"
        return held, detail, died

    async def _afterwards(
        self, session: Session, result: ExecutionResult, held: bool | None, detail: str
    ) -> tuple[bool | None, str]:
        """What the code after an attack on the way to the host meets, and what the attack said by another way."""
        try:
            after = await session.run("6 * 7", timeout=2)
            if gained := render(after, self.facts["forgery"]):
                return False, gained
            word, _, why = (await session.get("verdict")).decode().partition(": ")
        except SandboxError as error:
            return held, f"{detail}; {error}"[:500]
        if held is None and word in ("HELD", "BREACH"):  # what was printed is the attack's noise
            held, detail = word == "HELD", "; ".join(filter(None, (why, result.notice)))
        return held, f"{detail[:450]}; the next code: {after.status}"

    async def _on_the_host(self, session: Session, canary: Canary, detail: str) -> tuple[bool, str]:
        try:
            gained = await PARTS[canary.name](Trial(session, self.neighbour, self.facts))
        except SandboxError as error:
            return False, f"the session did not live to its end: {error}"
        return gained is None, gained or detail

    async def _works(self) -> bool:
        try:
            session = await self.sandbox.session()
        except SandboxError:
            return False
        try:
            return (await session.run("6 * 7")).result == "42"
        except SandboxError:
            return False
        finally:
            await session.close()


@contextlib.asynccontextmanager
async def _bait(sandbox: Sandbox) -> AsyncIterator[tuple[dict[str, Any], Session]]:
    """What the attacks look for, put up on the host and in a session of its own: the facts, and that session."""
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
        neighbour, told = await _neighbour(sandbox, stack)
        facts = {
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
            "zygote": _zygote(),
            "tool": f"tool_{secrets.token_hex(4)}",
            "forgery": f"forged-{secrets.token_hex(8)}",
        }
        yield facts | told, neighbour


async def _neighbour(sandbox: Sandbox, stack: contextlib.AsyncExitStack) -> tuple[Session, dict[str, Any]]:
    """A second session with a file, a process, servers, a message queue and a secret of its own."""
    name, key, secret = f"neighbour-{secrets.token_hex(8)}", 1 + secrets.randbelow(1 << 30), secrets.token_hex(16)
    session = await sandbox.session()
    stack.push_async_callback(session.close)
    result = await session.run(_NEIGHBOUR.format(name=name, key=key, secret=secret))
    if result.status != "ok":
        raise SandboxError(f"a neighbour for the attacks could not be had: {result.notice or result.error}")
    stack.push_async_callback(session.run, "process.kill(); process.wait(); libc.msgctl(queue, 0, None)")
    return session, {
        "neighbour": name,
        "neighbour_key": key,
        "neighbour_port": int(result.stdout),
        "neighbour_secret_sha256": hashlib.sha256(secret.encode()).hexdigest(),
    }


_NEIGHBOUR = """
import ctypes, os, socket, subprocess
libc = ctypes.CDLL(None)
name, secret = {name!r}, {secret!r}
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


def _zygote() -> int:
    """The process that forks this process's sessions, 0 where there is none."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                if b"codeact.sandbox.zygote" in (path.parent / "cmdline").read_bytes():
                    return int(path.parent.name)
    return 0


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
