"""Counting tokens with the server's own tokenizer, where it offers that: ``POST /tokenize`` of vLLM and llama.cpp."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from codeact.models.discover import fetch_json

_TIMEOUT = 2.0  # seconds for one text
_AT_ONCE = {"vLLM": 8, "llama.cpp": 1}
"""Questions at a time. llama.cpp has few threads, and every connection kept open holds one of them."""


async def count_tokens(
    client: Any, url: str, headers: Mapping[str, str], kind: str | None, model: str, texts: Sequence[str]
) -> list[int] | None:
    """The tokens of each text, special ones left out. None where the server is of neither kind or fails to tell.

    ``client`` is the HTTP client to ask with. A text that failed is asked
    for again; two seconds are given to each. Never raises.
    """
    if kind not in _AT_ONCE:
        return None
    counts: list[int] = []
    for start in range(0, len(texts), _AT_ONCE[kind]):
        part = texts[start : start + _AT_ONCE[kind]]
        questions = [_question(kind, model, text) for text in part]
        answers = await asyncio.gather(*(fetch_json(client, url, _TIMEOUT, headers, q) for q in questions))
        for question, answer in zip(questions, answers, strict=True):
            if answer is None:  # it may only have closed a connection that was kept open
                answer = await fetch_json(client, url, _TIMEOUT, headers, question)
            count = _count(answer)
            if count is None:
                return None
            counts.append(count)
    return counts


def _question(kind: str, model: str, text: str) -> dict[str, object]:
    if kind == "vLLM":
        return {"model": model, "prompt": text, "add_special_tokens": False}
    return {"content": text, "add_special": False}


def _count(answer: object) -> int | None:
    """vLLM says ``count``; llama.cpp lists the tokens."""
    if not isinstance(answer, dict):
        return None
    count, tokens = answer.get("count"), answer.get("tokens")
    if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
        return count
    return len(tokens) if isinstance(tokens, list) else None
