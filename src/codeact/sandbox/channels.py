"""The host's end of one kernel's Jupyter channels: sends requests, turns messages into outputs.

Everything that arrives is untrusted: signatures are checked, sizes bounded, and a message that is not what the
protocol says is dropped. Nothing is ever unpickled or evaluated.

Source: Jupyter messaging protocol 5.4 (jupyter-client.readthedocs.io/en/stable/messaging.html).
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.session import Session as Protocol

from codeact.contracts import DisplayOutput, ErrorOutput, Output, StreamOutput, Variable
from codeact.plaintext import strip_ansi

_LARGEST_MESSAGE = 32 << 20  # more than kernelapp.LARGEST_OUTPUT
_LINE = re.compile(r"Cell (?:In\[\d+\]|.*?), line (\d{1,9})\b")
_LAST_WORDS = 0.1  # seconds in which the messages of a kernel that is gone arrive
_TEXT = 1 << 24  # characters of one representation


class Channels:
    """Shell, iopub, stdin and control of one kernel.

    ``addresses`` maps the channels' names to ZeroMQ addresses; ``key`` signs the messages.
    """

    def __init__(self, addresses: dict[str, str], key: bytes) -> None:
        self._context = zmq.asyncio.Context.instance()
        self._protocol = Protocol(key=key, username="codeact")
        self.iopub = self._connect(zmq.SUB, addresses["iopub"])
        self.iopub.subscribe(b"")
        self.shell = self._connect(zmq.DEALER, addresses["shell"])
        self.control = self._connect(zmq.DEALER, addresses["control"])
        self._stdin_events: zmq.asyncio.Socket
        self.stdin = self._connect(zmq.DEALER, addresses["stdin"], watch=True)

    def _connect(self, kind: int, address: str, watch: bool = False) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.setsockopt(zmq.MAXMSGSIZE, _LARGEST_MESSAGE)
        socket.setsockopt(zmq.RCVHWM, 16)
        if kind == zmq.DEALER:
            socket.setsockopt(zmq.IDENTITY, self._protocol.bsession)
        if watch:
            self._stdin_events = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        socket.connect(address)
        return socket

    async def stdin_connected(self, limit: float) -> bool:
        """Whether the kernel can ask us, within ``limit`` seconds: what it asks before that is lost without a word."""
        try:
            return bool(await self._stdin_events.poll(limit * 1000))
        finally:
            self._unwatch()

    def _unwatch(self) -> None:
        if not self._stdin_events.closed:
            self.stdin.disable_monitor()
            self._stdin_events.close(linger=0)

    def close(self) -> None:
        self._unwatch()
        for socket in (self.shell, self.iopub, self.stdin, self.control):
            socket.close(linger=0)

    async def arrivals(
        self, exited: asyncio.Future[str], limit: float, *, with_control: bool = False
    ) -> list[tuple[zmq.asyncio.Socket, dict[str, Any]]]:
        """Messages that have come, waiting at most ``limit`` seconds for the first; none when the kernel exits."""
        sockets = [self.iopub, self.shell, self.stdin]
        if with_control:
            sockets.append(self.control)
        poller = zmq.asyncio.Poller()
        for socket in sockets:
            poller.register(socket, zmq.POLLIN)
        limit = min(limit, _LAST_WORDS) if exited.done() else max(limit, 0)
        poll = asyncio.ensure_future(poller.poll(limit * 1000))
        try:
            both: set[asyncio.Future[Any]] = {poll} if exited.done() else {poll, exited}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not poll.done():
                return []
            ready = {socket for socket, _ in poll.result()}
        finally:
            if not poll.done():
                poll.cancel()
        messages = []
        for socket in (s for s in sockets if s in ready):
            message = self.read(await socket.recv_multipart())
            if message is not None:
                messages.append((socket, message))
        return messages

    async def send(self, socket: zmq.asyncio.Socket, kind: str, content: dict[str, Any]) -> str:
        """Send a request; returns its message id, which the answers carry as their parent's."""
        message = self._protocol.msg(kind, content)
        await socket.send_multipart(self._protocol.serialize(message))
        return str(message["header"]["msg_id"])

    async def answer(self, parent: dict[str, Any], value: str) -> None:
        """Answer an ``input_request``."""
        message = self._protocol.msg("input_reply", {"value": value}, parent=parent)
        await self.stdin.send_multipart(self._protocol.serialize(message))

    def read(self, frames: list[bytes]) -> dict[str, Any] | None:
        """The message in these frames, or None where it is not a well-formed, well-signed one."""
        try:
            _, rest = self._protocol.feed_identities(frames)
            message = self._protocol.deserialize(rest)
        except Exception:  # whatever the parser makes of what it was given: the sender is not to be trusted
            return None
        parts = (message["header"], message["parent_header"], message["content"])
        return dict(message) if all(isinstance(part, dict) for part in parts) else None


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
