"""The zygote: one process with IPython and the data stack already imported. Each session is a fork of it.

    host process ──pair── zygote ──clone── process 1 of the session: locked in, owns the kernel
         └────────────────pair──────────────────┘      └─fork── the kernel (codeact.sandbox.kernelserver)

The zygote runs no code of a model, opens no connection, starts with a scrubbed environment and lives in the root file
system that it makes for its sessions, so that a fork of it holds no secret. It ends when the host's end of its pair
closes; each session ends with its own pair.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
from typing import Any

from codeact.sandbox import cgroups, environment, image, init, isolation, linux, wire

_IDLE = 0.3  # seconds without a request, after which there is time to make later forks cheaper


def preload(modules: list[str]) -> list[str]:
    """Import what sessions will want; returns what could be imported."""
    loaded = []
    for name in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
            loaded.append(name)
    return loaded


def main() -> None:
    """``python -m codeact.sandbox.zygote FD``: serve spawn requests until the other end closes."""
    host = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the host process
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    first = wire.receive(host)
    if first is None:
        return
    is_root = os.geteuid() == 0 and linux.has_capability(linux.CAP_SYS_ADMIN)
    preload(first[0]["preload"])
    environment.plan()
    kernelapp = sys.modules.get("codeact.sandbox.kernelapp")

    def rehearsal() -> None:
        if kernelapp is not None:
            kernelapp.rehearse(kernelapp.prepare())

    rehearsal()
    try:
        isolation.build_root(isolation.Root.model_validate(first[0]["root"]), is_root)
    except OSError as error:
        wire.send(host, {"error": f"{error}"})
        return
    gc.collect()
    gc.freeze()  # keeps the collector of every fork from touching, and so copying, these pages
    wire.send(host, {"ready": True})
    wake = _wake_on_child()
    idle: float | None = _IDLE
    while True:
        readable, _, _ = select.select([host.fileno(), wake], [], [], idle)
        if not readable:
            idle = None
            image.rebase(rehearsal)
        if wake in readable:
            os.read(wake, 4096)
            _reap()
        if host.fileno() in readable:
            request = wire.receive(host)
            if request is None:
                return
            _spawn(host, *request, is_root)


def _wake_on_child() -> int:
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return read


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _spawn(host: socket.socket, request: dict[str, Any], descriptors: list[int], is_root: bool) -> None:
    """Fork one session. Whatever fails is told to the host over the session's own pair."""
    control = socket.socket(fileno=descriptors[0])
    child = 0
    try:
        child = linux.fork_into(isolation.namespaces(is_root))
        if child:
            handle = os.pidfd_open(child)
            wire.send(control, {"event": "spawned"}, [handle])
            os.close(handle)
        else:
            host.close()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            sockets, doors = descriptors[1 : 1 + request["sockets"]], descriptors[1 + request["sockets"] :]
            limited = cgroups.join(doors)
            init.run(control, sockets, isolation.Jail.model_validate(request["jail"]), is_root, watch=not limited)
    except BaseException as error:
        with contextlib.suppress(OSError):
            wire.send(control, {"event": "failed", "error": f"{error}"})
    if not child and os.getpid() == 1:
        os._exit(0)
    control.close()
    for descriptor in descriptors[1:]:
        os.close(descriptor)


if __name__ == "__main__":
    main()
