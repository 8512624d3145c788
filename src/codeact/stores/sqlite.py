"""The store in one file of SQLite: no server, no set-up, for one machine.

The file is made for its owner only (mode 0600), and so are the two that SQLite keeps beside it while it is open.
Several processes may open it. Not for network file systems, on which SQLite's write-ahead log does not work.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Integer,
    MetaData,
    QueuePool,
    Table,
    Text,
    column,
    create_engine,
    event,
    select,
    table,
    text,
)

from codeact.errors import StoreRefused, StoreUnavailable
from codeact.stores.schema import CONVERSATION
from codeact.stores.sql import SQLStore

_PATIENCE = 15
"""Seconds to wait for another process that writes."""
_READERS = 3
_SCRUB = f"""
    INSERT INTO codeact_search (codeact_search) VALUES ('optimize');
    PRAGMA busy_timeout = 1000;
    PRAGMA incremental_vacuum;
    PRAGMA wal_checkpoint(TRUNCATE);
    PRAGMA busy_timeout = {_PATIENCE * 1000};
"""

_MESSAGE = Table(
    "codeact_message",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("conversation", Text),
    Column("seq", Integer),
    Column("words", Text),
)
_SEARCH = table("codeact_search", column("rowid", Integer), column("codeact_search", Text))


async def open_sqlite(path: str) -> SQLiteStore:
    """The store in this file, made where there is none. Raises as ``open_store`` does."""
    _make_private(Path(path))
    store = SQLiteStore(path)
    try:
        await store.migrate()
    except BaseException:
        await store.close()
        raise
    return store


class SQLiteStore(SQLStore):
    """A commit is in the file's log when ``append`` returns: safe from a kill of this process. A loss of power may cost
    the last commits, never the file (``synchronous=NORMAL``)."""

    message = _MESSAGE

    def __init__(self, path: str) -> None:
        address = f"file:{quote(os.path.abspath(path))}?mode=rw"  # it was made before, with its permissions
        engine = create_engine(
            "sqlite://",
            creator=lambda: sqlite3.connect(address, uri=True, timeout=_PATIENCE, check_same_thread=False),
            poolclass=QueuePool,
            pool_size=_READERS + 1,
            max_overflow=0,
        )
        event.listen(engine, "connect", _connected)
        event.listen(engine, "begin", _begin)
        super().__init__(engine, path, threads=_READERS, writers=1)

    def _indexed(self, words: tuple[str, ...]) -> str:
        return " ".join(words)

    def _holds(self, words: tuple[str, ...]) -> ColumnElement[bool]:
        question = " AND ".join(f'"{word}"' for word in words) + "*"  # words are letters and digits only
        found = (
            select(_MESSAGE.c.conversation)
            .join(_SEARCH, _SEARCH.c.rowid == _MESSAGE.c.id)
            .where(_SEARCH.c.codeact_search.op("MATCH")(question))
        )
        return CONVERSATION.c.id.in_(found)

    def _check_empty(self, connection: Connection) -> None:
        if connection.execute(text("SELECT count(*) FROM sqlite_master")).scalar_one():
            raise StoreRefused(f"{self.place} is a database of another program: name another file")

    def _scrub(self) -> None:
        """Deleted rows are overwritten (``secure_delete``); what is left in the index and the log goes here.

        Another process that reads just now keeps the log from being emptied: then the next deletion or close does it.
        """
        with self._engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            try:
                raw.executescript(_SCRUB)
            except sqlite3.Error as error:
                raise self._translated(error) from error


def _connected(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say
    cursor = connection.cursor()
    for setting in (
        "auto_vacuum=INCREMENTAL",  # before the first table, so that a deletion gives its space back
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "secure_delete=ON",
    ):
        _set(cursor, setting)
    cursor.close()


def _set(cursor: sqlite3.Cursor, setting: str) -> None:
    """Make a setting. SQLite waits for whoever else has a new file open at most statements, but not at these."""
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            cursor.execute(f"PRAGMA {setting}")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            if time.monotonic() > give_up:
                raise
        time.sleep(0.01)


def _begin(connection: Any) -> None:
    writes = connection.get_execution_options().get("codeact_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _make_private(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        if not path.is_file():
            raise StoreUnavailable(f"{path} is not a file: name another for the conversations")
    except OSError as error:
        reason = error.strerror or error
        raise StoreUnavailable(f"the conversations cannot be kept in {path}: {reason}") from error
