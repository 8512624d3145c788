"""Conversations that are kept by themselves, so that they can go on later: one trajectory each, for its user only."""

from __future__ import annotations

import os
import re
import secrets
import time
from pathlib import Path

from codeact.errors import UsageError
from codeact.plaintext import short
from codeact.trajectory import TrajectoryWriter

_ID = re.compile(r"[\w-]{1,80}", re.ASCII)
_NAMED = 5


def directory() -> Path:
    """Where they are: ``codeact/chats`` in the user's state (``XDG_STATE_HOME``, else ``~/.local/state``)."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "codeact" / "chats"


def begin() -> TrajectoryWriter:
    """A new one. Only its user can read it. Raises UsageError where it cannot be kept."""
    try:
        home = directory()
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.chmod(0o700)
        path = home / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}.jsonl"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody knows where the home is
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise UsageError(f"this conversation cannot be kept: {reason}; name a file with --save") from error
    return TrajectoryWriter(path)


def id_of(path: Path) -> str | None:
    """What names a conversation that is kept here; None for any other file."""
    return path.stem if path.parent == directory() else None


def find(name: str | None) -> Path:
    """The file of a conversation: by its id, by a path, or (None) the one that was last gone on with.

    Raises UsageError naming the latest where there is none of that name.
    """
    latest = _latest()
    if name is None:
        if not latest:
            raise UsageError("no conversation is kept yet: codeact chat begins one")
        return latest[0]
    path = Path(name).expanduser()
    if path.exists() or not _ID.fullmatch(name):
        return path
    kept = directory() / f"{name}.jsonl"
    if not kept.exists():
        known = ", ".join(path.stem for path in latest[:_NAMED])
        others = f"the latest are {known}" if known else "none is kept yet"
        raise UsageError(f"there is no conversation {short(name, 80)!r}: {others}")
    return kept


def _latest() -> list[Path]:
    """All that are kept, the one last written to first."""
    try:
        return sorted(directory().glob("*.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    except (OSError, RuntimeError):
        return []
