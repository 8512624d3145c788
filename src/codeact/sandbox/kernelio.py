"""What a kernel sends and prints: sockets that any thread may send on, and streams that become messages.

Runs inside the sandbox, next to the model's code. Output goes out from the thread that makes it, with no thread of its
own in between: a slow reader slows the code down, and nothing heaps up in the kernel's memory.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import zmq
from jupyter_client.jsonutil import json_clean, json_default
from jupyter_client.session import Session

LARGEST_OUTPUT = 24 << 20
"""Bytes of one displayed output; the host's side takes a little more in one message and hangs up beyond."""

_FLUSH_EVERY = 0.05  # seconds that printed text waits at most for more
_PIECE = 1 << 20  # characters of one message
_READ = 1 << 16  # bytes: what a pipe holds


def pack(value: object) -> bytes:
    """As JSON, whatever the code made: halves of surrogate pairs escaped, NaN as text. Raises TypeError, ValueError."""
    try:
        return json.dumps(value, default=json_default, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError):
        return json.dumps(json_clean(value), default=json_default, allow_nan=False).encode()


class Interrupts:
    """SIGINT as KeyboardInterrupt, but never inside a message: half of one would garble the next."""

    def __init__(self) -> None:
        self._shielded = 0
        self._held = False
        self._pending = False
        self.execution = 0
        self.taken = False

    def hold(self) -> None:
        """Put interrupts off until the code begins: what runs before it would swallow them."""
        self.execution += 1
        self.taken = False
        self._held = True

    def release(self) -> None:
        """The code begins. Raises what was put off."""
        self._held = False
        self.check()

    def forget(self) -> None:
        """The code is over: there is nothing left to interrupt."""
        self._held = self._pending = False

    def handle(self, number: int, frame: object) -> None:
        """The handler of SIGINT while code runs."""
        self.taken = True
        if self._shielded or self._held:
            self._pending = True
        else:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise what has been put off."""
        if self._pending and not self._held and threading.current_thread() is threading.main_thread():
            self._pending = False
            raise KeyboardInterrupt

    def __enter__(self) -> None:
        self._shielded += threading.current_thread() is threading.main_thread()

    def __exit__(self, *exc: object) -> None:
        if threading.current_thread() is threading.main_thread():
            self._shielded -= 1
            if not self._shielded:
                self.check()


def has_come(socket: zmq.Socket[bytes]) -> bool:
    """Whether there is a message to read."""
    return bool(int(socket.get(zmq.EVENTS)) & zmq.POLLIN)


class Sender:
    """What ipykernel takes for a socket. Blocks while the reader is behind; an interrupt ends that wait."""

    def __init__(self, socket: zmq.Socket[bytes], interrupts: Interrupts) -> None:
        self.socket = socket
        self.lock = threading.RLock()
        self.interrupts = interrupts
        self.after: Callable[[], object] = lambda: None
        """Called under the lock when a message has gone out: sending may swallow the sign that one has come in."""

    def send_multipart(self, frames: Iterable[Any], flags: int = 0, copy: bool = True, track: bool = False) -> None:
        frames = list(frames)
        with self.lock:
            while True:
                with contextlib.suppress(zmq.Again), self.interrupts:
                    self.socket.send_multipart(frames, flags | zmq.NOBLOCK)
                    self.after()
                    return
                self.socket.poll(100, zmq.POLLOUT)
                self.interrupts.check()


class Publisher(Sender):
    """iopub. Replaces what is too large to be shown by a line that says so."""

    def __init__(self, socket: zmq.Socket[bytes], interrupts: Interrupts, session: Session) -> None:
        super().__init__(socket, interrupts)
        self._session: Any = session

    def send_multipart(self, frames: Iterable[Any], flags: int = 0, copy: bool = True, track: bool = False) -> None:
        frames = list(frames)
        size = sum(memoryview(frame).nbytes for frame in frames)
        if size > LARGEST_OUTPUT:
            _, rest = self._session.feed_identities(frames)
            text = f"[An output of {size >> 20} MiB is too large to be shown and was left out.]\n"
            message = self._session.msg("stream", {"name": "stderr", "text": text}, parent=json.loads(bytes(rest[2])))
            frames = self._session.serialize(message, ident=b"stream.stderr")
        super().send_multipart(frames, flags)

    def welcome(self) -> None:
        """Greet whoever has subscribed meanwhile, which tells a client that from now on it misses nothing (JEP 65)."""
        with self.lock:
            while has_come(self.socket):
                told = self.socket.recv(zmq.NOBLOCK)
                if told[:1] == b"\x01":
                    content = {"subscription": told[1:].decode(errors="replace")}
                    self._session.send(self, "iopub_welcome", content, ident=told[1:])


class Stream(io.TextIOBase):
    """stdout or stderr of the kernel, and of what else writes to its file descriptor.

    Whole lines go out at once where none went out just before; what follows is gathered for a moment, and ``wake`` is
    called so that somebody sends it. In a forked child it writes to the file descriptor, which the parent reads.
    """

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, name: str, descriptor: int, session: Session, parent: Callable[[], dict[str, Any]]) -> None:
        self.name = name
        self.wake: Callable[[], object] = lambda: None
        self.lock = threading.RLock()
        self._session: Any = session
        self._publisher: Publisher
        self._current_parent = parent
        self._parent: dict[str, Any] = {}
        self._pieces: list[str] = []
        self._size = 0
        self._sent = 0.0
        self._descriptor = descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.buffer = _Bytes(self)
        self.pipe = -1
        self._process = 0

    def attach(self, publisher: Publisher) -> None:
        """Begin to send, in this process."""
        self._publisher = publisher
        self._process = os.getpid()
        self.pipe, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.pipe, False)
        os.dup2(writing, self._descriptor)
        os.close(writing)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if os.getpid() != self._process:
            _write_all(self._descriptor, text.encode(errors="backslashreplace"))
            return len(text)
        with self.lock:
            parent = self._current_parent()
            if parent is not self._parent:
                self._send()
                self._parent = parent
            if text:
                self._add(text)
        return len(text)

    def _add(self, text: str) -> None:
        self._pieces.append(text)
        self._size += len(text)
        due = time.monotonic() - self._sent > _FLUSH_EVERY
        if self._size >= _PIECE or (due and text[-1] == "\n"):
            self._send()
        elif len(self._pieces) == 1:
            self.wake()

    def _send(self) -> None:
        with self._publisher.interrupts:  # so that nothing is lost or said twice
            while self._pieces:
                text = "".join(self._pieces)
                content = {"name": self.name, "text": text[:_PIECE]}
                self._pieces = [text]
                self._session.send(
                    self._publisher, "stream", content, parent=self._parent, ident=f"stream.{self.name}".encode()
                )
                self._pieces = [text[_PIECE:]] if len(text) > _PIECE else []
                self._size = len(text[_PIECE:])
                self._sent = time.monotonic()

    def flush(self) -> None:
        """Send what was written, here and to the file descriptor by others."""
        if os.getpid() == self._process:
            with self.lock:
                self._send()
                while self.read_pipe():
                    pass

    def flush_if_idle(self) -> None:
        """Send what has waited; not where the code is sending just now."""
        if self.lock.acquire(blocking=False):
            try:
                self._send()
            finally:
                self.lock.release()

    def read_pipe(self) -> bool:
        """Take in what was written to the file descriptor. False when there was nothing."""
        with self.lock:
            try:
                data = os.read(self.pipe, _READ)
            except BlockingIOError:
                return False
            text = self._decoder.decode(data)
            if text:
                self.write(text)
                self._send()
            return bool(data)


class _Bytes(io.RawIOBase):
    """``sys.stdout.buffer``: bytes that are printed as the text they are in UTF-8."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, data: Any) -> int:
        raw = bytes(data)
        self._stream.write(self._decoder.decode(raw))
        return len(raw)

    def flush(self) -> None:
        self._stream.flush()


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def ignore_interrupts() -> None:
    """Between two cells there is nothing to interrupt."""
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)
