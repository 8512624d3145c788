"""The file that outlives the engine's process: its keys, and which sessions it had. One SQLite database.

Survives a crash of the process at any point. A crash of the machine may lose the last moments.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path

from codeact.errors import UsageError

_SCHEMA = """
create table if not exists keys (
    id text primary key, hash text unique not null, owner text not null, created real not null,
    max_sessions integer, max_executions integer
) strict;
create table if not exists sessions (
    key text not null, id text not null, created real not null, ended real, reason text,
    primary key (key, id)
) strict;
"""
_BUSY = 5.0  # seconds to wait for another process that writes


def state_directory() -> Path:
    """Where the engine's state is kept if not told otherwise."""
    if named := os.environ.get("CODEACT_ENGINE_STATE"):
        return Path(named)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "codeact" / "engine"


def connect(directory: Path) -> sqlite3.Connection:
    """The database in that directory, made where there is none. Raises UsageError."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = directory / "engine.sqlite3"
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        database = sqlite3.connect(path, timeout=_BUSY, isolation_level=None)
        try:
            database.execute("pragma journal_mode = wal")
            database.execute("pragma synchronous = normal")
            database.executescript(_SCHEMA)
        except BaseException:
            database.close()
            raise
    except (OSError, sqlite3.Error) as error:
        raise UsageError(
            f"the engine's state in {directory} cannot be used: {error}. Name another: --state DIR"
        ) from error
    return database


def lock(directory: Path) -> int:
    """Make this process the only engine over that directory, while the descriptor is open. Raises UsageError."""
    descriptor = os.open(directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise UsageError(f"another engine uses {directory} already: stop it, or name another: --state DIR") from error
    return descriptor
