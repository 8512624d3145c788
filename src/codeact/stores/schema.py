"""The tables of a SQL store, and the steps from each version of them to the next.

A new store takes all steps, an old one those that it lacks, in one transaction. A step is never changed once it is
released: what a later version needs is another step, and ``tests/stores/versions`` then gets a file of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    inspect,
    select,
)

from codeact.errors import StoreVersionError
from codeact.stores.store import record
from codeact.stores.words import found_in, words

METADATA = MetaData()

CONVERSATION = Table(
    "codeact_conversation",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("owner", Text),
    Column("title", Text),
    Column("created", Float(53)),
    Column("updated", Float(53)),
    Column("pinned", Boolean),
    Column("head", BigInteger),
    Column("settings", Text),
)
EVENTS = Table(
    "codeact_event",
    METADATA,
    Column("conversation", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("parent", BigInteger),
    Column("type", Text),
    Column("size", BigInteger),
    Column("body", Text),
)
FILES = Table(
    "codeact_file",
    METADATA,
    Column("conversation", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("mime", Text),
    Column("size", BigInteger),
    Column("sha256", Text),
    Column("created", Float(53)),
    Column("data", LargeBinary),
)
VERSION_TABLE = Table("codeact_store", METADATA, Column("version", Integer))

_CONVERSATIONS = (
    """CREATE TABLE codeact_conversation (
        id text PRIMARY KEY, owner text NOT NULL, title text NOT NULL, created double precision NOT NULL,
        updated double precision NOT NULL, pinned boolean NOT NULL, head bigint NOT NULL, settings text NOT NULL)""",
    "CREATE INDEX codeact_listed ON codeact_conversation (owner, pinned, updated, id)",
    """CREATE TABLE codeact_event (
        conversation text NOT NULL REFERENCES codeact_conversation ON DELETE CASCADE, seq bigint NOT NULL,
        parent bigint, type text NOT NULL, size bigint NOT NULL, body text NOT NULL,
        PRIMARY KEY (conversation, seq))""",
)
_FILES = """CREATE TABLE codeact_file (
    conversation text NOT NULL REFERENCES codeact_conversation ON DELETE CASCADE, name text NOT NULL,
    mime text NOT NULL, size bigint NOT NULL, sha256 text NOT NULL, created double precision NOT NULL,
    data {bytes} NOT NULL, PRIMARY KEY (conversation, name))"""

STEPS: tuple[Mapping[str, tuple[str, ...]], ...] = (
    {"sqlite": _CONVERSATIONS, "postgresql": _CONVERSATIONS},
    {  # version 2: files, and what searches find; seq 0 is the title
        "sqlite": (
            _FILES.format(bytes="blob"),
            """CREATE TABLE codeact_message (
                id integer PRIMARY KEY, conversation text NOT NULL REFERENCES codeact_conversation ON DELETE CASCADE,
                seq bigint NOT NULL, words text NOT NULL, UNIQUE (conversation, seq))""",
            """CREATE VIRTUAL TABLE codeact_search USING fts5(
                words, content='codeact_message', content_rowid='id', tokenize='ascii', detail=none)""",
            """CREATE TRIGGER codeact_found AFTER INSERT ON codeact_message BEGIN
                INSERT INTO codeact_search (rowid, words) VALUES (new.id, new.words); END""",
            """CREATE TRIGGER codeact_lost AFTER DELETE ON codeact_message BEGIN
                INSERT INTO codeact_search (codeact_search, rowid, words) VALUES ('delete', old.id, old.words); END""",
        ),
        "postgresql": (
            _FILES.format(bytes="bytea"),
            """CREATE TABLE codeact_message (
                conversation text NOT NULL REFERENCES codeact_conversation ON DELETE CASCADE,
                seq bigint NOT NULL, words tsvector NOT NULL, PRIMARY KEY (conversation, seq))""",
            "CREATE INDEX codeact_search ON codeact_message USING gin (words)",
        ),
    },
)
VERSION = len(STEPS)

Index = Callable[[Connection, str, Mapping[int, tuple[str, ...]]], None]
"""Makes the events of a conversation found by their words; how, the databases differ in."""


def version(connection: Connection) -> int:
    """The version of the store here, 0 where there is none. Raises StoreVersionError for a newer one."""
    if not inspect(connection).has_table(VERSION_TABLE.name):
        return 0
    found = connection.execute(select(VERSION_TABLE.c.version)).scalar_one()
    if found > VERSION:
        raise StoreVersionError(
            f"this store has version {found}, and this codeact knows {VERSION}: use the newer release that made it"
        )
    return int(found)


def migrate(connection: Connection, index: Index, to: int = VERSION) -> None:
    """Take the steps that this store lacks. In a transaction that nobody else is in."""
    found = version(connection)
    if found >= to:
        return
    for step in STEPS[found:to]:
        for statement in step[connection.dialect.name]:
            connection.exec_driver_sql(statement)
    if found == 0:
        connection.exec_driver_sql("CREATE TABLE codeact_store (version integer NOT NULL)")
        connection.execute(VERSION_TABLE.insert().values(version=to))
    else:
        connection.execute(VERSION_TABLE.update().values(version=to))
    if found == 1 and to >= 2:
        _index_all(connection, index)


def _index_all(connection: Connection, index: Index) -> None:
    """What version 1 held is found from version 2 on."""
    event = EVENTS.c
    for id, title in connection.execute(select(CONVERSATION.c.id, CONVERSATION.c.title)).all():
        index(connection, id, {0: words(title)})
        after = 0
        ahead = select(event.seq, event.body).where(event.conversation == id).order_by(event.seq).limit(20)
        while rows := connection.execute(ahead.where(event.seq > after)).all():
            index(connection, id, {seq: words(found_in(record(seq, None, body, "here").event)) for seq, body in rows})
            after = rows[-1][0]
