"""Memory and process limits of a whole session by control groups, version 1 or 2, where they are writable.

Where they are not, a session is held by its resource limits and by process 1, which measures memory.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

_TASKS = "tasks"  # a thread that moves itself: Linux takes milliseconds for a process that another one moves
_PREFIX = "codeact-"
_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


class Cgroup:
    """The groups of one session: one directory in version 2, one for each controller in version 1."""

    def __init__(self, paths: list[Path], door: str) -> None:
        self.paths = paths
        self.door = door

    def doors(self) -> list[int]:
        """Descriptors by which a process joins: see ``join``. To be closed by the caller."""
        return [os.open(path / self.door, os.O_WRONLY | os.O_CLOEXEC) for path in self.paths]

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


def join(doors: list[int]) -> bool:
    """Enter the groups behind these descriptors; for a process of one thread. False where there is none to enter.

    A group may be ours to make and not to join: the common parent decides.
    """
    try:
        for door in doors:
            os.write(door, b"0")
    except OSError:
        return False
    return bool(doors)


def create(name: str, memory: int, processes: int, root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> Cgroup | None:
    """Make and limit the groups of a session, or None where none can be made.

    ``name`` must be unique on the machine; ``memory`` in bytes. ``root`` is where control groups are mounted and
    ``membership`` the file that says which ones this process is in.
    """
    for parent in _parents(root, membership):
        with contextlib.suppress(OSError):
            return parent.create(_PREFIX + name, memory, processes)
    return None


def sweep(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> None:
    """Remove the groups that a killed host process left: those without a process in them."""
    for folder in {folder for parent in _parents(root, membership) for folder in parent.folders}:
        with contextlib.suppress(OSError):
            for path in folder.glob(_PREFIX + "*"):
                owner = path.name.removeprefix(_PREFIX).partition("-")[0]
                if owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
                    with contextlib.suppress(OSError):
                        path.rmdir()


@dataclass(frozen=True)
class _Version2:
    """A group under which a child may be made."""

    folder: Path

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.folder,)

    def create(self, name: str, memory: int, processes: int) -> Cgroup:
        if not {"memory", "pids"} <= set((self.folder / "cgroup.subtree_control").read_text().split()):
            raise OSError("children of this group are not limited")
        path = self.folder / name
        path.mkdir()
        try:
            (path / "memory.max").write_text(str(memory))
            (path / "pids.max").write_text(str(processes))
        except OSError:
            path.rmdir()
            raise
        with contextlib.suppress(OSError):  # no swap, no file
            (path / "memory.swap.max").write_text("0")
        return Cgroup([path], "cgroup.procs")


@dataclass(frozen=True)
class _Version1:
    """This process's groups in the two hierarchies, below which children may be made."""

    memory: Path
    pids: Path

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.memory, self.pids)

    def create(self, name: str, memory: int, processes: int) -> Cgroup:
        made: list[Path] = []
        try:
            for parent, file, limit in (
                (self.memory, "memory.limit_in_bytes", memory),
                (self.pids, "pids.max", processes),
            ):
                path = parent / name
                path.mkdir()
                made.append(path)
                (path / file).write_text(str(limit))
        except OSError:
            Cgroup(made, _TASKS).remove()
            raise
        with contextlib.suppress(OSError):  # no swap, no file
            (made[0] / "memory.memsw.limit_in_bytes").write_text(str(memory))
        return Cgroup(made, _TASKS)


def _own(controller: str, membership: Path) -> str | None:
    """This process's path in a hierarchy; ``controller`` is empty for version 2."""
    with contextlib.suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if (controller in controllers.split(",")) if controller else not controllers:
                return path.lstrip("/")
    return None


def _parents(root: Path, membership: Path) -> list[_Version2 | _Version1]:
    return [*_v2_parents(root, membership), *_v1_parents(root, membership)]


def _v2_parents(root: Path, membership: Path) -> list[_Version2]:
    """Beside this process's group, or below it where that is the root: a group with processes has no limited child."""
    own = _own("", membership)
    if own is None:
        return []
    here = root / own
    found = (here.parent if own else here, here)
    return [_Version2(p) for p in dict.fromkeys(found) if (p / "cgroup.subtree_control").exists()]


def _v1_parents(root: Path, membership: Path) -> list[_Version1]:
    memory, pids = _own("memory", membership), _own("pids", membership)
    if memory is None or pids is None:
        return []
    return [_Version1(root / "memory" / memory, root / "pids" / pids)]
