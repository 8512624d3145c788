"""Actions between Markdown fences: a ```` ```python ```` block is the action.

1. The reply ends where ``\\nExecution Output:`` begins (see ``tags``).
2. A fence is three or more backticks or tildes at the beginning of a line (indented or not). It opens an action when
   its language is Python (``python``, ``py``, ``python3``, ``py3``, ``ipython``). A Python fence behind other text also
   does, when the line ends with it and holds no other backtick. Inline code opens nothing.
3. A fence of any other language, or of none, is text up to its closing line, and Python fences inside it are too. One
   that is never closed (known when the reply is over) is taken for a plain line.
4. ``<think>…</think>`` at the beginning and ``<thought>…</thought>`` at the beginning of a line are thoughts, as in
   ``tags``.
5. The action ends at a line that holds only a fence of the same kind and at least the same length, at such a fence at
   the end of a line of code, or at any line that begins with one, as no Python does. Strings in triple quotes are
   passed over, unless they are never closed: then the first such line inside counts. Without one the end of the reply
   ends the action.
6. The first action counts; what follows is dropped. Empty blocks are passed over, as in ``tags``.
"""

from __future__ import annotations

import re

from codeact.formats.ends import PYTHON_NAMES, PythonScanner, fence_opening, tidy, trim_unclosed
from codeact.formats.stream import Tag, TextParser

_INDENT = re.compile(r"[ \t]*")
_BACKTICK_OR_LINE_END = re.compile(r"[`\n]")
_FENCE_BEHIND_TEXT = re.compile(r"[^`\n]*?(`{3,})[ \t]*([A-Za-z0-9]+)[ \t\r]*\Z")
_REST_OF_LINE = re.compile(r"[ \t\r]*")


class FenceParser(TextParser):
    """Parser of one reply in the fence form; the rules stand at the top of the module."""

    def __init__(self) -> None:
        super().__init__()
        self._scanner = PythonScanner("`")
        self._fence = ""
        self._open_from = 0
        self._content = 0
        self._line_begins = True
        self._text_fences: set[int] = set()
        self._echo_seen = 0

    # --- plain text

    def _plain(self) -> bool:
        """Text outside of any fence, from the beginning of a line or from behind its harmless beginning."""
        indent = _INDENT.match(self._text, self._pos, self._end) if self._line_begins else None
        first = self._pos = indent.end() if indent else self._pos
        if first >= self._end:
            return False
        if self._line_begins and self._text[first] == "<":
            tag = self._tag_at(first)
            if tag == "wait":
                return False
            if tag is not None and (state := self._thought_or_not(tag)) is not None:
                return state
        if self._line_begins and self._text[first] in "`~":
            return self._whole_line()
        mark = _BACKTICK_OR_LINE_END.search(self._text, first, self._end)
        if mark is not None and mark[0] == "`":
            self._show("thought", self._plain_from, mark.start())
            self._line_begins, self._pos = False, mark.start()
            return self._whole_line()
        end = mark.end() if mark else self._end
        self._show("thought", self._plain_from, end)
        self._line_begins = mark is not None
        self._pos = end
        return mark is not None

    def _thought_or_not(self, tag: Tag) -> bool | None:
        if tag.name not in ("think", "thought"):
            return None
        if tag.closing:
            self._plain_was_thought(tag)
            return self._next(self._plain, tag.end)
        known = self._only_thought_before(tag.start) if tag.name == "think" else self._thoughts_close
        if not known:
            return None
        return self._open_thought(tag)

    def _whole_line(self) -> bool:
        """A line with backticks or tildes can be judged only when it is whole."""
        newline = self._text.find("\n", self._pos, self._end)
        if newline < 0 and not self._final:
            return False
        end = newline if newline >= 0 else self._end
        after = min(end + 1, self._end)
        line = self._text[self._pos : end]
        opening = fence_opening(line) if self._line_begins else None
        if opening is None and (behind := _FENCE_BEHIND_TEXT.match(line)) and behind[2].lower() in PYTHON_NAMES:
            return self._open(behind[1], self._pos + behind.start(1), after)
        if opening is not None and opening[1] in PYTHON_NAMES:
            return self._open(opening[0], self._pos, after)
        self._line_begins = True
        if opening is not None and self._pos not in self._text_fences:
            self._fence, self._open_from, self._content = opening[0], self._pos, after
            return self._next(self._other_fence, after)
        self._show("thought", self._plain_from, after)
        return self._next(self._plain, after)

    def _other_fence(self) -> bool:
        newline = self._text.find("\n", self._pos, self._end)
        if newline < 0 and not (self._final and self._pos < self._end):
            return False
        end = newline if newline >= 0 else self._end
        after = min(end + 1, self._end)
        opening = fence_opening(self._text[self._pos : end])
        self._show("thought", self._plain_from, after)
        closes = opening is not None and opening[0].startswith(self._fence) and not opening[1]
        return self._next(self._plain if closes else self._other_fence, after)

    # --- the block

    def _open(self, fence: str, start: int, content: int) -> bool:
        self._show("thought", self._plain_from, start)
        self._fence, self._open_from, self._content = fence, start, content
        self._scanner = PythonScanner(fence[0])
        self._shown = max(self._shown, content)
        self._echo_seen = content
        return self._next(self._block, content)

    def _block(self) -> bool:
        pos, found = self._scanner.advance(self._text, self._pos, self._end, self._final)
        self._pos = pos
        if not found:
            self._show_code(self._scanner.held.start if self._scanner.held else pos)
            return False
        run = pos
        while run < self._end and self._text[run] == self._fence[0]:
            run += 1
        rest = _REST_OF_LINE.match(self._text, run, self._end)
        behind = rest.end() if rest else run
        if behind == self._end and not self._final:
            self._show_code(self._scanner.held.start if self._scanner.held else pos)
            return False
        ends_line = behind >= self._end or self._text[behind] == "\n"
        line = self._text.rfind("\n", self._content - 1, pos) + 1
        begins_line = not self._text[max(line, self._content) : pos].strip()
        if run - pos < len(self._fence) or not (ends_line or begins_line):
            return self._next(self._block, run)
        if self._scanner.in_code and (begins_line or self._fence[0] == "`"):
            return self._close(pos, run if ends_line else pos, self._text[:run] if ends_line else None)
        if self._scanner.in_triple_quotes and ends_line and begins_line:
            self._scanner.hold(pos, run)
        return self._next(self._block, run)

    def _close(self, end: int, after: int, text: str | None) -> bool:
        code = tidy("\n" + self._text[self._content : end])
        self._show_code(end)
        if not code:
            self._empty_block = True
            self._line_begins = True
            return self._next(self._plain, after)
        supplied = self._text[:end].rstrip() + "\n" + self._fence
        return self._act(code, self._open_from, supplied if text is None else text, after)

    def _show_code(self, end: int) -> None:
        """Show the code up to ``end``, without the blank lines around it."""
        piece = self._text[self._echo_seen : end].rstrip(" \t\r\n")
        if piece and self._shown <= self._content:
            lead = self._text[self._content : self._echo_seen + len(piece)]
            skipped = len(lead) - len(lead.lstrip(" \t\r\n"))
            self._shown = self._text.rfind("\n", 0, self._content + skipped) + 1
        if piece:
            self._show("code", self._shown, self._echo_seen + len(piece))
        self._echo_seen = max(self._echo_seen, end)

    # --- the end of the text

    def _block_at_end(self) -> None:
        held = self._scanner.held
        if self._state == self._other_fence:
            self._text_fences.add(self._open_from)
            self._next(self._plain, self._open_from)
        elif held is not None:
            self._close(held.start, held.end, self._text[: held.end])
        else:
            self._close(trim_unclosed(self._text, self._content, self._end), self._end, None)
