"""What the network of a session refused: logged for who runs the host, kept to be told with the next execution."""

from __future__ import annotations

import logging

logger = logging.getLogger("codeact.network")

_LOGGED = 1000  # lines of one session
_TOLD = 8  # targets of one execution


def printable(text: str, limit: int = 200) -> str:
    """The text as one line of ASCII that no terminal acts on."""
    text = "".join(c if " " <= c <= "~" else "?" for c in text)
    return text if len(text) <= limit else f"{text[:limit]}…".encode("ascii", "replace").decode()


class Refusals:
    """Bounded, for the code inside chooses what is in it."""

    def __init__(self, session: str) -> None:
        self.count = 0
        self._session = session
        self._untold: dict[str, None] = {}
        self._untold_more = 0

    def note(self, target: str, why: str) -> None:
        """One refusal: a ``host:port`` and the reason, both perhaps of the code's choosing."""
        target, why = printable(target, 100), printable(why)
        self.count += 1
        if self.count <= _LOGGED:
            logger.warning("session %s: refused %s: %s", self._session, target, why)
        if self.count == _LOGGED:
            logger.warning("session %s: further refusals are counted, not logged", self._session)
        told = f"{target} ({why})"
        if told not in self._untold:
            if len(self._untold) < _TOLD:
                self._untold[told] = None
            else:
                self._untold_more += 1

    def told(self) -> str | None:
        """One sentence on what was refused since this was last asked, or None."""
        if not self._untold:
            return None
        more = f" and {self._untold_more} more" if self._untold_more else ""
        sentence = f"The network refused: {', '.join(self._untold)}{more}."
        self._untold, self._untold_more = {}, 0
        return sentence

    def close(self) -> None:
        """The session's end: how many there were, where not all were logged."""
        if self.count > _LOGGED:
            logger.warning("session %s: %d refusals in all", self._session, self.count)
