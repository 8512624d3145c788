"""Actions between tags: ``<execute>…</execute>``.

The rules, in the order in which they matter:

1. The reply ends where ``\\nExecution Output:`` begins, wherever that stands: the server is asked to stop there, and
   the outcome is the same whether it kept that string, removed it or went on.
2. ``<think>…</think>`` at the beginning and ``<thought>…</thought>`` anywhere are thoughts; no action is looked for in
   them. A ``<think>`` never closed takes the whole rest. A ``<thought>`` never closed (known when the reply is over) is
   taken for plain text. A lone ``</think>`` or ``</thought>`` makes all before it thought.
3. A tag in Markdown inline code (backticks that match on the same line) is only mentioned. So is one in the middle of a
   line that is quoted, or followed by what cannot begin Python: ``the <execute> tag``, ``<execute> and …``,
   ``<execute>, …``, ``<execute>...``.
4. Any other opening tag begins a block: better a SyntaxError that the model can repair than code that is not run.
   One in the middle of a line with code behind it is *tentative*: when another opening tag follows before its closing
   tag, the first was only a mention. Outside Markdown inline code, a Markdown fence around a block changes nothing.
5. A block ends at the first closing tag outside of Python strings and comments. If there is none, at the first one that
   stands in a comment or in a string that is never closed (``# done </execute>``): that is decided when another opening
   tag or the end of the reply comes. If there is none at all, at an opening tag at the beginning of a line, or at the
   end of the reply.
6. The first block to be complete counts; what follows is dropped. An opening ``<execute>`` at the beginning of a line
   inside an open ``<solution>`` takes over. Behind the block, white space, backticks, closing tags and special tokens
   are nothing.
7. Empty blocks are passed over. When the reply holds nothing but one at the beginning of a line, ``code`` is empty and
   ``problem`` says so.
8. With no block at all the plain text is the answer, or, failing that, the thought.

While the reply streams, code is shown as soon as it is sure to be code; a tentative block is shown only when it closes.
"""

from __future__ import annotations

import re

from codeact.formats.ends import PythonScanner, clean_code, fence_opening, trim_unclosed
from codeact.formats.stream import Tag, TextParser

_PROSE_MARK = re.compile(r"[<`]")
_TICKS_OR_LINE_END = re.compile(r"`+|\n")
_LOOK_AHEAD = 24
_MENTION = re.compile(
    r"[ \t]*(?:[)\]},;:…]|\.(?!\d)|(?:and|or|tags?|blocks?)\b(?=[ \t]+[a-z<(`]|[ \t]*[.,;:!?)…]?(?:\s|\Z)))",
    re.IGNORECASE,
)
_COUNTERPARTS = {"'": "'", '"': '"', "*": "*", "_": "_", "“": "”", "‘": "’", "«": "»"}
_BLOCKS = ("execute", "solution")


class TagParser(TextParser):
    """Parser of one reply in the tag form; the rules stand at the top of the module."""

    skipped_after_action = " \t\r\n`"

    def __init__(self) -> None:
        super().__init__()
        self._scanner = PythonScanner("<")
        self._opening = Tag("", False, 0, 0)
        self._firm = True
        self._ticks_from = -1
        self._ticks_seen = 0
        self._echo = 0
        self._echo_seen = 0
        self._echo_line = 0
        self._echo_begun = False
        self._echo_fenced = False

    # --- plain text

    def _plain(self) -> bool:
        mark = _PROSE_MARK.search(self._text, self._pos, self._end)
        self._pos = mark.start() if mark else max(self._pos, self._end)
        self._show("thought", self._plain_from, self._pos)
        if mark is None:
            return False
        if self._text[self._pos] == "`":
            return self._inline_code()
        tag = self._tag_at(self._pos)
        if tag == "wait":
            return False
        if tag is None:
            return self._next(self._plain, self._pos + 1)
        return self._closing_in_prose(tag) if tag.closing else self._opening_in_prose(tag)

    def _inline_code(self) -> bool:
        """Pass over Markdown inline code, or over backticks that have no counterpart on their line."""
        start = self._pos
        ticks = _TICKS_OR_LINE_END.match(self._text, start, self._end)
        run = ticks.end() - start if ticks else 1
        if self._ticks_from != start:
            self._ticks_from, self._ticks_seen = start, start + run
        if start + run == self._end and not self._final:
            self._ticks_from = -1
            return False
        while found := _TICKS_OR_LINE_END.search(self._text, self._ticks_seen, self._end):
            if found[0] == "\n":
                return self._next(self._plain, start + run)
            if found.end() == self._end and not self._final:
                self._ticks_seen = found.start()
                return False
            self._ticks_seen = found.end()
            if found.end() - found.start() == run:
                return self._next(self._plain, found.end())
        self._ticks_seen = max(self._ticks_seen, self._end)
        return self._next(self._plain, start + run) if self._final else False

    def _closing_in_prose(self, tag: Tag) -> bool:
        if tag.name in ("think", "thought"):
            self._plain_was_thought(tag)
        return self._next(self._plain, tag.end)

    def _opening_in_prose(self, tag: Tag) -> bool:
        if tag.name == "think":
            if not self._only_thought_before(tag.start):
                return self._next(self._plain, tag.end)
        else:
            firm = self._begins_line(tag.start)
            if not firm:
                ahead, newline, _ = self._text[tag.end : min(tag.end + _LOOK_AHEAD, self._end)].partition("\n")
                if not newline and len(ahead) < _LOOK_AHEAD and not self._final:
                    return False
                firm = bool(newline) and not ahead.strip()
                before = _COUNTERPARTS.get(self._text[tag.start - 1])
                if _MENTION.match(ahead) or (before and ahead.startswith(before)):
                    return self._next(self._plain, tag.end)
            if tag.name in _BLOCKS:
                return self._open_block(tag, firm)
            if not self._thoughts_close:
                return self._next(self._plain, tag.end)
        return self._open_thought(tag)

    def _begins_line(self, pos: int) -> bool:
        start = max(self._text.rfind("\n", 0, pos) + 1, self._plain_from)
        return not self._text[start:pos].strip()

    # --- blocks

    def _open_block(self, tag: Tag, firm: bool) -> bool:
        self._opening, self._firm = tag, firm
        self._scanner = PythonScanner("<")
        self._echo = self._echo_seen = self._echo_line = tag.end
        self._echo_begun = self._echo_fenced = False
        return self._next(self._solution if tag.name == "solution" else self._block, tag.end)

    def _solution(self) -> bool:
        while self._pos < self._end:
            at = self._text.find("<", self._pos, self._end)
            self._pos = at if at >= 0 else self._end
            if self._firm:
                self._show("thought", self._opening.end, self._pos)
            if at < 0:
                break
            tag = self._tag_at(at)
            if tag == "wait":
                break
            if tag is not None and tag.closing and tag.name == "solution":
                return self._close_solution(tag.start, tag.end, self._text[: tag.end])
            if tag is not None and not tag.closing and tag.name == "execute" and self._begins_line(at):
                return self._next(self._plain, at)
            self._pos = tag.end if tag else at + 1
        return False

    def _close_solution(self, end: int, after: int, text: str) -> bool:
        answer = self._text[self._opening.end : end].strip()
        if not answer:
            return self._next(self._plain, after)
        self._show("thought", self._opening.end, end)
        self._end_plain(self._opening.start)
        self._answer, self._action_text = answer, text
        return self._next(self._after, after)

    def _block(self) -> bool:
        pos, found = self._scanner.advance(self._text, self._pos, self._end, self._final)
        self._pos = pos
        tag = self._tag_at(pos) if found else "wait"
        if tag == "wait":
            if self._firm:
                self._show_code(self._scanner.held.start if self._scanner.held else pos)
            return False
        if tag is None:
            return self._next(self._block, pos + 1)
        if tag.closing:
            if tag.name == "execute":
                if self._scanner.in_code:
                    return self._close_block(tag.start, tag.end, self._text[: tag.end])
                self._scanner.hold(tag.start, tag.end)
        elif tag.name in _BLOCKS and self._scanner.in_code:
            return self._opening_in_block(tag)
        return self._next(self._block, tag.end)

    def _opening_in_block(self, tag: Tag) -> bool:
        held, firm = self._scanner.held, self._begins_line(tag.start)
        if held is not None and (firm or tag.name == "execute"):
            return self._close_block(held.start, held.end, self._text[: held.end])
        if not self._firm and (firm or tag.name == "execute"):
            return self._next(self._plain, tag.start)
        if not self._text[self._opening.end : tag.start].strip():
            return self._next(self._plain, tag.start)
        if firm:
            return self._close_unclosed(tag.start)
        return self._next(self._block, tag.end)

    def _close_block(self, end: int, after: int, text: str) -> bool:
        code = clean_code(self._text[self._opening.end : end])
        if code or self._firm:
            self._show_code(end)
        if not code:
            self._empty_block = self._empty_block or self._firm
            return self._next(self._plain, after)
        return self._act(code, self._opening.start, text, after)

    def _close_unclosed(self, end: int) -> bool:
        """The block was never closed: supply the closing tag."""
        if self._firm and not self._final:
            self._show_code(end)
        end_of_code = trim_unclosed(self._text, self._opening.end, end, "execute")
        text = self._text[:end_of_code].rstrip() + "\n</execute>"
        return self._close_block(end_of_code, end, text)

    def _show_code(self, end: int) -> None:
        """Show the code up to ``end``, without blank lines or a fence at its beginning and its end."""
        while not self._echo_begun and self._echo_seen < end:
            char = self._text[self._echo_seen]
            if char == "\n":
                self._echo_line = self._echo_seen + 1
            elif char not in " \t\r":
                if char in "`~" and not self._echo_fenced:
                    newline = self._text.find("\n", self._echo_seen, end)
                    if newline < 0:
                        return
                    if fence_opening(self._text[self._echo_seen : newline]):
                        self._echo_fenced = True
                        self._echo_line, self._echo_seen = newline + 1, newline + 1
                        continue
                self._echo_begun = True
                first = self._echo_line == self._opening.end
                self._echo = self._echo_seen = self._echo_seen if first else self._echo_line
                break
            self._echo_seen += 1
        if not self._echo_begun:
            return
        piece = self._text[self._echo_seen : end].rstrip(" \t\r\n`~" if self._echo_fenced else " \t\r\n")
        if piece:
            sure = self._echo_seen + len(piece)
            self._shown = max(self._shown, self._echo)
            self._show("code", self._echo, sure)
            self._echo = sure
        self._echo_seen = max(self._echo_seen, end)

    # --- the end of the text

    def _block_at_end(self) -> None:
        held = self._scanner.held
        if self._state == self._solution:
            end = trim_unclosed(self._text, self._opening.end, self._end, "solution")
            self._close_solution(end, self._end, self._text[:end].rstrip() + "\n</solution>")
        elif held is not None:
            self._close_block(held.start, held.end, self._text[: held.end])
        else:
            self._close_unclosed(self._end)
