"""Conversations in and out: one as a trajectory, or many with their branches and files as an archive.

An archive is JSON lines, so that it can be written and read as a stream, and a text tool can look into it:

    {"codeact_archive": 1, "created": "…", "codeact": "0.1.0"}
    {"conversation": {"owner": "…", "title": "…", "created": …, "pinned": false, "settings": {…}}}
    {"seq": 1, "parent": null, "event": {…}}                    its events, in order
    {"file": {"name": "…", "mime": "…", "sha256": "…"}}         its files, each followed by its content
    {"data": "base64"}
    {"end": 1}                                                  the number of conversations

What is imported is untrusted: every line is bounded and checked, ids and sequence numbers are made anew, and nothing in
it is used as a path. It is not secret and not signed: whoever can write the file decides what it says.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, ValidationError

from codeact import __version__
from codeact.contracts import Value
from codeact.errors import StoreError, StoreRefused, TrajectoryError
from codeact.events import LIVE, Event
from codeact.stores.branches import path
from codeact.stores.store import MAX_FILE, Record, Store
from codeact.trajectory import MAX_LINE, Header, Trajectory, dump, load

VERSION = 1
MAX_TRAJECTORY = 512 * 1024 * 1024
"""Bytes of a trajectory that is imported; it is read into memory."""
UNFINISHED = "(import not finished)"
"""The title of a conversation while it is imported: what a kill leaves is seen as what it is."""
_CHUNK = 3 * 1024 * 1024
_BATCH_EVENTS = 200
_BATCH_BYTES = 8 * 1024 * 1024


class Head(Value):
    """What an archive says of a conversation."""

    owner: str
    title: str = ""
    created: float
    pinned: bool = False
    settings: dict[str, JsonValue] = Field(default_factory=dict)


class _File(Value):
    name: str
    mime: str
    sha256: str


class _Line(Value):
    """One line after the first: exactly one of its kinds."""

    conversation: Head | None = None
    seq: int | None = None
    parent: int | None = None
    event: Event | None = None
    file: _File | None = None
    data: str | None = None
    end: int | None = None


# --- one conversation as a trajectory ---


async def export_trajectory(store: Store, id: str, *, leaf: int | None = None) -> AsyncIterator[bytes]:
    """The lines of a trajectory: the branch that ends at ``leaf`` (default: at the last event), live events left out.

    Raises NotStored, StoreRefused for an unknown leaf.
    """
    conversation = await store.get(id)
    created = datetime.fromtimestamp(conversation.created, UTC).isoformat(timespec="seconds")
    yield Header.model_validate({"created": created, "title": conversation.title}).model_dump_json().encode() + b"\n"
    for record in path([record async for record in store.read(id)], leaf):
        if not isinstance(record.event, LIVE):
            yield dump(record.event) + b"\n"


async def import_trajectory(store: Store, owner: str, file: Path, *, title: str | None = None) -> str:
    """Keep a trajectory as a new conversation; its id. The title is the one given, or the file's own.

    Raises TrajectoryError for a broken one, StoreRefused for one that is too large, UsageError where it cannot be read.
    """
    trajectory = await asyncio.to_thread(_load, file)
    if not trajectory.events:
        raise TrajectoryError(f"{file.name} holds no event: there is nothing to import")
    named = title if title is not None else (trajectory.header.model_extra or {}).get("title", "")
    head = Head(owner=owner, title=named if isinstance(named, str) else "", created=trajectory.events[0].time)
    importing = _Importing(store)
    try:
        await importing.begin(head)
        for seq, event in enumerate(trajectory.events, 1):
            await importing.add(Record(seq=seq, event=event))
        return await importing.finish()
    except BaseException:
        await importing.undo()
        raise


def _load(file: Path) -> Trajectory:
    if file.is_file() and file.stat().st_size > MAX_TRAJECTORY:
        raise StoreRefused(f"{file.name} has more than {MAX_TRAJECTORY >> 20} MiB: too large to be imported")
    return load(file)


# --- a whole store ---


async def export_archive(store: Store, ids: Iterable[str]) -> AsyncIterator[bytes]:
    """The lines of an archive with these conversations. One that is deleted meanwhile raises NotStored."""
    yield _line({"codeact_archive": VERSION, "created": datetime.now(UTC).isoformat(), "codeact": __version__})
    count = 0
    for id in ids:
        count += 1
        conversation = await store.get(id)
        fields = {"owner", "title", "created", "pinned", "settings"}
        yield _line({"conversation": conversation.model_dump(include=fields)})
        async for record in store.read(id):
            place = json.dumps({"seq": record.seq, "parent": record.parent})[:-1].encode()
            yield place + b', "event": ' + dump(record.event) + b"}\n"
        for file in await store.files(id):
            data = await store.file(id, file.name)
            digest = hashlib.sha256(data).hexdigest()
            yield _line({"file": {"name": file.name, "mime": file.mime, "sha256": digest}})
            for start in range(0, len(data), _CHUNK):
                yield _line({"data": base64.b64encode(data[start : start + _CHUNK]).decode()})
    yield _line({"end": count})


async def ids_of(store: Store, owner: str) -> tuple[str, ...]:
    """All conversations of a user, for ``export_archive``."""
    page = await store.list(owner, limit=200)
    found = [conversation.id for conversation in page.conversations]
    while page.cursor is not None:
        page = await store.list(owner, limit=200, cursor=page.cursor)
        found += [conversation.id for conversation in page.conversations]
    return tuple(dict.fromkeys(found))


async def import_archive(store: Store, file: Path, *, owner: str | None = None) -> tuple[str, ...]:
    """Keep the conversations of an archive as new ones; their ids.

    ``owner``: they become this user's. None keeps the owners that the archive names: only for an archive that an
    administrator trusts. Raises StoreRefused naming the line for what is broken or cut off; then nothing of it stays.
    """
    done: list[str] = []
    importing = _Importing(store)
    try:
        with await asyncio.to_thread(file.open, "rb") as opened:
            lines = _lines(opened)
            while (found := await asyncio.to_thread(next, lines, None)) is not None:
                number, line = found
                if line.conversation is not None:
                    if importing.id:
                        done.append(await importing.finish())
                    await importing.begin(
                        line.conversation.model_copy(update={"owner": owner}) if owner else line.conversation
                    )
                elif line.end is not None:
                    if importing.id:
                        done.append(await importing.finish())
                    if line.end != len(done) or opened.read(1):
                        raise StoreRefused(f"line {number}: the archive does not end where it should")
                    return tuple(done)
                else:
                    await importing.take(line, number)
        raise StoreRefused("the archive is cut off: it has no last line")
    except BaseException as error:
        await importing.undo()
        with contextlib.suppress(StoreError):  # the first error is the one to tell
            for id in done:
                await store.delete(id)
        if isinstance(error, OSError):
            raise StoreRefused(f"{file.name} cannot be read: {error.strerror or error}") from error
        raise


class _Importing:
    """One conversation on its way in. Sequence numbers are counted anew, parents follow them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.id = ""
        self._clear()

    def _clear(self) -> None:
        self._title = ""
        self._head = 0
        self._last = 0
        self._numbers: dict[int, int] = {0: 0}
        self._batch: list[Event] = []
        self._parent: int | None = None
        self._bytes = 0
        self._file: _File | None = None
        self._data = bytearray()

    async def begin(self, head: Head) -> None:
        self._clear()
        self._title = head.title
        created = await self._store.create(
            head.owner, title=UNFINISHED, created=head.created, pinned=head.pinned, settings=head.settings
        )
        self.id = created.id

    async def take(self, line: _Line, number: int) -> None:
        """A line that belongs to this conversation."""
        if not self.id:
            raise StoreRefused(f"line {number}: there is no conversation that it belongs to")
        if line.event is not None and line.seq is not None and self._file is None:
            await self.add(Record(seq=line.seq, parent=line.parent, event=line.event), number)
        elif line.file is not None:
            await self._end_file()
            self._file = line.file
        elif line.data is not None and self._file is not None:
            try:
                self._data += base64.b64decode(line.data, validate=True)
            except (binascii.Error, ValueError) as error:
                raise StoreRefused(f"line {number}: the content of a file is not base64") from error
            if len(self._data) > MAX_FILE:
                raise StoreRefused(f"line {number}: a file has more than {MAX_FILE >> 20} MiB")
        else:
            raise StoreRefused(f"line {number}: not what can follow here")

    async def add(self, record: Record, number: int = 0) -> None:
        """An event. Its parent must stand before it, its number be larger than the last one's."""
        if record.seq <= self._last or (record.parent is not None and not 0 <= record.parent <= self._last):
            raise StoreRefused(f"line {number}: event {record.seq} is not in its place")
        size = len(dump(record.event))
        if record.parent is not None or len(self._batch) >= _BATCH_EVENTS or self._bytes + size > _BATCH_BYTES:
            await self._flush()
        if record.parent is not None:
            self._parent = self._numbers[max(n for n in self._numbers if n <= record.parent)]
        self._batch.append(record.event)
        self._bytes += size
        self._last = record.seq
        self._numbers[record.seq] = self._head + len(self._batch)

    async def _flush(self) -> None:
        if self._batch:
            self._head = await self._store.append(self.id, self._head, self._batch, parent=self._parent)
        self._batch, self._bytes, self._parent = [], 0, None

    async def _end_file(self) -> None:
        if self._file is not None:
            data = bytes(self._data)
            if hashlib.sha256(data).hexdigest() != self._file.sha256:
                raise StoreRefused(f"the file {self._file.name[:60]!r} is not what it was when it was exported")
            await self._store.put_file(self.id, self._file.name, data, mime=self._file.mime)
        self._file, self._data = None, bytearray()

    async def finish(self) -> str:
        """All of it is there; its id."""
        await self._flush()
        await self._end_file()
        await self._store.update(self.id, title=self._title)
        done, self.id = self.id, ""
        return done

    async def undo(self) -> None:
        """Remove what is there of one that is not finished."""
        if self.id:
            unfinished, self.id = self.id, ""
            with contextlib.suppress(StoreError):  # the first error is the one to tell
                await self._store.delete(unfinished)


def _lines(file: Any) -> Iterator[tuple[int, _Line]]:
    first = file.readline(4096)
    try:
        head = json.loads(first)
        found = head["codeact_archive"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreRefused("not an archive of conversations: its first line does not say so") from error
    if found != VERSION or isinstance(found, bool):
        raise StoreRefused(
            f"the archive has version {str(found)[:20]}; this codeact reads {VERSION}: use a newer release"
        )
    number = 1
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise StoreRefused(f"line {number}: longer than {MAX_LINE >> 20} MiB")
        try:
            yield number, _Line.model_validate_json(line)
        except ValidationError as error:
            what = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise StoreRefused(f"line {number}: not what an archive holds ({what[:200]})") from error


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode() + b"\n"
