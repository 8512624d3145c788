"""Process 1 of a session: forks the kernel, reaps, hands out files, says how the kernel ended.

It is single threaded, runs no code of the model and cannot be read or stopped from inside: it is not dumpable, and
signals from within a pid namespace do not reach its process 1. When the host's end of the pair closes, for whatever
reason, it exits, and Linux kills everything else in the session with it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from codeact.sandbox import command, environment, image, isolation, linux, wire

_LISTED = 2000
_DEEPEST = 50  # directories below the workspace that are looked into
_WATCH_EVERY = 0.25  # seconds, where no cgroup holds the memory limit
_LAST_WORDS = "/tmp/home/.kernel"  # what the kernel writes outside of any execution: a crash, a failed start
_PAGE = os.sysconf("SC_PAGE_SIZE")


def run(control: socket.socket, sockets: list[int], jail: isolation.Jail, is_root: bool, watch: bool) -> NoReturn:
    """Lock this process in and serve the host until it hangs up.

    ``sockets`` listen already, on paths that only the host sees: shell, iopub, stdin, control, heartbeat.
    ``watch``: no cgroup limits memory, so measure it here.
    """
    isolation.lock(jail, isolation.enter(jail, is_root))
    environment.make()
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    _close_others({control.fileno(), *sockets, *({image.base} - {-1})})
    _Init(control, sockets, jail, watch).serve()
    os._exit(0)


def _close_others(keep: set[int]) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    start = 3
    for descriptor in sorted(keep):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, 1 << 16)


class _Init:
    def __init__(self, control: socket.socket, sockets: list[int], jail: isolation.Jail, watch: bool) -> None:
        self.control = control
        self.sockets = sockets
        self.jail = jail
        self.watch = watch
        self.kernel: int | None = None
        self.over_memory = False
        self.line: socket.socket | None = None  # to the kernel, which is given files over it and never listened to

    def serve(self) -> None:
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        wire.send(self.control, {"event": "ready"})
        while True:
            pause = _WATCH_EVERY if self.watch and self.kernel else None
            readable, _, _ = select.select([self.control.fileno(), read], [], [], pause)
            if read in readable:
                os.read(read, 4096)
            self.reap()
            if self.watch and self.kernel:
                self.check_memory()
            if self.control.fileno() in readable:
                request = wire.receive(self.control)
                if request is None:
                    return
                self.answer(*request)

    def reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.kernel:
                    self.kernel = None
                    self.kill_everything()
                    code = os.waitstatus_to_exitcode(status)
                    event = {"event": "exit", "code": code, "over_memory": self.over_memory, "said": _last_words()}
                    wire.send(self.control, event)
                    self.over_memory = False

    def kill_everything(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)

    def check_memory(self) -> None:
        if sum(_resident(exact=False)) > self.jail.limits.memory < sum(_resident(exact=True)):
            self.over_memory = True
            self.kill_everything()

    def answer(self, request: dict[str, Any], given: list[int]) -> None:
        reply: dict[str, Any] = {"reply": request["id"]}
        opened: list[int] = []
        try:
            match request["op"]:
                case "start":
                    self.start(request, given)
                case "lend":
                    self.lend(given)
                case "interrupt":
                    if self.kernel:
                        os.killpg(self.kernel, signal.SIGINT)
                case "kill":
                    self.kill_everything()
                case "connect":
                    opened.append(command.connect(request["port"]))
                case "open":
                    opened.append(_open(request["path"], writing=request["writing"]))
                case "listen":
                    opened.append(_listen(request["port"]))
                case "list":
                    reply["files"], reply["more"] = _list()
                case unknown:
                    reply["error"] = f"no such operation: {unknown}"
        except (OSError, ValueError, RecursionError) as error:
            reply["error"] = getattr(error, "strerror", None) or str(error)
        wire.send(self.control, reply, opened)
        for descriptor in (*opened, *given):
            os.close(descriptor)

    def lend(self, files: list[int]) -> None:
        if self.line is None:
            raise ValueError("no kernel runs")
        wire.send(self.line, {}, files)

    def start(self, request: dict[str, Any], given: list[int]) -> None:
        if self.kernel:
            raise ValueError("a kernel runs already")
        self.over_memory = False
        if self.line is not None:
            self.line.close()
        self.line, theirs = wire.pair()
        self.line.setblocking(False)
        child = os.fork()
        if child == 0:
            self.line.close()
            self.become_kernel(request, theirs.detach(), given)
        theirs.close()
        self.kernel = child
        with contextlib.suppress(OSError):  # memory first goes from the kernel, not from here
            Path(f"/proc/{child}/oom_score_adj").write_text("500")

    def become_kernel(self, request: dict[str, Any], line: int, given: list[int]) -> NoReturn:
        code = 70
        try:
            self.control.close()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.setsid()
            words = os.open(_LAST_WORDS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            for standard in (1, 2):
                os.dup2(words, standard)
            os.close(words)
            linux.prctl(linux.PR_SET_DUMPABLE, 1)
            if "argv" in request:
                _set(request["environment"])
                command.execute(request)
            gc.enable()
            from codeact.sandbox import kernelapp, kernelfork, kernelserver

            if given:
                *memory, files = given
                kernelfork.become(memory, files, self.sockets, line, request["key"])
            if image.base >= 0:
                os.close(image.base)
            _set(request["environment"])
            environment.enter()
            kernelserver.serve_on(kernelapp.prepare(), self.sockets, request["key"].encode(), line)
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}".encode(errors="replace"))
        finally:
            os._exit(code)


def _set(environment: dict[str, str | None]) -> None:
    for name, value in environment.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _last_words() -> str:
    with contextlib.suppress(OSError), open(_LAST_WORDS, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 1000))
        return file.read(1000).decode(errors="replace").strip()
    return ""


def _resident(exact: bool) -> Iterator[int]:
    """Memory of every process here, in bytes. ``exact``: without files, and a shared page divided among its users."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and entry != "1":
            with contextlib.suppress(OSError, ValueError, IndexError):
                yield _share(entry) if exact else int(Path("/proc", entry, "statm").read_text().split()[1]) * _PAGE


def _share(process: str) -> int:
    try:
        lines = Path("/proc", process, "smaps_rollup").read_text().splitlines()
    except PermissionError:  # it made itself unreadable: then all that it has mapped counts
        return int(Path("/proc", process, "statm").read_text().split()[1]) * _PAGE
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))) << 10


def _open_beneath(path: str, flags: int) -> int:
    """Open below /workspace; links may lead about in it but not out of it, nor through /proc."""
    root = os.open("/workspace", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return linux.open_beneath(root, path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, 0o644)
    finally:
        os.close(root)


def _open(path: str, writing: bool) -> int:
    """Open a plain file of the workspace. Every path means what it means in here, so none leads out."""
    if not path or path.startswith("/") or "\0" in path or ".." in Path(path).parts:
        raise ValueError("a path is relative to the workspace and stays in it")
    if writing:
        Path("/workspace", path).parent.mkdir(parents=True, exist_ok=True)
    descriptor = _open_beneath(path, os.O_WRONLY | os.O_CREAT if writing else os.O_RDONLY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("not a plain file")
    if writing:
        os.ftruncate(descriptor, 0)
    return descriptor


def _listen(port: int) -> int:
    """A socket that listens on this session's loopback, for the host to accept on."""
    with socket.create_server(("127.0.0.1", port), backlog=128) as listener:
        return listener.detach()


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and not any("\ud800" <= character <= "\udfff" for character in name)


def _list() -> tuple[list[tuple[str, int]], bool]:
    """Plain files of the workspace: path and size; and whether there are more.

    Left out are hidden ones, what lies deeper than anybody puts it, and names that are no text.
    """
    found: list[tuple[str, int]] = []
    room = 100_000  # characters: the answer is one packet
    for folder, folders, names in os.walk("/workspace"):
        deeper = folder.count("/") <= _DEEPEST
        folders[:] = sorted(f for f in folders if deeper and _is_shown(f))
        for name in sorted(names):
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                information = os.lstat(path)
                if not _is_shown(name) or not stat.S_ISREG(information.st_mode):
                    continue
                relative = os.path.relpath(path, "/workspace")
                room -= len(json.dumps(relative)) + 20
                if len(found) == _LISTED or room < 0:
                    return found, True
                found.append((relative, information.st_size))
    return found, False
