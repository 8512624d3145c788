"""The host's end of one ZeroMQ connection to a kernel, spoken here because what comes over it may be hostile.

libzmq bounds the size of a frame but not the number of frames in a message, and reads ahead in a thread of its own: one
message that never ends fills the host's memory. Here nothing is read before somebody asks, a message beyond its bounds
is passed over as it comes, and bytes that are no protocol are told at once.

Only what Jupyter's channels need: ZMTP 3.0 over a Unix socket, without security, as DEALER or SUB.

Source: ZMTP 3.0 (rfc.zeromq.org/spec/23).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Literal

LARGEST_MESSAGE = 32 << 20
"""Bytes of one message's frames together. More than ``kernelio.LARGEST_OUTPUT``."""

MOST_FRAMES = 64
"""Frames of one message."""

_BACKLOG = 32 << 20  # bytes that wait to be sent, beyond which no other message may join them
_PIECE = 1 << 16  # bytes read at once
_AGAIN = 0.01  # seconds between two attempts to reach a kernel that is not there yet
_LARGEST_COMMAND = 1 << 12
_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_MORE, _LONG, _COMMAND = 1, 2, 4


class Connection:
    """A connection that is made as soon as the other side listens at ``path``. For the running event loop.

    ``changed`` is called when it has been made. ``fault`` says in a few words why nothing comes any more, once that is
    so; ``passed_over`` counts the messages that were too large.
    """

    def __init__(self, path: str, kind: Literal["DEALER", "SUB"], identity: bytes, changed: Callable[[], None]) -> None:
        self.fault: str | None = None
        self.passed_over = 0
        self._path = path
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._writing = False
        self._ready = False
        self._output = bytearray()
        self._held = bytearray()  # until the other side is ready: libzmq hangs up on what comes earlier
        self._input = bytearray()
        self._greeted = False
        self._frames: list[bytes] = []
        self._size = 0
        self._passing = False  # over a message that is too large
        self._passed_to = 0  # bytes of its frame that are still to come
        properties = b"".join(_property(*p) for p in ((b"Socket-Type", kind.encode()), (b"Identity", identity)))
        self._output += _GREETING + _frame(b"\x05READY" + properties, _COMMAND)
        if kind == "SUB":
            self._held += _frame(b"\x01", 0)  # subscribe to everything
        self._connect()

    def fileno(self) -> int | None:
        """The descriptor to wait on for something to read, None where there is nothing to wait for."""
        return None if self._socket is None or self.fault else self._socket.fileno()

    def _connect(self) -> None:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        end.setblocking(False)
        try:
            end.connect(self._path)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):  # not bound yet, or too many at once
            end.close()
            self._retry = self._loop.call_later(_AGAIN, self._connect)
        except OSError as error:
            end.close()
            self.fault = f"it cannot be reached: {error.strerror}"
        else:
            self._socket = end
            self._flush()
            self._changed()

    def close(self) -> None:
        """Safe to call twice."""
        self.fault = self.fault or "it was closed"
        if self._retry is not None:
            self._retry.cancel()
        if self._socket is not None:
            self._stop_writing()
            self._socket.close()
            self._socket = None

    # --- out ---

    def send(self, frames: list[bytes]) -> None:
        """Send one message, now or as soon as the other side takes it."""
        if self.fault:
            return
        waiting = self._output if self._ready else self._held
        if len(waiting) > _BACKLOG:
            waiting.clear()
            self.fault = "it takes no messages"
            return
        for number, frame in enumerate(frames, 1):
            waiting += _frame(frame, _MORE if number < len(frames) else 0)
        if self._ready and not self._writing:
            self._flush()

    def _flush(self) -> None:
        if self._socket is None:
            return
        try:
            del self._output[: self._socket.send(self._output)]
        except BlockingIOError:
            pass
        except OSError:  # the reading side will tell, after what was still said
            self._output.clear()
        if self._output and not self._writing:
            self._writing = True
            self._loop.add_writer(self._socket, self._flush)
        elif not self._output:
            self._stop_writing()

    def _stop_writing(self) -> None:
        if self._writing and self._socket is not None:
            self._writing = False
            self._loop.remove_writer(self._socket)

    # --- in ---

    def read(self) -> list[list[bytes]]:
        """The messages that are whole with the next piece of what has come; does not wait."""
        if self._socket is None or self.fault:
            return []
        messages: list[list[bytes]] = []
        with contextlib.suppress(BlockingIOError):
            try:
                data = self._socket.recv(_PIECE)
                if not data:
                    raise ConnectionError("it closed its connection")
                self._input += data
                del self._input[: self._take(messages)]
            except BlockingIOError:
                raise
            except OSError as error:
                self.fault = error.strerror or str(error)
        return messages

    def _take(self, messages: list[list[bytes]]) -> int:
        """Put whole messages into ``messages``; how many bytes of the input are done with."""
        position = 0
        with memoryview(self._input) as data:
            if not self._greeted:
                if len(data) < len(_GREETING):
                    return 0
                self._check_greeting(bytes(data[: len(_GREETING)]))
                position = len(_GREETING)
            while True:
                if self._passed_to:
                    passed = min(self._passed_to, len(data) - position)
                    self._passed_to -= passed
                    position += passed
                if len(data) - position < 2:
                    return position
                flags = data[position]
                begin = position + (9 if flags & _LONG else 2)
                if len(data) < begin:
                    return position
                size = int.from_bytes(data[position + 1 : begin])
                self._check_frame(flags, size)
                if self._passes(flags, size):
                    self._passed_to, position = size, begin
                    continue
                if len(data) - begin < size:
                    return position
                if flags & _COMMAND:
                    self._command(bytes(data[begin : begin + size]))
                else:
                    self._add(bytes(data[begin : begin + size]), flags, messages)
                position = begin + size

    def _check_greeting(self, greeting: bytes) -> None:
        if greeting[0] != 0xFF or greeting[9] != 0x7F or greeting[10] < 3 or greeting[12:32] != _GREETING[12:32]:
            raise ConnectionError("it does not speak ZMTP 3")
        self._greeted = True

    def _check_frame(self, flags: int, size: int) -> None:
        if flags > 7 or (flags & _COMMAND and (flags & _MORE or size > _LARGEST_COMMAND)) or size > 1 << 40:
            raise ConnectionError("it sends what is no frame of ZMTP")

    def _command(self, body: bytes) -> None:
        if body.startswith(b"\x05READY") and not self._ready:
            self._ready = True
            self._output += self._held
            self._held = bytearray()
            self._flush()

    def _passes(self, flags: int, size: int) -> bool:
        """Whether this frame is not to be kept."""
        if flags & _COMMAND:
            return False
        if not self._passing:
            self._passing = self._size + size > LARGEST_MESSAGE or len(self._frames) == MOST_FRAMES
            self.passed_over += self._passing
        passes = self._passing
        if passes:
            self._frames, self._size = [], 0
            self._passing = bool(flags & _MORE)
        return passes

    def _add(self, frame: bytes, flags: int, messages: list[list[bytes]]) -> None:
        self._frames.append(frame)
        self._size += len(frame)
        if not flags & _MORE:
            messages.append(self._frames)
            self._frames, self._size = [], 0


def _frame(body: bytes, flags: int) -> bytes:
    if len(body) < 256:
        return bytes((flags, len(body))) + body
    return bytes((flags | _LONG,)) + len(body).to_bytes(8) + body


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4) + value
