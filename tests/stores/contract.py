"""What every store promises. A database's tests subclass ``StoreContract`` and provide a fixture ``url``: a new store.

``store`` and ``other`` are two of them at this address, as two processes have them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from codeact.contracts import DisplayOutput, ExecutionResult, Reply, StreamOutput
from codeact.errors import NotStored, StoreConflict, StoreRefused, StoreUnavailable, StoreVersionError
from codeact.events import (
    Event,
    ExecutionFinished,
    ExecutionOutput,
    ExecutionStarted,
    ModelDelta,
    ModelReplied,
    ModelRestarted,
    Notice,
    Observed,
    RunFinished,
    RunStarted,
    TurnStarted,
)
from codeact.stores import open_store
from codeact.stores.archive import (
    UNFINISHED,
    export_archive,
    export_trajectory,
    ids_of,
    import_archive,
    import_trajectory,
)
from codeact.stores.branches import path
from codeact.stores.store import MAX_EVENTS, MAX_FILE, Conversation, Record, Store
from codeact.trajectory import load

ABSENT = "0" * 32


def said(text: str) -> Notice:
    return Notice(text=text)


def delta(text: str) -> ModelDelta:
    return ModelDelta(kind="thought", text=text)


def printed(text: str) -> ExecutionOutput:
    return ExecutionOutput(output=StreamOutput(name="stdout", text=text))


def replied(text: str, turn: int = 1) -> ModelReplied:
    return ModelReplied(turn=turn, reply=Reply(text=text, answer=text))


async def records(store: Store, id: str, after: int = 0) -> list[Record]:
    return [record async for record in store.read(id, after=after)]


async def notices(store: Store, id: str) -> list[str]:
    return [record.event.text for record in await records(store, id) if isinstance(record.event, Notice)]


async def titles(store: Store, owner: str = "ann", search: str = "") -> list[str]:
    return [c.title for c in (await store.list(owner, search=search)).conversations]


async def written(folder: Path, lines: AsyncIterator[bytes]) -> Path:
    file = folder / "exported.jsonl"
    file.write_bytes(b"".join([line async for line in lines]))
    return file


class StoreContract:
    @pytest_asyncio.fixture
    async def store(self, url: str) -> AsyncIterator[Store]:
        async with await open_store(url) as store:
            yield store

    @pytest_asyncio.fixture
    async def other(self, url: str, store: Store) -> AsyncIterator[Store]:
        async with await open_store(url) as other:
            yield other

    async def set_version(self, url: str, version: int) -> None:
        """Say in the database that it has this version."""
        raise NotImplementedError

    # --- conversations ---

    async def test_a_conversation_is_made_changed_and_deleted(self, store: Store, other: Store) -> None:
        made = await store.create("ann", title="  Cars\x00 and\n trains ", settings={"model": "m", "budget": {"n": 3}})
        assert (made.title, made.owner, made.head, made.pinned) == ("Cars  and  trains", "ann", 0, False)
        assert await other.get(made.id) == made
        changed = await other.update(made.id, title="Ships\ud800", pinned=True)
        assert (changed.title, changed.pinned, changed.settings) == ("Ships", True, made.settings)
        assert (await store.update(made.id, settings={})).settings == {}
        assert await store.get(made.id) == changed.model_copy(update={"settings": {}})
        await store.delete(made.id)
        for attempt in (
            other.get(made.id),
            other.delete(made.id),
            other.update(made.id, title="x"),
            other.append(made.id, 0, [said("x")]),
            other.put_file(made.id, "x", b""),
            other.files(made.id),
            other.file(made.id, "x"),
            records(other, made.id),
            other.wait(made.id, 0, 5),
        ):
            with pytest.raises(NotStored):
                await attempt

    @pytest.mark.parametrize("id", ["", "x", ABSENT, "../" + ABSENT, "' OR 1=1 --", ABSENT + "\n", "é" * 32])
    async def test_what_is_no_id_is_not_found(self, store: Store, id: str) -> None:
        await store.create("ann")
        with pytest.raises(NotStored) as caught:
            await store.get(id)
        assert "\n" not in str(caught.value)

    async def test_what_cannot_be_kept_is_refused(self, store: Store) -> None:
        made = await store.create("ann")
        for attempt in (
            store.create(""),
            store.create("a\x00b"),
            store.create("ann", settings={"large": "x" * 70_000}),
            store.update(made.id, settings={"nan": math.nan}),
            store.append(made.id, 0, []),
            store.append(made.id, 0, [said("x")] * (MAX_EVENTS + 1)),
            store.append(made.id, 0, [said("x")], parent=1),
            store.append(made.id, 0, [delta("x")], parent=0),
            store.put_file(made.id, "", b""),
            store.put_file(made.id, "a\nb", b""),
            store.put_file(made.id, "large", bytes(MAX_FILE + 1)),
        ):
            with pytest.raises(StoreRefused):
                await attempt
        assert (await store.get(made.id)).head == 0 and await store.files(made.id) == ()

    async def test_it_is_there_when_it_is_opened_again(self, url: str, store: Store) -> None:
        made = await store.create("ann", title="kept")
        await store.append(made.id, 0, [said("one")])
        await store.close()
        await store.close()
        with pytest.raises(StoreUnavailable):
            await store.get(made.id)
        async with await open_store(url) as again:
            assert await notices(again, made.id) == ["one"]

    async def test_several_open_a_new_store_at_once(self, url: str) -> None:
        stores = await asyncio.gather(*(open_store(url) for _ in range(4)))
        made = await stores[0].create("ann", title="one for all")
        assert [await store.get(made.id) for store in stores] == [made] * 4
        for store in stores:
            await store.close()

    async def test_a_newer_store_is_refused(self, url: str, store: Store) -> None:
        await self.set_version(url, 999)
        with pytest.raises(StoreVersionError, match=r"version 999, and this codeact knows \d+: use the newer release"):
            await open_store(url)

    # --- lists ---

    async def test_pages_tell_each_once_pinned_first_then_the_latest(self, store: Store) -> None:
        for number in range(11):
            made = await store.create("ann", title=str(number), created=1000.0 + number // 2, pinned=number in (3, 7))
        await store.create("bob", title="not Ann's")
        found: list[Conversation] = []
        cursor: str | None = None
        for page_number in range(6):
            page = await store.list("ann", limit=2, cursor=cursor)
            found += page.conversations
            cursor = page.cursor
            assert (cursor is None) == (page_number == 5)
            if page_number == 1:  # what happens meanwhile shifts no page
                await store.create("ann", title="new")
                await store.delete(found[0].id)
        assert sorted(int(c.title) for c in found) == list(range(11))
        assert [c.title for c in found[:2]] == ["7", "3"]
        keys = [(c.pinned, c.updated, c.id) for c in found]
        assert keys == sorted(keys, reverse=True)
        await store.append(made.id, 0, [said("hello")])
        assert (await titles(store))[:3] == ["3", "10", "new"], "what was written to last comes first"

    @pytest.mark.parametrize(
        "cursor",
        [
            "",
            "x",
            "é",
            "A" * 5000,
            base64.urlsafe_b64encode(b"[true, NaN, 'x']").decode(),
            base64.urlsafe_b64encode(b"[1, 2, 3]").decode(),
            base64.urlsafe_b64encode(b'{"a": {"$gt": ""}}').decode(),
            base64.urlsafe_b64encode(b"[" * 200).decode(),
        ],
    )
    async def test_a_broken_cursor_is_refused(self, store: Store, cursor: str) -> None:
        with pytest.raises(StoreRefused, match="begin again without one"):
            await store.list("ann", cursor=cursor)

    # --- search ---

    async def test_what_a_search_finds(self, store: Store) -> None:
        cars = await store.create("ann", title="Käse & Räder")
        await store.append(
            cars.id,
            0,
            [
                RunStarted(task="How many ROWS has cars.csv? It's naïve, in 北京.", files=("trucks.parquet",)),
                replied("The file `foo_bar` holds 3.14 rows; ｆｕｌｌ width, ΣΊΣΥΦΟΣ, don't"),
                Observed(turn=1, text="ValueError: unsupported-operand 'x*y' OR \"z\" NOT \\ %"),
                said("a notice"),
            ],
        )
        await store.create("ann", title="rows")
        await store.create("bob", title="cars rows")
        both, one = ["Käse & Räder", "rows"], ["Käse & Räder"]
        for question, found in {
            "rows": both,
            "ROW": both,
            "cars rows": one,
            "rows cars": one,
            "kase": one,
            "KÄSE rad": one,
            "räder kä": one,
            "naive": one,
            "trucks": one,
            "北": one,
            "京": one,
            "北京": one,
            "南京": [],
            "foo bar": one,
            "foo_bar": one,
            "3.14": one,
            "full": one,
            "σισυφος": one,
            "valueerror": one,
            "error": [],  # words, not pieces of them
            "ro rows": [],  # only the last may be a beginning
            "operand OR z": one,
            "x*y": one,
            '"z" \\ %': one,
            "käse rows": [],  # in one message or in the title, not here and there
            "notice": [],
            "'; DROP TABLE codeact_event; --": [],
            "*": [],
            "^": [],
            ".": [],
            "  ": both,
            "rows " * 500: both,
        }.items():
            assert sorted(await titles(store, search=question)) == sorted(found), question

    async def test_a_search_sees_changes_at_once(self, store: Store, other: Store) -> None:
        made = await store.create("ann", title="alpha")
        await store.append(made.id, 0, [RunStarted(task="gamma")])
        await store.update(made.id, title="beta")
        assert await titles(other, search="alpha") == []
        assert await titles(other, search="beta") == await titles(other, search="gamma") == ["beta"]
        await store.update(made.id, title="")
        assert await titles(other, search="beta") == []
        await store.delete(made.id)
        assert await titles(other, search="gamma") == []

    async def test_a_search_has_pages(self, store: Store) -> None:
        for number in range(7):
            await store.create("ann", title=f"found {number}", created=1000.0 + number)
            await store.create("ann", title=f"other {number}", created=1000.0 + number)
        found: list[str] = []
        cursor: str | None = None
        for _ in range(3):
            page = await store.list("ann", search="found", limit=3, cursor=cursor)
            cursor = page.cursor
            found += [c.title for c in page.conversations]
        assert found == [f"found {number}" for number in range(6, -1, -1)] and cursor is None

    # --- events ---

    async def test_events_come_back_as_they_went(self, store: Store, other: Store) -> None:
        made = await store.create("ann")
        picture = DisplayOutput(data={"image/png": "AAAA" * 10, "text/html": "<b>é\x00</b>"})
        events: list[Event] = [
            RunStarted(task="a\x00b \ud800 é 🚀 \\u0000 ' \" %s :name"),
            TurnStarted(turn=1),
            replied("x"),
            ExecutionStarted(turn=1, code="1/0"),
            ExecutionFinished(turn=1, result=ExecutionResult(status="ok", outputs=(picture,))),
            RunFinished(reason="answered", answer="x", cost=0.1),
        ]
        assert await store.append(made.id, 0, events[:2]) == 2
        assert await other.append(made.id, 2, events[2:]) == 6
        kept = await records(store, made.id)
        assert [record.seq for record in kept] == [1, 2, 3, 4, 5, 6]
        task = kept[0].event
        assert isinstance(task, RunStarted) and task.task == "a\x00b ? é 🚀 \\u0000 ' \" %s :name"
        assert [record.event for record in kept[1:]] == events[1:]
        assert await records(store, made.id, after=4) == kept[4:]
        assert await records(store, made.id, after=6) == []
        now = await store.get(made.id)
        assert now.head == 6 and now.updated == events[-1].time

    async def test_large_events_are_kept_whole(self, store: Store) -> None:
        made = await store.create("ann")
        large = "é" * (9 << 20)
        assert await store.append(made.id, 0, [said("a"), said(large), said("b")]) == 3
        assert [len(text) for text in await notices(store, made.id)] == [1, len(large), 1]

    async def test_a_long_conversation_is_read_in_order(self, store: Store) -> None:
        made = await store.create("ann")
        for start in range(0, 1800, 600):
            await store.append(made.id, start, [said(str(start + n)) for n in range(600)])
        assert await notices(store, made.id) == [str(n) for n in range(1800)]

    async def test_live_events_go_when_they_are_repeated_whole(self, store: Store) -> None:
        made = await store.create("ann")

        async def add(*events: Event) -> list[str]:
            head = (await store.get(made.id)).head
            await store.append(made.id, head, events)
            return [record.event.type for record in await records(store, made.id)]

        assert await add(TurnStarted(turn=1), delta("a"), delta("b")) == ["turn_started", *["model_delta"] * 2]
        assert await add(ModelRestarted(reason="broken")) == ["turn_started", "model_restarted"]
        assert await add(delta("c"), replied("c")) == ["turn_started", "model_restarted", "model_replied"]
        kept = ["turn_started", "model_restarted", "model_replied", "execution_started"]
        assert await add(ExecutionStarted(turn=1, code=""), printed("x")) == [*kept, "execution_output"]
        done = ExecutionFinished(turn=1, result=ExecutionResult(status="ok"))
        kept.append("execution_finished")
        assert await add(done) == kept
        # a turn that never ended keeps what there is of it
        assert await add(TurnStarted(turn=2), delta("lost")) == [*kept, "turn_started", "model_delta"]
        kept += ["turn_started", "model_delta", "turn_started", "model_replied"]
        assert await add(TurnStarted(turn=1), delta("d"), replied("d")) == kept
        numbers = [record.seq for record in await records(store, made.id)]
        assert numbers == sorted(set(numbers)) and numbers[-1] == (await store.get(made.id)).head == 14

    async def test_only_who_knows_the_last_event_goes_on(self, store: Store, other: Store) -> None:
        made = await store.create("ann")
        await store.append(made.id, 0, [said("1"), said("2"), said("3")])
        for expected in (0, 1, 2, 4, 1000):
            with pytest.raises(StoreConflict, match="is at event 3, not") as caught:
                await other.append(made.id, expected, [said("no")])
            assert caught.value.head == 3
        assert await notices(store, made.id) == ["1", "2", "3"]

    async def test_two_writers_never_interleave(self, store: Store, other: Store) -> None:
        made = await store.create("ann")
        kept: list[list[str]] = []

        async def write(name: str, to: Store, size: int) -> None:
            head = 0
            for number in range(8):
                texts = [f"{name} {number} {part}" for part in range(size)]
                while True:
                    try:
                        head = await to.append(made.id, head, [said(text) for text in texts])
                    except StoreConflict as conflict:
                        head = conflict.head
                    else:
                        kept.append(texts)
                        break

        async with asyncio.timeout(60):
            await asyncio.gather(*(write(f"w{n}", (store, other)[n % 2], n + 1) for n in range(4)))
        found = await notices(store, made.id)
        assert [record.seq for record in await records(other, made.id)] == list(range(1, len(found) + 1))
        assert len(kept) == 32 and len(found) == sum(map(len, kept))
        runs = {texts[0]: texts for texts in kept}
        while found:
            run = runs.pop(found[0])
            assert found[: len(run)] == run, "an append is torn apart"
            found = found[len(run) :]
        assert not runs

    async def test_a_cancelled_append_is_whole_or_undone(self, store: Store) -> None:
        made = await store.create("ann")
        outcomes = set()
        for number in range(24):
            head = (await store.get(made.id)).head
            task = asyncio.create_task(store.append(made.id, head, [said(f"{number} a"), said(f"{number} b")]))
            for _ in range(number % 8):
                await asyncio.sleep(0)
            task.cancel()
            outcomes.add((await asyncio.gather(task, return_exceptions=True))[0].__class__)
        assert asyncio.CancelledError in outcomes
        async with asyncio.timeout(30):  # what was begun comes to its end before or after this
            while True:
                try:
                    await store.append(made.id, (await store.get(made.id)).head, [said("end a"), said("end b")])
                    break
                except StoreConflict:
                    continue
        found = await notices(store, made.id)
        assert found[0::2] == [text.replace("b", "a") for text in found[1::2]] and found[-1] == "end b"

    async def test_deleting_while_others_write_leaves_nothing(self, store: Store, other: Store) -> None:
        made = await store.create("ann", title="soon gone")

        async def write() -> int:
            head = 0
            try:
                while True:
                    head = await other.append(made.id, head, [RunStarted(task="stillhere")])
                    await other.put_file(made.id, f"{head}", b"data")
            except NotStored:
                return head

        async with asyncio.timeout(30):
            writing = asyncio.create_task(write())
            await store.wait(made.id, 3, 20)
            await store.delete(made.id)
            assert await writing >= 4
        assert await titles(store) == await titles(store, search="stillhere") == []

    # --- waiting ---

    async def test_waiting_ends_with_what_is_new(self, store: Store, other: Store) -> None:
        made = await store.create("ann")
        quiet = await store.create("ann")
        async with asyncio.timeout(20):
            assert await store.wait(made.id, 0, 0.01) == 0
            for writer in (store, other):  # in this process and as if in another one
                head = (await store.get(made.id)).head
                waiting = [asyncio.create_task(store.wait(made.id, head, 15)) for _ in range(50)]
                silent = asyncio.create_task(store.wait(quiet.id, 0, 0.5))
                await asyncio.sleep(0)
                await writer.append(made.id, head, [said("new")])
                assert await asyncio.gather(*waiting) == [head + 1] * 50
                assert await silent == 0
            assert await store.wait(made.id, 0, 15) == 2, "what is there already is told at once"

    async def test_waiting_ends_when_it_is_deleted(self, store: Store, other: Store) -> None:
        for deleting in (store, other):
            made = await store.create("ann")
            waiting = asyncio.create_task(store.wait(made.id, 0, 15))
            await asyncio.sleep(0)
            await deleting.delete(made.id)
            with pytest.raises(NotStored):
                await waiting

    async def test_a_reader_that_is_cut_off_goes_on_where_it_was(self, store: Store, other: Store) -> None:
        made = await store.create("ann")

        async def write() -> None:
            head = 0
            for number in range(40):
                head = await other.append(made.id, head, [said(str(number))])

        seen: list[str] = []
        at = 0
        async with asyncio.timeout(40):
            writing = asyncio.create_task(write())
            while len(seen) < 40:
                await store.wait(made.id, at, 10)
                async for record in store.read(made.id, after=at):
                    assert isinstance(record.event, Notice)
                    seen.append(record.event.text)
                    at = record.seq
                    if record.seq % 3 == 0:  # the connection is lost here
                        break
            await writing
        assert seen == [str(number) for number in range(40)]

    # --- files ---

    async def test_files_are_kept_replaced_and_removed(self, store: Store, other: Store) -> None:
        made = await store.create("ann")
        data = bytes(range(256)) * 50_000
        put = await store.put_file(made.id, "../é/$a.b.csv", data, mime="text/csv")
        await store.put_file(made.id, "empty", b"")
        await store.put_file(made.id, "gone", b"x")
        assert await other.file(made.id, "../é/$a.b.csv") == data and await other.file(made.id, "empty") == b""
        assert (put.size, put.mime) == (len(data), "text/csv")
        await other.put_file(made.id, "../é/$a.b.csv", b"new")
        assert await store.file(made.id, "../é/$a.b.csv") == b"new"
        await other.delete_file(made.id, "gone")
        assert [(file.name, file.size) for file in await store.files(made.id)] == [("../é/$a.b.csv", 3), ("empty", 0)]
        second = await store.create("ann")
        assert await store.files(second.id) == ()
        for attempt in (
            store.file(made.id, "gone"),
            store.delete_file(made.id, "gone"),
            store.file(second.id, "empty"),
        ):
            with pytest.raises(NotStored):
                await attempt

    # --- in and out ---

    async def test_branches_keep_every_way(self, store: Store) -> None:
        made = await store.create("ann")
        await store.append(made.id, 0, [said("question"), TurnStarted(turn=1), delta("x"), replied("first")])
        await store.append(made.id, 4, [said("more")])
        await store.append(made.id, 5, [said("edited"), said("second")], parent=1)
        await store.append(made.id, 7, [said("other start")], parent=0)
        await store.append(made.id, 8, [said("after a live event")], parent=3)
        kept = await records(store, made.id)
        assert [(record.seq, record.parent) for record in kept if record.parent is not None] == [(6, 1), (8, 0), (9, 3)]
        ways = {leaf: [record.seq for record in path(kept, leaf)] for leaf in (5, 7, 8, 9)}
        assert ways == {5: [1, 2, 4, 5], 7: [1, 6, 7], 8: [8], 9: [1, 2, 9]}
        assert path(kept) == path(kept, 9)
        for leaf in (0, 3, 10):
            with pytest.raises(StoreRefused):
                path(kept, leaf)

    async def test_a_trajectory_goes_out_and_in(self, store: Store, tmp_path: Path) -> None:
        made = await store.create("ann", title="Rows <b>", created=1000.5)
        await store.append(made.id, 0, [RunStarted(task="q", time=1001.0), TurnStarted(turn=1), delta("x")])
        await store.append(made.id, 3, [RunFinished(reason="error")])
        await store.append(made.id, 4, [RunStarted(task="edited")], parent=0)
        file = await written(tmp_path, export_trajectory(store, made.id, leaf=4))
        told = load(file)
        assert [event.type for event in told.events] == ["run_started", "turn_started", "run_finished"]
        again = await store.get(await import_trajectory(store, "bob", file))
        assert (again.owner, again.title, again.created) == ("bob", "Rows <b>", 1001.0)
        assert [record.event for record in await records(store, again.id)] == list(told.events)
        assert await titles(store, "bob", search="q") == ["Rows <b>"]

    async def filled(self, store: Store) -> list[str]:
        first = await store.create("ann", title="One", settings={"model": "m"}, pinned=True, created=1000.25)
        await store.append(first.id, 0, [said("a"), TurnStarted(turn=1), delta("x"), replied("b\ud800", 1)])
        await store.append(first.id, 4, [TurnStarted(turn=1), said("c")], parent=2)
        await store.append(first.id, 6, [delta("kept"), said("d")])
        await store.put_file(first.id, "a.bin", bytes(range(256)) * 20_000, mime="x/y")
        await store.put_file(first.id, "empty", b"")
        second = await store.create("bob", title="Two")
        return [first.id, second.id]

    async def test_an_archive_goes_out_and_in(self, store: Store, tmp_path: Path) -> None:
        ids = await self.filled(store)
        assert await ids_of(store, "ann") == (ids[0],)
        file = await written(tmp_path, export_archive(store, ids))
        found = await import_archive(store, file)
        assert len(found) == 2 and not set(found) & set(ids)
        for old, new in zip(ids, found, strict=True):
            before, after = await store.get(old), await store.get(new)
            same = {"owner", "title", "created", "updated", "pinned", "settings"}
            assert before.model_dump(include=same) == after.model_dump(include=same)
            was, now = await records(store, old), await records(store, new)
            assert [record.event for record in was] == [record.event for record in now]
            numbers = {record.seq: place for place, record in enumerate(was, 1)}
            assert [record.parent and numbers[record.parent] for record in was] == [record.parent for record in now]
            contents = [[await store.file(id, f.name) for f in await store.files(id)] for id in (old, new)]
            assert contents[0] == contents[1]
        taken = await import_archive(store, file, owner="eve")
        assert {(await store.get(id)).owner for id in taken} == {"eve"}

    async def test_a_broken_archive_leaves_nothing(self, store: Store, tmp_path: Path) -> None:
        ids = await self.filled(store)
        lines = (await written(tmp_path, export_archive(store, ids))).read_bytes().splitlines(keepends=True)
        for id in ids:
            await store.delete(id)
        event = json.loads(lines[2])
        broken: list[bytes] = [b"".join(lines[:cut]) for cut in range(len(lines))]
        broken += [b"".join((*lines[:2], bad, *lines[2:])) for bad in (
            b"\n", b"{}\n", b"[]\n", b"\xff\n", b"[" * 9999 + b"\n", b'{"data": "AA=="}\n', b'{"end": 0}\n',
            b'{"file": {"name": "x", "mime": "y", "sha256": "z"}}\n',
            b'{"seq": 1, "event": {"type": "unknown"}}\n', b'{"path": "/etc/passwd"}\n',
            json.dumps(event | {"seq": 0}).encode() + b"\n", json.dumps(event | {"seq": 9}).encode() + b"\n",
            json.dumps(event | {"parent": 7}).encode() + b"\n", json.dumps(event | {"parent": -1}).encode() + b"\n",
        )]  # fmt: skip
        broken += [b'{"codeact_archive": 2}\n', b'{"codeact_archive": true}\n', b"no archive", lines[0] * 2]
        broken += [b"".join((*lines, b"more")), b"".join(lines).replace(b'"sha256": "', b'"sha256": "0')]
        file = tmp_path / "broken.jsonl"
        for content in broken:
            file.write_bytes(content)
            with pytest.raises(StoreRefused) as caught:
                await import_archive(store, file)
            assert "\n" not in str(caught.value)
        with pytest.raises(StoreRefused):
            await import_archive(store, tmp_path / "absent")
        assert await titles(store, "ann") == await titles(store, "bob") == []

    async def test_what_is_being_imported_is_seen_as_that(self, store: Store, tmp_path: Path) -> None:
        made = await store.create("ann", title="whole")
        await store.append(made.id, 0, [said(str(n)) for n in range(900)])
        file = await written(tmp_path, export_trajectory(store, made.id))
        async with asyncio.timeout(30):
            importing = asyncio.create_task(import_trajectory(store, "bob", file))
            while not (found := await titles(store, "bob")):
                assert not importing.done()
                await asyncio.sleep(0)
            assert found in ([UNFINISHED], ["whole"])
            importing.cancel()
            await asyncio.gather(importing, return_exceptions=True)
        assert await titles(store, "bob") in ([], ["whole"])


def ways(parents: list[tuple[int, int]]) -> list[Record]:
    """Records of a conversation with these branches: at each number, after which one."""
    return [
        Record(seq=seq, event=said(str(seq)), parent=dict(parents).get(seq))
        for seq in range(1, 20)
        if seq % 5 or seq < 5
    ]


@given(st.lists(st.tuples(st.integers(2, 19), st.integers(0, 25)), max_size=6), st.integers(0, 15))
def test_a_path_ends_whatever_the_parents_say(parents: list[tuple[int, int]], leaf: int) -> None:
    kept = ways(parents)
    numbers = [record.seq for record in path(kept, kept[leaf % len(kept)].seq)]
    assert numbers == sorted(set(numbers)) and numbers[-1] == kept[leaf % len(kept)].seq
