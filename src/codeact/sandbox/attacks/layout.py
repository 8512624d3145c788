"""Attacks on how the local sandbox is built: one parent for all sessions, one root file system that they share, the
host's /proc below their own.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import stat
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator

from codeact.sandbox.attacks.ground import Facts, attack, call, libc, own_sockets, refused, text_of

OPENAT2 = (437, 437)
SHARED = ("/", "/etc", "/etc/passwd", "/etc/hosts", "/run", "/var", "/mnt", "/sys", "/dev", "/usr", "/usr/bin/env",
          "/dev/null", "/dev/zero", "/dev/urandom", "/proc/interrupts", os.__file__)  # fmt: skip


def holds_host_process(folder: str, facts: Facts) -> bool:
    """Whether this is a /proc in which the host's processes can be seen."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                if name.isdigit() and facts["marker"].encode() in text_of(f"{folder}/{name}/cmdline"):
                    return True
    return False


@attack("filesystem", harmless=True)
def proc_of_the_host(facts: Facts) -> str | None:
    """Reach the host's /proc by a path around the session's own."""
    paths = ["/proc", "/proc/../proc", "/proc/self/root/proc", "/proc/1/root/proc", "/proc/self/cwd/../proc",
             "/proc/thread-self/root/proc", "/mnt", "/mnt/proc", "/oldroot/proc", "/.old/proc"]  # fmt: skip
    for name in os.listdir("/proc/self/fd"):
        paths += [f"/proc/self/fd/{name}", f"/proc/self/fd/{name}/proc", f"/proc/self/fd/{name}/../proc"]
    return next((path for path in paths if holds_host_process(path, facts)), None)


@attack("filesystem")
def proc_below_proc(facts: Facts) -> str | None:
    """Reach it by openat2, with every way of resolving, and by descriptors that were opened before."""
    here = os.open("/", os.O_PATH)
    down = os.open("/proc", os.O_PATH)
    try:
        for resolve in range(32):
            for start, path in ((here, b"proc"), (down, b"."), (down, b"../proc"), (down, b"self/root/proc")):
                how = struct.pack("=QQQ", os.O_PATH, 0, resolve)
                with contextlib.suppress(OSError):
                    found = call(OPENAT2, start, path, how, len(how))
                    try:
                        if holds_host_process(f"/proc/self/fd/{found}", facts):
                            return f"{path!r} with {resolve}"
                    finally:
                        os.close(found)
    finally:
        os.close(here)
        os.close(down)
    return None


@attack("filesystem")
def proc_uncovered(facts: Facts) -> str | None:
    """Take the session's own /proc away from above the host's: detached, moved, copied."""
    for numbers, arguments in (
        ((166, 39), (b"/proc", 2)),  # umount2, MNT_DETACH
        ((166, 39), (b"/proc", 1)),  # MNT_FORCE
        ((165, 40), (b"/proc", b"/tmp", b"", 8192, 0)),  # mount, MS_MOVE
        ((165, 40), (b"/proc", b"/tmp", b"", 4096, 0)),  # MS_BIND
        ((428, 428), (-100, b"/", 0x8001)),  # open_tree, a clone of all
        ((429, 429), (-100, b"/proc", -100, b"/tmp", 0)),  # move_mount
    ):
        with contextlib.suppress(PermissionError):
            refused(numbers, *arguments)
            return f"call {numbers[0]} was not refused"
    return "the host's processes can be seen" if holds_host_process("/proc", facts) else None


def changes(path: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """Ways to change something about a file or directory."""
    inside = f"{path.rstrip('/')}/canary"
    with tempfile.NamedTemporaryFile() as file:
        yield "chmod", lambda: os.chmod(path, 0o777)
        yield "chown", lambda: os.chown(path, os.getuid(), os.getgid())
        yield "utime", lambda: os.utime(path)
        yield "setxattr", lambda: os.setxattr(path, "user.canary", b"x")
        yield "rename", lambda: os.rename(path, path + ".canary")
        yield "link", lambda: os.link(path, path + ".canary")
        if stat.S_ISDIR(os.stat(path).st_mode):
            yield "mkdir", lambda: os.mkdir(inside)
            yield "symlink", lambda: os.symlink("/", inside)
            yield "mkfifo", lambda: os.mkfifo(inside)
            yield "rename into", lambda: os.rename(file.name, inside)
            yield "temporary file", lambda: os.close(os.open(path, os.O_TMPFILE | os.O_RDWR))
        elif stat.S_ISREG(os.stat(path).st_mode):
            yield "truncate", lambda: os.truncate(path, 0)
            yield "open", lambda: os.close(os.open(path, os.O_WRONLY))
            yield "open by /proc", lambda: os.close(os.open(f"/proc/self/fd/{descriptor(path)}", os.O_RDWR))


def descriptor(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


@attack("filesystem")
def shared_root(facts: Facts) -> str | None:
    """Change anything at all in what all sessions share: content, names, modes, times, attributes."""
    for path in SHARED:
        for name, change in changes(path):
            with contextlib.suppress(OSError):
                change()
                return f"{name} of {path}"
    return None


@attack("filesystem")
def lease_on_a_shared_file(facts: Facts) -> str | None:
    """Take a lease of a file that the host shares, so that whoever would write it has to wait."""
    for path in (os.__file__, "/etc/passwd", "/usr/bin/env"):
        with open(path, "rb") as file, contextlib.suppress(OSError):
            fcntl.fcntl(file, 1024, fcntl.F_RDLCK)  # F_SETLEASE
            return path
    return None


@attack("filesystem")
def hard_links_out_of_the_workspace(facts: Facts) -> str | None:
    """Link files of the host into the workspace by every way of naming them."""
    for path in ("/etc/passwd", "/usr/bin/env", "/dev/null", os.__file__, "/proc/self/environ", facts["file"]):
        with contextlib.suppress(OSError):
            held = os.open(path, os.O_PATH)
            ways = ((-100, path, 0), (-100, f"/proc/self/fd/{held}", 0x400), (held, "", 0x1000))
            for start, name, flags in ways:  # by its name, by AT_SYMLINK_FOLLOW, by AT_EMPTY_PATH
                with contextlib.suppress(OSError):
                    call((265, 37), start, name.encode(), -100, b"/workspace/linked", flags)
                    return f"linked {path}"
            os.close(held)
    return None


@attack("secrets", harmless=True)
def control_group_names(facts: Facts) -> str | None:
    """Learn the host's process, or where its control groups are, from the names of one's own."""
    for path in ("/proc/self/cgroup", "/proc/1/cgroup", "/proc/self/cpuset"):
        with contextlib.suppress(OSError):
            for line in text_of(path).decode().splitlines():
                if line.rpartition(":")[2] != "/":
                    return line
    return None


@attack("secrets")
def memory_of_the_zygote(facts: Facts) -> str | None:
    """Open or read the memory of the process that all sessions are forks of."""
    zygote = facts["zygote"]
    if not zygote:
        return None
    for path in (f"/proc/{zygote}/mem", f"/proc/{zygote}/maps", f"/proc/{zygote}/environ"):
        with contextlib.suppress(OSError):
            if b"codeact.sandbox.zygote" in text_of(f"/proc/{zygote}/cmdline"):
                text_of(path)
                return path
    for number, arguments in (((310, 270), (zygote, 0, 0, 0, 0, 0)), ((101, 117), (0x4206, zygote, 0, 0))):
        with contextlib.suppress(OSError):
            return refused(number, *arguments)
    return None


@attack("secrets")
def descriptors_of_the_host(facts: Facts) -> str | None:
    """Find a descriptor that leads to the host beside the five sockets: a control channel, a process, a directory."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if "pidfd" in target or target.startswith(("mnt:", "user:", "net:", "pid:", "/memfd")):
                return f"{name}: {target}"
    for end in own_sockets():
        if end.family == socket.AF_UNIX and end.type != socket.SOCK_STREAM:
            peer = struct.unpack("=iII", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            if peer == 0:
                return "a socket of the kind that control channels are, to a process outside"
    return None


@attack("processes")
def namespaces_of_the_host(facts: Facts) -> str | None:
    """Open the namespaces that own or hold one's own."""
    own = {os.stat(f"/proc/self/ns/{name}").st_ino for name in os.listdir("/proc/self/ns")}
    for name in os.listdir("/proc/self/ns"):
        held = os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
        try:
            for request in (0xB701, 0xB702):  # NS_GET_USERNS, NS_GET_PARENT
                found = libc.ioctl(held, ctypes.c_ulong(request))
                if found >= 0 and os.fstat(found).st_ino not in own:
                    return f"{name}, {request:x}"
        finally:
            os.close(held)
    return None


@attack("processes")
def leave_the_pid_namespace(facts: Facts) -> str | None:
    """Have a grandchild adopted by a process outside."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            while os.getppid() == child or os.getppid() not in (0, 1):
                signal.sigtimedwait([], 0.01)
            os.write(write, str(os.getppid()).encode())
            os._exit(0)
        os._exit(0)
    os.waitpid(child, 0)
    adopter = os.read(read, 10)
    os.close(read)
    os.close(write)
    return None if adopter == b"1" else f"adopted by {adopter!r}"


@attack("processes", harmless=True)
def handle_of_a_host_process(facts: Facts) -> str | None:
    """Open a handle of a process of the host, to signal it or to wait for it."""
    if os.path.exists(f"/proc/{facts['child']}"):
        with open(f"/proc/{facts['child']}/cmdline", "rb") as file:
            if facts["marker"].encode() not in file.read():
                return None  # a process of our own that happens to have this number
    os.close(os.pidfd_open(facts["child"]))
    return f"pidfd_open({facts['child']})"


@attack("processes", harmless=True)
def signal_by_descriptor(facts: Facts) -> str | None:
    """Have the kernel signal a process of the host when a pipe can be read."""
    if os.path.exists(f"/proc/{facts['child']}"):
        return None if facts["marker"].encode() not in text_of(f"/proc/{facts['child']}/cmdline") else "it is seen"
    read, write = os.pipe()
    try:
        fcntl.fcntl(read, fcntl.F_SETOWN, facts["child"])
        return f"F_SETOWN {facts['child']}"
    finally:
        os.close(read)
        os.close(write)


@attack("processes")
def become_another_user(facts: Facts) -> str | None:
    """Become any other user or group, in each of the ways there are."""
    own = os.getuid()
    for other in (0, 1, 65534, 65533, own + 1, 12345):
        if other != own:
            for change in (os.setuid, os.seteuid, os.setgid, os.setegid):
                with contextlib.suppress(OSError, OverflowError):
                    change(other)
                    return f"{change.__name__}({other})"
            libc.setfsuid(other)
            if libc.setfsuid(own) == other:
                return f"setfsuid({other})"
    return None


@attack("processes")
def run_setuid_programs(facts: Facts) -> str | None:
    """Run the set-user-ID programs that are there, and one of one's own making."""
    code = "grep -E '^(Uid|CapEff)' /proc/self/status"
    plain = subprocess.run(["sh", "-c", code], capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory(dir="/workspace") as folder:
        subprocess.run(["cp", "/usr/bin/dash", f"{folder}/shell"], check=False)
        os.chmod(f"{folder}/shell", 0o6777)
        own = subprocess.run([f"{folder}/shell", "-p", "-c", code], capture_output=True, text=True).stdout
    if own and own != plain:
        return f"{own!r} where {plain!r} was"
    for program in ("su", "sudo", "pkexec"):
        with contextlib.suppress(FileNotFoundError, subprocess.TimeoutExpired):
            told = subprocess.run(
                [program, "sh", "-c", "id -u"] if program != "su" else ["su", "-c", "id -u"],
                capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=5,
            )  # fmt: skip
            if told.stdout.strip() == "0":
                return program
    return None


@attack("processes")
def messages_to_process_1(facts: Facts) -> str | None:
    """Fill whatever leads to process 1 with garbage and descriptors."""
    for end in own_sockets():
        if end.family == socket.AF_UNIX and end.type == socket.SOCK_SEQPACKET:
            end.setblocking(False)
            for data in (b"x" * 1000, b"{}", b'{"op": "kill", "id": 1}', b'{"event": "exit"}', b"[" * 50_000) * 100:
                with contextlib.suppress(OSError):
                    socket.send_fds(end, [data], [0])
    return None
