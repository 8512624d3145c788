"""Action formats: how a model writes code that is to be run, and how it is shown what happened."""

from __future__ import annotations

import re

from codeact.contracts import ActionFormat
from codeact.errors import UsageError
from codeact.formats.code import FencesFormat, TagsFormat, ToolCallFormat

__all__ = ["DROPPED_NOTICE", "FORMATS", "format_for_model", "get_format"]

DROPPED_NOTICE = (
    "Only the first piece of code of your reply was run; everything after it was ignored. Send one per reply."
)
"""What the model is told in the observation when ``Reply.dropped`` is set."""

FORMATS: tuple[str, ...] = ("tags", "fences", "tool_call")

_KNOWN_MODELS: tuple[tuple[str, str], ...] = (
    (r"codeact", "tags"),  # trained on <execute>
    (r"smollm", "tags"),  # too small for reliable JSON arguments; follows the tag shown in the prompt
    (r"(?:^|[/:_-])(?:o[134]|gpt-5)(?:$|[.:_-])", "tool_call"),  # refuse requests with a stop string
    (r"gpt-oss", "tool_call"),  # trained to call a tool named python
)
"""Patterns of model names and the format each is known for. Everything else (GPT-4o, Claude, Gemini, Qwen, Llama …)
follows the tags, which need nothing from the server and no escaping of code in JSON."""


def get_format(name: str) -> ActionFormat:
    """The action format called ``name``: ``tags``, ``fences`` or ``tool_call``. Raises UsageError for any other."""
    match name:
        case "tags":
            return TagsFormat()
        case "fences":
            return FencesFormat()
        case "tool_call":
            return ToolCallFormat()
        case _:
            raise UsageError(f"unknown action format {name!r}: choose one of {', '.join(FORMATS)}")


def format_for_model(model_name: str) -> str:
    """The name of the format that the model is known for, ``tags`` where nothing is known."""
    lowered = model_name.lower()
    return next((name for pattern, name in _KNOWN_MODELS if re.search(pattern, lowered)), "tags")
