"""Sessions side by side: codeact's local sandbox, isolation included, and a stock Jupyter kernel without any.

    python benchmarks/sessions.py            a table
    python benchmarks/sessions.py --json     one JSON object
    python benchmarks/sessions.py --quick    few repeats, for a look
    python benchmarks/sessions.py --alive 1000    that many sessions at once, each asked twice

Both import numpy, pandas and matplotlib before the first result counts. Medians of ``--repeats`` starts. Sustained:
sessions made, used once and closed for ``--seconds`` by as many workers as there are cores, twice over.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_client.manager import AsyncKernelManager

from codeact.contracts import ExecutionResult, Session
from codeact.sandbox import Sandbox

FIRST = "import numpy, pandas, matplotlib.pyplot\nprint(numpy.arange(3).sum())"


class Stock:
    """A kernel as ``jupyter_client`` and ``ipykernel`` start it, driven by their own client."""

    def __init__(self) -> None:
        self.manager = AsyncKernelManager()

    async def start(self) -> None:
        await self.manager.start_kernel(stderr=subprocess.DEVNULL)
        self.client = self.manager.client()
        self.client.start_channels()
        await self.client.wait_for_ready(timeout=60)

    async def run(self, code: str) -> None:
        # the leanest way there is: execute_interactive takes several times as long
        request = self.client.execute(code)
        while True:
            message = await self.client.get_iopub_msg(timeout=60)
            ours = message["parent_header"].get("msg_id") == request
            if ours and message["content"].get("execution_state") == "idle":
                break
        reply = await self.client.get_shell_msg(timeout=60)
        assert reply["content"]["status"] == "ok", reply

    async def stop(self) -> None:
        self.client.stop_channels()
        await self.manager.shutdown_kernel(now=True)

    def processes(self) -> list[int]:
        provisioner = self.manager.provisioner
        return [provisioner.pid] if provisioner is not None and provisioner.pid else []


class Ours:
    """A session of the local sandbox whose zygote is up, as it is for all sessions but the first."""

    def __init__(self, sandbox: Any) -> None:
        self.sandbox = sandbox
        self.session: Session

    async def start(self) -> None:
        self.before = set(_descendants(os.getpid()))
        self.session = await self.sandbox.session()

    async def run(self, code: str) -> None:
        result: ExecutionResult = await self.session.run(code)
        assert result.status == "ok", result

    async def stop(self) -> None:
        await self.session.close()

    def processes(self) -> list[int]:
        return sorted(set(_descendants(os.getpid())) - self.before)


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    todo = [root]
    while todo:
        for child in children.get(todo.pop(), []):
            found.append(child)
            todo.append(child)
    return found


def _private(processes: list[int]) -> int:
    """Memory that ends with these processes, in bytes: their private pages and their share of nothing else."""
    total = 0
    for process in processes:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Private_Clean:", "Private_Dirty:")):
                total += int(line.split()[1]) * 1024
    return total


async def measure(make: Callable[[], Stock | Ours], repeats: int, warm: int) -> dict[str, float]:
    starts, memory, warm_times = [], [], []
    for _ in range(repeats):
        started = time.perf_counter()
        one = make()
        await one.start()
        try:
            await one.run(FIRST)
            starts.append(time.perf_counter() - started)
            memory.append(_private(one.processes()))
            for _ in range(warm):
                started = time.perf_counter()
                await one.run("1+1")
                warm_times.append(time.perf_counter() - started)
        finally:
            await one.stop()
    return {
        "start_ms": statistics.median(starts) * 1000,
        "memory_mb": statistics.median(memory) / 1e6,
        "warm_p50_ms": statistics.median(warm_times) * 1000,
        "warm_p99_ms": sorted(warm_times)[int(len(warm_times) * 0.99)] * 1000,
    }


async def sustained(make: Callable[[], Stock | Ours], seconds: float) -> float:
    """Sessions a second."""
    made, until = 0, time.perf_counter() + seconds

    async def worker() -> None:
        nonlocal made
        while time.perf_counter() < until:
            one = make()
            await one.start()
            try:
                await one.run(FIRST)
            finally:
                await one.stop()
            made += 1

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(2 * (os.cpu_count() or 1))))
    return made / (time.perf_counter() - started)


async def forks(sandbox: Any, repeats: int) -> float:
    """Seconds of a fork with 100 MB of data, up to its first result."""
    session = await sandbox.session()
    taken = []
    try:
        await session.run("import numpy\ndata = numpy.arange(100_000_000 // 8)")
        for _ in range(repeats):
            started = time.perf_counter()
            fork = await session.fork()
            assert (await fork.run("int(data[-1])")).result == "12499999"
            taken.append(time.perf_counter() - started)
            await fork.close()
    finally:
        await session.close()
    return statistics.median(taken)


async def alive(number: int) -> dict[str, Any]:
    """That many sessions at once: what they hold together, and whether all answer."""
    available = _available()
    failed: list[str] = []
    async with Sandbox("local") as sandbox:
        started = time.perf_counter()
        sessions = []
        for _ in range(number):
            session = await sandbox.session()
            sessions.append(session)
            await session.run(FIRST + "\nhere = 1")
        made = time.perf_counter() - started
        held = available - _available()
        started = time.perf_counter()
        for position, session in enumerate(sessions):
            result = await session.run(f"here + {position}")
            if result.result != str(position + 1):
                failed.append(f"{position}: {result.status} {result.notice}")
        asked = time.perf_counter() - started
    return {
        "command": " ".join(["python", *sys.argv]),
        "machine": _machine(),
        "sessions": number,
        "failed": failed,
        "made_s": made,
        "memory_of_all_mb": held / 1e6,
        "memory_of_one_mb": held / number / 1e6,
        "asked_all_s": asked,
    }


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("no MemAvailable")


def _machine() -> str:
    return f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


async def run(repeats: int, warm: int, seconds: float) -> dict[str, Any]:
    stock = await measure(Stock, repeats, warm)
    stock["sustained_per_s"] = await sustained(Stock, seconds)
    started = time.perf_counter()
    async with Sandbox("local") as sandbox:
        first = await sandbox.session()
        cold = time.perf_counter() - started
        await first.close()
        await asyncio.sleep(1)  # the zygote makes later forks cheaper as soon as it has time to
        ours = await measure(lambda: Ours(sandbox), repeats, warm)
        ours["sustained_per_s"] = await sustained(lambda: Ours(sandbox), seconds)
        ours["fork_100mb_ms"] = await forks(sandbox, repeats) * 1000
    return {
        "command": " ".join(["python", *sys.argv]),
        "machine": _machine(),
        "repeats": repeats,
        "first_session_of_a_process_ms": cold * 1000,
        "stock": stock,
        "codeact": ours,
        "goals": {
            "start_ms": {"goal": 50.0, "met": ours["start_ms"] <= 50},
            "start_factor": {"goal": 30.0, "met": stock["start_ms"] / ours["start_ms"] >= 30},
            "memory_mb": {"goal": 15.0, "met": ours["memory_mb"] <= 15},
            "warm_p50": {"goal": "stock / 2", "met": ours["warm_p50_ms"] <= stock["warm_p50_ms"] / 2},
            "sustained": {"goal": 30.0, "met": ours["sustained_per_s"] >= 30},
            "fork": {"goal": 100.0, "met": ours["fork_100mb_ms"] <= 100},
        },
    }


def table(found: dict[str, Any]) -> str:
    stock, ours, goals = found["stock"], found["codeact"], found["goals"]
    rows = [
        ("new session to first result (ms)", "start_ms", "≤ 50", "start_ms"),
        ("private memory of an idle session (MB)", "memory_mb", "≤ 15", "memory_mb"),
        ("warm 1+1, p50 (ms)", "warm_p50_ms", "≤ stock ÷ 2", "warm_p50"),
        ("warm 1+1, p99 (ms)", "warm_p99_ms", "", ""),
        ("sessions made, used, closed a second", "sustained_per_s", "≥ 30", "sustained"),
        ("fork with 100 MB to its first result (ms)", "fork_100mb_ms", "≤ 100", "fork"),
    ]
    lines = [f"{'':44}{'stock':>8}{'codeact':>10}  {'goal':12}"]
    for label, key, goal, name in rows:
        met = ("met" if goals[name]["met"] else "MISSED") if name else ""
        theirs = f"{stock[key]:.1f}" if key in stock else "–"
        lines.append(f"{label:44}{theirs:>8}{ours[key]:>10.1f}  {goal:12}{met}")
    factor = stock["start_ms"] / ours["start_ms"]
    met = "met" if goals["start_factor"]["met"] else "MISSED"
    lines.append(f"{'start, times faster than stock':44}{'':>8}{factor:>10.1f}  {'≥ 30':12}{met}")
    lines.append(
        f"The first session of a process also starts the zygote: {found['first_session_of_a_process_ms']:.0f} ms."
    )
    lines.append(f"{found['machine']}; medians of {found['repeats']} starts; reproduce with: {found['command']}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="3 starts instead of --repeats")
    parser.add_argument("--repeats", type=int, default=11, help="starts of each kind (default 11)")
    parser.add_argument("--seconds", type=float, default=10, help="of the sustained part (default 10)")
    parser.add_argument("--alive", type=int, metavar="N", help="instead: N sessions alive at once")
    options = parser.parse_args()
    if options.alive:
        print(json.dumps(asyncio.run(alive(options.alive)), indent=2))
        return
    few = options.quick
    found = asyncio.run(run(3 if few else options.repeats, 20 if few else 100, 1 if few else options.seconds))
    print(json.dumps(found, indent=2) if options.json else table(found))


if __name__ == "__main__":
    main()
