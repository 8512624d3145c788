"""What is asked of an OpenAI-compatible server: our request as the body of a chat completion."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set
from typing import Any

from codeact.contracts import Message, ModelRequest
from codeact.models.refusal import Refusal

_MAX_STOPS = 4  # OpenAI's limit
_UNSUPPORTED = re.compile("support|unknown|unrecogni|unexpected|extra|permitted|allowed", re.IGNORECASE)


def request_fields(request: ModelRequest, model: str, images: bool, rejected: Set[str]) -> dict[str, Any]:
    """The body of the request. ``rejected``: fields to leave out, as ``rejected_field`` named them."""
    fields: dict[str, Any] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    fields["messages"] = [m for message in request.messages for m in _messages(message, images)]
    if request.stop:
        fields["stop"] = list(request.stop[:_MAX_STOPS])
    if request.tools:
        fields["tools"] = list(request.tools)
    if request.max_tokens is not None:
        fields["max_tokens"] = request.max_tokens
    if request.temperature is not None:
        fields["temperature"] = request.temperature
    for name in rejected & fields.keys():
        value = fields.pop(name)
        if name == "max_tokens":
            fields["max_completion_tokens"] = value
    return fields


def rejected_field(refusal: Refusal, fields: Mapping[str, Any]) -> str | None:
    """The field of the request that the server objected to, or None where the refusal is about something else."""
    if refusal.status not in (400, 422) or refusal.overflow():
        return None
    if "max_tokens" in fields and refusal.names("max_completion_tokens"):
        return "max_tokens"
    for name in ("temperature", "stop", "stream_options"):
        # The objection must be to the field: for a bad value of it the caller has to hear of it.
        if name in fields and refusal.names(name) and _UNSUPPORTED.search(f"{refusal.code} {refusal.message}"):
            return name
    # Servers that check strictly do not always say what they object to; this is the field that the oldest lack.
    return "stream_options" if "stream_options" in fields else None


def _messages(message: Message, images: bool) -> list[dict[str, Any]]:
    pictures = [
        {"type": "image_url", "image_url": {"url": f"data:{image.mime};base64,{image.data}"}}
        for image in (message.images if images else ())
    ]
    if message.role == "tool":
        # The protocol has no pictures in a tool's message: they follow in the user's name.
        result = {"role": "tool", "content": message.text, "tool_call_id": message.tool_call_id or ""}
        return [result, {"role": "user", "content": pictures}] if pictures else [result]
    if message.tool_call is not None:
        function = {"name": message.tool_call.name, "arguments": _arguments(message.tool_call.arguments)}
        call = {"id": message.tool_call.id, "type": "function", "function": function}
        return [{"role": "assistant", "content": message.text or None, "tool_calls": [call]}]
    if pictures:
        return [{"role": message.role, "content": [{"type": "text", "text": message.text}, *pictures]}]
    return [{"role": message.role, "content": message.text}]


def _arguments(text: str) -> str:
    """The arguments as the model wrote them where they are a JSON object: some servers fail on anything else."""
    try:
        return text if isinstance(json.loads(text), dict) else json.dumps({"invalid": text})
    except ValueError:
        return json.dumps({"invalid": text})
