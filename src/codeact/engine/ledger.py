"""Which sessions there were: what an engine that was restarted knows of those that its predecessor had."""

from __future__ import annotations

import sqlite3
import time

from codeact.engine.errors import Refused

_REMEMBERED = 30 * 86400.0  # seconds after its end that a session's loss is still told
_MOST = 100_000  # ended sessions remembered

CRASHED = "the engine that held it is gone (it crashed or was killed)"


class Ledger:
    """A row for each session: while it lives, and after it ended in any way but by its client's own wish."""

    def __init__(self, database: sqlite3.Connection) -> None:
        """All that the engine before this one left as living is lost."""
        self._database = database
        database.execute("update sessions set ended = ?, reason = ? where ended is null", (time.time(), CRASHED))
        self.prune()

    def begin(self, key: str, id: str) -> None:
        """Raises Refused where it cannot be written down: then the session must not be."""
        try:
            self._database.execute(
                "insert or replace into sessions values (?, ?, ?, null, null)", (key, id, time.time())
            )
        except sqlite3.Error as error:
            message = f"the engine cannot write its state ({error}): make room where --state is"
            raise Refused(507, "no_room", message, 30) from error

    def end(self, key: str, id: str, reason: str) -> None:
        """Raises sqlite3.Error; the row then tells of a crash when the engine is started again, which is safe."""
        self._database.execute(
            "update sessions set ended = ?, reason = ? where key = ? and id = ?", (time.time(), reason, key, id)
        )

    def forget(self, key: str, id: str) -> bool:
        """Whether there was such a session. Raises sqlite3.Error."""
        return self._database.execute("delete from sessions where key = ? and id = ?", (key, id)).rowcount > 0

    def lost(self, key: str, id: str) -> str | None:
        """Why a session is no more, None where there was none or it lives."""
        row = self._database.execute("select reason from sessions where key = ? and id = ?", (key, id)).fetchone()
        return None if row is None else row[0]

    def prune(self) -> None:
        """Forget what is too old to be asked for. Raises sqlite3.Error."""
        self._database.execute("delete from sessions where ended < ?", (time.time() - _REMEMBERED,))
        self._database.execute(
            "delete from sessions where ended is not null and rowid not in "
            "(select rowid from sessions order by ended desc limit ?)",
            (_MOST,),
        )
