"""Stores that earlier versions made: ``versions/DATABASE-N.sql`` is one of version N, as that version wrote it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from codeact.errors import StoreUnavailable
from codeact.events import ModelReplied, RunStarted
from codeact.stores import open_store
from codeact.stores.schema import VERSION
from codeact.stores.store import Store
from tests.stores.contract import records, said, titles
from tests.stores.postgres import Postgres

OLD = Path(__file__).parent / "versions"
ID = "0123456789abcdef" * 2


async def check(store: Store) -> None:
    """The conversation that stands in each of the files is there, with all that a store can do by now."""
    kept = await records(store, ID)
    assert [(record.seq, record.parent) for record in kept] == [(1, None), (2, None), (4, None), (5, 2)]
    assert isinstance(kept[0].event, RunStarted) and kept[0].event.task == "How many rows, in 北京?"
    assert isinstance(kept[2].event, ModelReplied)
    made = await store.get(ID)
    assert (made.owner, made.title, made.head, made.settings) == ("ann", "Old cars", 5, {"model": "m"})
    assert await titles(store, search="old") == await titles(store, search="rows 京") == ["Old cars"]
    await store.put_file(ID, "new", b"x")
    await store.append(ID, 5, [said("new")])
    await store.delete(ID)
    assert await titles(store) == await titles(store, search="rows") == []


@pytest.mark.parametrize("version", range(1, VERSION))
async def test_an_old_file_is_brought_up_to_date(version: int, tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    connection = sqlite3.connect(file)
    connection.executescript((OLD / f"sqlite-{version}.sql").read_text())
    connection.close()
    for _ in range(2):
        async with await open_store(str(file)) as store:
            assert (await store.get(ID)).title == "Old cars"
    async with await open_store(str(file)) as store:
        await check(store)
    connection = sqlite3.connect(file)
    assert connection.execute("SELECT version FROM codeact_store").fetchall() == [(VERSION,)]
    connection.close()


@pytest.mark.parametrize("version", range(1, VERSION))
async def test_an_old_database_is_brought_up_to_date(version: int, postgres: Postgres) -> None:
    schema = postgres.create()
    postgres.psql(f"SET search_path TO {schema}", (OLD / f"postgresql-{version}.sql").read_text())
    async with await open_store(postgres.url(schema)) as store:
        await check(store)
    assert str(VERSION) in postgres.psql(f"SELECT version FROM {schema}.codeact_store")


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    connection = sqlite3.connect(file)
    connection.executescript((OLD / "sqlite-1.sql").read_text())
    connection.execute("UPDATE codeact_event SET body = 'broken' WHERE seq = 4")
    connection.commit()
    before = list(connection.iterdump())
    with pytest.raises(StoreUnavailable, match=r"event 4 in the store .* is damaged"):
        await open_store(str(file))
    assert list(connection.iterdump()) == before
    connection.close()
