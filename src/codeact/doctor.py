"""What this machine offers, and live proof of the boundary."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

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
                outcomes, problem = await _canaries(settings), ""
            except SandboxError as error:
                outcomes, problem = [], str(error)
        except asyncio.CancelledError:
            if not interrupts.signals:
                raise
            return interrupts.status
    held = bool(outcomes) and all(outcome.held for outcome in outcomes)
    if as_json:
        told = {"facts": facts, "canaries": [o.model_dump() for o in outcomes], "error": problem or None, "held": held}
        sys.stdout.write(json.dumps(told) + "\n")
    elif outcomes:
        _print_outcomes(outcomes)
    if problem:
        say(f"error: {short(problem, 1000)}", "red")
    elif not held:
        say("error: the boundary does not hold: run no untrusted code here", "red")
    return 0 if held else 5


async def _canaries(settings: Settings) -> list[Outcome]:
    async with open_sandbox(settings.sandbox, memory=_MEMORY, disk=_DISK) as sandbox:
        warn_of(sandbox)
        unbounded = sandbox.name == "unsafe-process"
        with starting():
            return await run_canaries(sandbox, [c for c in DOCTOR if c.harmless or not unbounded])


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
        async with open_sandbox(settings.sandbox) as sandbox:
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


def _print_outcomes(outcomes: list[Outcome]) -> None:
    names, families = (max(map(len, column)) for column in zip(*((o.name, o.family) for o in outcomes), strict=True))
    _print(["", f"{'held':6}{'what':{families + 2}}{'attack':{names + 2}}why"])
    for o in outcomes:
        line = f"{'yes' if o.held else 'NO':6}{o.family:{families + 2}}{o.name:{names + 2}}{short(o.detail, 200)}"
        _print([line], "" if o.held else "bold red")
    _print([f"\n{sum(o.held for o in outcomes)} of {len(outcomes)} attacks were held back"])


def _print(lines: Iterable[str], style: str = "") -> None:
    """A line of the terminal each: what does not fit is in --json."""
    out = console(sys.stdout)
    for line in lines:
        out.print(Text(line, style), no_wrap=True, overflow="ellipsis")
