"""Attacks on secrets of the host."""

from __future__ import annotations

import contextlib
import os
import socket

from codeact.sandbox.attacks.ground import Facts, attack, holds_secret, search_memory, search_processes, text_of

# of the secret only the hash is known here, so that looking for it does not find the question, nor a copy of it


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
    return search_memory(facts["secret_sha256"])


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
