"""The store in PostgreSQL (13 or newer), for several servers of one service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg as _psycopg  # noqa: F401  said here, so that a missing package is noticed before anything else
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    MetaData,
    Table,
    Text,
    cast,
    create_engine,
    func,
    make_url,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, TSQUERY
from sqlalchemy.exc import ArgumentError

from codeact.errors import UsageError
from codeact.stores.schema import CONVERSATION
from codeact.stores.sql import SQLStore
from codeact.stores.store import shown

_PATIENCE = 30
"""Seconds that one statement may take, and that an answer of the server may be missing."""
_READERS = _WRITERS = 5
_SCHEMA_LOCK = 0x636F6465  # any number that others do not use

_MESSAGE = Table(
    "codeact_message",
    MetaData(),
    Column("conversation", Text),
    Column("seq", BigInteger),
    Column("words", ARRAY(Text)),  # a tsvector, given as an array
)


async def open_postgresql(url: str) -> PostgreSQLStore:
    """The store in this database. Its user may make tables there. Raises as ``open_store`` does."""
    store = PostgreSQLStore(url)
    try:
        await store.migrate()
    except BaseException:
        await store.close()
        raise
    return store


class PostgreSQLStore(SQLStore):
    """Deleted rows are gone for every query at once; their space is overwritten when PostgreSQL vacuums, by itself."""

    message = _MESSAGE

    def __init__(self, url: str) -> None:
        try:
            address = make_url(url).set(drivername="postgresql+psycopg")
        except (ArgumentError, ValueError) as error:
            raise UsageError(f"{shown(url)} is no address of a database: postgresql://USER@HOST/NAME") from error
        options = address.query.get("options", "")
        engine = create_engine(
            address.difference_update_query(["options"]),
            pool_size=_READERS + _WRITERS,
            max_overflow=0,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": 10,
                "tcp_user_timeout": _PATIENCE * 1000,
                "prepare_threshold": None,  # poolers between us and the server do not keep statements
                "options": f"-c statement_timeout={_PATIENCE}s {options}",
            },
        )
        super().__init__(engine, shown(url), threads=_READERS, writers=_WRITERS)

    def _indexed(self, words: tuple[str, ...]) -> Sequence[str]:
        return [*words]

    def _word_value(self, given: Any) -> Any:
        return func.array_to_tsvector(given)

    def _holds(self, words: tuple[str, ...]) -> ColumnElement[bool]:
        question = " & ".join(f"'{word}'" for word in words) + ":*"  # words are letters and digits only
        found = select(_MESSAGE.c.conversation).where(_MESSAGE.c.words.op("@@")(cast(question, TSQUERY)))
        return CONVERSATION.c.id.in_(found)

    def _lock_schema(self, connection: Connection) -> None:
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # a migration takes what it takes
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")
