"""API keys: who may use the engine, and how much of it. Only their hashes are kept.

A key is 256 random bits, so that a plain SHA-256 cannot be guessed back; no slow hash is needed.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import time

from codeact.contracts import Value
from codeact.errors import UsageError

_PREFIX = "codeact-"


class Tenant(Value):
    """Whoever holds a key: sessions belong to it. ``max_…`` None: no quota beyond the engine's own limits."""

    id: str
    owner: str
    max_sessions: int | None = None
    max_executions: int | None = None


NOBODY = Tenant(id="", owner="")
"""Everybody, where the engine has no keys and listens on loopback only."""


class Keys:
    """Read anew for each request, so that a key that was removed is refused at once."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def add(self, owner: str, max_sessions: int | None = None, max_executions: int | None = None) -> tuple[str, str]:
        """A new key: its id, and the key itself, which is told this once."""
        if not owner.strip() or len(owner) > 200 or not owner.isprintable():
            raise UsageError("name the key's owner in printable characters")
        id, key = secrets.token_hex(4), _PREFIX + secrets.token_urlsafe(32)
        self._database.execute(
            "insert into keys values (?, ?, ?, ?, ?, ?)",
            (id, _hash(key), owner, time.time(), max_sessions, max_executions),
        )
        return id, key

    def remove(self, id: str) -> None:
        """Raises UsageError where there is none of that id."""
        if not self._database.execute("delete from keys where id = ?", (id,)).rowcount:
            raise UsageError(f"there is no key {id!r}: codeact engine key list shows them")

    def list(self) -> list[tuple[Tenant, float]]:
        """Each key's holder, and when it was made (seconds since the epoch)."""
        rows = self._database.execute(
            "select id, owner, max_sessions, max_executions, created from keys order by created"
        )
        return [(_tenant(*row[:4]), row[4]) for row in rows]

    def find(self, key: str) -> Tenant | None:
        rows = self._database.execute(
            "select id, owner, max_sessions, max_executions from keys where hash = ?", (_hash(key),)
        )
        row = rows.fetchone()
        return None if row is None else _tenant(*row)

    def ids(self) -> set[str]:
        return {row[0] for row in self._database.execute("select id from keys")}

    def exist(self) -> bool:
        return self._database.execute("select 1 from keys limit 1").fetchone() is not None


def _tenant(id: str, owner: str, max_sessions: int | None, max_executions: int | None) -> Tenant:
    return Tenant(id=id, owner=owner, max_sessions=max_sessions, max_executions=max_executions)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
