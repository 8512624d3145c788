"""The kernel: ipykernel, told to report what each execution changed and to let code call the host's tools.

Runs inside the sandbox. On top of the Jupyter protocol it adds, and a plain client never notices:

- ``codeact`` in the content of every ``execute_reply``: names added, changed, removed;
- ``codeact_state_request`` on the control channel, answered with the live names even while code runs;
- ``input_request`` whose prompt begins with ``CALL_MARK`` for a call of a host tool: the rest is JSON
  ``{"tool", "arguments"}``, the reply's value is JSON ``{"result"}`` or ``{"error", "kind"}``.

``python -m codeact.sandbox.kernelapp -f FILE`` runs it as an ordinary Jupyter kernel, without any boundary.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

# A debugger would double the start and the memory of every session, for a client that the model is not.
sys.modules["debugpy"] = None  # type: ignore[assignment]
import ipykernel.debugger  # noqa: F401

del sys.modules["debugpy"]

import zmq
from ipykernel.heartbeat import Heartbeat
from ipykernel.iostream import OutStream
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from ipykernel.zmqshell import ZMQInteractiveShell
from traitlets.config import Config

from codeact.sandbox import state
from codeact.sandbox.wire import CALL_MARK, CHANNELS

_UNSENT = 1 << 20  # characters written before a write waits until they are sent

LARGEST_OUTPUT = 24 << 20
"""Bytes of one displayed output; the host's side takes a little more in one message and hangs up beyond."""


class ToolFailed(Exception):
    """A host tool refused or failed."""


class Forgetful(defaultdict[int, list[Any]]):
    """A register that keeps nothing."""

    def __contains__(self, key: object) -> bool:
        return False

    def __getitem__(self, key: int) -> list[Any]:
        return []


class Shell(ZMQInteractiveShell):  # type: ignore[misc]
    """IPython's shell without its second copy of every output, kept for ``%notebook``, which never shrinks."""

    @contextlib.contextmanager
    def _tee(self, channel: str) -> Iterator[None]:
        yield

    def init_history(self) -> None:
        super().init_history()
        self.history_manager.outputs = Forgetful()


class Kernel(IPythonKernel):  # type: ignore[misc]
    """The kernel of a session."""

    shell_class = Shell

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._announcement: tuple[Any, ...] = ()
        self.control_handlers["codeact_state_request"] = self.codeact_state_request
        self.shell.user_ns_hidden["call_host"] = None

    def _publish_execute_input(self, *arguments: Any) -> None:
        self._announcement = arguments  # made by do_execute, from where on an interrupt is answered

    async def do_execute(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        before = None
        reply: dict[str, Any]
        try:
            if self._announcement:
                super()._publish_execute_input(*self._announcement)
            before = state.snapshot(self.shell.user_ns)
            reply = await super().do_execute(*arguments, **options)
        except KeyboardInterrupt:  # just before or after the code itself, where ipykernel would not answer at all
            reply = {"status": "error", "ename": "KeyboardInterrupt", "evalue": "", "traceback": []}
            reply |= {"execution_count": self.shell.execution_count, "user_expressions": {}, "payload": []}
        self._announcement = ()
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # too late from here on; ipykernel sets it anew
        if before is not None:
            reply["codeact"] = state.changes(before, state.snapshot(self.shell.user_ns))
        return reply

    @contextlib.contextmanager
    def _cancel_on_sigint(self, future: asyncio.Future[Any]) -> Iterator[None]:
        """Let an interrupt end a cell that awaits. ipykernel's own way only acts when the loop next wakes."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, future.cancel)  # wakes a loop that waits

        def interrupt(number: int, frame: object) -> None:
            if asyncio.current_task(loop) is future:  # between two awaits, where cancelling would not reach
                raise KeyboardInterrupt

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    async def codeact_state_request(self, stream: Any, ident: Any, parent: Any) -> None:
        names = [description for _, description in state.snapshot(self.shell.user_ns).values()]
        content = {"status": "ok", "variables": names[:500]}
        self.session.send(stream, "codeact_state_reply", content, parent, ident=ident)

    def raw_input(self, prompt: str = "") -> str:
        raise EOFError("input() has nobody to ask here; put the value into the code")

    def getpass(self, *_: Any, **__: Any) -> str:
        raise EOFError("getpass() has nobody to ask here")

    def call_host(self, tool: str, arguments: dict[str, Any]) -> Any:
        """Have the host run a tool. Raises ToolFailed with the tool's message."""
        request = CALL_MARK + json.dumps({"tool": tool, "arguments": arguments})
        ident = self._get_shell_context_var(self._shell_parent_ident)
        answer = json.loads(self._input_request(request, ident, self.get_parent("shell")))
        if "error" in answer:
            raise ToolFailed(answer["error"])
        return answer["result"]


def call_host(tool: str, arguments: dict[str, Any]) -> Any:
    """What the stubs of host tools in the kernel call."""
    return Kernel.instance().call_host(tool, arguments)


class Stream(OutStream):  # type: ignore[misc]
    """A stdout or stderr that waits for its reader: a flood is slowed down, not heaped up in the kernel's memory."""

    _unsent = 0

    def write(self, string: str) -> int | None:
        for start in range(0, len(string), _UNSENT) or (0,):
            piece = string[start : start + _UNSENT]
            super().write(piece)
            self._unsent += len(piece)
            if self._unsent >= _UNSENT and self._is_master_process():
                self._unsent = 0
                self.flush()
        return len(string)


class App(IPKernelApp):  # type: ignore[misc]
    """ipykernel's application over five sockets that listen already, instead of over ports that it binds."""

    listening: dict[int, int] = {}  # noqa: RUF012  # port -> file descriptor

    def _try_bind_socket(self, s: zmq.Socket[bytes], port: int) -> int:
        if s.type == zmq.XPUB:  # a slow reader slows the code down, it neither loses output nor heaps it up here
            s.setsockopt(zmq.XPUB_NODROP, 1)
            s.setsockopt(zmq.SNDHWM, 16)
        _bind(s, self.listening[port], port)
        return port

    def init_iopub(self, context: zmq.Context[Any]) -> None:
        super().init_iopub(context)
        send = self.iopub_thread.send_multipart

        def send_bounded(frames: list[bytes], *arguments: Any, **options: Any) -> None:
            size = sum(memoryview(frame).nbytes for frame in frames)
            if size > LARGEST_OUTPUT:
                _, rest = self.session.feed_identities(frames)
                text = f"[An output of {size >> 20} MiB is too large to be shown and was left out.]\n"
                message = self.session.msg("stream", {"name": "stderr", "text": text}, parent=json.loads(rest[2]))
                frames = self.session.serialize(message, ident=b"stream.stderr")
            send(frames, *arguments, **options)

        self.iopub_thread.send_multipart = send_bounded

    def init_heartbeat(self) -> None:
        self.heartbeat = _Heartbeat(zmq.Context(), ("ipc", self.ip, self.hb_port))
        self.heartbeat.descriptor = self.listening[self.hb_port]
        self.heartbeat.start()

    def init_control(self, context: zmq.Context[Any]) -> None:
        from ipykernel.control import ControlThread
        from ipykernel.shellchannel import ShellChannelThread

        self.control_socket = context.socket(zmq.ROUTER)
        self.control_socket.linger = 1000
        self.control_port: int = self._bind_socket(self.control_socket, self.control_port)
        self.control_socket.router_handover = 1
        self.debugpy_socket = context.socket(zmq.STREAM)
        self.debug_shell_socket = context.socket(zmq.DEALER)
        self.control_thread = ControlThread(daemon=True)
        self.shell_channel_thread = ShellChannelThread(context, daemon=True)

    def parse_command_line(self, argv: list[str] | None = None) -> None:
        """There is none, and making the parser for it would take as long as making the shell."""

    def load_config_file(self, suppress_errors: bool = True) -> None:
        """A new session has no files of configuration, and reads none."""

    def init_connection_file(self) -> None:
        pass

    def write_connection_file(self, **_: Any) -> None:
        pass

    def cleanup_connection_file(self) -> None:
        pass


class _Heartbeat(Heartbeat):  # type: ignore[misc]
    descriptor: int

    def _try_bind_socket(self) -> None:
        _bind(self.socket, self.descriptor, self.port)


def _bind(socket: zmq.Socket[bytes], descriptor: int, port: int) -> None:
    socket.setsockopt(zmq.USE_FD, os.dup(descriptor))
    socket.bind(f"ipc:///kernel-{port}")  # a name only: the descriptor listens elsewhere, out of sight


def _configuration() -> Config:
    settings = Config()
    settings.HistoryManager.enabled = False
    settings.IPKernelApp.log_level = 50
    settings.IPKernelApp.kernel_class = Kernel
    settings.IPKernelApp.outstream_class = "codeact.sandbox.kernelapp.Stream"
    return settings


def serve_on(descriptors: list[int], key: bytes) -> None:
    """Run the kernel over five listening Unix sockets (in the order of CHANNELS) until it is told to shut down."""
    sys.path.insert(0, "")  # modules that the code writes into its working directory
    App.listening = dict(enumerate(descriptors, 1))
    app = App.instance(config=_configuration(), transport="ipc", ip="/kernel")
    for port, channel in enumerate(CHANNELS, 1):
        setattr(app, f"{channel}_port", port)
    app.session.key = key
    app.initialize([])
    app.start()


def main() -> None:
    IPKernelApp.launch_instance(config=_configuration())


if __name__ == "__main__":
    from codeact.sandbox import kernelapp  # under its own name, so that there is one class Kernel

    kernelapp.main()
