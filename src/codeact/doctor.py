"""What this machine offers, and live proof of the boundary."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from codeact import __version__
from codeact.errors import SandboxError
from codeact.interrupts import Interrupts
from codeact.models.discover import find_local_servers
from codeact.plaintext import short
from codeact.running import say, starting, warn_of
from codeact.sandbox import Sandbox as open_sandbox
from codeact.sandbox import cgroups, linux
from codeact.sandbox.canaries import DOCTOR, run_canaries
from codeact.screen import console

if TYPE_CHECKING:
    from codeact.contracts import Sandbox
    from codeact.sandbox.canaries import Outcome
    from codeact.settings import Settings

_EXTRAS = {"llamacpp": "xllamacpp"}
_MEMORY = 512 << 20
_DISK = 64 << 20


async def examine(settings: Settings, *, as_json: bool) -> int:
    """Print both tables. The exit status: 0 where the boundary held, 5 where it did not or cannot be had."""
    with Interrupts() as interrupts:
        try:
            facts = await _facts(settings)
            if not as_json:
                _print_facts(facts)
            try:
                outcomes, problem = await _canaries(settings, as_json), ""
            except SandboxError as error:
                outcomes, problem = [], str(error)
        except asyncio.CancelledError:
            if not interrupts.signals:
                raise
            return interrupts.status
    held = bool(outcomes) and all(outcome.held or outcome.chosen for outcome in outcomes)
    if as_json:
        told = {"facts": facts, "canaries": [o.model_dump() for o in outcomes], "error": problem or None, "held": held}
        sys.stdout.write(json.dumps(told) + "\n")
    elif outcomes:
        _print_sum(outcomes)
    if problem:
        say(f"error: {short(problem, 1000)}", "red")
    elif not held:
        say("error: the boundary does not hold: run no untrusted code here", "red")
    return 0 if held else 5


@contextlib.asynccontextmanager
async def _sandbox(settings: Settings) -> AsyncIterator[Sandbox]:
    """The sandbox that the settings name, with no more memory and disk than are quickly filled."""
    limits: dict[str, Any] = {"memory": min(settings.memory << 20, _MEMORY), "disk": _DISK}
    network, allowed = settings.network, settings.allow_net
    async with open_sandbox(settings.sandbox, network=network, allow_net=allowed, **limits) as sandbox:
        yield sandbox


async def _canaries(settings: Settings, as_json: bool) -> list[Outcome]:
    async with _sandbox(settings) as sandbox:
        warn_of(sandbox)
        unbounded = sandbox.name == "unsafe-process"
        canaries = [c for c in DOCTOR if c.harmless or not unbounded]
        if as_json:
            with starting():
                return await run_canaries(sandbox, canaries)
        names = 2 + max(len(canary.name) for canary in canaries)
        families = 2 + max(len(canary.family) for canary in canaries)

        def told(o: Outcome) -> None:
            held = "yes" if o.held else "open" if o.chosen else "NO"
            line = f"{held:6}{o.family:{families}}{o.name:{names}}{short(o.detail, 200)}"
            _print([line], "" if o.held else "yellow" if o.chosen else "bold red")

        _print(["", f"{'held':6}{'what':{families}}{'attack':{names}}why"])
        return await run_canaries(sandbox, canaries, told)


async def _facts(settings: Settings) -> dict[str, str]:
    """What there is, in words, by what it is about. None of it decides; the attacks do."""
    facts = {
        "codeact": __version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
    }
    if sys.platform == "linux":
        landlock = linux.landlock_version()
        facts["user namespaces"] = _namespaces()
        facts["Landlock"] = f"version {landlock}" if landlock else "not there"
        facts["seccomp"] = _read("/proc/sys/kernel/seccomp/actions_avail") or "not there"
        facts["control groups"] = _control_groups()
    facts["sandbox"] = await _timed_start(settings)
    servers = await find_local_servers()
    found = [f"{s.kind} at {s.base_url} ({short(', '.join(s.models[:5]) or 'no model', 200)})" for s in servers]
    facts["model servers here"] = "; ".join(found) or "none"
    named = settings.base_url and "named by OPENAI_BASE_URL or the configuration"
    facts["other model server"] = named or ("OpenAI (a key is set)" if settings.api_key else "none")
    for extra, module in _EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        facts[f"extra {extra}"] = "installed" if there else f"not installed: pip install 'codeact[{extra}]'"
    return facts


async def _timed_start(settings: Settings) -> str:
    try:
        async with _sandbox(settings) as sandbox:
            times = []
            for _ in range(2):
                started = time.monotonic()
                session = await sandbox.session()
                times.append(time.monotonic() - started)
                await session.close()
    except SandboxError as error:
        return f"does not start: {error}"
    return f"{settings.sandbox}: first session after {times[0]:.1f} s, the next after {1000 * times[1]:.0f} ms"


def _namespaces() -> str:
    switches = {
        "kernel.unprivileged_userns_clone": "0",
        "kernel.apparmor_restrict_unprivileged_userns": "1",
        "user.max_user_namespaces": "0",
    }
    closed = [
        f"{name}={value}"
        for name, value in switches.items()
        if _read(f"/proc/sys/{name.replace('.', '/')}").strip() == value
    ]
    if not _read("/proc/self/uid_map"):
        return "not there"
    return f"restricted by {', '.join(closed)}" if closed else "allowed"


def _control_groups() -> str:
    version = "version 2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "version 1"
    group = cgroups.create(f"{os.getpid()}-doctor", _MEMORY, 64)
    if group is None:
        return f"{version}, not writable: process 1 measures memory instead"
    group.remove()
    return f"{version}, writable"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _print_facts(facts: dict[str, str]) -> None:
    _print(f"{name:20}{fact}" for name, fact in facts.items())


def _print_sum(outcomes: list[Outcome]) -> None:
    _print([f"\n{sum(o.held for o in outcomes)} of {len(outcomes)} attacks were held back"])
    if opened := sum(o.chosen for o in outcomes):
        _print([f"{opened} were not, for the sandbox was given the network of the host (--network host)"])


def _print(lines: Iterable[str], style: str = "") -> None:
    """A line of the terminal each: what does not fit is in --json."""
    out = console(sys.stdout)
    for line in lines:
        out.print(Text(line, style), no_wrap=True, overflow="ellipsis")
