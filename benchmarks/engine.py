"""The engine over HTTP, beside the same kernel without it and beside a Jupyter Kernel Gateway.

    python benchmarks/engine.py            a table
    python benchmarks/engine.py --json     one JSON object
    python benchmarks/engine.py --quick    few repeats, for a look
    python benchmarks/engine.py --live 500 --clients 50 --seconds 300    the long part as the goals have it

Warm: ``1+1`` in one session, ``--repeats`` times: the session in this process, the engine by plain HTTP over one
connection, the engine by our client. Starts: sessions made, used once and deleted, by four clients. Long: that many
sessions alive, asked at random by the clients for that long; each answer is compared. The gateway makes a kernel, runs
the same first code over its websocket, and deletes it: what the original system does for each conversation, less the
container around it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from codeact.sandbox import Sandbox

FIRST = "import numpy, pandas, matplotlib.pyplot\nprint(numpy.arange(3).sum())"
STARTERS = 4


class Http:
    """One kept connection; so plain that the engine's time is what counts."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def __aenter__(self) -> Http:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._writer.close()

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(content) + content)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        status = int(answer[9:12])
        length = re.search(rb"content-length: (\d+)", answer.lower())
        content = await self._reader.readexactly(int(length[1])) if length else b""
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {content[:300]!r}")
        return json.loads(content) if content else None

    async def run(self, id: str, code: str) -> str:
        """What the code printed and its result, as text."""
        result = (await self.ask("POST", f"/v1/sessions/{id}/execute", {"code": code}))["result"]
        assert result["status"] == "ok", result
        return "".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in result["outputs"])


@asynccontextmanager
async def process(command: list[str], sign: str) -> AsyncIterator[tuple[int, int]]:
    """A server, once it says on which port it listens: its process id and that port."""
    with tempfile.TemporaryDirectory() as place:
        environment = os.environ | {"CODEACT_ENGINE_STATE": place, "JUPYTER_DATA_DIR": place}
        started = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE, env=environment)
        assert started.stderr is not None
        reading = None
        try:
            async with asyncio.timeout(60):
                while True:
                    line = (await started.stderr.readline()).decode()
                    if not line:
                        raise RuntimeError(f"{command[2]} did not start")
                    if found := re.search(sign, line):
                        break
            reading = asyncio.create_task(_throw_away(started.stderr))
            yield started.pid, int(found[1])
        finally:
            with contextlib.suppress(ProcessLookupError):
                started.terminate()
            await asyncio.wait_for(started.wait(), 60)
            if reading is not None:
                await reading


async def _throw_away(stream: asyncio.StreamReader) -> None:
    while await stream.read(1 << 16):
        pass


def percentiles(times: list[float]) -> dict[str, float]:
    times = sorted(times)
    return {"p50_ms": statistics.median(times) * 1000, "p99_ms": times[int(len(times) * 0.99)] * 1000}


async def warm(port: int, repeats: int) -> dict[str, dict[str, float]]:
    async with Sandbox("local") as local, Sandbox(f"http://127.0.0.1:{port}") as remote, Http(port) as http:
        inner, outer = await local.session(), await remote.session()
        id = (await http.ask("POST", "/v1/sessions", {}))["id"]
        ways: dict[str, Callable[[], Awaitable[object]]] = {
            "raw": lambda: inner.run("1+1"),
            "http": lambda: http.run(id, "1+1"),
            "client": lambda: outer.run("1+1"),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats + 10):
            for name, act in ways.items():  # in turn, so that what else the machine does meets all of them
                started = time.perf_counter()
                await act()
                times[name].append(time.perf_counter() - started)
        found = {name: percentiles(taken[10:]) for name, taken in times.items()}
        await http.ask("DELETE", f"/v1/sessions/{id}")
    return found


async def starts(seconds: float, once: Callable[[], Awaitable[object]]) -> float:
    """Sessions a second."""
    made, until = 0, time.perf_counter() + seconds

    async def worker() -> None:
        nonlocal made
        while time.perf_counter() < until:
            await once()
            made += 1

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(STARTERS)))
    return made / (time.perf_counter() - started)


async def engine_starts(port: int, seconds: float) -> float:
    async def once() -> None:
        async with Http(port) as http:
            id = (await http.ask("POST", "/v1/sessions", {}))["id"]
            assert await http.run(id, FIRST) == "3\n"
            await http.ask("DELETE", f"/v1/sessions/{id}")

    return await starts(seconds, once)


async def gateway_starts(seconds: float) -> float:
    """The same, by a Jupyter Kernel Gateway."""
    from tornado.websocket import websocket_connect

    port = _free_port()
    command = [sys.executable, "-m", "kernel_gateway", "--KernelGatewayApp.ip=127.0.0.1"]
    command.append(f"--KernelGatewayApp.port={port}")
    async with process(command, r"at http://127\.0\.0\.1:(\d+)"):

        async def once() -> None:
            async with Http(port) as http:
                id = (await http.ask("POST", "/api/kernels", {"name": "python3"}))["id"]
                socket = await websocket_connect(f"ws://127.0.0.1:{port}/api/kernels/{id}/channels")
                request = uuid4().hex
                header = {"msg_id": request, "msg_type": "execute_request", "session": uuid4().hex, "username": ""}
                content = {"code": FIRST, "silent": False, "store_history": True, "allow_stdin": False}
                message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
                await socket.write_message(json.dumps(message | {"channel": "shell"}))
                async with asyncio.timeout(60):
                    while True:
                        reply = json.loads(await socket.read_message() or "null")
                        if reply["msg_type"] == "execute_reply" and reply["parent_header"]["msg_id"] == request:
                            assert reply["content"]["status"] == "ok"
                            break
                socket.close()
                await http.ask("DELETE", f"/api/kernels/{id}")

        return await starts(seconds, once)


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _memory(pid: int) -> float:
    """Of the engine's own process, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS:"))


async def long(pid: int, port: int, live: int, clients: int, seconds: float) -> dict[str, Any]:
    """Many sessions asked for long: each counts for itself, so that a lost or doubled answer shows."""
    counts = [0] * live
    errors: list[str] = []
    times: list[float] = []
    memory: list[float] = []
    async with Http(port) as http:
        ids = [(await http.ask("POST", "/v1/sessions", {}))["id"] for _ in range(live)]
        for id in ids:
            await http.run(id, "n = 0")
        until = time.perf_counter() + seconds

        async def client(own: list[int]) -> None:
            async with Http(port) as connection:
                while time.perf_counter() < until:
                    position = random.choice(own)
                    started = time.perf_counter()
                    told = await connection.run(ids[position], "n += 1\nprint(n, 'x' * 1000)")
                    times.append(time.perf_counter() - started)
                    counts[position] += 1
                    if told != f"{counts[position]} {'x' * 1000}\n":
                        errors.append(f"{ids[position]}: {told[:80]!r}")

        async def watch() -> None:
            while True:
                memory.append(_memory(pid))
                await asyncio.sleep(max(0.2, seconds / 50))

        watching = asyncio.create_task(watch())
        done = await asyncio.gather(
            *(client(list(range(n, live, clients))) for n in range(min(clients, live))), return_exceptions=True
        )
        watching.cancel()
        errors += [f"{type(error).__name__}: {error}" for error in done if error is not None]
        for id in ids:
            await http.ask("DELETE", f"/v1/sessions/{id}")
    early = statistics.median(memory[len(memory) // 5 : 2 * len(memory) // 5 + 1])
    late = statistics.median(memory[-max(1, len(memory) // 5) :])
    return {
        "live": live, "clients": clients, "seconds": seconds, "executions": len(times), "errors": errors[:20],
        "memory_early_mb": early, "memory_late_mb": late, **percentiles(times),
    }  # fmt: skip


async def run(repeats: int, seconds: float, live: int, clients: int, lasting: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "codeact", "engine", "--port", "0", "--idle", "3600"]
    async with process(command, r"listens on http://127\.0\.0\.1:(\d+)") as (pid, port):
        async with Http(port) as http:  # the first session starts the zygote
            await http.ask("DELETE", f"/v1/sessions/{(await http.ask('POST', '/v1/sessions', {}))['id']}")
        round_trip = await warm(port, repeats)
        made = await engine_starts(port, seconds)
        soak = await long(pid, port, live, clients, lasting)
    theirs = await gateway_starts(seconds)
    flat = soak["memory_late_mb"] <= 1.1 * soak["memory_early_mb"] + 5
    return {
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
        "repeats": repeats,
        "warm": round_trip,
        "starts_per_s": made,
        "gateway_starts_per_s": theirs,
        "long": soak,
        "goals": {
            "warm": {"goal": "2 × raw", "met": round_trip["http"]["p50_ms"] <= 2 * round_trip["raw"]["p50_ms"]},
            "starts": {"goal": 20.0, "met": made >= 20},
            "gateway": {"goal": 10.0, "met": made >= 10 * theirs},
            "long": {"goal": "no error, memory flat", "met": not soak["errors"] and flat},
        },
    }


def table(found: dict[str, Any]) -> str:
    warm, goals, soak = found["warm"], found["goals"], found["long"]

    def met(goal: str) -> str:
        return "met" if goals[goal]["met"] else "MISSED"

    lines = [f"{'warm 1+1':40}{'p50 ms':>9}{'p99 ms':>9}"]
    for name, label in (("raw", "the kernel itself"), ("http", "plain HTTP"), ("client", 'Sandbox("http://…")')):
        verdict = f"  ≤ 2 × raw: {met('warm')}" if name == "http" else ""
        lines.append(f"  {label:38}{warm[name]['p50_ms']:9.1f}{warm[name]['p99_ms']:9.1f}{verdict}")
    lines.append(f"{'sessions a second, engine':40}{found['starts_per_s']:9.1f}  ≥ 20: {met('starts')}")
    lines.append(
        f"{'sessions a second, kernel gateway':40}{found['gateway_starts_per_s']:9.1f}  ≥ 10 × it: {met('gateway')}"
    )
    lines.append(
        f"{soak['live']} sessions, {soak['clients']} clients, {soak['seconds']:.0f} s: "
        f"{soak['executions']} executions, "
        f"p50 {soak['p50_ms']:.1f} ms, p99 {soak['p99_ms']:.1f} ms, {len(soak['errors'])} errors, engine's memory "
        f"{soak['memory_early_mb']:.0f} → {soak['memory_late_mb']:.0f} MB: {met('long')}"
    )
    lines.append(f"{found['machine']}; {found['repeats']} repeats; reproduce with: {found['command']}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="50 repeats, 1 second of starts, 6 sessions for 2 seconds")
    parser.add_argument("--repeats", type=int, default=500, help="warm executions of each kind (default 500)")
    parser.add_argument("--live", type=int, default=50, help="sessions of the long part (default 50)")
    parser.add_argument("--clients", type=int, default=10, help="its clients (default 10)")
    parser.add_argument("--seconds", type=float, default=20, help="how long it lasts (default 20)")
    options = parser.parse_args()
    chosen = (options.repeats, 10.0, options.live, options.clients, options.seconds)
    found = asyncio.run(run(*(50, 1.0, 6, 3, 2.0) if options.quick else chosen))
    print(json.dumps(found, indent=2) if options.json else table(found))


if __name__ == "__main__":
    main()
