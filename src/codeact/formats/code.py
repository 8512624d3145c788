"""The three ways in which a model writes Python as its action: tags, Markdown fences, native tool calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from codeact.contracts import Image, Message, Reply, ReplyDelta, ReplyParser, TextDelta, ToolCallDelta
from codeact.formats.fences import FenceParser
from codeact.formats.prompts import fences_prompt, tags_prompt, tool_call_prompt
from codeact.formats.stream import STOP
from codeact.formats.tags import TagParser
from codeact.formats.toolcall import TOOL_NAME, ToolCallParser, rendered_call


class _FindingParser(ReplyParser, Protocol):
    @property
    def found(self) -> bool: ...

    @property
    def text(self) -> str: ...


class LenientParser:
    """A parser that, when the reply is over and holds no action in the form asked for, looks for neighbouring forms.

    The form asked for wins wherever it stands in the reply. What was shown live as thought may so turn out to be code.
    """

    def __init__(self, asked: _FindingParser, *neighbours: Callable[[], _FindingParser]) -> None:
        self._asked = asked
        self._neighbours = neighbours

    @property
    def complete(self) -> bool:
        return self._asked.complete

    def feed(self, chunk: TextDelta | ToolCallDelta) -> Sequence[ReplyDelta]:
        return self._asked.feed(chunk)

    def finish(self) -> Reply:
        reply = self._asked.finish()
        if self._asked.found:
            return reply
        for neighbour in self._neighbours:
            parser = neighbour()
            parser.feed(TextDelta(text=self._asked.text))
            other = parser.finish()
            if other.code or (other.answer and parser.found):
                return other.model_copy(update={"neighbouring": True})
        return reply


class _TextFormat:
    """What the two text forms share: the stop string, and observations in the user's role."""

    stop: tuple[str, ...] = (STOP,)
    tools: tuple[dict[str, object], ...] = ()

    def render_reply(self, reply: Reply) -> Message:
        return Message(role="assistant", text=reply.text)

    def render_observation(self, reply: Reply, text: str, images: tuple[Image, ...] = ()) -> Message:
        return Message(role="user", text=STOP.lstrip() + "\n" + text, images=images)


class TagsFormat(_TextFormat):
    """``<execute>…</execute>``. Lenient: a Python fence counts where the reply holds no tag."""

    name: str = "tags"

    def system_prompt(self, environment: str) -> str:
        return tags_prompt(environment)

    def parser(self, *, lenient: bool = True) -> ReplyParser:
        return LenientParser(TagParser(), FenceParser) if lenient else TagParser()


class FencesFormat(_TextFormat):
    """```` ```python ````. Lenient: tags count where the reply holds no Python fence."""

    name: str = "fences"

    def system_prompt(self, environment: str) -> str:
        return fences_prompt(environment)

    def parser(self, *, lenient: bool = True) -> ReplyParser:
        return LenientParser(FenceParser(), TagParser) if lenient else FenceParser()


class ToolCallFormat:
    """Native calls of the tool ``python``. Lenient: tags or a Python fence in the text count where there is no call.

    No stop string: a reply ends with its call, and the newest reasoning models refuse requests that hold one.
    """

    name: str = "tool_call"
    stop: tuple[str, ...] = ()
    tools: tuple[dict[str, object], ...] = (
        {
            "type": "function",
            "function": {
                "name": TOOL_NAME,
                "description": "Run Python code as the next cell of a Jupyter notebook and see what it gives back.",
                "parameters": {
                    "type": "object",
                    "properties": {"code": {"type": "string", "description": "The Python code of the cell."}},
                    "required": ["code"],
                    "additionalProperties": False,
                },
            },
        },
    )

    def system_prompt(self, environment: str) -> str:
        return tool_call_prompt(environment)

    def parser(self, *, lenient: bool = True) -> ReplyParser:
        return LenientParser(ToolCallParser(), TagParser, FenceParser) if lenient else ToolCallParser()

    def render_reply(self, reply: Reply) -> Message:
        return Message(role="assistant", text=reply.text, tool_call=rendered_call(reply))

    def render_observation(self, reply: Reply, text: str, images: tuple[Image, ...] = ()) -> Message:
        if reply.tool_call is None:
            return Message(role="user", text=STOP.lstrip() + "\n" + text, images=images)
        return Message(role="tool", text=text, images=images, tool_call_id=reply.tool_call.id)
