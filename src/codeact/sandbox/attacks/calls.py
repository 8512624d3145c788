"""Attacks on the machine's kernel, by its calls."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from typing import Any

from codeact.sandbox.attacks.ground import ATTACKS, Entry, Facts, attack, refused


def refused_call(
    family: str, name: str, purpose: str, numbers: tuple[int, int], *arguments: Any, harmless: bool = True
) -> None:
    def made(facts: Facts) -> str | None:
        if numbers[os.uname().machine != "x86_64"] < 0:
            return None  # this architecture has no such call
        return refused(numbers, *arguments)

    made.__doc__ = purpose
    ATTACKS[name] = Entry(family, harmless, 60.0, made)


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
