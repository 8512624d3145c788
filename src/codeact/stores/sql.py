"""The store in a SQL database. What SQLite and PostgreSQL differ in is in ``sqlite.py`` and ``postgresql.py``.

SQLAlchemy is used as it is, without asyncio, in a few threads of the store's own: a transaction is then one hop to a
thread instead of one for each statement, and what a cancelled caller began is finished there.
"""

from __future__ import annotations

import asyncio
import json
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    func,
    insert,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from codeact.errors import StoreError, StoreUnavailable
from codeact.stores.cursor import Cursor
from codeact.stores.schema import CONVERSATION, EVENTS, FILES, migrate, version
from codeact.stores.store import (
    VOIDS,
    Conversation,
    Entry,
    Record,
    Store,
    StoredFile,
    conflict,
    missing,
    missing_file,
    record,
)

_READ_EVENTS = 500
_READ_BYTES = 8 * 1024 * 1024
_FILE_COLUMNS = [column for column in FILES.c if column.name not in ("conversation", "data")]
_T = TypeVar("_T")


class SQLStore(Store):
    """What both databases share. ``place`` is their address without secrets, for messages."""

    message: Table
    """The table of what is found, with the columns conversation, seq, words."""

    def __init__(self, engine: Engine, place: str, *, threads: int, writers: int) -> None:
        super().__init__()
        self._engine = engine
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="codeact-store")
        self._writers = ThreadPoolExecutor(writers, thread_name_prefix="codeact-store")
        self.place = place

    # --- what the databases differ in ---

    @abstractmethod
    def _indexed(self, words: tuple[str, ...]) -> object:
        """The words as a parameter of an insertion into ``message``."""

    @abstractmethod
    def _holds(self, words: tuple[str, ...]) -> ColumnElement[bool]:
        """Whether a conversation has a message with all these words, the last of them a beginning."""

    def _word_value(self, given: Any) -> Any:
        """The parameter as the table keeps it."""
        return given

    def _check_empty(self, connection: Connection) -> None:
        """Refuse a database of another program."""

    def _lock_schema(self, connection: Connection) -> None:
        """Keep others from migrating."""

    def _scrub(self) -> None:
        """After a deletion: leave nothing of it behind, as far as this database lets us."""

    # --- transactions ---

    async def _run(self, work: Callable[[Connection], _T], *, writes: bool = False, scrub: bool = False) -> _T:
        """Do work in a transaction. The one boundary at which the database's errors become ours."""

        def transaction() -> _T:
            try:
                with self._engine.connect() as connection:
                    connection.execution_options(codeact_writes=writes)
                    with connection.begin():
                        done = work(connection)
                if scrub:
                    self._scrub()
                return done
            except (SQLAlchemyError, OSError) as error:
                raise self._translated(error) from error

        try:
            future = (self._writers if writes else self._readers).submit(transaction)
        except RuntimeError as error:
            raise StoreUnavailable(f"the store {self.place} is closed") from error
        return await asyncio.wrap_future(future)

    def _translated(self, error: Exception) -> StoreError:
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        return StoreUnavailable(f"the store {self.place} failed: {reason[:300] or type(error).__name__}")

    async def migrate(self) -> None:
        """Make the tables, or bring them to this version."""

        def look(connection: Connection) -> None:
            if version(connection) == 0:
                self._check_empty(connection)

        def move(connection: Connection) -> None:
            self._lock_schema(connection)
            migrate(connection, self._index)

        await self._run(look)
        await self._run(move, writes=True)

    # --- conversations ---

    async def _create(self, conversation: Conversation, words: tuple[str, ...]) -> None:
        row = conversation.model_dump() | {"settings": json.dumps(conversation.settings)}

        def work(connection: Connection) -> None:
            connection.execute(insert(CONVERSATION).values(row))
            self._index(connection, conversation.id, {0: words})

        await self._run(work, writes=True)

    async def _get(self, id: str) -> Conversation:
        wanted = select(CONVERSATION).where(CONVERSATION.c.id == id)
        row = await self._run(lambda connection: connection.execute(wanted).one_or_none())
        if row is None:
            raise missing(id)
        return _conversation(row)

    async def _list(
        self, owner: str, words: tuple[str, ...], limit: int, after: Cursor | None
    ) -> Sequence[Conversation]:
        place = (CONVERSATION.c.pinned, CONVERSATION.c.updated, CONVERSATION.c.id)
        later = true() if after is None else tuple_(*place) < tuple_(after.pinned, after.updated, after.id)
        found = self._holds(words) if words else true()
        wanted = select(CONVERSATION).where(CONVERSATION.c.owner == owner, later, found)
        ordered = wanted.order_by(*(column.desc() for column in place)).limit(limit)
        return [_conversation(row) for row in await self._run(lambda connection: connection.execute(ordered).all())]

    async def _update(self, id: str, changes: Mapping[str, object], words: tuple[str, ...] | None) -> None:
        change = update(CONVERSATION).where(CONVERSATION.c.id == id).values(dict(changes))

        def work(connection: Connection) -> None:
            if not connection.execute(change).rowcount:
                raise missing(id)
            if words is not None:
                old = and_(self.message.c.conversation == id, self.message.c.seq == 0)
                connection.execute(delete(self.message).where(old))
                self._index(connection, id, {0: words})

        await self._run(work, writes=True)

    async def _delete(self, id: str) -> None:
        def work(connection: Connection) -> None:
            if not connection.execute(delete(CONVERSATION).where(CONVERSATION.c.id == id)).rowcount:
                raise missing(id)

        await self._run(work, writes=True, scrub=True)

    # --- events ---

    async def _append(self, id: str, expected: int, entries: Sequence[Entry], updated: float) -> None:
        # the change of the head is the lock: whoever comes second finds another head than expected
        head = CONVERSATION.c.head
        latest = func.max if self._engine.dialect.name == "sqlite" else func.greatest
        taken = (
            update(CONVERSATION)
            .where(CONVERSATION.c.id == id, head == expected)
            .values(head=entries[-1].seq, updated=latest(CONVERSATION.c.updated, updated))
        )
        rows = [
            {"conversation": id, "seq": e.seq, "parent": e.parent, "type": e.type, "size": len(e.body), "body": e.body}
            for e in entries
        ]

        def work(connection: Connection) -> None:
            if not connection.execute(taken).rowcount:
                now = connection.execute(select(head).where(CONVERSATION.c.id == id)).scalar_one_or_none()
                if now is None:
                    raise missing(id)
                raise conflict(now, expected)
            connection.execute(insert(EVENTS), rows)
            self._index(connection, id, {e.seq: e.words for e in entries})
            for entry in entries:
                if entry.type in VOIDS:
                    connection.execute(_live_before(id, entry))

        await self._run(work, writes=True)

    def _index(self, connection: Connection, id: str, found: Mapping[int, tuple[str, ...]]) -> None:
        """Make events found by their words; number 0 is the title."""
        rows = [
            {"conversation": id, "seq": seq, "given": self._indexed(words)} for seq, words in found.items() if words
        ]
        if rows:
            value = self._word_value(bindparam("given", type_=self.message.c.words.type))
            connection.execute(insert(self.message).values(words=value), rows)

    async def _read(self, id: str, after: int) -> AsyncIterator[Record]:
        """Page after page, each in a transaction of its own, so that a slow reader holds nothing."""
        until = (await self._get(id)).head

        def page(connection: Connection) -> Sequence[Row[int, int | None, str]]:
            return connection.execute(_page(id, after, until)).all()

        while after < until:
            rows = await self._run(page)
            if not rows:  # the last ones were live and have gone, or all of it has
                await self._get(id)
                return
            for seq, parent, body in rows:
                yield record(seq, parent, body, self.place)
            after = rows[-1][0]

    async def _heads(self, ids: Sequence[str]) -> Mapping[str, int]:
        wanted = select(CONVERSATION.c.id, CONVERSATION.c.head).where(CONVERSATION.c.id.in_(ids))
        return {id: head for id, head in await self._run(lambda connection: connection.execute(wanted).all())}

    # --- files ---

    async def _put_file(self, id: str, file: StoredFile, data: bytes) -> None:
        # locked where rows can be, so that no deletion comes between
        here = select(CONVERSATION.c.id).where(CONVERSATION.c.id == id).with_for_update(key_share=True, read=True)
        old = delete(FILES).where(FILES.c.conversation == id, FILES.c.name == file.name)

        def work(connection: Connection) -> bool:
            if connection.execute(here).scalar_one_or_none() is None:
                raise missing(id)
            connection.execute(old)
            connection.execute(insert(FILES).values(conversation=id, data=data, **file.model_dump()))
            return True

        await self._run(work, writes=True)

    async def _file(self, id: str, name: str) -> bytes:
        wanted = select(FILES.c.data).where(FILES.c.conversation == id, FILES.c.name == name)
        data = await self._run(lambda connection: connection.execute(wanted).scalar_one_or_none())
        if data is None:
            raise missing_file(name)
        return bytes(data)

    async def _files(self, id: str) -> Sequence[StoredFile]:
        await self._get(id)
        wanted = select(*_FILE_COLUMNS).where(FILES.c.conversation == id)
        rows = await self._run(lambda connection: connection.execute(wanted).all())
        return sorted((StoredFile(**row._mapping) for row in rows), key=lambda file: file.name)

    async def _delete_file(self, id: str, name: str) -> None:
        gone = delete(FILES).where(FILES.c.conversation == id, FILES.c.name == name)

        def work(connection: Connection) -> None:
            if not connection.execute(gone).rowcount:
                raise missing_file(name)

        await self._run(work, writes=True, scrub=True)

    async def _close(self) -> None:
        def close() -> None:
            for threads in (self._writers, self._readers):
                threads.shutdown()
            self._engine.dispose()

        await asyncio.to_thread(close)


def _page(id: str, after: int, until: int) -> Select[int, int | None, str]:
    """The next events, as many as have some megabytes, and one at least."""
    event = EVENTS.c
    ahead = (
        select(event.seq, event.size, func.sum(event.size).over(order_by=event.seq).label("total"))
        .where(event.conversation == id, event.seq > after, event.seq <= until)
        .order_by(event.seq)
        .limit(_READ_EVENTS)
        .subquery()
    )
    return (
        select(event.seq, event.parent, event.body)
        .join(ahead, ahead.c.seq == event.seq)
        .where(event.conversation == id, ahead.c.total - ahead.c.size < _READ_BYTES)
        .order_by(event.seq)
    )


def _live_before(id: str, entry: Entry) -> Any:
    """Deletes the live events that this one repeats whole."""
    since, live = VOIDS[entry.type]
    event = EVENTS.c
    start = (
        select(event.seq)
        .where(event.conversation == id, event.seq < entry.seq, event.type == since)
        .order_by(event.seq.desc())
        .limit(1)
        .scalar_subquery()
    )
    between = and_(event.seq < entry.seq, event.seq > func.coalesce(start, 0))
    return delete(EVENTS).where(event.conversation == id, event.type == live, between)


def _conversation(row: Any) -> Conversation:
    return Conversation(**{**row._mapping, "settings": json.loads(row.settings)})
