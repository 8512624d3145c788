"""Stores: conversations that last. ``open_store`` chooses the database by its address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codeact.errors import UsageError

if TYPE_CHECKING:
    from codeact.stores.store import Store

_KINDS = "sqlite:///PATH, postgresql://USER@HOST/NAME or mongodb://HOST/NAME"


async def open_store(url: str) -> Store:
    """The store at this address, made or brought to this release's version where needed. Close it after use.

    ``sqlite:///PATH`` (four slashes for an absolute path) or just the path of a file; ``postgresql://…``;
    ``mongodb://…``, ``mongodb+srv://…``. Raises UsageError for another address or a missing extra, StoreUnavailable
    where the database cannot be used, StoreVersionError where a newer release made it.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "sqlite", f"/{url}"
    match scheme:
        case "sqlite":
            from codeact.stores.sqlite import open_sqlite

            if not rest.startswith("/") or not rest[1:]:
                raise UsageError("a SQLite store is named by its file: sqlite:///conversations.db")
            return await open_sqlite(rest[1:])
        case "postgresql" | "postgres":
            try:
                from codeact.stores.postgresql import open_postgresql
            except ImportError as error:
                raise UsageError("PostgreSQL needs one more package: pip install 'codeact[postgresql]'") from error
            return await open_postgresql(f"postgresql://{rest}")
        case "mongodb" | "mongodb+srv":
            try:
                from codeact.stores.mongodb import open_mongodb
            except ImportError as error:
                raise UsageError("MongoDB needs one more package: pip install 'codeact[mongodb]'") from error
            return await open_mongodb(url)
        case _:
            raise UsageError(f"{scheme[:40]!r} is no kind of store: use {_KINDS}")
