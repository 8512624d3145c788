"""What the model sees of a conversation: messages made of events, and what is left out where they fill its window.

    tokens    how many tokens a text has, guessed
    history   the events of a conversation as messages, whole or as a ``Compacted`` event says
    summary   the request for notes on old turns, and whether what came back is such notes
    window    ``Context``: what fits, and what goes next

The history itself is never touched. Each cut is an event of it, so the same events always give the same messages.
"""

from __future__ import annotations

from codeact.context.history import messages
from codeact.context.tokens import estimate_tokens
from codeact.context.window import DEFAULT, STRATEGIES, Context, Plan, Strategy, check_strategy

__all__ = [
    "DEFAULT",
    "STRATEGIES",
    "Context",
    "Plan",
    "Strategy",
    "check_strategy",
    "estimate_tokens",
    "messages",
]
