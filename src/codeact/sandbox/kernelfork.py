"""What a forked session takes with it besides memory: files, open files, the working directory; and what it does not.

Runs inside the sandbox, in the kernel that is copied (``losses``, ``open_files``, ``pack``) and in the one that its
copy becomes (``unpack``, ``become``, ``resume``).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import json
import os
import signal
import socket
import stat
import tarfile
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

from codeact.sandbox import image

_CARRIED = ("workspace", "tmp", "dev/shm")
_LEFT = {"tmp/home/.kernel"}  # the last words of a kernel are its own
_LISTED = 20

OpenFile = tuple[int, str, int, int]
"""Descriptor, path, flags, position."""


def descriptors() -> set[int]:
    """Those that are open now; looking at them opens one more."""
    return {int(number) for number in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{number}")}


def open_files(ours: set[int]) -> tuple[list[OpenFile], dict[int, str]]:
    """Files that can be opened again, and what every other descriptor of the user's is."""
    files: list[OpenFile] = []
    others: dict[int, str] = {}
    for entry in os.listdir("/proc/self/fd"):
        number = int(entry)
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/self/fd/{number}")
            if number in ours or _is_ours(number):
                continue
            information = os.fstat(number)
            if path.startswith("/") and os.path.exists(path) and os.path.samestat(information, os.stat(path)):
                seekable = stat.S_ISREG(information.st_mode)
                position = os.lseek(number, 0, os.SEEK_CUR) if seekable else 0
                files.append((number, path, fcntl.fcntl(number, fcntl.F_GETFL), position))
            else:
                others[number] = path.partition(":")[0].removesuffix(" (deleted)")
    return files, others


def _is_ours(number: int) -> bool:
    """A connection of one of the kernel's channels, which ZeroMQ has accepted."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
        name = connection.getsockname() if connection.family == socket.AF_UNIX else ""
        return isinstance(name, str) and name.startswith("/proc/self/fd/")
    return False


def losses(others: dict[int, str], tasks: set[Any]) -> list[str]:
    """In words: what of this process is not memory and cannot be carried."""
    lost = [f"{kind} (descriptor {number})" for number, kind in sorted(others.items())]
    lost += [
        f"thread {thread.name}"
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and thread.name != "Control"
    ]
    lost += [f"task {task.get_name()}" for task in asyncio.all_tasks() - tasks]
    lost += [f"process {pid} ({name})" for pid, name in _children()]
    return lost[:_LISTED] + ([f"and {len(lost) - _LISTED} more"] if len(lost) > _LISTED else [])


def _children() -> list[tuple[int, str]]:
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            if entry.isdigit():
                with open(f"/proc/{entry}/stat") as file:
                    name, _, rest = file.read().partition("(")[2].rpartition(")")
                state, parent = rest.split()[:2]
                if int(parent) == os.getpid() and state != "Z":
                    found.append((int(entry), name))
    return found


def pack(target: int) -> None:
    """Write the session's files into ``target`` as a tar archive. Raises OSError where they do not fit."""

    device = os.stat("/tmp").st_dev

    def wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        foreign = os.lstat(f"/{entry.name}").st_dev != device  # what is mounted there is there in the fork as well
        return None if foreign or entry.name in _LEFT else entry

    with open(os.dup(target), "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in _CARRIED:
            archive.add(f"/{name}", name, filter=wanted)


def unpack(source: int) -> None:
    with tarfile.open(fileobj=io.BufferedReader(_Reader(source)), mode="r") as archive:
        archive.extraction_filter = staticmethod(lambda member, _: member)  # it holds what this user may write
        archive.extractall("/")


class _Reader(io.RawIOBase):
    """A file from its beginning, with a position of its own: others read from the same descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (self._position if whence == os.SEEK_CUR else 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self._descriptor, len(buffer), self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def become(memory: Sequence[int], files: int, sockets: list[int], line: int, key: str) -> NoReturn:
    """Turn this process, fresh from the zygote, into the kernel whose state is being written to these files.

    One empty message over ``line`` says that ``files`` is there, another one that all is; whoever sends them sees to it
    that they come. Raises OSError.
    """
    if len(os.read(line, 2)) != 2:
        raise OSError("the files of the other session did not come")
    unpack(files)
    head = image.read_head(files)
    os.close(files)
    free = int(head["told"]["free"])
    given = [line, *sockets, *memory, *([image.base] if image.base >= 0 else [])]
    moved = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, free) for number in given]
    for number in given:
        os.close(number)
    image.base = moved[-1] if image.base >= 0 else -1
    reading, writing = os.pipe()
    mailbox = fcntl.fcntl(reading, fcntl.F_DUPFD_CLOEXEC, free)
    kept = 1 + len(sockets)
    told = {"line": moved[0], "sockets": moved[1:kept], "key": key, "done": moved[kept:]}
    os.write(writing, json.dumps(told).encode())
    os.close(reading)
    os.close(writing)
    image.restore(moved[kept : kept + len(memory)], head, mailbox, ready=moved[0])


def told(ours: set[int]) -> tuple[dict[str, Any], dict[int, str]]:
    """What the copy has to know, and the descriptors that it does not get."""
    files, others = open_files(ours)
    used = max((number for number in (*(file[0] for file in files), *others)), default=0)
    umask = os.umask(0o022)
    os.umask(umask)
    carried = {"cwd": os.getcwd(), "umask": umask, "files": files, "dead": sorted(others), "free": max(used, 2) + 1}
    return carried, others


def settle(carried: dict[str, Any]) -> None:
    """In the copy: get back what the memory believes to have."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        handler = signal.getsignal(number)
        if handler is not None:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, handler)
    os.umask(carried["umask"])
    with contextlib.suppress(OSError):
        os.chdir(carried["cwd"])
    for number, path, flags, position in carried["files"]:
        with contextlib.suppress(OSError):
            opened = os.open(path, flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC))
            with contextlib.suppress(OSError):  # a device
                os.lseek(opened, position, os.SEEK_SET)
            _renumber(opened, number)
    for number in carried["dead"]:  # so that whoever holds the number gets an error and nobody else's descriptor
        ours, theirs = socket.socketpair()
        theirs.close()
        _renumber(ours.detach(), number)


def _renumber(descriptor: int, number: int) -> None:
    if descriptor != number:
        os.dup2(descriptor, number, inheritable=False)
        os.close(descriptor)
