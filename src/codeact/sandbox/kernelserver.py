"""Moves messages between a kernel and its five sockets: two threads, an asyncio loop, and nothing in between.

Runs inside the sandbox. Everything here that is made anew for each session is counted in its start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import random
import resource
import select
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import zmq

from codeact.sandbox import image, kernelfork, wire
from codeact.sandbox.kernelapp import Kernel, prepare
from codeact.sandbox.kernelio import Interrupts, Publisher, Sender, Stream, has_come, ignore_interrupts
from codeact.sandbox.wire import CHANNELS

_KINDS: Final = {"shell": zmq.ROUTER, "iopub": zmq.XPUB, "stdin": zmq.ROUTER, "control": zmq.ROUTER, "hb": zmq.ROUTER}
_GATHER = 0.05  # seconds that printed text waits for more before the second thread sends it
_TAKEN_WITHIN = 0.02  # seconds in which an interrupt is usually taken
_PARENT_CHECK = 1.0  # seconds between two looks at whether the process that started this kernel lives

_HANDED_OVER_WITHIN = 5.0  # seconds
_READ = 1 << 16

_abandoned: list[object] = []

Bind = Callable[["zmq.Socket[bytes]", str], object]


class Server:
    """A kernel at work on its sockets."""

    def __init__(self, kernel: Kernel, key: bytes, bind: Bind, line: int | None = None) -> None:
        self.kernel = kernel
        self.key = key
        self.line = None if line is None else socket.socket(fileno=line)  # to process 1, which hands over files
        kernel.session.key = key
        kernel.session.session = uuid.uuid4().hex
        kernel.session.pid = os.getpid()  # a fork of this process may not send
        kernel.ident = uuid.uuid4().hex
        kernel.shell.displayhook.topic = kernel._topic("execute_result")
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.sockets = sockets = {channel: context.socket(_KINDS[channel]) for channel in CHANNELS}
        for channel, made in sockets.items():
            made.setsockopt(zmq.LINGER, 1000)
            if _KINDS[channel] == zmq.ROUTER:
                made.setsockopt(zmq.ROUTER_HANDOVER, 1)
            bind(made, channel)
        sockets["stdin"].setsockopt(zmq.ROUTER_MANDATORY, 1)  # rather an error than a question that nobody hears
        # a slow reader slows the code down: it neither loses output nor heaps it up here
        sockets["iopub"].setsockopt(zmq.XPUB_NODROP, 1)
        self.shell, self.control, self.heartbeat = sockets["shell"], sockets["control"], sockets["hb"]
        self.interrupts: Interrupts = kernel.interrupts
        self.iopub = Publisher(sockets["iopub"], self.interrupts, kernel.session)
        self.iopub.after = self.iopub.welcome
        kernel.attach(self.iopub, Sender(self.shell, self.interrupts), sockets["stdin"], self.control, self.loop)
        kernel.take_waiting = self.take_requests  # type: ignore[method-assign]
        kernel.fork = self.fork  # type: ignore[method-assign]
        self.tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """What every session has of its own in the interpreter."""
        sys.stdout, sys.stderr = self.kernel.streams
        sys.path.insert(0, "")  # modules that the code writes into its working directory
        sys.argv = [""]
        self.kernel.shell.user_ns["_dh"][:] = [os.getcwd()]
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            numpy.random.seed()  # or every fork would draw the same numbers

    def run(self) -> None:
        """Until the kernel is told to shut down, or the process that started it is gone."""
        streams = self.kernel.streams
        for stream in streams:
            stream.attach(self.iopub)
        helper = Helper(self, streams)
        self.descriptors = kernelfork.descriptors() if self.line else set()
        ignore_interrupts()
        self.loop.add_reader(int(self.shell.get(zmq.FD)), self.take_requests)
        self.loop.call_soon(self.take_requests)
        helper.start()
        self.kernel._publish_status("starting", "shell")
        try:
            self.loop.run_forever()
        finally:
            helper.stop()
            for stream in streams:
                with contextlib.suppress(Exception):
                    stream.flush()
            self.iopub.socket.close(linger=1000)
            self.shell.close(linger=1000)

    def fork(self, planned: Callable[[], object]) -> list[str]:
        """Copy this kernel into the files that process 1 hands over. Returns what the copy will not have, in words.

        ``planned`` is called when the copy can be prepared, see ``image.capture``.
        """
        if self.line is None or not image.is_possible():
            raise OSError(f"a kernel on {platform.machine()} without a boundary cannot be forked")
        self.line.settimeout(_HANDED_OVER_WITHIN)
        received = wire.receive(self.line)
        if received is None:
            raise OSError("the files for the copy did not come")
        *targets, files = received[1]
        try:
            for stream in self.kernel.streams:
                stream.flush()
            carried, others = kernelfork.told({*self.descriptors, *targets, files})
            lost = kernelfork.losses(others, self.tasks)
            room = resource.getrlimit(resource.RLIMIT_DATA)[0]  # the session's limit, see ``isolation.lock``
            drawn = random.getstate()  # a fork seeds anew
            with contextlib.ExitStack() as held:  # what the second thread could hold while this one is copied
                for lock in (self.iopub.lock, *(stream.lock for stream in self.kernel.streams)):
                    held.enter_context(lock)
                mailbox = image.capture(
                    targets,
                    {"free": carried["free"]},
                    room,
                    notes=files,
                    meanwhile=lambda: kernelfork.pack(files),
                    planned=planned,
                )
            if mailbox:
                random.setstate(drawn)
                self.resume(mailbox, carried)
            return lost
        finally:
            for number in (*targets, files):
                os.close(number)

    def resume(self, mailbox: int, carried: dict[str, Any]) -> NoReturn:
        """In the copy, which has our memory and nothing else: be a kernel on sockets of its own."""
        code = 70
        try:
            _abandoned.append(self)  # the threads behind its sockets are gone, and its descriptors are others'
            told = json.loads(os.read(mailbox, _READ))
            for number in (mailbox, *told["done"]):
                os.close(number)
            kernelfork.settle(carried)
            asyncio.events._set_running_loop(None)
            serve_on(self.kernel, told["sockets"], told["key"].encode(), told["line"], copied=True)
            code = 0
        finally:
            os._exit(code)

    def take_requests(self) -> None:
        """Read all that has come on the shell channel; ZeroMQ tells of it once only."""
        while has_come(self.shell):
            frames = self.shell.recv_multipart(zmq.NOBLOCK, copy=False)
            task = self.loop.create_task(self._handle(frames))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _handle(self, frames: list[Any]) -> None:
        try:
            await self.kernel.handle(frames)
        except KeyboardInterrupt:
            pass  # too late for the code, and nothing else is to be stopped
        finally:
            self.loop.call_soon(self.take_requests)  # the reply may have swallowed the sign of a new request


class Helper(threading.Thread):
    """The second thread: control and heartbeat, output of other processes, output that has waited long enough."""

    def __init__(self, server: Server, streams: list[Stream]) -> None:
        super().__init__(name="Control", daemon=True)  # by this name ipykernel tells the channel of a request
        self.server = server
        self.streams = streams
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        server.kernel.signals = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._signals = server.kernel.signals[0]
        self._stopping = False
        self._gathering = False
        self._parent = _parent_process()
        self._poll = select.poll()
        for descriptor in (
            self._wake,
            self._signals,
            *(stream.pipe for stream in streams),
            *(int(s.get(zmq.FD)) for s in (server.control, server.heartbeat, server.iopub.socket)),
        ):
            self._poll.register(descriptor, select.POLLIN)
        for stream in streams:
            stream.wake = self._gather

    def _gather(self) -> None:
        if not self._gathering and threading.current_thread() is not self:
            self._gathering = True
            os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        self.join(5)

    def run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        pause = _PARENT_CHECK * 1000 if self._parent else None
        while not self._stopping:
            ready = {descriptor for descriptor, _ in self._poll.poll(_GATHER * 1000 if self._gathering else pause)}
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            elif self._gathering:  # what was printed has waited long enough
                self._gathering = False
                for stream in self.streams:
                    stream.flush_if_idle()
            for stream in self.streams:
                if stream.pipe in ready:
                    stream.read_pipe()
            self.server.iopub.welcome()
            self._answer()
            if self._signals in ready:
                self._see_to_it_that_it_is_taken()
            if self._parent and os.getppid() != self._parent:
                os._exit(1)
        self.server.control.close(linger=1000)
        self.server.heartbeat.close(linger=0)

    def _see_to_it_that_it_is_taken(self) -> None:
        """An interrupt that comes just before Python makes a system call that waits would be seen after it only."""
        interrupts = self.server.interrupts
        execution = interrupts.execution
        with contextlib.suppress(BlockingIOError):
            if signal.SIGINT in os.read(self._signals, _READ):
                time.sleep(_TAKEN_WITHIN)
                main = threading.main_thread().ident
                if main is not None and interrupts.execution == execution and not interrupts.taken:
                    signal.pthread_kill(main, signal.SIGINT)

    def _answer(self) -> None:
        heartbeat, control = self.server.heartbeat, self.server.control
        while has_come(heartbeat):
            heartbeat.send_multipart(heartbeat.recv_multipart())
        while has_come(control):
            frames = control.recv_multipart(copy=False)
            try:
                _finish(self.server.kernel.process_control(frames))
            except Exception:
                self.server.kernel.log.exception("a control request failed")


def _finish(coroutine: Any) -> None:
    """Run a handler that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise RuntimeError("a handler of the control channel may not wait")


def _parent_process() -> int:
    """The process whose end is to be the kernel's, 0 where there is none."""
    told = os.environ.get("JPY_PARENT_PID", "")
    return os.getppid() if told.isdigit() and int(told) == os.getppid() else 0


def serve_on(kernel: Kernel, descriptors: list[int], key: bytes, line: int, copied: bool = False) -> None:
    """Run a kernel over five listening Unix sockets (in the order of CHANNELS) until it is told to shut down.

    ``line`` leads to process 1. ``copied``: the kernel was one before.
    """

    def bind(socket: zmq.Socket[bytes], channel: str) -> None:
        if channel == "iopub":
            socket.setsockopt(zmq.SNDHWM, 16)
        number = CHANNELS.index(channel)
        socket.setsockopt(zmq.USE_FD, descriptors[number])
        socket.bind(f"ipc:///kernel-{number + 1}")  # a name only: the descriptor listens elsewhere, out of sight

    server = Server(kernel, key, bind, line)
    if not copied:
        server.begin()
    server.run()


def serve_file(path: str) -> None:
    """Run a kernel as a connection file says (Jupyter's; transports tcp and ipc). Raises OSError, ValueError."""
    told = json.loads(Path(path).read_text())
    if told.get("signature_scheme", "hmac-sha256") != "hmac-sha256":
        raise ValueError(f"the signature scheme {told['signature_scheme']!r} is not known; hmac-sha256 is")
    between = ":" if told["transport"] == "tcp" else "-"

    def bind(socket: zmq.Socket[bytes], channel: str) -> None:
        if channel == "iopub":
            socket.setsockopt(zmq.SNDHWM, 16)
        socket.bind(f"{told['transport']}://{told['ip']}{between}{told[f'{channel}_port']}")

    server = Server(prepare(), str(told["key"]).encode(), bind)
    server.begin()
    server.run()


def main() -> None:
    """``python -m codeact.sandbox.kernelserver -f FILE``: an ordinary Jupyter kernel, without any boundary."""
    if len(sys.argv) != 3 or sys.argv[1] != "-f" or not os.path.exists(sys.argv[2]):
        sys.exit("usage: python -m codeact.sandbox.kernelserver -f CONNECTION_FILE")
    serve_file(sys.argv[2])


if __name__ == "__main__":
    main()
