"""What a search finds, the same for every database: whole words, case and accents aside, the last one by its beginning.

Databases cut text into words each in its own way, so the cutting is done here and they are given the words. A character
of Chinese or Japanese counts as a word, because these are written without spaces. There is no stemming.
"""

from __future__ import annotations

import re
import unicodedata

from codeact.events import Event, ModelReplied, Observed, RunStarted

MAX_INDEXED = 100_000
"""Characters of one event that can be found; what stands behind them is kept and not found."""
MAX_ASKED = 16
"""Words of one question; further ones are not looked at."""
_MAX_WORD = 64

_ALONE = "\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+")


def words(text: str) -> tuple[str, ...]:
    """The different words of a text as they are indexed: letters and digits only, in lower case, without accents."""
    apart = unicodedata.normalize("NFKD", text[:MAX_INDEXED])
    plain = "".join(c for c in apart if not unicodedata.combining(c)).casefold()[:MAX_INDEXED]
    return tuple(dict.fromkeys(word[:_MAX_WORD] for word in _WORD.findall(plain)))


def asked(question: str) -> tuple[str, ...]:
    """The words of a question; the last may be the beginning of one."""
    return words(question[: _MAX_WORD * MAX_ASKED])[:MAX_ASKED]


def found_in(event: Event) -> str:
    """The text by which an event is found: what was asked, replied, and shown to the model."""
    match event:
        case RunStarted():
            return " ".join((event.task, *event.files))
        case ModelReplied():
            return event.reply.text
        case Observed():
            return event.text
        case _:
            return ""
