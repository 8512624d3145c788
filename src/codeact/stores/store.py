"""What every store of conversations is: its values, its bounds, and the contract.

A conversation is a list of events that only grows. Each event has a sequence number, and a writer says after which one
it goes on: where another was first it is refused, so that two never interleave. Live events are kept, too, so that a
reply can be followed and picked up again while it streams; they go when the event comes that repeats them whole, and
sequence numbers then have gaps.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, ValidationError

from codeact.contracts import Value
from codeact.errors import NotStored, StoreConflict, StoreRefused, StoreUnavailable
from codeact.events import EVENT, LIVE, Event
from codeact.stores.cursor import Cursor
from codeact.stores.watch import Watch
from codeact.stores.words import asked, found_in, words
from codeact.trajectory import MAX_LINE, dump

MAX_APPEND = MAX_LINE
"""Bytes of JSON that one append may have, as for a line of a trajectory."""
MAX_EVENTS = 1000
"""Events of one append."""
MAX_FILE = 64 * 1024 * 1024
"""Bytes of one file."""
MAX_SETTINGS = 64 * 1024
"""Bytes of JSON of a conversation's settings."""
MAX_TITLE = 300
MAX_PAGE = 200
_INDEXED = 1_000_000  # characters of one append that can be found
_ID = re.compile(r"[0-9a-f]{32}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")

VOIDS: Final = {
    "model_replied": ("turn_started", "model_delta"),
    "model_restarted": ("turn_started", "model_delta"),
    "execution_finished": ("execution_started", "execution_output"),
}
"""A type of event, and the live type that it makes void back to the last event of the type that is named first."""


class Conversation(Value):
    """What a list shows. Times in seconds since the epoch; ``updated`` is that of its last event.

    ``owner`` is the user's id. ``head`` is the last sequence number, 0 while there is none. ``settings`` are whatever
    the application keeps with it. Untrusted: the title is what a person or a model wrote.
    """

    id: str
    owner: str
    title: str = ""
    created: float
    updated: float
    pinned: bool = False
    head: int = 0
    settings: dict[str, JsonValue] = Field(default_factory=dict)


class Record(Value):
    """An event in its place. ``parent``: the sequence number after which a branch goes on; None: the one before."""

    seq: int
    event: Event
    parent: int | None = None


class Page(Value):
    """Some conversations, and the cursor for those after them (None: there are none)."""

    conversations: tuple[Conversation, ...]
    cursor: str | None = None


class StoredFile(Value):
    """A file of a conversation: an upload, or a large output. ``sha256`` in hex. Untrusted: name, type and content."""

    name: str
    mime: str
    size: int
    sha256: str
    created: float


@dataclass(frozen=True, slots=True)
class Entry:
    """An event as a database keeps it: ``body`` is JSON, ``words`` are those that it is found by."""

    seq: int
    parent: int | None
    type: str
    body: str
    words: tuple[str, ...]


class Store(ABC):
    """Conversations that last. Use as an async context manager; from one event loop.

    Who may see what is the caller's to decide: ``owner`` narrows only ``list``. Ids cannot be guessed (128 bits).
    All methods raise StoreUnavailable where the database fails, and NotStored for what is not there. A cancelled call
    leaves a write whole or undone; ``get`` tells.
    """

    def __init__(self) -> None:
        self._watch = Watch(self._heads)

    # --- conversations ---

    async def create(
        self,
        owner: str,
        *,
        title: str = "",
        settings: Mapping[str, JsonValue] | None = None,
        pinned: bool = False,
        created: float | None = None,
    ) -> Conversation:
        """A new conversation. ``created``: when it truly began, for one that comes from elsewhere. Raises StoreRefused
        for settings that are too large."""
        began = _past(created)
        conversation = Conversation(
            id=secrets.token_hex(16),
            owner=_owner(owner),
            title=clean_title(title),
            created=began,
            updated=began,
            pinned=pinned,
            settings=json.loads(_settings(settings or {})),
        )
        await self._create(conversation, words(conversation.title))
        return conversation

    async def get(self, id: str) -> Conversation:
        return await self._get(_known(id))

    async def list(self, owner: str, *, search: str = "", limit: int = 50, cursor: str | None = None) -> Page:
        """The owner's conversations, pinned ones first, then the latest.

        ``search``: only those whose title or one of whose messages has every word (``words.py``). ``cursor`` goes on
        after an earlier page; one that moved to the front meanwhile is not told again. Raises StoreRefused for a broken
        cursor.
        """
        after = None if cursor is None else Cursor.read(cursor)
        question = asked(search)
        if search.strip() and not question:
            return Page(conversations=())
        limit = max(1, min(limit, MAX_PAGE))
        found = await self._list(_owner(owner), question, limit + 1, after)
        more = len(found) > limit
        last = found[limit - 1] if more else None
        following = None if last is None else Cursor(last.pinned, last.updated, last.id).text()
        return Page(conversations=tuple(found[:limit]), cursor=following)

    async def update(
        self,
        id: str,
        *,
        title: str | None = None,
        pinned: bool | None = None,
        settings: Mapping[str, JsonValue] | None = None,
    ) -> Conversation:
        """Change what is given. ``settings`` replaces all of them. Raises StoreRefused where they are too large."""
        changes: dict[str, object] = {}
        if title is not None:
            changes["title"] = clean_title(title)
        if pinned is not None:
            changes["pinned"] = pinned
        if settings is not None:
            changes["settings"] = _settings(settings)
        if changes:
            await self._update(_known(id), changes, None if title is None else words(str(changes["title"])))
        return await self.get(id)

    async def delete(self, id: str) -> None:
        """Remove it for good: events, files, what searches find. Not from the database's own backups."""
        await self._delete(_known(id))
        self._watch.tell(id, None)

    # --- events ---

    async def append(self, id: str, expected: int, events: Sequence[Event], *, parent: int | None = None) -> int:
        """Add events after number ``expected``, all or none; returns the new head.

        ``parent`` begins a branch: they go on after that number (0: at the beginning), and the first must not be a live
        one. Once this returns, a kill of this process or of the database loses nothing of it.
        Raises StoreConflict where ``expected`` is not the head, StoreRefused for what cannot be kept.
        """
        entries = _entries(expected, events, parent)
        updated = _past(events[-1].time)
        await self._append(_known(id), expected, entries, updated)
        self._watch.tell(id, entries[-1].seq)
        return entries[-1].seq

    def read(self, id: str, *, after: int = 0) -> AsyncIterator[Record]:
        """The events after a number, in order, up to the head of when they are read."""
        return self._read(_known(id), after)

    async def wait(self, id: str, after: int, timeout: float) -> int:
        """Wait until something follows on ``after``: returns the head then, or ``after`` when ``timeout`` seconds are
        over. Writers elsewhere are noticed within a fifth of a second or so. Raises NotStored once it is deleted."""
        head = await self._watch.wait(_known(id), after, timeout)
        if head is None:
            raise missing(id)
        return head

    # --- files ---

    async def put_file(self, id: str, name: str, data: bytes, *, mime: str = "application/octet-stream") -> StoredFile:
        """Keep a file with a conversation; one of this name is replaced. ``name`` is a label and never used as a path.
        Raises StoreRefused for a name or a size that is not allowed."""
        if len(data) > MAX_FILE:
            raise StoreRefused(f"a file may have {MAX_FILE >> 20} MiB, and {_shown(name)} has {len(data):,} bytes")
        if not name or len(name) > 1024 or _CONTROL.search(name) or len(mime) > 200 or _CONTROL.search(mime):
            raise StoreRefused(f"{_shown(name)} is no name for a file: use 1 to 1,024 printable characters")
        digest = sha256(data).hexdigest()
        file = StoredFile(name=name, mime=mime, size=len(data), sha256=digest, created=time.time())
        await self._put_file(_known(id), file, data)
        return file

    async def file(self, id: str, name: str) -> bytes:
        return await self._file(_known(id), name)

    async def files(self, id: str) -> tuple[StoredFile, ...]:
        """The files of a conversation by name."""
        return tuple(await self._files(_known(id)))

    async def delete_file(self, id: str, name: str) -> None:
        await self._delete_file(_known(id), name)

    # --- lifetime ---

    async def close(self) -> None:
        """Let go of the database. Safe to call twice."""
        await self._watch.close()
        await self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # --- what a database does ---

    @abstractmethod
    async def _create(self, conversation: Conversation, words: tuple[str, ...]) -> None: ...

    @abstractmethod
    async def _get(self, id: str) -> Conversation: ...

    @abstractmethod
    async def _list(
        self, owner: str, words: tuple[str, ...], limit: int, after: Cursor | None
    ) -> Sequence[Conversation]: ...

    @abstractmethod
    async def _update(self, id: str, changes: Mapping[str, object], words: tuple[str, ...] | None) -> None: ...

    @abstractmethod
    async def _delete(self, id: str) -> None: ...

    @abstractmethod
    async def _append(self, id: str, expected: int, entries: Sequence[Entry], updated: float) -> None: ...

    @abstractmethod
    def _read(self, id: str, after: int) -> AsyncIterator[Record]: ...

    @abstractmethod
    async def _heads(self, ids: Sequence[str]) -> Mapping[str, int]: ...

    @abstractmethod
    async def _put_file(self, id: str, file: StoredFile, data: bytes) -> None: ...

    @abstractmethod
    async def _file(self, id: str, name: str) -> bytes: ...

    @abstractmethod
    async def _files(self, id: str) -> Sequence[StoredFile]: ...

    @abstractmethod
    async def _delete_file(self, id: str, name: str) -> None: ...

    @abstractmethod
    async def _close(self) -> None: ...


def missing(id: str) -> NotStored:
    return NotStored(f"there is no conversation {_shown(id)}: it may have been deleted")


def missing_file(name: str) -> NotStored:
    return NotStored(f"the conversation has no file {_shown(name)}: it may have been deleted")


def conflict(head: int, expected: int) -> StoreConflict:
    return StoreConflict(f"the conversation is at event {head}, not {expected}: read on, then try again", head)


def record(seq: int, parent: int | None, body: str, place: str) -> Record:
    """A row as a record. Raises StoreUnavailable where the database gives back what we never wrote."""
    try:
        return Record(seq=seq, parent=parent, event=EVENT.validate_json(body))
    except ValidationError as error:
        raise StoreUnavailable(f"event {seq} in the store {place} is damaged: restore it from a copy") from error


def clean_title(title: str) -> str:
    """A title as it is kept: one line, not too long."""
    return _CONTROL.sub(" ", title[: 4 * MAX_TITLE]).strip()[:MAX_TITLE]


def _shown(text: str) -> str:
    return repr(text[:60])


def _known(id: str) -> str:
    """The id, where it can be one."""
    if not _ID.fullmatch(id):
        raise missing(id)
    return id


def _owner(owner: str) -> str:
    if not owner or len(owner) > 200 or _CONTROL.search(owner):
        raise StoreRefused(f"{_shown(owner)} is no id of a user: use 1 to 200 printable characters")
    return owner


def _settings(settings: Mapping[str, JsonValue]) -> str:
    try:
        text = json.dumps(dict(settings), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreRefused(f"these settings are not JSON: {error}") from error
    if len(text) > MAX_SETTINGS:
        raise StoreRefused(f"settings may have {MAX_SETTINGS >> 10} KiB, and these have {len(text):,} bytes")
    return text


def _past(moment: float | None) -> float:
    """A time that an event or an archive names, where it can be true."""
    now = time.time()
    return moment if moment is not None and math.isfinite(moment) and 0 <= moment <= now else now


def _entries(expected: int, events: Sequence[Event], parent: int | None) -> list[Entry]:
    if not 1 <= len(events) <= MAX_EVENTS:
        raise StoreRefused(f"an append has 1 to {MAX_EVENTS:,} events, not {len(events):,}")
    if parent is not None and not 0 <= parent <= expected:
        raise StoreRefused(f"a branch cannot follow on event {parent}: the last one is {expected}")
    if parent is not None and isinstance(events[0], LIVE):
        raise StoreRefused("a branch cannot begin with a live event: it would vanish")
    entries, room, indexed = [], MAX_APPEND, _INDEXED
    for seq, event in enumerate(events, expected + 1):
        body = dump(event)
        room -= len(body)
        if room < 0:
            raise StoreRefused(f"events of more than {MAX_APPEND >> 20} MiB are too large to be kept")
        text = found_in(event)[:indexed]
        indexed -= len(text)
        entries.append(Entry(seq, parent, event.type, body.decode(), words(text)))
        parent = None
    return entries


def shown(url: str) -> str:
    """An address without user, password and options, for messages."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    except ValueError:
        return url.partition(":")[0]
