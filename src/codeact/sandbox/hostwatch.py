"""How the host fares while it is attacked: is it still quick, small and deaf to what is no call of a tool?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Self

from codeact.contracts import ErrorOutput, ExecutionResult, Session
from codeact.errors import SandboxError
from codeact.events import ExecutionFinished, ExecutionStarted
from codeact.notebook import to_notebook
from codeact.observation import render as observe
from codeact.page import to_html
from codeact.trajectory import Trajectory

GROWTH = 256 << 20
"""Bytes by which this process may grow while it takes in and shows the output of one execution."""

SLOWEST = 5.0
"""Seconds within which another session has to be answered."""

_PAUSE = 0.2  # seconds between two questions to the other session
_ACTIVE = {"script", "iframe", "object", "embed", "svg", "math", "base", "link", "form", "frame", "applet", "button"}


class Watch:
    """Asks a neighbour again and again how much 6 * 7 is, and looks at this process's memory."""

    def __init__(self, neighbour: Session, growth: int = GROWTH, slowest: float = SLOWEST) -> None:
        self.called: list[str] = []
        self._neighbour = neighbour
        self._growth = growth
        self._slowest = slowest
        self._active = 0
        self._longest = 0.0
        self._wrong = ""
        self._asked = 0.0
        self._asking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._asking = asyncio.create_task(self._ask())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})

    def begin(self) -> int:
        """Of an attack, whose end is told to ``complaint`` together with what this returns."""
        if not self._active:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the memory used
        self._active += 1
        return _memory("VmRSS:")

    async def complaint(self, before: int) -> str | None:
        """What went wrong meanwhile, in one line. Of attacks at the same time each may be blamed for another."""
        found = []
        self._active -= 1
        growth = _memory("VmHWM:") - before
        if growth > self._growth:
            found.append(f"the host grew by {growth >> 20} MiB")
        if time.monotonic() - self._asked > self._slowest:
            await asyncio.sleep(_PAUSE)  # if this process slept, the question still gets its answer
        longest = max(self._longest, time.monotonic() - self._asked if self._asked else 0)
        if longest > self._slowest:
            found.append(f"another session waited for {longest:.1f} seconds")
        if self._wrong:
            found.append(f"another session noticed: {self._wrong}")
        if self.called:
            found.append(f"a tool of the host was called with {self.called[0]}")
        self._longest, self._wrong = 0.0, ""
        self.called.clear()
        return "; ".join(found) or None

    async def _ask(self) -> None:
        while True:
            self._asked = time.monotonic()
            try:
                result = await self._neighbour.run("6 * 7", timeout=30)
                if result.result != "42" or result.notice or result.fresh_kernel:
                    self._wrong = f"{result.status} {result.notice or 'in a new kernel'}"
            except SandboxError as error:
                self._wrong = str(error)
            self._longest = max(self._longest, time.monotonic() - self._asked)
            self._asked = time.monotonic()
            await asyncio.sleep(_PAUSE)


class Decoy:
    """A host tool that nobody may call."""

    def __init__(self, name: str, watch: Watch) -> None:
        self.name = self.description = name
        self.stub = f"def {name}(): ..."
        self._watch = watch

    def call(self, arguments: dict[str, object]) -> object:
        self._watch.called.append(repr(arguments)[:100])
        return "called"


def _memory(field: str) -> int:
    """Bytes that this process uses, or has used at most; 0 where there is no /proc."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) << 10
    return 0


def render(result: ExecutionResult, forgery: str) -> str | None:
    """Make of a result all that the host makes of results. Returns what should not have come of it."""
    trajectory = Trajectory(events=(ExecutionStarted(turn=1, code=""), ExecutionFinished(turn=1, result=result)))
    observe(result)
    page = to_html(trajectory)
    notebook = json.dumps(to_notebook(trajectory))
    page.encode()
    result.model_dump_json()
    shown = [output for output in result.outputs if not isinstance(output, ErrorOutput)]  # a traceback has our source
    if any(forgery in output.model_dump_json() for output in shown):
        return "a message was taken that was not signed with the key"
    if '"trusted"' in notebook.partition('"cells"')[0]:
        return "the notebook calls itself trusted"
    acting = active(page)
    return f"active in the page: {acting}" if acting else None


def active(page: str) -> str | None:
    """Something in this HTML that acts, or loads something, if anything does."""
    reader = _Reader()
    reader.feed(page)
    return reader.active[0] if reader.active else None


class _Reader(HTMLParser):
    """Finds what acts in a page."""

    def __init__(self) -> None:
        super().__init__()
        self.active: list[str] = []
        self._styles = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._styles += tag == "style"
        if self._styles > 1:
            self.active.append("a second style")
        for name, value in attrs:
            address = "".join((value or "").split()).lower()
            remote = name in ("src", "href", "srcdoc", "action") and not address.startswith(
                ("data:image/png;", "data:image/jpeg;", "data:image/gif;", "data:image/webp;")
            )
            if name.startswith("on") or name == "style" or remote:
                self.active.append(f"{tag} {name}={value!r}"[:200])
        if tag in _ACTIVE or (tag == "meta" and ("http-equiv", "refresh") in attrs):
            self.active.append(tag)
