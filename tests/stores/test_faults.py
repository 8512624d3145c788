"""Processes and servers that are killed at any moment: what was acknowledged is there, and nothing by half."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from codeact.errors import NotStored, StoreConflict, StoreUnavailable
from codeact.events import RunStarted
from codeact.stores import open_store
from codeact.stores.store import Store
from tests.stores.contract import notices, records, said
from tests.stores.postgres import MISSING, Postgres, binaries

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/conversations.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.url(server.create())


@contextlib.asynccontextmanager
async def writer(*arguments: str) -> AsyncIterator[Process]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.stores.writer", *arguments, stdin=DEVNULL, stdout=PIPE, cwd=ROOT, env=environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def acknowledged(process: Process, lines: int) -> list[str]:
    """What it has told when it is killed, which is while it goes on after that many lines."""
    assert process.stdout is not None
    told = [await process.stdout.readline() for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    told += (await process.stdout.read()).splitlines(keepends=True)
    assert await process.wait() == -signal.SIGKILL
    return [line.decode().strip() for line in told]


async def check_whole(store: Store, id: str) -> list[str]:
    """The writes that are there, each in one piece."""
    found = await notices(store, id)
    assert [text[:-1] for text in found[0::2]] == [text[:-1] for text in found[1::2]], "a write is torn apart"
    assert {text[-1] for text in found[0::2]} <= {"a"}
    numbers = [record.seq for record in await records(store, id)]
    assert numbers == list(range(1, (await store.get(id)).head + 1))
    return [text[:-2] for text in found[0::2]]


async def test_a_killed_writer_loses_only_what_was_not_acknowledged(url: str) -> None:
    chance = random.Random(1)
    async with asyncio.timeout(100), await open_store(url) as store:
        made = await store.create("ann")
        kept: list[str] = []
        for number in range(4):
            names = (f"one{number}", f"two{number}")
            async with (
                writer("append", url, names[0], made.id) as first,
                writer("append", url, names[1], made.id) as second,
            ):
                told = await asyncio.gather(*(acknowledged(p, chance.randrange(1, 25)) for p in (first, second)))
            found = await check_whole(store, made.id)
            assert found[: len(kept)] == kept, "what was there once has changed"
            for name, lines in zip(names, told, strict=True):
                mine = [text for text in found[len(kept) :] if text.startswith(name + " ")]
                assert mine[: len(lines)] == lines and len(mine) <= len(lines) + 1
            kept = found
        assert (await store.list("ann", search="words one3")).conversations
        await store.append(made.id, (await store.get(made.id)).head, [said("end a"), said("end b")])
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.execute("INSERT INTO codeact_search (codeact_search) VALUES ('integrity-check')")
        connection.close()


async def test_a_killed_deletion_is_whole_or_undone(url: str) -> None:
    async with asyncio.timeout(60), await open_store(url) as store:
        ids = []
        for number in range(12):
            made = await store.create("ann", title=f"title{number}")
            await store.append(made.id, 0, [RunStarted(task="words")] * 5)
            await store.put_file(made.id, "f", b"x" * 100_000)
            ids.append(made.id)
        async with writer("delete", url, "x", *ids) as process:
            gone = set(await acknowledged(process, 4))
        assert 4 <= len(gone) <= 12
        left = {c.id for c in (await store.list("ann")).conversations}
        assert not gone & left and len(ids) - len(gone) - len(left) <= 1
        assert {c.id for c in (await store.list("ann", search="words")).conversations} == left
        for id in ids:
            if id in left:
                assert len(await records(store, id)) == 5 and len(await store.file(id, "f")) == 100_000
            else:
                with pytest.raises(NotStored):
                    await store.file(id, "f")


async def test_a_killed_server_loses_nothing_and_is_found_again() -> None:
    if binaries() is None:
        pytest.skip(MISSING)
    server = Postgres()
    try:
        server.start()
        async with asyncio.timeout(100), await open_store(server.url(server.create())) as store:
            made = await store.create("ann")
            kept: list[str] = []
            for number in range(3):
                told: list[str] = []
                writing = asyncio.create_task(write_until_it_fails(store, made.id, f"r{number}", told))
                await store.wait(made.id, len(kept) * 2 + 20, 30)
                waiting = asyncio.create_task(store.wait(made.id, 10**6, 30))
                await asyncio.to_thread(server.kill)
                with pytest.raises(StoreUnavailable):
                    await writing
                with pytest.raises(StoreUnavailable):
                    await waiting
                with pytest.raises(StoreUnavailable):
                    await store.get(made.id)
                await asyncio.to_thread(server.start)
                found = await check_whole(store, made.id)
                assert found[: len(kept)] == kept
                mine = found[len(kept) :]
                assert len(told) >= 10 and mine[: len(told)] == told and len(mine) <= len(told) + 1
                kept = found
    finally:
        server.close()


async def write_until_it_fails(store: Store, id: str, name: str, told: list[str]) -> None:
    head = (await store.get(id)).head
    while True:
        text = f"{name} {len(told)}"
        with contextlib.suppress(StoreConflict):
            head = await store.append(id, head, [said(text + " a"), said(text + " b")])
            told.append(text)
