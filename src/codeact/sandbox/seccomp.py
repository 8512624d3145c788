"""The system call filter of a local session, as a classic BPF program.

Everything that administers the machine, looks into other processes or widens the kernel's attack surface answers
EPERM (or ENOSYS, where libraries then fall back). What this table does not know, because it is newer than the
table, answers ENOSYS: unknown means no. Sockets exist for AF_UNIX, AF_INET and AF_INET6 only, which end inside the
session's own network namespace (AF_VSOCK, for one, would not), and for reading its interfaces over NETLINK_ROUTE,
without which ZeroMQ and getifaddrs fail.

Not protected: bugs in the system calls that stay allowed.

Sources: seccomp(2), linux/filter.h, linux/audit.h; the numbers are those of asm/unistd_64.h and
asm-generic/unistd.h.
"""

from __future__ import annotations

import errno
import platform
import struct
from dataclasses import dataclass

from codeact.errors import IsolationUnavailable

# name: (x86_64, aarch64); None where the architecture has no such call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # mounts, roots, namespaces
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "unshare": (272, 97),
    "setns": (308, 268),
    # other processes' memory and descriptors
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    # memory that no process has mapped, which nothing but a control group counts
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    # kernel key rings, programs in the kernel, tracing, asynchronous rings
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "memfd_secret": (447, 447),
    "lsm_get_self_attr": (459, 459),
    "lsm_set_self_attr": (460, 460),
    "lsm_list_modules": (461, 461),
    # the machine: modules, boot, swap, clock, accounting, quota, logs, I/O ports, hosts' names
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "nfsservctl": (180, 42),
    "lookup_dcookie": (212, 18),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "vhangup": (153, 58),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    # ways around path checks, and file notifications of the whole machine
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    # long dead
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "_sysctl": (156, None),
    "create_module": (174, None),
    "get_kernel_syms": (177, None),
    "query_module": (178, None),
    "vserver": (236, None),
}
_CLONE, _CLONE3, _SOCKET, _SOCKETPAIR = (56, 220), (435, 435), (41, 198), (53, 199)
_IOCTL, _PERSONALITY, _FCNTL = (16, 29), (135, 92), (72, 25)
_NEWEST_KNOWN = 462  # mseal
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the table, AUDIT_ARCH_*

_NEW_NAMESPACES = 0x7E020000 | 0x80  # CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET | NEWTIME
_SOCKET_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_AF_NETLINK, _NETLINK_ROUTE = 16, 0
_F_SETLEASE = 1024  # whoever would write the file then waits: a user of the host, where it is theirs
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # typing into somebody's terminal

_LOAD, _JEQ, _JGT, _JGE, _JSET, _AND, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH, _ARG0, _ARG1, _ARG2 = 0, 4, 16, 24, 32  # offsets in struct seccomp_data (low halves: little endian)


@dataclass(frozen=True)
class _Step:
    code: int
    k: int
    then: int = 0
    otherwise: int = 0

    def pack(self) -> bytes:
        return struct.pack("=HBBI", self.code, self.then, self.otherwise, self.k)


def _deny(error: int = errno.EPERM) -> _Step:
    return _Step(_RETURN, _ERRNO | error)


def filter_program(machine: str | None = None) -> bytes:
    """The packed ``struct sock_filter`` array for this machine (or for ``machine``: ``x86_64`` or ``aarch64``).

    Raises IsolationUnavailable for an architecture whose system calls are not in the table.
    """
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        raise IsolationUnavailable(
            f"the local sandbox has no system call table for {machine}; it runs on x86_64 and aarch64"
        )
    column, audit = _ARCHITECTURES[machine]
    allow = _Step(_RETURN, _ALLOW)

    def only(number: int, body: list[_Step]) -> list[_Step]:
        """``body`` for one system call; every path of it returns. The accumulator holds the number before it."""
        return [_Step(_JEQ, number, 0, len(body)), *body]

    steps = [
        _Step(_LOAD, _ARCH),
        _Step(_JEQ, audit, 1, 0),
        _Step(_RETURN, _KILL),  # 32-bit entry points number their calls differently
        _Step(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        steps += [_Step(_JGE, 0x40000000, 0, 1), _Step(_RETURN, _ERRNO | errno.ENOSYS)]  # x32 calls
    steps += [_Step(_JGT, _NEWEST_KNOWN, 0, 1), _Step(_RETURN, _ERRNO | errno.ENOSYS)]
    denied = sorted(n for n in (numbers[column] for numbers in _DENIED.values()) if n is not None)
    for number in denied:
        steps += [_Step(_JEQ, number, 0, 1), _deny()]
    # clone3 hides its flags behind a pointer: without it, libraries fall back to clone
    steps += only(_CLONE3[column], [_deny(errno.ENOSYS)])
    steps += only(_CLONE[column], [_Step(_LOAD, _ARG0), _Step(_JSET, _NEW_NAMESPACES & ~0x80, 0, 1), _deny(), allow])
    for call in (_SOCKET, _SOCKETPAIR):
        families = [_Step(_LOAD, _ARG0)]
        for family in _SOCKET_FAMILIES:
            families += [_Step(_JEQ, family, 0, 1), allow]
        families += [_Step(_JEQ, _AF_NETLINK, 0, 3), _Step(_LOAD, _ARG2), _Step(_JEQ, _NETLINK_ROUTE, 0, 1), allow]
        steps += only(call[column], [*families, _deny(errno.EAFNOSUPPORT)])
    steps += only(
        _IOCTL[column],
        [
            _Step(_LOAD, _ARG1),
            _Step(_JEQ, _TIOCSTI, 1, 0),
            _Step(_JEQ, _TIOCLINUX, 0, 1),
            _deny(),
            allow,
        ],
    )
    steps += only(_FCNTL[column], [_Step(_LOAD, _ARG1), _Step(_JEQ, _F_SETLEASE, 0, 1), _deny(), allow])
    steps += only(
        _PERSONALITY[column],
        [_Step(_LOAD, _ARG0), _Step(_JEQ, 0, 1, 0), _Step(_JEQ, 0xFFFFFFFF, 0, 1), allow, _deny()],
    )
    steps.append(allow)
    return b"".join(step.pack() for step in steps)
