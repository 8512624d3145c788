"""Attacks on files that travel between the workspace and the host. What is laid out here is then asked for, or written
to, by the host's part of the attack.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
import time

from codeact.sandbox.attacks.ground import Facts, attack


@attack("filesystem")
def download_through_links(facts: Facts) -> str | None:
    """Have the host take out a file that is a link to one of its own."""
    os.makedirs("/workspace/taken")
    for name, target in {
        "file": facts["file"],
        "passwd": "/etc/passwd",
        "environment": "/proc/self/environ",
        "process-1": "/proc/1/environ",
        "through-proc": f"/proc/self/root{facts['file']}",
        "descriptor": "/proc/self/fd/0",
        "root": "/",
        "up": "../..",
        "loop": "loop",
    }.items():
        os.symlink(target, f"/workspace/taken/{name}")
    return None


@attack("filesystem")
def download_of_what_is_no_file(facts: Facts) -> str | None:
    """Have the host take out a pipe, a socket, a terminal, a device, and wait for what they say."""
    os.makedirs("/workspace/odd/folder")
    os.mkfifo("/workspace/odd/pipe")
    socket.socket(socket.AF_UNIX).bind("/workspace/odd/socket")
    for name, number in (("disk", os.makedev(8, 0)), ("zero", os.makedev(1, 5)), ("terminal", os.makedev(5, 0))):
        with contextlib.suppress(OSError):
            os.mknod(f"/workspace/odd/{name}", stat.S_IFCHR | 0o666, number)
    for name, target in (("zeros", "/dev/zero"), ("words", "/dev/stdout"), ("entropy", "/dev/random")):
        os.symlink(target, f"/workspace/odd/{name}")
    return None


@attack("filesystem")
def download_of_a_file_that_changes(facts: Facts) -> str | None:
    """Make a file a link to another one in the moment in which the host opens it."""
    os.makedirs("/workspace/swap/folder")
    for name, content in (("file", "own"), ("other", "own")):
        with open(f"/workspace/swap/{name}", "w") as file:
            file.write(content)
    if os.fork() == 0:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                os.symlink("/etc/passwd", "/workspace/swap/link")
                os.rename("/workspace/swap/link", "/workspace/swap/file")
                os.link("/workspace/swap/other", "/workspace/swap/link")
                os.rename("/workspace/swap/link", "/workspace/swap/file")
                os.rename("/workspace/swap/folder", "/workspace/swap/away")
                os.symlink("/tmp", "/workspace/swap/folder")
                os.unlink("/workspace/swap/folder")
                os.rename("/workspace/swap/away", "/workspace/swap/folder")
        os._exit(0)
    return None


@attack("filesystem")
def download_without_end(facts: Facts) -> str | None:
    """Have the host take out a terabyte of nothing, and a file that grows while it is read."""
    os.makedirs("/workspace/long")
    with open("/workspace/long/nothing", "wb") as file:
        file.truncate(1 << 40)

    def grow() -> None:
        with contextlib.suppress(OSError), open("/workspace/long/growing", "wb", 0) as file:
            end = time.monotonic() + 2
            while time.monotonic() < end:
                file.truncate(file.tell() + (1 << 30))
                file.seek(1 << 30, os.SEEK_CUR)

    threading.Thread(target=grow, daemon=True).start()
    return None


@attack("filesystem")
def names_of_downloads(facts: Facts) -> str | None:
    """Name files so that whoever lists, prints or saves them is misled."""
    os.makedirs("/workspace/names/a b")
    for name in (b"new\nline", b"\x1b[2Jescape", b"\xff\xfe", b"\xed\xa0\x80", b"-rf", b"...", b"..\\..\\x", b"~",
                 b"$(id)", b"C:x", b"con", b"a" * 255, "\u202egnp".encode(), b"\\",
                 b"%2e%2e%2f", b"\x7f", b"a b/c", b"\r"):  # fmt: skip
        with open(b"/workspace/names/" + name, "w") as file:
            file.write("own")
    for number in range(1500):
        with open(f"/workspace/names/{number}", "w"):
            pass
    return None


@attack("filesystem")
def directories_without_bottom(facts: Facts) -> str | None:
    """Nest directories deeper than any path or stack reaches."""
    os.makedirs("/workspace/deep")
    before = os.getcwd()
    try:
        os.chdir("/workspace/deep")
        for _ in range(3000):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(before)
    return None


@attack("filesystem")
def names_of_uploads(facts: Facts) -> str | None:
    """Have the host write outside of the workspace by the name of what it puts in."""
    return None


@attack("filesystem")
def upload_through_links(facts: Facts) -> str | None:
    """Have the host write to a file of its own, or outside of the workspace, through links and pipes."""
    os.makedirs("/workspace/given")
    for name, target in {
        "file": facts["file"],
        "new": facts["file"] + ".written",
        "temporary": "/tmp/canary-upload",
        "shell": "/bin/sh",
        "folder": "/tmp",
        "root": "/proc/self/root",
        "device": "/dev/full",
    }.items():
        os.symlink(target, f"/workspace/given/{name}")
    os.mkfifo("/workspace/given/pipe")
    return None
