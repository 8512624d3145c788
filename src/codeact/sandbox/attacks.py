"""Attacks on a sandbox, as plain functions. Their source is sent into the sandbox and called there, one by one.

Each function tries one escape. It returns what it got where the escape succeeded, and returns None or raises OSError
(or what the exhaustion of a resource raises) where it was refused. Any other exception is a mistake in the attack and
counts as undecided, so that a broken attack never looks like a boundary that held.

Only the standard library is used, and nothing of codeact: the file works in every backend that runs Python.
``facts`` tells what there is to be found on the host; see ``codeact.sandbox.canaries``.

A call of the kernel that a boundary must refuse is made with arguments that cannot succeed. EPERM, EACCES and ENOSYS
mean that it was refused; any other error means that the kernel went on to look at the arguments.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import mmap
import os
import re
import resource
import signal
import socket
import stat
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

Facts = dict[str, Any]
Attack = Callable[[Facts], str | None]

ATTACKS: dict[str, tuple[str, bool, Attack]] = {}
"""name -> (family, harmless even where nothing stops it, attack)"""

REFUSED = {errno.EPERM, errno.EACCES, errno.ENOSYS}

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def attack(family: str, harmless: bool = False) -> Callable[[Attack], Attack]:
    def register(function: Attack) -> Attack:
        ATTACKS[function.__name__.replace("_", "-")] = (family, harmless, function)
        return function

    return register


def attempt(name: str, facts: Facts) -> None:
    """Run one attack and print its one line: BREACH, HELD or BROKEN."""
    try:
        got = ATTACKS[name][2](facts)
    except (OSError, MemoryError) as error:
        line = f"HELD: {type(error).__name__}: {error}"
    except Exception as error:
        line = f"BROKEN: {type(error).__name__}: {error}"
    else:
        line = "HELD: nothing was found" if got is None else f"BREACH: {got}"
    print(" ".join(line.split())[:500])  # noqa: T201


def call(numbers: tuple[int, int], *arguments: Any) -> int:
    """A system call by its number on (x86_64, aarch64). Raises OSError."""
    number = numbers[0] if os.uname().machine == "x86_64" else numbers[1]
    plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    outcome = int(libc.syscall(ctypes.c_long(number), *plain))
    if outcome < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return outcome


def refused(numbers: tuple[int, int], *arguments: Any) -> str | None:
    """A call that has to be refused before its arguments are looked at."""
    try:
        return f"the call returned {call(numbers, *arguments)}"
    except OSError as error:
        if error.errno in REFUSED:
            raise
        return f"the kernel took the call and answered {error}"


def text_of(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(1 << 20)


def pids() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def search_processes(kind: str, holds: Callable[[bytes], bool]) -> str | None:
    for pid in pids():
        with contextlib.suppress(OSError):
            if holds(text_of(f"/proc/{pid}/{kind}")):
                return f"found in /proc/{pid}/{kind}"
    return None


def write_at(path: str) -> str:
    with open(path, "xb"):
        pass
    os.unlink(path)
    return f"could write {path}"


def connect(kind: int, family: int, address: Any, send: bytes = b"") -> str:
    with socket.socket(family, kind) as client:
        client.settimeout(2)
        client.connect(address)
        if send:
            client.send(send)
            client.recv(100)
    return f"connected to {address!r}"


# --- secrets -------------------------------------------------------------------------------------------------------
# of the secret only the hash is known here, so that looking for it does not find the question, nor a copy of it


def holds_secret(facts: Facts, data: bytes) -> bool:
    words = re.findall(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", data)
    return any(hashlib.sha256(word).hexdigest() == facts["secret_sha256"] for word in words)


@attack("secrets", harmless=True)
def environment(facts: Facts) -> str | None:
    """Read a secret of the host out of the environment."""
    for name, value in os.environ.items():
        if name == facts["secret_name"] or holds_secret(facts, value.encode()):
            return f"the variable {name}"
    return None


@attack("secrets", harmless=True)
def environment_of_processes(facts: Facts) -> str | None:
    """Read it from /proc/*/environ."""
    return search_processes("environ", lambda data: holds_secret(facts, data))


@attack("secrets", harmless=True)
def environment_of_process_1(facts: Facts) -> str | None:
    """Read the environment of process 1."""
    return f"{len(text_of('/proc/1/environ'))} bytes"


@attack("secrets")
def inherited_memory(facts: Facts) -> str | None:
    """Search this process's own memory, which began as a copy of another's, for the secret."""
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            bounds, rights, _, _, inode = line.split()[:5]
            if rights.startswith("rw") and inode == "0":
                start, end = (int(part, 16) for part in bounds.split("-"))
                with contextlib.suppress(OSError, ValueError, OverflowError):
                    memory.seek(start)
                    if holds_secret(facts, memory.read(min(end - start, 64 << 20))):
                        return f"found at {bounds}"
    return None


@attack("secrets", harmless=True)
def memory_of_process_1(facts: Facts) -> str | None:
    """Open the memory of process 1."""
    with open("/proc/1/mem", "rb"):
        return "opened /proc/1/mem"


@attack("secrets", harmless=True)
def memory_map_of_process_1(facts: Facts) -> str | None:
    """Read where the memory of process 1 lies."""
    return f"{len(text_of('/proc/1/maps'))} bytes" if text_of("/proc/1/maps") else None


@attack("secrets", harmless=True)
def descriptors_of_process_1(facts: Facts) -> str | None:
    """Look at the descriptors of process 1, the host's control channel among them."""
    return f"{os.listdir('/proc/1/fd')}"


@attack("secrets")
def inherited_descriptors(facts: Facts) -> str | None:
    """Find an inherited descriptor of a directory, a device or a file of the host."""
    fine = ("/workspace", "/tmp", "/dev/null", "/dev/urandom", "/dev/pts", "/proc", "/memfd:")
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith("/") and not target.startswith(fine):
                return f"descriptor {name} is {target}"
    return None


@attack("secrets", harmless=True)
def host_name(facts: Facts) -> str | None:
    """Learn the host's name."""
    return facts["host_name"] if socket.gethostname() == facts["host_name"] else None


@attack("secrets")
def mounted_secrets(facts: Facts) -> str | None:
    """Read what orchestrators and package managers leave: /run/secrets, service account tokens, key files."""
    for path in ("/run/secrets", "/var/run/secrets", "/etc/ssl/private", "/etc/ssh", "/etc/kubernetes", "/etc/sudoers"):
        if os.path.exists(path):
            return path
    return None


@attack("secrets")
def kernel_messages(facts: Facts) -> str | None:
    """Read the kernel's log."""
    with open("/dev/kmsg", "rb"):
        return "opened /dev/kmsg"


# --- file system ---------------------------------------------------------------------------------------------------


@attack("filesystem", harmless=True)
def home_directory(facts: Facts) -> str | None:
    """List the home directory of the user who started the sandbox."""
    return f"{len(os.listdir(facts['home']))} names"


@attack("filesystem", harmless=True)
def file_of_the_host(facts: Facts) -> str | None:
    """Read a file in the host's temporary directory."""
    return f"{text_of(facts['file'])[:20]!r}"


@attack("filesystem", harmless=True)
def write_to_the_host(facts: Facts) -> str | None:
    """Write beside it."""
    return write_at(facts["file"] + ".written")


@attack("filesystem")
def passwords(facts: Facts) -> str | None:
    """Read /etc/shadow."""
    return f"{len(text_of('/etc/shadow'))} bytes"


@attack("filesystem")
def other_directories(facts: Facts) -> str | None:
    """List directories of the host that no code needs."""
    for path in ("/root", "/home", "/boot", "/srv", "/opt", "/media", "/var/log", "/var/lib", "/etc/cron.d"):
        with contextlib.suppress(OSError):
            if os.listdir(path):
                return path
    return None


@attack("filesystem")
def write_root(facts: Facts) -> str | None:
    """Write to /."""
    return write_at("/canary")


@attack("filesystem")
def write_etc(facts: Facts) -> str | None:
    """Write to /etc."""
    return write_at("/etc/canary")


@attack("filesystem")
def write_usr(facts: Facts) -> str | None:
    """Write to /usr/bin."""
    return write_at("/usr/bin/canary")


@attack("filesystem")
def write_dev(facts: Facts) -> str | None:
    """Write a plain file into /dev."""
    return write_at("/dev/canary")


@attack("filesystem")
def write_python(facts: Facts) -> str | None:
    """Write into the Python installation that the host shares."""
    return write_at(os.path.join(sys.base_prefix, "canary"))


@attack("filesystem")
def write_site_packages(facts: Facts) -> str | None:
    """Write into its packages."""
    return write_at(os.path.join(os.path.dirname(os.path.dirname(json.__file__)), "site-packages", "canary.pth"))


@attack("filesystem")
def write_imported_package(facts: Facts) -> str | None:
    """Write into the package that runs this kernel."""
    import codeact

    return write_at(os.path.join(os.path.dirname(codeact.__file__), "canary"))


@attack("filesystem")
def overwrite_interpreter(facts: Facts) -> str | None:
    """Open the running interpreter for writing through /proc/self/exe."""
    with open("/proc/self/exe", "r+b"):
        return "opened /proc/self/exe for writing"


@attack("filesystem")
def remove_system_file(facts: Facts) -> str | None:
    """Rename a system file away and back."""
    os.rename("/usr/bin/env", "/usr/bin/env.canary")
    os.rename("/usr/bin/env.canary", "/usr/bin/env")
    return "renamed /usr/bin/env"


@attack("filesystem")
def change_mode(facts: Facts) -> str | None:
    """Change the mode of a system file."""
    os.chmod("/usr/bin/env", 0o755)
    return "changed the mode of /usr/bin/env"


@attack("filesystem")
def symbolic_link_out(facts: Facts) -> str | None:
    """Write to a system file through a symbolic link."""
    with tempfile.TemporaryDirectory() as folder:
        os.symlink("/etc/hosts", f"{folder}/link")
        with open(f"{folder}/link", "r+b"):
            return "opened /etc/hosts for writing"


@attack("filesystem")
def hard_link_out(facts: Facts) -> str | None:
    """Link a system file into a writable directory."""
    with tempfile.TemporaryDirectory() as folder:
        os.link("/usr/bin/env", f"{folder}/link")
        return "linked /usr/bin/env"


@attack("filesystem")
def climb(facts: Facts) -> str | None:
    """Climb out of the root by .. and by the roots that processes show."""
    here = os.stat("/")
    for path in ("/" + "../" * 60, "/proc/self/root/..", "/proc/1/root", "/proc/1/cwd/../.."):
        with contextlib.suppress(OSError):
            there = os.stat(path)
            if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
                return path
    return None


@attack("filesystem")
def block_device(facts: Facts) -> str | None:
    """Make a node of a disk, and open it."""
    with tempfile.TemporaryDirectory() as folder:
        os.mknod(f"{folder}/disk", stat.S_IFBLK | 0o600, os.makedev(8, 0))
        with open(f"{folder}/disk", "rb"):
            return "opened a disk"


@attack("filesystem")
def memory_device(facts: Facts) -> str | None:
    """Make a node of the machine's memory, and open it."""
    with tempfile.TemporaryDirectory() as folder:
        os.mknod(f"{folder}/mem", stat.S_IFCHR | 0o600, os.makedev(1, 1))
        with open(f"{folder}/mem", "rb"):
            return "opened the machine's memory"


@attack("filesystem")
def devices(facts: Facts) -> str | None:
    """Open a device of the host."""
    for name in ("sda", "vda", "nvme0n1", "mem", "port", "kvm", "fuse", "loop-control", "net/tun", "vhost-net", "rtc"):
        with contextlib.suppress(OSError), open(f"/dev/{name}", "rb"):
            return name
    return None


@attack("filesystem")
def sys_file_system(facts: Facts) -> str | None:
    """List the devices and control groups that /sys shows."""
    return "listed" if os.listdir("/sys") else None


@attack("filesystem")
def kernel_settings(facts: Facts) -> str | None:
    """Open a setting of the kernel for writing; the program it starts at a crash runs outside."""
    with open("/proc/sys/kernel/core_pattern", "r+b"):
        return "opened core_pattern for writing"


@attack("filesystem")
def system_requests(facts: Facts) -> str | None:
    """Open /proc/sysrq-trigger for writing."""
    if stat.S_ISCHR(os.stat("/proc/sysrq-trigger").st_mode):
        return None  # covered by /dev/null
    with open("/proc/sysrq-trigger", "wb"):
        return "opened"


@attack("filesystem")
def kernel_memory(facts: Facts) -> str | None:
    """Read the kernel's memory or its addresses."""
    for path in ("/proc/kcore", "/proc/kallsyms"):
        with contextlib.suppress(OSError):
            if text_of(path)[:1]:
                return path
    return None


@attack("filesystem")
def writable_mounts(facts: Facts) -> str | None:
    """Find a writable mount other than those of the session."""
    own = ("/workspace", "/tmp", "/dev/shm", "/proc", "/dev/pts", "/dev/")
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            point, options = line.split()[4:6]
            if "rw" in options.split(",") and not point.startswith(own):
                return point
    return None


@attack("filesystem")
def setuid_programs(facts: Facts) -> str | None:
    """Gain by a set-user-ID program: needs a mount that honours it and the right to gain privileges."""
    gains = not libc.prctl(39, 0, 0, 0, 0)  # PR_GET_NO_NEW_PRIVS
    honours = not os.statvfs("/usr/bin").f_flag & os.ST_NOSUID
    return f"no_new_privs off: {gains}, set-user-ID honoured: {honours}" if gains or honours else None


# --- processes -----------------------------------------------------------------------------------------------------


@attack("processes", harmless=True)
def see_host_processes(facts: Facts) -> str | None:
    """Find a process of the host by its command line."""
    return search_processes("cmdline", lambda data: facts["marker"].encode() in data)


@attack("processes", harmless=True)
def signal_host_process(facts: Facts) -> str | None:
    """End a process of the host by its number."""
    if str(facts["child"]) in pids() and facts["marker"].encode() not in text_of(f"/proc/{facts['child']}/cmdline"):
        return None  # a process of our own that happens to have this number
    os.kill(facts["child"], signal.SIGTERM)
    return f"sent a signal to {facts['child']}"


@attack("processes")
def kill_process_1(facts: Facts) -> str | None:
    """Kill process 1, which holds the session."""
    os.kill(1, signal.SIGKILL)
    return None if os.getppid() else "it is gone"


@attack("processes")
def stop_process_1(facts: Facts) -> str | None:
    """Stop process 1."""
    os.kill(1, signal.SIGSTOP)
    state = text_of("/proc/1/stat").rpartition(b")")[2].split()[0]
    return "it is stopped" if state in (b"T", b"t") else None


@attack("processes")
def kill_everything(facts: Facts) -> str | None:
    """Kill whatever can be reached."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    return None if os.path.exists("/proc/1") else "process 1 is gone"


@attack("processes", harmless=True)
def become_root(facts: Facts) -> str | None:
    """Become user 0."""
    os.setuid(0)
    return "setuid(0) succeeded"


@attack("processes")
def join_groups(facts: Facts) -> str | None:
    """Join group 0."""
    os.setgroups([0])
    return "setgroups succeeded"


@attack("processes", harmless=True)
def capabilities(facts: Facts) -> str | None:
    """Hold a capability, or be able to get one back."""
    for line in text_of("/proc/self/status").decode().splitlines():
        if line.startswith("Cap") and int(line.split()[1], 16):
            return line
    return None


@attack("processes")
def new_user_namespace_by_clone(facts: Facts) -> str | None:
    """Begin a child in a new user namespace."""
    child = call((56, 220), 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)  # CLONE_NEWUSER
    if child == 0:
        libc._exit(0)
    os.waitpid(child, 0)
    return "clone with CLONE_NEWUSER succeeded"


@attack("processes")
def real_time_priority(facts: Facts) -> str | None:
    """Take the processor from everybody."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return "SCHED_FIFO"


@attack("processes")
def raise_priority(facts: Facts) -> str | None:
    """Take a better priority."""
    os.setpriority(os.PRIO_PROCESS, 0, -5)
    return "nice -5"


@attack("processes")
def survive_out_of_memory(facts: Facts) -> str | None:
    """Have the kernel spare this process when memory runs out."""
    with open("/proc/self/oom_score_adj", "r+") as file:
        file.write("-1000")
    return "oom_score_adj is -1000"


# --- network -------------------------------------------------------------------------------------------------------


@attack("network", harmless=True)
def tcp_to_loopback(facts: Facts) -> str | None:
    """Connect to a server on the host's 127.0.0.1."""
    return connect(socket.SOCK_STREAM, socket.AF_INET, ("127.0.0.1", facts["port"]))


@attack("network", harmless=True)
def tcp_to_address(facts: Facts) -> str | None:
    """Connect to a server on the host's own address."""
    return connect(socket.SOCK_STREAM, socket.AF_INET, (facts["address"], facts["address_port"]))


@attack("network", harmless=True)
def udp_to_loopback(facts: Facts) -> str | None:
    """Send to and hear from a UDP server on the host."""
    return connect(socket.SOCK_DGRAM, socket.AF_INET, ("127.0.0.1", facts["udp_port"]), b"ping")


@attack("network")
def tcp_to_internet(facts: Facts) -> str | None:
    """Connect to a server of the internet."""
    return connect(socket.SOCK_STREAM, socket.AF_INET, ("1.1.1.1", 443))


@attack("network")
def tcp_to_internet_6(facts: Facts) -> str | None:
    """The same over IPv6."""
    return connect(socket.SOCK_STREAM, socket.AF_INET6, ("2606:4700:4700::1111", 443))


@attack("network")
def udp_to_internet(facts: Facts) -> str | None:
    """Send a DNS query to a server of the internet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"\0\1\1\0\0\1\0\0\0\0\0\0\7example\3com\0\0\1\0\1", ("1.1.1.1", 53))
    return "a packet left"


@attack("network")
def metadata_service(facts: Facts) -> str | None:
    """Connect to the metadata service of a cloud."""
    return connect(socket.SOCK_STREAM, socket.AF_INET, ("169.254.169.254", 80))


@attack("network")
def resolve_name(facts: Facts) -> str | None:
    """Resolve a name."""
    return str(socket.getaddrinfo("example.com", 80))


@attack("network", harmless=True)
def interfaces(facts: Facts) -> str | None:
    """See a network interface other than the session's own loopback."""
    found = [name for _, name in socket.if_nameindex() if name != "lo"]
    tunnels = ("tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0")
    found = [name for name in found if name not in tunnels]  # the kernel puts these, down, into every namespace
    return str(found) if found else None


@attack("network")
def add_interface(facts: Facts) -> str | None:
    """Make a network interface over netlink."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.settimeout(2)
        kind = struct.pack("=HH5s3x", 9, 1, b"dummy")
        body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + struct.pack("=HH", 4 + len(kind), 18) + kind
        link.send(struct.pack("=IHHII", 16 + len(body), 16, 0x605, 1, 0) + body)  # RTM_NEWLINK, create, acknowledge
        answer = -struct.unpack_from("=i", link.recv(4096), 16)[0]
    if answer:
        raise OSError(answer, os.strerror(answer))
    return "made an interface"


@attack("network", harmless=True)
def raw_socket(facts: Facts) -> str | None:
    """Open a raw IP socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP):
        return "opened"


@attack("network", harmless=True)
def packet_socket(facts: Facts) -> str | None:
    """Open a packet socket."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW):
        return "opened"


@attack("network", harmless=True)
def virtual_machine_socket(facts: Facts) -> str | None:
    """Open a socket to the hypervisor, which no network namespace holds back."""
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM):
        return "opened"


@attack("network")
def kernel_cryptography(facts: Facts) -> str | None:
    """Open a socket to the kernel's ciphers, a large attack surface."""
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET):
        return "opened"


@attack("network")
def firewall(facts: Facts) -> str | None:
    """Open a netlink socket to the packet filter."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12):
        return "opened"


@attack("network", harmless=True)
def kernel_events(facts: Facts) -> str | None:
    """Open a netlink socket to the kernel's device events."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15):
        return "opened"


@attack("network")
def rare_socket_families(facts: Facts) -> str | None:
    """Open a socket of any other family."""
    for family in range(1, 48):
        if family not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
                with contextlib.suppress(OSError), socket.socket(family, kind):
                    return f"opened one of family {family}"
    return None


@attack("network", harmless=True)
def abstract_socket(facts: Facts) -> str | None:
    """Connect to a server of the host by an abstract name."""
    return connect(socket.SOCK_STREAM, socket.AF_UNIX, "\0" + facts["abstract"])


@attack("network", harmless=True)
def path_socket(facts: Facts) -> str | None:
    """Connect to a server of the host by a path."""
    return connect(socket.SOCK_STREAM, socket.AF_UNIX, facts["unix_path"])


@attack("network")
def service_sockets(facts: Facts) -> str | None:
    """Connect to the sockets of Docker, D-Bus, containerd, systemd or an X server."""
    for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/dbus/system_bus_socket",
                 "/run/containerd/containerd.sock", "/run/systemd/private", "/tmp/.X11-unix/X0", "\0/tmp/.X11-unix/X0"):  # fmt: skip # noqa: E501
        with contextlib.suppress(OSError):
            return connect(socket.SOCK_STREAM, socket.AF_UNIX, path)
    return None


# --- the kernel's interface ----------------------------------------------------------------------------------------


def refused_call(
    family: str, name: str, purpose: str, numbers: tuple[int, int], *arguments: Any, harmless: bool = True
) -> None:
    def made(facts: Facts) -> str | None:
        if numbers[os.uname().machine != "x86_64"] < 0:
            return None  # this architecture has no such call
        return refused(numbers, *arguments)

    made.__doc__ = purpose
    ATTACKS[name] = (family, harmless, made)


_N = -1  # a descriptor, or a number of a call, that there is not
_HERE = os.getpid()
# fmt: off
_CALLS: tuple[tuple[str, str, str, tuple[int, int], tuple[int, ...]], ...] = (
    ("filesystem", "mount", "Mount a file system.", (165, 40), (0, 0, 0, 0, 0)),
    ("filesystem", "unmount", "Unmount what hides something.", (166, 39), (0, 0)),
    ("filesystem", "pivot-root", "Change the root of the mount namespace.", (155, 41), (0, 0)),
    ("filesystem", "change-root", "Change this process's root.", (161, 51), (0,)),
    ("filesystem", "new-mount-interface", "Open a file system for mounting.", (430, 430), (0, 0)),
    ("filesystem", "open-tree", "Copy a tree of mounts.", (428, 428), (_N, 0, 0)),
    ("filesystem", "move-mount", "Move a mount.", (429, 429), (_N, 0, _N, 0, 0)),
    ("filesystem", "mount-attributes", "Make a read-only mount writable.", (442, 442), (_N, 0, 0, 0, 0)),
    ("filesystem", "file-handles", "Name a file by its handle.", (303, 264), (_N, 0, 0, 0, 0)),
    ("filesystem", "open-by-handle", "Open any file by its handle.", (304, 265), (_N, 0, 0)),
    ("processes", "trace", "Trace a process.", (101, 117), (0x4206, _HERE, 0, 0)),
    ("processes", "read-memory", "Read the memory of process 1.", (310, 270), (1, 0, 0, 0, 0, 0)),
    ("processes", "write-memory", "Write the memory of process 1.", (311, 271), (1, 0, 0, 0, 0, 0)),
    ("processes", "take-descriptor", "Take a descriptor from another process.", (438, 438), (_N, 0, 0)),
    ("processes", "compare-processes", "Compare kernel objects of processes.", (312, 272), (1, _HERE, 0, 0, 0)),
    ("processes", "join-namespace", "Join another namespace.", (308, 268), (_N, 0)),
    ("processes", "new-namespaces", "Make namespaces, and so capabilities.", (272, 97), (0x1000,)),
    ("processes", "clone3", "Begin a process with flags that no filter sees.", (435, 435), (0, 0)),
    ("processes", "move-pages", "Move another process's memory.", (279, 239), (1, 0, 0, 0, 0, 0)),
    ("kernel", "key-rings", "Use the kernel's key rings.", (250, 219), (_N, 0, 0, 0, 0)),
    ("kernel", "add-key", "Add a key.", (248, 217), (0, 0, 0, 0, 0)),
    ("kernel", "request-key", "Have the kernel start a program for a key.", (249, 218), (0, 0, 0, 0)),
    ("kernel", "programs-in-the-kernel", "Load an eBPF program.", (321, 280), (5, 0, 0)),
    ("kernel", "performance-events", "Watch the machine's counters.", (298, 241), (0, 0, _N, _N, 0)),
    ("kernel", "asynchronous-rings", "Open an io_uring.", (425, 425), (1, 0)),
    ("kernel", "page-faults", "Handle page faults in user space.", (323, 282), (0x7FFFFFFF,)),
    ("kernel", "load-module", "Load a kernel module.", (175, 105), (0, 0, 0)),
    ("kernel", "load-module-file", "Load a kernel module from a file.", (313, 273), (_N, 0, 0)),
    ("kernel", "unload-module", "Unload a kernel module.", (176, 106), (0, 0)),
    ("kernel", "load-kernel", "Load another kernel.", (246, 104), (0, 1 << 20, 0, 0)),
    ("kernel", "set-clock", "Set the machine's clock.", (227, 112), (0, 0)),
    ("kernel", "set-time-of-day", "Set the machine's clock the old way.", (164, 170), (1, 0)),
    ("kernel", "adjust-clock", "Adjust the machine's clock.", (159, 171), (0,)),
    ("kernel", "set-host-name", "Set the host's name.", (170, 161), (0, 1)),
    ("kernel", "set-domain-name", "Set the host's domain.", (171, 162), (0, 1)),
    ("kernel", "reboot", "Reboot the machine.", (169, 142), (0, 0, 0, 0)),
    ("kernel", "swap-on", "Add swap space.", (167, 224), (0, 0)),
    ("kernel", "accounting", "Write process accounting to a file.", (163, 89), (1,)),
    ("kernel", "disk-quota", "Change disk quotas.", (179, 60), (_N, 0, 0, 0)),
    ("kernel", "kernel-log", "Read the kernel's log by a call.", (103, 116), (3, 0, 0)),
    ("kernel", "io-ports", "Use the machine's I/O ports.", (172, _N), (3,)),
    ("kernel", "descriptor-table", "Change the processor's descriptor table.", (154, _N), (0x7F, 0, 0)),
    ("kernel", "personality", "Switch address randomisation off.", (135, 92), (0x40000,)),
    ("kernel", "watch-all-files", "Watch the files of the whole machine.", (300, 262), (_N, 0)),
    ("kernel", "unlisted-memory", "Have memory that nobody can look into.", (447, 447), (0x7FFFFFFF,)),
    ("kernel", "unknown-calls", "Make a call that is newer than the filter.", (463, 463), (_N, 0, 0, 0)),
    ("kernel", "x32-calls", "Make a call by the numbers of the x32 interface.", (0x40000000 + 39, _N), ()),
)
# fmt: on
for _family, _name, _purpose, _numbers, _arguments in _CALLS:
    refused_call(_family, _name, _purpose, _numbers, *_arguments, harmless=_name not in ("new-namespaces", "io-ports"))


@attack("kernel")
def type_into_terminal(facts: Facts) -> str | None:
    """Type into a terminal as if its user did."""
    ours, theirs = os.openpty()
    try:
        fcntl.ioctl(theirs, 0x5412, b"x")  # TIOCSTI
        return "typed"
    finally:
        os.close(ours)
        os.close(theirs)


@attack("kernel")
def calls_of_another_architecture(facts: Facts) -> str | None:
    """Make a 32-bit call, numbered differently, from 64-bit code."""
    if os.uname().machine != "x86_64":
        return None
    child = os.fork()
    if child == 0:
        with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
            page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20 (getpid); int 0x80; ret
            function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
            os._exit(0 if function() == os.getpid() else 1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "it was answered" if code == 0 else None


# --- resources -----------------------------------------------------------------------------------------------------


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


# --- neighbours ----------------------------------------------------------------------------------------------------


@attack("neighbours")
def files_of_a_neighbour(facts: Facts) -> str | None:
    """Find a file of another session."""
    for folder in ("/workspace", "/tmp", "/dev/shm", "/mnt", "/var/tmp"):
        for place, _, names in os.walk(folder):
            if facts["neighbour"] in names:
                return place
    return None


@attack("neighbours", harmless=True)
def processes_of_a_neighbour(facts: Facts) -> str | None:
    """Find a process of another session."""
    return search_processes("cmdline", lambda data: facts["neighbour"].encode() in data)


@attack("neighbours", harmless=True)
def tcp_to_a_neighbour(facts: Facts) -> str | None:
    """Connect to a server of another session."""
    return connect(socket.SOCK_STREAM, socket.AF_INET, ("127.0.0.1", facts["neighbour_port"]))


@attack("neighbours", harmless=True)
def abstract_socket_of_a_neighbour(facts: Facts) -> str | None:
    """Connect to a server of another session by an abstract name."""
    return connect(socket.SOCK_STREAM, socket.AF_UNIX, "\0" + facts["neighbour"])


@attack("neighbours", harmless=True)
def kernel_sockets_of_a_neighbour(facts: Facts) -> str | None:
    """Find the sockets over which the host speaks with the kernels."""
    found = [name for name in os.listdir("/tmp") if name.startswith("codeact-")]
    return str(found) if found else None


@attack("neighbours", harmless=True)
def system_v_objects_of_a_neighbour(facts: Facts) -> str | None:
    """Open a System V message queue of another session by its key."""
    return f"queue {call((68, 186), facts['neighbour_key'], 0)}"
