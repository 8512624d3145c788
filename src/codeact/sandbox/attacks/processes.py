"""Attacks on processes."""

from __future__ import annotations

import contextlib
import os
import signal

from codeact.sandbox.attacks.ground import Facts, attack, call, libc, pids, search_processes, text_of


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
