"""How a forked process locks itself in: the boundary of the local sandbox.

The order matters and is the same for root and for an ordinary user, but for who may do what: an ordinary user
gets the right to mount from a new user namespace, root has it already and, the mounts made, becomes an unprivileged
user of the host and enters a user namespace of its own.

    enter_namespaces()   mount, pid, net, ipc, uts, cgroup (and user): in a process that forks once more
    build_root()         in the child, process 1 of the new pid namespace: a root file system of its own
    lock()               no privileges, no way to new ones, the system call filter, Landlock

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

HOST_ID = 65534
"""What that is outside when the host process is root: nobody."""

_DATA_INODES = 200_000
_HIDDEN_IN_PROC = (
    "acpi", "asound", "bus", "config.gz", "driver", "fs", "interrupts", "iomem", "ioports", "irq", "kallsyms",
    "kcore", "key-users", "keys", "kmsg", "kpagecgroup", "kpagecount", "kpageflags", "latency_stats", "modules",
    "mtrr", "pagetypeinfo", "partitions", "sched_debug", "schedstat", "scsi", "slabinfo", "softirqs", "swaps",
    "sys", "sysrq-trigger", "sysvipc", "timer_list", "vmallocinfo", "zoneinfo", "diskstats", "mdstat",
)  # fmt: skip
_BARE: list[str] = []  # made on the way to a mount in this process, which builds one root and no other
_DEVICES = ("null", "zero", "full", "random", "urandom")
_COPIED_FROM_ETC = ("localtime", "timezone", "mime.types", "protocols", "services", "ld.so.cache", "ld.so.conf")
_BOUND_FROM_ETC = ("fonts", "alternatives", "ld.so.conf.d")
_CERTIFICATES = ("ssl/certs", "pki/tls/certs", "pki/ca-trust/extracted", "ca-certificates/extracted")  # public ones


class Jail(Value):
    """What a session is given. ``readable`` are host paths that appear read-only at the same place.

    ``mount_point`` is an empty directory of the host under which the root is built. With ``network`` ``host`` the
    session stays in the host's network namespace; with ``names`` it has one of its own and no route, as with ``none``,
    and whoever holds it lets some connections out.
    """

    mount_point: str
    readable: tuple[str, ...]
    limits: Limits
    network: Literal["none", "names", "host"] = "none"


def enter_namespaces(jail: Jail, is_root: bool) -> None:
    """Leave the host's namespaces. The pid namespace begins with the next child."""
    flags = linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS | linux.CLONE_NEWCGROUP
    if jail.network != "host":
        flags |= linux.CLONE_NEWNET
    if is_root:
        linux.unshare(flags)
    else:
        user, group = os.getuid(), os.getgid()
        linux.unshare(flags | linux.CLONE_NEWUSER)
        _map_ids(user, group)


def _map_ids(user: int, group: int) -> None:
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{INSIDE_ID} {user} 1"),
        ("gid_map", f"{INSIDE_ID} {group} 1"),
    ):
        Path("/proc/self", name).write_text(text)


# --- the root file system ------------------------------------------------------------------------------------------


def build_root(jail: Jail, is_root: bool) -> None:
    """Build the session's root and move into it; the host's is gone afterwards."""
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    root = jail.mount_point
    linux.mount("tmpfs", root, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=4m,nr_inodes=4096,mode=755")
    owner = HOST_ID if is_root else None
    _system(root, jail)
    _devices(root)
    _data(root, jail, owner)
    for path in sorted(jail.readable, key=len):
        if not _covered(path, ("/usr", *(p for p in jail.readable if p != path))):
            _bind(path, root + path)
    for path in reversed(_BARE):
        # where packages are installed in place, pip and others want to list it; it shows what is mounted there only
        os.chmod(path, 0o555 if path.removeprefix(root) in sys.path else 0o111)
    _proc(root)
    linux.mount(None, root, None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV)
    os.chdir(root)
    linux.pivot_root(".", ".")
    linux.unmount(".", linux.MNT_DETACH)
    os.chdir("/workspace")
    socket.sethostname("sandbox")
    if jail.network != "host":
        _loopback_up()


def _covered(path: str, by: tuple[str, ...]) -> bool:
    return any(Path(path).is_relative_to(other) for other in by)


def _system(root: str, jail: Jail) -> None:
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
    for name in _BOUND_FROM_ETC if jail.network == "none" else (*_BOUND_FROM_ETC, *_CERTIFICATES):
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
    if jail.network == "host":
        for name in ("hosts", "resolv.conf"):
            with contextlib.suppress(OSError), open(f"{root}/etc/{name}", "ab") as file:
                file.write(Path("/etc", name).read_bytes())


def _devices(root: str) -> None:
    device_root = f"{root}/dev"
    os.mkdir(device_root)
    for name in _DEVICES:
        _bind(f"/dev/{name}", f"{device_root}/{name}", devices=True)
    os.mkdir(f"{device_root}/pts")
    flags = linux.MS_NOSUID | linux.MS_NOEXEC
    linux.mount("devpts", f"{device_root}/pts", "devpts", flags, "newinstance,ptmxmode=0666,mode=0620")
    for name, target in {
        "ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0",
        "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
    }.items():  # fmt: skip
        os.symlink(target, f"{device_root}/{name}")


def _data(root: str, jail: Jail, owner: int | None) -> None:
    """/workspace, /tmp and shared memory: one bounded tmpfs, so that one limit holds for all three."""
    data = f"{root}/mnt"
    flags = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("tmpfs", data, "tmpfs", flags, f"size={jail.limits.disk},nr_inodes={_DATA_INODES},mode=755")
    for name, mode in (("workspace", 0o755), ("tmp", 0o1777), ("shm", 0o1777), ("tmp/home", 0o700)):
        path = f"{data}/{name}"
        os.mkdir(path)
        os.chmod(path, mode)
        if owner is not None:
            os.chown(path, owner, owner)
    for name, target in (("workspace", "workspace"), ("tmp", "tmp"), ("shm", "dev/shm")):
        os.mkdir(f"{root}/{target}")
        linux.mount(f"{data}/{name}", f"{root}/{target}", None, linux.MS_BIND)
    linux.unmount(data)


def _proc(root: str) -> None:
    proc = f"{root}/proc"
    os.mkdir(proc)
    linux.mount("proc", proc, "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    for name in _HIDDEN_IN_PROC:
        path = f"{proc}/{name}"
        with contextlib.suppress(FileNotFoundError):
            if os.path.isdir(path) and name != "sys":
                flags = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
                linux.mount("tmpfs", path, "tmpfs", flags, "size=0,nr_inodes=1,mode=555")
            elif name == "sys":
                _bind(path, path)
            elif os.path.exists(path):
                linux.mount("/dev/null", path, None, linux.MS_BIND)


def _bind(source: str, target: str, devices: bool = False) -> None:
    """Show ``source`` at ``target``, read-only (devices: writable), with everything mounted below it."""
    if source != target:
        _make_parents(os.path.dirname(target))
        if stat.S_ISDIR(os.stat(source).st_mode):
            os.makedirs(target, exist_ok=True)
        else:
            Path(target).touch()
    linux.mount(source, target, None, linux.MS_BIND | linux.MS_REC)
    wanted = linux.MS_NOSUID | (0 if devices else linux.MS_RDONLY | linux.MS_NODEV)
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


def _loopback_up() -> None:
    """Let servers and clients of the same session find each other on 127.0.0.1, which is theirs alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("16sH14x", b"lo", 0x1)  # IFF_UP
        ioctl(probe, 0x8914, request)  # SIOCSIFFLAGS


# --- privileges ----------------------------------------------------------------------------------------------------


def lock(jail: Jail, is_root: bool) -> None:
    """Give up everything. Irrevocable, and inherited by every child."""
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
    if is_root:
        os.setgroups([])
        os.setresgid(HOST_ID, HOST_ID, HOST_ID)
        os.setresuid(HOST_ID, HOST_ID, HOST_ID)
        linux.prctl(linux.PR_SET_DUMPABLE, 1)  # changing the user cleared it, and the maps below are ours to write
        try:
            linux.unshare(linux.CLONE_NEWUSER)
            _map_ids(HOST_ID, HOST_ID)
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
