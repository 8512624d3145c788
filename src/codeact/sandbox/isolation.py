"""How a forked process locks itself in: the boundary of the local sandbox.

What is the same in all sessions is built once, by the zygote, which then lives in it itself:

    build_root()       a root file system of read-only parts of the host's, in a mount namespace of its own

and each session, whose process 1 is born into a pid namespace of its own (and a user namespace, where the host process
is not root), goes on from there:

    enter()            mount, net, ipc, uts, cgroup namespaces; its own /workspace, /tmp, /proc, terminals
    lock()             no privileges, no way to new ones, the system call filter, Landlock

Protected: files, processes, network, devices, secrets and clocks of the host; other sessions. Not protected: bugs
of the Linux kernel in what the filter lets through, and side channels of shared hardware.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import stat
import struct
import sys
from fcntl import ioctl
from pathlib import Path
from typing import Literal

from codeact.contracts import Value
from codeact.sandbox import linux
from codeact.sandbox.limits import Limits
from codeact.sandbox.seccomp import filter_program

INSIDE_ID = 1000
"""User and group of the code inside its own user namespace."""

_FIRST_HOST_ID = 1_879_048_192
"""What that is outside when the host process is root: this and the number of the session's process 1. Linux counts
watches, pipes and signals by user, so that sessions of one user would take them from each other. No system hands
these numbers out."""

_NOBODY = 65534  # where the host process lives in a user namespace that has no such numbers

_WATCHERS = 16  # of files, in one session
_DATA_INODES = 200_000
_HIDDEN_IN_PROC = (
    "acpi", "asound", "bus", "config.gz", "driver", "fs", "interrupts", "iomem", "ioports", "irq", "kallsyms",
    "kcore", "key-users", "keys", "kmsg", "kpagecgroup", "kpagecount", "kpageflags", "latency_stats", "modules",
    "mtrr", "pagetypeinfo", "partitions", "sched_debug", "schedstat", "scsi", "slabinfo", "softirqs", "swaps",
    "sys", "sysrq-trigger", "sysvipc", "timer_list", "vmallocinfo", "zoneinfo", "diskstats", "mdstat",
)  # fmt: skip
_BARE: list[str] = []  # made on the way to a mount in this process, which builds one root and no other
_OWN = ("/workspace", "/tmp", "/dev/shm")  # that each session has for itself
_HIDDEN: list[str] = []  # readable paths below these, in the zygote and its forks
_DEVICES = ("null", "zero", "full", "random", "urandom")
_COPIED_FROM_ETC = ("localtime", "timezone", "mime.types", "protocols", "services", "ld.so.cache", "ld.so.conf")
_BOUND_FROM_ETC = (
    *("fonts", "alternatives", "ld.so.conf.d"),
    *("ssl/certs", "pki/tls/certs", "pki/ca-trust/extracted", "ca-certificates/extracted"),  # public certificates
)


class Root(Value):
    """What all sessions of a zygote see. ``readable`` are host paths that appear read-only at the same place.

    ``mount_point`` is an empty directory of the host under which the root is built. ``resolves``: names, as the host
    does.
    """

    mount_point: str
    readable: tuple[str, ...]
    resolves: bool = False


class Jail(Value):
    """What a session is given.

    With ``network`` ``host`` it stays in the host's network namespace. With ``names`` it has one of its own and no
    route, as with ``none``: whoever holds it lets some connections out.
    """

    limits: Limits
    network: Literal["none", "names", "host"] = "none"


def _map_ids(user: int, group: int) -> None:
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{INSIDE_ID} {user} 1"),
        ("gid_map", f"{INSIDE_ID} {group} 1"),
    ):
        Path("/proc/self", name).write_text(text)


# --- the root file system, once ------------------------------------------------------------------------------------


def build_root(root: Root, is_root: bool) -> None:
    """Build the root of all sessions and move into it; the host's is gone afterwards, but for its /proc.

    An ordinary user gets the right to mount from a new user namespace.
    """
    if is_root:
        linux.unshare(linux.CLONE_NEWNS)
    else:
        user, group = os.getuid(), os.getgid()
        linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWUSER)
        _map_ids(user, group)
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    top = root.mount_point
    linux.mount("tmpfs", top, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=4m,nr_inodes=4096,mode=755")
    _system(top, root.resolves)
    _devices(top)
    for name in ("workspace", "tmp", "proc"):
        os.mkdir(f"{top}/{name}")
    for path in sorted(root.readable, key=len):
        if not _covered(path, ("/usr", *(p for p in root.readable if p != path))):
            _bind(path, top + path)
            if _covered(path, _OWN):
                _HIDDEN.append(path)
    for path in reversed(_BARE):
        # where packages are installed in place, pip and others want to list it; it shows what is mounted there only
        os.chmod(path, 0o555 if path.removeprefix(top) in sys.path else 0o111)
    linux.mount("/proc", f"{top}/proc", None, linux.MS_BIND | linux.MS_REC)
    flags = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
    linux.mount(None, top, None, linux.MS_REMOUNT | flags, "size=4m,nr_inodes=4096,mode=755")
    linux.mount(None, top, None, linux.MS_REMOUNT | linux.MS_BIND | flags)
    os.chdir(top)
    linux.pivot_root(".", ".")
    linux.unmount(".", linux.MNT_DETACH)
    os.chdir("/")


def _covered(path: str, by: tuple[str, ...]) -> bool:
    return any(Path(path).is_relative_to(other) for other in by)


def _system(root: str, resolves: bool) -> None:
    for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        source = f"/{name}"
        if os.path.islink(source):
            os.symlink(os.readlink(source), root + source)
        elif os.path.isdir(source):
            _bind(source, root + source)
    for name in ("etc", "run", "var", "sys", "mnt"):
        os.mkdir(f"{root}/{name}")
    os.symlink("/tmp", f"{root}/var/tmp")
    for name in _COPIED_FROM_ETC:
        with contextlib.suppress(FileNotFoundError, PermissionError, IsADirectoryError):
            Path(root, "etc", name).write_bytes(Path("/etc", name).read_bytes())
    for name in _BOUND_FROM_ETC:
        if os.path.isdir(f"/etc/{name}"):
            _bind(f"/etc/{name}", f"{root}/etc/{name}")
    home = "/tmp/home"
    for name, text in {
        "passwd": f"user:x:{INSIDE_ID}:{INSIDE_ID}:user:{home}:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        "group": f"user:x:{INSIDE_ID}:\nnogroup:x:65534:\n",
        "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
        "hostname": "sandbox\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "resolv.conf": "",
    }.items():
        Path(root, "etc", name).write_text(text)
    if resolves:
        for name in ("hosts", "resolv.conf"):
            with contextlib.suppress(OSError), open(f"{root}/etc/{name}", "ab") as file:
                file.write(Path("/etc", name).read_bytes())


def _devices(root: str) -> None:
    device_root = f"{root}/dev"
    os.mkdir(device_root)
    for name in _DEVICES:
        _bind(f"/dev/{name}", f"{device_root}/{name}", devices=True)
    for name in ("pts", "shm"):
        os.mkdir(f"{device_root}/{name}")
    for name, target in {
        "ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0",
        "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
    }.items():  # fmt: skip
        os.symlink(target, f"{device_root}/{name}")


def _bind(source: str, target: str, devices: bool = False) -> None:
    """Show ``source`` at ``target``, read-only (what a device takes is no matter of its mount), with all below it."""
    if source != target:
        _make_parents(os.path.dirname(target))
        if stat.S_ISDIR(os.stat(source).st_mode):
            os.makedirs(target, exist_ok=True)
        else:
            Path(target).touch()
    linux.mount(source, target, None, linux.MS_BIND | linux.MS_REC)
    wanted = linux.MS_NOSUID | linux.MS_RDONLY | (0 if devices else linux.MS_NODEV)
    for point in _mounts_below(target):
        _remount(point, wanted)


def _make_parents(path: str) -> None:
    """Directories that only lead to a mount: to be passed through, not listed."""
    if not os.path.isdir(path):
        _make_parents(os.path.dirname(path))
        os.mkdir(path, 0o755)
        _BARE.append(path)


def _remount(point: str, wanted: int) -> None:
    """Tighten one mount. What its host mount refuses already must be kept, or the kernel says no."""
    now = os.statvfs(point).f_flag
    kept = now & (linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC | linux.MS_NOATIME | linux.MS_NODIRATIME)
    kept |= linux.MS_RELATIME if now & 4096 else 0  # ST_RELATIME
    linux.mount(None, point, None, linux.MS_BIND | linux.MS_REMOUNT | wanted | kept)


def _mounts_below(target: str) -> list[str]:
    real = os.path.realpath(target)
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if point == real or point.startswith(real + "/"):
            points.append(point)
    return points


# --- the session's own parts ---------------------------------------------------------------------------------------


def namespaces(is_root: bool) -> int:
    """The flags with which process 1 of a session is forked."""
    return linux.CLONE_NEWPID | (0 if is_root else linux.CLONE_NEWUSER)


def enter(jail: Jail, is_root: bool) -> int | None:
    """Leave the namespaces that are left and get files of one's own. For process 1, before anything else runs.

    Returns what ``lock`` has to know: the user outside that the session is to become, None where it stays who it is.
    """
    if not is_root:
        _map_ids(INSIDE_ID, INSIDE_ID)
        with contextlib.suppress(OSError):  # else one session could take all that Linux lets one user have
            Path("/proc/sys/user/max_inotify_instances").write_text(str(_WATCHERS))
    flags = linux.CLONE_NEWNS | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
    if jail.network != "host":
        flags |= linux.CLONE_NEWNET
    linux.unshare(flags | linux.CLONE_NEWCGROUP)  # its control group, joined already, looks like the root of all
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    hidden = [(path, os.open(path, os.O_PATH | os.O_DIRECTORY)) for path in _HIDDEN]
    owner = _host_id() if is_root else None
    _data(jail, owner)
    for path, descriptor in hidden:  # a Python that stands below /tmp
        os.makedirs(path, exist_ok=True)
        linux.mount(f"/proc/self/fd/{descriptor}", path, None, linux.MS_BIND | linux.MS_REC)
        os.close(descriptor)
    flags = linux.MS_NOSUID | linux.MS_NOEXEC
    linux.mount("devpts", "/dev/pts", "devpts", flags, "newinstance,ptmxmode=0666,mode=0620")
    _proc()
    os.chdir("/workspace")
    socket.sethostname("sandbox")
    if jail.network != "host":
        _loopback_up()
    return owner


def _host_id() -> int:
    wanted = _FIRST_HOST_ID + int(os.readlink("/proc/self"))  # in the host's /proc: its number outside
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, length = map(int, line.split())
        if first <= wanted < first + length:
            return wanted
    return _NOBODY


def _data(jail: Jail, owner: int | None) -> None:
    """/workspace, /tmp and shared memory: one bounded tmpfs, so that one limit holds for all three."""
    flags = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("tmpfs", "/mnt", "tmpfs", flags, f"size={jail.limits.disk},nr_inodes={_DATA_INODES},mode=755")
    for name, mode in (("workspace", 0o755), ("tmp", 0o1777), ("shm", 0o1777), ("tmp/home", 0o700)):
        path = f"/mnt/{name}"
        os.mkdir(path)
        os.chmod(path, mode)
        if owner is not None:
            os.chown(path, owner, owner)
    for name, target in (("workspace", "/workspace"), ("tmp", "/tmp"), ("shm", "/dev/shm")):
        linux.mount(f"/mnt/{name}", target, None, linux.MS_BIND)
    linux.unmount("/mnt")


def _proc() -> None:
    """The session's own /proc in place of the host's."""
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    with contextlib.suppress(OSError):  # locked where the user namespace is a new one: then it is covered for good
        linux.unmount("/proc", linux.MNT_DETACH)
    linux.mount("proc", "/proc", "proc", flags)
    for name in _HIDDEN_IN_PROC:
        path = f"/proc/{name}"
        with contextlib.suppress(FileNotFoundError):
            kind = os.stat(path).st_mode
            if name == "sys":
                _bind(path, path)
            elif stat.S_ISDIR(kind):
                linux.mount("tmpfs", path, "tmpfs", flags | linux.MS_RDONLY, "size=0,nr_inodes=1,mode=555")
            else:
                linux.mount("/dev/null", path, None, linux.MS_BIND)


def _loopback_up() -> None:
    """Let servers and clients of the same session find each other on 127.0.0.1, which is theirs alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("16sH14x", b"lo", 0x1)  # IFF_UP
        ioctl(probe, 0x8914, request)  # SIOCSIFFLAGS


# --- privileges ----------------------------------------------------------------------------------------------------


def lock(jail: Jail, owner: int | None) -> None:
    """Give up everything. Irrevocable, and inherited by every child. ``owner``: see ``enter``."""
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, jail.limits.open_files),
        (resource.RLIMIT_DATA, jail.limits.memory),
        (resource.RLIMIT_MEMLOCK, 64 << 10),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 256),
    ):
        _limit(kind, limit)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    if owner is not None:
        os.setgroups([])
        os.setresgid(owner, owner, owner)
        os.setresuid(owner, owner, owner)
        linux.prctl(linux.PR_SET_DUMPABLE, 1)  # changing the user cleared it, and the maps below are ours to write
        try:
            linux.unshare(linux.CLONE_NEWUSER)
            _map_ids(owner, owner)
        except OSError as error:
            # Forbidden for ordinary users here. The boundary does not rest on it: this is one already.
            if error.errno not in (errno.EPERM, errno.ENOSPC, errno.EINVAL):
                raise
    linux.drop_capabilities()
    # counted in the user namespace just made, so that sessions do not count each other's
    _limit(resource.RLIMIT_NPROC, jail.limits.processes)
    if linux.landlock_version():
        linux.install_landlock(["/"], ["/workspace", "/tmp", "/dev", "/proc"])
    linux.install_seccomp(filter_program())


def _limit(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (limit, limit))
