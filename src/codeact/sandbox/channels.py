"""The host's end of one kernel's Jupyter channels: sends requests, turns messages into outputs.

Everything that arrives is untrusted: signatures are checked, sizes bounded, and a message that is not what the
protocol says is dropped. Nothing is ever unpickled or evaluated.

Source: Jupyter messaging protocol 5.4 (jupyter-client.readthedocs.io/en/stable/messaging.html).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
import re
import uuid
from datetime import UTC, datetime
from typing import Any, Literal

from codeact.contracts import DisplayOutput, ErrorOutput, Output, StreamOutput, Variable
from codeact.plaintext import strip_ansi
from codeact.sandbox.zmtp import Connection

_DELIMITER = b"<IDS|MSG>"
_STRUCTURE = 4 << 20  # bytes of JSON outside of its strings; as objects they take up to thirty times as much
_STRINGS = 500_000  # in the JSON of one part
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # gives nothing back, so that it takes no memory
_REMEMBERED = 4096  # messages that are known again if they come twice
_LINE = re.compile(r"Cell (?:In\[\d+\]|.*?), line (\d{1,9})\b")
_LINE_WITHIN = 1000  # characters: the search takes the square of them
_LAST_WORDS = 0.1  # seconds in which the messages of a kernel that is gone arrive
_TEXT = 1 << 24  # characters of one representation
_REPRESENTATIONS = 64  # of one displayed object
_TOO_DEEP = "[too deep to be shown]"
_VARIABLES = 500  # of one message, as many as our own kernel tells
_NAME = 1000  # characters of a variable's name or type


class Channels:
    """Shell, iopub, stdin and control of one kernel, in the event loop that it is used in.

    ``addresses`` maps the channels' names to ZeroMQ addresses (``ipc://``); ``key`` signs the messages (HMAC-SHA256).
    """

    def __init__(self, addresses: dict[str, str], key: bytes) -> None:
        self._addresses = addresses
        self._session = uuid.uuid4().hex
        self._hmac = hmac.new(key, digestmod=hashlib.sha256)
        self._refused = 0
        self._seen: dict[bytes, None] = {}  # signatures, oldest first
        self._loop = asyncio.get_running_loop()
        self._armed: set[int] = set()
        self._waiting: asyncio.Future[None] | None = None
        self.iopub = self._connect("SUB", "iopub")
        self.shell = self._connect("DEALER", "shell")
        self.stdin = self._connect("DEALER", "stdin")
        self._control: Connection | None = None

    @property
    def control(self) -> Connection:
        """Connected when it is first used: most sessions never do."""
        if self._control is None:
            self._control = self._connect("DEALER", "control")
        return self._control

    def _connect(self, kind: Literal["DEALER", "SUB"], channel: str) -> Connection:
        path = self._addresses[channel].removeprefix("ipc://")
        return Connection(path, kind, self._session.encode(), self._wake)

    def _connections(self) -> list[Connection]:
        return [c for c in (self.iopub, self.shell, self.stdin, self._control) if c is not None]

    @property
    def fault(self) -> str | None:
        """Why the kernel cannot be heard any more on one of the channels, in a few words; None while it can."""
        return next((c.fault for c in self._connections() if c.fault), None)

    @property
    def passed_over(self) -> int:
        """How many messages were too large to be read so far."""
        return self._refused + sum(c.passed_over for c in self._connections())

    def close(self) -> None:
        for descriptor in tuple(self._armed):
            self._disarm(descriptor)
        for connection in self._connections():
            connection.close()

    async def arrivals(self, exited: asyncio.Future[str], limit: float) -> list[tuple[Connection, dict[str, Any]]]:
        """Messages that have come, waiting at most ``limit`` seconds for the first; none when the kernel exits."""
        messages = self._read()
        if messages:
            await asyncio.sleep(0)  # a kernel that never stops talking leaves the others their turn
            return messages
        waiting = self._waiting = self._loop.create_future()
        timer = self._loop.call_later(min(limit, _LAST_WORDS) if exited.done() else max(limit, 0), self._wake)
        if not exited.done():
            exited.add_done_callback(self._wake)
        self._arm()
        try:
            await waiting
        finally:
            timer.cancel()
            exited.remove_done_callback(self._wake)
            self._waiting = None
        return self._read()

    def wake(self) -> None:
        """End the wait of ``arrivals``, where one is under way."""
        self._wake()

    def _wake(self, _: object = None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _arm(self) -> None:
        """Have the loop wake us once. Not for good: what comes while nobody reads would keep it busy."""
        for descriptor in (c.fileno() for c in self._connections()):
            if descriptor is not None and descriptor not in self._armed:
                self._armed.add(descriptor)
                self._loop.add_reader(descriptor, self._on_readable, descriptor)

    def _disarm(self, descriptor: int) -> None:
        self._armed.discard(descriptor)
        self._loop.remove_reader(descriptor)

    def _on_readable(self, descriptor: int) -> None:
        self._disarm(descriptor)
        self._wake()

    def _read(self) -> list[tuple[Connection, dict[str, Any]]]:
        """From each channel what one piece of what has come holds, so that each gets its turn."""
        found = ((c, self.read(frames)) for c in self._connections() for frames in c.read())
        return [(connection, message) for connection, message in found if message is not None]

    def send(
        self, channel: Connection, kind: str, content: dict[str, Any], parent: dict[str, Any] | None = None
    ) -> str:
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
        channel.send([_DELIMITER, self._sign(parts), *parts])
        return header["msg_id"]

    def answer(self, parent: dict[str, Any], value: str) -> None:
        """Answer an ``input_request``, whose header is ``parent``: as much of it as a client has to give back."""
        fields = {
            field: parent.get(field) for field in ("msg_id", "msg_type", "session", "username", "date", "version")
        }
        echo = {field: told for field, told in fields.items() if isinstance(told, str) and len(told) < 200}
        self.send(self.stdin, "input_reply", {"value": value}, echo)

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
            header, parent, _, content = map(load, parts)
        except TooLarge:
            self._refused += 1
            return None
        except (ValueError, RecursionError):
            return None
        self._seen[signature] = None
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        message = {"header": header, "parent_header": parent, "content": content}
        return message if all(isinstance(part, dict) for part in message.values()) else None


class TooLarge(ValueError):
    """JSON that would take too much as objects."""


def load(text: bytes | str) -> Any:
    """JSON of a bounded size as objects. Raises ValueError, RecursionError."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) > _STRUCTURE:
        quotes = data.count(b'"') - data.count(b'\\"')
        strings = sum(len(found[0]) for found in _STRING.finditer(data)) if quotes < 2 * _STRINGS else 0
        if quotes > 2 * _STRINGS or len(data) - strings > _STRUCTURE:
            raise TooLarge("more structure than anybody reads")
    return json.loads(text)


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
    shown = itertools.islice(data.items(), _REPRESENTATIONS)
    return {encodable(mime): _text(value)[:_TEXT] for mime, value in shown}


def _text(value: object) -> str:
    try:
        return encodable(value if isinstance(value, str) else json.dumps(value))
    except RecursionError:  # what could just be parsed may be too deep to be written
        return _TOO_DEEP


def language_of(message: dict[str, Any]) -> str | None:
    """The language and its version that a ``kernel_info_reply`` names, or None where it names none in plain words."""
    told = message["content"].get("language_info")
    words = [str(told.get(field, "")) for field in ("name", "version")] if isinstance(told, dict) else []
    name = " ".join(word for word in words if word)
    return name if re.fullmatch(r"[\w.+# -]{1,40}", name) else None


def encodable(value: object) -> str:
    """Text that can be written anywhere: without halves of surrogate pairs."""
    try:
        return str(value).encode("utf-8", "replace").decode()
    except RecursionError:
        return _TOO_DEEP


def error_output(name: object, message: object, traceback: object) -> ErrorOutput:
    lines = tuple(encodable(line) for line in traceback) if isinstance(traceback, list) else ()
    numbers = [int(n) for line in lines for n in _LINE.findall(strip_ansi(line[:_LINE_WITHIN]))[:1]]
    return ErrorOutput(
        name=encodable(name), message=encodable(message), traceback=lines, line=numbers[0] if numbers else None
    )


def variables_of(listed: object) -> tuple[Variable, ...]:
    """Variables as the kernel describes them; what is malformed or beyond all measure is left out."""
    found = []
    for entry in listed[:_VARIABLES] if isinstance(listed, list) else []:
        try:
            variable = Variable.model_validate(entry)
            if max(len(variable.name), len(variable.type), len(variable.shape or ())) > _NAME:
                continue
            variable.model_dump_json()  # it has to be written later
            found.append(variable)
        except ValueError:
            continue
    return tuple(found)
