"""What a server answered, as values for the code in the sandbox.

Structured content is the result where there is some. Otherwise each piece of content is: text, or a dictionary with
``type``, ``mime_type`` and ``data`` (bytes) for images, audio and files. One piece stands for itself, several
are a list.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass

import mcp_types as types

from codeact import payload
from codeact.errors import ToolError
from codeact.plaintext import short

MAX_RESULT = 8 << 20
"""Bytes of one result as JSON."""

_MAX_ERROR = 4000  # characters


@dataclass(frozen=True)
class Answer:
    """JSON values, and bytes among them."""

    value: object


def of_call(name: str, result: types.CallToolResult, unwrap: bool) -> Answer:
    """The result of a tool; ``unwrap``: its structured content is ``{"result": …}``. Raises ToolError."""
    if result.is_error:
        said = "\n".join(block.text for block in result.content if isinstance(block, types.TextContent))
        raise ToolError(f"{name} failed: {short_text(said, _MAX_ERROR) or 'its server gave no reason'}")
    if result.structured_content is not None:
        content = result.structured_content
        if unwrap and isinstance(content, dict) and set(content) == {"result"}:
            content = content["result"]
        return _bounded(name, Answer(content))
    return _bounded(name, _joined([_block(block) for block in result.content]))


def of_resource(uri: str, result: types.ReadResourceResult) -> Answer:
    """What a resource holds. Raises ToolError."""
    return _bounded(f"the resource {uri[:200]}", _joined([_contents(part) for part in result.contents], bare=True))


def listed(
    server: str, resources: Sequence[types.Resource], templates: Sequence[types.ResourceTemplate]
) -> list[dict[str, object]]:
    """Resources as a table: one dictionary each; a template has ``uri_template`` in the place of ``uri``."""
    rows: list[dict[str, object]] = []
    entries: list[types.Resource | types.ResourceTemplate] = [*resources, *templates]
    for entry in entries:
        where = {"uri": entry.uri} if isinstance(entry, types.Resource) else {"uri_template": entry.uri_template}
        described = short_text(entry.description or "", 500)
        rows.append(
            {"server": server, **where, "name": entry.name, "description": described, "mime_type": entry.mime_type}
        )
    return rows


def short_text(text: str, limit: int) -> str:
    """Text of a server for people and models: without control characters, cut where it is long."""
    return short(text, limit).strip()


def _joined(pieces: list[object], bare: bool = False) -> Answer:
    """One piece for itself, several as a list. ``bare``: of one piece that holds bytes, only these."""
    if not pieces:
        return Answer(None)
    if len(pieces) > 1:
        return Answer(pieces)
    (only,) = pieces
    if bare and isinstance(only, dict):
        only = only["data"]
    return Answer(only)


def _block(block: types.ContentBlock) -> object:
    match block:
        case types.TextContent():
            return block.text
        case types.ImageContent() | types.AudioContent():
            return {"type": block.type, "mime_type": block.mime_type, "data": _bytes(block.data)}
        case types.ResourceLink():
            return {"type": block.type, "uri": block.uri, "name": block.name, "mime_type": block.mime_type}
        case types.EmbeddedResource():
            return {"type": block.type, "uri": block.resource.uri, "mime_type": block.resource.mime_type} | {
                "data": block.resource.text
                if isinstance(block.resource, types.TextResourceContents)
                else _bytes(block.resource.blob)
            }


def _contents(part: types.TextResourceContents | types.BlobResourceContents) -> object:
    if isinstance(part, types.TextResourceContents):
        return part.text
    return {"uri": part.uri, "mime_type": part.mime_type, "data": _bytes(part.blob)}


def _bytes(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        raise ToolError("the server sent data that is not base64") from error


def _bounded(name: str, answer: Answer) -> Answer:
    try:
        size = len(json.dumps(payload.encode(answer.value)))
    except ValueError as error:
        raise ToolError(f"{name} gave back what cannot be passed on: {error}") from error
    if size > MAX_RESULT:
        raise ToolError(f"{name} gave back {size >> 20} MiB, more than {MAX_RESULT >> 20}: ask for less at a time")
    return answer
