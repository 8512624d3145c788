"""How many tokens a text has, without the model's tokenizer."""

from __future__ import annotations

import re

from codeact.contracts import Message

MESSAGE_TOKENS = 5
"""The chat template's own, for each message."""

IMAGE_TOKENS = 1000
"""What one image is taken to cost."""

_PIECES = re.compile(r"[A-Za-z]{1,7}|[0-9]{1,3}| {2,}|\n+")
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")


def estimate_tokens(text: str) -> int:
    """A guess at how many tokens a model's tokenizer makes of ``text``, without having it.

    Every word counts a token for each 7 letters begun, every number one for each 3 digits begun, every punctuation mark
    three quarters, every run of spaces or line ends one, and every character outside ASCII one. ``Context`` corrects
    it by what the server counted.
    """
    other = 0 if text.isascii() else len(text) - len(text.encode("ascii", "ignore"))
    return round(len(_PIECES.findall(text)) + 0.75 * len(_PUNCTUATION.findall(text))) + other


def counted_text(message: Message) -> str:
    """What of a message its tokens are counted of: the code of a native tool call is not in its text."""
    return f"{message.text}\n{message.tool_call.arguments}" if message.tool_call else message.text
