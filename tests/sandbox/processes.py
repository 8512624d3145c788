"""Looking at the processes of this machine, from outside of every sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 30.0  # seconds


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def marked(marker: str) -> list[int]:
    """Processes with this in their command line, or as the name that a process gave itself."""
    found = []
    for pid in pids():
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/comm").read_bytes()
            if marker.encode() in line and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
    return found


def children(parent: int) -> list[int]:
    found = []
    for pid in pids():
        with contextlib.suppress(OSError):
            if int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(pid)
    return found


def alive(these: list[int]) -> list[int]:
    """Those of these processes that run: the dead that nobody has reaped do not."""
    found = []
    for pid in these:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                found.append(pid)
    return found


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that nothing announces. ``condition`` may be a coroutine function."""
    end = time.monotonic() + PATIENCE
    while True:
        outcome = condition()
        if inspect.isawaitable(outcome):
            outcome = await outcome
        if outcome:
            return
        assert time.monotonic() < end, f"{what}: not within {PATIENCE:.0f} seconds"
        await asyncio.sleep(0.02)
