"""A process that works on a store until it is killed: ``python -m tests.stores.writer append|delete URL NAME ID…``.

What the store has acknowledged stands in a line of its output.
"""

from __future__ import annotations

import asyncio
import os
import sys

from codeact.errors import StoreConflict
from codeact.events import ModelDelta, Notice, RunStarted, TurnStarted
from codeact.stores import open_store
from codeact.stores.store import Store


def tell(line: object) -> None:
    os.write(1, f"{line}\n".encode())


async def append(store: Store, name: str, id: str) -> None:
    """Append, each time five events between two notices, against whoever else does."""
    head, number = (await store.get(id)).head, 0
    while True:
        first, last = (Notice(text=f"{name} {number} {part}") for part in "ab")
        live = ModelDelta(kind="thought", text="x" * 5000)
        try:
            head = await store.append(
                id, head, [first, TurnStarted(turn=1), live, RunStarted(task=f"words {name}"), last]
            )
        except StoreConflict as conflict:
            head = conflict.head
        else:
            tell(f"{name} {number}")
            number += 1


async def main(work: str, url: str, name: str, *ids: str) -> None:
    async with await open_store(url) as store:
        if work == "append":
            await append(store, name, ids[0])
        for id in ids:
            await store.delete(id)
            tell(id)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
