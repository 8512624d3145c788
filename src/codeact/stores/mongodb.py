"""The store in MongoDB, on one server or a replica set.

No transactions are used, since a single server has none. One append is one document, so it is there whole or not at
all; its id holds its first sequence number, so of two writers who go on after the same event one is refused. Documents
end at 16 MiB: what is larger stands in parts, which are written before the document that names them.

Words are kept as they are and not in MongoDB's own text index, which knows neither beginnings of words nor, in
phrases, their ends.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pymongo import ASCENDING, DESCENDING, AsyncMongoClient, ReturnDocument, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import ConfigurationError, DuplicateKeyError, InvalidName, PyMongoError
from pymongo.read_concern import ReadConcern

from codeact.errors import StoreUnavailable, StoreVersionError, UsageError
from codeact.stores.cursor import Cursor
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
    shown,
)

VERSION = 1
_LIMITS = {
    "serverSelectionTimeoutMS": 10_000,
    "connectTimeoutMS": 10_000,
    "socketTimeoutMS": 30_000,
    "waitQueueTimeoutMS": 30_000,
}
"""How long to wait for a server, where the address does not say it."""
_INLINE = 4 * 1024 * 1024
_PART = 8 * 1024 * 1024
_LIVE = {"deleted": {"$exists": False}}
_Document = dict[str, Any]


async def open_mongodb(url: str) -> MongoDBStore:
    """The store in the database that the address names (``codeact`` where it names none). Raises as ``open_store``."""
    store = MongoDBStore(url)
    try:
        await store.prepare()
    except BaseException:
        await store.close()
        raise
    return store


class MongoDBStore(Store):
    """A write is journalled by the majority of the servers when it is acknowledged."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.place = shown(url)
        try:
            given = {name.lower() for name in parse_qs(urlsplit(url).query)}
            limits: dict[str, Any] = {name: value for name, value in _LIMITS.items() if name.lower() not in given}
            self._client: AsyncMongoClient[_Document] = AsyncMongoClient(url, appname="codeact", **limits)
            database = self._client.get_default_database("codeact").with_options(
                write_concern=WriteConcern("majority", j=True), read_concern=ReadConcern("majority")
            )
        except (ConfigurationError, InvalidName, ValueError) as error:  # InvalidURI is a ConfigurationError
            raise UsageError(f"{self.place} is no address of a database: mongodb://HOST/NAME") from error
        self._conversations: AsyncCollection[_Document] = database["codeact_conversations"]
        self._appends: AsyncCollection[_Document] = database["codeact_appends"]
        self._parts: AsyncCollection[_Document] = database["codeact_parts"]
        self._files_kept: AsyncCollection[_Document] = database["codeact_files"]
        self._store: AsyncCollection[_Document] = database["codeact_store"]

    @asynccontextmanager
    async def _told(self) -> AsyncIterator[None]:
        """The one boundary at which the database's errors become ours."""
        try:
            yield
        except PyMongoError as error:
            reason = str(error).partition("\n")[0].partition(", Timeout:")[0]
            raise StoreUnavailable(f"the store {self.place} failed: {reason[:300]}") from error

    async def prepare(self) -> None:
        """Make the indexes, refuse a newer store, and finish what a kill cut short."""
        async with self._told():
            known = await self._store.find_one({"_id": "version"})
            if known is not None and known["version"] > VERSION:
                raise StoreVersionError(
                    f"this store has version {known['version']}, and this codeact knows {VERSION}: "
                    "use the newer release that made it"
                )
            if known is None:
                listed = [("owner", ASCENDING), ("pinned", DESCENDING), ("updated", DESCENDING), ("_id", DESCENDING)]
                await self._conversations.create_index(listed)
                await self._appends.create_index([("c", ASCENDING), ("first", ASCENDING)])
                await self._appends.create_index([("owner", ASCENDING), ("events.words", ASCENDING)])
                await self._parts.create_index([("c", ASCENDING)])
                await self._parts.create_index([("o", ASCENDING), ("n", ASCENDING)])
                await self._files_kept.create_index([("c", ASCENDING), ("name", ASCENDING)], unique=True)
                await self._store.update_one({"_id": "version"}, {"$max": {"version": VERSION}}, upsert=True)
            async for half in self._conversations.find({"deleted": True}, {"_id": 1}):
                await self._sweep(half["_id"])

    # --- conversations ---

    async def _create(self, conversation: Conversation, words: tuple[str, ...]) -> None:
        document = conversation.model_dump(exclude={"id"}) | {"settings": json.dumps(conversation.settings)}
        async with self._told():
            await self._conversations.insert_one({"_id": conversation.id, "words": [*words]} | document)

    async def _get(self, id: str) -> Conversation:
        async with self._told():
            document = await self._conversations.find_one({"_id": id} | _LIVE)
            if document is None:
                raise missing(id)
            return _conversation(document | {"head": await self._head(id)})

    async def _head(self, id: str) -> int:
        last = await self._appends.find_one({"c": id}, {"last": 1}, sort=[("first", DESCENDING)])
        return 0 if last is None else int(last["last"])

    async def _list(
        self, owner: str, words: tuple[str, ...], limit: int, after: Cursor | None
    ) -> Sequence[Conversation]:
        wanted: list[_Document] = [{"owner": owner}, _LIVE]
        async with self._told():
            if words:
                message = {"owner": owner, "events": {"$elemMatch": _holds(words)}}
                found = await self._appends.distinct("c", message)
                wanted.append({"$or": [{"_id": {"$in": found}}, _holds(words)]})
            if after is not None:
                same = {"pinned": after.pinned}
                wanted.append(
                    {
                        "$or": [
                            {"pinned": {"$lt": after.pinned}},
                            same | {"updated": {"$lt": after.updated}},
                            same | {"updated": after.updated, "_id": {"$lt": after.id}},
                        ]
                    }
                )
            order = [("pinned", DESCENDING), ("updated", DESCENDING), ("_id", DESCENDING)]
            cursor = self._conversations.find({"$and": wanted}).sort(order).limit(limit)
            return [_conversation(document) async for document in cursor]

    async def _update(self, id: str, changes: Mapping[str, object], words: tuple[str, ...] | None) -> None:
        new = dict(changes) if words is None else dict(changes) | {"words": [*words]}
        async with self._told():
            if not (await self._conversations.update_one({"_id": id} | _LIVE, {"$set": new})).matched_count:
                raise missing(id)

    async def _delete(self, id: str) -> None:
        async with self._told():
            mark = {"$set": {"deleted": True}, "$unset": {"title": "", "words": "", "settings": ""}}
            if not (await self._conversations.update_one({"_id": id} | _LIVE, mark)).matched_count:
                raise missing(id)
            await self._sweep(id)

    async def _sweep(self, id: str) -> None:
        for collection in (self._appends, self._files_kept, self._parts):
            await collection.delete_many({"c": id})
        await self._conversations.delete_one({"_id": id})

    # --- events ---

    async def _append(self, id: str, expected: int, entries: Sequence[Entry], updated: float) -> None:
        first, last = entries[0].seq, entries[-1].seq
        async with self._told():
            conversation = await self._conversations.find_one({"_id": id} | _LIVE, {"owner": 1})
            if conversation is None:
                raise missing(id)
            if (head := await self._head(id)) != expected:
                raise conflict(head, expected)
            events = [await self._event(id, entry, room) for entry, room in zip(entries, _rooms(entries), strict=True)]
            document = {"c": id, "first": first, "last": last, "owner": conversation["owner"], "events": events}
            try:
                await self._appends.insert_one({"_id": f"{id}/{first}"} | document)
            except DuplicateKeyError:
                await self._drop_parts(events)
                raise conflict(await self._head(id), expected) from None
            moved = await self._conversations.update_one(
                {"_id": id} | _LIVE, {"$max": {"head": last, "updated": updated}}
            )
            if not moved.matched_count:  # deleted meanwhile: whatever stood here then is gone, and so is this
                await self._sweep(id)
                raise missing(id)
            for entry in entries:
                if entry.type in VOIDS:
                    await self._drop_live(id, entry)

    async def _event(self, id: str, entry: Entry, inline: bool) -> _Document:
        event: _Document = {"seq": entry.seq, "parent": entry.parent, "type": entry.type, "words": [*entry.words]}
        if inline:
            return event | {"body": entry.body}
        return event | {"part": await self._put_parts(id, entry.body.encode())}

    async def _drop_live(self, id: str, entry: Entry) -> None:
        """The documents stay, even when they are empty: their ids say that these numbers are taken."""
        since, live = VOIDS[entry.type]
        begun = {
            "c": id,
            "first": {"$lt": entry.seq},
            "events": {"$elemMatch": {"type": since, "seq": {"$lt": entry.seq}}},
        }
        found = await self._appends.find_one(begun, sort=[("first", DESCENDING)])
        starts = [e["seq"] for e in found["events"] if e["type"] == since and e["seq"] < entry.seq] if found else []
        start = max(starts, default=0)
        between = {"c": id, "first": {"$lt": entry.seq}, "last": {"$gt": start}}
        void = {"type": live, "seq": {"$gt": start, "$lt": entry.seq}}
        aside = {"events": {"$elemMatch": void | {"part": {"$exists": True}}}}
        for document in [d async for d in self._appends.find(between | aside)]:
            await self._drop_parts(
                [e for e in document["events"] if e["type"] == live and start < e["seq"] < entry.seq]
            )
        await self._appends.update_many(between, {"$pull": {"events": void}})

    async def _read(self, id: str, after: int) -> AsyncIterator[Record]:
        until = (await self._get(id)).head
        while after < until:
            async with self._told():
                wanted = {"c": id, "last": {"$gt": after}, "first": {"$lte": until}}
                cursor = self._appends.find(wanted, {"events.words": 0}).sort("first", ASCENDING).limit(20)
                documents = [document async for document in cursor]
            if not documents:
                raise missing(id)
            for document in documents:
                for event in document["events"]:
                    if event["seq"] > after:
                        async with self._told():
                            body = event["body"] if "body" in event else (await self._get_parts(event["part"])).decode()
                        yield record(event["seq"], event["parent"], body, self.place)
            after = documents[-1]["last"]

    async def _heads(self, ids: Sequence[str]) -> Mapping[str, int]:
        async with self._told():
            cursor = self._conversations.find({"_id": {"$in": [*ids]}} | _LIVE, {"head": 1})
            return {document["_id"]: document["head"] async for document in cursor}

    # --- files, and what is too large for a document ---

    async def _put_file(self, id: str, file: StoredFile, data: bytes) -> None:
        async with self._told():
            if await self._conversations.find_one({"_id": id} | _LIVE, {"_id": 1}) is None:
                raise missing(id)
            document = {"c": id, "part": await self._put_parts(id, data)} | file.model_dump()
            before = await self._files_kept.find_one_and_replace(
                {"c": id, "name": file.name}, document, upsert=True, return_document=ReturnDocument.BEFORE
            )
            if before is not None:
                await self._drop_parts([before])
            if await self._conversations.find_one({"_id": id} | _LIVE, {"_id": 1}) is None:
                await self._sweep(id)
                raise missing(id)

    async def _file(self, id: str, name: str) -> bytes:
        async with self._told():
            for _ in range(3):  # once more where it was replaced while it was read
                file = await self._files_kept.find_one({"c": id, "name": name})
                if file is None:
                    raise missing_file(name)
                data = await self._get_parts(file["part"])
                if len(data) == file["size"]:
                    return data
        raise StoreUnavailable(f"a file in the store {self.place} is not whole: put it again")

    async def _files(self, id: str) -> Sequence[StoredFile]:
        await self._get(id)
        async with self._told():
            cursor = self._files_kept.find({"c": id}, {"_id": 0, "c": 0, "part": 0})
            return sorted([StoredFile(**document) async for document in cursor], key=lambda file: file.name)

    async def _delete_file(self, id: str, name: str) -> None:
        async with self._told():
            gone = await self._files_kept.find_one_and_delete({"c": id, "name": name})
            if gone is None:
                raise missing_file(name)
            await self._drop_parts([gone])

    async def _put_parts(self, id: str, data: bytes) -> str:
        whole = secrets.token_hex(16)
        for number, start in enumerate(range(0, len(data), _PART)):
            part = {"_id": f"{whole}/{number}", "c": id, "o": whole, "n": number, "data": data[start : start + _PART]}
            await self._parts.insert_one(part)
        return whole

    async def _get_parts(self, whole: str) -> bytes:
        cursor = self._parts.find({"o": whole}).sort("n", ASCENDING)
        return b"".join([bytes(part["data"]) async for part in cursor])

    async def _drop_parts(self, holders: Sequence[_Document]) -> None:
        names = [holder["part"] for holder in holders if "part" in holder]
        if names:
            await self._parts.delete_many({"o": {"$in": names}})

    async def _close(self) -> None:
        await self._client.close()


def _conversation(document: _Document) -> Conversation:
    fields = {name: document[name] for name in Conversation.model_fields if name in document}
    return Conversation(**fields | {"id": document["_id"], "settings": json.loads(document["settings"])})


def _holds(words: tuple[str, ...]) -> _Document:
    """All these words, the last of them a beginning. They are letters and digits only."""
    return {"$and": [*({"words": word} for word in words[:-1]), {"words": {"$regex": f"^{words[-1]}"}}]}


def _rooms(entries: Sequence[Entry]) -> Sequence[bool]:
    """Which events stand in the document itself."""
    room, found = _INLINE, []
    for entry in entries:
        size = len(entry.body.encode())
        found.append(size <= room)
        room -= size if size <= room else 0
    return found
