"""Directories that a host process keeps while it lives, and that the next one removes where it was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from codeact.errors import KernelStartError

_PREFIX = "codeact-"
_LOCK = "owner"


class RunDirectory:
    """A private temporary directory, locked by this process. The lock ends with the process, however it ends."""

    def __init__(self) -> None:
        """Raises KernelStartError where there is no room."""
        sweep()
        made = None
        try:
            made = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
            self._lock = os.open(f"{made}/{_LOCK}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if made is not None:
                os.rmdir(made)
            raise KernelStartError(no_room(error)) from error
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.path = Path(made)

    def remove(self) -> None:
        """Remove the directory and all in it. Safe to call twice."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def no_room(error: OSError) -> str:
    """What to tell of an error in the temporary directory."""
    folder = tempfile.gettempdir()
    return f"no session can be started: {folder}: {error.strerror}. Make room there, or set TMPDIR to another directory"


def sweep() -> None:
    """Remove this user's directories whose owner is gone. The lock tells, so that process ids may repeat."""
    for path in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        with contextlib.suppress(OSError):
            if path.is_symlink() or path.stat().st_uid != os.geteuid():
                continue
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
