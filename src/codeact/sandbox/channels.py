"""The host's end of one kernel's Jupyter channels: sends requests, turns messages into outputs.

Everything that arrives is untrusted: signatures are checked, sizes bounded, and a message that is not what the
protocol says is dropped. Nothing is ever unpickled or evaluated.

Source: Jupyter messaging protocol 5.4 (jupyter-client.readthedocs.io/en/stable/messaging.html).
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import json
import re
import uuid
from datetime import UTC, datetime
from typing import Any

import zmq

from codeact.contracts import DisplayOutput, ErrorOutput, Output, StreamOutput, Variable
from codeact.plaintext import strip_ansi

Socket = zmq.Socket[bytes]

_LARGEST_MESSAGE = 32 << 20  # more than kernelio.LARGEST_OUTPUT
_DELIMITER = b"<IDS|MSG>"
_SOCKETS = 1 << 15  # of one process: three or four a session
_AT_ONCE = 16  # messages of one channel that are read before others get their turn
_REMEMBERED = 4096  # messages that are known again if they come twice
_LINE = re.compile(r"Cell (?:In\[\d+\]|.*?), line (\d{1,9})\b")
_LAST_WORDS = 0.1  # seconds in which the messages of a kernel that is gone arrive
_TEXT = 1 << 24  # characters of one representation


@functools.cache
def _context() -> zmq.Context[Socket]:
    context: zmq.Context[Socket] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, _SOCKETS)
    return context


class Channels:
    """Shell, iopub, stdin and control of one kernel, in the event loop that it is used in.

    ``addresses`` maps the channels' names to ZeroMQ addresses; ``key`` signs the messages (HMAC-SHA256).
    """

    def __init__(self, addresses: dict[str, str], key: bytes) -> None:
        self._addresses = addresses
        self._key = key
        self._session = uuid.uuid4().hex
        self._hmac = hmac.new(key, digestmod=hashlib.sha256)
        self._seen: dict[bytes, None] = {}  # signatures, oldest first
        self._loop = asyncio.get_running_loop()
        self._armed: dict[int, Socket] = {}
        self._waiting: asyncio.Future[None] | None = None
        self.iopub = self._connect(zmq.SUB, "iopub")
        self.iopub.subscribe(b"")
        self.shell = self._connect(zmq.DEALER, "shell")
        self.stdin = self._connect(zmq.DEALER, "stdin")
        self._control: Socket | None = None

    @property
    def control(self) -> Socket:
        """Connected when it is first used: most sessions never do."""
        if self._control is None:
            self._control = self._connect(zmq.DEALER, "control")
        return self._control

    def _connect(self, kind: int, channel: str) -> Socket:
        socket = _context().socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, _LARGEST_MESSAGE)
        socket.setsockopt(zmq.RCVHWM, _AT_ONCE)
        if kind == zmq.DEALER:
            socket.setsockopt(zmq.IDENTITY, self._session.encode())
        socket.connect(self._addresses[channel])
        return socket

    def _sockets(self) -> list[Socket]:
        return [s for s in (self.iopub, self.shell, self.stdin, self._control) if s is not None]

    def again(self) -> Channels:
        """New connections to the same kernel: ZeroMQ makes none of its own where a message was larger than allowed."""
        self.close()
        return Channels(self._addresses, self._key)

    def close(self) -> None:
        for descriptor in tuple(self._armed):
            self._disarm(descriptor)
        for socket in self._sockets():
            socket.close(linger=0)

    async def arrivals(self, exited: asyncio.Future[str], limit: float) -> list[tuple[Socket, dict[str, Any]]]:
        """Messages that have come, waiting at most ``limit`` seconds for the first; none when the kernel exits."""
        messages = self._read()
        if messages:
            return messages
        waiting = self._waiting = self._loop.create_future()

        def wake(_: object = None) -> None:
            if not waiting.done():
                waiting.set_result(None)

        timer = self._loop.call_later(min(limit, _LAST_WORDS) if exited.done() else max(limit, 0), wake)
        if not exited.done():
            exited.add_done_callback(wake)
        self._arm()
        try:
            await waiting
        finally:
            timer.cancel()
            exited.remove_done_callback(wake)
            self._waiting = None
        return self._read()

    def _arm(self) -> None:
        """Have the loop wake us once. Not for good: what comes while nobody reads would keep it busy."""
        for socket in self._sockets():
            descriptor = int(socket.get(zmq.FD))
            if descriptor not in self._armed:
                self._armed[descriptor] = socket
                self._loop.add_reader(descriptor, self._on_readable, descriptor)

    def _disarm(self, descriptor: int) -> None:
        del self._armed[descriptor]
        self._loop.remove_reader(descriptor)

    def _on_readable(self, descriptor: int) -> None:
        self._disarm(descriptor)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _read(self) -> list[tuple[Socket, dict[str, Any]]]:
        messages = []
        for socket in self._sockets():
            for _ in range(_AT_ONCE):
                try:
                    frames = socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                message = self.read(frames)
                if message is not None:
                    messages.append((socket, message))
        return messages

    def send(self, socket: Socket, kind: str, content: dict[str, Any], parent: dict[str, Any] | None = None) -> str:
        """Send a request; returns its message id, which the answers carry as their parent's."""
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": kind,
            "username": "codeact",
            "session": self._session,
            "date": datetime.now(UTC).isoformat(),
            "version": "5.4",
        }
        parts = [json.dumps(part).encode() for part in (header, parent or {}, {}, content)]
        socket.send_multipart([_DELIMITER, self._sign(parts), *parts], zmq.NOBLOCK)
        return header["msg_id"]

    def answer(self, parent: dict[str, Any], value: str) -> None:
        """Answer an ``input_request``."""
        self.send(self.stdin, "input_reply", {"value": value}, parent)

    def _sign(self, parts: list[bytes]) -> bytes:
        signature = self._hmac.copy()
        for part in parts:
            signature.update(part)
        return signature.hexdigest().encode()

    def read(self, frames: list[bytes]) -> dict[str, Any] | None:
        """The message in these frames, or None where it is not a well-formed, well-signed one."""
        try:
            start = frames.index(_DELIMITER) + 1
            signature, *parts = frames[start : start + 5]
            if len(parts) != 4 or not hmac.compare_digest(signature, self._sign(parts)) or signature in self._seen:
                return None
            header, parent, _, content = map(json.loads, parts)
        except (ValueError, RecursionError):
            return None
        self._seen[signature] = None
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        message = {"header": header, "parent_header": parent, "content": content}
        return message if all(isinstance(part, dict) for part in message.values()) else None


def output_of(message: dict[str, Any]) -> Output | None:
    """The output that an iopub message carries, or None for the messages that carry none."""
    content = message["content"]
    match message["header"].get("msg_type"):
        case "stream" if content.get("name") in ("stdout", "stderr"):
            return StreamOutput(name=content["name"], text=encodable(content.get("text", "")))
        case "execute_result":
            return DisplayOutput(data=_bundle(content), is_result=True)
        case "display_data" | "update_display_data":
            return DisplayOutput(data=_bundle(content))
        case "error":
            lines = content.get("traceback")
            return error_output(content.get("ename"), content.get("evalue"), lines)
    return None


def _bundle(content: dict[str, Any]) -> dict[str, str]:
    data = content.get("data")
    if not isinstance(data, dict):
        return {}
    return {encodable(mime): encodable(v if isinstance(v, str) else json.dumps(v))[:_TEXT] for mime, v in data.items()}


def language_of(message: dict[str, Any]) -> str | None:
    """The language and its version that a ``kernel_info_reply`` names, or None where it names none in plain words."""
    told = message["content"].get("language_info")
    words = [str(told.get(field, "")) for field in ("name", "version")] if isinstance(told, dict) else []
    name = " ".join(word for word in words if word)
    return name if re.fullmatch(r"[\w.+# -]{1,40}", name) else None


def encodable(value: object) -> str:
    """Text that can be written anywhere: without halves of surrogate pairs."""
    return str(value).encode("utf-8", "replace").decode()


def error_output(name: object, message: object, traceback: object) -> ErrorOutput:
    lines = tuple(encodable(line) for line in traceback) if isinstance(traceback, list) else ()
    numbers = [int(n) for line in lines for n in _LINE.findall(strip_ansi(line))[:1]]
    return ErrorOutput(
        name=encodable(name), message=encodable(message), traceback=lines, line=numbers[0] if numbers else None
    )


def variables_of(listed: object) -> tuple[Variable, ...]:
    """Variables as the kernel describes them; what is malformed is left out."""
    found = []
    for entry in listed if isinstance(listed, list) else []:
        try:
            variable = Variable.model_validate(entry)
            variable.model_dump_json()  # it has to be written later
            found.append(variable)
        except ValueError:
            continue
    return tuple(found)
