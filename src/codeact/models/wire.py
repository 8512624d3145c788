"""What an OpenAI-compatible server sends: bytes into payloads, payloads into checked values.

Servers differ in small ways, so the shapes here are lenient: unknown fields are ignored and most fields may be missing.
What comes from a server is untrusted; a payload that does not fit these shapes is a broken stream.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from pydantic import BaseModel

from codeact.contracts import TextDelta, ToolCallDelta, Usage

MAX_PAYLOAD = 16 * 1024 * 1024
"""Bytes of one payload; a server that sends more without an end is broken."""

DONE: Final = "[DONE]"


class BrokenStream(Exception):
    """What arrived cannot be the protocol; asking again may help."""


class NotTheProtocol(Exception):
    """Something else than a model server answers here; asking again will not help."""


class _Part(BaseModel):
    text: str | None = None


class _Function(BaseModel):
    name: str | None = None
    arguments: str | dict[str, object] | None = None


class CallPiece(BaseModel):
    """A piece of a native tool call. Some servers leave ``index`` out, some send ``arguments`` as an object."""

    index: int | None = None
    id: str | None = None
    function: _Function | None = None

    @property
    def name(self) -> str | None:
        return self.function.name if self.function else None

    @property
    def arguments(self) -> str:
        arguments = self.function.arguments if self.function else None
        return json.dumps(arguments) if isinstance(arguments, dict) else arguments or ""


class Delta(BaseModel):
    """A piece of the assistant's message, or all of it. Reasoning is counted, never part of the text."""

    content: str | list[_Part] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[CallPiece] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text or "" for part in self.content)
        return self.content or ""

    @property
    def hidden(self) -> int:
        """Characters of reasoning in this piece."""
        return len(self.reasoning or "") + len(self.reasoning_content or "")


class Choice(BaseModel):
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None

    @property
    def piece(self) -> Delta:
        return self.delta or self.message or Delta()


class _PromptDetails(BaseModel):
    cached_tokens: int | None = None


class TokenCount(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None

    @property
    def cached_tokens(self) -> int:
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0


class Completion(BaseModel):
    """One chunk of a streamed completion, or a whole one from a server that does not stream."""

    choices: list[Choice] | None = None
    usage: TokenCount | None = None
    model: str | None = None
    error: object = None


def chunks_of(choice: Choice) -> list[TextDelta | ToolCallDelta]:
    """What a piece of a reply adds to it."""
    piece = choice.piece
    chunks: list[TextDelta | ToolCallDelta] = [TextDelta(text=piece.text)] if piece.text else []
    for position, call in enumerate(piece.tool_calls or []):
        index = position if call.index is None else call.index
        chunks.append(ToolCallDelta(index=index, id=call.id, name=call.name, arguments=call.arguments))
    return chunks


def usage_of(count: TokenCount | None) -> Usage | None:
    """The server's count, None where it gave none."""
    if count is None or not count.prompt_tokens:
        return None
    return Usage(
        prompt_tokens=count.prompt_tokens,
        completion_tokens=count.completion_tokens or 0,
        cached_tokens=count.cached_tokens,
    )


async def payloads(body: AsyncIterator[bytes]) -> AsyncGenerator[str, None]:
    """The payloads of a response in order, ``DONE`` included: server-sent events, or one plain JSON document.

    Judges by the first character rather than the content type, which servers get wrong. Raises BrokenStream and
    NotTheProtocol.
    """
    lines = _lines(body)
    data: list[str] = []
    size = 0
    async for line in lines:
        if line.startswith("{"):
            yield await _document(line, lines)
            return
        if line.startswith("<"):
            raise NotTheProtocol("a web page instead of a reply")
        field, _, value = line.partition(":")
        if field == "data":
            data.append(value.removeprefix(" "))
            size += len(value)
            if size > MAX_PAYLOAD:
                raise BrokenStream("an event without an end")
        elif field == "error":  # older llama.cpp
            yield '{"error":' + (value.strip() or "null") + "}"
        elif not line and data:
            yield "\n".join(data)
            data, size = [], 0
    if data:
        yield "\n".join(data)


async def _document(first: str, lines: AsyncIterator[str]) -> str:
    document, size = [first], len(first)
    async for line in lines:
        document.append(line)
        size += len(line)
        if size > MAX_PAYLOAD:
            raise BrokenStream("a reply without an end")
    return "\n".join(document)


async def _lines(body: AsyncIterator[bytes]) -> AsyncIterator[str]:
    # str.splitlines would also cut at U+2028 and friends, which JSON may hold unescaped.
    buffer = bytearray()
    async for chunk in body:
        buffer += chunk
        if b"\n" in chunk:
            *complete, rest = bytes(buffer).split(b"\n")
            for line in complete:
                yield _text(line)
            buffer[:] = rest
        if len(buffer) > MAX_PAYLOAD:
            raise BrokenStream("a line without an end")
    if buffer:
        yield _text(bytes(buffer))


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r").removeprefix("\ufeff")
