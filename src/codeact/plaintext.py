"""Program output as plain text of a bounded length: as a terminal would leave it on the screen, without colours.

Control sequences follow ECMA-48 (ISO 6429). Only what changes the text of a line is obeyed: carriage return, backspace,
cursor moves within what was written, erasing. Clearing the whole screen is not obeyed: nothing printed gets lost.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_ESCAPE = (
    r"(?:\x1b\[|\x9b)(?P<args>[0-?]*)[ -/]*(?P<final>[@-~]?)"  # CSI: colours, cursor, erase
    r"|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?"  # OSC, DCS, SOS, PM, APC: titles, links, inline pictures
    r"|\x1b[ -/]*[0-~]?"  # all others
)
_ANY_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_MOVES = re.compile(r"[\r\x08]|(?:\x1b\[|\x9b)[0-?]*[A-GJK]")
_REMOVED = re.compile(rf"{_ESCAPE}|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_TOKEN = re.compile(rf"{_ESCAPE}|(?P<text>[^\x00-\x08\x0a-\x1f\x7f-\x9f]+)|[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")

_WIDTH = 200
"""Columns that a cursor move alone can reach; bounds what ``ESC[999999999C`` can make us allocate."""


def strip_ansi(text: str) -> str:
    """Remove escape sequences and control characters; carriage returns and backspaces stay what they are."""
    if not _ANY_CONTROL.search(text):
        return text
    kept = re.sub(_ESCAPE, "", text)
    return _SURROGATE.sub("\ufffd", re.sub(r"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]", "", kept))


def plain(text: str) -> str:
    """The text as a terminal shows it in the end. Slow for megabytes where the cursor moves: cut first."""
    if not _ANY_CONTROL.search(text):
        return text
    text = text.replace("\r\n", "\n")
    if _MOVES.search(text):
        screen = _Screen()
        for token in _TOKEN.finditer(text):
            screen.feed(token)
        text = screen.text()
    else:
        text = _REMOVED.sub("", text)
    return _SURROGATE.sub("\ufffd", text)


def shorten(text: str, limit: int, marker: Callable[[int], str] | None = None) -> str:
    """Keep the head and the tail of ``text``, ``limit`` characters together, and a marker line between them.

    Cuts at line ends where one is near, and never between a character and its combining marks. ``marker`` makes the
    line from the number of characters left out.
    """
    if len(text) <= limit:
        return text
    head, tail = limit // 2, len(text) - (limit - limit // 2)
    newline = text.rfind("\n", head - head // 4, head)
    head = newline + 1 if newline >= 0 else head
    newline = text.find("\n", tail - 1, tail + limit // 8)
    tail = newline + 1 if newline >= 0 else tail
    for _ in range(32):
        head -= 0 < head < len(text) and _joins(text[head])
        tail += tail < len(text) and _joins(text[tail])
    line = marker(tail - head) if marker else f"[… {tail - head:,} characters left out here …]"
    before = text[:head] if head == 0 or text[head - 1] == "\n" else text[:head] + "\n"
    return f"{before}{line}\n{text[tail:]}"


def _joins(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Me", "Mc") or character == "\u200d"


def short(text: str, limit: int) -> str:
    """The first characters of a name or a line, without control characters; an ellipsis tells that it was longer."""
    text = strip_ansi(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


class _Screen:
    """Lines of single characters and a cursor."""

    def __init__(self) -> None:
        self.lines: list[list[str]] = [[]]
        self.row = 0
        self.column = 0

    def text(self) -> str:
        return "\n".join("".join(line) for line in self.lines)

    def feed(self, token: re.Match[str]) -> None:
        if written := token["text"]:
            self.write(written)
        elif token["final"]:
            self.control(token["final"], token["args"])
        elif token[0] == "\n":
            self.row += 1
            self.column = 0
            if self.row == len(self.lines):
                self.lines.append([])
        elif token[0] == "\r":
            self.column = 0
        elif token[0] == "\b":
            self.column = max(0, self.column - 1)

    def write(self, text: str) -> None:
        line = self.lines[self.row]
        if self.column > len(line):
            line.extend(" " * (self.column - len(line)))
        end = self.column + len(text)
        line[self.column : end] = text
        self.column = end

    def control(self, final: str, args: str) -> None:
        first = args.split(";")[0]
        number = int(first) if first.isascii() and first.isdigit() and len(first) < 10 else None
        step = number or 1
        line = self.lines[self.row]
        match final:
            case "A" | "F":
                self.row = max(0, self.row - step)
            case "B" | "E":
                self.row = min(len(self.lines) - 1, self.row + step)
            case "C":
                self.column = min(self.column + step, max(self.column, _WIDTH))
            case "D":
                self.column = max(0, self.column - step)
            case "G":
                self.column = min(step - 1, max(len(line), _WIDTH))
            case "K" if number == 2:
                line.clear()
            case "K" if number == 1:
                line[: self.column] = " " * min(self.column, len(line))
            case "K":
                del line[self.column :]
            case "J" if not number:
                del line[self.column :]
                del self.lines[self.row + 1 :]
        if final in "EF":
            self.column = 0
