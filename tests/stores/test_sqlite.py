"""The store in a file of SQLite."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from pathlib import Path

import pytest

from codeact.errors import StoreError, StoreRefused, StoreUnavailable
from codeact.events import ModelDelta, RunStarted, TurnStarted
from codeact.stores import open_store
from tests.stores.contract import StoreContract, notices, replied, said


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/new/conversations é?#.db"


def file_of(url: str) -> str:
    return url.removeprefix("sqlite:///")


class TestContract(StoreContract):
    async def set_version(self, url: str, version: int) -> None:
        connection = sqlite3.connect(file_of(url))
        connection.execute("UPDATE codeact_store SET version = ?", (version,))
        connection.commit()
        connection.close()


async def test_its_files_are_private(url: str) -> None:
    async with await open_store(url) as store:
        await store.create("ann", title="secret")
        files = sorted(Path(file_of(url)).parent.iterdir())
        assert len(files) == 3, "the store, its log and the log's index"
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert stat.S_IMODE(files[0].parent.stat().st_mode) == 0o700
    assert sorted(Path(file_of(url)).parent.iterdir()) == files[:1], "closed, it is one file"


async def test_what_is_deleted_is_in_no_file(url: str) -> None:
    async with await open_store(url) as store, await open_store(url) as other:
        stays = await store.create("ann", title="stays")
        made = await store.create("ann", title="Zanzibarium", settings={"key": "Zanzibarium"})
        await store.append(made.id, 0, [RunStarted(task="zanzibarium " * 500), TurnStarted(turn=1)])
        await store.append(made.id, 2, [ModelDelta(kind="thought", text="zanzibarium")])
        await store.append(made.id, 3, [replied("Zanzibarium")])
        await store.put_file(made.id, "zanzibarium.bin", b"zanzibarium" * 300_000)
        await store.update(made.id, title="Zanzibarium again")
        await other.list("ann", search="zanzibarium")
        files = [Path(file_of(url)), Path(file_of(url) + "-wal")]
        assert b"zanzibarium" in b"".join(file.read_bytes() for file in files).lower()
        large = sum(file.stat().st_size for file in files)
        await store.delete(made.id)
        for file in Path(file_of(url)).parent.iterdir():
            assert b"zanzibarium" not in file.read_bytes().lower(), file
        assert sum(file.stat().st_size for file in files) < large / 10, "its space is given back"
        assert (await other.get(stays.id)).title == "stays"


async def test_another_programs_file_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE notes (text)")
    connection.commit()
    connection.close()
    with pytest.raises(StoreRefused, match="a database of another program"):
        await open_store(str(file))
    text = tmp_path / "notes.txt"
    text.write_text("not a database " * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await open_store(f"sqlite:///{text}")
    assert text.read_text() == "not a database " * 100
    with pytest.raises(StoreUnavailable, match="not a file"):
        await open_store(str(tmp_path))
    with pytest.raises(StoreUnavailable, match="cannot be kept in"):
        await open_store("/proc/none/x.db")


async def test_a_damaged_event_is_told(url: str) -> None:
    async with await open_store(url) as store:
        made = await store.create("ann")
        await store.append(made.id, 0, [said("x"), said("y")])
        connection = sqlite3.connect(file_of(url))
        connection.execute("UPDATE codeact_event SET body = '{' WHERE seq = 2")
        connection.commit()
        connection.close()
        with pytest.raises(StoreError, match=r"event 2 in the store .* is damaged"):
            await notices(store, made.id)


async def test_a_full_disk_loses_nothing_that_was_kept(url: str) -> None:
    async with await open_store(url) as store:
        made = await store.create("ann")
        await store.append(made.id, 0, [said("kept")])
        connection = sqlite3.connect(file_of(url))
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.close()
        await asyncio.to_thread(limit_pages, store, pages + 5)
        with pytest.raises(StoreUnavailable, match="full"):
            await store.append(made.id, 1, [said("x" * 1_000_000)])
        await store.append(made.id, 1, [said("small")])
        assert await notices(store, made.id) == ["kept", "small"]


def limit_pages(store: object, pages: int) -> None:
    """What the store's connections may grow to: the same error as of a full disk."""
    from sqlalchemy import event

    event.listen(store._engine, "begin", lambda c: c.exec_driver_sql(f"PRAGMA max_page_count={pages}"))  # type: ignore[attr-defined]
