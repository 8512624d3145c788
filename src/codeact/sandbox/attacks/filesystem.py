"""Attacks on the file system."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
import tempfile

from codeact.sandbox.attacks.ground import Facts, attack, libc, text_of, write_at


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
    own = ("/workspace", "/tmp", "/dev/shm", "/proc", "/dev/pts")
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            point, options = line.split()[4:6]
            if "rw" in options.split(",") and point not in own:
                return point
    return None


@attack("filesystem")
def setuid_programs(facts: Facts) -> str | None:
    """Gain by a set-user-ID program: needs a mount that honours it and the right to gain privileges."""
    gains = not libc.prctl(39, 0, 0, 0, 0)  # PR_GET_NO_NEW_PRIVS
    honours = not os.statvfs("/usr/bin").f_flag & os.ST_NOSUID
    return f"no_new_privs off: {gains}, set-user-ID honoured: {honours}" if gains or honours else None
