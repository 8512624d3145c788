"""What the parsers of text replies share: a growing text, cut where the model begins to invent an observation.

Every parser is a state machine over the text received so far. A state either gets on or says that it needs more text;
it never looks at how the text was cut into chunks, so the reply and the deltas depend on the text alone. A state is a
method that returns False when it needs more text to get on.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from codeact.contracts import Reply, ReplyDelta, TextDelta, ToolCallDelta
from codeact.formats.ends import special_token_at, trim_special_tokens

STOP = "\nExecution Output:"
"""What opens an observation. Servers are asked to stop there; where they do not, the parser does. It is looked for
everywhere, inside strings too, as the server would."""

_TAG = re.compile(r"<[ \t]{0,4}(/?)[ \t]{0,4}(execute|solution|thought|thinking|think)[ \t]{0,4}>", re.IGNORECASE)
_PARTIAL_TAG = re.compile(r"<[ \t]{0,4}/?[ \t]{0,4}([a-z]{0,8})[ \t]{0,4}\Z", re.IGNORECASE)
_TAG_NAMES = ("execute", "solution", "thought", "thinking", "think")


class Tag(NamedTuple):
    name: str
    closing: bool
    start: int
    end: int


Wait = Literal["wait"]


class TextParser(ABC):
    """Base of the parsers of text replies. Native tool calls are ignored."""

    skipped_after_action = " \t\r\n"

    def __init__(self) -> None:
        self._text = ""
        self._pos = 0
        self._end = 0
        self._shown = 0
        self._final = False
        self._stopped = False
        self._complete = False
        self._deltas: list[ReplyDelta] = []
        self._spans: list[tuple[Literal["plain", "thought"], int, int]] = []
        self._plain_from = 0
        self._code: str | None = None
        self._answer: str | None = None
        self._action_from = 0
        self._action_text = ""
        self._dropped = False
        self._empty_block = False
        self._cut_thought = False
        self._thought_tag = Tag("", False, 0, 0)
        self._thoughts_close = True
        self._reply: Reply | None = None
        self._state: Callable[[], bool] = self._plain

    # --- the protocol

    @property
    def complete(self) -> bool:
        """True when nothing that may follow can change the reply."""
        return self._complete

    @property
    def found(self) -> bool:
        """True when the reply holds a block, be it empty. Known after ``finish``."""
        return self._code is not None or self._answer is not None or self._empty_block

    @property
    def text(self) -> str:
        """The reply so far, without an invented observation."""
        return self._text[: self._end]

    def feed(self, chunk: TextDelta | ToolCallDelta) -> Sequence[ReplyDelta]:
        if self._complete or self._reply is not None or not isinstance(chunk, TextDelta) or not chunk.text:
            return ()
        seen = len(self._text)
        text, self._text = self._text, ""  # a second reference would make CPython copy the whole text
        text += chunk.text
        self._text = text
        self._see(seen)
        self._run()
        if self._stopped and not self._complete:
            self._finalise()
        deltas, self._deltas = self._deltas, []
        return deltas

    def finish(self) -> Reply:
        if self._reply is None:
            if not self._complete:
                self._end = len(self._text)
                self._finalise()
            self._deltas = []
            self._reply = self._build()
        return self._reply

    # --- what a format defines

    @abstractmethod
    def _plain(self) -> bool:
        """The state outside of thoughts and blocks, the first one."""

    @abstractmethod
    def _block_at_end(self) -> None:
        """The text is over inside a block: close it, or move to a state that gets on."""

    # --- the machine

    def _see(self, seen: int) -> None:
        """Move the visible end: up to an invented observation, or up to what may be the beginning of one."""
        text = self._text
        if text.startswith(STOP[1:]):
            self._end, self._stopped = 0, True
            return
        at = text.find(STOP, max(0, seen - len(STOP)))
        if at >= 0:
            self._end, self._stopped = at, True
            return
        line = text.rfind("\n", max(0, len(text) - len(STOP)))
        if line >= 0 and STOP.startswith(text[line:]):
            self._end = line
        elif len(text) < len(STOP) and STOP.startswith(text, 1):
            self._end = 0
        else:
            self._end = len(text)

    def _run(self) -> None:
        while not self._complete and self._state():
            pass

    def _finalise(self) -> None:
        self._final = True
        self._end = trim_special_tokens(self._text, self._end)
        self._run()
        while not self._complete:
            if self._state == self._thought:
                self._thought_at_end()
            elif self._state in (self._plain, self._after):
                self._complete = True
            else:
                self._block_at_end()
            self._run()

    def _show(self, kind: Literal["thought", "code"], start: int, end: int) -> None:
        start = max(start, self._shown)
        if end > start:
            self._deltas.append(ReplyDelta(kind=kind, text=self._text[start:end]))
            self._shown = end

    def _tag_at(self, pos: int) -> Tag | Wait | None:
        """The tag that begins at ``pos``, ``wait`` when more text is needed to tell, or None."""
        match = _TAG.match(self._text, pos, self._end)
        if match is not None:
            name = match[2].lower()
            return Tag("think" if name == "thinking" else name, bool(match[1]), pos, match.end())
        if not self._final:
            partial = _PARTIAL_TAG.match(self._text, pos, self._end)
            if partial is not None and any(name.startswith(partial[1].lower()) for name in _TAG_NAMES):
                return "wait"
        return None

    def _next(self, state: Callable[[], bool], pos: int) -> bool:
        self._state, self._pos = state, pos
        return True

    def _end_plain(self, end: int) -> None:
        if end > self._plain_from:
            self._spans.append(("plain", self._plain_from, end))

    def _open_thought(self, tag: Tag) -> bool:
        self._end_plain(tag.start)
        self._thought_tag = tag
        self._shown = max(self._shown, tag.end)
        return self._next(self._thought, tag.end)

    def _thought(self) -> bool:
        while self._pos < self._end:
            at = self._text.find("<", self._pos, self._end)
            self._pos = at if at >= 0 else self._end
            self._show("thought", self._thought_tag.end, self._pos)
            tag = self._tag_at(at) if at >= 0 else "wait"
            if tag == "wait":
                break
            if tag is not None and tag.closing and tag.name == self._thought_tag.name:
                self._add_thought(tag.start, tag.end)
                return self._next(self._plain, tag.end)
            self._pos = tag.end if tag else at + 1
        return False

    def _add_thought(self, end: int, resume: int) -> None:
        self._spans.append(("thought", self._thought_tag.end, end))
        self._plain_from = resume
        self._shown = max(resume, self._shown)

    def _thought_at_end(self) -> None:
        """A thought was never closed: reasoning that was cut, or a tag that meant nothing."""
        if self._thought_tag.name == "think":
            self._add_thought(self._end, self._end)
            self._cut_thought = True
            self._next(self._plain, self._end)
        else:
            self._thoughts_close = False
            self._plain_from = self._thought_tag.end
            self._next(self._plain, self._thought_tag.end)

    def _plain_was_thought(self, tag: Tag) -> None:
        """A closing thought tag without its opening one: all before it was thought."""
        self._end_plain(tag.start)
        self._spans = [("thought", start, end) for _, start, end in self._spans]
        self._plain_from = self._shown = tag.end

    def _only_thought_before(self, pos: int) -> bool:
        return all(kind == "thought" or not self._text[a:b].strip() for kind, a, b in self._spans) and (
            not self._text[self._plain_from : pos].strip()
        )

    def _act(self, code: str, start: int, text: str, after: int) -> bool:
        """The action is ``code``; ``text`` is the reply up to its end."""
        self._end_plain(start)
        self._code, self._action_text = code, text
        return self._next(self._after, after)

    def _after(self) -> bool:
        """Behind the action: is the rest of the reply nothing, or something that is dropped?"""
        text, pos = self._text, self._pos
        while pos < self._end and text[pos] in self.skipped_after_action:
            pos += 1
        self._pos = pos
        if pos >= self._end:
            return False
        if text[pos] == "<":
            tag = self._tag_at(pos)
            if isinstance(tag, Tag) and tag.closing:
                return self._next(self._after, tag.end)
            special = special_token_at(text, pos, self._end)
            if special is None or tag == "wait":
                return False
            if special:
                self._complete = True
                return False
        self._dropped = self._complete = True
        return False

    def _build(self) -> Reply:
        thought = "\n\n".join(t for _, a, b in self._spans if (t := self._text[a : min(b, self._end)].strip()))
        if self._code is not None:
            return Reply(text=self._action_text, thought=thought, code=self._code, dropped=self._dropped)
        if self._answer is not None:
            return Reply(text=self._action_text, thought=thought, answer=self._answer, dropped=self._dropped)
        self._end_plain(self._end)
        whole = self._text[: self._end].strip()
        spans = [(kind, t) for kind, a, b in self._spans if (t := self._text[a : min(b, self._end)].strip())]
        thought = "\n\n".join(t for kind, t in spans if kind == "thought")
        plain = "\n\n".join(t for kind, t in spans if kind == "plain")
        if self._empty_block:
            everything = "\n\n".join(t for _, t in spans)
            return Reply(text=whole, thought=everything, code="", problem=EMPTY_BLOCK)
        if plain:
            return Reply(text=whole, thought=thought, answer=plain)
        if self._cut_thought or not thought:
            return Reply(text=whole, answer=thought, problem=ONLY_REASONING if thought else EMPTY_REPLY)
        return Reply(text=whole, answer=thought)


EMPTY_BLOCK = "The code block was empty, so nothing was run."
EMPTY_REPLY = "The reply was empty: it held neither code nor an answer."
ONLY_REASONING = "The reply ended within its reasoning: it held neither code nor an answer."
