"""The Linux calls that Python 3.11 does not have, as thin functions that raise OSError.

Sources: the manual pages of section 2, linux/landlock.h, linux/prctl.h.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = 1024, 2048, 4096, 16384, 1 << 18, 1 << 21
MNT_DETACH = 2

PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 24, 38
PR_SET_CHILD_SUBREAPER, PR_SET_SECCOMP, PR_CAP_AMBIENT = 36, 22, 47
SECCOMP_MODE_FILTER, PR_CAP_AMBIENT_CLEAR_ALL = 2, 4

CAP_SYS_ADMIN = 21

# Rights of a Landlock rule set, and the newest bit of each version of its interface.
FS_EXECUTE, FS_READ_FILE, FS_READ_DIR = 1, 4, 8
_FS_BITS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_SCOPE_ABSTRACT_UNIX_AND_SIGNAL = 3

# Landlock's calls have the same numbers everywhere; pivot_root and capset do not.
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CAPSET = {"x86_64": 126, "aarch64": 91}

_OPENAT2, _RESOLVE_NO_MAGICLINKS, _RESOLVE_BENEATH = 437, 2, 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_holding_the_lock = ctypes.PyDLL(None, use_errno=True)  # so that the child's only thread is the one that Python expects
_holding_the_lock.syscall.restype = ctypes.c_long


def _check(outcome: int, what: str) -> int:
    if outcome < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return outcome


def _c(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def fork_into(flags: int) -> int:
    """``os.fork()`` with a child that begins in new namespaces.

    For a child that starts no thread before it forks once more in the usual way: the C library is not told of the fork.
    """
    ctypes.pythonapi.PyOS_BeforeFork()
    outcome = int(_holding_the_lock.syscall(_CLONE[os.uname().machine], flags | signal.SIGCHLD, 0, 0, 0, 0))
    number = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent() if outcome else ctypes.pythonapi.PyOS_AfterFork_Child()
    if outcome < 0:
        raise OSError(number, f"clone: {os.strerror(number)}")
    return outcome


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    _check(
        _libc.mount(_c(source), _c(target), _c(kind), ctypes.c_ulong(flags), _c(data)),
        f"mount {kind or 'bind'} {target}",
    )


def unmount(target: str, flags: int = 0) -> None:
    _check(_libc.umount2(_c(target), flags), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    _check(_libc.syscall(_PIVOT_ROOT[os.uname().machine], _c(new), _c(old)), "pivot_root")


def open_beneath(directory: int, path: str, flags: int, mode: int) -> int:
    """``openat2`` that neither leaves ``directory`` nor follows the magic links of /proc. Linux 5.6."""
    how = struct.pack("=QQQ", flags, mode if flags & os.O_CREAT else 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    return _check(_libc.syscall(_OPENAT2, directory, _c(path), how, len(how)), path)


def prctl(option: int, *arguments: int) -> int:
    padded = [ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4]]
    return _check(_libc.prctl(option, *padded), f"prctl {option}")


def has_capability(number: int) -> bool:
    """Whether this process holds the capability in the user namespace it is in."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> number & 1)
    return False


def drop_capabilities() -> None:
    """Give up every capability in every set, for good."""
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    for number in range(last + 1):
        try:
            prctl(PR_CAPBSET_DROP, number)
        except PermissionError:
            break  # no CAP_SETPCAP: then there is nothing to regain either, for no_new_privs is set
    try:
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    except OSError:
        pass  # a kernel without ambient capabilities
    header = struct.pack("=Ii", 0x20080522, 0)
    _check(_libc.syscall(_CAPSET[os.uname().machine], header, bytes(24)), "capset")


def install_seccomp(program: bytes) -> None:
    """Install a filter (``no_new_privs`` must be set)."""

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    buffer = ctypes.create_string_buffer(program, len(program))
    argument = Program(len(program) // 8, ctypes.cast(buffer, ctypes.c_char_p))
    _check(_libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(argument), 0, 0), "seccomp")


def landlock_version() -> int:
    """The version of Landlock's interface, 0 where the kernel has none."""
    version = int(_libc.syscall(_LANDLOCK_CREATE, None, 0, 1))
    return max(version, 0)


def install_landlock(readable: list[str], writable: list[str]) -> None:
    """Let files be read and executed only below ``readable``, and anything only below ``writable``.

    From version 6 on, signals and abstract sockets that leave the session are refused as well.
    """
    version = landlock_version()
    everything = (1 << _FS_BITS_BY_ABI.get(version, 16)) - 1
    reading = FS_EXECUTE | FS_READ_FILE | FS_READ_DIR
    scoped = _SCOPE_ABSTRACT_UNIX_AND_SIGNAL if version >= 6 else 0
    attribute = struct.pack("=QQQ", everything, 0, scoped)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = _check(_libc.syscall(_LANDLOCK_CREATE, attribute, size, 0), "landlock_create_ruleset")
    try:
        for rights, paths in ((reading, readable), (everything, writable)):
            for path in paths:
                descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
                try:
                    rule = struct.pack("=Qi", rights & everything, descriptor)
                    _check(_libc.syscall(_LANDLOCK_ADD, rules, 1, rule, 0), f"landlock_add_rule {path}")
                finally:
                    os.close(descriptor)
        _check(_libc.syscall(_LANDLOCK_RESTRICT, rules, 0), "landlock_restrict_self")
    finally:
        os.close(rules)
