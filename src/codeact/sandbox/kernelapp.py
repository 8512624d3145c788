"""The kernel: IPython behind the Jupyter protocol, made to be forked.

ipykernel's kernel object answers the requests, so magics, completion, widgets and rich display are what users of
Jupyter know. What moves the messages is our own, because ipykernel's way (eleven threads, a tornado loop, sockets
between them) takes longer to start than all else in a session and is most of an execution's time:

- ``Kernel.instance()`` can be made before the fork, which costs a session nothing;
- the main thread has an asyncio loop, takes requests from the shell socket and runs the code;
- one more thread (``kernelserver``) answers control and heartbeat and sends output that waits.

On top of the protocol, and a plain client never notices:

- ``codeact`` in the content of every ``execute_reply``: names added, changed, removed;
- ``codeact_state_request`` on the control channel, answered with the live names even while code runs;
- ``codeact_fork_request`` on the shell channel: the kernel copies itself into files that its process 1 hands it, and
  says so with ``codeact_fork_begun`` before the reply, when the copy can be prepared;
- ``input_request`` whose prompt begins with ``CALL_MARK`` for calls of host tools; see ``kerneltools``.

Left out: the debugger, subshells, the history database (``history_request`` knows this session's), GUI loops.

Source: Jupyter messaging protocol 5.4 (jupyter-client.readthedocs.io/en/stable/messaging.html).
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import functools
import io
import logging
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

# A debugger would double the start and the memory of every session, for a client that the model is not.
sys.modules["debugpy"] = None  # type: ignore[assignment]
import ipykernel.debugger  # noqa: F401

del sys.modules["debugpy"]

import zmq
from ipykernel.ipkernel import IPythonKernel
from ipykernel.zmqshell import ZMQInteractiveShell
from IPython.core.profiledir import ProfileDir
from jupyter_client.session import Session
from traitlets.config import Config

from codeact.sandbox import kerneltools, state
from codeact.sandbox.kernelio import Interrupts, Publisher, Sender, Stream, ignore_interrupts, pack
from codeact.sandbox.wire import CALL_MARK, NO_ANSWER

_ASKED_AGAIN = 5.0  # seconds in which a client that has just come connects its stdin


class Forgetful(defaultdict[int, list[Any]]):
    """A register that keeps nothing."""

    def __contains__(self, key: object) -> bool:
        return False

    def __getitem__(self, key: int) -> list[Any]:
        return []


class Shell(ZMQInteractiveShell):  # type: ignore[misc]
    """IPython's shell without its second copy of every output, kept for ``%notebook``, which never shrinks."""

    def _ipython_dir_changed(self, change: object) -> None:
        """Make no directory before there is something to put into it."""

    async def run_ast_nodes(self, *arguments: Any, **options: Any) -> Any:
        self.kernel.interrupts.release()
        return await super().run_ast_nodes(*arguments, **options)

    @contextlib.contextmanager
    def _tee(self, channel: str) -> Iterator[None]:
        yield

    def init_history(self) -> None:
        super().init_history()
        self.history_manager.outputs = Forgetful()


Shell.__name__ = "ZMQInteractiveShell"  # by which libraries tell that they are in a notebook


class Profile(ProfileDir):
    """IPython's directory of settings, which is not made before somebody writes into it."""

    def _location_changed(self, change: object) -> None:
        pass

    def check_dirs(self) -> None:
        pass


class Kernel(IPythonKernel):  # type: ignore[misc]
    """The kernel of a session. Made by ``prepare``; ``attach`` gives it its sockets."""

    shell_class = Shell
    _execute_sleep = 0.0
    _supports_kernel_subshells = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._announcement: tuple[Any, ...] = ()
        self._known: state.Snapshot = {}  # as of the end of the last execution: what changes later is the next one's
        self._asking = threading.Lock()
        self.streams = [
            Stream(name, number, self.session, lambda: self.get_parent("shell"))
            for number, name in enumerate(("stdout", "stderr"), 1)
        ]
        self.interrupts = Interrupts()
        self.control_handlers["codeact_state_request"] = self.codeact_state_request
        self.shell_handlers["codeact_fork_request"] = self.codeact_fork_request
        kerneltools.connect(self.ask_host)
        # where ipykernel asks whether code runs in the main thread
        self.shell_channel_thread = SimpleNamespace(parent_thread=threading.main_thread())

    # where ipykernel expects tornado's streams
    shell_stream: Any = None
    control_stream: Any = None

    def attach(
        self, iopub: Publisher, shell: Sender, stdin: zmq.Socket[bytes], control: Any, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Take the sockets of a session."""
        self.iopub_socket = self.shell.displayhook.pub_socket = self.shell.display_pub.pub_socket = iopub
        self.shell_stream, self.control_stream = shell, control
        self.stdin_socket = stdin
        self.loop = loop
        self.io_loop = _Loop(loop)
        self._main_asyncio_lock = asyncio.Lock()
        self._aborting = False

    # --- requests on the shell channel ---

    async def handle(self, frames: list[Any]) -> None:
        """Answer one message of the shell channel; one after the other."""
        await self.shell_main(None, frames)

    signals = (-1, -1)
    """A pipe where Python writes the number of a signal that has come, for the second thread to read."""

    def pre_handler_hook(self) -> None:
        signal.signal(signal.SIGINT, self.interrupts.handle)
        signal.set_wakeup_fd(self.signals[1], warn_on_full_buffer=False)  # anew: a cell that awaits sets its own

    def post_handler_hook(self) -> None:
        ignore_interrupts()

    def _publish_execute_input(self, *arguments: Any) -> None:
        self._announcement = arguments  # made by do_execute, from where on an interrupt is answered

    async def do_execute(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        reply: dict[str, Any]
        before = self._known
        self.interrupts.hold()
        try:
            if self._announcement:
                super()._publish_execute_input(*self._announcement)
            reply = await super().do_execute(*arguments, **options)
        except KeyboardInterrupt:  # just before or after the code itself, where ipykernel would not answer at all
            reply = {"status": "error", "ename": "KeyboardInterrupt", "evalue": "", "traceback": []}
            reply |= {"execution_count": self.shell.execution_count, "user_expressions": {}, "payload": []}
        self._announcement = ()
        ignore_interrupts()  # too late from here on
        self.interrupts.forget()
        with contextlib.suppress(OSError):
            os.read(self.signals[0], 4096)  # nor is it the next one's
        self._known = state.snapshot(self.shell.user_ns)
        reply["codeact"] = state.changes(before, self._known)
        return reply

    @contextlib.contextmanager
    def _cancel_on_sigint(self, future: asyncio.Future[Any]) -> Iterator[None]:
        """Let an interrupt end a cell that awaits. ipykernel's own way only acts when the loop next wakes."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, future.cancel)  # wakes a loop that waits

        def interrupt(number: int, frame: object) -> None:
            if asyncio.current_task(loop) is future:  # between two awaits, where cancelling would not reach
                self.interrupts.handle(number, frame)

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    def _abort_queues(self, subshell_id: str | None = None) -> None:
        """After an error: refuse the executions that wait already, and no later ones."""
        self._aborting = True
        self.take_waiting()

        async def stop_aborting() -> None:
            async with self._main_asyncio_lock:  # behind those that wait
                self._aborting = False

        self.aborting = self.loop.create_task(stop_aborting())

    async def codeact_fork_request(self, stream: Any, ident: Any, parent: Any) -> None:
        def planned() -> None:
            self.session.send(stream, "codeact_fork_begun", {}, parent, ident=ident)

        try:
            content = {"status": "ok", "lost": self.fork(planned)}
        except OSError as error:
            content = {"status": "error", "evalue": str(error)}
        self.session.send(stream, "codeact_fork_reply", content, parent, ident=ident)

    def fork(self, planned: Callable[[], object]) -> list[str]:
        """Copy this kernel for other sessions; see ``kernelserver``."""
        raise OSError("this kernel cannot be forked")

    def take_waiting(self) -> None:
        """Take in the requests that have come; see ``kernelserver``."""

    def do_history(
        self,
        hist_access_type: str,
        output: bool,
        raw: bool,
        session: int = 0,
        start: int = 0,
        stop: int | None = None,
        n: int | None = None,
        pattern: str | None = None,
        unique: bool = False,
    ) -> dict[str, Any]:
        """The history of this session: there is no database of earlier ones."""
        manager = self.shell.history_manager
        inputs = manager.input_hist_raw if raw else manager.input_hist_parsed
        entries = [(0, line, text) for line, text in enumerate(inputs) if line]
        if hist_access_type == "range":
            first = start if start >= 0 else len(inputs) + start
            entries = [e for e in entries if first <= e[1] and (stop is None or e[1] < stop)] if not session else []
        elif hist_access_type == "search":
            entries = [e for e in entries if fnmatch.fnmatchcase(e[2], pattern or "*")]
            if unique:
                entries = list({text: (s, line, text) for s, line, text in entries}.values())
        if n is not None and hist_access_type != "range":
            entries = entries[-n:] if n > 0 else []
        with_output = [(s, line, (text, manager.output_hist_reprs.get(line))) for s, line, text in entries]
        return {"status": "ok", "history": with_output if output else entries}

    # --- requests on the control channel, answered in a thread of their own ---

    async def codeact_state_request(self, stream: Any, ident: Any, parent: Any) -> None:
        names = [description for _, description in state.snapshot(self.shell.user_ns).values()]
        content = {"status": "ok", "variables": names[:500]}
        self.session.send(stream, "codeact_state_reply", content, parent, ident=ident)

    async def shutdown_request(self, stream: Any, ident: Any, parent: Any) -> None:
        content = {"status": "ok", "restart": bool(parent["content"].get("restart", False))}
        self.session.send(stream, "shutdown_reply", content, parent, ident=ident)
        self.session.send(self.iopub_socket, "shutdown_reply", content, parent, ident=self._topic("shutdown"))
        self.loop.call_soon_threadsafe(self.loop.stop)

    # --- questions to the other side ---

    def raw_input(self, prompt: str = "") -> str:
        if not self._allow_stdin:
            raise EOFError("input() has nobody to ask here; put the value into the code")
        return str(super().raw_input(prompt))

    def getpass(self, *arguments: Any, **options: Any) -> str:
        if not self._allow_stdin:
            raise EOFError("getpass() has nobody to ask here")
        return str(super().getpass(*arguments, **options))

    def _input_request(self, prompt: str, ident: Any, parent: Any, password: bool = False) -> str:
        sys.stdout.flush()
        sys.stderr.flush()
        with self._asking:
            while self.stdin_socket.poll(0):
                self.stdin_socket.recv_multipart()  # an answer that nobody waits for any more
            request = self.session.msg("input_request", {"prompt": prompt, "password": password}, parent=parent)
            self._ask(request, ident)
            while True:
                if not self.stdin_socket.poll(100):
                    continue  # each time, an interrupt gets through
                _, reply = self.session.recv(self.stdin_socket)
                # plain clients name no parent
                if reply and reply["parent_header"].get("msg_id", request["msg_id"]) == request["msg_id"]:
                    value = str(reply["content"]["value"])
                    if value == NO_ANSWER:
                        raise EOFError("there was no answer")
                    return value

    def _ask(self, request: dict[str, Any], ident: Any) -> None:
        deadline = time.monotonic() + _ASKED_AGAIN
        while True:
            try:
                with self.interrupts:
                    self.session.send(self.stdin_socket, request, ident=ident)
                return
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH or time.monotonic() > deadline:
                    raise EOFError("there is nobody to ask") from error
                time.sleep(0.01)

    def ask_host(self, question: str) -> str:
        """Have the host run tools; ``question`` and the answer are JSON."""
        ident = self._get_shell_context_var(self._shell_parent_ident)
        return self._input_request(CALL_MARK + question, ident, self.get_parent("shell"))


class _Loop:
    """What libraries use of ``kernel.io_loop``, which was tornado's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.asyncio_loop = loop

    def add_callback(self, callback: Any, *arguments: Any, **options: Any) -> None:
        def call() -> None:
            outcome = callback(*arguments, **options)
            if asyncio.iscoroutine(outcome):
                self.asyncio_loop.create_task(outcome)

        self.asyncio_loop.call_soon_threadsafe(call)

    def call_later(self, delay: float, callback: Any, *arguments: Any, **options: Any) -> object:
        return self.asyncio_loop.call_later(delay, lambda: self.add_callback(callback, *arguments, **options))

    def stop(self) -> None:
        self.asyncio_loop.call_soon_threadsafe(self.asyncio_loop.stop)


def call_host(tool: str, arguments: dict[str, Any]) -> Any:
    """What the stubs of host tools in the kernel call."""
    return kerneltools.call(tool, arguments)


@functools.cache
def prepare() -> Kernel:
    """The kernel object, made once: before the fork where there is one, and so the same for every session."""
    settings = Config()
    settings.HistoryManager.enabled = False
    settings.IPKernelApp.kernel_class = Kernel  # which says to libraries that they are in a notebook
    log = logging.getLogger("codeact.kernel")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    session = Session(key=b"")
    session.pack = pack
    profile = Profile(location=os.path.expanduser("~/.ipython/profile_default"))
    kernel: Kernel = Kernel.instance(config=settings, session=session, log=log, profile_dir=profile)
    _interruptible_debugger()
    with contextlib.suppress(Exception):  # a magic that remembers things, not worth a session
        kernel.shell.extension_manager.load_extension("storemagic")
    return kernel


def rehearse(kernel: Kernel) -> None:
    """Run a few cells that leave nothing behind, so that what is made at first use is made before the fork."""

    class Nowhere:
        def send_multipart(self, *_: Any, **__: Any) -> None: ...

    async def run() -> None:
        for code in ("1 + 1", "print('x')", "1 / 0"):
            await kernel.do_execute(code, False, store_history=False)

    shell, standard = kernel.shell, (sys.stdout, sys.stderr)
    shell.displayhook.pub_socket = Nowhere()
    sys.stdout = sys.stderr = io.StringIO()
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
        sys.stdout, sys.stderr = standard
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            vars(sys).pop(name, None)
        shell.user_ns["_oh"].clear()
        for name in ("_", "__", "___"):
            shell.user_ns[name] = ""
            setattr(shell.displayhook, name, "")
        shell.user_ns.pop("_0", None)
        shell.last_execution_result, shell.last_execution_succeeded = None, True
        ignore_interrupts()


def _interruptible_debugger() -> None:
    import pdb

    from IPython.core import debugger

    for module in (debugger, pdb):
        vars(module)["Pdb"] = debugger.InterruptiblePdb
    vars(pdb)["set_trace"] = debugger.set_trace
