"""Where a piece of Python ends inside a model's reply, and what it looks like without its wrapping.

``PythonScanner`` walks through code that nobody promised to be valid and says of any position whether it lies inside a
string or a comment. It knows string prefixes (they change nothing), triple quotes, backslashes, comments, and IPython's
``!shell`` and ``%magic`` lines, in which quotes mean nothing; after a leading ``%%magic`` line no quote means anything.
A string in single quotes ends at its line's end. It does not know expressions nested in f-strings that reuse the
f-string's own quote (Python 3.12): such a string is taken for two.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_BLANK = re.compile(r"[ \t]*")
_BLANK_LINES = re.compile(r"\A(?:[ \t\r]*\n)+")
_FENCE_LINE = re.compile(r"[ \t]*(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^`\n]*?)[ \t\r]*\Z")
_SPECIAL_TOKEN = re.compile(r"(?:<\|[^|<>\n]{1,40}\|>|</s>)")
_LAST_SPECIAL_TOKEN = re.compile(_SPECIAL_TOKEN.pattern + r"\s*\Z")
_PARTIAL_SPECIAL_TOKEN = re.compile(r"<(?:\|[^|<>\n]{0,40}\|?|/s?)?\Z")
_PARTIAL_CLOSE = re.compile(r"</[ \t]{0,4}([a-z]{0,8})[ \t]{0,4}\Z", re.IGNORECASE)
_LONGEST_SPECIAL_TOKEN = 64
PYTHON_NAMES = frozenset({"python", "py", "python3", "py3", "ipython", "ipython3"})


class Candidate(NamedTuple):
    """A closing mark that stands inside a string (which began at ``string``) or a comment (``string`` is None)."""

    start: int
    end: int
    string: int | None


class PythonScanner:
    """Walks through code up to each ``marker`` character. ``held`` is the first closing mark seen in a doubtful place.

    A mark inside a string that is properly closed was part of that string, and is forgotten.
    """

    def __init__(self, marker: str) -> None:
        special = re.escape(marker)
        self.marker = marker
        self.held: Candidate | None = None
        self._in_code = re.compile(rf"[#'\"\n{special}]")
        self._in_line = re.compile(rf"[\n{special}]")
        self._in_cell = re.compile(special)
        self._in_string = {q: re.compile(rf"[\\{q[0]}{special}" + (r"\n]" if len(q) == 1 else "]")) for q in _QUOTES}
        self._quote = ""
        self._quote_start = 0
        self._comment = False
        self._magic_line = False
        self._magic_cell = False
        self._line_start = True
        self._first_line = True

    @property
    def in_code(self) -> bool:
        """False inside a string or a comment."""
        return not self._quote and not self._comment

    @property
    def in_triple_quotes(self) -> bool:
        return len(self._quote) == 3

    def hold(self, start: int, end: int) -> None:
        """Remember a closing mark in a doubtful place; the first one stays."""
        if self.held is None:
            self.held = Candidate(start, end, self._quote_start if self._quote else None)

    def advance(self, text: str, pos: int, end: int, final: bool) -> tuple[int, bool]:
        """Walk from ``pos``. Returns the position of the next marker and True, or how far the text so far allows one
        to go and False."""
        while pos < end:
            if self._line_start and not self._quote:
                pos, known = self._look_at_line(text, pos, end, final)
                if not known:
                    return pos, False
            found = self._pattern().search(text, pos, end)
            if found is None:
                return end, False
            pos = found.start()
            if text[pos] == self.marker:
                return pos, True
            step = self._pass(text, pos, end, final)
            if step == 0:
                return pos, False
            pos = min(pos + step, end)
        return pos, False

    def _pattern(self) -> re.Pattern[str]:
        if self._quote:
            return self._in_string[self._quote]
        if self._magic_cell:
            return self._in_cell
        return self._in_line if self._comment or self._magic_line else self._in_code

    def _look_at_line(self, text: str, pos: int, end: int, final: bool) -> tuple[int, bool]:
        """Find out whether the line that begins is a magic one."""
        blank = _BLANK.match(text, pos, end)
        pos = blank.end() if blank else pos
        if pos == end:
            return pos, False
        if text[pos] == "%" and pos + 1 == end and not final:
            return pos, False
        after = text[pos + 1 : pos + 2]
        self._magic_line = text[pos] == "!" or (text[pos] == "%" and (after.isalpha() or after == "%"))
        self._magic_cell = self._first_line and text[pos] == "%" and after == "%"
        self._line_start = False
        if text[pos] not in "\r\n":
            self._first_line = False
        return pos, True

    def _pass(self, text: str, pos: int, end: int, final: bool) -> int:
        """Step over the character at ``pos``; how many characters that took, 0 when more text is needed first."""
        char = text[pos]
        if char == "\n":
            self._quote, self._comment, self._magic_line, self._line_start = "", False, False, True
            return 1
        if char == "#":
            self._comment = True
            return 1
        if char == "\\":
            return 2 if pos + 1 < end or final else 0
        seen = text[pos : min(pos + 3, end)]
        triple = seen == char * 3
        if len(seen) < 3 and seen == char * len(seen) and not final and len(self._quote) != 1:
            return 0
        if not self._quote:
            self._quote, self._quote_start = (char * 3, pos) if triple else (char, pos)
            return len(self._quote)
        if len(self._quote) == 3 and not triple:
            return 1
        if self.held is not None and self.held.string == self._quote_start:
            self.held = None
        width = len(self._quote)
        self._quote = ""
        return width


_QUOTES = ("'", '"', "'''", '"""')


def fence_opening(line: str) -> tuple[str, str] | None:
    """The fence (``"```"``) and the language (lower case, perhaps empty) that a line opens, or None."""
    match = _FENCE_LINE.match(line)
    if match is None:
        return None
    words = match["info"].strip("{}. \t").lower().split()
    return match["fence"], words[0].rstrip("},") if words else ""


def clean_code(raw: str) -> str:
    """The code of a block: without a Markdown fence around it, blank lines around it and indentation that every line
    shares. An empty string when nothing is left."""
    code = tidy(raw)
    first, newline, rest = code.partition("\n")
    opening = fence_opening(first)
    if opening is not None:
        closing = re.search(rf"^[ \t]*{opening[0][0]}{{{len(opening[0])},}}[ \t\r]*\Z", rest, re.MULTILINE)
        return tidy("\n" + (rest[: closing.start()] if closing else rest))
    if code.startswith("```") and not newline:
        code = code.strip("` ")
        word, _, after = code.partition(" ")
        return after.strip() if word.lower() in PYTHON_NAMES else code
    return code


def tidy(raw: str) -> str:
    """Code without blank lines around it and without indentation that every line shares. Indentation on the line of
    the opening mark, where ``raw`` begins, means nothing."""
    head, newline, rest = raw.partition("\n")
    code = (rest if newline and not head.strip() else raw.lstrip(" \t")).rstrip(" \t\r\n")
    if not code.strip():
        return ""
    return _dedent(_BLANK_LINES.sub("", code))


def _dedent(code: str) -> str:
    lines = code.split("\n")
    indents = [line[: len(line) - len(line.lstrip(" \t"))] for line in lines if line.strip()]
    shared = min(indents, key=len)
    while not all(indent.startswith(shared) for indent in indents):
        shared = shared[:-1]
    return "\n".join(line.removeprefix(shared) for line in lines) if shared else code


def trim_unclosed(text: str, start: int, end: int, name: str = "") -> int:
    """Where the content of a block that was never closed ends: before the beginning of a closing tag ``name``, and
    before a last line of nothing but fence characters."""
    partial = _PARTIAL_CLOSE.search(text, max(start, end - 24), end) if name else None
    if partial and name.startswith(partial[1].lower()):
        end = partial.start()
    stop = end
    while stop > start and text[stop - 1] in " \t\r\n":
        stop -= 1
    line = max(text.rfind("\n", start, stop) + 1, start)
    last = text[line:stop].strip()
    return line if last and line > start and set(last) in ({"`"}, {"~"}) else end


def trim_special_tokens(text: str, end: int) -> int:
    """Where the text ends without the special tokens (``<|im_end|>``, ``</s>``) at its end."""
    while end and (match := _LAST_SPECIAL_TOKEN.search(text, max(0, end - _LONGEST_SPECIAL_TOKEN), end)):
        end = match.start()
    return end


def special_token_at(text: str, pos: int, end: int) -> bool | None:
    """Whether a special token begins at ``pos``; None when the text so far cannot tell."""
    if _SPECIAL_TOKEN.match(text, pos, end):
        return True
    return None if _PARTIAL_SPECIAL_TOKEN.match(text, pos, end) else False
