"""The command line as its users meet it: a process of its own, on pipes or on a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios\n"
    "os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
_FONTS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codeact" / "matplotlib"


def environment(home: Path, **more: str) -> dict[str, str]:
    """The variables of a user with nothing set. matplotlib's list of fonts is kept: it takes seconds to make."""
    cache = home / "cache" / "codeact"
    cache.mkdir(parents=True, exist_ok=True)
    if _FONTS.exists() and not (cache / "matplotlib").exists():
        (cache / "matplotlib").symlink_to(_FONTS)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "PROMPT_TOOLKIT_NO_CPR": "1",
        **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},
        **more,
    }


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "codeact", *map(str, arguments)]


def descendants(pid: int) -> set[tuple[int, str]]:
    """The processes below one, each with the time when it was started, so that it is known again."""
    found: set[tuple[int, str]] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found |= {(child, started(child)), *descendants(child)}
    return found


def started(pid: int) -> str:
    """When a process was started, empty where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def wait_gone(processes: set[tuple[int, str]], limit: float = 10) -> set[tuple[int, str]]:
    """Those that are still there after ``limit`` seconds."""
    until = time.monotonic() + limit
    while (left := {p for p in processes if p[1] and started(p[0]) == p[1]}) and time.monotonic() < until:
        select.select([], [], [], 0.05)
    return left


class Terminal:
    """A process on a terminal of its own. Type with ``type``, wait for what it shows with ``expect``."""

    def __init__(self, arguments: list[str], env: dict[str, str], cwd: Path) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *arguments[1:]],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=env,
            cwd=cwd,
        )
        os.close(slave)
        self.raw = ""
        self._seen = 0

    @property
    def text(self) -> str:
        """All that was shown, without the terminal's control sequences."""
        return re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[()=>].?|\r", "", self.raw)

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def expect(self, pattern: str, limit: float = 40) -> re.Match[str]:
        """Wait for text after what was last waited for."""
        until = time.monotonic() + limit
        while True:
            if found := re.compile(pattern).search(self.text, self._seen):
                self._seen = found.end()
                return found
            if time.monotonic() > until or not self._read(until):
                raise AssertionError(f"{pattern!r} did not come; there was:\n{self.text}")

    def _read(self, until: float) -> bool:
        ready, _, _ = select.select([self.master], [], [], max(0, until - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the other end is closed
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)

    def wait(self, limit: float = 40) -> int:
        """The exit status, everything shown having been read."""
        until = time.monotonic() + limit
        while self._read(until):
            pass
        return self.process.wait(max(1, until - time.monotonic()))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self.master)


@contextlib.contextmanager
def terminal(arguments: list[str], env: dict[str, str], cwd: Path) -> Iterator[Terminal]:
    opened = Terminal(arguments, env, cwd)
    try:
        yield opened
    finally:
        opened.close()
