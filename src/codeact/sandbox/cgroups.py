"""Memory and process limits of a whole session by control groups, version 1 or 2, where they are writable.

Where they are not, a session is held by its resource limits and by process 1, which measures memory.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_PREFIX = "codeact-"


class Cgroup:
    """The groups of one session: one directory in version 2, one for each controller in version 1."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def out_of_memory_kills(self) -> int:
        """How many processes the memory limit has killed so far."""
        for path in self.paths:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError, ValueError):
                    for line in (path / name).read_text().splitlines():
                        if line.startswith("oom_kill "):
                            return int(line.split()[1])
        return 0

    def remove(self) -> None:
        """Remove the directories; waits a moment for processes that are on their way out."""
        for path in self.paths:
            for _ in range(50):
                try:
                    path.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)


def create(name: str, memory: int, processes: int) -> Cgroup | None:
    """Make and limit the groups of a session, or None where none can be made.

    ``name`` must be unique on the machine; ``memory`` in bytes.
    """
    for maker in (_create_v2, _create_v1):
        with contextlib.suppress(OSError):
            return maker(_PREFIX + name, memory, processes)
    return None


def sweep() -> None:
    """Remove the groups that a killed host process left: those without a process in them."""
    for parent in {*_v2_parents(), *(p for p in (_v1_parent("memory"), _v1_parent("pids")) if p)}:
        with contextlib.suppress(OSError):
            for path in parent.glob(_PREFIX + "*"):
                owner = path.name.removeprefix(_PREFIX).partition("-")[0]
                if owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
                    with contextlib.suppress(OSError):
                        path.rmdir()


def _own(controller: str) -> str | None:
    """This process's path in a hierarchy; ``controller`` is empty for version 2."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if (controller in controllers.split(",")) if controller else not controllers:
            return path.lstrip("/")
    return None


def _v2_parents() -> list[Path]:
    """Where a child group may be made: beside this process's group, or below it where that is the root."""
    own = _own("")
    if own is None:
        return []
    here = Path("/sys/fs/cgroup", own)
    return [p for p in (here.parent if own else here, here) if (p / "cgroup.controllers").exists()]


def _create_v2(name: str, memory: int, processes: int) -> Cgroup:
    for parent in _v2_parents():
        if not {"memory", "pids"} <= set((parent / "cgroup.subtree_control").read_text().split()):
            continue
        path = parent / name
        try:
            path.mkdir()
            (path / "memory.max").write_text(str(memory))
            (path / "pids.max").write_text(str(processes))
            with contextlib.suppress(OSError):
                (path / "memory.swap.max").write_text("0")
            return Cgroup([path])
        except OSError:
            with contextlib.suppress(OSError):
                path.rmdir()
    raise OSError("no writable version 2 group with the memory and pids controllers")


def _v1_parent(controller: str) -> Path | None:
    own = _own(controller)
    return None if own is None else Path("/sys/fs/cgroup", controller, own)


def _create_v1(name: str, memory: int, processes: int) -> Cgroup:
    made: list[Path] = []
    try:
        for controller, file, limit in (
            ("memory", "memory.limit_in_bytes", memory),
            ("pids", "pids.max", processes),
        ):
            parent = _v1_parent(controller)
            if parent is None:
                raise OSError(f"no version 1 hierarchy for {controller}")
            path = parent / name
            path.mkdir()
            made.append(path)
            (path / file).write_text(str(limit))
        with contextlib.suppress(OSError):
            (made[0] / "memory.memsw.limit_in_bytes").write_text(str(memory))
    except OSError:
        Cgroup(made).remove()
        raise
    return Cgroup(made)
