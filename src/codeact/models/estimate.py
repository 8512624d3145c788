"""The usage of a reply, estimated for servers that do not count."""

from __future__ import annotations

from collections.abc import Iterable

from codeact.context.tokens import estimate_tokens
from codeact.contracts import ModelRequest, Usage

_FRAME = 4  # tokens that a chat template puts around a message


def estimate_usage(request: ModelRequest, reply: Iterable[str]) -> Usage:
    """Tokens of the request's text and of the reply, marked as estimated. Images are not counted."""
    prompt = sum(
        _FRAME + estimate_tokens(m.text) + (estimate_tokens(m.tool_call.arguments) if m.tool_call else 0)
        for m in request.messages
    )
    return Usage(prompt_tokens=prompt, completion_tokens=estimate_tokens("".join(reply)), estimated=True)
