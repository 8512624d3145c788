"""List prices of well-known models, to show what a run costs."""

from __future__ import annotations

import re

_PRICES: dict[str, tuple[float, float]] = {
    "gpt-4o": (2.50, 10.00),
    "gpt-4o-2024-05-13": (5.00, 15.00),
    "gpt-4o-mini": (0.15, 0.60),
    "gpt-4.1": (2.00, 8.00),
    "gpt-4.1-mini": (0.40, 1.60),
    "gpt-4.1-nano": (0.10, 0.40),
    "o3": (2.00, 8.00),
    "o4-mini": (1.10, 4.40),
    "gpt-5": (1.25, 10.00),
    "gpt-5-mini": (0.25, 2.00),
    "gpt-5-nano": (0.05, 0.40),
}


def price(model_name: str) -> tuple[float, float] | None:
    """US dollars per million prompt and completion tokens, or None where the price is not known.

    OpenAI's public list (standard tier) as of August 2025; cached prompt tokens cost less there, so a sum made with
    these is an upper bound. A dated name (``gpt-4o-2024-11-20``) has the price of its family unless listed itself.
    Models of local servers are not listed.
    """
    name = model_name.removeprefix("openai/")
    return _PRICES.get(name) or _PRICES.get(re.sub(r"-\d{4}-\d{2}-\d{2}$", "", name))
