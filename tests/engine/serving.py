"""Engines as processes of their own, for tests: started as users start them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from codeact.engine.database import connect
from codeact.engine.keys import Keys

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0  # seconds


class Engine:
    """A running ``codeact engine``."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, state: Path) -> None:
        self.process = process
        self.url = url
        self.state = state
        self.said = ""
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.said += line.decode()

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """End it, and return its exit status."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            status = await self.process.wait()
            await self._reading
        return status


def environment(state: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    path = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    return os.environ | {"PYTHONPATH": path, "CODEACT_ENGINE_STATE": str(state)} | dict(extra or {})


async def start(state: Path, *options: str, extra: Mapping[str, str] | None = None) -> Engine:
    """Start an engine on a free port, and wait until it listens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error::ResourceWarning", "-m", "codeact", "engine", "--port", "0", *options,
        stderr=asyncio.subprocess.PIPE, env=environment(state, extra), cwd=ROOT,
    )  # fmt: skip
    assert process.stderr is not None
    said = ""
    async with asyncio.timeout(PATIENCE):
        while not (found := re.search(r"listens on (http://\S+)", said)):
            line = await process.stderr.readline()
            assert line, said
            said += line.decode()
    return Engine(process, found[1], state)


@asynccontextmanager
async def engine(state: Path, *options: str, extra: Mapping[str, str] | None = None) -> AsyncIterator[Engine]:
    running = await start(state, *options, extra=extra)
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            if running.process.returncode is None:
                running.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(PATIENCE):
                await running.process.wait()
        except TimeoutError:
            running.process.kill()
            raise
        await running.stop()
    assert "Traceback" not in running.said, running.said


async def codeact(state: Path, *arguments: str) -> tuple[int, str, str]:
    """Run ``codeact engine …`` to its end: exit status, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "codeact", "engine", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment(state), cwd=ROOT,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode is not None
    return process.returncode, out.decode().strip(), err.decode()


def key(state: Path, owner: str, max_sessions: int | None = None) -> str:
    """A new key."""
    with contextlib.closing(connect(state)) as database:
        return Keys(database).add(owner, max_sessions)[1]
