"""Branches of a conversation: an edited message goes on from an earlier event, and both ways stay.

A record follows the one before it, unless it names its ``parent``. Live events vanish once they are repeated whole, so
"the one before" is the last that is left at or before that place.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from codeact.errors import StoreRefused
from codeact.stores.store import Record


def path(records: Sequence[Record], leaf: int | None = None) -> tuple[Record, ...]:
    """The records from the beginning to ``leaf`` (default: the last one), along its branch.

    ``records`` are a whole conversation, in order. Raises StoreRefused where ``leaf`` is none of them.
    """
    numbers = [record.seq for record in records]
    at = len(records) - 1 if leaf is None else bisect_right(numbers, leaf) - 1
    if leaf is not None and (at < 0 or numbers[at] != leaf):
        raise StoreRefused(f"event {leaf} is not in this conversation: read it again")
    found = []
    while at >= 0:
        record = records[at]
        found.append(record)
        at = at - 1 if record.parent is None else bisect_right(numbers, min(record.parent, record.seq - 1)) - 1
    return tuple(reversed(found))
