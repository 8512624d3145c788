"""Attacks that use up resources."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import io
import mmap
import os
import resource
import signal
import struct
import sys
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator

from codeact.sandbox.attacks.ground import Facts, attack, call, libc


@contextlib.contextmanager
def children() -> Iterator[list[int]]:
    """Processes to be ended and reaped afterwards."""
    started: list[int] = []
    try:
        yield started
    finally:
        for child in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        for child in started:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def fork_and(work: Callable[[], None]) -> int:
    """A child that works, says so over a pipe by one byte, and waits; its parent returns when it has worked."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.close(read)
            work()
            os.write(write, b"x")
            while True:
                signal.pause()
        os._exit(1)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    return child


@attack("resources")
def fork_bomb(facts: Facts) -> str | None:
    """Begin more processes than the limit."""
    with children() as started:
        for _ in range(facts["processes"] + 50):
            started.append(os.posix_spawn("/bin/sleep", ["sleep", "600"], {}))
        return f"{len(started)} processes"


@attack("resources")
def thread_bomb(facts: Facts) -> str | None:
    """Begin more threads than the limit."""
    go, started = threading.Event(), []
    usual = threading.stack_size(256 << 10)  # small, so that it is the number of threads that meets its limit
    try:
        for _ in range(facts["processes"] + 50):
            thread = threading.Thread(target=go.wait)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise BlockingIOError(str(error)) from error
    finally:
        threading.stack_size(usual)
        go.set()
        for thread in started:
            thread.join()
    return f"{len(started)} threads"


@attack("resources")
def memory_bomb(facts: Facts) -> str | None:
    """Use more memory than the limit in one process."""
    held = [bytearray(b"x" * (32 << 20)) for _ in range(facts["memory"] * 3 // 2 // (32 << 20))]
    return f"{len(held) * 32} MiB"


@attack("resources")
def memory_of_many(facts: Facts) -> str | None:
    """Use more memory than the limit in many processes together."""
    kept: list[bytearray] = []
    with children() as started:
        for _ in range(5):
            started.append(fork_and(lambda: kept.append(bytearray(b"x" * (facts["memory"] // 3)))))
        threading.Event().wait(1.5)  # a watchdog has its turn
        alive = [child for child in started if os.waitpid(child, os.WNOHANG) == (0, 0)]
    return f"{len(alive)} of 5 live on" if len(alive) > 3 else None


def fill_shared(write: Callable[[int], object], facts: Facts) -> str | None:
    """Take one and a half times the limit in pieces; survive the watchdog's turn or not."""
    pieces = [write(16 << 20) for _ in range(facts["memory"] * 3 // 2 // (16 << 20))]
    threading.Event().wait(1.5)
    return f"{len(pieces) * 16} MiB"


@attack("resources")
def shared_memory_bomb(facts: Facts) -> str | None:
    """Use more memory than the limit as shared mappings, which the limit of a process does not count."""

    def piece(size: int) -> object:
        shared = mmap.mmap(-1, size)
        for offset in range(0, size, 4096):
            shared[offset] = 1
        return shared

    return fill_shared(piece, facts)


@attack("resources")
def memory_file_bomb(facts: Facts) -> str | None:
    """Use more memory than the limit as files in memory, which no process has mapped."""

    def piece(size: int) -> object:
        file = os.memfd_create("canary")
        os.write(file, b"x" * size)
        return file

    return fill_shared(piece, facts)


@attack("resources")
def system_v_memory_bomb(facts: Facts) -> str | None:
    """Use more memory than the limit as System V segments, written and then left."""
    libc.shmat.restype = ctypes.c_void_p
    libc.shmdt.argtypes = [ctypes.c_void_p]

    def piece(size: int) -> object:
        number = call((29, 194), 0, size, 0o1600)  # shmget
        address = libc.shmat(number, None, 0)
        if address in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), "shmat")
        ctypes.memset(address, 1, size)
        libc.shmdt(address)
        return number

    return fill_shared(piece, facts)


def fill(folder: str, limit: int) -> str:
    """Write files until nothing fits any more; they go afterwards."""
    with tempfile.TemporaryDirectory(dir=folder) as inside, open(f"{inside}/full", "wb", 0) as file:
        chunk, written = b"x" * (1 << 20), 0
        while written < limit * 3 // 2:
            written += file.write(chunk)
    return f"{written >> 20} MiB"


@attack("resources")
def fill_workspace(facts: Facts) -> str | None:
    """Fill the workspace beyond its limit."""
    return fill("/workspace", facts["disk"])


@attack("resources")
def fill_temporary_directory(facts: Facts) -> str | None:
    """Fill /tmp beyond its limit."""
    return fill("/tmp", facts["disk"])


@attack("resources")
def fill_shared_memory(facts: Facts) -> str | None:
    """Fill /dev/shm beyond its limit."""
    return fill("/dev/shm", facts["disk"])


@attack("resources")
def many_files(facts: Facts) -> str | None:
    """Make more files than the limit."""
    with tempfile.TemporaryDirectory(dir="/workspace") as folder:
        here = os.open(folder, os.O_RDONLY)
        try:
            for number in range(facts["files"] + 1000):
                os.mknod(str(number), dir_fd=here)
        finally:
            os.close(here)
    return f"{facts['files'] + 1000} files"


@attack("resources")
def open_descriptors(facts: Facts) -> str | None:
    """Hold more open files than the limit."""
    held: list[int] = []
    try:
        for _ in range(facts["open_files"] + 100):
            held.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for descriptor in held:
            os.close(descriptor)
    return f"{len(held)} descriptors"


@attack("resources", harmless=True)
def raise_limits(facts: Facts) -> str | None:
    """Raise a limit again."""
    for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_DATA, resource.RLIMIT_CORE):
        soft, hard = resource.getrlimit(kind)
        if hard == resource.RLIM_INFINITY:
            return f"limit {kind} is unlimited"
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (soft, hard + 1))
            return f"limit {kind} raised"
    return None


@attack("resources", harmless=True)
def dump_core(facts: Facts) -> str | None:
    """Have crashes write memory to disk."""
    return "core dumps are on" if resource.getrlimit(resource.RLIMIT_CORE)[1] else None


@attack("resources")
def lock_memory(facts: Facts) -> str | None:
    """Hold memory that cannot be taken away."""
    page = mmap.mmap(-1, 4 << 20)
    if libc.mlock(ctypes.byref(ctypes.c_char.from_buffer(page)), 4 << 20):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return "locked 4 MiB"


@attack("resources", seconds=2)
def spin(facts: Facts) -> str | None:
    """Compute for ever and stop for nothing."""
    os.nice(19)  # whom it starves meanwhile is asked elsewhere
    while True:
        with contextlib.suppress(BaseException):
            while True:
                pass


@attack("resources")
def flood_of_output(facts: Facts) -> str | None:
    """Print 100 MB, from Python, from the file descriptor and from other processes."""
    for _ in range(25):
        sys.stdout.write("x" * (1 << 20))
    for _ in range(25):
        os.write(1, b"y" * (1 << 20))
    with children() as started:
        started.append(os.posix_spawn("/bin/sh", ["sh", "-c", "yes | head -c 50000000 >&2"], {}))
        os.waitpid(started.pop(), 0)
    sys.stderr.flush()
    sys.stdout.flush()
    sys.stdout.write("\n")
    return None


@attack("resources")
def flood_of_pictures(facts: Facts) -> str | None:
    """Show 1,000 pictures of 50 kB and 3,000 empty results."""
    from IPython.display import display

    for _ in range(1000):
        display({"image/png": "A" * 50_000}, raw=True)  # type: ignore[no-untyped-call]
    for _ in range(3000):
        display({}, raw=True)  # type: ignore[no-untyped-call]
    return None


@attack("resources")
def deep_recursion(facts: Facts) -> str | None:
    """Recurse without end, through Python and through C, past the interpreter's own limit."""
    sys.setrecursionlimit(1 << 30)

    class Deep:
        def __repr__(self) -> str:
            return repr([Deep()])

    repr(Deep())
    return None


@attack("resources")
def signals_without_end(facts: Facts) -> str | None:
    """Queue more signals than the limit."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
    information = bytearray(128)
    struct.pack_into("=iii", information, 0, signal.SIGRTMIN, 0, -1)
    for _ in range(5000):
        call(
            (297, 240), os.getpid(), threading.get_native_id(), int(signal.SIGRTMIN), bytes(information)
        )  # to this thread
    return "5000 signals wait"


@attack("resources")
def timers_without_end(facts: Facts) -> str | None:
    """Make more timers than the limit."""
    made = ctypes.create_string_buffer(8)
    for _ in range(200_000):
        call((222, 107), 1, 0, made)  # timer_create
    return "200,000 timers"


@attack("resources")
def decompress(facts: Facts) -> str | None:
    """Unpack a file a thousand times its size, and again what was in it."""
    packed = zlib.compress(bytes(64 << 20), 9)
    held = []
    for _ in range(facts["memory"] * 3 // 2 // (64 << 20)):
        held.append(zlib.decompress(packed))
    return f"{len(held) * 64} MiB"


@attack("resources")
def bombs_in_what_is_shown(facts: Facts) -> str | None:
    """Show pickles that act when they are loaded, archives and pictures that are huge when they are unpacked, and
    documents that grow when they are read."""
    from IPython.display import display

    action = f"cposix\nsystem\n(S'touch {facts['file']}.pickled'\ntR.".encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../../../tmp/canary", bytes(50 << 20))
    row = zlib.compress(bytes(30_000 * 4) * 1000, 9)
    picture = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (
            (b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 6, 0, 0, 0)), (b"IDAT", row), (b"IEND", b""),
        )
    )  # fmt: skip
    entities = "".join(f"<!ENTITY e{n} '{f'&e{n - 1};' * 10 if n else 'x' * 1000}'>" for n in range(10))
    document = f"<?xml version='1.0'?><!DOCTYPE svg [{entities}]><svg xmlns='http://www.w3.org/2000/svg'>&e9;</svg>"
    for kind, data in (
        ("application/x-python-pickle", base64.b64encode(action).decode()),
        ("application/zip", base64.b64encode(archive.getvalue()).decode()),
        ("image/png", base64.b64encode(picture).decode()),
        ("image/gif", base64.b64encode(b"GIF89a\xff\xff\xff\xff\x80\0\0" + b"\0" * 1000).decode()),
        ("image/jpeg", base64.b64encode(b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03" + bytes(1000)).decode()),
        ("image/svg+xml", document),
        ("text/html", "<table>" + "<tr><td colspan=65534 rowspan=65534>" * 5000),
        ("text/html", "<div>" * 100_000),
        ("text/markdown", "[" * 100_000 + "]" * 100_000),
        ("text/markdown", "> " * 50_000 + "*" * 50_000),
        ("application/json", "[" * 100_000 + "]" * 100_000),
    ):
        display({kind: data, "text/plain": ""}, raw=True)  # type: ignore[no-untyped-call]
        display({kind: data}, raw=True)  # type: ignore[no-untyped-call]
    return None
