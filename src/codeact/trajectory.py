"""Trajectories: every event of a conversation, one JSON object a line: for disk, replay, evaluation and training.

The first line is the header, ``{"codeact_trajectory": 1, …}``; each further line is one event of ``codeact.events``,
live kinds left out. A reader that meets a version or a kind of event that it does not know refuses the file.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterable
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import IO, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic_core import PydanticSerializationError

from codeact import __version__
from codeact.context import messages
from codeact.contracts import Image, Message, Reply, ReplyParser, Value
from codeact.errors import TrajectoryError, UsageError
from codeact.events import EVENT, LIVE, Event, RunStarted

VERSION = 1
MAX_LINE = 128 * 1024 * 1024
"""Bytes that one line may have; a longer one is refused when written and when read."""


class Header(Value):
    """The first line. ``created`` is ISO 8601 in UTC, ``codeact`` the release that wrote it; other fields are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    codeact_trajectory: Literal[1] = 1
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    codeact: str = __version__


class Trajectory(Value):
    """A trajectory as read. ``torn``: its last line was cut off, as by a kill, and was dropped."""

    header: Header = Field(default_factory=Header)
    events: tuple[Event, ...] = ()
    torn: bool = False


class TrajectoryWriter:
    """Writes a trajectory, each event at once, so that a kill of this process loses none that ``write`` returned from.

    An existing trajectory is replaced; any other file that is not empty is left alone, and so is one that another
    writer has open. Raises UsageError when the file cannot be written, before anything ran. ``facts`` go into the
    header. Not protected: a loss of power (no fsync), and two writers on one path where the file system has no locks.
    """

    def __init__(self, path: str | os.PathLike[str], **facts: str) -> None:
        self.path = Path(path)
        self._file = _open_new(self.path)
        try:
            self._line(Header.model_validate(facts).model_dump_json().encode())
        except TrajectoryError as error:
            raise UsageError(str(error)) from error

    @classmethod
    def reopen(cls, path: str | os.PathLike[str]) -> tuple[TrajectoryWriter, Trajectory]:
        """Go on writing after the events that a trajectory holds, and what it holds. A torn last line is cut off.

        Raises UsageError where it cannot be read and written or another writer has it open, TrajectoryError as
        ``load`` does.
        """
        writer = cls.__new__(cls)
        writer.path = Path(path)
        writer._file, found = _open_again(writer.path)
        return writer, found

    def write(self, event: Event) -> None:
        """Append an event; live ones are skipped. Raises TrajectoryError where the disk refuses it."""
        if not isinstance(event, LIVE):
            self._line(dump(event))

    def close(self) -> None:
        self._file.close()

    def _line(self, line: bytes) -> None:
        if len(line) > MAX_LINE:
            raise TrajectoryError(f"{self.path}: an event of {len(line):,} bytes is too large to be kept")
        try:
            rest = memoryview(line + b"\n")
            while rest:
                rest = rest[self._file.write(rest) :]
        except (OSError, ValueError) as error:  # ValueError: closed, by us or after an earlier failure
            self.close()
            raise TrajectoryError(f"the trajectory {self.path} cannot be written: {error}") from error

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def dump(event: Event) -> bytes:
    """One event as one line of JSON, without the line end. Lone surrogates, which UTF-8 cannot hold, become ``?``."""
    try:
        return EVENT.dump_json(event)
    except PydanticSerializationError:
        return json.dumps(event.model_dump(), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def save(path: str | os.PathLike[str], events: Iterable[Event], **facts: str) -> None:
    """Write a whole trajectory; raises as ``TrajectoryWriter`` does."""
    with TrajectoryWriter(path, **facts) as writer:
        for event in events:
            writer.write(event)


def load(path: str | os.PathLike[str]) -> Trajectory:
    """Read a trajectory. Raises UsageError where no file can be read, TrajectoryError naming the line otherwise."""
    path = Path(path)
    try:
        _refuse_special(path)
        with path.open("rb") as file:
            return _read(file, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error


def _refuse_special(path: Path) -> None:
    if not stat.S_ISREG(path.stat().st_mode):
        raise UsageError(f"{path} is not a file: name a trajectory (.jsonl)")


def _read(file: IO[bytes], path: Path) -> Trajectory:
    header: Header | None = None
    events: list[Event] = []
    torn = False
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise TrajectoryError(f"{path}, line {number}: longer than {MAX_LINE:,} bytes")
        if header is None:
            header = _header(line, path)
        elif line.strip():
            try:
                events.append(EVENT.validate_json(line))
            except ValidationError as error:
                if not line.endswith(b"\n") and error.errors()[0]["type"] == "json_invalid":
                    torn = True
                else:
                    raise TrajectoryError(f"{path}, line {number}: {_why(error)}") from error
    if header is None:
        raise TrajectoryError(f"{path} is empty: nothing was recorded in it")
    return Trajectory(header=header, events=tuple(events), torn=torn)


def _header(line: bytes, path: Path) -> Header:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or "codeact_trajectory" not in found:
        raise TrajectoryError(f"{path}, line 1: not a codeact trajectory (no header)")
    version = found["codeact_trajectory"]
    if version != VERSION or isinstance(version, bool):
        found_version = str(version)[:20]
        raise TrajectoryError(f"{path} has version {found_version}; this codeact reads {VERSION}: use a newer release")
    try:
        return Header.model_validate(found)
    except ValidationError as error:
        raise TrajectoryError(f"{path}, line 1: {_why(error)}") from error


def _why(error: ValidationError) -> str:
    """The first thing wrong, on one line, without the input."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "union_tag_invalid":
        return f"unknown type of event {str(first['ctx']['tag'])[:40]!r}"
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]


def _open_new(path: Path) -> FileIO:
    """The file, opened empty. Devices such as /dev/stdout will do too."""
    try:
        mode = path.stat().st_mode if path.exists() else stat.S_IFREG
        if stat.S_ISREG(mode):
            _refuse_foreign(path)
        elif not stat.S_ISCHR(mode):
            raise UsageError(f"{path} is not a file: name another to save the trajectory in")
        file = path.open("ab", buffering=0)
        if stat.S_ISREG(mode):
            _lock(file, path)
            file.truncate(0)
        return file
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"the trajectory cannot be saved in {path}: {reason}") from error


def _open_again(path: Path) -> tuple[FileIO, Trajectory]:
    """The file, open behind its last whole line, and what it holds."""
    try:
        _refuse_special(path)
        file = path.open("r+b", buffering=0)
        try:
            _lock(file, path)
            with path.open("rb") as reader:
                found = _read(reader, path)
            _end_line(file, found.torn)
        except BaseException:
            file.close()
            raise
    except OSError as error:
        raise UsageError(f"{path} cannot be gone on with: {error.strerror or error}") from error
    return file, found


def _end_line(file: FileIO, torn: bool) -> None:
    """Go to the end of the file, which becomes that of a line: what is torn of the last one is cut off."""
    end = file.seek(0, os.SEEK_END)
    start = max(0, end - MAX_LINE - 1)
    file.seek(start)
    tail = file.readall()
    if not tail.endswith(b"\n") and torn:
        file.truncate(start + tail.rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)
    if not tail.endswith(b"\n") and not torn:
        file.write(b"\n")


def _lock(file: FileIO, path: Path) -> None:
    """Keep other writers away until the file is closed, where the file system has locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise UsageError(f"{path} is being written by another run: end that one, or name another file") from error
    except OSError:
        pass


def _refuse_foreign(path: Path) -> None:
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            start = file.readline(65536)
        try:
            _header(start, path)
        except TrajectoryError as error:
            raise UsageError(f"{path} exists and is not a trajectory of this version: name another file") from error


# --- the original's record ----------------------------------------------------------------------------------------


class _Upstream:
    """The roles and words of the original training records: tags in the text, observations in the user's role."""

    name = "upstream"
    stop: tuple[str, ...] = ()
    tools: tuple[dict[str, object], ...] = ()

    def system_prompt(self, environment: str) -> str:
        return environment

    def parser(self, *, lenient: bool = True) -> ReplyParser:
        raise NotImplementedError("records are written in this format, not read")

    def render_reply(self, reply: Reply) -> Message:
        text = reply.text
        if reply.tool_call and reply.code is not None:  # a native call has its code outside the text
            text = f"{text}\n<execute>\n{reply.code}\n</execute>".lstrip("\n")
        return Message(role="assistant", text=text)

    def render_observation(self, reply: Reply, text: str, images: tuple[Image, ...] = ()) -> Message:
        return Message(role="user", text=f"Execution Output:\n{text}")


def to_conversations(trajectory: Trajectory, id: str) -> dict[str, object]:
    """The record that the original trains on: ``{"id", "conversations": [{"role", "content"}]}``, nothing left out but
    pictures, which such a record cannot hold."""
    turns = messages(trajectory.events, format=_Upstream())
    return {"id": id, "conversations": [{"role": m.role, "content": m.text} for m in turns]}


def to_preference(before: Iterable[Event], chosen: Iterable[Event], rejected: Iterable[Event]) -> dict[str, object]:
    """A record for preference training: ``{"prompt", "chosen", "rejected"}``, each a list of ``{"role", "content"}``.

    ``before`` is the history that both went on from; each of the two begins with its ``RunStarted``. This is the
    conversational form of DPO data (huggingface.co/docs/trl/dataset_formats).
    """

    def told(events: Iterable[Event]) -> list[dict[str, str]]:
        turns = messages(tuple(events), format=_Upstream())
        return [{"role": m.role, "content": m.text} for m in turns]

    before, chosen, rejected = tuple(before), tuple(chosen), tuple(rejected)
    prompt = told((*before, *(event for event in chosen if isinstance(event, RunStarted))))
    both = (told((*before, *events))[len(prompt) :] for events in (chosen, rejected))
    return {"prompt": prompt, **dict(zip(("chosen", "rejected"), both, strict=True))}
